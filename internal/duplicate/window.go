package duplicate

import (
	"context"
	"sync"
	"sync/atomic"

	"multidd/internal/block"
)

// A window holds the blocks between the fastest and the slowest lane that share
// them. Block i of the run is blocks[i-base]. A lane is attached while the window
// keeps every block for it that it has yet to take. When the window is full and
// its fastest lane is about to run out of blocks, the slowest are detached, so
// that the fastest need not wait for them. A detached lane that has caught up
// with base is attached again.
type window struct {
	limit int // the most blocks it holds
	// reread tells whether detached lanes can get their blocks elsewhere; if
	// not, nobody is detached and everyone waits for the slowest.
	reread func() bool
	room   chan struct{} // of capacity 1: there may be room again

	mu     sync.Mutex
	blocks []*shared
	base   int
	closed bool // no more blocks will come
	lanes  map[*cursor]struct{}
}

// A cursor is a lane's place in the run. next and waiting are guarded by the
// window's mutex, except that a detached lane's next is its own.
type cursor struct {
	next     int  // index of the next block to take
	attached bool // in the window's lanes
	waiting  bool // wants a wake
	behind   atomic.Bool
	wake     chan struct{} // of capacity 1
}

func newCursor() *cursor { return &cursor{wake: make(chan struct{}, 1)} }

// shared is a block that several hold; the last to release it gives it back.
type shared struct {
	block.Block
	refs atomic.Int32
}

func share(b block.Block) *shared {
	s := &shared{Block: b}
	s.refs.Store(1)
	return s
}

func (s *shared) release() {
	if s.refs.Add(-1) == 0 {
		s.Block.Release()
	}
}

func newWindow(limit int, reread func() bool) *window {
	return &window{limit: limit, reread: reread, room: make(chan struct{}, 1), lanes: map[*cursor]struct{}{}}
}

// attach lets c begin with the next block.
func (w *window) attach(c *cursor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attachLocked(c)
}

func (w *window) attachLocked(c *cursor) {
	if !c.attached {
		c.attached = true
		c.behind.Store(false)
		w.lanes[c] = struct{}{}
	}
}

// leave lets go of everything that is kept for c.
func (w *window) leave(c *cursor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.detachLocked(c)
	w.advanceLocked()
}

func (w *window) detachLocked(c *cursor) {
	if c.attached {
		c.attached = false
		delete(w.lanes, c)
	}
}

// waitRoom waits until another block may be pushed.
func (w *window) waitRoom(ctx context.Context) error {
	for {
		w.mu.Lock()
		ok := len(w.blocks) < w.limit
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-w.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// push adds a block; the window owns it from then on.
func (w *window) push(s *shared) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocks = append(w.blocks, s)
	w.wakeLocked()
}

// end says that no more blocks will come.
func (w *window) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.wakeLocked()
}

// drop releases every block that is still there, once all lanes are done.
func (w *window) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.blocks {
		s.release()
	}
	w.base += len(w.blocks)
	w.blocks = nil
}

func (w *window) wakeLocked() {
	for c := range w.lanes {
		if c.waiting {
			c.waiting = false
			notify(c.wake)
		}
	}
}

// notify puts a token into a channel of capacity 1, unless there is one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// What take found.
type found int

const (
	foundBlock  found = iota // here it is; release it
	foundNone                // not there yet; c.wake tells when to look again
	foundBehind              // it has left the window: get it elsewhere, then call step
	foundEnd                 // that was the last one
)

// take returns c's next block and moves c past it.
func (w *window) take(c *cursor) (*shared, found) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.next < w.base {
		c.behind.Store(true)
		return nil, foundBehind
	}
	w.attachLocked(c)
	ahead := w.base + len(w.blocks) - c.next
	if ahead == 0 {
		if w.closed {
			return nil, foundEnd
		}
		c.waiting = true
		w.evictLocked(c)
		return nil, foundNone
	}
	s := w.blocks[c.next-w.base]
	s.refs.Add(1)
	c.next++
	w.advanceLocked()
	if ahead <= 2 {
		w.evictLocked(c)
	}
	return s, foundBlock
}

// has tells whether block i of the run is there, or was, without taking it:
// foundBlock, foundNone, or foundEnd if there will be none. i is at c's own place or
// after it.
func (w *window) has(c *cursor, i int) found {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch there := w.base + len(w.blocks); {
	case i < there:
		return foundBlock
	case w.closed:
		return foundEnd
	case c.next >= w.base: // else it has enough to do until it has caught up
		w.attachLocked(c)
		c.waiting = true
		w.evictLocked(c)
	}
	return foundNone
}

// step moves a lane that is behind past a block that it got elsewhere.
func (w *window) step(c *cursor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.next++
}

// evictLocked detaches the slowest lanes if the window is full and c, which is
// about to run out of blocks, is faster than they are.
func (w *window) evictLocked(c *cursor) {
	if w.closed || len(w.blocks) < w.limit || !w.reread() {
		return
	}
	for l := range w.lanes {
		if l.next == w.base && l.next < c.next {
			w.detachLocked(l)
			l.behind.Store(true) // at once: it may hang where it is
		}
	}
	w.advanceLocked()
}

// advanceLocked forgets the blocks that every attached lane has taken. With no
// lane attached it keeps what there is for those that catch up.
func (w *window) advanceLocked() {
	if len(w.lanes) == 0 {
		return
	}
	low := w.base + len(w.blocks)
	for c := range w.lanes {
		low = min(low, c.next)
	}
	n := low - w.base
	if n <= 0 {
		return
	}
	for _, s := range w.blocks[:n] {
		s.release()
	}
	w.blocks = append(w.blocks[:0], w.blocks[n:]...)
	w.base = low
	notify(w.room)
}
