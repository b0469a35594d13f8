package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"multidd": main})
}

// The program as people meet it, in script files.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"noise": noise, "loop": loop, "status": status, "blank": blank, "same": same, "range": sameRange, "poke": poke, "answer": answer,
		},
	})
}

// noise FILE SIZE [SEED] makes a file of bytes that repeat nowhere.
func noise(ts *testscript.TestScript, neg bool, args []string) {
	seed := byte(1)
	if len(args) > 2 {
		seed = args[2][0]
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), noisy(int(n), seed), 0o666))
}

// noisy is a stream of bytes from a xorshift generator.
func noisy(n int, seed byte) []byte {
	p, x := make([]byte, n), uint64(seed)*0x9e3779b97f4a7c15+1
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x >> 32)
	}
	return p
}

// loop NAME FILE attaches a loop device and puts its path into $NAME.
func loop(ts *testscript.TestScript, neg bool, args []string) {
	extra := args[2:]
	out, err := exec.Command("losetup", append(append([]string{"-f", "--show"}, extra...), ts.MkAbs(args[1]))...).CombinedOutput()
	if err != nil {
		ts.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	ts.Setenv(args[0], dev)
	ts.Defer(func() { _ = exec.Command("losetup", "-d", dev).Run() })
}

// status N COMMAND… runs a command that must end with exit status N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// blank FILE OFF LEN: the bytes there are all zero.
func blank(ts *testscript.TestScript, neg bool, args []string) {
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	p := make([]byte, n)
	_, err = f.ReadAt(p, off)
	ts.Check(err)
	if zero := bytes.Equal(p, make([]byte, n)); zero == neg {
		ts.Fatalf("%s at %d is blank: %v", args[0], off, zero)
	}
}

// same A B N: the first N bytes are equal.
func same(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	read := func(name string) []byte {
		f, err := os.Open(ts.MkAbs(name))
		ts.Check(err)
		defer f.Close()
		p := make([]byte, n)
		_, err = f.ReadAt(p, 0)
		ts.Check(err)
		return p
	}
	if equal := bytes.Equal(read(args[0]), read(args[1])); equal == neg {
		ts.Fatalf("the first %d bytes of %s and %s are equal: %v", n, args[0], args[1], equal)
	}
}

// range A B OFF N: the N bytes at OFF are equal.
func sameRange(ts *testscript.TestScript, neg bool, args []string) {
	off, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	read := func(name string) []byte {
		f, err := os.Open(ts.MkAbs(name))
		ts.Check(err)
		defer f.Close()
		p := make([]byte, n)
		_, err = f.ReadAt(p, off)
		ts.Check(err)
		return p
	}
	if equal := bytes.Equal(read(args[0]), read(args[1])); equal == neg {
		ts.Fatalf("the %d bytes at %d of %s and %s are equal: %v", n, off, args[0], args[1], equal)
	}
}

// poke FILE OFF changes a byte.
func poke(ts *testscript.TestScript, neg bool, args []string) {
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	var p [1]byte
	_, err = f.ReadAt(p[:], off)
	ts.Check(err)
	p[0] ^= 1
	_, err = f.WriteAt(p[:], off)
	ts.Check(err)
}

// answer N TEXT COMMAND… runs a command on a terminal, types TEXT when it asks,
// and wants exit status N. What it printed becomes standard output.
func answer(ts *testscript.TestScript, neg bool, args []string) {
	exe, err := exec.LookPath(args[2])
	if err != nil {
		exe = filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[2])
	}
	cmd := exec.Command(exe, args[3:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "XDG_CACHE_HOME="+ts.Getenv("XDG_CACHE_HOME"), "TERM=xterm", "PATH="+ts.Getenv("PATH"))
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	ts.Check(err)
	defer tty.Close()
	asked, all := make(chan bool, 1), make(chan string, 1)
	go func() {
		var out bytes.Buffer
		p := make([]byte, 4096)
		for {
			n, err := tty.Read(p)
			out.Write(p[:n])
			if bytes.Contains(out.Bytes(), []byte("Type yes:")) {
				select {
				case asked <- true:
				default:
				}
			}
			if err != nil {
				close(asked)
				all <- out.String()
				return
			}
		}
	}()
	select {
	case <-asked:
		_, _ = tty.WriteString(args[1] + "\n")
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		ts.Fatalf("it did not ask within a minute")
	}
	err = cmd.Wait()
	text := <-all
	ts.Logf("%s", text)
	ts.Check(os.WriteFile(ts.MkAbs("screen"), []byte(text), 0o666))
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}
