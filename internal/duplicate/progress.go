package duplicate

import (
	"time"
)

// Progress is how far a lane has come.
type Progress struct {
	Phase       Phase
	Done, Total int64 // bytes, in this phase; Total -1: not known
	Written     int64 // bytes the card has taken, over all phases
	// Of a lane with Delta: how many bytes of the card have been compared, and how
	// many of them differed and were written, or are about to be.
	Compared, Differed int64
	Behind             bool // has left the window
	Idle               bool // waits for the source
	Stalled            time.Duration
	Retries            int
	Rewrote            int
	Amber              []string // warnings, each a sentence
	// Began, Wrote and Ended are the times of the first byte, of the end of
	// the writing with its flush, and of the verdict; zero: not yet.
	Began, Wrote, Ended time.Time
	Verdict             *Verdict // nil until there is one
}

// Totals is how far the run has come.
type Totals struct {
	Read  int64 // bytes the source gave
	Total int64 // bytes the source will give; -1: not known
	// Starved is how long the source was waited for, and Full how long the
	// source waited for the lanes.
	Starved, Full time.Duration
}

// Totals returns how far the run has come. It may be called at any time.
func (r *Run) Totals() Totals {
	return Totals{
		Read: r.read.Load(), Total: r.total.Load(),
		Starved: time.Duration(r.starved.Load()), Full: time.Duration(r.full.Load()),
	}
}

// Progress returns how far lane i has come. It may be called at any time.
func (r *Run) Progress(i int) Progress {
	l := r.lanes[i]
	p := Progress{
		Phase: Phase(l.phase.Load()), Done: l.done.Load(), Total: l.total.Load(),
		Written: l.written.Load(), Compared: l.compared.Load(), Differed: l.differed.Load(),
		Behind: l.cursor.behind.Load(), Idle: l.idle.Load(), Stalled: l.stalledFor(time.Now()),
		Retries: int(l.retries.Load()), Rewrote: int(l.rewrote.Load()),
		Began: stamp(l.began.Load()), Wrote: stamp(l.wrote.Load()), Ended: stamp(l.proved.Load()),
	}
	if total := r.total.Load(); (p.Phase == Writing || p.Phase == Comparing) && p.Total < 0 && total >= 0 {
		p.Total = total + l.more.Load()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.Amber = append(p.Amber, l.amber...)
	if l.verdict != nil {
		v := *l.verdict
		p.Verdict, p.Phase = &v, v.Phase
		p.Stalled = 0
	}
	return p
}

func stamp(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
