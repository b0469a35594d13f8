package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openFile opens a plain file that stands for a card. One with something in it is
// a card of that size; one that is new or empty grows.
func (s System) openFile(d Disk, o Options) (*Card, error) {
	if s.inDev(d.Path) {
		return nil, newError(ReasonNoSuchDevice, nil, "there is no device %s, and no file is made where devices are; name another", d.Path)
	}
	c := &Card{sys: s, disk: d, options: o}
	// O_NONBLOCK: should a pipe have taken the name, do not wait for its other end.
	file, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.file == (fileID{}):
		return c, nil
	case err == nil && d.file == (fileID{}):
		file.Close()
		return nil, fileAppeared(d, nil)
	case err != nil:
		return nil, openFileError(d, err)
	}
	h, err := newHandle(d, file, o)
	if err != nil {
		file.Close()
		return nil, err
	}
	if h.id != d.file || max(h.size, 0) != max(d.Size, 0) {
		h.close()
		return nil, newError(ReasonTargetChanged, nil, "%s is not the file it was when it was looked at; look at it again", d.Path)
	}
	c.handle.Store(h)
	return c, nil
}

func fileAppeared(d Disk, err error) error {
	return newError(ReasonTargetChanged, err, "%s was not there when it was looked at, and now it is; look at it again", d.Path)
}

func openFileError(d Disk, err error) error {
	reason := ""
	switch {
	case isAny(err, unix.EROFS):
		reason = ReasonReadOnly
	case isAny(err, unix.ETXTBSY, unix.EBUSY):
		reason = ReasonBusy
	case errors.Is(err, fs.ErrNotExist):
		reason = ReasonTargetChanged
	}
	return newError(reason, err, "open %s: %v", d.Path, cause(err))
}

// newHandle takes over an opened file: makes sure that it is one, locks it, and
// opens it a second time for direct I/O if its file system can do that. After an
// error the file is still the caller's.
func newHandle(d Disk, file *os.File, o Options) (*handle, error) {
	var st unix.Stat_t
	if err := control(file, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return nil, newError("", err, "look at %s: %v", d.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, newError(ReasonNotACard, nil, "%s is %s, not a plain file", d.Path, kindOf(st.Mode))
	}
	if err := lock(d, file, o); err != nil {
		return nil, err
	}
	h := &handle{file: file, id: fileID{splitDev(uint64(st.Dev)), st.Ino}, size: st.Size, align: 1, unit: 1}
	if direct, align := openDirect(file, os.O_RDWR, o); direct != nil {
		h.direct, h.align = direct, align
		return h, nil
	}
	if o.Strict {
		return nil, noDirectIO(d)
	}
	noReadahead(file)
	return h, nil
}

// openDirect opens a file once more, past the page cache, for reading or for both
// as how says, and returns what requests must be aligned to. It returns nil if the
// file system does not do that.
func openDirect(file *os.File, how int, o Options) (direct *os.File, align int64) {
	if o.buffered {
		return nil, 1
	}
	align = 4096
	var st unix.Statx_t
	err := control(file, func(fd int) error {
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
			if st.Dio_offset_align == 0 {
				return unix.EINVAL
			}
			align = int64(max(st.Dio_offset_align, st.Dio_mem_align))
		}
		var err error
		direct, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), how|unix.O_DIRECT, 0)
		return err
	})
	if err != nil {
		return nil, 1
	}
	return direct, align
}

// noReadahead keeps a cache that is to be empty from being filled ahead of time.
func noReadahead(file *os.File) {
	_ = control(file, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) })
}

// Prepare makes a plain file that is not there yet, and lets one that grows be
// size bytes long, all zeros where nothing is written. On a device it does
// nothing. It need not be called: the first write makes the file too.
func (c *Card) Prepare(size int64) error {
	if c.disk.Bus != BusFile {
		return nil
	}
	h, err := c.ready()
	if err != nil || c.disk.Size >= 0 {
		return err
	}
	err = control(h.file, func(fd int) error { return unix.Ftruncate(fd, size) })
	if err != nil {
		return c.failure(opWrite, err, size, 0)
	}
	return nil
}

// ready returns what to read and write by, after making the file if that is yet to
// be done. It must not be there: whatever took its name was not looked at.
func (c *Card) ready() (*handle, error) {
	if h := c.handle.Load(); h != nil {
		return h, nil
	}
	c.making.Lock()
	defer c.making.Unlock()
	if h := c.handle.Load(); h != nil {
		return h, nil
	}
	d := c.disk
	if c.closed.Load() {
		return nil, newError("", os.ErrClosed, "write to %s: it is closed", d.Path)
	}
	file, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return nil, fileAppeared(d, err)
	}
	if err != nil {
		return nil, openFileError(d, err)
	}
	h, err := newHandle(d, file, c.options)
	if err != nil {
		file.Close()
		_ = os.Remove(d.Path) // ours, empty, and of no use
		return nil, err
	}
	h.made = true
	c.handle.Store(h)
	return h, nil
}

// syncDir makes a new file's name durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// checkFile is Check for a plain file.
func (c *Card) checkFile() error {
	h := c.handle.Load()
	if h == nil {
		return nil
	}
	d := c.disk
	var byPath, byFile unix.Stat_t
	if err := control(h.file, func(fd int) error { return unix.Fstat(fd, &byFile) }); err != nil {
		return newError(ReasonRemoved, err, "look at %s: %v", d.Path, cause(err))
	}
	err := retry(func() error { return unix.Stat(d.Path, &byPath) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return newError(ReasonRemoved, err, "%s was deleted while it was written", d.Path)
	case err != nil:
		return newError(ReasonRemoved, err, "look at %s: %v", d.Path, err)
	case byPath.Ino != byFile.Ino || byPath.Dev != byFile.Dev:
		return newError(ReasonTargetChanged, nil, "another file has taken the place of %s", d.Path)
	case d.Size >= 0 && byFile.Size != d.Size || byFile.Size < c.extent.Load():
		return newError(ReasonTargetChanged, nil, "somebody changed the length of %s to %d bytes", d.Path, byFile.Size)
	}
	return nil
}
