package device

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multidd/internal/sample"
)

// Loop devices are the real block devices that any test machine has. A loopDev is
// one that is detached at the end of its test.
type loopDev struct {
	path string // "/dev/loop3"
	file string
}

func (l loopDev) name() string { return filepath.Base(l.path) }

// memoryDir returns a directory in memory, where that can be, until the end of the
// test.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "device-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// scratch returns a file of size zeros in memory.
func scratch(t testing.TB, size int64) string {
	t.Helper()
	file := filepath.Join(memoryDir(t), "card.img")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return file
}

// newLoop attaches a new file of size bytes.
func newLoop(t testing.TB, size int64, options ...string) loopDev {
	t.Helper()
	return attach(t, scratch(t, size), options...)
}

func attach(t testing.TB, file string, options ...string) loopDev {
	t.Helper()
	needRoot(t)
	out := run(t, "losetup", append(append([]string{"--find", "--show"}, options...), file)...)
	l := loopDev{strings.TrimSpace(out), file}
	t.Cleanup(func() { l.detach(t) })
	return l
}

// detach detaches the device if the file is still its own.
func (l loopDev) detach(t testing.TB) {
	t.Helper()
	if attr("/sys/class/block/"+l.name(), "loop/backing_file") == l.file {
		run(t, "losetup", "-d", l.path)
	}
}

