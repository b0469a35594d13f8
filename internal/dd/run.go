package dd

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"multidd/internal/codec"
)

// A Run is a job under way. PrintStats may be called at any time from any
// goroutine, the other methods from one at a time.
type Run struct {
	job  *Job
	rep  *report
	in   *input
	sums []*sum
	src  *Source // if there are cards
}

// NewRun returns a run of the job that says on stderr what there is to say.
func NewRun(job *Job, stderr io.Writer) *Run {
	r := &Run{job: job, rep: &report{level: job.Status, now: time.Now, w: stderr, shown: -1}}
	r.rep.in.whole = job.IBS
	for _, name := range job.Hashes {
		r.sums = append(r.sums, &sum{name: name, hash: newHash(name)})
	}
	return r
}

// PrintStats prints how many records and bytes were copied so far, as dd does on
// SIGUSR1 and SIGINT.
func (r *Run) PrintStats() { r.rep.stats() }

// BrokenPipe is what Copy returns if nobody reads the pipe that is its only
// output: what a shell shows for a program that died of SIGPIPE, as dd would
// have by then. Die does that.
const BrokenPipe = 128 + int(syscall.SIGPIPE)

// Copy copies the input to all outputs of the job, none of which may be a block
// device. It returns dd's exit status: 0, or 1 if anything went wrong, which has
// then been said; or BrokenPipe. When ctx is cancelled it ends after the record
// being copied, with status 1. It does not act on signals.
func (r *Run) Copy(ctx context.Context) int {
	r.warn()
	if r.job.Verify == VerifyReadback {
		r.rep.say("verify=readback: only cards are read back, and no output is one; verify with hash= and sha256sum or the like")
		return 1
	}
	var err error
	if r.in, err = openInput(r.job, r.rep); err != nil {
		r.rep.say("%v", err)
		return 1
	}
	outs, failed := r.openOutputs(r.job.Outputs)
	if len(outs) == 0 {
		_ = r.in.close()
		return 1
	}
	r.rep.start()
	outs[0].alone = len(r.job.Outputs) <= 1
	sinks := r.sinks(outs)
	if o, ok := sinks[0].(*output); ok && len(sinks) == 1 && !r.readsAhead(o) {
		err = r.copyOne(ctx, o)
	} else {
		err = r.copyAll(ctx, sinks)
	}
	switch {
	case outs[0].broken:
		return BrokenPipe
	case errors.Is(err, errMemory):
		return 1
	}
	return r.end(failed || err != nil)
}

// warn says what Parse found odd.
func (r *Run) warn() {
	for _, w := range r.job.Warnings {
		r.rep.say("%s", w)
	}
}

// end closes the input and says what was done.
func (r *Run) end(failed bool) int {
	if err := r.in.close(); err != nil {
		r.rep.fail(err, "closing input file %s", quoteName(r.in.name))
		failed = true
	}
	r.rep.stats()
	for _, s := range r.sums {
		if !s.void {
			r.rep.print(s.String() + "\n")
		}
	}
	if failed || r.in.failed {
		return 1
	}
	return 0
}

// openOutputs opens the outputs of these names, or the standard output if there
// are none. One that cannot be opened does not stop the others.
func (r *Run) openOutputs(names []string) (outs []*output, failed bool) {
	standard := len(names) == 0
	if standard {
		names = []string{""}
	}
	for _, name := range names {
		o := newOutput(r.job, r.rep, r.job.Packs(name) != codec.Raw)
		if err := o.open(name, standard); err != nil {
			failed = true
			continue
		}
		outs = append(outs, o)
	}
	return outs, failed
}

// sinks puts together the outputs that share their packing, and the sums.
func (r *Run) sinks(outs []*output) (sinks []sink) {
	for _, o := range outs {
		f := r.job.Packs(o.name)
		if f == codec.Raw {
			r.rep.count(o.counts)
			sinks = append(sinks, o)
			continue
		}
		i := slices.IndexFunc(sinks, func(s sink) bool { p, ok := s.(*packer); return ok && p.format == f })
		if i < 0 {
			i = len(sinks)
			p := &packer{rep: r.rep, format: f, counts: &counts{whole: r.job.OBS}, asRead: r.job.AsRead}
			r.rep.count(p.counts)
			sinks = append(sinks, p)
		}
		p := sinks[i].(*packer)
		p.outs = append(p.outs, o)
	}
	for _, s := range r.sums {
		sinks = append(sinks, s)
	}
	return sinks
}

