package block

import (
	"context"
	"fmt"
	"sync"
	"syscall"
)

// Align is what the address of every buffer of a Pool is a multiple of, in
// bytes: enough for O_DIRECT on any device.
const Align = 4096

// hugePage is the size of the pages that buffers are cut from where the system has
// such: the kernel looks up every page of a buffer for each request, and there are
// 512 times fewer of them.
const hugePage = 2 << 20

// A Pool is a fixed number of buffers of one size, aligned for O_DIRECT and
// outside the garbage collector's heap, so that memory stays within its bound
// and the kernel may write to a buffer behind the program's back. A buffer costs
// nothing until it is first used.
type Pool struct {
	size int
	free chan []byte // holds as many as there are buffers; nil: not yet made

	mu     sync.Mutex
	closed bool
	uncut  [][]byte        // guarded by mu: buffers of the newest slab that were never used
	slabs  map[*byte]*slab // guarded by mu: of each buffer, by its first byte
}

// A slab is a piece of memory that buffers are cut from.
type slab struct {
	mem  []byte
	live int // how many of its buffers are not yet given up
}

// NewPool returns a pool of n buffers of size bytes, a multiple of Align.
func NewPool(n, size int) *Pool {
	if n < 1 || size < Align || size%Align != 0 {
		panic(fmt.Sprintf("block: a pool of %d buffers of %d bytes", n, size))
	}
	p := &Pool{size: size, free: make(chan []byte, n), slabs: map[*byte]*slab{}}
	for range n {
		p.free <- nil
	}
	return p
}

// BufferSize returns the size of each buffer in bytes.
func (p *Pool) BufferSize() int { return p.size }

// Len returns the number of buffers.
func (p *Pool) Len() int { return cap(p.free) }

// Get waits for a free buffer. The error is ctx's cause.
func (p *Pool) Get(ctx context.Context) ([]byte, error) {
	var b []byte
	select {
	case b = <-p.free:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if b != nil {
		return b, nil
	}
	b, err := p.newBuffer()
	if err != nil {
		p.free <- nil
		return nil, err
	}
	return b, nil
}

// newBuffer cuts a buffer from the newest slab, or from a new one.
func (p *Pool) newBuffer() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.uncut) == 0 {
		mem, err := Aligned(max(hugePage, p.size))
		if err != nil {
			return nil, err
		}
		_ = syscall.Madvise(mem, syscall.MADV_HUGEPAGE) // slower without, and as right
		s := &slab{mem: mem}
		for at := 0; at+p.size <= len(mem); at += p.size {
			b := mem[at : at+p.size : at+p.size]
			p.uncut = append(p.uncut, b)
			p.slabs[&b[0]] = s
			s.live++
		}
	}
	b := p.uncut[0]
	p.uncut = p.uncut[1:]
	return b, nil
}

// Put gives back a buffer that came from Get, at its full length.
func (p *Pool) Put(b []byte) {
	b = b[:p.size]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.giveUpLocked(b)
		b = nil
	}
	p.free <- b
}

// giveUpLocked gives a slab back to the system with its last buffer.
func (p *Pool) giveUpLocked(b []byte) {
	s := p.slabs[&b[0]]
	delete(p.slabs, &b[0])
	if s.live--; s.live == 0 {
		Free(s.mem)
	}
}

// Close gives the memory of the free buffers back to the system, and that of the
// others when they are put back. A buffer that the kernel still holds is never
// taken away from it.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for range len(p.free) {
		if b := <-p.free; b != nil {
			p.giveUpLocked(b)
		}
		p.free <- nil
	}
	for _, b := range p.uncut {
		p.giveUpLocked(b)
	}
	p.uncut = nil
}

// Aligned returns a buffer of n bytes, at least 1, at an address that is a
// multiple of Align. It belongs to the caller until given to Free.
func Aligned(n int) ([]byte, error) {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("get %d bytes of memory for a buffer: %w", n, err)
	}
	return b, nil
}

// Free gives a buffer from Aligned back to the system.
func Free(b []byte) { _ = syscall.Munmap(b[:cap(b)]) }
