package device

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Card is an opened target: a disk, or a plain file that stands for one. It can
// be read and written at any offset and in any length. What is aligned goes
// straight to the medium; the rest goes through a buffer of the Card's own, with
// the other bytes of its sectors left as they were.
//
// ReadAt, WriteAt, Check and Close may be called from several goroutines at once;
// StartWrite, StartRead, Wait and Sync from one at a time. Errors of reading and
// writing name the place, and have a Reason.
type Card struct {
	sys     System
	disk    Disk // as the opened device said
	options Options

	handle atomic.Pointer[handle] // nil: a file that is yet to be made
	making sync.Mutex             // held while it is made
	closed atomic.Bool

	before  traffic      // of the disk when it was opened
	counted bool         // the kernel counts traffic
	sent    atomic.Int64 // bytes handed to the kernel for writing, in whole units
	extent  atomic.Int64 // the offset just past the last byte written
	unsaved atomic.Bool  // something was written since the last Sync
	waited  atomic.Int64 // of patience, in nanoseconds

	mu     sync.Mutex // guards bounce, and what is read to be written back
	bounce []byte

	fmu    sync.Mutex // guards what follows
	failed []span     // writes that failed and were not repeated since
	flush  error      // the first failure of Sync: it stays

	queue queue
}

// A handle is what a card is read and written by.
type handle struct {
	file   *os.File // the device, or the file through the page cache
	direct *os.File // past the page cache; nil: cannot be had
	align  int64    // of offsets, lengths and memory for direct, in bytes
	unit   int64    // in how many bytes the kernel counts what is written

	id   fileID // of a plain file, as is the rest
	size int64  // when it was opened
	made bool   // by us, and its name not yet durable
}

func (h *handle) close() error {
	err := h.file.Close()
	if h.direct != nil && h.direct != h.file {
		err = errors.Join(h.direct.Close(), err)
	}
	return err
}

// A span is the range of bytes [off, end).
type span struct{ off, end int64 }

// bounceSize is the length of a Card's own buffer, in bytes. It is only allocated
// by those who write from unaligned memory, or an unaligned end.
const bounceSize = 256 << 10

// Disk returns what the opened device said of itself.
func (c *Card) Disk() Disk { return c.disk }

// Size returns the size in bytes; -1: a file that grows as it is written.
func (c *Card) Size() int64 { return c.disk.Size }

// Sector returns the logical sector in bytes.
func (c *Card) Sector() int { return c.disk.Sector }

// Direct tells whether reading and writing go past the page cache. If not, the
// cache is dropped before each reading, which is nearly as good. Of a file that is
// yet to be made it is not known, and said to be true.
func (c *Card) Direct() bool {
	h := c.handle.Load()
	return h == nil || h.direct != nil
}

// Close lets go of the card. It does not flush. It returns at once, even while a
// request is stuck in a dead reader; the kernel then keeps the device claimed until
// that request ends, and the memory of such a request must be left alone.
func (c *Card) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.queue.close(c)
	if c.mu.TryLock() { // else somebody is stuck with it
		if c.bounce != nil {
			_ = unix.Munmap(c.bounce)
			c.bounce = nil
		}
		c.mu.Unlock()
	}
	c.making.Lock()
	defer c.making.Unlock()
	h := c.handle.Load()
	if h == nil {
		return nil
	}
	if err := h.close(); err != nil {
		return newError("", err, "close %s: %v", c.disk.Path, cause(err))
	}
	return nil
}

// Rescan has the kernel read the partition table anew, so that nobody goes by what
// was on the card before. Where something speaks against that, as with a card that
// has no partitions for the kernel, nothing happens.
func (c *Card) Rescan() {
	if h := c.handle.Load(); h != nil && c.disk.Bus != BusFile && !c.closed.Load() {
		_ = control(h.file, func(fd int) error { return unix.IoctlSetInt(fd, unix.BLKRRPART, 0) })
	}
}

// WriteAt writes p at byte off. It writes nothing, and fails with ReasonTooSmall,
// if the card ends before p does.
func (c *Card) WriteAt(p []byte, off int64) (int, error) {
	if err := c.inside(len(p), off); err != nil {
		return 0, err
	}
	h, err := c.ready()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	if err := c.sameMedium(h); err != nil {
		return 0, err
	}
	c.count(h, len(p), off)
	n, err := c.write(h, p, off)
	return n, c.wrote(err, len(p), n, off)
}

