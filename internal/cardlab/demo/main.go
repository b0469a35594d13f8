// Command demo is a tiny program to prove the lab with; it is no model for a real
// writer of images.
//
//	demo copyall IMAGE      write IMAGE to all /dev/sd?, one line for each when done
//	demo uevents [SECONDS]  print the kernel's uevents for block devices
//	demo ports              print the USB port path of each /dev/sd?
//	demo tree DIR           list files: mode, owner, links, xattrs, size, SHA-256
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "copyall":
		err = copyAll(os.Args[2])
	case len(os.Args) >= 2 && os.Args[1] == "uevents":
		seconds := 3600
		if len(os.Args) > 2 {
			seconds, err = strconv.Atoi(os.Args[2])
		}
		if err == nil {
			err = uevents(time.Duration(seconds) * time.Second)
		}
	case len(os.Args) == 2 && os.Args[1] == "ports":
		ports()
	case len(os.Args) == 3 && os.Args[1] == "tree":
		err = tree(os.Args[2])
	default:
		err = fmt.Errorf("usage: demo copyall IMAGE | uevents [SECONDS] | ports | tree DIR")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// copyAll writes the image to all disks at once.
func copyAll(image string) error {
	data, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	devs, _ := filepath.Glob("/dev/sd?")
	fmt.Printf("start %d\n", len(devs))
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	for _, dev := range devs {
		wg.Add(1)
		go func(dev string) {
			defer wg.Done()
			start := time.Now()
			n, err := write(dev, data)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
			}
			// The device may have gone: its name stays in the message.
			fmt.Printf("%s wrote %d bytes in %.1f s: %v\n", dev, n, time.Since(start).Seconds(), orOK(err))
		}(dev)
	}
	wg.Wait()
	if failed > 0 {
		return fmt.Errorf("%d of %d failed", failed, len(devs))
	}
	return nil
}

func orOK(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// write writes in steps, with a flush after each, so that an error shows soon.
func write(dev string, data []byte) (n int, err error) {
	f, err := os.OpenFile(dev, os.O_WRONLY|syscall.O_EXCL, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const step = 1 << 20
	for n < len(data) {
		m, err := f.Write(data[n:min(n+step, len(data))])
		n += m
		if err != nil {
			return n, err
		}
		if err := f.Sync(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// uevents listens to the kernel's netlink broadcasts.
func uevents(d time.Duration) error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, syscall.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: 1}); err != nil {
		return err
	}
	fmt.Println("listening")
	start := time.Now()
	time.AfterFunc(d, func() { os.Exit(0) })
	changes := 0 // of medium, so far
	buf := make([]byte, 64<<10)
	for {
		n, err := syscall.Read(fd, buf)
		if err != nil {
			return err
		}
		env := map[string]string{}
		for field := range strings.SplitSeq(string(buf[:n]), "\x00") {
			if k, v, ok := strings.Cut(field, "="); ok {
				env[k] = v
			}
		}
		if env["SUBSYSTEM"] == "block" {
			if env["DISK_MEDIA_CHANGE"] == "1" {
				changes++
			}
			fmt.Printf("%4.1f uevent %s %s %s media_changes=%d %s\n", time.Since(start).Seconds(), env["ACTION"], env["DEVTYPE"], env["DEVNAME"], changes, env["DEVPATH"])
		}
	}
}

// ports prints what /dev/disk/by-path would tell.
func ports() {
	devs, _ := filepath.Glob("/sys/block/sd?")
	for _, dev := range devs {
		path, err := filepath.EvalSymlinks(dev + "/device")
		if err == nil {
			fmt.Println(filepath.Base(dev), path)
		}
	}
}

// tree lists what a file system holds.
func tree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(dir, path)
		extra := ""
		switch {
		case info.Mode().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			extra = fmt.Sprintf(" %x", h.Sum(nil)[:8])
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			extra = " -> " + target
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			extra += xattrs(path)
		}
		fmt.Printf("%06o %d:%d %d %d %s%s\n", st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, rel, extra)
		return nil
	})
}

func xattrs(path string) (s string) {
	names := make([]byte, 64<<10)
	n, err := syscall.Listxattr(path, names)
	if err != nil {
		return ""
	}
	for name := range strings.SplitSeq(strings.Trim(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := syscall.Getxattr(path, name, value)
		if err == nil {
			s += fmt.Sprintf(" %s=%q", name, value[:n])
		}
	}
	return s
}
