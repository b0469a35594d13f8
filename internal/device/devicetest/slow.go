package devicetest

import (
	"sync"
	"time"
)

// Hang is a card on which operations of the given kinds never complete, until the
// fault is taken out, the medium is let go or the card is pulled. In the first
// two cases they are then carried out.
func Hang(kinds Kind) Fault {
	return &hang{newPatience(), func(op Op) bool { return op.Kind&kinds != 0 }}
}

// HangAt is as Hang, for operations that touch any of the n bytes from off.
func HangAt(kinds Kind, off, n int64) Fault {
	return &hang{newPatience(), func(op Op) bool { return op.touches(kinds, off, n) }}
}

type hang struct {
	*patience
	hangs func(Op) bool
}

func (h *hang) Do(op Op, next Next) (int, error) {
	if h.hangs(op) {
		h.wait(op, nil)
	}
	return next(op)
}

// Delay is a card on which every operation of the given kinds takes d longer.
func Delay(kinds Kind, d time.Duration) Fault { return &delay{newPatience(), kinds, d} }

type delay struct {
	*patience
	kinds Kind
	d     time.Duration
}

func (f *delay) Do(op Op, next Next) (int, error) {
	if op.Kind&f.kinds != 0 {
		f.sleep(op, f.d)
	}
	return next(op)
}

// Rate is a card that writes and reads at most so many bytes per second, one
// operation after the other; 0 is no limit. A flush waits for what was begun
// before it. A pause between two operations of up to 100 ms costs nothing, as if
// the card had a small buffer: the one who writes need not be quick to keep it
// busy.
func Rate(write, read int64) Fault { return &rate{patience: newPatience(), write: write, read: read} }

// ratePause is the longest pause that a Rate makes up for.
const ratePause = 100 * time.Millisecond

type rate struct {
	*patience
	mu          sync.Mutex
	write, read int64     // in bytes per second
	free        time.Time // when the card will have done what it was given
}

// set changes the rates for operations to come.
func (r *rate) set(write, read int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write, r.read = write, read
}

func (r *rate) Do(op Op, next Next) (int, error) {
	r.sleep(op, time.Until(r.book(op)))
	return next(op)
}

// book returns when op will have been done.
func (r *rate) book(op Op) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	perSecond := r.read
	if op.Kind == Write {
		perSecond = r.write
	}
	if now := time.Now(); r.free.Before(now.Add(-ratePause)) {
		r.free = now
	}
	if perSecond > 0 {
		r.free = r.free.Add(time.Duration(float64(len(op.Data)) / float64(perSecond) * float64(time.Second)))
	}
	return r.free
}