// inside refuses to write past the end of a card that does not grow.
func (c *Card) inside(n int, off int64) error {
	if size := c.disk.Size; off < 0 || size >= 0 && off > size-int64(n) {
		return newError(ReasonTooSmall, unix.ENOSPC, "write %d bytes at byte %d of %s: it has only %d bytes", n, off, c.disk.Path, size)
	}
	return nil
}

// count notes that a write is handed to the kernel.
func (c *Card) count(h *handle, n int, off int64) {
	end := off + int64(n)
	c.sent.Add((end+h.unit-1)/h.unit*h.unit - off/h.unit*h.unit)
	c.unsaved.Store(true)
	for {
		old := c.extent.Load()
		if end <= old || c.extent.CompareAndSwap(old, end) {
			return
		}
	}
}

// wrote notes what became of a write of length bytes, of which n were written.
func (c *Card) wrote(err error, length, n int, off int64) error {
	c.fmu.Lock()
	c.failed = without(c.failed, span{off, off + int64(n)})
	if err != nil {
		c.failed = append(c.failed, span{off + int64(n), off + int64(length)})
	}
	c.fmu.Unlock()
	if err != nil {
		return c.failure(opWrite, err, off, length)
	}
	return nil
}

// without returns what is left of some spans when s is taken out.
func without(spans []span, s span) []span {
	var left []span
	for _, t := range spans {
		if t.off < s.off {
			left = append(left, span{t.off, min(t.end, s.off)})
		}
		if t.end > s.end {
			left = append(left, span{max(t.off, s.end), t.end})
		}
	}
	return left
}

// write is WriteAt once all is known to be in order.
func (c *Card) write(h *handle, p []byte, off int64) (n int, err error) {
	if h.direct == nil {
		return h.file.WriteAt(p, off)
	}
	for n < len(p) && err == nil {
		at, rest := off+int64(n), p[n:]
		var k int
		switch skew := at % h.align; {
		case skew != 0 || int64(len(rest)) < h.align:
			k, err = c.writeEdge(h, rest[:min(int64(len(rest)), h.align-skew)], at)
		case aligned(rest, h.align):
			k, err = h.direct.WriteAt(rest[:int64(len(rest))/h.align*h.align], at)
		default:
			k, err = c.writeBounced(h, rest[:min(int64(len(rest)), bounceSize)/h.align*h.align], at)
		}
		n += k
	}
	return n, err
}

