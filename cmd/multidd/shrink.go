package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"multidd/internal/block"
	"multidd/internal/dd"
	"multidd/internal/resize"
	"multidd/internal/station"
	"multidd/internal/volume"
)

// A shrinking is the flag --shrink[=ROOM], and what came of it.
type shrinking struct {
	asked bool
	room  int64             // bytes; negative: as much as is good
	done  *resize.Shrinkage // nil: nothing was shrunk yet
}

// add gives a command the flag.
func (s *shrinking) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(s, "shrink", "make the last partition, with its ext2, ext3 or ext4 file system, as small as it goes, and `ROOM` larger (default: a twentieth, and at least 64M)")
	f.Lookup("shrink").NoOptDefVal = "default"
}

// String, Set and Type make it a flag's value.
func (s *shrinking) String() string {
	switch {
	case !s.asked:
		return ""
	case s.room < 0:
		return "default"
	}
	return fmt.Sprint(s.room)
}

// Set takes a size, or "default".
func (s *shrinking) Set(text string) error {
	s.asked, s.room = true, -1
	if text == "default" {
		return nil
	}
	var err error
	s.room, err = dd.ParseSize(text)
	return err
}

// Type is what the help calls the value.
func (s *shrinking) Type() string { return "ROOM" }

// check returns an error if it is known beforehand that it will not be possible: the
// disk is the card's, nil if nobody knows what is on it.
func (s *shrinking) check(d *volume.Disk) error {
	switch {
	case !s.asked:
		return nil
	case d == nil:
		return quit(station.ExitRefused, "--shrink: it is not known what is on the card, because its tables cannot be read")
	}
	if err := resize.CanShrink(d); err != nil {
		return shrinkError(err)
	}
	return nil
}

// rework is a capture.Options.Rework that shrinks the raw image; nil if nobody asked
// for it.
func (s *shrinking) rework() func(ctx context.Context, path string) (block.Map, error) {
	if !s.asked {
		return nil
	}
	return func(ctx context.Context, path string) (block.Map, error) {
		var err error
		if s.done, err = resize.Shrink(ctx, path, s.room); err != nil {
			return block.Map{}, shrinkError(err)
		}
		f, err := os.Open(path)
		if err != nil {
			return block.Map{}, fmt.Errorf("look at the smaller image: %w", err)
		}
		defer f.Close()
		d, err := volume.Look(f, s.done.Size)
		if err != nil {
			return block.Map{}, fmt.Errorf("look at the smaller image: %w", err)
		}
		return d.Map(), nil
	}
}

// notes returns what people should know of it, in sentences.
func (s *shrinking) notes() []string {
	d := s.done
	if d == nil {
		return nil
	}
	what := "the file system"
	if d.Number > 0 {
		what = fmt.Sprintf("the file system in partition %d", d.Number)
	}
	said := fmt.Sprintf("%s has %s instead of %s, and the image needs a card of %d bytes", what, station.Amount(d.To), station.Amount(d.From), d.Size)
	if d.Size == d.Before {
		said = "--shrink has found nothing to take away"
	}
	return append([]string{said}, d.Notes...)
}

// shrinkError returns an error of --shrink with its exit status.
func shrinkError(err error) error {
	status := station.ExitError
	switch {
	case errors.As(err, new(*resize.Refusal)):
		status = station.ExitRefused
	case errors.As(err, new(*resize.Missing)):
		status = station.ExitPermission
	}
	return &exitError{status, fmt.Errorf("--shrink: %w", err)}
}
