package device

import (
	"golang.org/x/sys/unix"
)

// CanDiscard returns nil if the card promises that what is discarded reads as zeros
// from then on; else the error says so. For a device the kernel knows that from its
// driver (write_zeroes_max_bytes in Documentation/ABI/stable/sysfs-block: readers
// with a USB plug mostly have none). A plain file promises it as far as its file
// system does, and loses nothing if that does not.
func (c *Card) CanDiscard() error {
	if c.disk.Bus == BusFile || attrInt(c.sys.sys("class/block", c.disk.Name), "queue/write_zeroes_max_bytes") > 0 {
		return nil
	}
	return newError(ReasonNoDiscard, nil, "%s does not promise that what is discarded reads as zeros; leave it as it is, or write zeros", c.disk.Path)
}

// Discard makes n bytes at off read as zeros, without writing them where it can:
// whole sectors of a device, which may forget what was there; a hole in a plain
// file. A device that does not take it after all, and a file system that has no
// holes, are no error: whoever needs the zeros looks for them.
func (c *Card) Discard(off, n int64) error {
	h := c.handle.Load()
	if h == nil {
		return nil // a file that is yet to be made holds nothing
	}
	if err := c.inside(int(n), off); err != nil {
		return err
	}
	end := off + n
	if c.disk.Bus != BusFile {
		sector := int64(c.disk.Sector)
		off, end = (off+sector-1)/sector*sector, end/sector*sector
	}
	if off >= end {
		return nil
	}
	if err := c.sameMedium(h); err != nil {
		return err
	}
	// The kernel counts it as writing, in check.go's sense.
	c.sent.Add(end - off)
	c.unsaved.Store(true)
	err := control(h.file, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, end-off)
	})
	if err != nil && !isAny(err, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL) {
		return c.failure(opWrite, err, off, int(end-off))
	}
	return nil
}
