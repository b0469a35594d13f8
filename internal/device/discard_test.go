package device

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// discard tells a device that n bytes at off are of no more use.
func discard(f *os.File, off, n uint64) error {
	r := [2]uint64{off, n}
	return control(f, func(fd int) error {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r))); e != 0 {
			return e
		}
		return nil
	})
}
