package duplicate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// refresh reads the card and writes what of it differs from the image. Nothing is
// written to a card that holds the image already. How that is proved:
// docs/decisions/0007-delta.md.
func (l *lane) refresh(ctx context.Context) error {
	l.enter(Comparing, -1)
	same, err := l.compareHead()
	if err != nil {
		return err
	}
	if !same {
		if err := l.spoil(0); err != nil {
			return err
		}
	}
	c := &comparison{l: l, has: l.hasBlock, at: func(i int) block.Extent { return l.claims.At(i).Extent }, take: l.next}
	if err := c.run(ctx); err != nil {
		return err
	}
	l.differed.Add(l.changed.Bytes())
	l.sayIllegible()
	if l.untouched() {
		l.wrote.Store(l.moved.Load())
	}
	return nil
}

// untouched tells whether the lane has found on its card all that belongs there, so
// that nothing was written to it.
func (l *lane) untouched() bool { return l.delta && l.sourced && !l.spoilt }

// compareHead tells whether the first MiB of the card is as it should be.
func (l *lane) compareHead() (same bool, err error) {
	buf, err := block.Aligned(block.HeadSize)
	if err != nil {
		return false, err
	}
	defer block.Free(buf)
	same = true
	for _, h := range l.head {
		if l.over() {
			return false, ErrInterrupted
		}
		if err := l.fits(h.Extent()); err != nil {
			return false, err
		}
		p := buf[:len(h.Data)]
		_, err := l.t.ReadAt(p, h.Off)
		if err := l.mayDiffer(err, h.Off); err != nil {
			return false, err
		}
		if err != nil || !bytes.Equal(p, h.Data) {
			same = false
			l.differed.Add(int64(len(p)))
		}
		l.compared.Add(int64(len(p)))
		l.touch()
	}
	return same, nil
}

// mayDiffer sorts out errors of reading what is to be compared: what the card
// cannot read is not what it should be, and will be written; nil for that, and for
// no error.
func (l *lane) mayDiffer(err error, off int64) error {
	if err == nil || reasonOf(err, verify.ReadEIO) == verify.ReadEIO {
		return nil
	}
	return fault(placed("read", off, err), verify.ReadEIO, off)
}

// sayIllegible warns of places that could not be read.
func (l *lane) sayIllegible() {
	if n := len(l.illegible); n == 1 {
		l.warn("A place could not be read and was written anew, at byte %d.", l.illegible[0])
	} else if n > 1 {
		l.warn("%d places could not be read and were written anew, the first at byte %d.", n, l.illegible[0])
	}
}

// spoil is what comes before the first byte that is changed on a card: it is made
// to look blank, and probed. What the probe overwrites is put back; so that of the
// blocks before block next, which have been read or are being read, those it
// touched are to be read once more. Other tables that could bring an earlier
// content back are blanked where the image has not got to yet; the rest of them
// comes at its end.
func (l *lane) spoil(next int) error {
	l.spoilt = true
	read := int64(block.HeadSize)
	if next > 0 {
		read = l.claims.At(next - 1).End()
	}
	if l.sourced {
		read = max(read, l.size) // they are among the lane's own pieces by now
	}
	if err := l.blankOut(beyond(l.blank, read)); err != nil {
		return err
	}
	sound, err := l.probe(verify.ProbeKeeping)
	if err != nil {
		return err
	}
	l.whole = l.whole || !sound
	for _, at := range l.places() {
		if i, ok := l.claims.find(at); ok && i < next {
			l.doubt = append(l.doubt, i)
		}
	}
	return nil
}

// hasBlock tells whether block i is there to be compared.
func (l *lane) hasBlock(i int) found {
	what := l.r.win.has(l.cursor, i)
	if what == foundEnd {
		l.endSource()
		if i < l.claims.Len() {
			return foundBlock
		}
	}
	return what
}

// A comparison reads places of a card, with several requests in flight, and writes
// what of them differs from what belongs there. The bytes to be written replace
// those that were read in the same buffer, so that a block of the source is held
// only while it is looked at.
type comparison struct {
	l *lane
	// has tells whether place i is known already, at where it is, and take returns
	// what belongs there: of each place once, in order. take waits.
	has  func(i int) found
	at   func(i int) block.Extent
	take func(ctx context.Context, wait bool) (piece, bool, error)

	next  int        // the first place that is not being read yet
	queue []*request // the oldest first
	held  int        // buffers
}

// A request is a reading or writing under way.
type request struct {
	write bool
	data  []byte
	off   int64
	buf   *buffer
	done  bool // err says what became of it
	err   error
}

func (r *request) extent() block.Extent { return block.Extent{Off: r.off, Len: int64(len(r.data))} }

// A buffer is one of the pool, with the number of requests that use it.
type buffer struct {
	data []byte
	refs int
}

func (c *comparison) release(b *buffer) {
	if b.refs--; b.refs == 0 {
		c.l.r.pool.Put(b.data)
		c.held--
	}
}

