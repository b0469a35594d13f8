package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A figure is what one command took.
type figure struct {
	wall float64 // seconds
	cpu  float64 // processor seconds, all its processes
	rss  float64 // MiB, the most that one of its processes had
	out  []byte  // what it printed
}

// A command is what is measured: a shell command line, run by sh so that pipes
// work, with its own processes counted.
type command struct {
	name string
	line string
	env  []string
	// statuses that are right besides 0
	allowed []int
	// reads is set if it reads the card back, which has a floor of its own
	reads bool
}

// measure runs a command once, with cold caches for the cards.
func measure(c command) (figure, error) {
	cmd := exec.Command("sh", "-c", c.line)
	cmd.Env = append(os.Environ(), c.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	err := cmd.Run()
	wall := time.Since(begin).Seconds()
	if cmd.ProcessState == nil {
		return figure{}, fmt.Errorf("%s: %w", c.name, err)
	}
	if err != nil && !slices.Contains(c.allowed, cmd.ProcessState.ExitCode()) {
		return figure{}, fmt.Errorf("%s: %w: %s", c.name, err, tail(errs.String()))
	}
	ru := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return figure{
		wall: wall,
		cpu:  cmd.ProcessState.UserTime().Seconds() + cmd.ProcessState.SystemTime().Seconds(),
		rss:  float64(ru.Maxrss) / 1024,
		out:  out.Bytes(),
	}, nil
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// rounds measures commands in turn, n times each, and returns the figures of each.
func rounds(n int, commands []command, before func() error) ([][]figure, error) {
	figures := make([][]figure, len(commands))
	for range n {
		for i, c := range commands {
			if err := before(); err != nil {
				return nil, err
			}
			f, err := measure(c)
			if err != nil {
				return nil, err
			}
			figures[i] = append(figures[i], f)
		}
	}
	return figures, nil
}

// median returns the median of one figure over the rounds.
func median(figures []figure, of func(figure) float64) float64 {
	var v []float64
	for _, f := range figures {
		v = append(v, of(f))
	}
	return middle(v)
}

func middle(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	if len(v)%2 == 0 {
		return (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return v[len(v)/2]
}

func wall(f figure) float64 { return f.wall }
func cpu(f figure) float64  { return f.cpu }
func rss(f figure) float64  { return f.rss }

// span says a figure's median with its least and most.
func span(figures []figure, of func(figure) float64, format string) string {
	lo, hi := of(figures[0]), of(figures[0])
	for _, f := range figures {
		lo, hi = min(lo, of(f)), max(hi, of(f))
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", median(figures, of), lo, hi)
}
