package device

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Find returns the target that a name means. A name is the path of a device or of
// any link to it; a slot ("1-2.3", "2-4:1", "mmc0"); a name below
// /dev/disk/by-path, whether or not udev has made the link; or the path of a
// plain file, which need not be there yet if its directory is. The disk is opened
// for reading, so that the kernel looks at the medium that is in it now.
//
// A partition, a path below /dev that does not exist, and whatever can be no card
// are errors with a Reason. Nothing is created.
func (s System) Find(name string) (Disk, error) {
	f := s.FindAll([]string{name})[0]
	return f.Disk, f.Err
}

// A Found is the target that a name means, or why there is none.
type Found struct {
	Disk Disk
	Err  error
}

// FindAll is Find for each of some names. It takes hardly longer than for one,
// since all are looked at together.
func (s System) FindAll(names []string) []Found {
	found := make([]Found, len(names))
	leads := make([]lead, len(names))
	slots := sync.OnceValues(s.List) // before the media are looked at; all the names that mean slots share it
	var poking sync.WaitGroup
	for i, name := range names {
		leads[i], found[i].Err = s.follow(name, slots)
		if found[i].Err == nil && leads[i].node != "" {
			poking.Go(func() { poke(leads[i].node) })
		}
	}
	poking.Wait()
	look := sync.OnceValues(s.load) // after that
	for i, l := range leads {
		switch {
		case found[i].Err != nil:
		case l.node == "":
			found[i].Disk = l.file
		default:
			t, err := look()
			if err == nil {
				found[i].Disk, err = t.wholeDisk(names[i], l.dev)
			}
			found[i].Err = err
		}
	}
	return found
}

// A lead is where a name leads: to a device, which is yet to be looked at, or to a
// plain file.
type lead struct {
	node string // the path of a node of the device; "": it is a file
	dev  devno
	file Disk
}

