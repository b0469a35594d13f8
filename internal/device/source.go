package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A Source is a disk, or a plain file, opened for reading only. While it is open no
// file system can be mounted from it, unless one was mounted read-only before, and
// no other copy of multidd gets it.
//
// ReadAt, Check and Close may be called from several goroutines at once; StartRead
// and Wait from one at a time. Errors of reading name the place, and have a Reason.
type Source struct {
	c     *Card
	stamp fileStamp // of a plain file
}

// A fileStamp is what changes when a file is written.
type fileStamp struct {
	id    fileID
	size  int64
	mtime unix.Timespec
}

// OpenSource finds a disk or file by any name that Find takes, judges it with
// JudgeSource and opens it for reading, past the page cache if that can be. As in
// Open, the opened device itself is asked what it is; if another one sits there than
// the one that was looked at, the error has ReasonTargetChanged.
//
// Of Options, the policy is not looked at: reading does no harm, whatever the disk.
func (s System) OpenSource(name string, o Options) (*Source, error) {
	d, err := s.Find(name)
	if err != nil {
		return nil, err
	}
	if err := refused(s.JudgeSource(d)); err != nil {
		return nil, err
	}
	if d.Bus == BusFile {
		return s.openSourceFile(d, o)
	}
	file, direct, err := s.openSourceNode(d, o)
	if err != nil {
		return nil, err
	}
	src, err := s.admitSource(d, o, file, direct)
	if err != nil {
		file.Close()
		return nil, err
	}
	return src, nil
}

// JudgeSource decides whether what is read from a disk would be one state of it: it
// may be read if there are no refusals. Any disk may be, the system's own too, if
// nothing that is in use can change it meanwhile: a file system that is mounted
// read-only is all right, one that may be written is not, nor is swap, nor are
// devices made of the disk (LVM, RAID, encryption, loop).
func (s System) JudgeSource(d Disk) []Refusal {
	t, err := s.load()
	if err != nil {
		return []Refusal{refusal(ReasonUnknown, "%s cannot be read safely: %v", d.Path, err)}
	}
	return t.judgeSource(d)
}

func (t *tree) judgeSource(d Disk) []Refusal {
	j := judgement{t: t, d: d}
	if d.Bus == BusFile {
		j.sourceFile()
		return j.refusals
	}
	n := t.byName[d.Name]
	if n == nil || n.dev != d.devno() || n.disk != n {
		return []Refusal{refusal(ReasonNoSuchDevice, "%s is not there any more; look at the list of devices again", d.Path)}
	}
	j.stack = t.above(n)
	j.known()
	j.changing()
	j.held(n)
	switch {
	case d.Size == 0 && d.Bus == BusLoop:
		j.refuse(ReasonEmpty, "no file is attached to %s; attach one first: losetup %s FILE", d.Path, d.Path)
	case d.Size == 0:
		j.refuse(ReasonEmpty, "there is no card in slot %s (%s); put one in", d.Slot, d.Path)
	}
	return j.refusals
}

// changing refuses a disk that somebody may write to through a file system, or that
// is swapped to.
func (j *judgement) changing() {
	for _, n := range j.stack {
		for _, u := range j.t.uses[n] {
			where := Clean(u.where)
			switch {
			case u.swap:
				j.refuse(ReasonMounted, "%s is in use as swap, so that it changes while it is read; turn it off first: swapoff %s", where, where)
			case u.system() && !u.readOnly:
				j.refuse(ReasonSystemDisk, "this system runs from %s, which is mounted at %s and changes while it is read; read it in another computer", j.t.sys.node(n.name), where)
			case !u.readOnly:
				j.refuse(ReasonMounted, "%s is mounted at %s, so that it changes while it is read; unmount it first: umount %s", j.t.sys.node(n.name), where, where)
			}
		}
	}
}

