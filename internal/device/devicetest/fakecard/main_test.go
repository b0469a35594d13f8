package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
)

// TestEveryFaultIsUnderstood gives each fault to a medium and looks whether it does
// anything: what is written, read or flushed differs from what a good card does.
func TestEveryFaultIsUnderstood(t *testing.T) {
	const size = 1 << 20
	good := behaviour(devicetest.NewMedium(size))
	unseen := []string{ // a good card in the end, but for its speed
		"slow=1G", "slow=1G/2G", "delay=1us",
	}
	for _, spec := range slices.Concat(unseen, []string{
		"drop", "drop=64K", "flip@12345", "flip-once@4K", "limbo=512K", "stale=512K", "wrap=512K", "cache=4K",
		"eio-write@4K", "eio-write@4K+8K", "eio-read@0", "eio-sync", "unstable@0", "unstable@4K+4K",
		"hang-write@4K", "hang-read@4K+4K", "hang-sync", "volatile=3", "read-only", "pull@512K", "soil=7",
	}) {
		t.Run(spec, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				apply, err := parse(spec)
				if err != nil {
					t.Fatal(err)
				}
				m := devicetest.NewMedium(size)
				apply(m)
				if same := bytes.Equal(behaviour(m), good); same != slices.Contains(unseen, spec) {
					t.Errorf("it behaves as a good card: %v", same)
				}
			})
		})
	}
	for name := range rules() {
		if !strings.Contains(grammar(), name) {
			t.Errorf("%s is not listed", name)
		}
	}
}

// behaviour is what is seen of a medium that is written, flushed and read; what
// does not end within an hour, by a clock of the test's own, is let go.
func behaviour(m *devicetest.Medium) []byte {
	var seen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, werr := m.WriteAt(devicetest.Pattern(1, 768<<10), 0)
		seen.Write(m.Bytes())
		serr := m.Sync()
		got := make([]byte, m.Size())
		_, rerr := m.ReadAt(got, 0)
		seen.Write(got)
		fmt.Fprint(&seen, werr, serr, rerr)
	}()
	select {
	case <-done:
	case <-time.After(time.Hour):
		m.LetGo()
		<-done
		seen.WriteString("hung")
	}
	return seen.Bytes()
}

func TestWhatIsNotUnderstoodIsNamed(t *testing.T) {
	for _, args := range [][]string{
		{"-fault", "melt"}, {"-fault", "flip@here"}, {"-fault", "limbo"}, {"-fault", "wrap=0"}, {"-fault", "slow=1/x"},
		{"-fault", "eio-read@1+x"}, {"-fault", "eio-read@x"}, {"-fault", "delay=5"}, {"-fault", "drop=-1"}, {"-fault", "read-only=1"},
		{"-fault", "soil=x"}, {"-fault", "volatile="}, {"-fault", "pull"}, {"-size", "9999999999G"}, {"card"},
	} {
		err := run(t.Context(), args, io.Discard, io.Discard)
		if last := args[len(args)-1]; err == nil || !strings.Contains(err.Error(), last) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if err := run(t.Context(), []string{"-h"}, io.Discard, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestCardsAreServedUntilNobodyWantsThem(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-size", "2M", "-n", "2", "-fault", "soil=1", "-fault", "flip@5"}, stdout, io.Discard)
		stdout.Close()
	}()
	lines := bufio.NewScanner(out)
	var paths []string
	for len(paths) < 2 && lines.Scan() {
		paths = append(paths, lines.Text())
	}
	if len(paths) < 2 {
		if err := <-done; errors.Is(err, devicetest.ErrUnsupported) {
			sample.Lack(t, err)
		} else {
			t.Fatal(err)
		}
	}
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if size, err := f.Seek(0, io.SeekEnd); size != 2<<20 || err != nil {
			t.Errorf("%s has %d bytes, %v", path, size, err)
		}
		f.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTheEndOfAPipeIsTheEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go watch(func() { close(ended) }, r)
	select {
	case <-ended:
		t.Fatal("it ended while the pipe was open")
	default:
	}
	w.Close()
	<-ended
}

// TestNoInputIsNotAnEnd is about programs started in the background, whose input is
// /dev/null.
func TestNoInputIsNotAnEnd(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if isPipe(null) {
		t.Errorf("%s counts as a pipe", os.DevNull)
	}
}
