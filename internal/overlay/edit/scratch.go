package edit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"multidd/internal/block"
)

// nobody is the user, and the group, that programs run as if we may choose.
const nobody = 65534

// nameless makes a file without a name in a directory. It vanishes with the process, however
// that ends.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "multidd-edit-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if os.Geteuid() == 0 {
		_ = f.Chown(nobody, nobody) // if not, the programs run as we do
	}
	return f, nil
}

// shm is where files lie in memory: programs need not wait for a disk there, and a card's keys
// reach none.
const shm = "/dev/shm"

// dir returns where a temporary file of so many bytes goes, of which every worker may want one.
func (e *Editor) dir(need int64) string {
	if e.o.Dir != "" {
		return e.o.Dir
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(shm, &st); err != nil || int64(st.Bavail)*st.Bsize/4 < need*int64(e.o.Workers) {
		return ""
	}
	return shm
}

// Positions to seek to, lseek(2): the next bytes that a file holds, the next that it does not.
const (
	seekData = 3
	seekHole = 4
)

// dataOf returns the extents of a file that are no holes, in ascending order.
func dataOf(f *os.File, size int64) ([]block.Extent, error) {
	var all []block.Extent
	for at := int64(0); at < size; {
		begin, err := f.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		if err != nil {
			return []block.Extent{{Len: size}}, nil // the file system cannot tell
		}
		end, err := f.Seek(begin, seekHole)
		if err != nil {
			return nil, err
		}
		all = append(all, block.Extent{Off: begin, Len: end - begin})
		at = end
	}
	return all, nil
}

// copyExtents copies extents from one to the other. Pages of zeros become holes.
func copyExtents(ctx context.Context, w io.WriterAt, r io.ReaderAt, extents []block.Extent) error {
	const page = 4096
	buf := make([]byte, 1<<20)
	for _, e := range extents {
		for at := e.Off; at < e.End(); {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b := buf[:min(int64(len(buf)), e.End()-at)]
			if err := readFull(r, b, at); err != nil {
				return err
			}
			for i := 0; i < len(b); {
				end := min(len(b), i+page-int((at+int64(i))%page))
				if !isZero(b[i:end]) {
					if _, err := w.WriteAt(b[i:end], at+int64(i)); err != nil {
						return fmt.Errorf("write a temporary file: %w", err)
					}
				}
				i = end
			}
			at += int64(len(b))
		}
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at byte %d: %w", off+int64(n), err)
}

// The names by which a program finds the files it is given.
func fdName(i int) string { return fmt.Sprintf("/proc/self/fd/%d", 3+i) }

// program runs one of e2fsprogs with files, as a user without rights. It returns what it said
// on its standard output and error, and its exit status.
func (e *Editor) program(ctx context.Context, files []*os.File, stdin, name string, args ...string) (out, complaint string, status int, err error) {
	path, err := look(name)
	if err != nil {
		return "", "", 0, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.ExtraFiles = files
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "E2FSCK_CONFIG=/dev/null", "MKE2FS_CONFIG=/dev/null", "DEBUGFS_PAGER=__none__",
		fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", e.now()), fmt.Sprintf("E2FSCK_TIME=%d", e.now())}
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(stdin)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return "", "", 0, context.Cause(ctx)
	case ended && exit.Exited():
		return stdout.String(), stderr.String(), exit.ExitCode(), nil
	case err != nil:
		return "", "", 0, fmt.Errorf("run %s: %w", name, err)
	}
	return stdout.String(), stderr.String(), 0, nil
}

// now returns the seconds that files get as their time; 0 would mean none to e2fsprogs.
func (e *Editor) now() int64 { return max(1, e.o.Now.Unix()) }

// look returns the path of a program, which may lie where only root looks.
func look(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &Missing{name, "e2fsprogs"}
}

// Available returns a *Missing if a program is missing that edits of ext file systems need.
func Available() error {
	for _, name := range []string{"debugfs", "e2fsck", "tune2fs"} {
		if _, err := look(name); err != nil {
			return err
		}
	}
	return nil
}

var banner = regexp.MustCompile(`^(debugfs|e2fsck|tune2fs) \d+\.\d+`)

// said returns the first line that matters of what a program said; "": nothing does.
func said(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "" || banner.MatchString(line) || strings.HasPrefix(line, "Pass ") {
			continue
		}
		return clean(strings.TrimRight(strings.ReplaceAll(line, fdName(0), "the file system"), "."))
	}
	return ""
}

// clean makes a message fit to be shown on a line: it may quote what was read from a disk.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
