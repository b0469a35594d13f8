package duplicate

import (
	"context"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// seal writes the withheld first MiB, flushes it and reads it back: first all of
// it but its first page, and when that has been proved, too, the first page. By
// that page, which holds the partition table, a card is known to hold something;
// so there is no moment at which a card whose power is cut looks whole and is not.
func (l *lane) seal(ctx context.Context) error {
	l.enter(Sealing, l.headBytes())
	if l.over() {
		return context.Cause(ctx)
	}
	first, rest := l.headParts()
	if err := l.sealPart(rest); err != nil {
		return err
	}
	err := l.sealPart(first)
	if err == nil {
		err = l.check()
	}
	if err == nil && l.over() {
		err = ErrInterrupted
	}
	if err != nil {
		l.unseal(err)
	}
	return err
}

// headParts returns what of the withheld bytes belongs into the first page, and
// the rest.
func (l *lane) headParts() (first, rest []block.Block) {
	for _, h := range l.head {
		n := h.Extent().Intersect(block.Extent{Len: verify.Page}).Len
		if n > 0 {
			first = append(first, block.New(h.Off, h.Data[:n], nil))
		}
		if n < int64(len(h.Data)) {
			rest = append(rest, block.New(h.Off+n, h.Data[n:], nil))
		}
	}
	return first, rest
}

// sealPart writes a part of what was withheld, flushes it and reads it back. If it
// reads back wrong it is rewritten a bounded number of times.
func (l *lane) sealPart(part []block.Block) error {
	for try := 0; len(part) > 0; try++ {
		if err := l.writeHead(part); err != nil {
			return err
		}
		if err := l.sync(); err != nil {
			return err
		}
		if l.r.o.NoProof {
			return nil
		}
		bad, err := l.proveHead(part)
		if err != nil || len(bad) == 0 {
			return err
		}
		if try >= l.r.o.Rewrites {
			return mismatch(bad)
		}
		l.noteRewrite(bad)
		l.enter(Sealing, l.headBytes())
	}
	return nil
}

// writeHead writes what was withheld, or a part of it.
func (l *lane) writeHead(part []block.Block) error {
	for _, h := range part {
		if err := l.fits(h.Extent()); err != nil {
			return err
		}
		if l.over() {
			return ErrInterrupted
		}
		if err := l.writeSure(h.Data, h.Off); err != nil {
			return err
		}
		l.written.Add(int64(len(h.Data)))
		l.progress(int64(len(h.Data)))
	}
	return nil
}

// proveHead reads a part of the withheld first MiB back, past every cache, and
// returns what differs.
func (l *lane) proveHead(part []block.Block) ([]verify.Bad, error) {
	buf, err := block.Aligned(block.HeadSize)
	if err != nil {
		return nil, err
	}
	defer block.Free(buf)
	var bad []verify.Bad
	for _, h := range part {
		if l.over() {
			return nil, ErrInterrupted
		}
		e := verify.Entry{Extent: h.Extent(), Sum: verify.Sum(h.Data)}
		p := buf[:len(h.Data)]
		if _, err := l.t.ReadAt(p, h.Off); err != nil {
			return nil, l.readFault(piece{data: p, off: h.Off}, err)
		}
		l.touch()
		got := verify.Sum(p)
		if got == e.Sum {
			continue
		}
		b, err := verify.Reexamine(l.t, -1, e, got, p)
		if err != nil {
			return nil, fault(placed("read back", h.Off, err), verify.ReadEIO, h.Off)
		}
		b.Narrow(h.Data, p)
		bad = append(bad, b)
	}
	return bad, nil
}

// unseal blanks the first page again, as well as it can: the card did not become
// good after all, for the reason in err, and must not look so. A card that is gone,
// is another one, refuses to be written or has stopped answering is left alone.
func (l *lane) unseal(err error) {
	if reasonOf(err, verify.Interrupted) == verify.WriteEIO || l.gaveUp() {
		return
	}
	if changed := l.check(); changed != nil && reasonOf(changed, verify.TargetChanged) != verify.ForeignWrite {
		return
	}
	first, _ := l.headParts()
	for _, h := range first {
		if _, err := l.t.WriteAt(make([]byte, len(h.Data)), h.Off); err != nil {
			return
		}
	}
	_ = l.t.Sync() // the card has its verdict already
}

// gaveUp tells whether the lane was given up because its card stopped answering.
func (l *lane) gaveUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.verdict != nil && l.verdict.Reason == verify.Stalled
}
