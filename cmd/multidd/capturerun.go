package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"multidd/internal/block"
	"multidd/internal/capture"
	"multidd/internal/codec"
	"multidd/internal/device"
	"multidd/internal/image"
	"multidd/internal/station"
	"multidd/internal/tui"
	"multidd/internal/volume"
)

// packingMemory is what packing may take, in bytes, and heapMemory what is not in use
// any more is tidied up at; beside it there are the buffers that the card is read into,
// and the program itself. Together that is the bound that the help text tells.
const (
	packingMemory = 64 << 20
	heapMemory    = 96 << 20
)

// A captureRun is one capture from its flags to its exit status.
type captureRun struct {
	c     console
	o     *captureOptions
	begin time.Time
	begun bool // something was shown

	src    *device.Source
	disk   *volume.Disk // nil: its tables cannot be read
	engine *capture.Capture
	image  *image.Writer

	mu   sync.Mutex
	look tui.Capturing // guarded by mu: what does not come from the engine
}

func (r *captureRun) run() (err error) {
	debug.SetMemoryLimit(heapMemory)
	ctx, stop := onSignals(context.Background(), func() {
		if r.engine != nil && !r.onScreen() {
			fmt.Fprintln(r.c.err, tui.CaptureProgress(r.now()))
		}
	})
	defer stop()
	if err := r.o.place(); err != nil {
		return err
	}
	if r.src, err = openCard(r.o); err != nil {
		return err
	}
	defer r.src.Close()
	if err := r.create(); err != nil {
		return err
	}
	defer r.image.Abort()
	options, err := r.plan(ctx)
	if err != nil {
		return r.verdict(ctx, err)
	}
	r.describe(options)
	r.engine = capture.New(r.src, options)
	stopShowing := r.show()
	err = r.capture(ctx)
	kept, closeErr := r.engine.Close(err)
	end := r.end(ctx, err, kept)
	if err := errors.Join(stopShowing(end), closeErr); err != nil && end.Status == station.ExitGood {
		return &exitError{station.ExitError, err}
	}
	if end.Message != "" {
		return quit(end.Status, "%s", end.Message)
	}
	return &exitError{end.Status, nil}
}

