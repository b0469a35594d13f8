package device

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestForeignWritesAreSeen(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, path string)
		want string
	}{
		{"nobody", func(*testing.T, string) {}, ""},
		{"somebody reads", func(t *testing.T, path string) { run(t, "dd", "if="+path, "of=/dev/null", "bs=64k", "status=none") }, ""},
		{"somebody writes", func(t *testing.T, path string) {
			run(t, "dd", "if=/dev/zero", "of="+path, "bs=4k", "count=1", "seek=9", "conv=notrunc,fsync", "status=none")
		}, ReasonForeignWrite},
		{"somebody discards", func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := discard(f, 0, 64<<10); err != nil {
				t.Skipf("this device cannot be discarded: %v", err)
			}
		}, ReasonForeignWrite},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLoop(t, 1<<20)
			card := open(t, l.path, named)
			work := func() {
				t.Helper()
				for _, n := range []int{64 << 10, 1, 513} {
					if _, err := card.WriteAt(pattern(1, n), 100<<10); err != nil {
						t.Fatal(err)
					}
				}
				if err := card.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			work()
			if err := card.Check(); err != nil {
				t.Fatalf("after our own writes: %v", err)
			}
			c.do(t, l.path)
			work()
			switch err := card.Check(); {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && reasonOf(err) != c.want:
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestWithoutTheKernelsCountsNoForeignWriteIsClaimed(t *testing.T) {
	f := newFixture(t)
	usbCard(f)
	if _, ok := f.traffic("sdb"); !ok {
		t.Fatal("the fixture does not count")
	}
	f.attrs(f.sys("class/block/sdb"), "queue/iostats=0")
	if _, ok := f.traffic("sdb"); ok {
		t.Error("counts that are switched off are believed")
	}
	f.attrs(f.sys("class/block/sdb"), "queue/iostats=1", "stat=1 2 3")
	if _, ok := f.traffic("sdb"); ok {
		t.Error("counts of a strange format are believed")
	}
	f.attrs(f.sys("class/block/sdb"), "stat=1 2 3 4 5 6 70 8 9 10 11 12 13 140 15 16 17")
	if got, ok := f.traffic("sdb"); !ok || got != (traffic{70, 140}) {
		t.Errorf("got %v", got)
	}
	if n := sectors(5).since(1<<32 - 3); n != 8*512 {
		t.Errorf("a counter of 32 bits went round: %d", n)
	}
}

func TestACardThatIsGoneOrChangedIsSeen(t *testing.T) {
	l := newLoop(t, 1<<20)
	d := find(t, l.path)
	f := newFixture(t)
	f.Dev = "/dev"
	f.disk("virtual/block/"+l.name(), fmt.Sprintf("7:%d", d.Minor), 1<<20, fmt.Sprintf("diskseq=%d", d.DiskSeq))
	dir := f.sys("class/block", l.name())
	f.attrs(dir, "loop/backing_file="+l.file)
	c, err := f.Open(f.get(l.name()), named)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 512)
	step := func(what, want string) {
		t.Helper()
		if err := c.Check(); err == nil != (want == "") || err != nil && reasonOf(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		// A request that fails says the same; EIO is all that a pulled card says.
		for _, o := range []op{opRead, opWrite, opSync} {
			w := want
			if w == "" {
				w = o.reason()
			}
			if err := c.failure(o, unix.EIO, 4096, len(p)); reasonOf(err) != w || !errors.Is(err, unix.EIO) {
				t.Errorf("%s: %s failed with %v, want %s", what, o, err, w)
			}
		}
	}
	step("nothing happened", "")

	c.disk.DiskSeq++
	step("another medium", ReasonTargetChanged)
	c.disk.DiskSeq--
	run(t, "truncate", "-s", "2M", l.file)
	run(t, "losetup", "--set-capacity", l.path)
	step("another size", ReasonTargetChanged)
	run(t, "truncate", "-s", "0", l.file)
	run(t, "losetup", "--set-capacity", l.path)
	step("no medium", ReasonRemoved)
	run(t, "truncate", "-s", "1M", l.file)
	run(t, "losetup", "--set-capacity", l.path)
	if err := c.Check(); err != nil && reasonOf(err) == ReasonRemoved {
		t.Error(err)
	}
	f.unplug(l.name())
	step("pulled", ReasonRemoved)
}

func TestErrorsOfTheSystemHaveTheirReasons(t *testing.T) {
	c := open(t, newLoop(t, 1<<20).path, named)
	for _, k := range []struct {
		op   op
		err  error
		want string
	}{
		{opWrite, unix.EIO, ReasonWriteEIO},
		{opRead, unix.EIO, ReasonReadEIO},
		{opSync, unix.EIO, ReasonFlush},
		{opWrite, unix.EREMOTEIO, ReasonWriteEIO},
		{opRead, unix.ENODATA, ReasonReadEIO}, // a bad sector
		{opWrite, unix.ETIMEDOUT, ReasonWriteEIO},
		{opWrite, unix.EROFS, ReasonReadOnly},
		{opWrite, unix.EPERM, ReasonReadOnly},
		{opWrite, unix.ENOSPC, ReasonTooSmall},
		{opWrite, unix.ENODEV, ReasonRemoved},
		{opRead, unix.ENXIO, ReasonRemoved},
		{opSync, unix.ENOMEDIUM, ReasonRemoved},
		{opWrite, os.ErrClosed, ""},
	} {
		err := c.failure(k.op, &os.PathError{Op: "x", Path: "y", Err: k.err}, 8192, 512)
		if reasonOf(err) != k.want || !errors.Is(err, k.err) || !strings.Contains(err.Error(), k.op.String()) {
			t.Errorf("%s: %v: got %s, %q", k.op, k.err, reasonOf(err), err)
		}
		if k.op != opSync && !strings.Contains(err.Error(), "512 bytes at byte 8192") {
			t.Errorf("no place: %v", err)
		}
		if again := c.failure(opWrite, err, 0, 0); again != err {
			t.Errorf("wrapped twice: %v", again)
		}
	}
}

func TestAPulledReaderIsWaitedForButNotForEver(t *testing.T) {
	// The kernel takes its time to notice: the first look finds all in place.
	l := newLoop(t, 1<<20)
	c := open(t, l.path, named)
	c.disk.Bus = BusUSB
	if gone := c.gone(); gone != nil {
		t.Errorf("nothing is gone: %v", gone)
	}
	if c.waited.Load() == 0 {
		t.Error("it did not wait at all")
	}
	for range 10 {
		c.gone()
	}
	if w := time.Duration(c.waited.Load()); w > patience+11*50*time.Millisecond {
		t.Errorf("it waits for each error anew: %v", w)
	}

	d := find(t, l.path)
	f := newFixture(t)
	f.Dev = "/dev"
	f.disk("virtual/block/"+l.name(), fmt.Sprintf("7:%d", d.Minor), 1<<20, fmt.Sprintf("diskseq=%d", d.DiskSeq))
	slow := &Card{sys: f.System, disk: d}
	slow.disk.Bus = BusUSB
	slow.handle.Store(c.handle.Load())
	time.AfterFunc(100*time.Millisecond, func() { f.unplug(l.name()) })
	if gone := slow.gone(); gone == nil || gone.reason != ReasonRemoved {
		t.Errorf("pulled, and noticed late: %v", gone)
	}
}

func TestAFailedFlushIsNeverForgotten(t *testing.T) {
	l := newLoop(t, 1<<20)
	c := open(t, l.path, named)
	if err := c.Sync(); err != nil {
		t.Fatal(err) // the control
	}
	// A descriptor that cannot be flushed takes the place of the device, once.
	h := c.handle.Load()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c.handle.Store(&handle{file: w, direct: w, align: 512, unit: 512})
	first := c.Sync()
	c.handle.Store(h)
	if reasonOf(first) != ReasonFlush && reasonOf(first) != ReasonRemoved {
		t.Fatalf("flushing a pipe: %v", first)
	}
	if err := c.Sync(); err != first {
		t.Errorf("after a flush that failed: %v", err)
	}
}

func TestAFailedWriteIsRememberedUntilItIsRepeated(t *testing.T) {
	c := open(t, newLoop(t, 1<<20).path, named)
	if err := c.wrote(unix.EIO, 8192, 0, 4096); reasonOf(err) != ReasonWriteEIO {
		t.Fatal(err)
	}
	if err := c.Sync(); reasonOf(err) != ReasonWriteEIO || !strings.Contains(err.Error(), "byte 4096") {
		t.Errorf("a write failed and was not repeated: %v", err)
	}
	p := make([]byte, 4096)
	if _, err := c.WriteAt(p, 4096); err != nil {
		t.Fatal(err)
	}
	if err := c.Sync(); reasonOf(err) != ReasonWriteEIO || !strings.Contains(err.Error(), "byte 8192") {
		t.Errorf("half of it was repeated: %v", err)
	}
	if err := c.StartWrite(p, 8192); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.Sync(); err != nil {
		t.Errorf("all of it was repeated: %v", err)
	}
}

func TestWithoutTakesOutASpan(t *testing.T) {
	all := []span{{10, 20}, {30, 40}}
	for _, c := range []struct {
		s    span
		want string
	}{
		{span{0, 10}, "[{10 20} {30 40}]"}, {span{0, 15}, "[{15 20} {30 40}]"}, {span{12, 15}, "[{10 12} {15 20} {30 40}]"},
		{span{10, 40}, "[]"}, {span{15, 35}, "[{10 15} {35 40}]"}, {span{20, 30}, "[{10 20} {30 40}]"},
	} {
		if got := fmt.Sprint(without(all, c.s)); got != c.want {
			t.Errorf("without %v: %s, want %s", c.s, got, c.want)
		}
	}
}
