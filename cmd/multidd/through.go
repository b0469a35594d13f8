package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/term"

	"multidd/internal/block"
	"multidd/internal/image"
	"multidd/internal/tui"
)

// readThrough reads an image to its end and has see look at every block; a terminal
// is shown how far it is, of a file of so many bytes (-1: not known). What the image
// proves about itself has been proved when it returns without an error. The Reader
// tells what it found out.
func readThrough(ctx context.Context, c console, im *image.Image, packed int64, see func(block.Block)) (*image.Reader, error) {
	pool := block.NewPool(image.Held+4, 1<<20)
	defer pool.Close()
	r := im.Reader(pool, 0)
	defer r.Close()
	defer showPassing(c, r, packed)()
	for {
		b, err := r.Next(ctx)
		if err == io.EOF {
			return r, nil
		}
		if err != nil {
			return r, err
		}
		see(b)
		b.Release()
	}
}

// showPassing shows on a terminal how far a Reader has come, until done is called.
func showPassing(c console, r *image.Reader, packed int64) (done func()) {
	if !term.IsTerminal(int(c.err.Fd())) {
		return func() {}
	}
	begin, quit, ended := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s := r.Stats()
				fmt.Fprintf(c.err, "\r\x1b[K%s", tui.Passing(s.Input, packed, s.Decoded, time.Since(begin)))
			case <-quit:
				fmt.Fprint(c.err, "\r\x1b[K")
				return
			}
		}
	}()
	return func() { close(quit); <-ended }
}
