package station

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"multidd/internal/block"
	"multidd/internal/duplicate"
	"multidd/internal/verify"
)

// The exit statuses of a run, as everything that drives multidd sees them.
const (
	ExitGood        = 0   // every card is good
	ExitError       = 1   // something else went wrong
	ExitUsage       = 2   // the command line or a configuration is wrong
	ExitSomeFailed  = 3   // some cards failed, at least one is good
	ExitNoneGood    = 4   // no card is good
	ExitRefused     = 5   // a guard refused; nothing was written
	ExitImage       = 6   // the image is bad
	ExitPermission  = 7   // a permission or a prerequisite is missing
	ExitUnverified  = 10  // written but not verified
	ExitInterrupted = 130 // ended by SIGINT; by SIGTERM it is 143
	ExitTerminated  = 143
)

// ErrTerminated is the cause with which a run is cancelled by SIGTERM.
var ErrTerminated = fmt.Errorf("%w by SIGTERM", duplicate.ErrInterrupted)

// A Card is a card in its slot, opened and checked.
type Card struct {
	Slot, Device, Model, Serial string
	Size                        int64
	Sector                      int // in bytes; 0: it has none, as a plain file
	Target                      duplicate.Target
	Plain                       bool   // written like a file: not read back, see duplicate.Lane
	Bus                         string // which bus the card shares with others, such as a USB root hub; empty: none
	BusSpeed                    int    // of that bus in Mbit/s; 0: not known
	Amber                       []string
	// Delta has the card read first, and only what differs written.
	Delta bool
	// Patch is what differs on this card from the image; nil: nothing.
	Patch duplicate.Patch
	// Blank is what else of an earlier content is blanked first, see
	// duplicate.Lane.
	Blank []block.Extent
}

// A Source is the image of a run: what the engine takes blocks from, and what a
// screen shows of it.
type Source interface {
	duplicate.Source
	// State returns what is known of the image by now.
	State() ImageState
	// Waits returns for how long reading the image's file and decoding it have
	// taken since the beginning.
	Waits() (reading, decoding time.Duration)
	// Warnings returns what a person should know, each a sentence.
	Warnings() []string
}

// Options say how a run goes.
type Options struct {
	Engine duplicate.Options
	Pool   *block.Pool
	Every  time.Duration // between two snapshots; 0: 200 ms
}

// A Station drives a run of one image to a set of cards.
type Station struct {
	src   Source
	cards []Card
	// writeOnly is set if the cards are not read back.
	writeOnly bool
	warnings  []string
	run       *duplicate.Run
	every     time.Duration
	cancel    context.CancelCauseFunc
	ctx       context.Context

	mu       sync.Mutex
	watchers map[chan Snapshot]struct{} // guarded by mu
	last     Snapshot                   // guarded by mu
	over     bool                       // guarded by mu: last is final
	meter    *meter
}

// New returns a station with one run to do. Cancelling ctx ends the run; its cause
// decides on the exit status.
func New(ctx context.Context, src Source, cards []Card, o Options) *Station {
	if o.Every == 0 {
		o.Every = 200 * time.Millisecond
	}
	lanes := make([]duplicate.Lane, len(cards))
	for i, c := range cards {
		lanes[i] = duplicate.Lane{Target: c.Target, Size: c.Size, Blank: c.Blank, Plain: c.Plain, Patch: c.Patch, Delta: c.Delta}
	}
	s := &Station{
		src: src, cards: cards, every: o.Every, writeOnly: o.Engine.NoProof, watchers: map[chan Snapshot]struct{}{},
		run: duplicate.New(src, o.Pool, lanes, src.State().Used, o.Engine),
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.meter = newMeter()
	if r, ok := src.(duplicate.Rereader); len(cards) > 1 && (!ok || !r.CanReread()) {
		s.warnings = append(s.warnings, "There is no copy of the unpacked image to go on from, so all cards go at the pace of the slowest.")
	}
	return s
}

// Interrupt ends the run: every lane that has no verdict yet is interrupted.
func (s *Station) Interrupt() { s.cancel(duplicate.ErrInterrupted) }

// Do carries the run out and returns its last snapshot.
func (s *Station) Do() Snapshot {
	defer s.cancel(nil)
	stop, stopped := make(chan struct{}), make(chan struct{})
	begin := time.Now()
	s.publish(s.snapshot(begin))
	go func() {
		defer close(stopped)
		tick := time.NewTicker(s.every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.publish(s.snapshot(begin))
			case <-stop:
				return
			}
		}
	}()
	err := s.run.Do(s.ctx)
	close(stop)
	<-stopped
	last := s.snapshot(begin)
	last.Done = true
	last.Exit = s.exit(last, err)
	if err != nil {
		last.Image.Err = Clean(err.Error())
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.publish(last)
	return last
}

// exit returns the exit status that belongs to the verdicts.
func (s *Station) exit(last Snapshot, err error) int {
	cause := context.Cause(s.ctx)
	if err != nil {
		if r := reasonOf(err); r == verify.ImageDecode || r == verify.ImageDigest || r == "" {
			return ExitImage
		}
		return ExitNoneGood
	}
	good, unverified := 0, 0
	for _, l := range last.Lanes {
		switch l.Phase {
		case Good:
			good++
		case Unverified:
			unverified++
		case Interrupted:
			if errors.Is(cause, ErrTerminated) {
				return ExitTerminated
			}
			return ExitInterrupted
		}
	}
	switch {
	case good == len(last.Lanes):
		return ExitGood
	case good+unverified == 0:
		return ExitNoneGood
	case good+unverified < len(last.Lanes):
		return ExitSomeFailed
	}
	return ExitUnverified
}

func reasonOf(err error) verify.Reason {
	var r interface{ Reason() string }
	if errors.As(err, &r) {
		return verify.Reason(r.Reason())
	}
	return ""
}

// Watch returns a channel of snapshots. One that is not taken in time is replaced
// by a newer one, except the last, which has Done; after it, or when ctx is done,
// the channel is closed.
func (s *Station) Watch(ctx context.Context) <-chan Snapshot {
	mail, out := make(chan Snapshot, 1), make(chan Snapshot)
	s.mu.Lock()
	if !s.last.Time.IsZero() {
		mail <- s.last
	}
	s.watchers[mail] = struct{}{}
	s.mu.Unlock()
	go func() {
		defer close(out)
		defer func() {
			s.mu.Lock()
			delete(s.watchers, mail)
			s.mu.Unlock()
		}()
		for {
			select {
			case snap := <-mail:
				select {
				case out <- snap:
				case <-ctx.Done():
					return
				}
				if snap.Done {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Now returns the newest snapshot.
func (s *Station) Now() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *Station) publish(snap Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over && !snap.Done {
		return
	}
	s.last = snap
	for w := range s.watchers {
		select {
		case <-w:
		default:
		}
		w <- snap
	}
}
