package device

import (
	"io"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Linux native asynchronous I/O (io_submit(2)) on direct descriptors. A request is
// handed to the device by the thread that submits it, so requests reach the device
// in the order in which they were started; io_uring, with its helper threads, does
// not promise that. Of requests that touch the same bytes, the later one is held
// back until the earlier one is done.

// depth is how many requests of one card the kernel holds at most. Whoever starts
// more waits for the oldest.
const depth = 8

// A queue holds the requests that were started and not yet waited for.
type queue struct {
	mu       sync.Mutex // held by whoever is inside, even while waiting for the kernel
	context  uintptr    // of the kernel; 0: none
	signal   *os.File   // an eventfd(2) that the kernel counts what it has done by; nil: none
	signalFD uint32     // its descriptor
	refused  bool       // the kernel gives none
	pending  []*request // the oldest first
	first    uint64     // the number of pending[0]
	inFlight int        // how many of them the kernel has
}

type request struct {
	op   op
	p    []byte // must stay reachable while the kernel has it
	off  int64
	res  int64 // what the kernel made of it: so many bytes, or a negative error
	done bool
	err  error
}

// iocb and ioEvent are as in the kernel's include/uapi/linux/aio_abi.h.
type iocb struct {
	data   uint64
	_      [2]uint32 // a key of the kernel's, and flags
	opcode uint16
	_      int16 // priority
	fd     uint32
	buf    uint64
	n      uint64
	off    int64
	_      uint64
	flags  uint32
	resfd  uint32 // an eventfd; see flagResfd
}

// flagResfd, in an iocb, says that resfd is to be counted up when the request is
// done.
const flagResfd = 1

type ioEvent struct {
	data uint64
	_    uint64 // the address of the iocb
	res  int64
	_    int64 // a second result, of no meaning here
}

// StartWrite begins to write p at off; Wait tells what became of it. An error means
// that nothing was begun. p must be left alone until Wait has returned for it.
//
// Where the kernel cannot do it in the background (no direct I/O, an unaligned
// piece), all requests before it are carried out, and then this one, before
// StartWrite returns.
func (c *Card) StartWrite(p []byte, off int64) error {
	if err := c.inside(len(p), off); err != nil {
		return err
	}
	h, err := c.ready()
	if err != nil {
		return err
	}
	if err := c.sameMedium(h); err != nil {
		return err
	}
	c.count(h, len(p), off)
	return c.queue.start(c, h, &request{op: opWrite, p: p, off: off})
}

// StartRead begins to read p at off, and otherwise is as StartWrite.
func (c *Card) StartRead(p []byte, off int64) error {
	h := c.handle.Load()
	if h == nil {
		return newError("", io.EOF, "read %s: nothing was written to it yet", c.disk.Path)
	}
	return c.queue.start(c, h, &request{op: opRead, p: p, off: off})
}

// Wait waits for the oldest request that was started and not yet waited for, and
// returns what became of it. An error from it is as from WriteAt or ReadAt; fewer
// bytes than asked for are an error.
func (c *Card) Wait() error {
	q := &c.queue
	q.mu.Lock()
	defer q.unlock(c)
	if len(q.pending) == 0 {
		return newError("", nil, "wait for a request to %s: none was started", c.disk.Path)
	}
	for !q.pending[0].done {
		q.reap(c, true)
	}
	r := q.pending[0]
	q.pending[0] = nil
	q.pending = q.pending[1:]
	q.first++
	return r.err
}

func (q *queue) start(c *Card, h *handle, r *request) error {
	q.mu.Lock()
	defer q.unlock(c)
	if c.closed.Load() {
		return newError("", os.ErrClosed, "%s %s: it is closed", r.op, c.disk.Path)
	}
	if q.fits(c, h, r) {
		for q.inFlight >= depth || q.touches(r) {
			q.reap(c, true)
		}
		q.pending = append(q.pending, r)
		if q.submit(h, r) == nil {
			q.inFlight++
			return nil
		}
		// Out of memory, or of the system's share of requests: do it here.
	} else {
		q.pending = append(q.pending, r)
	}
	q.settle(c)
	c.finish(h, r)
	return nil
}

// fits tells whether the kernel can take r in the background.
func (q *queue) fits(c *Card, h *handle, r *request) bool {
	if h.direct == nil || len(r.p) == 0 || r.off%h.align != 0 || int64(len(r.p))%h.align != 0 || !aligned(r.p, h.align) || q.refused {
		return false
	}
	if q.context == 0 {
		q.refused = q.open() != nil
	}
	return !q.refused
}

// open gets what it takes to have requests done in the background. An eventfd can
// be waited for without a thread: to have one in the kernel for each card costs
// memory, and time of the runtime, which looks after threads that are away.
func (q *queue) open() error {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	signal := os.NewFile(uintptr(fd), "eventfd")
	err = signal.SetReadDeadline(time.Time{}) // fails if the runtime cannot wait for it
	if err == nil {
		_, _, e := unix.Syscall(unix.SYS_IO_SETUP, depth, uintptr(unsafe.Pointer(&q.context)), 0)
		if e != 0 {
			err = e
		}
	}
	if err != nil {
		signal.Close()
		return err
	}
	q.signal, q.signalFD = signal, uint32(fd)
	return nil
}

// touches tells whether r must wait for a request under way: the device may do
// those that concern the same bytes in any order.
func (q *queue) touches(r *request) bool {
	for _, e := range q.pending {
		if !e.done && e.off < r.off+int64(len(r.p)) && r.off < e.off+int64(len(e.p)) && (e.op == opWrite || r.op == opWrite) {
			return true
		}
	}
	return false
}

// submit hands r, the last of pending, to the kernel.
func (q *queue) submit(h *handle, r *request) error {
	cb := &iocb{
		data:   q.first + uint64(len(q.pending)) - 1,
		opcode: uint16(r.op), // reading is 0, writing 1
		buf:    uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.p)))),
		n:      uint64(len(r.p)),
		off:    r.off,
		flags:  flagResfd,
		resfd:  q.signalFD,
	}
	return control(h.direct, func(fd int) error {
		cb.fd = uint32(fd)
		list := [1]*iocb{cb}
		n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, q.context, 1, uintptr(unsafe.Pointer(&list)))
		if e != 0 {
			return e
		}
		if n != 1 {
			return unix.EAGAIN
		}
		return nil
	})
}

