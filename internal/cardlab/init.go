package cardlab

// This file is the guest's side: the program that the kernel starts as init,
// and the helpers that tests find in the guest's PATH.

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// message is what the host and the guest send each other, as JSON lines.
type message struct {
	Op string // up, hello, ready, run, out, err, stdin, eof, signal, exit
	ID int    `json:",omitempty"` // of the command

	// hello: the host's answer to up; followed by ready, with Text = what went wrong
	Topology []string `json:",omitempty"` // where each card slot is found in sysfs
	Shares   []string `json:",omitempty"`
	Udev     bool     `json:",omitempty"`
	Cards    int      `json:",omitempty"` // block devices to wait for

	// run
	Args []string `json:",omitempty"`
	Env  []string `json:",omitempty"`
	Dir  string   `json:",omitempty"`
	TTY  bool     `json:",omitempty"`
	In   bool     `json:",omitempty"` // standard input will be sent

	Data []byte `json:",omitempty"` // out, err, stdin
	Code int    `json:",omitempty"` // exit, signal
	Text string `json:",omitempty"` // ready, exit: what went wrong
}

// guestDir holds the lab's own files in the guest: bin is last in PATH, and
// topology tells where the cards are.
const guestDir = "/run/cardlab"

// GuestMain runs the guest's side if this process is in the guest: as init, or
// as one of its helpers. Otherwise it returns at once.
func GuestMain() {
	switch filepath.Base(os.Args[0]) {
	case "init":
		if os.Getpid() == 1 {
			initMain()
		}
	case "card":
		helper(printCard)
	case "cards":
		helper(printCards)
	}
}

func initMain() {
	line, err := bootGuest()
	if err != nil {
		fmt.Println("cardlab:", err) // goes to kernel.log
		powerOff()
	}
	if line != nil {
		s := &server{enc: json.NewEncoder(line), cmds: map[int]*guestCmd{}}
		s.send(message{Op: "up"})
		s.serve(json.NewDecoder(line))
	} // The host has gone, or there was none.
	powerOff()
}

func powerOff() {
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

// bootGuest loads the drivers and returns the line to the host. There is none
// if the machine was started only to see whether it boots.
func bootGuest() (*os.File, error) {
	err := mounts([]mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"devtmpfs", "/dev", "devtmpfs", 0, ""},
	})
	if err != nil {
		return nil, err
	}
	os.Stdout, _ = os.OpenFile("/dev/console", os.O_WRONLY, 0)
	os.Stderr = os.Stdout
	cmdline, _ := os.ReadFile("/proc/cmdline")
	if err := loadModules(string(cmdline)); err != nil {
		return nil, err
	}
	if strings.Contains(string(cmdline), "cardlab.probe") {
		up, _ := os.ReadFile("/proc/uptime")
		fmt.Printf("cardlab: probe ok, up %s", up)
		return nil, nil
	}
	return openLine()
}

const opts9p = "trans=virtio,version=9p2000.L,msize=512000,"

// makeRoot makes the host's files the root: read-only, under a file system in
// memory that takes the changes, and with the cache's extra programs laid over them.
func makeRoot() error {
	const newRoot = "/new"
	for _, dir := range []string{"/host", "/extra", "/rw", newRoot} {
		os.MkdirAll(dir, 0o755)
	}
	if err := mounts([]mount{
		{"root", "/host", "9p", syscall.MS_RDONLY, opts9p + "cache=loose"},
		{"extra", "/extra", "9p", syscall.MS_RDONLY, opts9p + "cache=loose"},
		{"rw", "/rw", "tmpfs", 0, ""},
		{"", "/rw/upper", "", 0, ""},
		{"", "/rw/work", "", 0, ""},
		{"root", newRoot, "overlay", 0, "lowerdir=/extra:/host,upperdir=/rw/upper,workdir=/rw/work"},
		{"/proc", newRoot + "/proc", "", syscall.MS_MOVE, ""},
		{"/sys", newRoot + "/sys", "", syscall.MS_MOVE, ""},
		{"/dev", newRoot + "/dev", "", syscall.MS_MOVE, ""},
		{"devpts", newRoot + "/dev/pts", "devpts", 0, "ptmxmode=0666,mode=0620,gid=5"},
		{"shm", newRoot + "/dev/shm", "tmpfs", 0, ""},
		{"run", newRoot + "/run", "tmpfs", 0, "mode=0755"},
		{"debugfs", newRoot + "/sys/kernel/debug", "debugfs", 0, ""},
		{"/bin", newRoot + guestDir + "/bin", "", syscall.MS_BIND, ""},
		{"/lib/modules", newRoot + "/lib/modules", "", syscall.MS_BIND, ""},
	}); err != nil {
		return err
	}
	// The host's modprobe, if there is one, may want tables that busybox's
	// depmod doesn't make.
	os.Remove(newRoot + "/usr/sbin/modprobe")
	if err := os.Symlink(guestDir+"/bin/busybox", newRoot+"/usr/sbin/modprobe"); err != nil {
		return err
	}
	if err := errors.Join(syscall.Chroot(newRoot), os.Chdir("/")); err != nil {
		return err
	}
	os.WriteFile("/proc/sys/kernel/modprobe", []byte(guestDir+"/bin/modprobe"), 0)
	os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:"+guestDir+"/bin")
	return syscall.Sethostname([]byte("cardlab"))
}

type mount struct {
	src, dst, fs string
	flags        uintptr
	data         string
}

// mounts makes the directories and mounts the file systems of a list; an entry
// without a source is a directory alone.
func mounts(list []mount) error {
	for _, m := range list {
		os.MkdirAll(m.dst, 0o755)
		if m.src == "" {
			continue
		}
		if err := syscall.Mount(m.src, m.dst, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.src, m.dst, err)
		}
	}
	return nil
}

// loadModules loads the modules needed to boot, in the order Setup found, with
// the parameters given on the kernel's command line.
func loadModules(cmdline string) error {
	list, err := os.ReadFile("/boot.modules")
	if err != nil {
		return err
	}
	params := map[string]string{}
	for arg := range strings.FieldsSeq(cmdline) {
		if mod, param, ok := strings.Cut(arg, "."); ok {
			params[moduleName(mod)] += param + " "
		}
	}
	for path := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		arg, _ := syscall.BytePtrFromString(params[moduleName(path)])
		const sysFinitModule = 313 // amd64
		_, _, errno := syscall.Syscall(sysFinitModule, f.Fd(), uintptr(unsafe.Pointer(arg)), 0)
		f.Close()
		if errno != 0 && errno != syscall.EEXIST {
			return fmt.Errorf("load %s: %w", path, errno)
		}
	}
	return nil
}

// moduleName returns a module's name, given that or its file.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}

// openLine opens the virtio-serial port named cardlab.
func openLine() (*os.File, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, name := range names {
		if b, _ := os.ReadFile(name); strings.TrimSpace(string(b)) == "cardlab" {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_RDWR, 0)
		}
	}
	return nil, errors.New("no port named cardlab")
}
