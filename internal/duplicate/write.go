package duplicate

import (
	"context"
	"fmt"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// A piece is a request under way: bytes, their place, and what to do when it is
// over.
type piece struct {
	data    []byte
	off     int64
	release func()
	entry   int // index in the record, when reading back
}

// writeAll writes every block but the withheld first MiB, in order, with up to
// Depth requests in flight.
func (l *lane) writeAll(ctx context.Context) error {
	var flight []piece
	for {
		for len(flight) < l.r.o.Depth {
			p, ok, err := l.next(ctx, len(flight) == 0)
			if err != nil {
				l.drain(flight)
				return err
			}
			if !ok {
				break
			}
			if err := l.t.StartWrite(p.data, p.off); err != nil {
				// Not under way: try it on its own, after those before it.
				if err := l.settle(flight); err != nil {
					p.release()
					return err
				}
				flight = flight[:0]
				if err := l.again(p, err); err != nil {
					return err
				}
				continue
			}
			flight = append(flight, p)
		}
		if len(flight) == 0 {
			return nil
		}
		p := flight[0]
		flight = flight[1:]
		if err := l.t.Wait(); err != nil {
			if err := l.settle(flight, attempt{p, err}); err != nil {
				return err
			}
			flight = flight[:0]
			continue
		}
		l.took(p)
	}
}

// took accounts for a piece that the card has taken.
func (l *lane) took(p piece) {
	p.release()
	l.written.Add(int64(len(p.data)))
	l.progress(int64(len(p.data)))
}

// An attempt is a write that failed with err.
type attempt struct {
	piece
	err error
}

// settle waits for the requests under way, and then tries those that failed again,
// the lowest first, so that the first bad place of a card is the one that is told.
// failed are those that did so before.
func (l *lane) settle(flight []piece, failed ...attempt) error {
	for _, p := range flight {
		if err := l.t.Wait(); err != nil {
			failed = append(failed, attempt{p, err})
			continue
		}
		l.took(p)
	}
	var first error
	for _, a := range failed {
		if first != nil {
			a.release()
			continue
		}
		first = l.again(a.piece, a.err)
	}
	return first
}

// drain waits for the requests under way, whatever becomes of them.
func (l *lane) drain(flight []piece) {
	for _, p := range flight {
		_ = l.t.Wait() // the lane has failed already
		p.release()
	}
}

// again repeats a write that failed with err.
func (l *lane) again(p piece, err error) error {
	defer p.release()
	if err := l.retry(p.data, p.off, err); err != nil {
		return err
	}
	l.written.Add(int64(len(p.data)))
	l.progress(int64(len(p.data)))
	return nil
}

// writeSure writes p, and again if need be.
func (l *lane) writeSure(p []byte, off int64) error {
	if _, err := l.t.WriteAt(p, off); err != nil {
		return l.retry(p, off, err)
	}
	return nil
}

// retry repeats a write that failed with err. The last try is made page by page,
// so that the offset of the fault is known.
func (l *lane) retry(p []byte, off int64, err error) error {
	for try := 1; try <= l.r.o.Retries; try++ {
		if r := reasonOf(err, verify.WriteEIO); r != verify.WriteEIO || l.over() {
			break // no use: the card is gone, locked or full
		}
		l.retries.Add(1)
		l.touch()
		step := len(p)
		if try == l.r.o.Retries {
			step = verify.Page
		}
		var at int64
		if at, err = l.writeSteps(p, off, step); err == nil {
			l.warn("A write at byte %d failed and had to be repeated (%d of at most %d times).", off, try, l.r.o.Retries)
			return nil
		}
		if step == verify.Page {
			off = at
		}
	}
	return fault(placed("write", off, err), verify.WriteEIO, off)
}

// writeSteps writes p in steps and returns where it failed.
func (l *lane) writeSteps(p []byte, off int64, step int) (int64, error) {
	for len(p) > 0 {
		n := min(step, len(p))
		if _, err := l.t.WriteAt(p[:n], off); err != nil {
			return off, err
		}
		p, off = p[n:], off+int64(n)
	}
	return off, nil
}

// next returns the lane's next block: from the window, or, if it has fallen
// behind, from the source's copy. Without wait, it does not wait for a block that
// is not there yet. ok is false if there is none.
func (l *lane) next(ctx context.Context, wait bool) (p piece, ok bool, err error) {
	for {
		if l.over() {
			return piece{}, false, ErrInterrupted
		}
		s, what := l.r.win.take(l.cursor)
		switch what {
		case foundBlock:
			p = piece{data: s.Data, off: s.Off, release: s.release, entry: l.cursor.next - 1}
		case foundBehind:
			if p, err = l.reread(ctx); err != nil {
				return piece{}, false, err
			}
			l.r.win.step(l.cursor)
		case foundEnd:
			return l.nextExtra(ctx)
		case foundNone:
			if !wait {
				return piece{}, false, nil
			}
			if err := l.await(ctx); err != nil {
				return piece{}, false, err
			}
			continue
		}
		if p, err = l.patched(ctx, p); err != nil {
			return piece{}, false, err
		}
		if err := l.fits(block.Extent{Off: p.off, Len: int64(len(p.data))}); err != nil {
			p.release()
			return piece{}, false, err
		}
		return p, true, nil
	}
}

// await waits for the source.
func (l *lane) await(ctx context.Context) error {
	l.idle.Store(true)
	select {
	case <-l.cursor.wake:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.touch()
	l.idle.Store(false)
	return nil
}

// reread gets the lane's next block from the source's copy and makes sure that it
// is what the other lanes got.
func (l *lane) reread(ctx context.Context) (piece, error) {
	i := l.cursor.next
	e := l.r.record.At(i)
	buf, release, err := l.room(ctx)
	if err != nil {
		return piece{}, err
	}
	if err := l.r.fetch(buf[:e.Len], e, nil); err != nil {
		release()
		return piece{}, err
	}
	return piece{data: buf[:e.Len], off: e.Off, release: release, entry: i}, nil
}

// room returns a buffer for a block that only this lane has, and what to call when
// it is free again. A lane that compares has its share of the pool full of what the
// card gave; for the block that it is looking at there are others.
func (l *lane) room(ctx context.Context) (buf []byte, release func(), err error) {
	pool := l.r.pool
	if l.delta {
		pool = l.r.looking
	}
	if buf, err = pool.Get(ctx); err != nil {
		return nil, nil, err
	}
	return buf, func() { pool.Put(buf) }, nil
}

// fetch reads a block again from the source, or a part of one, and lays over it what
// the lane has to, if lay is not nil. If it is not what it was, the image was
// changed meanwhile, and no card can be trusted.
func (r *Run) fetch(p []byte, e verify.Entry, lay func(p []byte, off int64)) error {
	if r.reread == nil {
		return fault(fmt.Errorf("there is no copy of the image to go on from at byte %d", e.Off), verify.StoreFull, e.Off)
	}
	// A copy that was cut short still has what it had.
	if _, err := r.reread.ReadAt(p, e.Off); err != nil {
		return fault(fmt.Errorf("read the image again at byte %d: %w", e.Off, err), verify.StoreFull, e.Off)
	}
	if lay != nil {
		lay(p, e.Off)
	}
	if verify.Sum(p) != e.Sum {
		err := fault(fmt.Errorf("the image changed while it was being written to the cards: at byte %d it is not what it was before", e.Off), verify.ImageDigest, e.Off)
		r.fail(err)
		return err
	}
	return nil
}
