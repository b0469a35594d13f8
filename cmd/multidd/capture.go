package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"multidd/internal/codec"
	"multidd/internal/device"
	"multidd/internal/image"
	"multidd/internal/station"
)

// captureOptions are what `multidd capture` was asked for.
type captureOptions struct {
	card, image string
	stdout      bool // the image goes to standard output

	asJSON, plain, force, allowBad  bool
	format, dirty, verify, blocks   string
	mapFile                         string
	level, retries                  int
	stallLimit                      time.Duration
	shrink                          shrinking
	packing                         codec.Format // what format makes of it
	partial, partialMap, formatNote string
}

func newCapture(c console) *cobra.Command {
	var o captureOptions
	cmd := &cobra.Command{
		Use:   "capture [flags] CARD IMAGE",
		Short: "Make a small image of a card: only what is used, packed, proved",
		Long: `Read a card, or a file that stands for one, into an image: only what its
partition table and file systems use. What is free becomes holes, and reads as
zeros when the image is unpacked. Beside the image come its map (.bmap, as
bmaptool reads it) and its checksums (.sha256).

CARD is a device (/dev/sdb), a link to one, a slot as 'multidd devices' shows
it, or a file. It is only read. It must not be mounted, unless read-only.

IMAGE is a file that is not there yet, or - for standard output. Its ending says
how it is packed: .bz2 .gz .xz .zst .lz4, or not at all for .img .raw .bin .dd
.iso; any other name is packed as zst, which can be read from any place. It
appears under its name only when it is complete and has been read back.

A file system that was not cleanly unmounted cannot say what is free. The card
is refused then; --dirty=whole keeps every block of such a partition.

What cannot be read is tried again in smaller pieces, after all the rest. If
something is left, no image is made: what could be read is kept in IMAGE.partial
and IMAGE.map (which GNU ddrescue reads, too), and --map=IMAGE.map goes on from
there, with another reader perhaps. --allow-bad makes an image all the same,
with zeros in those places, which are listed.

Memory: at most 128 MiB, whatever the card; unless a high --level of xz or zst
needs more.

Ctrl-C ends it, and leaves nothing but what --map keeps. SIGUSR1 prints how far
it is.

Exit status: 0 captured and proved; 1 another error, such as a full disk; 2 the
command line is wrong; 3 an image was made with bad places in it (--allow-bad);
4 the card could not be captured; 5 refused, nothing was made; 6 the image read
back wrong; 7 a permission is missing; 10 captured but not proved
(--verify=none); 130 interrupted by Ctrl-C; 143 by SIGTERM.`,
		Example: `  multidd capture /dev/sdb moz-ref-v2.img.bz2
  multidd capture --verify=card 1-2.3 moz-ref-v2.img.zst
  multidd capture --shrink /dev/sdb small.img.zst    for cards of any size
  multidd capture --map=old.map /dev/sdb old.img.xz  a worn card: go on with it
  multidd capture --format=bz2 /dev/sdb - | ssh host 'cat > x.img.bz2'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 3 && o.shrink.asked && new(shrinking).Set(args[0]) == nil {
				return fmt.Errorf("capture: the room of --shrink is said with '=': --shrink=%s", args[0])
			}
			if len(args) != 2 {
				return errors.New("capture: name a card and the image to make of it; 'multidd devices' lists the cards")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.card, o.image = args[0], args[1]
			o.stdout = o.image == "-"
			return runCapture(c, &o, cmd.Flags().Changed("verify"))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.format, "format", "", "how the image is packed, `raw|bz2|gz|xz|zst|lz4` (default: as its name ends, else zst)")
	f.IntVar(&o.level, "level", 0, "how hard to pack, a `NUMBER` from 1 to 9, zst to 19 (default: what is usual for the format)")
	f.StringVar(&o.blocks, "blocks", "used", "keep what is used, or every byte of the card, `used|all`")
	f.StringVar(&o.dirty, "dirty", "refuse", "what to do about a file system that was not cleanly unmounted, `refuse|whole`: refuse the card, or keep the whole partition")
	f.StringVar(&o.verify, "verify", "image", "what is read back, `image|card|none`: the image, or the card once more as well; with none the exit status is 10 at best")
	o.shrink.add(cmd)
	f.StringVar(&o.mapFile, "map", "", "keep what is read in IMAGE.partial from the beginning, with `FILE` as its map, and go on with both if they are there (default: only when there are bad places)")
	f.BoolVar(&o.allowBad, "allow-bad", false, "make an image even if some of the card cannot be read; it has zeros there")
	f.IntVar(&o.retries, "retries", 1, "how many `TIMES` all that cannot be read is tried once more")
	f.BoolVar(&o.force, "force", false, "overwrite an image that is there")
	f.DurationVar(&o.stallLimit, "stall-limit", 5*time.Minute, "longest `TIME` without an answer before the card is given up")
	f.BoolVar(&o.asJSON, "json", false, "one JSON event a line on standard output")
	f.BoolVar(&o.plain, "plain", false, "plain lines even on a terminal")
	return cmd
}

// check finds what is wrong with the flags, and works out the rest.
func (o *captureOptions) check(c console, verifySaid bool) error {
	for _, x := range []struct {
		flag, value string
		words       []string
	}{
		{"dirty", o.dirty, []string{"refuse", "whole"}},
		{"verify", o.verify, []string{"image", "card", "none"}},
		{"blocks", o.blocks, []string{"used", "all"}},
		{"format", o.format, []string{"", "raw", "bz2", "gz", "xz", "zst", "lz4"}},
	} {
		if !slices.Contains(x.words, x.value) {
			return quit(station.ExitUsage, "--%s=%s: it is one of %s", x.flag, x.value, strings.TrimPrefix(strings.Join(x.words, ", "), ", "))
		}
	}
	switch {
	case o.retries < 0:
		return quit(station.ExitUsage, "--retries=%d: it is 0 or more", o.retries)
	case o.stallLimit < time.Second:
		return quit(station.ExitUsage, "--stall-limit=%v: it is a second or more", o.stallLimit)
	case o.shrink.asked && o.blocks == "all":
		return quit(station.ExitUsage, "--shrink leaves out what is free, and --blocks=all keeps it: say one of them")
	case o.shrink.asked && o.verify == "card":
		return quit(station.ExitUsage, "an image that was shrunk is not what is on the card, so that the card cannot be compared with it: say --verify=image")
	case o.card == "-":
		return quit(station.ExitUsage, "a card cannot come from standard input, since it is not read from end to end")
	case o.stdout && o.asJSON:
		return quit(station.ExitUsage, "standard output takes the image, so that there is no place for --json")
	case o.stdout && o.mapFile != "":
		return quit(station.ExitUsage, "--map goes on with an image that is kept as a file, which standard output is not; name a file")
	case o.stdout && term.IsTerminal(int(c.out.Fd())):
		return quit(station.ExitUsage, "an image is nothing for a terminal; name a file, or send standard output elsewhere")
	case o.stdout && o.verify == "image" && verifySaid:
		return quit(station.ExitUsage, "what went to standard output cannot be read back; say --verify=card or none")
	}
	if o.stdout && o.verify == "image" {
		o.verify = "none"
	}
	o.choose()
	if o.packing == codec.Zip {
		return quit(station.ExitUsage, "images are not packed as zip; name it .zst, .xz, .gz, .bz2 or .lz4, or say --format")
	}
	most := 9
	if o.packing == codec.Zstd {
		most = 19
	}
	if o.level < 0 || o.level > most {
		return quit(station.ExitUsage, "--level=%d: for %s it is 1 to %d", o.level, o.packing, most)
	}
	return nil
}

// choose works out the format and the names of the files beside the image.
func (o *captureOptions) choose() {
	o.packing = codec.Format(o.format)
	if o.format == "" {
		o.packing = image.FormatFor(o.image)
		if o.packing == codec.Zstd && codec.ByName(o.image) != codec.Zstd && !o.stdout {
			o.formatNote = fmt.Sprintf("the name %s does not say how to pack, so it is packed as zst", o.image)
		}
	}
	beside := o.image
	if o.stdout {
		beside = filepath.Join(os.TempDir(), fmt.Sprintf("multidd-%d", os.Getpid()))
	}
	o.partial, o.partialMap = beside+".partial", beside+".map"
	if o.mapFile != "" {
		o.partialMap = o.mapFile
	}
}

// place looks whether the image can be made where it is to be: that nothing is
// overwritten, and not the card by its own image.
func (o *captureOptions) place() error {
	if o.stdout {
		return nil
	}
	if inDev(o.image) {
		return quit(station.ExitRefused, "%s is below /dev, where no image is made; name another place", o.image)
	}
	fi, err := os.Stat(o.image)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if dir, err := os.Stat(filepath.Dir(o.image)); err != nil || !dir.IsDir() {
			return quit(station.ExitUsage, "there is no directory for %s; make it first", o.image)
		}
	case err != nil:
		return &exitError{station.ExitError, err}
	case !fi.Mode().IsRegular():
		return quit(station.ExitRefused, "%s is not a plain file; name another", o.image)
	case o.isCard(fi):
		return quit(station.ExitRefused, "%s is what is to be captured; name another file for the image", o.image)
	}
	return o.placePartial()
}

func (o *captureOptions) isCard(fi fs.FileInfo) bool {
	card, err := os.Stat(o.card)
	return err == nil && os.SameFile(card, fi)
}

// placePartial looks for what an earlier run left.
func (o *captureOptions) placePartial() error {
	_, err := os.Lstat(o.partial)
	if err != nil || o.mapFile != "" {
		return nil
	}
	if !o.force {
		return quit(station.ExitRefused, "%s is left from an earlier try; say --map=%s to go on with it, or --force to begin anew", o.partial, o.partialMap)
	}
	if err := os.Remove(o.partial); err != nil {
		return &exitError{station.ExitError, err}
	}
	return nil
}

// runCapture is `multidd capture`. With --json, one that does not come to begin has its
// last line all the same.
func runCapture(c console, o *captureOptions, verifySaid bool) error {
	if err := o.check(c, verifySaid); err != nil {
		return err
	}
	if !isWorker() {
		status, err := supervise(os.Args[1:])
		if err != nil && status > 128 {
			err = fmt.Errorf("the worker was ended by %v: no image was made", syscall.Signal(status-128))
		}
		return &exitError{status, err}
	}
	r := &captureRun{c: c, o: o, begin: time.Now()}
	err := r.run()
	var e *exitError
	if o.asJSON && !r.begun && errors.As(err, &e) && e.status != station.ExitGood {
		_ = endCaptureJSON(c, e) // the exit status says it too
	}
	return err
}

// openCard opens the card for reading.
func openCard(o *captureOptions) (*device.Source, error) {
	src, err := device.System{}.OpenSource(o.card, device.Options{})
	var e *device.Error
	switch {
	case err == nil:
		return src, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, &exitError{station.ExitPermission, err}
	case errors.As(err, &e) && e.Reason() != "":
		return nil, quit(station.ExitRefused, "%s is refused: %v [%s]", o.card, err, e.Reason())
	}
	return nil, &exitError{station.ExitError, err}
}
