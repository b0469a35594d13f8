// Command bench measures multidd beside the other tools that write cards, on
// emulated cards (loop devices on a file system in memory, their speed limited by
// the kernel's block throttle), in one run, and prints ratios to the physical
// limit. It needs root.
//
// The floor of a card is the image's size divided by the card's speed. Absolute
// times vary from machine to machine and from run to run; the ratios are what
// matters, and only within one run. Tools take turns, and each figure is the
// median of the rounds.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// A scene is a set of measurements that share their cards and images.
type scene struct {
	name string
	run  func(*bench) error
}

var scenes = []scene{
	{"equal", (*bench).equalCards},
	{"slow", (*bench).oneSlowCard},
	{"verify", (*bench).withVerify},
	{"packed", (*bench).packedImage},
	{"unpack", (*bench).unpacking},
	{"pack", (*bench).packing},
	{"single", (*bench).oneCard},
	{"many", (*bench).manyCards},
	{"used", (*bench).usedOnly},
	{"delta", (*bench).refresh},
	{"capture", (*bench).capture},
}

// bench is what the scenes share.
type bench struct {
	multidd string
	dir     string // on a file system in memory
	rounds  int
	size    int64 // of the image in bytes
	big     int64 // of the bigger one that a single card is given; 0: none
	image   string
	packed  string
	out     *tabwriter.Writer
}

func main() {
	b := &bench{out: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	only := flag.String("only", "", "the scenes to run, separated by commas (default all): "+sceneNames())
	flag.IntVar(&b.rounds, "rounds", 3, "how often each command is measured")
	mib := flag.Int64("size", 256, "size of the image in MiB")
	big := flag.Int64("single-size", 1024, "size of the bigger image of the scene single in MiB; 0: none")
	flag.StringVar(&b.multidd, "multidd", "bin/multidd", "the program to measure")
	flag.Parse()
	b.size, b.big = *mib<<20, *big<<20
	if err := b.run(*only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func sceneNames() string {
	var names []string
	for _, s := range scenes {
		names = append(names, s.name)
	}
	return strings.Join(names, ",")
}

func (b *bench) run(only string) error {
	if os.Geteuid() != 0 {
		return errors.New("emulated cards need root: run it with sudo")
	}
	path, err := filepath.Abs(b.multidd)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s is not there: run 'make bench'", b.multidd)
	}
	b.multidd = path
	if b.dir, err = os.MkdirTemp("/dev/shm", "multidd-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.makeImages(); err != nil {
		return err
	}
	for _, s := range scenes {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		b.out.Flush()
	}
	return nil
}

// title begins a table.
func (b *bench) title(format string, args ...any) {
	fmt.Fprintf(b.out, "\n"+format+"\n", args...)
}

// row writes a line of a table; cells are separated by tabs.
func (b *bench) row(cells ...string) { fmt.Fprintln(b.out, strings.Join(cells, "\t")) }

// have tells whether a tool is installed; if not it says so in the table.
func (b *bench) have(tool string) bool {
	if _, err := exec.LookPath(tool); err != nil {
		b.row(tool, "not installed")
		return false
	}
	return true
}
