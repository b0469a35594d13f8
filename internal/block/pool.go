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

// A Pool is a fixed number of buffers of one size, aligned for O_DIRECT and
// outside the garbage collector's heap, so that memory stays within its bound
// and the kernel may write to a buffer behind the program's back. A buffer costs
// nothing until it is first used.
type Pool struct {
	size int
	free chan []byte // holds as many as there are buffers; nil: not yet made

	mu     sync.Mutex
	closed bool
}

// NewPool returns a pool of n buffers of size bytes, a multiple of Align.
func NewPool(n, size int) *Pool {
	if n < 1 || size < Align || size%Align != 0 {
		panic(fmt.Sprintf("block: a pool of %d buffers of %d bytes", n, size))
	}
	p := &Pool{size: size, free: make(chan []byte, n)}
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
	b, err := Aligned(p.size)
	if err != nil {
		p.free <- nil
		return nil, err
	}
	return b, nil
}

// Put gives back a buffer that came from Get, at its full length.
func (p *Pool) Put(b []byte) {
	b = b[:p.size]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		Free(b)
		b = nil
	}
	p.free <- b
}

// Close gives the memory of the free buffers back to the system at once, and
// that of the others when they are put back. A buffer that the kernel still
// holds is never taken away from it.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for range len(p.free) {
		if b := <-p.free; b != nil {
			Free(b)
		}
		p.free <- nil
	}
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