// create begins the image, under a temporary name.
func (r *captureRun) create() (err error) {
	r.image, err = image.Create(r.o.image, image.CreateOptions{
		Format: r.o.packing, Pack: codec.WriteOptions{Level: r.o.level, Memory: packingMemory}, Digest: true, Force: r.o.force, Stdout: r.c.out,
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		return &exitError{station.ExitRefused, err}
	case errors.Is(err, fs.ErrPermission):
		return &exitError{station.ExitPermission, err}
	}
	return &exitError{station.ExitError, err}
}

// plan finds out what is to be read.
func (r *captureRun) plan(ctx context.Context) (capture.Options, error) {
	o := capture.Options{
		Map: block.Whole(r.src.Size()), Sector: r.src.Sector(), Retries: r.o.retries, AllowBad: r.o.allowBad,
		Partial: r.o.partial, MapFile: r.o.partialMap, StallLimit: r.o.stallLimit,
		Comments: []string{"of " + r.o.card + ", captured by multidd from " + time.Now().Format(time.RFC3339) + " on"},
	}
	if err := r.resume(&o); err != nil {
		return o, err
	}
	disk, err := capture.Look(ctx, r.src, r.src.Size(), r.o.stallLimit)
	switch {
	case capture.IsBadPlace(err):
		r.warn("what is used cannot be found out, so every byte is read: %v", err)
	case err != nil:
		return o, err
	default:
		r.disk = disk
		if r.o.blocks == "used" {
			o.Map = disk.Map()
		}
		for _, p := range disk.Parts {
			o.Telling = append(o.Telling, block.Extent{Off: p.Off, Len: min(p.Len, 64<<10)})
		}
		if err := r.judge(disk); err != nil {
			return o, err
		}
	}
	if err := r.o.shrink.check(r.disk); err != nil {
		return o, err
	}
	o.Rework = r.o.shrink.rework()
	return o, r.room(o.Map.Bytes())
}

// resume reads the map file of an earlier run, if --map names one.
func (r *captureRun) resume(o *capture.Options) error {
	if r.o.mapFile == "" {
		return nil
	}
	o.Keep = true
	f, err := os.Open(r.o.mapFile)
	_, perr := os.Stat(r.o.partial)
	switch {
	case errors.Is(err, fs.ErrNotExist) && perr == nil && !r.o.force:
		return quit(station.ExitRefused, "%s is left from an earlier try, but its map %s is not there; say which it is, or --force to begin anew", r.o.partial, r.o.mapFile)
	case errors.Is(err, fs.ErrNotExist) && perr == nil:
		return os.Remove(r.o.partial)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer f.Close()
	if perr != nil {
		return quit(station.ExitRefused, "%s says what was read into %s, and that is not there; delete the map to begin anew", r.o.mapFile, r.o.partial)
	}
	if o.Resume, err = capture.ParseMapfile(f); err != nil {
		return quit(station.ExitRefused, "%s cannot be gone on with: %w", r.o.mapFile, err)
	}
	return nil
}

// judge refuses a card with a file system that cannot say what is free, unless all of
// that is kept, and tells what else there is to know.
func (r *captureRun) judge(disk *volume.Disk) error {
	for _, w := range disk.Warnings {
		r.warn("%s", w)
	}
	if r.o.blocks == "all" {
		return nil
	}
	dirty := disk.Dirty()
	for _, p := range dirty {
		if r.o.dirty == "whole" {
			r.warn("%s: %s, so every block of it is kept", r.partition(p), p.FS.Why)
		}
	}
	if len(dirty) > 0 && r.o.dirty == "refuse" {
		p := dirty[0]
		return quit(station.ExitRefused, "%s cannot say what of it is free: %s. Mount and unmount it, or repair it (%s), or say --dirty=whole to keep every block of it; nothing was made [dirty]",
			r.partition(p), p.FS.Why, repair(p, r.node(p)))
	}
	for _, p := range disk.Parts {
		if p.FS != nil && p.FS.State == volume.Unknown && p.FS.Why != "" {
			r.warn("%s: %s, so every block of it is kept", r.partition(p), p.FS.Why)
		}
	}
	return nil
}

// partition names a partition for people.
func (r *captureRun) partition(p volume.Part) string {
	kind, label := p.FS.Kind, ""
	if p.FS.Label != "" {
		label = fmt.Sprintf(" %q", station.Clean(p.FS.Label))
	}
	if p.Number == 0 {
		return fmt.Sprintf("%s (%s%s)", r.src.Disk().Path, kind, label)
	}
	return fmt.Sprintf("partition %d of %s (%s%s)", p.Number, r.src.Disk().Path, kind, label)
}

// node returns the path of a partition's device, "" if the card is a file.
func (r *captureRun) node(p volume.Part) string {
	d := r.src.Disk()
	switch {
	case d.Bus == device.BusFile:
		return ""
	case p.Number == 0:
		return d.Path
	case strings.ContainsAny(d.Name[len(d.Name)-1:], "0123456789"):
		return fmt.Sprintf("%sp%d", d.Path, p.Number)
	}
	return fmt.Sprintf("%s%d", d.Path, p.Number)
}

// repair returns the command that repairs a file system.
func repair(p volume.Part, node string) string {
	program := "fsck"
	switch {
	case strings.HasPrefix(p.FS.Kind, "ext"):
		program = "e2fsck -f"
	case strings.HasPrefix(p.FS.Kind, "fat"):
		program = "fsck.vfat -a"
	case p.FS.Kind == "exfat", p.FS.Kind == "f2fs":
		program = "fsck." + p.FS.Kind
	case p.FS.Kind == "btrfs":
		program = "btrfs check"
	}
	return strings.TrimSpace(program + " " + node)
}

// room makes sure that there is room for what is known to be needed.
func (r *captureRun) room(used int64) error {
	var s syscall.Statfs_t
	needed := used
	partial := r.o.mapFile != "" || r.o.shrink.asked
	if r.o.stdout || r.o.packing != codec.Raw && !partial {
		return nil // nobody knows how small it gets
	}
	if r.o.packing == codec.Raw && partial || r.o.shrink.asked {
		needed *= 2
	}
	if fi, err := os.Stat(r.o.partial); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			needed -= st.Blocks * 512
		}
	}
	dir := filepath.Dir(r.o.image)
	if err := syscall.Statfs(dir, &s); err != nil {
		return nil
	}
	if free := int64(s.Bavail) * s.Bsize; free < needed {
		why := "make room, or name another place"
		if r.o.packing == codec.Raw {
			why = "make room, name another place, or have it packed"
		}
		return quit(station.ExitError, "there is no room for the image: %d bytes are needed and %s has %d; %s", needed, dir, free, why)
	}
	return nil
}

