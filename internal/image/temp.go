package image

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
)

// tempMark is in the name of a file that is being made, between the name it will
// have and a number.
const tempMark = ".multidd-tmp-"

// A temp is a file that is being made under a temporary name. Whoever makes it
// holds a lock on it, which ends with the process: so what a process that died
// has left behind can be told from it.
type temp struct {
	f    *os.File
	name string // "": it is not there under a temporary name any more
	n    atomic.Int64

	flush   chan struct{}         // asks for what was written to go to the disk
	stopped bool                  // flush is closed
	flushed chan struct{}         // closed when nobody does that any more
	failed  atomic.Pointer[error] // why it did not get there; the system says so once
}

// flushStep is how many bytes are written before the disk is asked to begin with
// them, so that not all of them have to be waited for at the end.
const flushStep = 32 << 20

// newTemp makes a file beside the one it is to become.
func newTemp(path string) (*temp, error) {
	for range 100 {
		name := fmt.Sprintf("%s%s%08x", path, tempMark, rand.Uint32())
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o666)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// Where locks are not to be had, files left behind stay.
		_ = flock(f.Fd(), syscall.LOCK_EX|syscall.LOCK_NB)
		if !stillThere(f, name) { // swept away before it was locked
			_ = f.Close()
			continue
		}
		t := &temp{f: f, name: name, flush: make(chan struct{}, 1), flushed: make(chan struct{})}
		go t.flushing()
		return t, nil
	}
	return nil, fs.ErrExist
}

func stillThere(f *os.File, name string) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(name)
	return err == nil && os.SameFile(is, named)
}

// sweep removes what processes that died have left of an image, its map and its
// digests.
func sweep(path string) {
	dir, plain := filepath.Dir(path), filepath.Base(unpackedName(path))
	all, _ := os.ReadDir(dir)
	for _, e := range all {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), plain) || !isTemp(e.Name()) {
			continue
		}
		become := filepath.Join(dir, e.Name()[:strings.LastIndex(e.Name(), tempMark)])
		if n := namesFor(path); become == filepath.Clean(n.image) || isBeside(n, become) {
			removeUnlocked(filepath.Join(dir, e.Name()))
		}
	}
}

func isBeside(n names, path string) bool {
	for _, b := range n.beside() {
		if filepath.Clean(b) == path {
			return true
		}
	}
	return false
}

// isTemp tells whether a name is one that newTemp gives.
func isTemp(name string) bool {
	i := strings.LastIndex(name, tempMark)
	if i < 0 || len(name)-i-len(tempMark) != 8 {
		return false
	}
	return strings.Trim(name[i+len(tempMark):], "0123456789abcdef") == ""
}

func removeUnlocked(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if flock(f.Fd(), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		_ = os.Remove(path)
	}
}

func (t *temp) Write(p []byte) (int, error) {
	if err := t.trouble(); err != nil {
		return 0, err
	}
	n, err := t.f.Write(p)
	t.wrote(n)
	return n, err
}

func (t *temp) WriteAt(p []byte, off int64) (int, error) {
	if err := t.trouble(); err != nil {
		return 0, err
	}
	n, err := t.f.WriteAt(p, off)
	t.wrote(n)
	return n, err
}

func (t *temp) Truncate(size int64) error { return t.f.Truncate(size) }

func (t *temp) wrote(n int) {
	if now := t.n.Add(int64(n)); now/flushStep != (now-int64(n))/flushStep {
		select {
		case t.flush <- struct{}{}:
		default: // it is still at it
		}
	}
}

func (t *temp) flushing() {
	defer close(t.flushed)
	for range t.flush {
		if err := t.f.Sync(); err != nil && t.trouble() == nil {
			t.failed.Store(&err)
		}
	}
}

func (t *temp) trouble() error {
	if err := t.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// finish waits until all of the file is on the disk.
func (t *temp) finish() error {
	t.stop()
	if err := t.trouble(); err != nil {
		return err
	}
	return t.f.Sync()
}

func (t *temp) stop() {
	if !t.stopped {
		t.stopped = true
		close(t.flush)
	}
	<-t.flushed
}

// rename gives the file its name, also if another file has it.
func (t *temp) rename(name string) error {
	err := os.Rename(t.name, name)
	if err == nil {
		t.name = ""
	}
	return err
}

// link gives the file its name, unless another file has it.
func (t *temp) link(name string) error {
	switch err := os.Link(t.name, name); {
	case err == nil:
		_ = os.Remove(t.name)
		t.name = ""
		return nil
	case errors.Is(err, fs.ErrExist), exists(name):
		return fs.ErrExist
	}
	return t.rename(name) // a file system on which a file has one name only
}

// remove ends the file, and removes it if it still has its temporary name.
func (t *temp) remove() {
	t.stop()
	if t.name != "" {
		_ = os.Remove(t.name)
	}
	_ = t.f.Close()
}
