package main

import (
	"context"
	"errors"
	"fmt"

	"multidd/internal/block"
	"multidd/internal/duplicate"
	"multidd/internal/image"
	"multidd/internal/overlay"
	"multidd/internal/resize"
	"multidd/internal/station"
	"multidd/internal/volume"
)

// An expansion is how the last partition of the image grows on cards of some sizes.
// nil: it stays as it is.
type expansion struct {
	sizes map[int64]*resize.Growth // by the size of the card in bytes
	laid  map[int64]*overlay.Overlay
	notes []string
}

// planExpanded is planWrite. If the last partition is to grow, the image must be one
// that can be read at any place: of one that has to be unpacked from its beginning
// a copy is made in the store first, unless the targets are refused anyway. The image
// that is returned takes the place of the other, which has been closed then.
func planExpanded(ctx context.Context, c console, o *writeOptions, im *image.Image) (*image.Image, *station.Plan, *fit, error) {
	plan, fit, err := planWrite(ctx, o, im)
	if err != nil {
		return im, nil, nil, err
	}
	_, anywhere := im.ReaderAt()
	switch {
	case !o.expand || anywhere || len(plan.Refused()) > 0:
		return im, plan, fit, nil
	case o.dryRun:
		say(c.err, "how the last partition grows is not shown: the image would have to be unpacked first")
		return im, plan, fit, nil
	}
	plan.Close()
	if im, err = unpack(ctx, c, o, im); err != nil {
		return im, nil, nil, err
	}
	plan, fit, err = planWrite(ctx, o, im)
	return im, plan, fit, err
}

// unpack makes a copy of an image in the store, and opens that.
func unpack(ctx context.Context, c console, o *writeOptions, im *image.Image) (*image.Image, error) {
	if o.stdin || openStore(o) == nil {
		return im, quit(station.ExitError, "--expand: the image has to be unpacked first, and there is no place for that: name a file instead of -, and a store (--store)")
	}
	packed := int64(-1)
	if fi := im.Info(); fi != nil {
		packed = fi.Size()
	}
	_, err := readThrough(ctx, c, im, packed, func(block.Block) {})
	warnings := im.Warnings()
	_ = im.Close()
	if err != nil {
		return im, imageError(err)
	}
	again, err := openImage(ctx, c, o)
	if err != nil {
		return im, err
	}
	if _, ok := again.ReaderAt(); !ok {
		_ = again.Close()
		why := "make room there, or name another (--store)"
		if len(warnings) > 0 {
			why = warnings[len(warnings)-1]
		}
		return im, quit(station.ExitError, "--expand: the image has been unpacked, but the store has not kept it: %s", why)
	}
	return again, nil
}

// expand finds out how the image grows on each of the targets.
func expand(ctx context.Context, im *image.Image, c *contents, targets []station.Target) (*expansion, error) {
	base, _ := im.ReaderAt()
	disk := c.seen()
	if disk == nil { // a bmap says what is used
		var err error
		if disk, err = volume.Look(base, im.Size()); err != nil {
			return nil, imageError(err)
		}
	}
	x := &expansion{sizes: map[int64]*resize.Growth{}, laid: map[int64]*overlay.Overlay{}}
	grower := resize.NewGrower(base, disk, station.MapOf(im), "")
	for _, t := range targets {
		if t.Size <= 0 || len(t.Refusals) > 0 || x.sizes[t.Size] != nil {
			continue
		}
		g, err := grower.Grow(ctx, t.Size)
		if err != nil {
			return nil, expandError(err, t)
		}
		x.sizes[t.Size], x.notes = g, nil
		for _, n := range g.Notes {
			x.notes = append(x.notes, sentenceCase(n)+".")
		}
	}
	return x, nil
}

// expandError returns an error with the exit status that goes with it.
func expandError(err error, t station.Target) error {
	err = fmt.Errorf("--expand on %s, of %d bytes: %w", t.Name, t.Size, err)
	switch {
	case errors.As(err, new(*resize.Refusal)):
		return &exitError{station.ExitRefused, fmt.Errorf("%w; nothing was written", err)}
	case errors.As(err, new(*resize.Missing)):
		return &exitError{station.ExitPermission, err}
	case errors.As(err, new(*resize.Damage)):
		return &exitError{station.ExitImage, err}
	}
	return imageError(err)
}

// imageError returns an error of reading an image with its exit status.
func imageError(err error) error {
	if errors.As(err, new(*image.Error)) {
		return &exitError{station.ExitImage, err}
	}
	return &exitError{station.ExitError, err}
}

// patch returns what differs on a card of size bytes; nil: nothing. Cards of one size
// share it.
func (x *expansion) patch(size int64) (duplicate.Patch, error) {
	if x == nil || x.sizes[size] == nil || len(x.sizes[size].Pieces) == 0 {
		return nil, nil
	}
	if x.laid[size] == nil {
		o, err := overlay.New(x.sizes[size].Pieces)
		if err != nil {
			return nil, err
		}
		x.laid[size] = o
	}
	return x.laid[size], nil
}