// follow finds where a name leads.
func (s System) follow(name string, slots func() ([]Disk, error)) (lead, error) {
	if name == "" {
		return lead{}, newError(ReasonNoSuchDevice, nil, "a target has an empty name; name a device, a slot or a file")
	}
	if !strings.Contains(name, "/") {
		l, ok, err := s.followSlot(name, slots)
		if ok || err != nil {
			return l, err
		}
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return lead{}, err
	}
	var st unix.Stat_t
	err = retry(func() error { return unix.Stat(path, &st) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.followMissing(name, path, slots)
	case err != nil:
		return lead{}, newError("", err, "look at %s: %v", name, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return lead{node: path, dev: splitDev(uint64(st.Rdev))}, nil
	case unix.S_IFREG:
		if s.inDev(path) {
			return lead{}, newError(ReasonNotACard, nil, "%s is a plain file where a device should be, left behind by some program; delete it", name)
		}
		d := fileDisk(name, path)
		d.Size, d.file = st.Size, fileID{splitDev(uint64(st.Dev)), st.Ino}
		if d.Size == 0 {
			d.Size = -1
		}
		return lead{file: d}, nil
	}
	return lead{}, newError(ReasonNotACard, nil, "%s is %s; name a card or a plain file", name, kindOf(st.Mode))
}

func fileDisk(name, path string) Disk {
	return Disk{Name: filepath.Base(path), Path: path, Slot: name, Size: -1, Sector: 512, Bus: BusFile}
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFCHR:
		return "a character device"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "of a strange kind"
}

// inDev tells whether a path is below /dev, where a plain file is a mistake.
// /dev/shm is for files.
func (s System) inDev(path string) bool {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		dir = filepath.Dir(path)
	}
	for _, p := range []string{path, filepath.Join(dir, filepath.Base(path))} {
		if isBelow(p, s.dev()) && !isBelow(p, s.dev("shm")) {
			return true
		}
	}
	return false
}

// followMissing is for paths at which there is nothing.
func (s System) followMissing(name, path string, slots func() ([]Disk, error)) (lead, error) {
	byPath := s.dev("disk/by-path")
	if filepath.Dir(path) == byPath {
		if l, ok, err := s.followSlot(filepath.Base(path), slots); ok || err != nil {
			return l, err
		}
	}
	if _, err := os.Lstat(path); err == nil {
		return lead{}, newError(ReasonNoSuchDevice, nil, "%s is a link to nothing; put the card in, or name another", name)
	}
	if s.inDev(path) {
		return lead{}, newError(ReasonNoSuchDevice, nil, "there is no device %s; put the card in, or name another", name)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || !fi.IsDir() {
		return lead{}, newError(ReasonNoSuchDevice, nil, "there is no directory for %s; make it first", name)
	}
	return lead{file: fileDisk(name, path)}, nil
}

// wholeDisk returns the disk with a device number, to which name led.
func (t *tree) wholeDisk(name string, dev devno) (Disk, error) {
	n := t.byDev[dev]
	if n == nil {
		return Disk{}, newError(ReasonNoSuchDevice, nil, "%s means a device (%v) that is not there; put the card in, or name another", name, dev)
	}
	if n.disk != n {
		return Disk{}, partitionError(name, t.sys.node(n.disk.name))
	}
	return t.describe(n), nil
}

func partitionError(name, disk string) error {
	return newError(ReasonNotACard, nil, "%s is a partition; an image is that of a whole disk, which is %s", name, disk)
}

var (
	portPath = regexp.MustCompile(`^[0-9]+-[0-9]+(\.[0-9]+)*(:[0-9]+)?$`)
	pathID   = regexp.MustCompile(`^(pci|platform|acpi)-.*(usb|scsi|ata|nvme|mmc|virtio)`)
)

// followSlot finds the disk that sits where a name without slashes says. It
// returns false if the name means no place, so that it may be a file.
func (s System) followSlot(name string, slots func() ([]Disk, error)) (lead, bool, error) {
	disks, err := slots()
	if err != nil {
		return lead{}, false, err
	}
	whole, _, part := strings.Cut(name, "-part")
	var units []string
	for _, d := range disks {
		switch {
		case d.isAt(name):
			if _, err := os.Lstat(name); err == nil {
				return lead{}, false, newError(ReasonUnknown, nil, "%s is both a slot and a file; say ./%s for the file, %s for the card", name, name, d.Path)
			}
			return lead{node: d.Path, dev: d.devno()}, true, nil
		case part && d.ByPath != "" && d.isAt(whole):
			return lead{}, false, partitionError(name, d.Path)
		case strings.HasPrefix(d.Slot, name+":"):
			units = append(units, d.Slot)
		}
	}
	if len(units) > 0 {
		slices.Sort(units)
		return lead{}, false, newError(ReasonNoSuchDevice, nil, "the reader at %s has several slots; name one of %s", name, strings.Join(units, ", "))
	}
	if _, err := os.Lstat(name); err == nil {
		return lead{}, false, nil
	}
	for _, d := range disks {
		if d.Name == name {
			return lead{}, false, newError(ReasonUnknown, nil, "%s may be a disk or a file; say %s for the disk, ./%s for the file", name, d.Path, name)
		}
	}
	if portPath.MatchString(name) || pathID.MatchString(name) {
		return lead{}, false, newError(ReasonNoSuchDevice, nil, "there is no card reader at %s; look at the list of devices (for a file of that name, say ./%s)", name, name)
	}
	return lead{}, false, nil
}

// isAt tells whether a name is that of the disk's slot.
func (d Disk) isAt(name string) bool {
	if name == d.Slot || d.Bus == BusUSB && name == d.Slot+":0" && !strings.Contains(d.Slot, ":") {
		return true
	}
	// Newer versions of udev tell the speeds of USB apart in the name.
	plain := strings.NewReplacer("-usbv2-", "-usb-", "-usbv3-", "-usb-").Replace(name)
	return d.ByPath != "" && plain == d.ByPath
}

// poke makes the kernel look at the medium in a disk: without anybody who polls,
// sysfs goes on telling of the last one. Whoever may not open the disk must take
// what sysfs says.
func poke(path string) {
	if f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close()
	}
}

// disk returns a whole disk by its kernel name, by what sysfs says.
func (s System) disk(name string) (Disk, error) {
	t, err := s.load()
	if err != nil {
		return Disk{}, err
	}
	if n := t.byName[name]; n != nil && n.disk == n {
		return t.describe(n), nil
	}
	return Disk{}, newError(ReasonNoSuchDevice, nil, "%s has just gone away; put it in again", s.node(name))
}

// retry repeats what a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
