package devicetest

import (
	"sync"
	"time"
)

// A power is one time for which a medium is plugged in, from Plug to Pull.
type power struct {
	lost  chan struct{} // closed when it ends
	why   error         // what operations fail with from then on; set before lost is closed
	hurry chan struct{} // closed when nobody may wait any longer
	once  sync.Once     // closes hurry
}

func newPower() *power {
	return &power{lost: make(chan struct{}), hurry: make(chan struct{})}
}

// err returns why there is no power, or nil.
func (p *power) err() error {
	if p == nil {
		return nil
	}
	select {
	case <-p.lost:
		return p.why
	default:
		return nil
	}
}

// letGo ends all waiting, now and in future.
func (p *power) letGo() { p.once.Do(func() { close(p.hurry) }) }

func (p *power) inHurry() bool {
	select {
	case <-p.hurry:
		return true
	default:
		return false
	}
}

// patience is what a fault waits with. It is lifted when the fault is taken out.
type patience struct {
	lifted chan struct{}
	once   sync.Once
}

func newPatience() *patience { return &patience{lifted: make(chan struct{})} }

func (w *patience) lift() { w.once.Do(func() { close(w.lifted) }) }

// wait waits until the channel gives something, the fault is taken out, or op may
// wait no longer.
func (w *patience) wait(op Op, until <-chan time.Time) {
	var hurry chan struct{}
	if op.power != nil {
		hurry = op.power.hurry
	}
	select {
	case <-until:
	case <-w.lifted:
	case <-hurry:
	}
}

// sleep waits for d, if it is not 0 or less, as wait does.
func (w *patience) sleep(op Op, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	w.wait(op, timer.C)
}
