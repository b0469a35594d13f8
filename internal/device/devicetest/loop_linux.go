package devicetest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	loopMajor = 7
	loopTries = 64 // to get a free loop device before somebody else has it
)

// loopOptions say how a loop device is to be.
type loopOptions struct {
	path       string // of a free device; empty: any
	sectorSize int    // in bytes; 0: 512
	readOnly   bool
	direct     bool // it must do direct I/O; if not, it does where that is possible
}

// attachLoop puts a loop device over an open file. The file it returns is the
// device, open for reading; when nobody has the device open any more, the kernel
// takes it down.
func attachLoop(backing int, o loopOptions) (*os.File, error) {
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(control)
	for range loopTries {
		path := o.path
		if path == "" {
			n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
			if err != nil {
				return nil, fmt.Errorf("get a free loop device: %w", err)
			}
			if path, err = loopNode(n); err != nil {
				return nil, err
			}
		}
		hold, err := bindLoop(path, backing, o)
		if o.path != "" || !errors.Is(err, unix.EBUSY) {
			return hold, err
		}
	}
	return nil, fmt.Errorf("get a free loop device: somebody else took it, %d times", loopTries)
}

// loopNode returns the path of loop device n, which it makes where nothing makes
// them by itself.
func loopNode(n int) (string, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n))))
	if err != nil && err != unix.EEXIST {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	return path, nil
}

func bindLoop(path string, backing int, o loopOptions) (*os.File, error) {
	dev, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(dev)
	config := unix.LoopConfig{Fd: uint32(backing), Size: uint32(o.sectorSize)}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	if o.readOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if err := unix.IoctlLoopConfigure(dev, &config); err != nil {
		return nil, fmt.Errorf("put %s over a file: %w", path, err)
	}
	// From here on closing dev would take the device down, if it is not held.
	info, err := unix.IoctlLoopGetStatus64(dev)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its state: %w", path, err)
	}
	if o.direct && info.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
		return nil, fmt.Errorf("put %s over a file: the kernel does not do direct I/O to it", path)
	}
	// A device may still be under a limit that was set for a card that had this
	// number before. Where there are no limits there is nothing to lift.
	_ = setThrottle(uint64(unix.Mkdev(loopMajor, uint32(info.Number))), 0, 0)
	hold, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("hold %s open: %w", path, err)
	}
	return hold, nil
}
