package dd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// These tests run GNU dd and this package side by side. Both get the same files,
// and must leave the same files, say the same and end the same.

// A trial is one line of operands for both programs.
type trial struct {
	args  string            // separated by spaces
	stdin string            // a file; "": /dev/null
	pipe  [][]byte          // or what the standard input gives, read by read; see packets
	files map[string][]byte // besides those of the fixture; they must be named in args
}

// An outcome is what a program did.
type outcome struct {
	status string
	stderr string
	files  map[string]string // what there is in the directory in the end, and stdout
}

// noise returns n bytes that do not repeat.
func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(p)
	return p
}

// fixture are the files that every trial finds.
func fixture() map[string][]byte {
	holes := slices.Concat(make([]byte, 8192), noise(5000), make([]byte, 20000), noise(3), make([]byte, 70000))
	return map[string][]byte{
		"empty": {}, "short": []byte("hello"), "noise": noise(70000), "zeros": make([]byte, 100000), "holes": holes,
		"ends": slices.Concat(noise(4096), make([]byte, 12288)),
	}
}

// packets are reads of these lengths.
func packets(lengths ...int) (p [][]byte) {
	all := noise(1 << 20)
	for _, n := range lengths {
		p, all = append(p, all[:n]), all[n:]
	}
	return p
}

// packetPipe returns a pipe from which each read gives what one write gave, so
// that short reads do not depend on time. No read may be shorter than that.
func packetPipe(t *testing.T, packets [][]byte) *os.File {
	t.Helper()
	var fd [2]int
	if err := syscall.Pipe2(fd[:], syscall.O_DIRECT|syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer syscall.Close(fd[1])
		for _, p := range packets {
			if _, err := syscall.Write(fd[1], p); err != nil {
				return
			}
		}
	}()
	f := os.NewFile(uintptr(fd[0]), "pipe")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// programs returns the two commands without operands: GNU dd and this package.
func programs(t *testing.T) (dd, ours func(args ...string) *exec.Cmd) {
	t.Helper()
	path, err := exec.LookPath("dd")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := func(path string, args []string) *exec.Cmd {
		cmd := exec.Command(path, args...)
		cmd.Args[0] = filepath.Base(path)
		cmd.Env = append(os.Environ(), "LC_ALL=C", asProgram+"=1")
		return cmd
	}
	return func(args ...string) *exec.Cmd { return command(path, args) },
		func(args ...string) *exec.Cmd { return command(self, args) }
}

// try runs a program in a new directory.
func (tr trial) try(t *testing.T, program func(args ...string) *exec.Cmd) outcome {
	t.Helper()
	dir := t.TempDir()
	before := fixture()
	maps.Copy(before, tr.files)
	for name, data := range before {
		if name != tr.stdin && !strings.Contains(tr.args, name) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := program(strings.Fields(tr.args)...)
	cmd.Dir = dir
	if tr.stdin != "" {
		f, err := os.Open(filepath.Join(dir, tr.stdin))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	if tr.pipe != nil {
		cmd.Stdin = packetPipe(t, tr.pipe)
	}
	stdout, err := os.Create(filepath.Join(dir, "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	return result(t, cmd, cmd.Run(), &stderr, dir)
}

func result(t *testing.T, cmd *exec.Cmd, err error, stderr *bytes.Buffer, dir string) outcome {
	t.Helper()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := outcome{status: cmd.ProcessState.String(), stderr: normal(stderr.String()), files: map[string]string{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		o.files[e.Name()] = describe(t, filepath.Join(dir, e.Name()))
	}
	return o
}

var rates = regexp.MustCompile(`copied, .*`)

// normal takes out of messages what differs from run to run and between the programs.
func normal(s string) string {
	return rates.ReplaceAllString(strings.ReplaceAll(s, "multidd", "dd"), "copied")
}

// describe says everything about a file that a trial may change: its length,
// holes and content.
func describe(t *testing.T, path string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("mode %v, %d bytes", fs.FileMode(st.Mode), st.Size)
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return s
	}
	f, err := os.Open(path)
	if err != nil {
		return s
	}
	defer f.Close()
	s += ", data at" + islands(f)
	sum := newHash("sha256")
	if _, err := io.Copy(sum, io.LimitReader(f, 4<<20)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s, %x", s, sum.Sum(nil))
}

// islands says which parts of a file are no holes.
func islands(f *os.File) (s string) {
	const seekData, seekHole = 3, 4
	for at := int64(0); ; {
		from, err := f.Seek(at, seekData)
		if err == nil {
			at, err = f.Seek(from, seekHole)
		}
		if err != nil {
			_, _ = f.Seek(0, io.SeekStart)
			return s
		}
		s += fmt.Sprintf(" %d-%d", from, at)
	}
}

// differences says in what two outcomes differ, if they do.
func differences(dd, ours outcome) (d []string) {
	if dd.status != ours.status {
		d = append(d, fmt.Sprintf("dd: %s, ours: %s", dd.status, ours.status))
	}
	if dd.stderr != ours.stderr {
		d = append(d, fmt.Sprintf("dd says\n%sours says\n%s", dd.stderr, ours.stderr))
	}
	names := maps.Clone(dd.files)
	maps.Copy(names, ours.files)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if dd.files[name] != ours.files[name] {
			d = append(d, fmt.Sprintf("%s\n dd:   %s\n ours: %s", name, dd.files[name], ours.files[name]))
		}
	}
	return d
}

func TestEverythingIsAsWithGNUdd(t *testing.T) {
	dd, ours := programs(t)
	all := trials()
	t.Logf("%d trials", len(all))
	for i, tr := range all {
		if underRace && i%16 != 0 {
			continue
		}
		t.Run(tr.name(), func(t *testing.T) {
			t.Parallel()
			for _, d := range differences(tr.try(t, dd), tr.try(t, ours)) {
				t.Error(d)
			}
		})
	}
}

func (tr trial) name() string {
	s := strings.ReplaceAll(tr.args, "/", "|")
	if tr.stdin != "" {
		s += " <" + tr.stdin
	}
	for _, p := range tr.pipe {
		s += fmt.Sprintf(" %d", len(p))
	}
	return s
}

// Where it does differ, it does so on purpose. That these trials fail shows too
// that the comparison sees what there is to see.
func TestKnownDifferencesFromGNUdd(t *testing.T) {
	dd, ours := programs(t)
	for _, c := range []struct {
		why string
		trial
	}{
		{"dd 9.1 takes one x only, those before and after it any number", trial{args: "if=noise of=out count=2x3x4"}},
		{"dd 9.1 takes no B behind an x, those after it do", trial{args: "if=noise of=out count=2x3B"}},
		{"dd since 9.2 knows quetta and ronna", trial{args: "if=noise of=out count=0Q"}},
		{"the warning about 0x is left out where the number is refused anyway", trial{args: "if=noise of=out bs=0x10"}},
		{"dd leaves the statistics out if both writing and flushing fail", trial{args: "if=noise of=/dev/full conv=fsync"}},
		{"multidd reads no text flags", trial{args: "if=noise of=out iflag=nofollow"}},
		{"multidd converts no text", trial{args: "if=noise of=out conv=swab"}},
		{"from file to file a record need not fit into the memory", trial{args: "if=noise of=out bs=1E"}},
		{"multidd packs", trial{args: "if=noise of=out.gz"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			if len(differences(c.try(t, dd), c.try(t, ours))) == 0 {
				t.Error("there is no difference")
			}
		})
	}
}
