// Package tui shows a run to the people at a terminal and to the programs that
// read along: a full screen, plain lines, JSON lines, a final table, and the one
// line that SIGUSR1 asks for. It draws station.Snapshot and nothing else; it
// never looks at a clock, a card or an image itself.
//
// What is drawn is computed from a snapshot alone (frame.go, row.go, table.go,
// plain.go, events.go); only screen.go talks to a terminal.
package tui

import (
	"context"
	"errors"

	"multidd/internal/station"
)

// A Station is a run to be shown.
type Station interface {
	// Watch gives snapshots of the run, a few each second. Each says everything,
	// so that a slow reader may miss some, but never the last one, which has Done;
	// after it the channel is closed. It is closed early when ctx ends. A reader
	// that does not read never holds the run up.
	Watch(ctx context.Context) <-chan station.Snapshot
	// Interrupt ends every lane that has no verdict yet. It does not wait for that.
	Interrupt()
}

// ErrAbandoned is returned by Screen when somebody pressed Ctrl-C a second time:
// the run has not come to its end, and the program is to end all the same.
var ErrAbandoned = errors.New("left before the run had ended")

// errNoEnd says that a station broke its word.
var errNoEnd = errors.New("the run went away without a last word about its cards")

// follow calls show with every snapshot until the run is done. An error of show
// does not end the run: the rest of the snapshots is let go by, and the error is
// returned at the end. When ctx ends first, its cause is returned.
func follow(ctx context.Context, s Station, show func(station.Snapshot) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	snaps := s.Watch(ctx)
	var failed error
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case snap, ok := <-snaps:
			switch {
			case !ok && ctx.Err() != nil:
				return context.Cause(ctx)
			case !ok:
				return errNoEnd
			case failed == nil:
				failed = show(snap)
			}
			if snap.Done {
				return failed
			}
		}
	}
}
