package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"multidd/internal/duplicate"
	"multidd/internal/station"
)

// onSignals returns a context that SIGINT, SIGTERM and SIGHUP cancel, with a
// cause that tells which; a second SIGINT or SIGTERM ends the process at once.
// SIGUSR1 calls show. SIGPIPE is left to those who write: that nobody reads what
// is said any more is no reason to leave cards half-written.
func onSignals(parent context.Context, show func()) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		var last os.Signal
		var at time.Time
		for {
			var s os.Signal
			select {
			case s = <-signals:
			case <-done:
				return
			}
			if s == last && time.Since(at) < sameSignal {
				continue
			}
			last, at = s, time.Now()
			switch {
			case s == syscall.SIGUSR1:
				show()
			case ctx.Err() != nil:
				status := station.ExitInterrupted
				if s == syscall.SIGTERM {
					status = station.ExitTerminated
				}
				leave(status)
			case s == os.Interrupt:
				cancel(duplicate.ErrInterrupted)
			default:
				cancel(station.ErrTerminated)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}
