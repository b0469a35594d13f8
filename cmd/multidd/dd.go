package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"multidd/internal/dd"
	"multidd/internal/device"
	"multidd/internal/duplicate"
	"multidd/internal/station"
	"multidd/internal/tui"
)

// newDDHelp returns the command that shows the words of dd. With operands it does
// not get here: see run.
func newDDHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "dd OPERAND...",
		Short: "The words of dd: if= of= of= bs= …, packing and unpacking",
		Long: `Copy as dd does, to any number of outputs at once. 'multidd if=… of=…' is short
for 'multidd dd if=… of=…'.

    if=FILE         read FILE; without it, standard input
    of=FILE         write FILE; may be given several times; without it,
                    standard output
    bs=BYTES        read and write so much at a time; sets ibs= and obs=
    ibs=BYTES       read so much at a time (default 512)
    obs=BYTES       write so much at a time (default 512)
    count=N         copy only N input blocks
    skip=N          skip N input blocks first; iseek=N is the same
    seek=N          skip N output blocks first; oseek=N is the same
    conv=LIST       fsync, fdatasync, notrunc, noerror, sync, excl, nocreat,
                    sparse (files only)
    iflag=LIST      fullblock, direct, count_bytes, skip_bytes, raw
    oflag=LIST      direct, sync, dsync, seek_bytes, raw
    status=LEVEL    none, noxfer or progress
    hash=LIST       print digests of what was copied: md5, sha1, sha224, sha256,
                    sha384, sha512
    verify=HOW      readback: read cards back (the default); none: do not

BYTES and N are in dd's grammar: 512, 4k, 100M, 1kB, 2x512. An N with a B in it
(count=3B) counts bytes. A LIST is separated by commas. What dd knows beyond
this is refused by name.

An input is unpacked if both its name and its content say that it is packed
(.bz2 .gz .xz .zst .lz4, .zip with one entry). An output is packed if its name
says so (all of these but .zip), on all processors. If all outputs end like the
input, or with the flag raw, the bytes are copied as they are.

On plain files, pipes and character devices all this is what dd does, to the
byte and to the message. A block device is a card: it must pass the guards of
'multidd write', is confirmed on the terminal (put --yes in front where there is
none), is written at its own speed with its first MiB last, and is read back.
Every byte is written, whatever a map says, and what lies beyond is left alone.

Exit status: 0, or 1 if anything went wrong. SIGUSR1 prints how far it is.`,
		Example: `  multidd if=master.img.bz2 of=/dev/sdb of=/dev/sdc bs=4M status=progress
  multidd if=/dev/sdb of=backup.img.bz2 bs=1M
  multidd --yes if=u-boot.bin of=/dev/sdb bs=1k seek=8
  multidd if=x.img of=copy.img.xz of=copy.img bs=1M hash=sha256`,
		Args: func(cmd *cobra.Command, args []string) error {
			return errors.New("dd: name at least one operand, such as if=FILE of=FILE")
		},
		RunE: func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
}

// runDD is multidd in the words of dd. It returns dd's exit statuses.
func runDD(args []string, c console) int {
	yes := len(args) > 0 && (args[0] == "--yes" || args[0] == "-y")
	if yes {
		args = args[1:]
	}
	job, err := dd.Parse(args)
	if err != nil {
		say(c.err, "%v", err)
		return 1
	}
	cards, plain, err := sortOutputs(job.Outputs)
	if err != nil {
		say(c.err, "%v", err)
		return 1
	}
	if len(cards) == 0 {
		return copyPlain(dd.NewRun(job, c.err))
	}
	if !isWorker() {
		status, err := supervise(os.Args[1:])
		if err != nil {
			say(c.err, "%v", err)
		}
		return min(status, 1)
	}
	if err := copyCards(c, job, cards, plain, yes); err != nil {
		say(c.err, "%v", err)
		return 1
	}
	return 0
}

// isDD tells whether the arguments are operands of dd, and returns them with a
// leading --yes kept.
func isDD(args []string) bool {
	if len(args) > 1 && (args[0] == "--yes" || args[0] == "-y") {
		args = args[1:]
	}
	return dd.IsOperands(args)
}

// sortOutputs tells cards from all else. A path below /dev that is not there is an
// error: dd would make a file of it.
func sortOutputs(names []string) (cards, plain []string, err error) {
	for _, name := range names {
		fi, err := os.Stat(name)
		switch {
		case err == nil && fi.Mode()&fs.ModeDevice != 0 && fi.Mode()&fs.ModeCharDevice == 0:
			cards = append(cards, name)
		case errors.Is(err, fs.ErrNotExist) && inDev(name):
			return nil, nil, fmt.Errorf("there is no device %s; put the card in, or name another ('multidd devices' lists them)", name)
		default:
			plain = append(plain, name)
		}
	}
	return cards, plain, nil
}

