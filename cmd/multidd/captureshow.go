package main

import (
	"os"
	"time"

	"golang.org/x/term"

	"multidd/internal/tui"
)

// now is how the capture stands.
func (r *captureRun) now() tui.Capturing {
	r.mu.Lock()
	s := r.look
	s.Warnings = s.Warnings[:len(s.Warnings):len(s.Warnings)]
	r.mu.Unlock()
	s.Time, s.Elapsed, s.State = time.Now(), time.Since(r.begin), r.engine.State()
	s.Image.Packed = r.image.Packed()
	return s
}

// out is where people are told how it goes.
func (r *captureRun) out() *os.File {
	if r.o.stdout {
		return r.c.err
	}
	return r.c.out
}

func (r *captureRun) onScreen() bool {
	return !r.o.asJSON && !r.o.plain && term.IsTerminal(int(r.out().Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
}

// show begins to show the capture. The function that it returns shows the end.
func (r *captureRun) show() func(end tui.Capturing) error {
	r.begun = true
	out, table := r.out(), tui.OptionsFor(r.out())
	var shower interface{ Show(tui.Capturing) error }
	switch {
	case r.o.asJSON:
		shower = &tui.CaptureJSON{W: out}
	case r.onScreen():
		shower = &tui.CaptureLine{W: out, O: table, Width: func() int {
			if w, _, err := term.GetSize(int(out.Fd())); err == nil {
				return w
			}
			return 80
		}}
	default:
		shower = &tui.CapturePlain{W: out}
	}
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		var failed error
		for {
			if failed == nil {
				failed = shower.Show(r.now())
			}
			select {
			case <-tick.C:
			case <-done:
				ended <- failed
				return
			}
		}
	}()
	return func(end tui.Capturing) error {
		close(done)
		err := <-ended
		if err == nil {
			err = shower.Show(end)
		}
		if err == nil && !r.o.asJSON {
			err = tui.CaptureEnd(out, end, table)
		}
		return err
	}
}
