package device

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The environment variable that makes the test binary a helper process: it opens a
// device, says so, and waits for its input to end.
const helperEnv = "DEVICE_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(helperEnv); path != "" {
		hold(path)
		return
	}
	os.Exit(m.Run())
}

func hold(path string) {
	how, path, _ := strings.Cut(path, ":")
	flags := os.O_RDWR
	if how == "excl" {
		flags |= os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0)
	if err == nil && how == "lock" {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	fmt.Println(err)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// holding starts a process that holds a device, and returns its id and what ends it.
func holding(t *testing.T, how, path string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+how+":"+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("the helper: %q, %v", line, err)
	}
	done := false
	end = func() {
		if !done {
			done = true
			in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func TestADeviceThatAnotherProcessHoldsIsBusyAndThePidIsNamed(t *testing.T) {
	l := newLoop(t, 1<<20)
	pid, end := holding(t, "excl", l.path)
	refuses(t, l.path, named, ReasonBusy, fmt.Sprint("process ", pid))
	end()
	c := open(t, l.path, named)
	refuses(t, l.path, named, ReasonBusy, "this program itself")
	c.Close()
	open(t, l.path, named)
}

func TestADeviceThatAnotherProcessLocksIsBusy(t *testing.T) {
	l := newLoop(t, 1<<20)
	soon := named
	soon.lockWait = 50 * time.Millisecond
	_, end := holding(t, "lock", l.path)
	refuses(t, l.path, soon, ReasonBusy, "locked")
	refuses(t, l.file, soon, ReasonBusy) // attached
	end()
	open(t, l.path, soon)

	file := scratch(t, 4096)
	_, end = holding(t, "lock", file)
	refuses(t, file, soon, ReasonBusy, "locked")
	end()
	open(t, file, soon)
}

func TestNobodyElseGetsAnOpenCard(t *testing.T) {
	l := newLoop(t, 8<<20)
	run(t, "mke2fs", "-q", l.path)
	c := open(t, l.path, named)
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_EXCL, 0)
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second exclusive opening: %v", err)
		f.Close()
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", l.path, dir).CombinedOutput(); err == nil {
		run(t, "umount", dir)
		t.Errorf("it could be mounted: %s", out)
	}
	g, err := os.Open(l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := unix.Flock(int(g.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("locking it: %v", err)
	}
	// The control: all this goes once the card is closed.
	c.Close()
	run(t, "mount", l.path, dir)
	run(t, "umount", dir)
	if err := unix.Flock(int(g.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		t.Error(err)
	}
}

func TestAnotherCardThanTheOneLookedAtIsRefused(t *testing.T) {
	var s System
	// The same device, the same size, the same content: only the kernel's count of
	// media tells.
	l := newLoop(t, 1<<20)
	d := find(t, l.path)
	c, err := s.Open(d, named)
	if err != nil {
		t.Fatal(err) // the control
	}
	c.Close()
	run(t, "losetup", "-d", l.path)
	if out, err := exec.Command("losetup", l.path, l.file).CombinedOutput(); err != nil {
		t.Skipf("another program has taken the device: %s", out)
	}
	if d.DiskSeq == 0 {
		t.Log("this kernel does not count media")
	} else if _, err := s.Open(d, named); reasonOf(err) != ReasonTargetChanged || !strings.Contains(err.Error(), "anew") {
		t.Errorf("put in again: %v", err)
	}

	d = find(t, l.path)
	for _, change := range []struct {
		what string
		do   func(d *Disk)
		want string
	}{
		{"size", func(d *Disk) { d.Size += 512 }, ReasonTargetChanged},
		{"serial", func(d *Disk) { d.Serial = "other" }, ReasonTargetChanged},
		{"medium", func(d *Disk) { d.DiskSeq++ }, ReasonTargetChanged},
		{"number", func(d *Disk) { d.Minor++ }, ReasonNoSuchDevice},
		{"nothing", func(d *Disk) {}, ""},
	} {
		was := d
		change.do(&was)
		c, err := s.Open(was, named)
		if err == nil {
			c.Close()
		}
		if err == nil != (change.want == "") || err != nil && reasonOf(err) != change.want {
			t.Errorf("another %s: %v, want %q", change.what, err, change.want)
		}
	}
}

// When the last of several cards has been claimed nothing can come between them and
// their owner any more. What happened before that must be seen, also on the one that
// was claimed first.
func TestCardsAreLookedAtOnceAllOfThemAreClaimed(t *testing.T) {
	a, b := newLoop(t, 4<<20), newLoop(t, 4<<20)
	disks := []Disk{find(t, a.path), find(t, b.path)}
	during := func(claimed func()) (reasons []string) {
		o := named
		o.claimed = claimed
		for _, c := range (System{}).OpenAll(disks, o) {
			reasons = append(reasons, reasonOf(c.Err))
			if c.Err == nil {
				c.Card.Close()
			}
		}
		return reasons
	}
	var over loopDev
	got := during(func() {
		for _, l := range []loopDev{a, b} {
			if f, err := os.OpenFile(l.path, os.O_RDWR|os.O_EXCL, 0); !errors.Is(err, unix.EBUSY) {
				t.Errorf("%s is not claimed yet: %v", l.path, err)
				f.Close()
			}
		}
		over = attach(t, a.path, "-o", "1048576") // which no claim prevents
	})
	if want := []string{ReasonBusy, "none"}; !slices.Equal(got, want) {
		t.Errorf("something took the first card meanwhile: got %q, want %q", got, want)
	}
	over.detach(t)
	// The control: nothing happens meanwhile. That it was looked at again all the
	// same would not be known otherwise.
	if got, want := during(func() {}), []string{"none", "none"}; !slices.Equal(got, want) {
		t.Errorf("nothing happened: got %q, want %q", got, want)
	}
}

func TestOpeningManyIsOpeningEach(t *testing.T) {
	fresh := func() (disks []Disk, want []string) {
		good, changed, gone, taken := newLoop(t, 1<<20), newLoop(t, 1<<20), newLoop(t, 1<<20), newLoop(t, 1<<20)
		holding(t, "excl", taken.path)
		disks = []Disk{find(t, good.path), find(t, changed.path), find(t, gone.path), find(t, taken.path), find(t, scratch(t, 4096))}
		disks[1].DiskSeq++
		disks[2].Minor += 1000
		return disks, []string{"none", ReasonTargetChanged, ReasonNoSuchDevice, ReasonBusy, "none"}
	}
	check := func(how string, got []Opened, want []string) {
		for i, c := range got {
			if (c.Card == nil) != (c.Err != nil) || reasonOf(c.Err) != want[i] {
				t.Errorf("%s: disk %d: %+v, want %q", how, i, c, want[i])
			}
			if c.Card != nil {
				defer c.Card.Close()
			}
		}
	}
	disks, want := fresh()
	check("together", System{}.OpenAll(disks, named), want)
	disks, want = fresh()
	for i, d := range disks {
		c, err := System{}.Open(d, named)
		check("alone", []Opened{{c, err}}, want[i:])
	}
	if got := (System{}).OpenAll(nil, named); len(got) != 0 {
		t.Errorf("none: %v", got)
	}
}

func TestSizeIsTakenFromTheOpenedDevice(t *testing.T) {
	// sysfs that tells of the last medium: made up, over a real device.
	l := newLoop(t, 4<<20)
	real := find(t, l.path)
	f := newFixture(t)
	f.Dev = "/dev"
	f.disk("virtual/block/"+l.name(), fmt.Sprintf("7:%d", real.Minor), 1<<20, fmt.Sprintf("diskseq=%d", real.DiskSeq))
	f.attrs(f.sys("class/block", l.name()), "loop/backing_file="+l.file)
	stale := f.get(l.name())
	if stale.Size != 1<<20 {
		t.Fatalf("the fixture says %d bytes", stale.Size)
	}
	if _, err := f.Open(stale, named); reasonOf(err) != ReasonTargetChanged || !strings.Contains(err.Error(), "size") {
		t.Errorf("a card of another size than sysfs says: %v", err)
	}
	stale.Size = 4 << 20 // as whoever asked the device would have it
	c, err := f.Open(stale, named)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Size() != 4<<20 {
		t.Errorf("size %d", c.Size())
	}
}

func TestAMissingDeviceIsNeverMadeAFile(t *testing.T) {
	f := newFixture(t)
	usbCard(f)
	for _, name := range []string{f.dev("sdx"), f.dev("disk/by-path/pci-0-usb-0:9:1.0-scsi-0:0:0:0"), f.dev("../dev/sdx")} {
		if _, err := openTarget(f.System, name, named); reasonOf(err) != ReasonNoSuchDevice {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(name); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	// Through a link from outside, and to nowhere.
	dir := t.TempDir()
	if err := os.Symlink(f.dev(), dir+"/d"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(f.dev("sdy"), dir+"/l"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir + "/d/sdx", dir + "/l"} {
		if _, err := openTarget(f.System, name, named); reasonOf(err) != ReasonNoSuchDevice {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The node is gone, though sysfs still tells of the disk.
	d := f.get("sdb")
	if _, err := f.Open(d, named); reasonOf(err) != ReasonNoSuchDevice {
		t.Errorf("a disk without a node: %v", err)
	}
	if _, err := os.Lstat(d.Path); err == nil {
		t.Error("it was made")
	}
	// A file has taken its place.
	f.write(f.dev("sdb"), "an image somebody once copied here")
	if _, err := openTarget(f.System, f.dev("sdb"), named); reasonOf(err) != ReasonNotACard {
		t.Errorf("a file where a device should be: %v", err)
	}
	if _, err := f.Open(d, named); reasonOf(err) != ReasonNotACard {
		t.Errorf("a file where a device should be: %v", err)
	}
	// Nor by way of a description that says it is a file.
	forged := fileDisk("x", f.dev("sdx"))
	if c, err := f.Open(forged, named); err == nil {
		_, err = c.WriteAt([]byte("x"), 0)
		t.Errorf("a forged description was taken: %v", err)
	}
	// The control: where files belong, one is taken.
	if d, err := f.Find(f.dev("shm/card.img")); err != nil || d.Bus != BusFile {
		t.Errorf("a new file in /dev/shm: %+v, %v", d, err)
	}
}

func TestANodeOfAnotherDeviceIsRefused(t *testing.T) {
	l := newLoop(t, 1<<20)
	f := newFixture(t)
	f.disk("virtual/block/loop77", "7:77", 1<<20)
	f.attrs(f.sys("class/block/loop77"), "loop/backing_file=/x.img")
	d := f.get("loop77")
	if err := os.Symlink(l.path, f.dev("loop77")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(d, named); reasonOf(err) != ReasonTargetChanged {
		t.Errorf("got %v", err)
	}
}

func TestRefusedDisksAreNotOpened(t *testing.T) {
	// The node would say ENXIO; the refusal must come first.
	f := newFixture(t)
	twoParts(f)
	f.node("sdb", "8:16")
	f.mount("8:17", "/mnt", "vfat", "/dev/sdb1", "rw")
	if _, err := f.Open(f.get("sdb"), named); reasonOf(err) != ReasonMounted {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsMountedBetweenLookAndOpenIsSeen(t *testing.T) {
	l := newLoop(t, 16<<20)
	run(t, "mke2fs", "-q", "-E", "offset=1048576", l.path, "8m")
	d := find(t, l.path)
	var s System
	if r := s.Judge(d, named.Policy); len(r) > 0 {
		t.Fatal(r)
	}
	mounted(t, "-o", "loop,offset=1048576,sizelimit=8388608", l.path)
	if c, err := s.Open(d, named); reasonOf(err) != ReasonMounted {
		if err == nil {
			c.Close()
		}
		t.Errorf("got %v", err)
	}
}

func TestWithoutTheRightItIsNoReasonOfTheCards(t *testing.T) {
	err := error(newError("", fs.ErrPermission, "x"))
	if !errors.Is(err, fs.ErrPermission) || reasonOf(err) != "" {
		t.Error(err)
	}
	f := newFixture(t)
	f.Dev = t.TempDir()
	usbCard(f)
	needRoot(t) // to leave it
	f.node("sdb", "8:16")
	if err := os.Chmod(f.Dev, 0o755); err != nil {
		t.Fatal(err)
	}
	d := f.get("sdb")
	err = asNobody(func() error { _, _, err := f.openNode(d, named); return err })
	if !errors.Is(err, fs.ErrPermission) || reasonOf(err) != "" || !strings.Contains(err.Error(), "root") {
		t.Errorf("got %v", err)
	}
}

// asNobody calls f without the right to override file permissions, on this thread
// only.
func asNobody(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, e := unix.RawSyscall(unix.SYS_SETFSUID, 65534, 0, 0); e != 0 {
			result <- e
			return
		}
		result <- f()
	}()
	return <-result
}

func TestFindKnowsEveryNameOfASlot(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2.3", 6, 0, card)
	f.part("sdb1", "8:17", 1<<20, gib)
	f.usbDisk("sdc", "8:32", "1-4", 7, 0, card)
	f.usbDisk("sdd", "8:48", "1-4", 7, 1, card)
	f.mmc(0, "SD", "179:0", card)
	node := f.node("sdb", "8:16")
	part := f.node("sdb1", "8:17")
	strange := f.node("sdz", "8:99")
	if err := os.Symlink("../../sdb", f.dev("disk/by-path/some-link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	all := []struct{ name, want, reason string }{
		{node, "sdb", ""},
		{f.dev("disk/by-path/some-link"), "sdb", ""},
		{"1-2.3", "sdb", ""},
		{"1-2.3:0", "sdb", ""},
		{"1-4:0", "sdc", ""},
		{"1-4:1", "sdd", ""},
		{"mmc0", "mmcblk0", ""},
		{"pci-0000:00:14.0-usb-0:4:1.0-scsi-0:0:0:1", "sdd", ""},
		{"pci-0000:00:14.0-usbv2-0:4:1.0-scsi-0:0:0:1", "sdd", ""},
		{f.dev("disk/by-path/pci-0000:00:14.0-usb-0:4:1.0-scsi-0:0:0:1"), "sdd", ""}, // no udev made it
		{"platform-fe340000.mmc", "mmcblk0", ""},

		{"1-4", "1-4:0, 1-4:1", ReasonNoSuchDevice},
		{"1-4:2", "no card reader", ReasonNoSuchDevice},
		{"1-2", "no card reader", ReasonNoSuchDevice},
		{"9-9.9", "no card reader", ReasonNoSuchDevice},
		{"pci-0000:00:14.0-usb-0:9:1.0-scsi-0:0:0:0", "no card reader", ReasonNoSuchDevice},
		{f.dev("disk/by-path/pci-0000:00:14.0-usb-0:9:1.0-scsi-0:0:0:0"), "no card reader", ReasonNoSuchDevice},
		{part, "whole disk, which is " + node, ReasonNotACard},
		{"pci-0000:00:14.0-usb-0:2.3:1.0-scsi-0:0:0:0-part1", "whole disk, which is " + node, ReasonNotACard},
		{strange, "not there", ReasonNoSuchDevice},
		{"sdb", "./sdb for the file", ReasonUnknown},
		{"", "empty name", ReasonNoSuchDevice},
		{"/dev/null", "a character device", ReasonNotACard},
		{".", "a directory", ReasonNotACard},
		{"no/such/dir/x.img", "directory", ReasonNoSuchDevice},
	}
	for _, c := range all {
		d, err := f.Find(c.name)
		switch {
		case c.reason == "" && (err != nil || d.Name != c.want):
			t.Errorf("%q: got %q, %v, want %s", c.name, d.Name, err, c.want)
		case c.reason != "" && (reasonOf(err) != c.reason || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q: got %v, want %s with %q", c.name, err, c.reason, c.want)
		}
	}
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	for i, got := range f.FindAll(names) {
		if d, err := f.Find(names[i]); !reflect.DeepEqual(got.Disk, d) || fmt.Sprint(got.Err) != fmt.Sprint(err) {
			t.Errorf("%q among others: got %+v, want %+v, %v", names[i], got, d, err)
		}
	}
	// A file of a slot's name.
	f.write("1-2.3", "x")
	if _, err := f.Find("1-2.3"); reasonOf(err) != ReasonUnknown || !strings.Contains(err.Error(), "./1-2.3") {
		t.Errorf("got %v", err)
	}
	if d, err := f.Find("./1-2.3"); err != nil || d.Bus != BusFile || d.Size != 1 {
		t.Errorf("got %+v, %v", d, err)
	}
	for name, make := range map[string]func(string) error{
		"pipe":   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"socket": func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
	} {
		if err := make(name); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Find(name); reasonOf(err) != ReasonNotACard || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	abs, _ := filepath.Abs("new.img")
	if d, err := f.Find("new.img"); err != nil || d.Path != abs || d.Size != -1 || d.Slot != "new.img" {
		t.Errorf("a new file: %+v, %v", d, err)
	}
}
