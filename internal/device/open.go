package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how a card is opened. The zero value allows the least and takes
// what it gets.
type Options struct {
	Policy Policy
	// Strict refuses a card that can only be read through the page cache. Without
	// it such a card's cache is dropped before each reading, and Card.Direct
	// tells.
	Strict bool

	// For tests.
	lockWait time.Duration // how long to wait for the lock; 0: lockWait
	buffered bool          // as if O_DIRECT were refused everywhere
	claimed  func()        // called when all disks have been claimed
}

// lockWait is how long another program's lock is waited for: udev takes one for
// moments whenever a disk has been closed.
const lockWait = 3 * time.Second

// Open judges d and opens it for raw, exclusive use until Close: no file system
// can be mounted from it meanwhile, and no other copy of multidd gets it. Then the
// opened device itself is asked what it is; if that is not what d says, another
// card sits there than the one that was looked at, and Open fails with
// ReasonTargetChanged. What the device says is judged once more.
//
// Nothing is written. A plain file that is not there yet is only made by
// Card.Prepare or the first write. Errors have a Reason; one that is
// fs.ErrPermission has none.
func (s System) Open(d Disk, o Options) (*Card, error) {
	c := s.OpenAll([]Disk{d}, o)[0]
	return c.Card, c.Err
}

// An Opened is an opened disk, or why it could not be opened.
type Opened struct {
	Card *Card
	Err  error
}

// OpenAll is Open for each of some disks. They are judged together, then opened
// all at once, and when the last one has been claimed, a new look at the computer
// tells what each of them is by now. Looking is what takes long, and one look tells
// of all disks.
func (s System) OpenAll(disks []Disk, o Options) []Opened {
	opened := make([]Opened, len(disks))
	for i, refusals := range s.JudgeAll(disks, o.Policy) {
		opened[i].Err = refused(refusals)
	}
	var claiming sync.WaitGroup
	for i, d := range disks {
		if c := &opened[i]; c.Err == nil {
			claiming.Go(func() { c.Card, c.Err = s.claim(d, o) })
		}
	}
	claiming.Wait()
	if o.claimed != nil {
		o.claimed()
	}
	look := sync.OnceValues(s.load)
	for i := range opened {
		c := &opened[i]
		if c.Err != nil {
			continue
		}
		if t, err := look(); err != nil {
			c.Err = refused([]Refusal{unseen(disks[i], err)})
		} else {
			c.Err = t.admit(c.Card)
		}
		if c.Err != nil {
			c.Card.Close()
			c.Card = nil
		}
	}
	return opened
}

