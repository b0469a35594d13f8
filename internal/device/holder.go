package device

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holders returns the processes that have a device from a set open, such as
// "process 4711 (dd)", this one last. It sees what the user may see: all of them
// for root.
func (s System) holders(devs map[devno]bool) []string {
	var others, own []string
	fds, _ := filepath.Glob(s.proc("[0-9]*/fd"))
	for _, dir := range fds {
		if !opens(dir, devs) {
			continue
		}
		pid := filepath.Base(filepath.Dir(dir))
		if n, _ := strconv.Atoi(pid); n == os.Getpid() {
			own = append(own, "this program itself")
			continue
		}
		others = append(others, fmt.Sprintf("process %s (%s)", pid, cleanName(attr(filepath.Dir(dir), "comm"))))
	}
	return append(others, own...)
}

// opens tells whether a process, given by its directory of descriptors, has one of
// the devices open.
func opens(dir string, devs map[devno]bool) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false // gone, or not ours to see
	}
	for _, e := range entries {
		var st unix.Statx_t
		// Without asking servers, so that a dead one cannot hold us up.
		err := unix.Statx(unix.AT_FDCWD, filepath.Join(dir, e.Name()), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && devs[devno{st.Rdev_major, st.Rdev_minor}] {
			return true
		}
	}
	return false
}

// busy makes the error for a disk that somebody else has claimed.
func (s System) busy(d Disk, err error) error {
	devs := map[devno]bool{d.devno(): true}
	if t, err := s.load(); err == nil && t.byName[d.Name] != nil {
		for _, p := range t.byName[d.Name].parts {
			devs[p.dev] = true
		}
	}
	who := s.holders(devs)
	if len(who) == 0 {
		return newError(ReasonBusy, err, "%s is in use by something that cannot be seen from here (perhaps mounted in a container); end that first", d.Path)
	}
	return newError(ReasonBusy, err, "%s is in use by %s; end that first", d.Path, strings.Join(who, ", "))
}
