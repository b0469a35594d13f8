package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"multidd/internal/codec"
	"multidd/internal/dd"
	"multidd/internal/device"
	"multidd/internal/duplicate"
	"multidd/internal/image"
	"multidd/internal/station"
	"multidd/internal/tui"
)

// writeOptions are what `multidd write` was asked for.
type writeOptions struct {
	image   string
	stdin   bool // the image is read from standard input, so nobody can be asked there
	targets []string

	yes, dryRun, asJSON, plain, strict, digest bool
	delta, expand                              bool
	verify, blocks, bmap, free, sha256         string
	verifyAll                                  bool // --verify=full was said, and is not just the default
	store, storeLimit, decoderMemory           string
	rewrites                                   int
	stallLimit                                 time.Duration
	guards                                     guardFlags
	contents                                   contents

	// What check makes of the words above, in bytes.
	decoderBytes, storeBytes int64
	policy                   device.Policy
}

func newWrite(c console) *cobra.Command {
	var o writeOptions
	cmd := &cobra.Command{
		Use:   "write [flags] IMAGE CARD...",
		Short: "Write an image to cards, each at its own speed, each read back",
		Long: `Write an image to any number of cards at once.

IMAGE is a file, raw or packed (bz2, gz, xz, zst, lz4, or zip with one entry;
its content tells, not its name), a device, or - for standard input. Its
checksums are compared on the way, and so is a .sha256 or SHA256SUMS beside it.

Only what is used is written. A .bmap beside the image (as bmaptool makes it)
says what that is; without one the partition table and the file systems inside
do (ext2/3/4, FAT, exFAT and more). What is not understood, or was not cleanly
unmounted, counts as used. What is free stays as it is on the card; see --free.

CARD is a device (/dev/sdb), a link to one (/dev/disk/by-path/…), a slot as
'multidd devices' shows it (a USB port path such as 1-2.3), or a plain file that
stands for a card.

Every card is written at its own speed. Then it is flushed and read back, past
every cache, and compared; bad ranges are rewritten, and everything is read
again. The first MiB goes last, after all else has been proved: a card that
failed or was interrupted does not boot, and looks blank.

With --delta a card is read first, and only what differs from the image is
written: nothing at all to a card that is right. What was written is read back,
and a sample of the rest; with --verify=full, everything.

With --expand the last partition of the image, if it is ext2, ext3 or ext4, and
its file system become as large as each card is.

What would be lost is shown, and asked for once. Disks in use, disks that the
system needs, built-in disks and disks that are too big are refused, each with
its reason. --dry-run shows all that and writes nothing.

A packed image is unpacked once. A copy is kept (see --store), so that a slow
card holds nobody up and the next run starts at once.

Memory: at most 128 MiB for up to 14 cards, 2 MiB more for each further one,
whatever the image.

A SIZE is in bytes or with a suffix, as dd has it: 64M and 64MiB are 64 x 1024
x 1024 bytes, 64MB is 64 x 1000 x 1000. A TIME is like 90s, 5m or 1h30m.

Ctrl-C ends all cards at once; a second one ends the program. SIGUSR1 prints how
far it is.

` + exitStatuses + `

Each reason and each guard, with what to do about it: docs/write.md and
docs/guards.md of multidd.`,
		Example: `  multidd write master.img.bz2 /dev/sdb /dev/sdc /dev/sdd
  multidd write --delta master-v3.img.bz2 /dev/sdb /dev/sdc /dev/sdd
  multidd write --free=zero master.img.bz2 /dev/sdb
  multidd write --dry-run master.img.xz 1-2.1 1-2.2 1-2.3
  xzcat master.img.xz | multidd write --yes - /dev/sdb
  multidd write --json --yes master.img /dev/sdb > run.ndjson`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return errors.New("write: name an image and the cards to write it to")
			case len(args) == 1:
				return fmt.Errorf("write: name the cards to write %s to; 'multidd devices' lists them", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.image, o.targets = args[0], args[1:]
			o.stdin = o.image == "-"
			o.verifyAll = o.verify == "full" && cmd.Flags().Changed("verify")
			return runWrite(c, &o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask; needed where there is no terminal to ask at")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "show what would be written, what would be lost and what is refused, and write nothing")
	f.BoolVar(&o.asJSON, "json", false, "one JSON event a line on standard output, instead of a screen")
	f.BoolVar(&o.plain, "plain", false, "plain lines instead of a screen")
	f.BoolVar(&o.delta, "delta", false, "read the cards first, and write only what differs from the image")
	f.BoolVar(&o.expand, "expand", false, "make the last partition, with its ext2, ext3 or ext4 file system, as large as each card")
	f.StringVar(&o.verify, "verify", "full", "read back everything or nothing, `full|none`; with none the exit status is 10 at best (with --delta: only what was written and a sample, unless full is asked for)")
	f.StringVar(&o.blocks, "blocks", "map", "write what is used, as a .bmap or the file systems inside say, or every byte, `map|all`")
	f.StringVar(&o.free, "free", "keep", "what becomes of the bytes that the image does not use, `keep|zero|discard`: they stay as they are, are written as zeros, or are discarded by cards that promise zeros then")
	f.StringVar(&o.bmap, "bmap", "", "the map of the image, `FILE|none` (default: look beside the image)")
	f.BoolVar(&o.digest, "digest", false, "work out the SHA-256 of a raw image, too, and report it (default: only of one that is packed or has a digest to be compared with)")
	f.StringVar(&o.sha256, "sha256", "", "the SHA-256 that the image must have, packed or unpacked, in 64 `HEX` digits (default: look beside the image)")
	f.StringVar(&o.store, "store", "", "where unpacked copies are kept, `DIR|off`; without one, the cards wait for the slowest (default: multidd/store in the user's cache directory)")
	f.StringVar(&o.storeLimit, "store-limit", "", "most disk space for all unpacked copies, a `SIZE` (default: a third of what is free, at most 32G)")
	f.StringVar(&o.decoderMemory, "decoder-memory", "68M", "most memory that unpacking may need, a `SIZE`; an image that needs more is refused")
	f.IntVar(&o.rewrites, "rewrites", 1, "how many `TIMES` bad ranges are rewritten before a card is given up")
	f.DurationVar(&o.stallLimit, "stall-limit", 5*time.Minute, "longest `TIME` without an answer before a card is given up; less for a card that was quick before")
	f.BoolVar(&o.strict, "strict", false, "refuse a card that can only be read back through the page cache")
	o.guards.add(cmd)
	return cmd
}

// check finds what is wrong with the flags.
func (o *writeOptions) check() error {
	if o.verify != "full" && o.verify != "none" {
		return quit(station.ExitUsage, "--verify=%s: it is full or none", o.verify)
	}
	if o.blocks != "map" && o.blocks != "all" {
		return quit(station.ExitUsage, "--blocks=%s: it is map or all", o.blocks)
	}
	switch o.free {
	case "keep", "zero":
	case "discard":
		if o.delta {
			return quit(station.ExitUsage, "--free=discard does not go with --delta, which writes no more than it must; take --free=zero or --free=keep")
		}
	default:
		return quit(station.ExitUsage, "--free=%s: it is keep, zero or discard", o.free)
	}
	if o.rewrites < 0 {
		return quit(station.ExitUsage, "--rewrites=%d: it is 0 or more", o.rewrites)
	}
	if o.stallLimit < time.Second {
		return quit(station.ExitUsage, "--stall-limit=%v: it is a second or more", o.stallLimit)
	}
	if b, err := hex.DecodeString(o.sha256); err != nil || o.sha256 != "" && len(b) != sha256.Size {
		return quit(station.ExitUsage, "--sha256=%s: it is 64 digits from 0 to f", o.sha256)
	}
	var err error
	if o.decoderBytes, err = dd.ParseSize(o.decoderMemory); err != nil {
		return quit(station.ExitUsage, "--decoder-memory: %v", err)
	}
	if o.storeLimit != "" {
		if o.storeBytes, err = dd.ParseSize(o.storeLimit); err != nil {
			return quit(station.ExitUsage, "--store-limit: %v", err)
		}
	}
	o.policy, err = o.guards.policy()
	return err
}

// runWrite is `multidd write`. With --json, a run that does not come to begin has
// its last line all the same.
func runWrite(c console, o *writeOptions) error {
	begun := false
	err := tryWrite(c, o, &begun)
	var e *exitError
	if o.asJSON && !begun && isWorker() && errors.As(err, &e) && e.status != station.ExitGood {
		_ = endJSON(c, e) // the exit status says it too
	}
	return err
}

// tryWrite does it. Whatever may hang in the kernel happens in a worker.
func tryWrite(c console, o *writeOptions, begun *bool) error {
	if err := o.check(); err != nil {
		return err
	}
	if !isWorker() {
		status, err := supervise(os.Args[1:])
		return &exitError{status, err}
	}
	var show func()
	ctx, stop := onSignals(context.Background(), func() {
		if show != nil {
			show()
		}
	})
	defer stop()
	im, err := openImage(ctx, c, o)
	if err != nil {
		return err
	}
	defer func() { _ = im.Close() }()
	im, plan, fit, err := planExpanded(ctx, c, o, im)
	if err != nil {
		return err
	}
	defer plan.Close()
	if o.dryRun {
		return dryRun(c, o, plan)
	}
	if err := admit(c, o, plan); err != nil {
		return err
	}
	st, err := newStation(ctx, o, im, plan, fit)
	if err != nil {
		return err
	}
	*begun = true
	if !o.screen(c) {
		show = func() { fmt.Fprintln(c.err, tui.Progress(st.Now())) }
	}
	last, err := watch(ctx, c, o, st)
	plan.Finish(last)
	if err := plan.Learn(last); err != nil {
		say(c.err, "%v", err)
	}
	if err != nil {
		return &exitError{last.Exit, err}
	}
	return &exitError{last.Exit, nil}
}

// openImage opens the image with all that the flags say of it.
func openImage(ctx context.Context, c console, o *writeOptions) (*image.Image, error) {
	free := image.FreeKeep
	if o.free == "zero" {
		free = image.FreeZero
	}
	im, err := image.Open(ctx, o.image, image.Options{
		Stdin: c.in, BMap: o.bmap, All: o.blocks == "all", SHA256: o.sha256, Digest: o.digest, Store: openStore(o),
		Mapper: &o.contents, Free: free,
		Unpack: codec.ReadOptions{Memory: o.decoderBytes, Ahead: decodeAhead},
	})
	var bad *image.Error
	switch {
	case err == nil:
		return im, nil
	case errors.As(err, &bad):
		return nil, &exitError{station.ExitImage, err}
	case errors.Is(err, fs.ErrPermission):
		return nil, &exitError{station.ExitPermission, err}
	}
	return nil, &exitError{station.ExitError, err}
}

// decodeAhead is the most that unpacking several blocks of an image at a time may
// take, in bytes: what the bound of memory leaves.
const decodeAhead = 48 << 20

func openStore(o *writeOptions) *image.Store {
	if o.store == "off" {
		return nil
	}
	dir := o.store
	if dir == "" {
		var err error
		if dir, err = image.DefaultStoreDir(); err != nil {
			return nil // no home: no copies
		}
	}
	return image.NewStore(dir, o.storeBytes)
}

// planWrite finds and judges the targets, and finds out how the image fits on them.
func planWrite(ctx context.Context, o *writeOptions, im *image.Image) (*station.Plan, *fit, error) {
	policy := o.policy
	if !o.stdin {
		policy.Images = []string{o.image}
	}
	plan := station.NewPlan(ctx, device.System{}, o.targets, station.ImageOf(im), -1,
		device.Options{Policy: policy, Strict: o.strict}, station.LoadSpeeds(speedsPath()))
	if o.delta {
		plan.Delta()
	}
	fit, err := fitFor(im, &o.contents, plan.Smallest(), o.free == "zero")
	if err != nil {
		return nil, nil, &exitError{station.ExitImage, err}
	}
	plan.Need(fit.least, fit.why)
	if _, ok := im.ReaderAt(); ok && o.expand {
		if fit.larger, err = expand(ctx, im, &o.contents, plan.Targets); err != nil {
			return nil, nil, err
		}
	}
	return plan, fit, nil
}

func speedsPath() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "multidd", "speeds.json")
}

// dryRun shows the plan.
func dryRun(c console, o *writeOptions, plan *station.Plan) error {
	if o.asJSON {
		if err := planJSON(c, plan); err != nil {
			return err
		}
	} else if err := tui.Plan(c.out, plan.Image, plan.Targets, tui.OptionsFor(c.out)); err != nil {
		return &exitError{station.ExitError, err}
	}
	if len(plan.Refused()) > 0 {
		return &exitError{refusedStatus(plan), nil}
	}
	return nil
}

// refusedStatus returns the exit status of a plan that was refused.
func refusedStatus(plan *station.Plan) int {
	for _, t := range plan.Refused() {
		for _, r := range t.Refusals {
			if !r.IsPermission() {
				return station.ExitRefused
			}
		}
	}
	return station.ExitPermission
}

// admit opens the targets, asks, and looks at them once more. If it returns nil
// they are open and the run may begin.
func admit(c console, o *writeOptions, plan *station.Plan) error {
	plan.Open()
	if err := refuse(c, o, plan); err != nil {
		return err
	}
	if o.free == "discard" {
		if err := plan.CanDiscard(); err != nil {
			return quit(station.ExitUsage, "--free=discard: %v", err)
		}
	}
	if err := confirm(c, o, plan); err != nil {
		return err
	}
	plan.Check()
	return refuse(c, o, plan)
}

// refuse ends the program if there is anything against a target: one sentence for
// each.
func refuse(c console, o *writeOptions, plan *station.Plan) error {
	refused := plan.Refused()
	if len(refused) == 0 {
		return nil
	}
	if o.asJSON {
		if err := planJSON(c, plan); err != nil {
			return err
		}
	}
	for _, t := range refused {
		for _, r := range t.Refusals {
			say(c.err, "%s is refused: %s [%s]", t.Name, r.Text, r.Reason)
		}
	}
	if len(plan.Targets) == 1 {
		return quit(refusedStatus(plan), "nothing was written")
	}
	return quit(refusedStatus(plan), "nothing was written: %d of %d targets refused", len(refused), len(plan.Targets))
}

// confirm asks once per run, naming what will be lost.
func confirm(c console, o *writeOptions, plan *station.Plan) error {
	if o.yes {
		return nil
	}
	if !term.IsTerminal(int(c.in.Fd())) || !term.IsTerminal(int(c.err.Fd())) || o.stdin {
		return quit(station.ExitUsage, "nobody can be asked here: say --yes if everything on these targets may be lost: %s", strings.Join(o.targets, " "))
	}
	if err := tui.Plan(c.err, plan.Image, plan.Targets, tui.OptionsFor(c.err)); err != nil {
		return &exitError{station.ExitError, err}
	}
	question, it := fmt.Sprintf("Everything on these %d targets will be lost.", len(plan.Targets)), "them"
	if len(plan.Targets) == 1 {
		question, it = fmt.Sprintf("Everything on %s will be lost.", plan.Targets[0].Device), "it"
	}
	fmt.Fprintf(c.err, "\n%s Write to %s? Type yes: ", question, it)
	answer, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil || strings.ToLower(strings.TrimSpace(answer)) != "yes" {
		return quit(station.ExitInterrupted, "nothing was written: the answer was not yes")
	}
	return nil
}

// newStation puts the run together.
func newStation(ctx context.Context, o *writeOptions, im *image.Image, plan *station.Plan, fit *fit) (*station.Station, error) {
	window, depth, pool := station.Sizes(len(plan.Targets), im.Memory())
	engine := duplicate.Options{
		Window: window, Depth: depth, NoProof: o.verify == "none", FullProof: o.verifyAll, Rewrites: o.rewrites, Map: station.MapOf(im),
		Discard: o.free == "discard", StallMax: o.stallLimit,
		StallMin: min(30*time.Second, o.stallLimit), StallShown: min(15*time.Second, o.stallLimit/2),
	}
	if o.rewrites == 0 {
		engine.Rewrites = -1
	}
	cards, limit := plan.Cards(), plan.Largest()
	if fit.cut > 0 {
		engine.Map = station.CutMap(engine.Map, fit.cut)
		if limit > 0 {
			limit = max(limit, im.Size())
		}
	}
	for i := range cards {
		patch, err := fit.patch(cards[i].Size)
		if err != nil {
			return nil, &exitError{station.ExitImage, fmt.Errorf("move the backup of the partition table for %s: %w", cards[i].Device, err)}
		}
		cards[i].Patch = patch
	}
	source := station.NewSource(im, pool, limit)
	source.End, source.Notes = fit.cut, func() []string { return append(o.contents.notes(), fit.notes()...) }
	return station.New(ctx, source, cards, station.Options{Engine: engine, Pool: pool}), nil
}

// screen tells whether the run is shown as a full screen.
func (o *writeOptions) screen(c console) bool {
	return !o.asJSON && !o.plain && term.IsTerminal(int(c.out.Fd()))
}

// watch carries the run out and shows it.
func watch(ctx context.Context, c console, o *writeOptions, st *station.Station) (station.Snapshot, error) {
	shown := make(chan error, 1)
	background := context.WithoutCancel(ctx) // the screen shows the end, however it came
	go func() {
		var err error
		switch {
		case o.asJSON:
			err = tui.JSON(background, c.out, tui.JSONOptions{}, st)
		case o.screen(c):
			err = tui.Screen(background, c.in, c.out, st)
		default:
			err = tui.Plain(background, c.out, tui.PlainOptions{}, st)
		}
		if errors.Is(err, tui.ErrAbandoned) {
			say(c.err, "left at once; the cards that were being written are not usable as they are")
			leave(station.ExitInterrupted)
		}
		shown <- err
	}()
	last := st.Do()
	err := <-shown
	if o.asJSON {
		return last, err
	}
	out := c.out
	return last, errors.Join(err, tui.Table(out, last, tui.OptionsFor(out)))
}
