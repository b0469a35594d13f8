package devicetest

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// An iocb is the kernel's request for an asynchronous operation, from
// include/uapi/linux/aio_abi.h.
type iocb struct {
	_   uint64 // what comes back with the event
	_   uint64 // key, flags of the operation
	op  uint16
	_   int16 // priority
	fd  uint32
	buf uint64
	n   uint64
	off int64
	_   [2]uint64
}

const iocbPwrite = 1

// ioSetup makes a context for n operations at a time.
func ioSetup(n int, ctx *uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, uintptr(n), uintptr(unsafe.Pointer(ctx)), 0); errno != 0 {
		return errno
	}
	return nil
}

// ioSubmitWrite begins a write of p, which lies outside of Go's heap.
func ioSubmitWrite(ctx uintptr, fd int, p []byte, off int64) error {
	cb := &iocb{op: iocbPwrite, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&p[0]))), n: uint64(len(p)), off: off}
	list := []*iocb{cb}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, 1, uintptr(unsafe.Pointer(&list[0]))); errno != 0 {
		return errno
	}
	return nil
}
