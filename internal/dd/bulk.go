package dd

import "context"

// piece is how many bytes are copied at a time in bulk: few enough to stay in the
// processor's cache between reading and writing, many enough for system calls
// to cost nothing.
const piece = 1 << 20

// inBulk tells whether a file is written in pieces instead of records. Nobody
// can tell the difference but by the clock.
func (r *Run) inBulk(o *output) bool {
	return r.apart(o) && o.isFile() && !r.job.DirectIn && r.job.outFlags() == 0 && !o.sparse
}

// copyBulk copies in pieces and counts records.
func (r *Run) copyBulk(ctx context.Context, o *output) error {
	buf, err := buffer(piece, "copy")
	if err != nil {
		r.rep.say("%v", err)
		return err
	}
	defer release(buf)
	left, _ := r.job.Count.length(r.job.IBS)
	total := left // that there is, as far as is known
	if r.in.size >= 0 {
		total = min(total, max(0, r.in.size-r.in.offset))
	}
	in := &r.rep.in
	for left > 0 {
		r.rep.tick()
		n, err := r.in.fill(buf[:min(left, piece)])
		if err != nil {
			in.end()
			o.counts.end()
			err = r.in.readFailure(err)
			r.rep.say("%v", err)
			return err
		}
		if n == 0 {
			break
		}
		left -= int64(n)
		in.gather(n)
		if err := r.put(o, buf[:n], total); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if r.job.Sync && in.gathered > 0 {
		clear(buf)
		for pad := r.job.IBS - in.gathered; pad > 0; pad -= piece {
			if err := r.put(o, buf[:min(pad, piece)], total); err != nil {
				return err
			}
		}
	}
	in.end()
	o.counts.end()
	return nil
}

// put writes a piece. If that fails it counts and says what dd would have, which
// then has read no more than it needed for the record that failed.
func (r *Run) put(o *output, p []byte, total int64) error {
	n, err := o.write(p)
	o.counts.gather(n)
	if err == nil {
		return nil
	}
	ibs := r.job.IBS
	need := roundUp(o.counts.full.Load()*r.job.OBS+1, r.job.OBS)
	whole := need <= total || r.job.Sync && need <= roundUp(total, ibs)
	r.rep.in.set(min(roundUp(need, ibs), total))
	if o.asRead {
		return o.fail(err, "error writing %s")
	}
	if o.counts.end(); whole {
		return o.fail(err, "writing to %s")
	}
	return o.fail(err, "error writing %s")
}
