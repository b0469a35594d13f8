package capture

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/volume"
)

// Look finds out what lies on a card of size bytes, and what of it is used. The
// error is that of reading; a card that does not answer for limit (0: 5 minutes) is
// a *StallError. Where the tables themselves cannot be read, IsBadPlace tells of the
// error, and all of the card must be taken to be used.
func Look(ctx context.Context, card io.ReaderAt, size int64, limit time.Duration) (*volume.Disk, error) {
	if limit == 0 {
		limit = 5 * time.Minute
	}
	type answer struct {
		disk *volume.Disk
		err  error
	}
	p := &peeker{r: card, size: size}
	answers := make(chan answer, 1) // room for one that comes too late
	go func() {
		defer p.free()
		disk, err := volume.Look(p, size)
		answers <- answer{disk, err}
	}()
	tick := time.NewTicker(min(time.Second, limit/2))
	defer tick.Stop()
	for {
		select {
		case a := <-answers:
			return a.disk, a.err
		case <-tick.C:
			if at := p.asked.Load(); at != 0 && time.Since(time.Unix(0, at)) >= limit {
				return nil, &StallError{limit}
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// IsBadPlace tells whether an error says no more than that some bytes of a card
// cannot be read.
func IsBadPlace(err error) bool { return err != nil && isBadPlace(err) }

// A peeker reads ahead, the farther the longer it is read on in order, and remembers a
// few pieces: tables lie together, and are read a little at a time. One goroutine uses
// it.
type peeker struct {
	r      io.ReaderAt
	size   int64
	asked  atomic.Int64 // since when the card owes an answer, in ns since the epoch
	pieces []peeked     // the last used one first
	end    int64        // of the last one that was read
	ahead  int64        // its length
}

type peeked struct {
	off  int64
	data []byte
}

const (
	peekLeast = 16 << 10  // bytes, of a place that is come to for the first time
	peekMost  = 256 << 10 // bytes
	peekKept  = 16        // pieces
)

func (p *peeker) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 || off >= p.size {
		return 0, io.EOF
	}
	for n < len(b) && off+int64(n) < p.size {
		at := off + int64(n)
		q, err := p.piece(at)
		if err != nil {
			// The place itself may be good.
			k, err := p.ask(b[n:min(int64(len(b)), p.size-off)], at)
			return n + k, err
		}
		n += copy(b[n:], q.data[at-q.off:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// piece returns a piece with the byte at an offset.
func (p *peeker) piece(at int64) (peeked, error) {
	for i, q := range p.pieces {
		if q.off <= at && at < q.off+int64(len(q.data)) {
			copy(p.pieces[1:i+1], p.pieces[:i])
			p.pieces[0] = q
			return q, nil
		}
	}
	off, n := at/peekLeast*peekLeast, int64(peekLeast)
	if off == p.end && p.ahead > 0 {
		n = min(2*p.ahead, peekMost)
	}
	var buf []byte
	if last := len(p.pieces) - 1; last+1 == peekKept {
		buf, p.pieces = p.pieces[last].data[:peekMost], p.pieces[:last]
	} else {
		var err error
		if buf, err = block.Aligned(peekMost); err != nil {
			return peeked{}, err
		}
	}
	q := peeked{off, buf[:min(n, p.size-off)]}
	if _, err := p.ask(q.data, off); err != nil {
		block.Free(buf)
		return peeked{}, err
	}
	p.pieces = append([]peeked{q}, p.pieces...)
	p.end, p.ahead = off+n, n
	return q, nil
}

func (p *peeker) ask(b []byte, off int64) (int, error) {
	p.asked.Store(time.Now().UnixNano())
	defer p.asked.Store(0)
	n, err := p.r.ReadAt(b, off)
	if n == len(b) {
		err = nil // the end of a file
	}
	return n, err
}

func (p *peeker) free() {
	for _, q := range p.pieces {
		block.Free(q.data[:cap(q.data)])
	}
	p.pieces = nil
}
