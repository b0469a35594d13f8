// Command fakecard makes fake cards: block devices in memory that misbehave as told. It
// prints their paths, one a line, when they are ready, and takes them down when it
// is interrupted or terminated, when its standard input, if that is a pipe, comes
// to its end, or when the process that started it is gone. It takes Linux and root.
//
//	fakecard -size 64M -fault flip@12345678 -fault slow=5M
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"multidd/internal/device/devicetest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go watch(cancel, os.Stdin)

	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "fakecard:", err)
		os.Exit(1)
	}
}

// watch calls cancel when a pipe on standard input ends, or the parent does:
// whoever wanted the cards is gone.
func watch(cancel func(), stdin *os.File) {
	if isPipe(stdin) {
		go func() {
			_, _ = io.Copy(io.Discard, stdin)
			cancel()
		}()
	}
	for parent := os.Getppid(); os.Getppid() == parent; {
		time.Sleep(500 * time.Millisecond)
	}
	cancel()
}

func isPipe(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeNamedPipe != 0
}

// run serves cards until ctx is done.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("fakecard", flag.ContinueOnError)
	flags.SetOutput(stderr)
	size := bytesValue(64 << 20)
	flags.Var(&size, "size", "`bytes` that a card claims to have, with K, M or G")
	n := flags.Int("n", 1, "`number` of cards, all with the same faults")
	sector := flags.Int("sector", 512, "size of a logical sector in `bytes`")
	var faults []string
	flags.Func("fault", "a `fault`, may be repeated, the outermost first:\n"+grammar(), func(spec string) error {
		faults = append(faults, spec)
		_, err := parse(spec)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q: fakecard takes flags only", flags.Arg(0))
	}

	var paths []string
	for range *n {
		m := devicetest.NewMedium(int64(size))
		m.SectorSize = *sector
		for _, spec := range slices.Backward(faults) {
			apply, err := parse(spec)
			if err != nil {
				return err
			}
			apply(m)
		}
		card, err := devicetest.Serve(m, "")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, card.Close()) }()
		paths = append(paths, card.Path)
	}
	if _, err := fmt.Fprintln(stdout, strings.Join(paths, "\n")); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
