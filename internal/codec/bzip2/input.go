package bzip2

import (
	"errors"
	"io"
	"sync"
)

// chunkSize is how much is read from the source at once, in bytes.
const chunkSize = 128 << 10

var (
	// errStale ends the reading of a candidate that lies before the floor: the
	// block around it has been accepted, so nobody wants the candidate.
	// It ends all reading once the input is closed, too.
	errStale = errors.New("nobody wants these bytes any more")
	// errLong ends the reading of a block that takes more than maxPacked.
	errLong = damage("the block takes more input than a block can")
)

// An input is a window on the compressed bytes: the chunks from the floor on,
// as many as the window holds. One goroutine, fill, reads them; any number pin
// them, which waits until they are there.
//
// Who reads at or after the floor never waits for ever while the floor's own
// reader makes progress: the window holds maxPacked bytes and more, so the
// block at the floor can be read to its end, and then the floor moves.
type input struct {
	src io.Reader

	mu    sync.Mutex
	moved sync.Cond // any field below has changed
	ring  []chunk   // chunk i of the input is at i modulo len(ring)
	floor int64     // the first byte wanted
	next  int64     // the first chunk not yet read
	end   int64     // the length of the input, once err is set
	err   error     // why reading ended: io.EOF or the source's error
	shut  bool
}

// A chunk is chunkSize bytes of the input, or fewer at its end.
type chunk struct {
	data []byte
	pins int
}

func newInput(src io.Reader, chunks int) *input {
	in := &input{src: src, ring: make([]chunk, chunks)}
	in.moved.L = &in.mu
	return in
}

// fill reads the source to its end, or until shut.
func (in *input) fill() {
	for in.room() {
		c := &in.ring[in.next%int64(len(in.ring))]
		if c.data == nil {
			c.data = make([]byte, chunkSize)
		}
		n, err := io.ReadFull(in.src, c.data)
		c.data = c.data[:n]
		in.mu.Lock()
		in.next++
		if err != nil {
			in.end = (in.next-1)*chunkSize + int64(n)
			in.err = err
			if err == io.ErrUnexpectedEOF {
				in.err = io.EOF
			}
		}
		in.moved.Broadcast()
		in.mu.Unlock()
	}
}

// room waits until the next chunk's place in the window is free. It returns
// false when there is nothing more to read.
func (in *input) room() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		size := int64(len(in.ring))
		switch {
		case in.shut || in.err != nil:
			return false
		case in.next-in.floor/chunkSize < size && in.ring[in.next%size].pins == 0:
			return true
		}
		in.moved.Wait()
	}
}

// pin returns the chunk that begins at the byte off, a multiple of chunkSize or
// the input's end, waiting for it if need be,
// and keeps it as it is until unpinned. An error means there is no such chunk
// and nothing is pinned.
func (in *input) pin(off int64) ([]byte, error) {
	seq := off / chunkSize
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		switch {
		case in.shut || seq < in.floor/chunkSize:
			return nil, errStale
		case in.err != nil && off >= in.end:
			return nil, in.err
		case seq < in.next:
			c := &in.ring[seq%int64(len(in.ring))]
			c.pins++
			return c.data, nil
		}
		in.moved.Wait()
	}
}

// unpin gives back the chunk at the byte off.
func (in *input) unpin(off int64) {
	in.mu.Lock()
	c := &in.ring[off/chunkSize%int64(len(in.ring))]
	if c.pins--; c.pins == 0 {
		in.moved.Broadcast()
	}
	in.mu.Unlock()
}

// want says that nothing before the byte off is wanted any more.
func (in *input) want(off int64) {
	in.mu.Lock()
	if off/chunkSize > in.floor/chunkSize {
		in.moved.Broadcast()
	}
	in.floor = off
	in.mu.Unlock()
}

// wanted returns the first byte that is still wanted, or -1 if the input is
// closed.
func (in *input) wanted() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.shut {
		return -1
	}
	return in.floor
}

// close ends all waiting. The goroutine in fill may still be in the source's
// Read.
func (in *input) close() {
	in.mu.Lock()
	in.shut = true
	in.moved.Broadcast()
	in.mu.Unlock()
}
