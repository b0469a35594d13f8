package devicetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoThrottle says that the kernel's block throttle is out of reach.
var ErrNoThrottle = errors.New("the block throttle of cgroup version 1 is not here (no /sys/fs/cgroup/blkio); use a rack of fake cards")

const throttleRoot = "/sys/fs/cgroup/blkio"

// setThrottle limits how many bytes per second this process, and others in its
// control group, can write to and read from a block device; 0 is no limit.
// Source: the kernel's Documentation/admin-guide/cgroup-v1/blkio-controller.rst.
func setThrottle(dev uint64, write, read int64) error {
	group, err := throttleGroup()
	if err != nil {
		return err
	}
	for _, limit := range []struct {
		file string
		bps  int64
	}{
		{"blkio.throttle.write_bps_device", write},
		{"blkio.throttle.read_bps_device", read},
	} {
		rule := fmt.Sprintf("%d:%d %d", unix.Major(dev), unix.Minor(dev), limit.bps)
		if err := os.WriteFile(filepath.Join(group, limit.file), []byte(rule), 0); err != nil {
			return fmt.Errorf("limit a device's speed (%s): %w", rule, err)
		}
	}
	return nil
}

// throttleGroup returns the folder of the control group this process is in. In a
// container its own group can be what is mounted as the root.
func throttleGroup() (string, error) {
	if _, err := os.Stat(filepath.Join(throttleRoot, "blkio.throttle.write_bps_device")); err != nil {
		return "", ErrNoThrottle
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find this process's control group: %w", err)
	}
	for line := range strings.Lines(string(groups)) {
		// 4:blkio:/some/group
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && strings.Contains(","+parts[1]+",", ",blkio,") {
			if dir := filepath.Join(throttleRoot, parts[2]); isDir(dir) {
				return dir, nil
			}
		}
	}
	return throttleRoot, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