// run runs a program that must succeed, and returns what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mounted mounts a device or file until the end of the test.
func mounted(t *testing.T, args ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	run(t, "mount", append(args, dir)...)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

var named = Options{Policy: Policy{Named: true}}

func find(t *testing.T, name string) Disk {
	t.Helper()
	var s System
	d, err := s.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// openTarget finds a target and opens it.
func openTarget(s System, name string, o Options) (*Card, error) {
	d, err := s.Find(name)
	if err != nil {
		return nil, err
	}
	return s.Open(d, o)
}

// open is openTarget until the end of the test.
func open(t *testing.T, name string, o Options) *Card {
	t.Helper()
	c, err := openTarget(System{}, name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refuses makes sure that a target is not opened, for a reason, in a sentence that
// holds some words.
func refuses(t *testing.T, name string, o Options, reason string, words ...string) {
	t.Helper()
	c, err := openTarget(System{}, name, o)
	if err == nil {
		c.Close()
		t.Errorf("%s was opened, want %s", name, reason)
		return
	}
	if reasonOf(err) != reason {
		t.Errorf("%s: got %s (%v), want %s", name, reasonOf(err), err, reason)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not tell of %q", name, err, w)
		}
	}
}

func pattern(seed byte, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i)*7 + byte(i>>8)*13 + byte(i>>16)*29 + seed
	}
	return p
}

func TestALoopDeviceIsACardWhenNamed(t *testing.T) {
	l := newLoop(t, 8<<20)
	d := find(t, l.path)
	if d.Bus != BusLoop || d.Slot != l.name() || d.Size != 8<<20 || d.Path != l.path {
		t.Errorf("got %+v", d)
	}
	refuses(t, l.path, Options{}, ReasonNotACard, "name it")
	if c := open(t, l.path, named); c.Size() != 8<<20 || !c.Direct() || c.Sector() != 512 {
		t.Errorf("size %d, direct %v, sector %d", c.Size(), c.Direct(), c.Sector())
	}
}

func TestAMountedDeviceIsRefused(t *testing.T) {
	l := newLoop(t, 8<<20)
	run(t, "mke2fs", "-q", l.path)
	t.Run("mounted", func(t *testing.T) {
		dir := mounted(t, l.path)
		refuses(t, l.path, named, ReasonMounted, dir, "umount")
	})
	open(t, l.path, named) // the control: not mounted any more
}

func TestADeviceMountedThroughAnotherLoopDeviceIsRefused(t *testing.T) {
	// The kernel's own claim does not see this one: mount -o offset= stacks a loop
	// device on the device.
	l := newLoop(t, 16<<20)
	run(t, "mke2fs", "-q", "-E", "offset=1048576", l.path, "8m")
	t.Run("mounted", func(t *testing.T) {
		dir := mounted(t, "-o", "loop,offset=1048576,sizelimit=8388608", l.path)
		refuses(t, l.path, named, ReasonMounted, dir)
		f, err := os.OpenFile(l.path, os.O_RDWR|os.O_EXCL, 0)
		if err != nil {
			t.Logf("this kernel notices by itself: %v", err)
		} else {
			f.Close() // the control: without the guard it would have been opened
		}
	})
	t.Run("attached", func(t *testing.T) {
		over := attach(t, l.path, "-o", "1048576")
		refuses(t, l.path, named, ReasonBusy, over.name(), "losetup -d")
		refuses(t, over.path, named, ReasonNotACard, l.path)
	})
	open(t, l.path, named)
}

func TestADeviceWhoseFileIsInUseElsewhereIsRefused(t *testing.T) {
	l := newLoop(t, 8<<20)
	run(t, "mke2fs", "-q", l.path)
	t.Run("mounted", func(t *testing.T) {
		twin := attach(t, l.file)
		dir := mounted(t, twin.path)
		refuses(t, l.path, named, ReasonMounted, dir)
		refuses(t, l.file, named, ReasonBusy, "attached to")
		if r := SameDevice([]Disk{find(t, l.path), find(t, twin.path)}); len(r) != 1 {
			t.Errorf("two loop devices over one file: %v", r)
		}
	})
	open(t, l.path, named)
}

func TestSwapIsRefused(t *testing.T) {
	l := newLoop(t, 8<<20)
	run(t, "mkswap", l.path)
	if out, err := exec.Command("swapon", l.path).CombinedOutput(); err != nil {
		t.Skipf("this kernel takes no swap on a loop device: %s", out)
	}
	off := func() { run(t, "swapoff", l.path) }
	t.Cleanup(func() { exec.Command("swapoff", l.path).Run() })
	refuses(t, l.path, named, ReasonMounted, "swapoff")
	off()
	open(t, l.path, named)
}

func TestTheImageBeingReadIsNotOverwritten(t *testing.T) {
	l := newLoop(t, 16<<20)
	reads := func(image string) Options { return Options{Policy: Policy{Named: true, Images: []string{image}}} }
	refuses(t, l.path, reads(l.path), ReasonSourceOnTarget)
	refuses(t, l.path, reads(l.file), ReasonSourceOnTarget)
	refuses(t, l.file, reads(l.path), ReasonSourceOnTarget)
	refuses(t, l.file, reads(l.file), ReasonSourceOnTarget)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(l.path, link); err != nil {
		t.Fatal(err)
	}
	refuses(t, l.path, reads(link), ReasonSourceOnTarget)

	run(t, "mke2fs", "-q", l.path)
	t.Run("on a file system on the card", func(t *testing.T) {
		dir := mounted(t, l.path)
		image := filepath.Join(dir, "x.img")
		if err := os.WriteFile(image, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		var s System
		if got := reasons(s.Judge(find(t, l.path), reads(image).Policy)); fmt.Sprint(got) != "[mounted source-on-target]" {
			t.Errorf("got %v", got)
		}
		// In an overlay, whose files tell nothing of the device.
		over, work := filepath.Join(dir, "up"), filepath.Join(dir, "work")
		for _, d := range []string{over, work} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		merged := mounted(t, "-t", "overlay", "-o", "lowerdir="+t.TempDir()+",upperdir="+over+",workdir="+work, "overlay")
		image = filepath.Join(merged, "y.img")
		if err := os.WriteFile(image, []byte("y"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := reasons(s.Judge(find(t, l.path), reads(image).Policy)); fmt.Sprint(got) != "[mounted source-on-target]" {
			t.Errorf("in an overlay: got %v", got)
		}
		// In a file there that is attached itself.
		if err := os.Truncate(image, 1<<20); err != nil {
			t.Fatal(err)
		}
		inner := attach(t, filepath.Join(dir, "up", "y.img"))
		if got := reasons(s.Judge(find(t, l.path), reads(inner.path).Policy)); fmt.Sprint(got) != "[mounted source-on-target busy]" {
			t.Errorf("through a loop device: got %v", got)
		}
	})
	open(t, l.path, reads(scratch(t, 4096))) // the control: an image elsewhere
}

func TestAllDevicesOfAMountedBtrfsAreRefused(t *testing.T) {
	sample.Need(t, "mkfs.btrfs")
	if b, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(b), "btrfs") && exec.Command("modprobe", "btrfs").Run() != nil {
		t.Skip("this kernel has no btrfs") // made-up trees stand in for it
	}
	a, b, other := newLoop(t, 256<<20), newLoop(t, 256<<20), newLoop(t, 1<<20)
	run(t, "mkfs.btrfs", "-q", a.path, b.path)
	t.Run("mounted", func(t *testing.T) {
		dir := mounted(t, a.path)
		image := filepath.Join(dir, "x.img")
		if err := os.WriteFile(image, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		var s System
		for _, l := range []loopDev{a, b} {
			refuses(t, l.path, named, ReasonMounted, dir)
			p := Policy{Named: true, Images: []string{image}}
			if got := reasons(s.Judge(find(t, l.path), p)); fmt.Sprint(got) != "[mounted source-on-target]" {
				t.Errorf("%s: %v", l.path, got)
			}
			if got := s.Judge(find(t, other.path), p); len(got) > 0 {
				t.Errorf("an image elsewhere: %v", got)
			}
		}
	})
	open(t, a.path, named).Close()
	open(t, b.path, named).Close()
}

func TestAWriteProtectedDeviceIsRefused(t *testing.T) {
	l := newLoop(t, 1<<20, "--read-only")
	refuses(t, l.path, named, ReasonReadOnly, "tab")
	w := newLoop(t, 1<<20)
	open(t, w.path, named).Close()
	run(t, "blockdev", "--setro", w.path)
	refuses(t, w.path, named, ReasonReadOnly, "tab")
	run(t, "blockdev", "--setrw", w.path)
	open(t, w.path, named)
}

func TestADeviceWithNothingInItIsRefused(t *testing.T) {
	for range 10 {
		l := newLoop(t, 1<<20)
		l.detach(t)
		d := find(t, l.path)
		if d.Size != 0 {
			continue // another program has taken it already
		}
		var s System
		if _, err := s.Open(d, named); reasonOf(err) != ReasonEmpty {
			t.Errorf("got %v", err)
		}
		return
	}
	t.Error("no loop device stays free")
}
