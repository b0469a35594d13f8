package device

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control calls f with the descriptor of an open file, which cannot be closed
// meanwhile.
func control(file *os.File, f func(fd int) error) error {
	rc, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = retry(func() error { return f(int(fd)) }) }); err != nil {
		return err
	}
	return ferr
}

// ioctlUint64 asks for a number of 64 bits.
func ioctlUint64(file *os.File, request uint) (n uint64, err error) {
	err = control(file, func(fd int) error {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&n)))
		if e != 0 {
			return e
		}
		return nil
	})
	return n, err
}

// ioctlInt asks for an int.
func ioctlInt(file *os.File, request uint) (n int, err error) {
	err = control(file, func(fd int) error {
		var v int32
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&v)))
		if e != 0 {
			return e
		}
		n = int(v)
		return nil
	})
	return n, err
}

// loopBacking asks a loop device of a certain number for the file behind it: the
// device the file is on, the device it is (if it is one), and its inode.
func loopBacking(node string, want devno) (dev, rdev devno, ino uint64, err error) {
	fd, err := openQuick(node)
	if err != nil {
		return dev, rdev, 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return dev, rdev, 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || splitDev(uint64(st.Rdev)) != want {
		return dev, rdev, 0, unix.ENOTBLK
	}
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return dev, rdev, 0, err
	}
	return splitDev(info.Device), splitDev(info.Rdevice), info.Inode, nil
}

// openQuick opens a file for reading without all that package os does besides:
// hundreds of attributes are read for each look at a rack.
func openQuick(path string) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// aligned tells whether p begins at a multiple of align.
func aligned(p []byte, align int64) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%uintptr(align) == 0
}
