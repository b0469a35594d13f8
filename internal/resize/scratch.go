package resize

import (
	"bytes"
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

// A scratch is a file without a name that holds a file system while programs work
// on it. It vanishes with the process, however that ends.
type scratch struct {
	*os.File
	who part // for messages
}

// nobody is the user, and the group, that the programs run as if we may choose.
const nobody = 65534

// newScratch makes one in a directory, "": that for temporary files.
func newScratch(dir string, who part) (*scratch, error) {
	f, err := os.CreateTemp(dir, "multidd-resize-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary copy of %v: %w", who, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make a temporary copy of %v: %w", who, err)
	}
	return &scratch{f, who}, nil
}

// page is the least that a file keeps as a hole, in bytes.
const page = 4096

// fill makes the file as long as size and copies the extents of r, which lie off
// bytes further there, into it. Zeros become holes.
func (s *scratch) fill(ctx context.Context, r io.ReaderAt, off int64, extents []block.Extent, size int64) error {
	if err := s.Truncate(0); err != nil {
		return err
	}
	if err := s.Truncate(size); err != nil {
		return fmt.Errorf("make a temporary copy of %v of %d bytes: %w", s.who, size, err)
	}
	return copyHoles(ctx, s, r, off, extents)
}

// copyHoles copies extents of r, which lie off bytes further there, and leaves out
// pages of zeros.
func copyHoles(ctx context.Context, w io.WriterAt, r io.ReaderAt, off int64, extents []block.Extent) error {
	buf := make([]byte, 1<<20)
	for _, e := range extents {
		for at := e.Off; at < e.End(); {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b := buf[:min(int64(len(buf)), e.End()-at)]
			if err := readFull(r, b, off+at); err != nil {
				return fmt.Errorf("read the disk: %w", err)
			}
			if err := writeHoles(w, b, at); err != nil {
				return fmt.Errorf("write the temporary copy: %w", err)
			}
			at += int64(len(b))
		}
	}
	return nil
}

// writeHoles writes what is not pages of zeros.
func writeHoles(w io.WriterAt, b []byte, off int64) error {
	var zeros [page]byte
	begin := -1 // of what is to be written
	for i := 0; i < len(b); {
		end := min(len(b), i+page-int((off+int64(i))%page))
		if hole := bytes.Equal(b[i:end], zeros[:end-i]); hole && begin >= 0 {
			if _, err := w.WriteAt(b[begin:i], off+int64(begin)); err != nil {
				return err
			}
			begin = -1
		} else if !hole && begin < 0 {
			begin = i
		}
		i = end
	}
	if begin < 0 {
		return nil
	}
	_, err := w.WriteAt(b[begin:], off+int64(begin))
	return err
}

// self is the name by which a program finds the scratch.
const self = "/proc/self/fd/3"

// run runs a program of e2fsprogs on the scratch. It returns what it printed and
// its exit status; the error is that it could not be run.
func (s *scratch) run(ctx context.Context, name string, args ...string) (string, int, error) {
	path, err := find(name)
	if err != nil {
		return "", 0, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.ExtraFiles = []*os.File{s.File}
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "E2FSCK_CONFIG=/dev/null", "MKE2FS_CONFIG=/dev/null"}
	cmd.Dir = "/"
	if os.Geteuid() == 0 && s.Chown(nobody, nobody) == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return "", 0, context.Cause(ctx)
	case ended && exit.Exited():
		return string(out), exit.ExitCode(), nil
	case err != nil:
		return "", 0, fmt.Errorf("run %s on %v: %w", name, s.who, err)
	}
	return string(out), 0, nil
}

// find returns the path of a program, which may lie where only root looks.
func find(name string) (string, error) {
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

// Available returns a *Missing if a program is missing that resizing needs.
func Available() error {
	for _, name := range []string{"e2fsck", "resize2fs"} {
		if _, err := find(name); err != nil {
			return err
		}
	}
	return nil
}

// repair lets e2fsck look at everything and repair what it repairs without asking:
// a journal that has to be replayed, counts that are not up to date.
func (s *scratch) repair(ctx context.Context) error {
	// The exit statuses are those of e2fsck(8): 1 and 2 are errors corrected.
	out, status, err := s.run(ctx, "e2fsck", "-f", "-p", self)
	if err == nil && status >= 4 {
		err = &Damage{fmt.Sprintf("e2fsck finds damage in %v that it does not repair unasked (%s): repair it with e2fsck -f first", s.who, sentence(out))}
	}
	return err
}

// prove lets e2fsck correct the counts that resize2fs leaves wrong where blocks come in
// clusters (up to 1.47 at least), and then look at everything once more.
func (s *scratch) prove(ctx context.Context) error {
	if err := s.repair(ctx); err != nil {
		return err
	}
	out, status, err := s.run(ctx, "e2fsck", "-f", "-n", self)
	if err == nil && status != 0 {
		err = fmt.Errorf("what resize2fs made of %v is not clean (%s): this is a mistake in resize2fs; leave the size as it is", s.who, sentence(out))
	}
	return err
}

// resize lets resize2fs give the file system so many blocks.
func (s *scratch) resize(ctx context.Context, blocks int64) error {
	// It is forced because it goes by the clock whether e2fsck has just been there.
	out, status, err := s.run(ctx, "resize2fs", "-f", self, fmt.Sprint(blocks))
	if err == nil && status != 0 {
		err = fmt.Errorf("resize2fs cannot give %v %d blocks: %s", s.who, blocks, sentence(out))
	}
	return err
}

var banner = regexp.MustCompile(`^(resize2fs|e2fsck) \d+\.\d+`)

// sentence returns the line that matters of what a program said.
func sentence(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "" || banner.MatchString(line) || strings.HasPrefix(line, "Pass ") || strings.HasPrefix(line, "Resizing the ") {
			continue
		}
		line = strings.TrimPrefix(strings.TrimPrefix(line, "resize2fs: "), self+": ")
		line = strings.ReplaceAll(line, self, "the file system")
		return clean(strings.TrimRight(strings.TrimSpace(line), "."))
	}
	return "it says nothing more"
}