// writeEdge writes a part of one sector. A file's goes through the page cache,
// since a whole sector might make the file longer than it is to be.
func (c *Card) writeEdge(h *handle, p []byte, off int64) (int, error) {
	if h.file != h.direct {
		return h.file.WriteAt(p, off)
	}
	buf, done, err := c.borrow()
	if err != nil {
		return 0, err
	}
	defer done()
	start := off / h.align * h.align
	sector := buf[:h.align]
	if _, err := h.direct.ReadAt(sector, start); err != nil {
		return 0, err
	}
	copy(sector[off-start:], p)
	if _, err := h.direct.WriteAt(sector, start); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeBounced writes whole sectors from memory that the hardware cannot read.
func (c *Card) writeBounced(h *handle, p []byte, off int64) (int, error) {
	buf, done, err := c.borrow()
	if err != nil {
		return 0, err
	}
	defer done()
	return h.direct.WriteAt(buf[:copy(buf, p)], off)
}

// borrow returns the Card's own buffer and what to call when it is free again.
func (c *Card) borrow() (buf []byte, done func(), err error) {
	c.mu.Lock()
	if c.bounce == nil {
		if c.bounce, err = unix.Mmap(-1, 0, bounceSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
			c.mu.Unlock()
			return nil, nil, fmt.Errorf("get %d bytes of memory for a buffer: %w", bounceSize, err)
		}
	}
	return c.bounce, c.mu.Unlock, nil
}

// ReadAt reads from the medium, as io.ReaderAt.
func (c *Card) ReadAt(p []byte, off int64) (int, error) {
	h := c.handle.Load()
	if h == nil {
		return 0, io.EOF
	}
	want, err := c.available(h, len(p), off)
	if err != nil {
		return 0, c.failure(opRead, err, off, len(p))
	}
	n, err := c.read(h, p[:want], off)
	if err != nil && err != io.EOF {
		return n, c.failure(opRead, err, off+int64(n), want-n)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// available returns how many of n bytes at off there are.
func (c *Card) available(h *handle, n int, off int64) (int, error) {
	size := c.disk.Size
	if c.disk.Bus == BusFile {
		fi, err := h.file.Stat()
		if err != nil {
			return 0, err
		}
		size = fi.Size()
	}
	if off < 0 {
		return 0, unix.EINVAL
	}
	return int(max(0, min(int64(n), size-off))), nil
}

func (c *Card) read(h *handle, p []byte, off int64) (n int, err error) {
	if h.direct == nil {
		if err := c.dropCache(h, off, len(p)); err != nil {
			return 0, err
		}
		return h.file.ReadAt(p, off)
	}
	for n < len(p) && err == nil {
		at, rest := off+int64(n), p[n:]
		var k int
		if at%h.align == 0 && int64(len(rest)) >= h.align && aligned(rest, h.align) {
			k, err = h.direct.ReadAt(rest[:int64(len(rest))/h.align*h.align], at)
		} else {
			k, err = c.readBounced(h, rest, at)
		}
		n += k
	}
	return n, err
}

// readBounced reads the beginning of p, as much as fits into the Card's own buffer.
func (c *Card) readBounced(h *handle, p []byte, off int64) (int, error) {
	buf, done, err := c.borrow()
	if err != nil {
		return 0, err
	}
	defer done()
	start := off / h.align * h.align
	end := min((off+int64(len(p))+h.align-1)/h.align*h.align, start+bounceSize)
	// One request: what follows the end of a file whose size is no multiple of the
	// alignment could not be asked for.
	got := 0
	err = control(h.direct, func(fd int) (err error) {
		got, err = unix.Pread(fd, buf[:end-start], start)
		return err
	})
	if err != nil {
		return 0, err
	}
	if start+int64(got) <= off {
		return 0, io.EOF
	}
	return copy(p, buf[off-start:got]), nil
}

// dropCache lets the next reading of a range come from the medium, where it cannot
// be had past the page cache.
func (c *Card) dropCache(h *handle, off int64, n int) error {
	if c.unsaved.Load() {
		// Only clean pages can be dropped.
		if err := c.save(h); err != nil {
			return err
		}
	}
	if c.disk.Bus != BusFile {
		// It takes more rights than the other way, and is more thorough.
		_ = control(h.file, func(fd int) error { return unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0) })
	}
	page := int64(os.Getpagesize())
	start := off / page * page
	return control(h.file, func(fd int) error {
		return unix.Fadvise(fd, start, (off+int64(n)+page-1)/page*page-start, unix.FADV_DONTNEED)
	})
}

// Sync returns when all that was written is on the medium. Once it has failed it
// never succeeds again, since the kernel tells of a lost write once only. It fails
// too while a write that failed has not been repeated.
func (c *Card) Sync() error {
	h := c.handle.Load()
	if h == nil {
		return nil
	}
	c.queue.drain(c)
	return c.save(h)
}

// save is Sync without regard to requests under way.
func (c *Card) save(h *handle) error {
	if c.closed.Load() {
		return c.failure(opSync, os.ErrClosed, 0, 0)
	}
	c.fmu.Lock()
	flush, failed := c.flush, c.failed
	c.fmu.Unlock()
	if flush != nil {
		return flush
	}
	if len(failed) > 0 {
		return c.failure(opWrite, unix.EIO, failed[0].off, int(failed[0].end-failed[0].off))
	}
	c.unsaved.Store(false) // before, lest a write of another goroutine be forgotten
	err := h.file.Sync()
	if err == nil && h.made {
		err = syncDir(c.disk.Path)
	}
	if err != nil {
		c.unsaved.Store(true)
		err = c.failure(opSync, err, 0, 0)
		c.fmu.Lock()
		c.flush = err
		c.fmu.Unlock()
	}
	return err
}

// BackupTable returns where the backup header of a GUID partition table sits: in
// the last sector (UEFI Specification, 5.3). One left behind by an earlier content
// may bring that back to life. ok is false if there is none.
func (c *Card) BackupTable() (off, n int64, ok bool) {
	const signature = "EFI PART"
	sector := int64(c.disk.Sector)
	if c.disk.Size < 2*sector {
		return 0, 0, false
	}
	off = c.disk.Size - sector
	head := make([]byte, len(signature))
	if _, err := c.ReadAt(head, off); err != nil || string(head) != signature {
		return 0, 0, false
	}
	return off, sector, true
}