// run compares all places.
func (c *comparison) run(ctx context.Context) error {
	for {
		err := c.readAhead(ctx)
		if err == nil && len(c.queue) == 0 {
			return nil
		}
		if err == nil {
			r := c.queue[0]
			c.queue = c.queue[1:]
			c.wait(r)
			if r.write {
				err = c.took(r)
			} else {
				err = c.compare(ctx, r)
			}
			c.release(r.buf)
		}
		if err != nil {
			c.settle()
			for _, r := range c.queue {
				c.release(r.buf)
			}
			return err
		}
	}
}

// wait waits for a request, the oldest that is not done.
func (c *comparison) wait(r *request) {
	if !r.done {
		r.err, r.done = c.l.t.Wait(), true
	}
}

// settle waits for all requests.
func (c *comparison) settle() {
	for _, r := range c.queue {
		c.wait(r)
	}
}

// readAhead begins to read places, as many as may be in flight. If nothing is in
// flight, it waits until there is something to read, or nothing more to come.
func (c *comparison) readAhead(ctx context.Context) error {
	for c.held < c.l.r.o.Depth {
		if c.l.over() {
			return ErrInterrupted
		}
		switch c.has(c.next) {
		case foundEnd:
			return nil
		case foundNone:
			if len(c.queue) > 0 {
				return nil
			}
			if err := c.l.await(ctx); err != nil {
				return err
			}
			continue
		}
		data, err := c.l.r.pool.Get(ctx)
		if err != nil {
			return err
		}
		c.held++
		e := c.at(c.next)
		r := &request{data: data[:e.Len], off: e.Off, buf: &buffer{data, 1}}
		if err := c.l.t.StartRead(r.data, r.off); err != nil {
			c.settle()
			r.err, r.done = err, true
		}
		c.queue = append(c.queue, r)
		c.next++
	}
	return nil
}

// compare looks at a place that has been read, and begins to write what differs.
func (c *comparison) compare(ctx context.Context, r *request) error {
	l := c.l
	if err := l.mayDiffer(r.err, r.off); err != nil {
		return err
	}
	parts, err := c.lookAt(ctx, r)
	if err != nil || len(parts) == 0 {
		return err
	}
	if !l.spoilt {
		c.settle() // or what is being read would be the probe's marks
		if err := l.spoil(c.next); err != nil {
			return err
		}
	}
	for _, e := range parts {
		if l.over() {
			return ErrInterrupted
		}
		part := r.data[e.Off-r.off : e.End()-r.off]
		l.changed.Add(verify.Entry{Extent: e, Sum: verify.Sum(part)})
		c.write(&request{write: true, data: part, off: e.Off, buf: r.buf})
	}
	return nil
}

// lookAt compares a place that has been read with what belongs there, and puts that
// into its buffer where it differs. It returns those parts.
func (c *comparison) lookAt(ctx context.Context, r *request) ([]block.Extent, error) {
	l := c.l
	p, ok, err := c.take(ctx, true)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("compare at byte %d: the image has nothing there", r.off) // cannot be
	}
	defer p.release()
	parts := []block.Extent{r.extent()}
	if r.err == nil {
		parts = differing(r.off, p.data, r.data)
	} else if !errors.Is(r.err, io.EOF) { // that a file ends before is no wonder
		l.illegible = append(l.illegible, r.off)
	}
	for _, e := range parts {
		copy(r.data[e.Off-r.off:e.End()-r.off], p.data[e.Off-r.off:])
	}
	l.compared.Add(int64(len(p.data)))
	l.progress(int64(len(p.data)))
	return parts, nil
}

// differing returns which parts of two blocks at off differ, in whole grains, of
// which a single one that is equal between others is taken along: it costs a card
// no more than another request.
func differing(off int64, want, got []byte) []block.Extent {
	if bytes.Equal(want, got) {
		return nil
	}
	var parts []block.Extent
	end := off + int64(len(want))
	for at := off; at < end; {
		next := min(end, (at/verify.Grain+1)*verify.Grain)
		if !bytes.Equal(want[at-off:next-off], got[at-off:next-off]) {
			if n := len(parts); n > 0 && at-parts[n-1].End() <= verify.Grain {
				parts[n-1].Len = next - parts[n-1].Off
			} else {
				parts = append(parts, block.Extent{Off: at, Len: next - at})
			}
		}
		at = next
	}
	return parts
}

// write begins to write.
func (c *comparison) write(r *request) {
	r.buf.refs++
	if err := c.l.t.StartWrite(r.data, r.off); err != nil {
		c.settle() // not under way: it is tried again on its own, after those before it
		r.err, r.done = err, true
	}
	c.queue = append(c.queue, r)
}

// took accounts for a write. One that failed is tried again, the lowest first of
// those that did, with nothing else under way.
func (c *comparison) took(r *request) error {
	if r.err != nil {
		c.settle()
		failed := []*request{r}
		for _, q := range c.queue {
			if q.write && q.err != nil {
				failed = append(failed, q)
			}
		}
		slices.SortFunc(failed, func(a, b *request) int { return cmp.Compare(a.off, b.off) })
		for _, f := range failed {
			if f.err = c.l.retry(f.data, f.off, f.err); f.err != nil {
				return f.err
			}
		}
	}
	c.l.written.Add(int64(len(r.data)))
	c.l.touch()
	return nil
}