// copyOne copies to one output, record by record as dd does.
func (r *Run) copyOne(ctx context.Context, o *output) error {
	err := r.in.skip()
	if err != nil {
		r.rep.say("%v", err)
	} else if err = o.begin(); err == nil && !r.job.Count.Zero() {
		if r.inBulk(o) {
			err = r.copyBulk(ctx, o)
		} else {
			err = r.copyRecords(ctx, o)
		}
	}
	if failed := o.close(); err == nil {
		err = failed
	}
	return err
}

func (r *Run) copyRecords(ctx context.Context, o *output) error {
	buf, err := buffer(r.job.IBS, "input")
	if err != nil {
		r.rep.say("%v", err)
		return err
	}
	defer release(buf)
	for {
		rec, err := r.in.record(buf)
		if err == io.EOF {
			return o.finish()
		}
		if err != nil {
			r.rep.say("%v", err)
			_ = o.finish()
			return err
		}
		if err := o.take(rec, len(buf)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// batch is how many bytes of small records are copied at a time to several
// outputs, if the input does not let them wait.
const batch = 256 << 10

// apart tells whether nobody can see from outside when and in which pieces the
// input is read: it gives full records up to its end, belongs to this run alone,
// is not the output itself, and no error is passed over.
func (r *Run) apart(o *output) bool {
	same := r.in.stat.Dev == o.stat.Dev && r.in.stat.Ino == o.stat.Ino
	return r.in.own && r.in.full() && !r.job.NoError && !same
}

// readsAhead tells whether the next record is read while one is written to the
// only output: when each waits for a device.
func (r *Run) readsAhead(o *output) bool {
	const pays = 64 << 10
	j := r.job
	return r.apart(o) && j.IBS >= pays && (j.DirectIn || j.outFlags() != 0)
}

// copyAll copies to several sinks at once, or ahead to one.
func (r *Run) copyAll(ctx context.Context, sinks []sink) error {
	size, n := r.job.IBS, 2
	_, ahead := sinks[0].(*output)
	if ahead = ahead && len(sinks) == 1; !ahead {
		if size < batch && r.in.full() {
			size = batch / size * size
		}
		n = buffers(size)
	}
	if b, err := buffer(size, "input"); err != nil { // a try, since only this can tell
		r.rep.say("%v", err)
		_ = closeAll(sinks)
		return err
	} else {
		release(b)
	}
	f := newFan(sinks, size, n)
	if ahead { // what was read and then not written does not count
		f.branches[0].taken = r.rep.seen()
	}
	f.start()
	err := r.in.skip()
	skipped := err == nil
	if !skipped {
		r.rep.say("%v", err)
	}
	for err == nil && !r.job.Count.Zero() {
		err = r.copyChunk(ctx, f, size)
	}
	failed := f.wait()
	for _, s := range r.sums {
		s.void = f.outputs.Load() == 0
	}
	switch {
	case err == nil || err == io.EOF || err == errWrite:
		return failed
	case !skipped || ctx.Err() != nil || failed != nil && ahead: // dd would not have come as far as this
		return err
	}
	r.rep.say("%v", err)
	return err
}

// copyChunk reads a chunk of up to size bytes, of whole records but for the last,
// and sends it.
func (r *Run) copyChunk(ctx context.Context, f *fan, size int64) error {
	c, err := f.chunk(ctx)
	if err != nil {
		return err
	}
	before := r.rep.in.bytes.Load()
	c.rec = int(r.job.IBS)
	for n := 0; n+c.rec <= int(size); n += c.rec {
		var rec []byte
		rec, err = r.in.record(c.buf[n : n+c.rec])
		if c.data = c.buf[:n+len(rec)]; len(rec) < c.rec {
			break
		}
	}
	c.read = int(r.rep.in.bytes.Load() - before)
	if len(c.data) == 0 {
		f.drop(c)
	} else if failed := f.send(c); failed != nil {
		return failed
	}
	return err
}

// Die ends the process by a signal as if nobody had caught it.
func Die(sig syscall.Signal) {
	signal.Reset(sig)
	if sig == syscall.SIGPIPE {
		// The Go runtime lets a program die of it only when it writes to the
		// standard output itself.
		var p [2]int
		if syscall.Pipe(p[:]) == nil && syscall.Dup3(p[1], 1, 0) == nil {
			_ = syscall.Close(p[0])
			_, _ = os.Stdout.Write([]byte{0})
		}
	}
	_ = syscall.Kill(os.Getpid(), sig)
	time.Sleep(time.Second) // the signal may still be on its way
	os.Exit(128 + int(sig))
}
