package duplicate

import (
	"context"
	"fmt"

	"multidd/internal/block"
	"multidd/internal/verify"
)

const (
	// maxBad is how many bad blocks are kept; a card with more is not mended.
	maxBad = 100
)

// prove reads the card back, all but the withheld first MiB. Bad blocks are
// rewritten a bounded number of times; since a card with a faulty address may
// mend one place by spoiling another, everything is read again afterwards.
func (l *lane) prove(ctx context.Context) error {
	if l.delta && !l.r.o.FullProof && !l.whole {
		if err := l.proveChanged(ctx); err != nil || !l.whole {
			return err
		}
	}
	for try := 0; ; try++ {
		bad, err := l.readBack(ctx, &l.claims)
		if err != nil {
			return err
		}
		if err := l.check(); err != nil {
			return err
		}
		if err := l.stillOdd(bad); err != nil {
			return err
		}
		if len(bad) == 0 {
			if bad, err = l.proveBlank(); err != nil || len(bad) == 0 {
				return err
			}
		}
		if err := verify.Diagnose(&l.claims, bad); err != nil {
			f := fault(err, verify.FakeCapacity, bad[0].First)
			f.bad = bad
			return f
		}
		l.narrow(ctx, bad)
		if try >= l.r.o.Rewrites || len(bad) > maxBad || bad[0].Index >= 0 && !l.r.canReread() {
			return mismatch(bad)
		}
		if err := l.rewrite(ctx, bad); err != nil {
			return err
		}
	}
}

// proveBlank returns what of the withheld first MiB is not blank any more. Be it
// that the address of a block wraps around to there: when the first MiB is sealed,
// that block, which has been read back right, will be lost.
func (l *lane) proveBlank() ([]verify.Bad, error) {
	blank := make([]block.Block, len(l.head))
	zeros := make([]byte, block.HeadSize)
	for i, h := range l.head {
		blank[i] = block.New(h.Off, zeros[:len(h.Data)], nil)
	}
	return l.proveHead(blank)
}

// mismatch says what read back wrong.
func mismatch(bad []verify.Bad) error {
	err := fmt.Errorf("read back other bytes than were written: %v", bad[0])
	if len(bad) > 1 {
		err = fmt.Errorf("%w, and %d more blocks", err, len(bad)-1)
	}
	return &stepError{reason: verify.ReadbackMismatch, off: bad[0].First, bad: bad[:min(len(bad), maxBad)], err: err}
}

// readBack reads what is to be proved and returns what differs.
func (l *lane) readBack(ctx context.Context, what proofs) ([]verify.Bad, error) {
	l.enter(Verifying, what.Bytes())
	var bad []verify.Bad
	var flight []piece
	n := what.Len()
	fail := func(err error) ([]verify.Bad, error) {
		l.drain(flight)
		return nil, err
	}
	for i := 0; i < n || len(flight) > 0; {
		if l.over() {
			return fail(ErrInterrupted)
		}
		if i < n && len(flight) < l.r.o.Depth {
			p, err := l.startRead(ctx, i, what.At(i).Extent)
			if err != nil {
				return fail(err)
			}
			flight = append(flight, p)
			i++
			continue
		}
		p := flight[0]
		flight = flight[1:]
		b, ok, err := l.judge(p, what.At(p.entry), l.t.Wait())
		p.release()
		if err != nil {
			return fail(err)
		}
		if !ok {
			bad = append(bad, b)
		}
		l.progress(int64(len(p.data)))
	}
	return bad, nil
}

// startRead begins to read block i back.
func (l *lane) startRead(ctx context.Context, i int, e block.Extent) (piece, error) {
	buf, err := l.r.pool.Get(ctx)
	if err != nil {
		return piece{}, err
	}
	p := piece{data: buf[:e.Len], off: e.Off, entry: i, release: func() { l.r.pool.Put(buf) }}
	if err := l.t.StartRead(p.data, p.off); err != nil {
		p.release()
		return piece{}, fault(placed("read back", e.Off, err), verify.ReadEIO, e.Off)
	}
	return p, nil
}

// judge looks at a block that was read back, or at why it could not be.
func (l *lane) judge(p piece, e verify.Entry, err error) (b verify.Bad, ok bool, _ error) {
	if err != nil {
		return b, false, l.readFault(p, err)
	}
	got := verify.Sum(p.data)
	if got == e.Sum {
		return b, true, nil
	}
	b, err = verify.Reexamine(l.t, p.entry, e, got, p.data)
	l.touch()
	if err != nil {
		return b, false, fault(placed("read back", e.Off, err), verify.ReadEIO, e.Off)
	}
	return b, false, nil
}

// readFault finds out where exactly a block cannot be read.
func (l *lane) readFault(p piece, err error) error {
	off := p.off
	if reasonOf(err, verify.ReadEIO) == verify.ReadEIO {
		for at := 0; at < len(p.data) && !l.over(); at += verify.Page {
			page := p.data[at:min(at+verify.Page, len(p.data))]
			if _, err2 := l.t.ReadAt(page, p.off+int64(at)); err2 != nil {
				off, err = p.off+int64(at), err2
				break
			}
			l.touch()
		}
	}
	return fault(placed("read back", off, err), verify.ReadEIO, off)
}

// narrow finds the exact bounds of what is bad, where the image can be had again.
func (l *lane) narrow(ctx context.Context, bad []verify.Bad) {
	if !l.r.canReread() {
		return
	}
	for i := range bad[:min(len(bad), maxBad)] {
		b := &bad[i]
		if b.Index < 0 {
			continue // it is narrow already
		}
		want, err := l.r.pool.Get(ctx)
		if err != nil {
			return
		}
		got, err := l.r.pool.Get(ctx)
		if err != nil {
			l.r.pool.Put(want)
			return
		}
		if l.fetch(want[:b.Len], b.Entry) == nil {
			if _, err := l.t.ReadAt(got[:b.Len], b.Off); err == nil {
				b.Narrow(want[:b.Len], got[:b.Len])
			}
		}
		l.r.pool.Put(want)
		l.r.pool.Put(got)
		l.touch()
	}
}

// noteRewrite notes that bad blocks are rewritten.
func (l *lane) noteRewrite(bad []verify.Bad) {
	l.rewrote.Add(int32(len(bad)))
	if len(bad) == 1 {
		l.warn("A place that read back wrong was rewritten, at byte %d.", bad[0].First)
		return
	}
	l.warn("%d places that read back wrong were rewritten, the first at byte %d.", len(bad), bad[0].First)
}

// rewrite writes bad blocks once more and flushes.
func (l *lane) rewrite(ctx context.Context, bad []verify.Bad) error {
	l.noteRewrite(bad)
	l.enter(Writing, int64(len(bad))*int64(l.r.pool.BufferSize()))
	for _, b := range bad {
		err := error(nil)
		if b.Index < 0 { // of the first MiB, which is blank yet; it may be longer than a buffer
			err = l.writeSure(make([]byte, b.Len), b.Off)
		} else {
			err = l.rewriteBlock(ctx, b.Entry)
		}
		if err != nil {
			return err
		}
		if l.over() {
			return ErrInterrupted
		}
		l.progress(b.Len)
	}
	return l.flush(ctx)
}

// rewriteBlock writes a block once more.
func (l *lane) rewriteBlock(ctx context.Context, e verify.Entry) error {
	buf, err := l.r.pool.Get(ctx)
	if err != nil {
		return err
	}
	defer l.r.pool.Put(buf)
	if err := l.fetch(buf[:e.Len], e); err != nil {
		return err
	}
	return l.writeSure(buf[:e.Len], e.Off)
}
