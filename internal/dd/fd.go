package dd

import (
	"errors"
	"fmt"
	"syscall"

	"multidd/internal/block"
)

// Descriptors are used as they are, without package os: a record is one system
// call, as in dd, and the standard streams may be of any kind.

// open opens a file; a signal does not disturb it.
func open(name string, flags int, perm uint32) (fd int, err error) {
	for {
		if fd, err = syscall.Open(name, flags|syscall.O_CLOEXEC, perm); err != syscall.EINTR {
			return fd, err
		}
	}
}

// readFD reads once; a signal does not disturb it.
func readFD(fd int, p []byte) (n int, err error) {
	for {
		if n, err = syscall.Read(fd, p); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// writeFD writes once; a signal does not disturb it.
func writeFD(fd int, p []byte) (n int, err error) {
	for {
		if n, err = syscall.Write(fd, p); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// flagsOf returns the flags a descriptor is open with.
func flagsOf(fd int) (int, error) {
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
	return int(flags), errnoErr(errno)
}

func setFlags(fd, flags int) error {
	_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFL, uintptr(flags))
	return errnoErr(errno)
}

// addFlags adds flags to a descriptor that is open already.
func addFlags(fd, add int) error {
	if add == 0 {
		return nil
	}
	flags, err := flagsOf(fd)
	if err != nil || flags|add == flags {
		return err
	}
	return setFlags(fd, flags|add)
}

func errnoErr(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// errMemory is the error of a record too long for this computer. dd gives up
// without statistics then.
var errMemory = errors.New("memory exhausted")

// buffer returns memory of n bytes, fit for direct reading and writing. what says
// what for. It is given back with release.
func buffer(n int64, what string) ([]byte, error) {
	if b, err := block.Aligned(int(n)); err == nil {
		return b, nil
	}
	return nil, fmt.Errorf("%w by %s buffer of size %d bytes (%s)", errMemory, what, n, human(uint64(n), 1, 1, 1024))
}

func release(b []byte) {
	if b != nil {
		block.Free(b)
	}
}

// preadFD reads once at an offset; a signal does not disturb it.
func preadFD(fd int, p []byte, off int64) (n int, err error) {
	for {
		if n, err = syscall.Pread(fd, p, off); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
