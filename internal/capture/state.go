package capture

import (
	"sync"
	"time"
)

// A Bottleneck is what holds a capture up.
type Bottleneck string

const (
	ByNothing Bottleneck = ""
	ByCard    Bottleneck = "card"
	// ByImage is the packing, or the disk that the image goes to.
	ByImage Bottleneck = "image"
)

// A State is how far a capture has come.
type State struct {
	Phase       Phase
	Done, Total int64         // bytes, in this phase; Total 0: not known
	Rate        float64       // bytes per second, of the last seconds
	ETA         time.Duration // until the end of this phase; negative: not known
	Bottleneck  Bottleneck    // while reading
	Lost        int64         // bytes that cannot be read as it stands
	Reread      int64         // places that could only be read at a further try
	Stalled     time.Duration // for how long the card has not answered; 0: it has
}

// stalledAfter is for how long a card may be silent before that is shown.
const stalledAfter = 15 * time.Second

// State returns how far the capture has come.
func (c *Capture) State() State {
	s := State{
		Phase: Phase(c.phase.Load()), Done: c.done.Load(), Total: c.total.Load(), ETA: -1,
		Lost: c.lost.Load(), Reread: c.read.reread.Load(),
	}
	var shareStarved float64
	s.Rate, shareStarved = c.meter.add(time.Now(), s.Done, c.read.waited())
	if left := s.Total - s.Done; s.Rate > 0 && left >= 0 && s.Total > 0 {
		s.ETA = time.Duration(float64(left) / s.Rate * float64(time.Second)).Round(time.Second)
	}
	if s.Phase == Reading {
		switch {
		case shareStarved > 0.5:
			s.Bottleneck = ByImage
		case s.Rate > 0:
			s.Bottleneck = ByCard
		}
	}
	if d := c.now.Load().silent(); d >= stalledAfter {
		s.Stalled = d
	}
	return s
}

// Waited returns for how long the card was kept waiting by the packing, or by the disk
// that the image goes to.
func (c *Capture) Waited() time.Duration { return c.read.waited() }

// SetPhase says what the caller is doing, after Run.
func (c *Capture) SetPhase(p Phase) { c.begin(p, 0) }

// span is how far back speeds are measured.
const span = 5 * time.Second

// A meter measures speeds over the last seconds.
type meter struct {
	mu      sync.Mutex
	samples []meterSample // guarded by mu; the oldest first
}

type meterSample struct {
	at      time.Time
	done    int64
	starved time.Duration
}

// add takes a sample, and returns the speed since the oldest and the share of the time
// that nothing could be read.
func (m *meter) add(now time.Time, done int64, starved time.Duration) (rate, share float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.samples) > 1 && now.Sub(m.samples[1].at) >= span {
		m.samples = m.samples[1:]
	}
	if n := len(m.samples); n == 0 || now.Sub(m.samples[n-1].at) >= 50*time.Millisecond {
		m.samples = append(m.samples, meterSample{now, done, starved})
	}
	first := m.samples[0]
	if d := now.Sub(first.at).Seconds(); d > 0 {
		return max(0, float64(done-first.done)/d), (starved - first.starved).Seconds() / d
	}
	return 0, 0
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples = nil
}