// inDev tells whether a path is below /dev, but not in /dev/shm, which is for files.
func inDev(name string) bool {
	path, err := filepath.Abs(name)
	return err == nil && strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

// copyPlain copies to what is no card, with dd's signals.
func copyPlain(run *dd.Run) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGUSR1)
	go func() {
		for s := range signals {
			run.PrintStats()
			if s == os.Interrupt {
				dd.Die(syscall.SIGINT)
			}
		}
	}()
	status := run.Copy(ctx)
	if status == dd.BrokenPipe {
		dd.Die(syscall.SIGPIPE)
	}
	return status
}

// copyCards copies to cards, and to the plain outputs beside them.
func copyCards(c console, job *dd.Job, cards, plain []string, yes bool) error {
	if slices.ContainsFunc(cards, func(name string) bool { return job.Packs(name) != "raw" }) {
		return errors.New("a card cannot be given a packed image")
	}
	show := func() {}
	ctx, stop := onSignals(context.Background(), func() { show() })
	defer stop()
	run := dd.NewRun(job, c.err)
	policy := device.Policy{}
	if !job.Stdin {
		policy.Images = []string{job.Input}
	}
	im := station.ImageState{Name: station.Clean(inputName(job)), Format: "dd", Size: -1, Used: -1}
	plan := station.NewPlan(ctx, device.System{}, cards, im, -1, device.Options{Policy: policy}, nil)
	defer plan.Close()
	plan.Keep()
	if err := admit(c, &writeOptions{yes: yes, image: inputName(job), targets: cards, stdin: job.Stdin}, plan); err != nil {
		return err
	}
	window, depth, pool := station.Sizes(len(cards), ddDecoder)
	src, err := run.Source(pool, plain...)
	if err != nil {
		return err
	}
	st := station.New(ctx, &ddSource{src, im}, plan.Cards(), station.Options{Pool: pool, Engine: duplicate.Options{
		Window: window, Depth: depth, NoProof: job.Verify == dd.VerifyNone, NoProbe: true,
	}})
	show = func() { fmt.Fprintln(c.err, tui.Progress(st.Now())) }
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		if job.Status == dd.StatusProgress {
			progress(ctx, c, st)
		}
	}()
	last := st.Do()
	<-shown
	if ctx.Err() != nil {
		// The input may never answer again; what there is to say is said here.
		run.PrintStats()
		return ddVerdict(c, last, true)
	}
	plan.Finish(last)
	failed := run.Finish() != 0
	return ddVerdict(c, last, failed)
}

// ddDecoder is what unpacking may take in the words of dd, in bytes.
const ddDecoder = 32 << 20

func inputName(job *dd.Job) string {
	if job.Stdin {
		return "standard input"
	}
	return job.Input
}

// progress shows one line that is written over, as dd does.
func progress(ctx context.Context, c console, st *station.Station) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	snaps := st.Watch(context.WithoutCancel(ctx))
	var last station.Snapshot
	width, onTerminal := 0, term.IsTerminal(int(c.err.Fd()))
	line := func(end string) {
		text := tui.Progress(last)
		fmt.Fprintf(c.err, "\r%-*s%s", width, text, end)
		width = len(text)
	}
	for {
		select {
		case snap, ok := <-snaps:
			if !ok {
				if width > 0 || onTerminal {
					line("\n")
				}
				return
			}
			last = snap
		case <-tick.C:
			line("")
		}
	}
}

// ddVerdict says which cards are not good: dd has nothing to say when all is well.
func ddVerdict(c console, last station.Snapshot, failed bool) error {
	for _, l := range last.Lanes {
		switch {
		case l.Phase == station.Failed:
			say(c.err, "%s: %s [%s]", l.Device, l.Message, l.Reason)
		case l.Phase == station.Interrupted:
			say(c.err, "%s: interrupted; it is not usable as it is", l.Device)
		}
		for _, a := range l.Amber {
			say(c.err, "%s: %s", l.Device, a)
		}
	}
	switch {
	case last.Exit == station.ExitGood || last.Exit == station.ExitUnverified && !failed:
		if failed {
			return errors.New("not everything could be copied")
		}
		return nil
	case last.Image.Err != "":
		return errors.New(last.Image.Err)
	}
	bad := 0
	for _, l := range last.Lanes {
		if l.Phase != station.Good && l.Phase != station.Unverified {
			bad++
		}
	}
	return fmt.Errorf("%d of %d cards are not good", bad, len(last.Lanes))
}

// A ddSource is the input of dd as the source of a run.
type ddSource struct {
	*dd.Source
	im station.ImageState
}

func (s *ddSource) State() station.ImageState {
	st := s.im
	st.Used = s.Total()
	if st.Used >= 0 {
		st.Size = st.Used
	}
	return st
}

func (s *ddSource) Waits() (reading, decoding time.Duration) { return 0, 0 }

func (s *ddSource) Warnings() []string { return nil }
