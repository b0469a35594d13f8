package devicetest

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
)

// pageSize is the size of the pieces in which Cells get their memory, in bytes.
const pageSize = 64 << 10

// Cells are the bytes of a medium at rest: what it truly holds, past all faults
// and caches. They take memory only where something but zeros was written.
type Cells struct {
	size int64

	mu     sync.Mutex
	pages  map[int64]*[pageSize]byte // by number; a missing page was never written
	soiled bool                      // pages never written hold noise, not zeros
	seed   uint64                    // of the noise
}

func newCells(size int64) *Cells {
	return &Cells{size: size, pages: make(map[int64]*[pageSize]byte)}
}

// Size returns the number of bytes.
func (c *Cells) Size() int64 { return c.size }

// ReadAt is as in io.ReaderAt.
func (c *Cells) ReadAt(p []byte, off int64) (int, error) {
	p, err := clip(p, off, c.size, io.EOF)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readLocked(p, off)
	return len(p), err
}

// WriteAt is as in io.WriterAt. What lies past the end is refused with ENOSPC.
func (c *Cells) WriteAt(p []byte, off int64) (int, error) {
	p, err := clip(p, off, c.size, syscall.ENOSPC)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeLocked(p, off)
	return len(p), err
}

// clip returns the part of p that lies on a disk of size bytes when p lies at
// off, and past if that is not all of it.
func clip(p []byte, off, size int64, past error) ([]byte, error) {
	switch {
	case off < 0:
		return nil, syscall.EINVAL
	case off >= size && len(p) > 0:
		return nil, past
	case int64(len(p)) > size-off:
		return p[:max(size-off, 0)], past
	}
	return p, nil
}

func (c *Cells) readLocked(p []byte, off int64) {
	eachPage(p, off, pageSize, func(page, at int64, part []byte) {
		if b := c.pages[page]; b != nil {
			copy(part, b[at:])
		} else if c.soiled {
			copy(part, noise(c.seed, page)[at:])
		} else {
			clear(part)
		}
	})
}

func (c *Cells) writeLocked(p []byte, off int64) {
	eachPage(p, off, pageSize, func(page, at int64, part []byte) {
		b := c.pages[page]
		if b == nil {
			if !c.soiled && allZero(part) {
				return
			}
			if b = new([pageSize]byte); c.soiled {
				b = noise(c.seed, page)
			}
			c.pages[page] = b
		}
		copy(b[at:], part)
	})
}

// soil makes all that was never written noise.
func (c *Cells) soil(seed uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.soiled, c.seed = true, seed
}

// eachPage calls f for every part of p, which lies at off, that falls into one
// page of size bytes, with the number of the page and the part's place in it.
func eachPage(p []byte, off, size int64, f func(page, at int64, part []byte)) {
	for len(p) > 0 {
		page, at := off/size, off%size
		n := min(size-at, int64(len(p)))
		f(page, at, p[:n])
		p, off = p[n:], off+n
	}
}

func noise(seed uint64, page int64) *[pageSize]byte {
	b, rng := new([pageSize]byte), rand.NewPCG(seed, uint64(page))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

func allZero(p []byte) bool {
	for len(p) >= 8 {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// flash is the innermost of a medium's faults, and none: it carries out what
// reaches it while the power is on.
type flash struct{ *Cells }

func (f flash) Do(op Op, _ Next) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := op.power.err(); err != nil {
		return 0, err
	}
	switch op.Kind {
	case Read:
		f.readLocked(op.Data, op.Off)
	case Write:
		f.writeLocked(op.Data, op.Off)
	}
	return len(op.Data), nil
}

// cut waits for the operation that the cells were busy with when the power went.
func (f flash) cut(Next) {
	f.mu.Lock()
	defer f.mu.Unlock()
}
