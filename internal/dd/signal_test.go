package dd

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A live program has copied its first record and waits for the next.
type live struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *bufio.Reader
}

func begin(t *testing.T, program func(args ...string) *exec.Cmd) live {
	t.Helper()
	cmd := program("bs=4")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := io.WriteString(stdin, "abcd"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	return live{cmd, stdin, bufio.NewReader(stderr)}
}

// stats reads three lines.
func (l live) stats(t *testing.T) (s string) {
	t.Helper()
	for range 3 {
		line, err := l.stderr.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		s += line
	}
	return normal(s)
}

const oneRecord = "1+0 records in\n1+0 records out\n4 bytes copied\n"

// counted waits until the program, asked by signal, has counted its first record:
// we may have that sooner than it knows that it was written.
func (l live) counted(t *testing.T) {
	t.Helper()
	for {
		if err := l.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		switch got := l.stats(t); got {
		case oneRecord:
			return
		case "1+0 records in\n0+0 records out\n0 bytes copied\n":
		default:
			t.Fatalf("%s said %q", l.cmd.Path, got)
		}
	}
}

func TestUSR1PrintsTheStatisticsAndGoesOn(t *testing.T) {
	dd, ours := programs(t)
	for _, program := range []func(args ...string) *exec.Cmd{dd, ours} {
		l := begin(t, program)
		l.counted(t)
		l.counted(t)
		_, _ = io.WriteString(l.stdin, "xy")
		_ = l.stdin.Close()
		if got := l.stats(t); got != "1+1 records in\n1+1 records out\n6 bytes copied\n" {
			t.Errorf("%s said %q", l.cmd.Path, got)
		}
		if err := l.cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestINTPrintsTheStatisticsAndKills(t *testing.T) {
	dd, ours := programs(t)
	for _, program := range []func(args ...string) *exec.Cmd{dd, ours} {
		l := begin(t, program)
		l.counted(t)
		if err := l.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if got := l.stats(t); got != oneRecord {
			t.Errorf("%s said %q", l.cmd.Path, got)
		}
		_ = l.cmd.Wait()
		if got := l.cmd.ProcessState.String(); got != "signal: interrupt" {
			t.Errorf("%s: %s", l.cmd.Path, got)
		}
	}
}

func TestAPipeWithoutAReaderKills(t *testing.T) {
	dd, ours := programs(t)
	dir := t.TempDir()
	write(t, dir, "in", noise(1<<20))
	for _, args := range []string{"if=/dev/zero", "if=/dev/zero bs=1M", "if=DIR/in bs=64k oflag=sync", "if=DIR/in ibs=7 obs=1000"} {
		for _, program := range []func(args ...string) *exec.Cmd{dd, ours} {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Close()
			cmd := program(strings.Fields(strings.ReplaceAll(args, "DIR", dir))...)
			var stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = w, &stderr
			_ = cmd.Run()
			_ = w.Close()
			if got := cmd.ProcessState.String(); got != "signal: broken pipe" || stderr.Len() > 0 {
				t.Errorf("%s %s: %s, %s", filepath.Base(cmd.Path), args, got, &stderr)
			}
		}
	}
}
