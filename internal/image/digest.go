package image

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"sync/atomic"
)

// someZeros are never anything else.
var someZeros [64 << 10]byte

func hashZeros(h hash.Hash, n int64) {
	for n > 0 {
		k := min(n, int64(len(someZeros)))
		h.Write(someZeros[:k])
		n -= k
	}
}

// A fileSum passes bytes on, and counts and digests them.
type fileSum struct {
	w       io.Writer
	n       *atomic.Int64
	h       hash.Hash
	stopped atomic.Bool
}

func (s *fileSum) Write(p []byte) (int, error) {
	if s.stopped.Load() {
		return 0, ErrClosed
	}
	n, err := s.w.Write(p)
	s.n.Add(int64(n))
	s.h.Write(p[:n])
	return n, err
}

// stop makes every further Write fail.
func (s *fileSum) stop() { s.stopped.Store(true) }

func (s *fileSum) sum() string { return hex.EncodeToString(s.h.Sum(nil)) }

// An imageSum digests the unpacked image in a goroutine of its own: gaps can be
// long, and nobody shall wait for them.
type imageSum struct {
	in      chan summand
	free    chan []byte
	closed  bool
	stopped atomic.Bool // nobody wants to know any more
	done    chan struct{}
	h       hash.Hash // owned by the goroutine until done is closed
}

// A summand is some bytes of the image, or so many zeros.
type summand struct {
	data  []byte
	zeros int64
}

// The bytes on the way to an imageSum: so many pieces of this size.
const (
	sumPieces    = 4
	sumPieceSize = 1 << 20
)

func newImageSum() *imageSum {
	s := &imageSum{in: make(chan summand, sumPieces), free: make(chan []byte, sumPieces), done: make(chan struct{}), h: sha256.New()}
	for range sumPieces {
		s.free <- nil
	}
	go s.run()
	return s
}

func (s *imageSum) run() {
	defer close(s.done)
	for x := range s.in {
		for x.zeros > 0 && !s.stopped.Load() {
			n := min(x.zeros, sumPieceSize)
			hashZeros(s.h, n)
			x.zeros -= n
		}
		if x.data != nil {
			s.h.Write(x.data)
			s.free <- x.data
		}
	}
}

func (s *imageSum) write(p []byte) {
	for len(p) > 0 {
		b := <-s.free
		if b == nil {
			b = make([]byte, 0, sumPieceSize)
		}
		b = append(b[:0], p[:min(len(p), sumPieceSize)]...)
		p = p[len(b):]
		s.in <- summand{data: b}
	}
}

func (s *imageSum) zeros(n int64) { s.in <- summand{zeros: n} }

// end waits for the last of it and returns the digest.
func (s *imageSum) end() string {
	if !s.closed {
		s.closed = true
		close(s.in)
	}
	<-s.done
	return hex.EncodeToString(s.h.Sum(nil))
}

// stop ends it without a digest.
func (s *imageSum) stop() {
	s.stopped.Store(true)
	s.end()
}
