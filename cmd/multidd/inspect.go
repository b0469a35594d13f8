package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"multidd/internal/device"
	"multidd/internal/image"
	"multidd/internal/station"
	"multidd/internal/tui"
)

// inspectOptions are what `multidd inspect` was asked for.
type inspectOptions struct {
	asJSON, digest bool
	store, bmap    string
}

func newInspect(c console) *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect [flags] IMAGE|CARD...",
		Short: "Show what is in an image or on a card",
		Long: `Show what is in images and on cards: the partition table, each partition with
its file system, label and UUID and how much of it is in use, how much a card
would be given, and how long that would take.

IMAGE is as for 'multidd write': a file, raw or packed. CARD is a device, a link
to one, or a slot ('multidd devices' shows them).

A raw image, one in the store and a seekable zst tell all at once. Any other
packed image has to be unpacked to its end, once; nothing of it is kept.

Nothing is ever written, and nothing is mounted.

The exit status is 0 if all could be told, 6 if an image is bad (its digest, its
packing or its map), 7 if a permission is missing, 1 for anything else.`,
		Example: `  multidd inspect master.img.zst
  multidd inspect --digest master.img.bz2
  multidd inspect --json /dev/sdb | jq '.inspected[].partitions'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("inspect: name an image or a card")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runInspect(c, &o, args) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.asJSON, "json", false, "one JSON object instead of a page")
	f.BoolVar(&o.digest, "digest", false, "read all of it: work out its SHA-256, and compare the digests beside it and the checksums of its map")
	f.StringVar(&o.bmap, "bmap", "", "the map of the image, `FILE|none` (default: look beside the image)")
	f.StringVar(&o.store, "store", "", "where unpacked copies are looked for, `DIR|off` (default: multidd/store in the user's cache directory)")
	return cmd
}

// runInspect is `multidd inspect`. A card may hang in the kernel, so it happens in a
// worker.
func runInspect(c console, o *inspectOptions, names []string) error {
	if !isWorker() {
		status, err := supervise(os.Args[1:])
		return &exitError{status, err}
	}
	ctx, stop := onSignals(context.Background(), func() {})
	defer stop()
	status := station.ExitGood
	all := []tui.Inspection{}
	for i, name := range names {
		in, err := inspect(ctx, c, o, name)
		if ctx.Err() != nil {
			return &exitError{station.ExitInterrupted, nil}
		}
		if err != nil {
			in.Error = station.Clean(err.Error())
			if status == station.ExitGood {
				status = inspectStatus(err)
			}
		}
		if o.asJSON {
			all = append(all, in)
			continue
		}
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		if err := tui.Inspect(c.out, in, tui.OptionsFor(c.out)); err != nil {
			return &exitError{station.ExitError, err}
		}
	}
	if o.asJSON {
		if err := inspectJSON(c, all); err != nil {
			return &exitError{station.ExitError, err}
		}
	}
	return &exitError{status, nil}
}

func inspectJSON(c console, all []tui.Inspection) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Schema    int              `json:"schema"`
		Inspected []tui.Inspection `json:"inspected"`
	}{1, all})
}

// inspectStatus returns the exit status of an error.
func inspectStatus(err error) int {
	var bad *image.Error
	switch {
	case errors.Is(err, fs.ErrPermission):
		return station.ExitPermission
	case errors.As(err, &bad):
		return station.ExitImage
	}
	return station.ExitError
}

// inspect finds out about one image or card. With an error, what was found out up to
// there is returned, too.
func inspect(ctx context.Context, c console, o *inspectOptions, name string) (tui.Inspection, error) {
	ins := &inspector{c: c, o: o, path: name}
	ins.out = tui.Inspection{
		Name: station.Clean(name), Packed: -1, Size: -1, Used: -1,
		Parts: []tui.InspectedPart{}, Digests: []tui.InspectedDigest{}, Write: []tui.InspectedTime{}, Warnings: []string{},
	}
	if err := ins.find(); err != nil {
		return ins.out, err
	}
	err := ins.look(ctx)
	ins.sum()
	return ins.out, err
}

// findCard finds out whether a name is that of a card, and of which.
func findCard(name string) (d device.Disk, ok bool, err error) {
	if name == "-" {
		return d, false, nil
	}
	if fi, err := os.Stat(name); err == nil && fi.Mode()&fs.ModeDevice == 0 {
		return d, false, nil // a file
	} else if errors.Is(err, fs.ErrPermission) {
		return d, false, err
	}
	d, err = device.System{}.Find(name)
	switch {
	case err != nil:
		return d, false, err
	case d.Bus == device.BusFile && d.Size <= 0:
		return d, false, fmt.Errorf("there is no image and no card %s", name)
	case d.Bus == device.BusFile:
		return d, false, nil
	case d.Size == 0:
		return d, false, fmt.Errorf("there is no card in slot %s (%s); put one in", d.Slot, d.Path)
	}
	return d, true, nil
}

// find finds out whether the name is that of a card.
func (ins *inspector) find() error {
	d, ok, err := findCard(ins.path)
	if err != nil || !ok {
		return err
	}
	ins.path = d.Path
	ins.out.Device = station.Clean(fmt.Sprintf("%s in slot %s", d.Path, d.Slot))
	if d.Slot == d.Name || d.Slot == d.Path {
		ins.out.Device = station.Clean(d.Path)
	}
	if model := station.Clean(d.Model); model != "" {
		ins.out.Device += ", " + model
	}
	for _, r := range (device.System{}).JudgeSource(d) {
		if r.Reason == device.ReasonMounted || r.Reason == device.ReasonSystemDisk {
			ins.warn("What is shown may be half old and half new: %s.", r.Text)
		}
	}
	return nil
}

func (ins *inspector) warn(format string, args ...any) {
	ins.out.Warnings = append(ins.out.Warnings, station.Clean(fmt.Sprintf(format, args...)))
}
