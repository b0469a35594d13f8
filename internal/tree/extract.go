package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNotEmpty is the error of a directory that has something in it.
var ErrNotEmpty = errors.New("the directory is not empty")

// WriteDir writes the tree into a directory of this computer, which is made if it is
// not there and must be empty if it is. Nothing outside of it is touched, whatever
// the tree holds. Owners, devices and attributes that only root may give are left
// out for others: skipped returns how many names that concerns.
//
// What has been written stays there when it fails.
func (t *Tree) WriteDir(dir string) (skipped int, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("write the tree: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return 0, fmt.Errorf("write the tree: %w", err)
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); err != io.EOF {
		return 0, fmt.Errorf("write the tree to %s: %w", dir, ErrNotEmpty)
	}
	w := &dirWriter{root: dir, names: map[*Node]string{}, all: os.Geteuid() == 0}
	if err := t.Walk(w.write); err != nil {
		return w.skipped, fmt.Errorf("write the tree: %w", err)
	}
	// Directories last, and the innermost first: what is made in one changes it, and
	// one may not be open to writing.
	for i := len(w.dirs) - 1; i >= 0; i-- {
		if err := w.attributes(w.path(w.dirs[i].p), w.dirs[i].n); err != nil {
			return w.skipped, fmt.Errorf("write the tree: %w", err)
		}
	}
	return w.skipped, nil
}

type named struct {
	p string
	n *Node
}

type dirWriter struct {
	root    string
	names   map[*Node]string // under which name a file has been written
	dirs    []named
	all     bool // may do everything
	skipped int
}

func (w *dirWriter) path(p string) string { return filepath.Join(w.root, filepath.FromSlash(p)) }

// write makes one name. Every directory on its way was made here, so there is no
// link to follow.
func (w *dirWriter) write(p string, n *Node) error {
	to := w.path(p)
	if n.Mode.IsDir() {
		w.dirs = append(w.dirs, named{p, n})
		if p == "." {
			return nil
		}
		return os.Mkdir(to, 0o700)
	}
	if first, ok := w.names[n]; ok {
		return os.Link(w.path(first), to)
	}
	w.names[n] = p
	made, err := w.make(to, p, n)
	if !made {
		if err == nil {
			w.skipped++
			delete(w.names, n)
		}
		return err
	}
	return w.attributes(to, n)
}

// make makes a file that is no directory. It returns false without an error if
// this user may not.
func (w *dirWriter) make(to, p string, n *Node) (bool, error) {
	switch n.Mode.Type() {
	case 0:
		return true, writeFile(to, p, n)
	case fs.ModeSymlink:
		return true, os.Symlink(n.Target, to)
	}
	err := unix.Mknod(to, n.UnixMode(), int(unix.Mkdev(n.Major, n.Minor)))
	if errors.Is(err, unix.EPERM) && !w.all {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "make the " + n.Kind(), Path: to, Err: err}
	}
	return true, nil
}

// hole is the least run of zeros that becomes a hole, in bytes, and what its place
// is a multiple of.
const hole = 4096

func writeFile(to, p string, n *Node) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	var w io.Writer = f
	if n.Holes {
		w = &holeWriter{f: f}
	}
	err = n.copyTo(w, p)
	if err == nil {
		err = f.Truncate(n.Size)
	}
	return errors.Join(err, f.Close())
}

// A holeWriter writes what is not zero.
type holeWriter struct {
	f   *os.File
	off int64
}

func (w *holeWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		k := min(len(p)-n, int(hole-w.off%hole))
		if piece := p[n : n+k]; !isZero(piece) {
			if _, err := w.f.WriteAt(piece, w.off); err != nil {
				return n, err
			}
		}
		w.off += int64(k)
		n += k
	}
	return n, nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// attributes gives a file what it has beside its content: first the owner, which
// takes setuid away, last the time.
func (w *dirWriter) attributes(to string, n *Node) error {
	lost := false
	try := func(what string, err error) error {
		if err == nil {
			return nil
		}
		if !w.all && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) || errors.Is(err, unix.EOPNOTSUPP) {
			lost = true
			return nil
		}
		return &fs.PathError{Op: what, Path: to, Err: err}
	}
	if err := try("set the owner of", unix.Lchown(to, n.UID, n.GID)); err != nil {
		return err
	}
	for k, v := range n.Xattrs {
		if err := try("set "+k+" of", unix.Lsetxattr(to, k, []byte(v), 0)); err != nil {
			return err
		}
	}
	if n.Mode.Type() != fs.ModeSymlink {
		if err := try("set the mode of", unix.Chmod(to, n.UnixMode()&0o7777)); err != nil {
			return err
		}
	}
	ts, err := unix.TimeToTimespec(n.ModTime)
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err := try("set the time of", err); err != nil {
		return err
	}
	if lost {
		w.skipped++
	}
	return nil
}
