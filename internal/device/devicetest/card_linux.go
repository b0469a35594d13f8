package devicetest

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A Card is a medium attached to this computer as a block device.
type Card struct {
	Path string // of the device, such as /dev/loop7

	medium *Medium
	hold   *os.File      // the device, open: the kernel takes it down once nobody has it open
	served chan struct{} // closed when the kernel has let go of the medium
	abort  *aborter

	// grace is how long Close waits for others to close the device before it fails
	// what they wait for.
	grace time.Duration

	closing chan struct{} // closed when Close begins
	once    sync.Once     // of Close
	err     error         // of Close
}

// Serve makes m a block device, plugging it in if need be, until the card is
// closed. path is a loop device that is free, or empty for any. A large write or
// read comes to the medium as several operations, in any order. The error is
// ErrUnsupported where there can be no such device.
func Serve(m *Medium, path string) (*Card, error) {
	if os.Geteuid() != 0 {
		return nil, ErrUnsupported
	}
	for _, needed := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(needed); err != nil {
			return nil, ErrUnsupported
		}
	}
	c := &Card{medium: m, served: make(chan struct{}), grace: 10 * time.Second, closing: make(chan struct{})}
	p := m.plug()
	if err := c.attach(path); err != nil {
		return nil, fmt.Errorf("attach a fake card: %w", err)
	}
	go func() {
		select {
		case <-p.lost:
			if p.why == syscall.ENODEV {
				c.hold.Close()
			}
		case <-c.closing:
		}
	}()
	return c, nil
}

// attach mounts a file system whose only file is the medium, in no place where
// it could be seen or left over, and puts a loop device over the file. From then
// on the loop device is all that keeps the file system alive.
func (c *Card) attach(path string) (err error) {
	conn, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	root, err := mountFloating("fuse", [][2]string{
		{"source", "fakecard"},
		{"fd", strconv.Itoa(conn)},
		{"rootmode", "40000"},
		{"user_id", "0"},
		{"group_id", "0"},
		{"max_read", strconv.Itoa(maxTransfer)},
	})
	if err != nil {
		unix.Close(conn)
		return err
	}
	defer unix.Close(root)

	// A server that is given a descriptor, rather than left to mount for itself,
	// also keeps it from being inherited by children, which would keep the file
	// system alive when this process is dead.
	fs := newCardFS(c.medium)
	server, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", conn), &fuse.MountOptions{
		MaxWrite:          maxTransfer,
		MaxBackground:     64,
		DisableXAttrs:     true,
		DisableSplice:     true,
		ExtraCapabilities: fuse.CAP_ASYNC_DIO,
		Logger:            log.New(io.Discard, "", 0),
	})
	if err != nil {
		return fmt.Errorf("serve a file system: %w", err)
	}
	go func() {
		server.Serve()
		close(c.served)
	}()

	file, err := unix.Openat(root, cardName, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the card's file: %w", err)
	}
	defer unix.Close(file)
	if c.abort, err = newAborter(file); err != nil {
		return err
	}
	c.hold, err = attachLoop(file, loopOptions{
		path:       path,
		sectorSize: c.medium.SectorSize,
		readOnly:   c.medium.isReadOnly(),
		direct:     true,
	})
	if err != nil {
		c.abort.close()
		return err
	}
	c.Path = c.hold.Name()
	fs.attached.Store(true)
	return nil
}

// mountFloating mounts a file system of the given type apart from the tree of
// files, and returns a descriptor of its root. It is gone when nobody has
// anything in it open any more.
func mountFloating(fstype string, options [][2]string) (root int, err error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("mount %s with %s=%s: %w", fstype, o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("mount %s: %w", fstype, err)
	}
	root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", fstype, err)
	}
	return root, nil
}

// Close takes the device down, once all that waits in the medium has been let go
// and everybody has closed the device. If somebody does not, what they wait for
// fails, and so does Close. The medium can be used and attached again afterwards.
func (c *Card) Close() error {
	c.once.Do(func() { c.err = c.close() })
	return c.err
}

func (c *Card) close() error {
	close(c.closing)
	c.medium.LetGo()
	if err := c.hold.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close %s: %w", c.Path, err)
	}
	defer c.abort.close()
	select {
	case <-c.served:
		return nil
	case <-time.After(c.grace):
	}
	err := fmt.Errorf("take down %s: it is still open somewhere; close it before the card", c.Path)
	if failed := c.abort.now(); failed != nil {
		return errors.Join(err, failed)
	}
	select {
	case <-c.served:
	case <-time.After(c.grace):
		err = errors.Join(err, errors.New("an operation is stuck inside the medium"))
	}
	return err
}
