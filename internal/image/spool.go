package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A spool writes the copy of an image while the image is unpacked, and gives what
// it has back to lanes that have fallen behind. A copy that proves to be
// right at the end becomes an entry of the store.
//
// A copy is a convenience. If the disk fills up, fails, or would hold the cards
// up, the spool gives up: it says so, keeps what it has readable until it is
// closed, and the run goes on without.
type spool struct {
	st   *Store
	dir  string // where the copy is until it is an entry
	f    file
	warn func(format string, args ...any)

	in      chan *chunk
	verdict chan *entry // of capacity 1; nil: the copy is not to be kept
	done    chan struct{}

	// Owned by the one who calls give.
	began   time.Time
	starved time.Duration // how long the lanes had nothing to do because of the disk

	// Owned by the goroutine that writes, in bytes.
	written int64 // data, without holes
	allowed int64 // how much of that the store has room for

	mu     sync.Mutex
	moved  *sync.Cond // reach has moved, or will not move any more
	reach  int64      // all bytes before it are in the file
	sums   granules
	ended  bool  // all that was given is in the file
	asked  bool  // somebody relies on the copy
	err    error // why it was given up
	closed bool
}

// file is what a spool needs of a file.
type file interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
	Fd() uintptr
}

// errSlow is why a copy is given up that would hold the cards up.
var errSlow = errors.New("its disk is slower than the cards")

// newSpool starts a spool that writes to f, in the store's directory dir.
func newSpool(st *Store, dir string, f file, warn func(string, ...any)) *spool {
	s := &spool{
		st: st, dir: dir, f: f, warn: warn,
		in: make(chan *chunk, sinkDepth), verdict: make(chan *entry, 1), done: make(chan struct{}),
		began: time.Now(),
	}
	s.moved = sync.NewCond(&s.mu)
	go s.run()
	return s
}

// give hands a chunk to the spool, which holds it until it is written. idle tells
// whether the lanes have taken all there was: while they have not, the disk may
// take its time.
func (s *spool) give(ctx context.Context, c *chunk, idle func() bool) error {
	if !s.sound() {
		return nil
	}
	c.hold()
	select {
	case s.in <- c:
		return nil
	default:
	}
	for {
		begin := time.Now()
		timer := time.NewTimer(s.st.patience)
		var err error
		taken := false
		select {
		case s.in <- c:
			taken = true
		case <-timer.C:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		timer.Stop()
		if err == nil && idle() {
			s.starved += time.Since(begin)
			if s.starved > s.st.patience+time.Since(s.began)/20 && !s.isAsked() {
				s.giveUp(errSlow)
			}
		}
		switch {
		case taken:
			return nil
		case err != nil || !s.sound():
			c.release()
			return err
		}
	}
}

// sound tells whether the copy has everything so far, or will have.
func (s *spool) sound() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil && !s.closed
}

// failed tells whether the copy was given up.
func (s *spool) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

func (s *spool) isAsked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *spool) giveUp(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	reach := s.reach
	s.moved.Broadcast()
	s.mu.Unlock()
	if first {
		s.warn("the copy of the image in the store was given up at byte %d: %v; a card that falls behind cannot catch up", reach, err)
	}
}

// run writes what it is given and then does what the verdict says.
func (s *spool) run() {
	defer close(s.done)
	for c := range s.in {
		if !s.failed() {
			if err := s.write(c); err != nil {
				s.giveUp(err)
				drop(s.dir) // the open file stays
			}
		}
		c.release()
	}
	s.mu.Lock()
	s.sums.end()
	s.ended = true
	s.moved.Broadcast()
	s.mu.Unlock()
	e := <-s.verdict
	if e == nil || s.failed() {
		drop(s.dir)
		return
	}
	if err := s.st.install(s, e); err != nil {
		drop(s.dir)
		s.warn("the copy of the image was not kept in the store: %v", err)
	}
}

// page is the least that can be a hole.
const page = 4096

// write writes what is not zero of a chunk.
func (s *spool) write(c *chunk) error {
	for at := 0; at < len(c.data); {
		end := at
		for end < len(c.data) && !isZero(c.data[end:min(end+page, len(c.data))]) {
			end = min(end+page, len(c.data))
		}
		if end == at {
			at = min(at+page, len(c.data))
			continue
		}
		if err := s.writeAt(c.data[at:end], c.off+int64(at)); err != nil {
			return err
		}
		at = end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sums.add(c.data)
	s.reach = c.end()
	s.moved.Broadcast()
	return nil
}

func (s *spool) writeAt(p []byte, off int64) error {
	if s.written += int64(len(p)); s.written > s.allowed {
		n, err := s.st.room(s.written - s.allowed)
		if err != nil {
			return err
		}
		s.allowed += n
	}
	_, err := s.f.WriteAt(p, off)
	return err
}

func isZero(p []byte) bool { return p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) }

// ReadAt reads what the copy has, and waits for what it will have.
func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	s.asked = true
	end := off + int64(len(p))
	for s.reach < end && !s.ended && s.err == nil && !s.closed {
		s.moved.Wait()
	}
	reach, size, crc := s.reach, s.sums.n, s.sums.crc
	whole := s.ended && s.err == nil
	closed := s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return 0, ErrClosed
	case end <= reach:
		return readChecked(s.f, crc, size, p, off)
	case !whole:
		return 0, fmt.Errorf("%w: it ends at byte %d", ErrNotKept, reach)
	case off >= reach:
		return 0, io.EOF
	}
	n, err := readChecked(s.f, crc, size, p[:reach-off], off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// finish says that nothing more will come, and whether the copy is to be kept.
func (s *spool) finish(e *entry) {
	close(s.in)
	s.verdict <- e
}

// close waits until the copy is kept or discarded, after finish.
func (s *spool) close() {
	s.mu.Lock()
	s.closed = true
	s.moved.Broadcast()
	s.mu.Unlock()
	<-s.done
	_ = s.f.Close()
}
