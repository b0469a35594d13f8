package cardlab

// These tests prove that the lab does what the README says. Without the lab they
// are skipped, as they are with -short. A few always run where the lab is set
// up, the others if the environment says MULTIDD_LAB=all. With -v they print
// what the guest printed, and the times.

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"multidd/internal/sample"
)

// A fixture is what the tests run in the guest.
type fixture struct {
	demo  string // path of the demo program
	image string // path of an image
}

// whole is the size of the image.
const whole = 16 << 20

// made makes the fixture, once, in scratch.
var (
	scratch string
	made    = sync.OnceValues(func() (fixture, error) {
		f := fixture{filepath.Join(scratch, "demo"), filepath.Join(scratch, "image")}
		build := exec.Command("go", "build", "-o", f.demo, "./demo")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return f, fmt.Errorf("build the demo: %w: %s", err, out)
		}
		data := make([]byte, whole)
		rand.NewChaCha8([32]byte{1}).Read(data)
		return f, os.WriteFile(f.image, data, 0o666)
	})
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "cardlab-test-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(scratch)
		return m.Run()
	}())
}

// need skips the test where it cannot or is not to run, and returns the fixture.
// always says that the test is one of the few that need no MULTIDD_LAB=all.
func need(t *testing.T, always bool) fixture {
	t.Helper()
	if err := Available(); err != nil {
		sample.Lack(t, err)
	}
	if testing.Short() || !always && os.Getenv("MULTIDD_LAB") != "all" {
		t.Skip("takes long: MULTIDD_LAB=all runs it")
	}
	f, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// start starts a machine that ends with the test.
func start(t *testing.T, cfg Config) *VM {
	t.Helper()
	cfg.Logf = t.Logf
	vm, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	return vm
}

// run runs a command under a plan and returns its output. Its error, unless
// wanted, ends the test.
func run(t *testing.T, vm *VM, plan string, wantErr bool, args ...string) (string, error) {
	t.Helper()
	p, err := ParsePlan(plan)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := vm.Command(args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	happened, err := cmd.RunPlan(p)
	t.Logf("%v: %.1f s, %v\n%s", args, time.Since(begin).Seconds(), err, out.String())
	for _, h := range happened {
		t.Logf("%4.1f s: %s %s", h.At, h.Event, h.Error)
		if h.Error != "" {
			t.Errorf("%s: %s", h.Event, h.Error)
		}
	}
	if (err != nil) != wantErr {
		t.Fatalf("%v: error %v, want one: %t", args, err, wantErr)
	}
	return out.String(), err
}

// same returns for how many bytes a card holds the image.
func (f fixture) same(t *testing.T, vm *VM, card int) int {
	t.Helper()
	return f.held(t, vm.Backing(card))
}

// held returns for how many bytes a file holds the image.
func (f fixture) held(t *testing.T, file string) int {
	t.Helper()
	a, err1 := os.ReadFile(file)
	b, err2 := os.ReadFile(f.image)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if i >= len(a) || a[i] != b[i] {
			return i
		}
	}
	return len(b)
}

func match(t *testing.T, out, pattern string) {
	t.Helper()
	if !regexp.MustCompile("(?m)" + pattern).MatchString(out) {
		t.Errorf("the output does not match %s", pattern)
	}
}

func TestFourteenCards(t *testing.T) {
	f := need(t, true)
	vm := start(t, Config{Cards: make([]Card, 14)})
	out, _ := run(t, vm, "", false, "sh", "-c", "uname -sr; cards; "+f.demo+" ports; "+f.demo+" copyall "+f.image)
	match(t, out, `^13 .* 2-14 +0000:00:10.0/14/0 +5000 +CARDLAB-0013 +67108864 Generic SD/MMC$`)
	match(t, out, `^sd[a-n] /sys/devices/pci0000:00/0000:00:10.0/usb2/2-14/2-14:1.0/`)
	stats, err := vm.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for i := range stats {
		if n := f.same(t, vm, i); n != whole || stats[i].WriteBytes != whole || stats[i].Flushes == 0 {
			t.Errorf("card %d holds %d bytes of the image: %+v", i, n, stats[i])
		}
	}
}

func TestTopologies(t *testing.T) {
	need(t, false)
	t.Run("hub", func(t *testing.T) {
		vm := start(t, Config{Cards: make([]Card, 10), Hub: true})
		out, _ := run(t, vm, "", false, "cards")
		match(t, out, `^9 .* 1-2.2 +0000:00:10.0/2.2/0 +12 `)
	})
	t.Run("slots", func(t *testing.T) {
		vm := start(t, Config{Cards: []Card{{}, {Empty: true}, {ReadOnly: true}, {BlockSize: 4096, Size: 128 << 20}}, Slots: 4})
		out, _ := run(t, vm, "on start +500ms insert 1", false, "sh", "-c",
			"cards; head -c 1 $(card 1); echo start; until head -c 1 $(card 1) 2>/dev/null; do sleep 0.2; done")
		match(t, out, `^1 .* 2-1 +0000:00:10.0/1/1 .*\(no card\)`)
		match(t, out, `No medium found`)
		match(t, out, `^2 .* 2-1 +0000:00:10.0/1/2 .*\(read-only\)`)
		match(t, out, `^3 .* 134217728 `)
	})
	t.Run("two controllers", func(t *testing.T) {
		vm := start(t, Config{Cards: make([]Card, 20)})
		out, _ := run(t, vm, "", false, "cards")
		match(t, out, `^19 .* 4-5 +0000:00:11.0/5/0 `)
	})
}

func TestHotPlug(t *testing.T) {
	f := need(t, false)
	vm := start(t, Config{Cards: []Card{{}, {Absent: true}}})
	out, _ := run(t, vm, `
		on "listening" plug 1
		on "add disk sdb" +1s pull 0
		on "remove disk sda" +1s plug 0
		on "add disk sda" +500ms signal TERM
	`, true, f.demo, "uevents", "60")
	match(t, out, `uevent add disk sdb .*/2-2/`)
	match(t, out, `uevent remove disk sda .*/2-1/`)
	match(t, out, `uevent add disk sda .*/2-1/`)
}

// A slot that is no USB device, where the disk itself goes and comes.
func TestBuiltInSlot(t *testing.T) {
	f := need(t, false)
	vm := start(t, Config{Cards: []Card{{}, {MMC: true}, {MMC: true, Empty: true}}})
	out, _ := run(t, vm, `
		on "listening" insert 2
		on "add disk mmcblk1" +500ms eject 1
		on "remove disk mmcblk0" +500ms signal TERM
	`, true, "sh", "-c", "cards; exec "+f.demo+" uevents 60")
	match(t, out, `^1 +/dev/mmcblk0 .*0000:00:18.0/mmc/0 `)
	match(t, out, `uevent add disk mmcblk1 .*0000:00:19.0/`)
	run(t, vm, "", false, "sh", "-c", "! card 1; dd if="+f.image+" of=$(card 2) bs=1M conv=fsync")
	if n := f.same(t, vm, 2); n != whole {
		t.Errorf("card 2 holds %d bytes of the image", n)
	}
}

// A card reader that stays while its card goes and comes. Without udevd, which
// opens the device, the kernel would tell only of the first change. Between the
// changes lies time, for udevd to look at the first one: two changes at once are
// one to the kernel.
func TestMediaChange(t *testing.T) {
	f := need(t, false)
	vm := start(t, Config{Cards: make([]Card, 2), Udev: true})
	out, _ := run(t, vm, `
		on "listening" +1s eject 1
		on "media_changes=1" +5s insert 1
		on "media_changes=2" signal TERM
	`, true, "sh", "-c", "ls -l /dev/disk/by-path; exec "+f.demo+" uevents 60")
	match(t, out, `pci-0000:00:10.0-usb-0:2:1.0-scsi-0:0:0:0 -> `)
	match(t, out, `uevent change disk sdb media_changes=2 `)
}

func TestPullInMidWrite(t *testing.T) {
	f := need(t, true)
	vm := start(t, Config{Cards: make([]Card, 3)})
	out, _ := run(t, vm, "when 1 wrote 5M pull 1", true, f.demo, "copyall", f.image)
	f.interrupted(t, vm, out, 1)
	// The card comes back with what was written to it.
	run(t, vm, "at 0s plug 1", false, "sh", "-c", `
		until d=$(card 1 2>/dev/null); do sleep 0.1; done
		cmp -n 5000000 $d `+f.image)
}

func TestEjectInMidWrite(t *testing.T) {
	f := need(t, false)
	vm := start(t, Config{Cards: make([]Card, 3), UAS: true})
	out, _ := run(t, vm, "when 1 wrote 7M eject 1", true, f.demo, "copyall", f.image)
	f.interrupted(t, vm, out, 1)
	// It comes back as a new card.
	run(t, vm, "at 0s blank 1\nat 1s insert 1", false, "sh", "-c", `
		until head -c 1 $(card 1) >/dev/null 2>&1; do sleep 0.1; done
		cmp -n 5000000 $(card 1) /dev/zero`)
}

// interrupted checks that of the cards of a machine all but one hold the image,
// and that one some of it.
func (f fixture) interrupted(t *testing.T, vm *VM, out string, card int) {
	t.Helper()
	match(t, out, `^/dev/sd. wrote \d+ bytes in .* (no such device|input/output error|no medium found)`)
	for i := range vm.slots {
		n := f.same(t, vm, i)
		if (n == whole) == (i == card) {
			t.Errorf("card %d holds %d bytes of the image", i, n)
		} else if i == card && n < 5<<20 {
			t.Errorf("card %d holds %d bytes of the image: it was taken out too soon", i, n)
		}
	}
}

// Another card comes into the slot, and the reader stays.
func TestSwap(t *testing.T) {
	f := need(t, false)
	vm := start(t, Config{Cards: make([]Card, 2)})
	run(t, vm, "", false, f.demo, "copyall", f.image)
	first := vm.Backing(1)
	if err := vm.Swap(1, Card{}); err == nil {
		t.Error("a card was swapped while it was in its reader")
	}
	if err := errors.Join(vm.Eject(1), vm.Swap(1, Card{Size: 8 << 20, FailReads: []int64{100}}), vm.Insert(1)); err != nil {
		t.Fatal(err)
	}
	out, _ := run(t, vm, "", false, "sh", "-c", `set -e
		until head -c 512 $(card 1) >/dev/null 2>&1; do sleep 0.1; done
		echo size $(blockdev --getsize64 $(card 1))
		cmp -n 8192 $(card 1) /dev/zero
		! dd if=$(card 1) of=/dev/null bs=512 count=1 skip=100 iflag=direct
		dd if=`+f.image+` of=$(card 1) bs=1M count=4 conv=fsync`)
	match(t, out, `^size 8388608$`)
	match(t, out, `^dd: error reading .*: Input/output error`)
	if n := f.same(t, vm, 1); n != 4<<20 {
		t.Errorf("the second card holds %d bytes of the image", n)
	}
	if n := f.held(t, first); n != whole {
		t.Errorf("the first card holds %d bytes of the image", n)
	}
	// The same with the whole reader.
	if err := errors.Join(vm.Pull(1), vm.Swap(1, Card{File: first}), vm.Plug(1)); err != nil {
		t.Fatal(err)
	}
	run(t, vm, "", false, "sh", "-c", `until d=$(card 1 2>/dev/null); do sleep 0.1; done; cmp -n 16777216 $d `+f.image)
}

func TestThrottle(t *testing.T) {
	f := need(t, false)
	vm := start(t, Config{Cards: []Card{{}, {WriteBPS: 2 << 20}}})
	copyAll := func(plan string, least time.Duration) {
		t.Helper()
		begin := time.Now()
		run(t, vm, plan, false, f.demo, "copyall", f.image)
		if took := time.Since(begin); took < least {
			t.Errorf("it took %v, which is less than %v", took, least)
		}
	}
	copyAll("", 6*time.Second) // 16 MiB at 2 MiB/s, less a burst
	// A card that becomes so slow that this would take half an hour, and then
	// quick again.
	copyAll("at 0s slow 1 0\nwhen 0 wrote 20M slow 0 8K\nat 5s slow 0 0", 4*time.Second)
	// A card that stops for a while.
	copyAll("when 0 wrote 36M stall 0 6s", 6*time.Second)
}

func TestBadSectors(t *testing.T) {
	f := need(t, true)
	const sector = 9 << 20 / 512
	vm := start(t, Config{Cards: []Card{{}, {FailWrites: []int64{sector}}, {FailReads: []int64{sector}}}})
	out, _ := run(t, vm, "", true, "sh", "-c", f.demo+` copyall `+f.image+`
		blockdev --flushbufs $(card 2)
		dd if=$(card 2) of=/dev/null bs=1M count=16`)
	match(t, out, `^/dev/sd. wrote \d+ bytes in .*: .*input/output error$`)
	match(t, out, `^dd: error reading '/dev/sd.': Input/output error`)
	match(t, out, `demo: 1 of 3 failed`)
	for i, want := range []bool{true, false, true} {
		if n := f.same(t, vm, i); (n == whole) != want {
			t.Errorf("card %d holds %d bytes of the image", i, n)
		}
	}
	stats, _ := vm.Stats()
	if stats[0].FailedWrites != 0 || stats[1].FailedWrites == 0 || stats[2].FailedReads == 0 {
		t.Errorf("failed requests: %+v", stats)
	}
}

func TestCommands(t *testing.T) {
	need(t, false)
	share := t.TempDir()
	vm := start(t, Config{Shares: []string{share}})
	var stdout, stderr bytes.Buffer
	cmd := vm.Command("sh", "-c", "cat; echo err >&2; exit 7")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("in\n"), &stdout, &stderr
	var exit *ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.Code != 7 || stdout.String() != "in\n" || stderr.String() != "err\n" {
		t.Errorf("%v, stdout %q, stderr %q", err, &stdout, &stderr)
	}

	cmd = vm.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd.Signal(syscall.SIGINT)
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Code != 128+2 {
		t.Errorf("after SIGINT: %v", err)
	}

	if err := vm.Command("no-such-program").Run(); err == nil || errors.As(err, &exit) {
		t.Errorf("no such program: %v", err)
	}

	stdout.Reset()
	cmd = vm.Command("sh", "-c", "stty size; tty; read x; echo got $x")
	cmd.TTY, cmd.Stdout = true, &stdout
	plan, _ := ParsePlan(`on "/dev/pts" +300ms send "hello\n"`)
	if _, err := cmd.RunPlan(plan); err != nil || !strings.Contains(stdout.String(), "24 80\r\n/dev/pts/0\r\n") || !strings.Contains(stdout.String(), "got hello\r\n") {
		t.Errorf("on a terminal: %v, %q", err, &stdout)
	}

	// What the guest changes stays in the guest, but for shared directories.
	private := t.TempDir()
	run(t, vm, "", false, "sh", "-c", "echo x >"+share+"/file; echo x >"+private+"/file; cat "+private+"/file")
	if _, err := os.Stat(filepath.Join(share, "file")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(private, "file")); !os.IsNotExist(err) {
		t.Error("the guest changed the host's files")
	}
}

// makeTree makes files to pack, in the guest: on a card, since files in memory
// can't have xattrs.
const makeTree = `
set -e
mkfs.ext4 -q $(card 4); mkdir /tmp/tree; mount $(card 4) /tmp/tree; rmdir /tmp/tree/lost+found
mkdir /tmp/tree/dir; cd /tmp/tree
echo hello >hello; chown 1000:1001 hello; chmod 4750 hello
ln hello dir/again; ln -s hello link
head -c 300000 /dev/urandom >big
mknod null c 1 3
setfattr -n user.colour -v blue hello
chmod 1777 dir
cd /
`

func TestFileSystems(t *testing.T) {
	f := need(t, false)
	vm := start(t, Config{Cards: []Card{{Size: 4 << 20}, {}, {}, {}, {}}}) // JFFS2 is slow to scan
	run(t, vm, "", false, "sh", "-c", makeTree)
	tree, _ := run(t, vm, "", false, f.demo, "tree", "/tmp/tree")
	for name, script := range map[string]string{
		"jffs2 on a card":    `mkfs.jffs2 --with-xattr -e 64 -p -r /tmp/tree -o $(card 0) && mount-jffs2 $(card 0) /mnt`,
		"jffs2 in a file":    `mkfs.jffs2 --with-xattr -e 128 --pad=2097152 -r /tmp/tree -o /tmp/j && mount-jffs2 /tmp/j /mnt 128`,
		"jffs2 on a RAM MTD": `mkfs.jffs2 --with-xattr -e 64 -p -r /tmp/tree -o /tmp/k && mount-mtdram /tmp/k /mnt`,
		"ext4":               `mkfs.ext4 -q -d /tmp/tree $(card 1) && mount -o ro $(card 1) /mnt`,
		"ext2":               `mkfs.ext2 -q -F -d /tmp/tree $(card 2) && mount -o ro $(card 2) /mnt`,
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := run(t, vm, "", false, "sh", "-c", "set -e; "+script+" >&2; "+f.demo+" tree /mnt; umount /mnt")
			for line := range strings.SplitSeq(tree, "\n") {
				if strings.HasPrefix(line, "04") {
					line = strings.Join(strings.Fields(line)[:2], " ") // sizes and links of directories differ
				}
				if !strings.Contains(out, line) {
					t.Errorf("missing: %s", line)
				}
			}
		})
	}
	t.Run("vfat", func(t *testing.T) {
		out, _ := run(t, vm, "", false, "sh", "-c", `set -e; d=$(card 3); mkfs.vfat $d
			mount $d /mnt; cp -r /tmp/tree/big /mnt/Größe.bin; umount /mnt
			fsck.vfat -n $d; mount -o ro $d /mnt; `+f.demo+` tree /mnt; cmp /tmp/tree/big /mnt/Größe.bin; umount /mnt`)
		match(t, out, `300000 Größe.bin`)
	})
}

func TestPowerCut(t *testing.T) {
	f := need(t, false)
	for _, how := range []string{"cut", "kill"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			cfg := Config{Cards: []Card{{WriteBPS: 4 << 20}, {}}, StateDir: dir}
			vm := start(t, cfg)
			_, err := run(t, vm, "when 0 wrote 6M "+how, true, f.demo, "copyall", f.image)
			if err != ErrGone || vm.Alive() {
				t.Errorf("error %v, alive %t", err, vm.Alive())
			}
			n := f.same(t, vm, 0)
			t.Logf("card 0 holds %d bytes of the image, card 1 %d", n, f.same(t, vm, 1))
			if n < 6<<20 || n >= whole {
				t.Errorf("card 0 holds %d bytes of the image", n)
			}
			// The next boot finds what was there.
			vm = start(t, cfg)
			run(t, vm, "", false, "sh", "-c", "cmp -n 6000000 $(card 0) "+f.image+" && ! cmp -s -n 16777216 $(card 0) "+f.image)
		})
	}
}