// claim opens a disk so that nobody else gets it. What it is has yet to be looked
// at, by admit.
func (s System) claim(d Disk, o Options) (*Card, error) {
	if d.Bus == BusFile {
		return s.openFile(d, o)
	}
	file, direct, err := s.openNode(d, o)
	if err != nil {
		return nil, err
	}
	if err = isNode(d, file); err == nil {
		err = lock(d, file, o)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	c := &Card{sys: s, disk: d, options: o}
	h := &handle{file: file}
	if direct {
		h.direct = file
	}
	c.handle.Store(h)
	return c, nil
}

// openNode opens a disk's node, past the page cache if that can be.
func (s System) openNode(d Disk, o Options) (file *os.File, direct bool, err error) {
	const flags = os.O_RDWR | unix.O_EXCL // without O_CREAT: claim the device
	err = unix.EINVAL
	if !o.buffered {
		file, err = os.OpenFile(d.Path, flags|unix.O_DIRECT, 0)
	}
	if direct = err == nil; direct {
		return file, true, nil
	}
	if isAny(err, unix.EINVAL) {
		if o.Strict {
			return nil, false, noDirectIO(d)
		}
		if file, err = os.OpenFile(d.Path, flags, 0); err == nil {
			return file, false, nil
		}
	}
	switch {
	case isAny(err, unix.EBUSY):
		return nil, false, s.busy(d, err)
	case isAny(err, unix.EROFS), isAny(err, unix.EACCES, unix.EPERM) && attr(s.sys("class/block", d.Name), "ro") == "1":
		return nil, false, newError(ReasonReadOnly, err, "%s is write-protected; %s", d.Path, tabHint)
	case errors.Is(err, fs.ErrPermission):
		return nil, false, newError("", err, "open %s: you have no right to write to it; run as root, or join the group that owns it", d.Path)
	case isAny(err, unix.ENOMEDIUM):
		return nil, false, newError(ReasonEmpty, err, "there is no card in slot %s (%s); put one in", d.Slot, d.Path)
	case isAny(err, unix.ENOENT, unix.ENXIO, unix.ENODEV):
		return nil, false, newError(ReasonNoSuchDevice, err, "%s has gone away; put it in again", d.Path)
	}
	return nil, false, newError("", err, "open %s: %v", d.Path, cause(err))
}

func noDirectIO(d Disk) error {
	return newError(ReasonNoDirectIO, nil, "%s can only be read through the page cache, which proves nothing; use another disk, or do without the strict rule", d.Path)
}

// admit compares a claimed disk with what was looked at before, and judges it by
// what it says of itself. t was loaded after it was claimed.
func (t *tree) admit(c *Card) error {
	d, h := c.disk, c.handle.Load()
	if d.Bus == BusFile {
		return refused(t.judge(d, c.options.Policy))
	}
	n := t.byName[d.Name]
	if n == nil {
		return newError(ReasonRemoved, nil, "%s has just gone away; put it in again", d.Path)
	}
	now, err := askAgain(t.describe(n), h.file)
	if err != nil {
		return err
	}
	if diff := changed(d, now); diff != "" {
		return newError(ReasonTargetChanged, nil, "%s is not what it was when it was looked at (%s); look again at what is in it", d.Path, diff)
	}
	if err := refused(t.judge(now, c.options.Policy)); err != nil {
		return err
	}
	c.disk = now
	h.align, h.unit = int64(now.Sector), int64(now.Sector)
	if h.direct == nil {
		h.unit = int64(max(os.Getpagesize(), now.Sector))
		noReadahead(h.file)
	}
	c.before, c.counted = c.sys.traffic(now.Name)
	return nil
}

// isNode makes sure that what was opened is the device of that number, and not a
// file that took its name.
func isNode(d Disk, file *os.File) error {
	var st unix.Stat_t
	if err := control(file, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return newError("", err, "look at %s: %v", d.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return newError(ReasonNotACard, nil, "%s is %s where a device should be; delete it", d.Path, kindOf(st.Mode))
	}
	if dev := splitDev(uint64(st.Rdev)); dev != d.devno() {
		return newError(ReasonTargetChanged, nil, "%s is now device %v and was %v; look at the list of devices again", d.Path, dev, d.devno())
	}
	return nil
}

// lock keeps other well-behaved programs (udev, other copies of multidd) from the
// card, as https://systemd.io/BLOCK_DEVICE_LOCKING asks.
func lock(d Disk, file *os.File, o Options) error {
	wait := o.lockWait
	if wait == 0 {
		wait = lockWait
	}
	for end := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		err := control(file, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil || d.Bus == BusFile && isAny(err, unix.ENOLCK, unix.EOPNOTSUPP) {
			return nil // some network file systems have no locks
		}
		if !isAny(err, unix.EWOULDBLOCK) {
			return newError("", err, "lock %s: %v", d.Path, err)
		}
		if time.Now().After(end) {
			return newError(ReasonBusy, err, "%s is locked by another program; end that first", d.Path)
		}
	}
}

// askAgain returns d with all that the opened device itself can tell. Only what it
// cannot comes from sysfs.
func askAgain(d Disk, file *os.File) (Disk, error) {
	size, err := ioctlUint64(file, unix.BLKGETSIZE64)
	if err != nil {
		return Disk{}, newError(ReasonUnknown, err, "ask %s for its size: %v", d.Path, err)
	}
	sector, err := ioctlInt(file, unix.BLKSSZGET)
	if err != nil || sector < 512 {
		return Disk{}, newError(ReasonUnknown, err, "ask %s for its sector size: got %d, %v", d.Path, sector, err)
	}
	ro, err := ioctlInt(file, unix.BLKROGET)
	if err != nil {
		return Disk{}, newError(ReasonUnknown, err, "ask %s whether it is write-protected: %v", d.Path, err)
	}
	// What lies beyond the last whole sector cannot be reached.
	d.Size = int64(size) / int64(sector) * int64(sector)
	d.Sector = sector
	d.ReadOnly = d.ReadOnly || ro != 0
	if seq, err := ioctlUint64(file, unix.BLKGETDISKSEQ); err == nil {
		d.DiskSeq = seq // Linux 5.15 and later; before that there is none
	}
	return d, nil
}

// changed tells in what a disk differs from what it was, or returns "". A fact
// that one of them lacks is not compared, but for the size.
func changed(was, is Disk) string {
	var diff []string
	if was.Name != is.Name {
		diff = append(diff, fmt.Sprintf("name %s, was %s", is.Name, was.Name))
	}
	sector := int64(max(is.Sector, 1))
	if was.Size/sector != is.Size/sector {
		diff = append(diff, fmt.Sprintf("size %d bytes, was %d", is.Size, was.Size))
	}
	if was.Serial != is.Serial {
		diff = append(diff, fmt.Sprintf("serial %q, was %q", is.Serial, was.Serial))
	}
	if was.DiskSeq != 0 && is.DiskSeq != 0 && was.DiskSeq != is.DiskSeq {
		diff = append(diff, "put in anew since")
	}
	return strings.Join(diff, ", ")
}

// cause returns the system's error without the path and operation around it.
func cause(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