// reap takes back what the kernel has done; if wait is set, one request at least.
// If one of them failed, and wait is set, all are waited for before the reason is
// looked for: that look opens the device anew, by which the kernel takes note of a
// card that was put in meanwhile, and would give it what is still under way.
func (q *queue) reap(c *Card, wait bool) {
	var ended [depth]*request
	n, failed := 0, false
	for q.inFlight > 0 {
		var events [depth]ioEvent
		got, err := q.events(events[:], wait)
		if err != nil {
			if !isAny(err, unix.EINTR) && wait {
				// The context is gone, which cannot be; do not go round for ever.
				q.abandon(c, err)
			}
			break
		}
		for _, ev := range events[:got] {
			r := q.pending[ev.data-q.first]
			q.inFlight--
			r.res = ev.res
			ended[n] = r
			n++
			failed = failed || ev.res < int64(len(r.p))
		}
		if !failed || !wait {
			break
		}
	}
	for _, r := range ended[:n] {
		c.complete(r)
	}
}

// events asks the kernel for what it has done; if wait is set, for one at least.
func (q *queue) events(events []ioEvent, wait bool) (int, error) {
	for {
		var none unix.Timespec
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, q.context, 0, uintptr(len(events)), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(unsafe.Pointer(&none)), 0)
		if e != 0 {
			return 0, e
		}
		if n > 0 || !wait {
			return int(n), nil
		}
		var count [8]byte // of requests done since it was last read; it may tell of some that are known
		if _, err := q.signal.Read(count[:]); err != nil {
			return 0, err
		}
	}
}

// abandon ends all requests with an error. Those that the kernel has may still be
// carried out.
func (q *queue) abandon(c *Card, err error) {
	q.release()
	ended := make([]*request, len(q.pending)) // the old ones belong to the kernel
	for i, r := range q.pending {
		if ended[i] = r; r != nil && !r.done {
			ended[i] = &request{op: r.op, done: true, err: c.failure(r.op, err, r.off, len(r.p))}
		}
	}
	q.pending = ended
	q.inFlight, q.refused = 0, true
}

// complete notes what the kernel made of r.
func (c *Card) complete(r *request) {
	h := c.handle.Load()
	r.done = true
	n, err := int(max(r.res, 0)), error(nil)
	switch {
	case r.res < 0:
		err = unix.Errno(-r.res)
	case n < len(r.p) && r.op == opWrite:
		// The rest, to learn why it was not written.
		var k int
		k, err = c.write(h, r.p[n:], r.off+int64(n))
		n += k
	case n < len(r.p):
		_, err = c.ReadAt(r.p[n:], r.off+int64(n))
		r.err = err
		return
	}
	if r.op == opWrite {
		r.err = c.wrote(err, len(r.p), n, r.off)
	} else if err != nil {
		r.err = c.failure(opRead, err, r.off, len(r.p))
	}
}

// finish carries r out in the foreground.
func (c *Card) finish(h *handle, r *request) {
	r.done = true
	if r.op == opRead {
		_, r.err = c.ReadAt(r.p, r.off)
		return
	}
	n, err := c.write(h, r.p, r.off)
	r.err = c.wrote(err, len(r.p), n, r.off)
}

// settle waits until the kernel has no request.
func (q *queue) settle(c *Card) {
	for q.inFlight > 0 {
		q.reap(c, true)
	}
}

// drain waits until the kernel has no request. Whoever does that does something else
// next, so if nobody is to be told of a request any more, what was needed for them
// is given back meanwhile.
func (q *queue) drain(c *Card) {
	q.mu.Lock()
	defer q.unlock(c)
	q.settle(c)
	if len(q.pending) == 0 {
		q.release()
	}
}

// unlock ends a stay inside. If the card was closed meanwhile, the last one to go
// tidies up.
func (q *queue) unlock(c *Card) {
	q.mu.Unlock()
	if c.closed.Load() {
		q.close(c)
	}
}

// close ends all requests, and leaves to the kernel those that it has.
func (q *queue) close(c *Card) {
	if !q.mu.TryLock() {
		return // whoever is inside will come by here
	}
	defer q.mu.Unlock()
	q.reap(c, false)
	q.abandon(c, os.ErrClosed)
}

// release gives the kernel's context back. That takes the kernel some hundredths of a
// second, and as long as requests are under way, so it is left to a goroutine. It
// ends when the device gives them up, and until then keeps their memory from being
// used for something else.
func (q *queue) release() {
	if q.context == 0 {
		return
	}
	context, kept := q.context, q.pending
	q.signal.Close()
	q.context, q.signal = 0, nil
	go func() {
		_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, context, 0, 0)
		runtime.KeepAlive(kept)
	}()
}
