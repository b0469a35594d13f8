package faulttest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"testing"
)

// multidd is the path of the program, which TestMain builds.
var multidd string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asNeighbour {
		os.Exit(neighbour(os.Args[2:]))
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // no cards, so all tests are skipped
	}
	os.Exit(mainWithProgram(m))
}

func mainWithProgram(m *testing.M) int {
	dir, err := os.MkdirTemp("", "faulttest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	multidd = filepath.Join(dir, "multidd")
	if out, err := exec.Command("go", "build", "-o", multidd, "multidd/cmd/multidd").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build multidd: %v\n%s", err, out)
		return 1
	}
	// What cards hold is large, and soon of no use.
	debug.SetGCPercent(25)
	// Most of the time tests wait for cards that are slow or do not answer.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
