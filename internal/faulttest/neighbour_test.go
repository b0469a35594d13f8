package faulttest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// asNeighbour makes the test binary another program of this computer that
// concerns itself with a card: it does what its further arguments say, prints
// "done", and ends when its standard input does.
const asNeighbour = "as-neighbour"

// neighbour is that program: claim PATH | read PATH OFF | write PATH OFF | dirty
// PATH OFF.
func neighbour(args []string) int {
	if err := meddle(args[0], args[1], args[2:]); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("done")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func meddle(what, path string, rest []string) error {
	flags := os.O_RDWR
	if what == "claim" {
		flags |= os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0) // left open until the end
	if err != nil || what == "claim" {
		return err
	}
	off, err := strconv.ParseInt(rest[0], 10, 64)
	if err != nil {
		return err
	}
	page := make([]byte, 4096)
	if what == "read" {
		_, err := f.ReadAt(page, off)
		return err
	}
	for i := range page {
		page[i] = 'f'
	}
	if _, err = f.WriteAt(page, off); err == nil && what == "write" {
		err = f.Sync()
	}
	return err
}

// startNeighbour starts another program that does something to a card, waits until it
// is done, and returns its process. It has the card open until the test ends.
func startNeighbour(t *testing.T, what string, c *card, off ...int64) *os.Process {
	t.Helper()
	args := []string{asNeighbour, what, c.path}
	for _, o := range off {
		args = append(args, strconv.FormatInt(o, 10))
	}
	cmd := exec.Command(os.Args[0], args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the neighbour: %v", err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "done\n" {
		t.Fatalf("the neighbour says %q, %v", line, err)
	}
	return cmd.Process
}