// sourceFile judges a plain file. One that is attached as a disk, and may be written
// there, is refused like the disk.
func (j *judgement) sourceFile() {
	d := j.d
	switch {
	case d.file == (fileID{}):
		j.refuse(ReasonNoSuchDevice, "there is no %s; name a card, or a file that is there", d.Path)
		return
	case d.Size <= 0:
		j.refuse(ReasonEmpty, "%s is empty; name a card, or a file with something in it", d.Path)
	case slices.Contains(j.t.swapFiles, d.file):
		j.refuse(ReasonMounted, "%s is in use as swap, so that it changes while it is read; turn it off first: swapoff %s", d.Path, d.Path)
	}
	for _, n := range j.t.attached(d.file) {
		if attr(n.dir, "ro") == "1" {
			continue
		}
		j.stack = j.t.above(n)
		if j.changing(); len(j.refusals) == 0 {
			j.refuse(ReasonBusy, "%s is attached to %s; name that, or detach it first: losetup -d %s", d.Path, n.name, j.t.sys.node(n.name))
		}
		return
	}
}

// openSourceNode opens a disk's node, exclusively unless something is mounted from
// it: that would have to be given up first, and does not change it.
func (s System) openSourceNode(d Disk, o Options) (file *os.File, direct bool, err error) {
	flags := os.O_RDONLY | unix.O_EXCL // without O_CREAT: claim the device
	if s.mounted(d) {
		flags = os.O_RDONLY
	}
	err = unix.EINVAL
	if !o.buffered {
		file, err = os.OpenFile(d.Path, flags|unix.O_DIRECT, 0)
	}
	if err == nil {
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
	case errors.Is(err, fs.ErrPermission):
		return nil, false, noRightToRead(d, err)
	case isAny(err, unix.ENOMEDIUM):
		return nil, false, newError(ReasonEmpty, err, "there is no card in slot %s (%s); put one in", d.Slot, d.Path)
	case isAny(err, unix.ENOENT, unix.ENXIO, unix.ENODEV):
		return nil, false, newError(ReasonNoSuchDevice, err, "%s has gone away; put it in again", d.Path)
	}
	return nil, false, newError("", err, "open %s: %v", d.Path, cause(err))
}

func noRightToRead(d Disk, err error) error {
	if d.Bus == BusFile {
		return newError("", err, "open %s: you have no right to read it", d.Path)
	}
	return newError("", err, "open %s: you have no right to read it; run as root, or join the group that owns it", d.Path)
}

// mounted tells whether anything on a disk is in use, so that it cannot be claimed.
func (s System) mounted(d Disk) bool {
	t, err := s.load()
	if err != nil || t.byName[d.Name] == nil {
		return false
	}
	return slices.ContainsFunc(t.above(t.byName[d.Name]), func(n *node) bool { return len(t.uses[n]) > 0 })
}

// admitSource is admit for reading.
func (s System) admitSource(d Disk, o Options, file *os.File, direct bool) (*Source, error) {
	if err := isNode(d, file); err != nil {
		return nil, err
	}
	if err := lock(d, file, o); err != nil {
		return nil, err
	}
	t, err := s.load()
	if err != nil {
		return nil, newError(ReasonUnknown, err, "%s cannot be read safely: %v", d.Path, err)
	}
	n := t.byName[d.Name]
	if n == nil {
		return nil, newError(ReasonRemoved, nil, "%s has just gone away; put it in again", d.Path)
	}
	now, err := askAgain(t.describe(n), file)
	if err != nil {
		return nil, err
	}
	if diff := changed(d, now); diff != "" {
		return nil, newError(ReasonTargetChanged, nil, "%s is not what it was when it was looked at (%s); look again at what is in it", d.Path, diff)
	}
	if err := refused(t.judgeSource(now)); err != nil {
		return nil, err
	}
	c := &Card{sys: s, disk: now, options: o}
	h := &handle{file: file, align: int64(now.Sector), unit: int64(now.Sector)}
	if direct {
		h.direct = file
	}
	c.handle.Store(h)
	c.before, c.counted = s.traffic(now.Name)
	return &Source{c: c}, nil
}