// describe fills in what is shown of the card and the image.
func (r *captureRun) describe(o capture.Options) {
	d := r.src.Disk()
	if r.o.formatNote != "" {
		r.warn("%s", r.o.formatNote)
	}
	if !r.src.Direct() {
		r.warn("the card can only be read through the page cache, which was dropped before")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look.Card = tui.CaptureCard{Slot: d.Slot, Device: d.Path, Model: strings.TrimSpace(d.Vendor + " " + d.Model), Serial: d.Serial, Size: d.Size}
	r.look.Image = tui.CaptureImage{Name: r.o.image, Format: string(r.o.packing), Used: o.Map.Bytes()}
	if r.o.stdout {
		r.look.Image.Name = "standard output"
	}
}

func (r *captureRun) warn(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look.Warnings = append(r.look.Warnings, fmt.Sprintf(format, args...))
}

// capture makes the image, up to its name.
func (r *captureRun) capture(ctx context.Context) (err error) {
	w := r.image
	if err := r.engine.Run(ctx, sink{w}); err != nil {
		return err
	}
	size := r.engine.Map().Size
	for _, n := range r.o.shrink.notes() {
		r.warn("%s", n)
	}
	r.engine.SetPhase(capture.Finishing)
	temp, err := w.Finish(size)
	if err != nil {
		return err
	}
	if err := r.prove(ctx, temp); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	made, err := w.Close(size)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look.Image.SHA256 = made.Image
	if !r.o.stdout {
		r.look.Image.Files = append([]string{made.Path}, made.Beside...)
	}
	return nil
}

// A sink gives blocks to an image.
type sink struct{ w *image.Writer }

func (s sink) Write(b block.Block) error {
	defer b.Release()
	_, err := s.w.WriteAt(b.Data, b.Off)
	return err
}

// prove proves what was made, as far as that is wanted.
func (r *captureRun) prove(ctx context.Context, temp string) error {
	if r.o.verify == "none" {
		return nil
	}
	if !r.o.stdout {
		if err := r.proveImage(ctx, temp); err != nil {
			return err
		}
	}
	if r.o.verify == "card" {
		return r.engine.ProveCard(ctx)
	}
	return nil
}

// proveImage reads the image back from the disk and compares it with what was read of
// the card.
func (r *captureRun) proveImage(ctx context.Context, temp string) error {
	f, err := os.Open(temp)
	if err != nil {
		return fmt.Errorf("read the image back: %w", err)
	}
	defer f.Close()
	_ = device.DropCache(f) // it is worth less without, and that is all
	unpacked, err := codec.NewReader(f, r.o.packing, codec.ReadOptions{Memory: 1 << 30, Ahead: decodeAhead})
	if err != nil {
		return &capture.MismatchError{What: "it cannot be unpacked: " + err.Error()}
	}
	defer unpacked.Close()
	err = r.engine.ProveImage(ctx, unpacked)
	var bad *codec.Error
	if errors.As(err, &bad) {
		return &capture.MismatchError{Off: bad.Offset, What: "it cannot be unpacked: " + bad.Error()}
	}
	return err
}

// end is how the capture ended.
func (r *captureRun) end(ctx context.Context, err error, kept bool) tui.Capturing {
	s := r.now()
	s.Ended, s.Took, s.Status = true, s.Elapsed, captureStatus(ctx, err)
	s.Image.Verified = r.o.verify
	for _, e := range r.engine.Bad() {
		s.Bad = append(s.Bad, tui.CaptureRange{Off: e.Off, Len: e.Len})
	}
	switch {
	case err != nil:
		s.Reason, s.Message = string(capture.Reason(err)), r.sentence(err, kept)
		if s.Status == station.ExitInterrupted || s.Status == station.ExitTerminated {
			s.Reason = "interrupted"
		}
	case len(s.Bad) > 0:
		s.Status, s.Reason = station.ExitSomeFailed, "read-eio"
	case r.o.verify == "none":
		s.Status = station.ExitUnverified
	}
	return s
}

// sentence says what went wrong, and how to go on.
func (r *captureRun) sentence(err error, kept bool) string {
	s := fmt.Sprintf("no image of %s was made: %s", r.o.card, station.Clean(err.Error()))
	if reason := capture.Reason(err); reason != "" {
		s += " [" + string(reason) + "]"
	}
	var bad *capture.BadError
	switch {
	case errors.As(err, &bad) && r.o.stdout:
		s += "; name a file for the image, so that another try can go on from there, or say --allow-bad to have zeros in those places"
	case errors.As(err, &bad):
		s += fmt.Sprintf(". What could be read is in %s. Try it again, in another reader if you can, with --map=%s; or say --allow-bad as well, to have zeros in those places", r.o.partial, r.o.partialMap)
	case kept:
		s += fmt.Sprintf(". What was read is in %s; go on with --map=%s", r.o.partial, r.o.partialMap)
	case errors.Is(err, syscall.ENOSPC) && !strings.Contains(s, "make room"):
		s += "; make room, or name another place"
	}
	return s
}

// verdict makes the error of a capture that did not come to begin.
func (r *captureRun) verdict(ctx context.Context, err error) error {
	var e *exitError
	if errors.As(err, &e) {
		return e
	}
	return quit(captureStatus(ctx, err), "%s", r.sentence(err, false))
}

// captureStatus returns the exit status for an error.
func captureStatus(ctx context.Context, err error) int {
	var mismatch *capture.MismatchError
	var known *exitError
	switch {
	case err == nil:
		return station.ExitGood
	case ctx.Err() == nil && errors.As(err, &known):
		return known.status
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), station.ErrTerminated):
		return station.ExitTerminated
	case ctx.Err() != nil:
		return station.ExitInterrupted
	case errors.As(err, &mismatch):
		return station.ExitImage
	case capture.Reason(err) != "":
		return station.ExitNoneGood
	case errors.Is(err, fs.ErrPermission):
		return station.ExitPermission
	}
	return station.ExitError
}

// endCaptureJSON writes the last line of a capture that did not begin.
func endCaptureJSON(c console, e *exitError) error {
	return json.NewEncoder(c.out).Encode(map[string]any{
		"schema": tui.Schema, "event": "run-end", "command": "capture", "time": time.Now(), "elapsed_seconds": nil, "exit": e.status, "error": e.Error(), "files": []any{}, "bad_ranges": []any{},
	})
}
