package device

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An op is what is being done to a card. The first two have the numbers that the
// kernel's asynchronous I/O gives them.
type op int

const (
	opRead op = iota
	opWrite
	opSync
)

func (o op) String() string { return [...]string{"read", "write", "flush"}[o] }

// reason is what a failure is called that has no other cause than the card.
func (o op) reason() string { return [...]string{ReasonReadEIO, ReasonWriteEIO, ReasonFlush}[o] }

// failure makes an error of what the system said when it was to do op with n bytes
// at off. A card that was pulled fails with all kinds of errors, so it is looked
// for first.
func (c *Card) failure(o op, err error, off int64, n int) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	what := fmt.Sprintf("%s %d bytes at byte %d of %s: %v", o, n, off, c.disk.Path, cause(err))
	if o == opSync {
		what = fmt.Sprintf("flush %s: %v", c.disk.Path, cause(err))
	}
	reason := o.reason()
	switch {
	case errors.Is(err, os.ErrClosed):
		return newError("", err, "%s", what)
	case isAny(err, unix.EROFS, unix.EACCES, unix.EPERM):
		return newError(ReasonReadOnly, err, "%s; %s", what, tabHint)
	case isAny(err, unix.ENOSPC, unix.EFBIG, unix.EDQUOT):
		reason = ReasonTooSmall // unless it is gone: the kernel says then that it ends at byte 0
	case isAny(err, unix.ENODEV, unix.ENXIO, unix.ENOMEDIUM):
		reason = ReasonRemoved
	}
	if gone := c.gone(); gone != nil {
		return newError(gone.reason, err, "%s: %s", what, gone.text)
	}
	return newError(reason, err, "%s", what)
}

// patience is how long a Card waits in all, after errors, for the kernel to notice
// that the card or its reader is gone: requests may fail before that.
const patience = 2 * time.Second

// gone returns why the disk is not the one that was opened any more, or nil. It is
// for when a request has failed.
func (c *Card) gone() *Error {
	if c.disk.Bus == BusFile {
		return nil
	}
	const step = 50 * time.Millisecond
	for try := 0; ; try++ {
		gone := c.still()
		if gone != nil || try == 10 || c.disk.Bus != BusUSB && c.disk.Bus != BusMMC || time.Duration(c.waited.Add(int64(step))) > patience {
			return gone
		}
		time.Sleep(step)
	}
}

// Check returns an error if the card is not the one that was opened any more
// (ReasonRemoved, ReasonTargetChanged), or if somebody else wrote to it
// (ReasonForeignWrite): if the kernel has counted more bytes written to the disk
// than this Card sent. Writes that failed count as sent, so a foreign one may hide
// behind them; and where the kernel does not count, none is seen. Of a plain file,
// only its identity and length are looked at.
func (c *Card) Check() error {
	if c.disk.Bus == BusFile {
		return c.checkFile()
	}
	if gone := c.still(); gone != nil {
		return gone
	}
	now, ok := c.sys.traffic(c.disk.Name)
	if !c.counted || !ok {
		return nil
	}
	written, discarded := now.written.since(c.before.written), now.discarded.since(c.before.discarded)
	sent := c.sent.Load() // after the counters, lest a write in between look foreign
	switch {
	case written > sent:
		return newError(ReasonForeignWrite, nil, "%s took %d bytes that we did not write; find the program that did, and end it", c.disk.Path, written-sent)
	case discarded > 0:
		return newError(ReasonForeignWrite, nil, "somebody discarded %d bytes of %s; find the program that did, and end it", discarded, c.disk.Path)
	}
	return nil
}

// still returns an error if the disk is not the one that was opened.
func (c *Card) still() *Error {
	d := c.disk
	dir := c.sys.sys("class/block", d.Name)
	if dev, ok := parseDev(attr(dir, "dev")); !ok || dev != d.devno() {
		return newError(ReasonRemoved, nil, "%s is gone: the card or its reader was pulled", d.Path)
	}
	h := c.handle.Load()
	poke(d.Path)
	size, err := ioctlUint64(h.file, unix.BLKGETSIZE64)
	switch size := int64(size) / int64(d.Sector) * int64(d.Sector); {
	case err != nil:
		return nil // closed
	case size == 0:
		return newError(ReasonRemoved, nil, "the card was taken out of %s", d.Slot)
	case size != d.Size:
		return newError(ReasonTargetChanged, nil, "the card in %s was changed: it now has %d bytes and had %d", d.Slot, size, d.Size)
	}
	seq, err := ioctlUint64(h.file, unix.BLKGETDISKSEQ)
	if err != nil {
		seq = uint64(attrInt(dir, "diskseq"))
	}
	if seq != d.DiskSeq {
		return newError(ReasonTargetChanged, nil, "the card in %s was taken out and put in again, or changed for another", d.Slot)
	}
	return nil
}

// sameMedium returns an error if the kernel knows that the medium has been changed.
// It asks no more than that, so that every write can be preceded by it: a card that
// waits for its turn may be exchanged meanwhile, and the kernel would go on writing
// to the next one.
func (c *Card) sameMedium(h *handle) error {
	if c.disk.Bus == BusFile || c.disk.DiskSeq == 0 {
		return nil
	}
	if seq, err := ioctlUint64(h.file, unix.BLKGETDISKSEQ); err == nil && seq != c.disk.DiskSeq {
		return newError(ReasonTargetChanged, nil, "the card in %s was taken out and put in again, or changed for another", c.disk.Slot)
	}
	return nil
}

// traffic is what the kernel counts of a disk's requests, in sectors of 512 bytes
// (Documentation/block/stat.rst).
type traffic struct {
	written, discarded sectors
}

type sectors uint64

// since returns how many bytes a counter has gone on. It has 32 bits on some
// machines, and a reader that stays for years gets there.
func (s sectors) since(before sectors) int64 {
	if s < before {
		s += 1 << 32
	}
	return int64(s-before) * 512
}

// traffic reads a disk's counters. It returns false if they do not count.
func (s System) traffic(name string) (t traffic, ok bool) {
	dir := s.sys("class/block", name)
	if attr(dir, "queue/iostats") == "0" {
		return t, false
	}
	x := strings.Fields(attr(dir, "stat"))
	if len(x) < 7 {
		return t, false
	}
	field := func(i int) sectors {
		n, _ := strconv.ParseUint(x[i], 10, 64)
		return sectors(n)
	}
	t.written = field(6)
	if len(x) > 13 {
		t.discarded = field(13)
	}
	return t, true
}