// openSourceFile opens a plain file.
func (s System) openSourceFile(d Disk, o Options) (*Source, error) {
	// O_NONBLOCK: should a pipe have taken the name, do not wait for its other end.
	file, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, noRightToRead(d, err)
	case err != nil:
		return nil, openFileError(d, err)
	}
	stamp, err := stampOf(file)
	if err == nil && (stamp.id != d.file || stamp.size != d.Size) {
		err = newError(ReasonTargetChanged, nil, "%s is not the file it was when it was looked at; look at it again", d.Path)
	}
	if err == nil {
		err = lockShared(d, file)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	h := &handle{file: file, align: 1, unit: 1}
	if direct, align := openDirect(file, os.O_RDONLY, o); direct != nil {
		h.direct, h.align = direct, align
	}
	c := &Card{sys: s, disk: d, options: o}
	c.handle.Store(h)
	return &Source{c, stamp}, nil
}

// lockShared keeps other copies of multidd from writing to a file.
func lockShared(d Disk, file *os.File) error {
	err := control(file, func(fd int) error { return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) })
	switch {
	case err == nil, isAny(err, unix.ENOLCK, unix.EOPNOTSUPP):
		return nil // some network file systems have no locks
	case isAny(err, unix.EWOULDBLOCK):
		return newError(ReasonBusy, err, "%s is locked by another program; end that first", d.Path)
	}
	return newError("", err, "lock %s: %v", d.Path, err)
}

func stampOf(file *os.File) (fileStamp, error) {
	var st unix.Stat_t
	if err := control(file, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return fileStamp{}, fmt.Errorf("look at %s: %w", file.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fileStamp{}, newError(ReasonNotACard, nil, "%s is %s, not a plain file", file.Name(), kindOf(st.Mode))
	}
	return fileStamp{fileID{splitDev(uint64(st.Dev)), st.Ino}, st.Size, st.Mtim}, nil
}

// Disk returns what the opened device said of itself.
func (s *Source) Disk() Disk { return s.c.disk }

// Size returns the size in bytes.
func (s *Source) Size() int64 { return s.c.disk.Size }

// Sector returns the logical sector in bytes.
func (s *Source) Sector() int { return s.c.disk.Sector }

// Direct tells whether reading goes past the page cache. If not, the cache is
// dropped before each reading.
func (s *Source) Direct() bool { return s.c.Direct() }

// ReadAt reads from the medium, as io.ReaderAt.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	if err := s.c.sameMedium(s.c.handle.Load()); err != nil {
		return 0, err
	}
	return s.c.ReadAt(p, off)
}

// StartRead begins to read p at off; see Card.StartRead.
func (s *Source) StartRead(p []byte, off int64) error {
	if err := s.c.sameMedium(s.c.handle.Load()); err != nil {
		return err
	}
	return s.c.StartRead(p, off)
}

// Wait waits for the oldest request that was started and not yet waited for, and
// returns what became of it; see Card.Wait.
func (s *Source) Wait() error { return s.c.Wait() }

// Check returns an error if this is not the disk any more that was opened
// (ReasonRemoved, ReasonTargetChanged), or if somebody wrote to it meanwhile
// (ReasonForeignWrite), so that what was read is a mixture.
func (s *Source) Check() error {
	if s.c.disk.Bus != BusFile {
		return s.c.Check()
	}
	now, err := stampOf(s.c.handle.Load().file)
	if err != nil {
		return err
	}
	if now != s.stamp {
		return newError(ReasonForeignWrite, nil, "somebody wrote to %s while it was read; find the program that did, and end it", s.c.disk.Path)
	}
	return nil
}

// Close lets go of the disk. It returns at once, even while a request is stuck; see
// Card.Close.
func (s *Source) Close() error { return s.c.Close() }

// DropCache has the kernel forget what it holds of a file in its page cache, as far as
// that is on the disk already, so that reading it again reads the disk.
func DropCache(file *os.File) error {
	return control(file, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
}
