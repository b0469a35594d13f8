package devicetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multidd/internal/block"
	"multidd/internal/sample"
)

// A rawDevice reads and writes a block device past the page cache. It takes
// offsets and lengths that are multiples of the device's sectors.
type rawDevice struct{ f *os.File }

func openDevice(t *testing.T, path string) Target {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return rawDevice{f}
}

// throughBuffer calls do with a buffer fit for direct I/O, a copy of p, and copies
// it back.
func throughBuffer(p []byte, do func([]byte) (int, error)) (int, error) {
	buf, err := block.Aligned(len(p))
	if err != nil {
		return 0, err
	}
	defer block.Free(buf)
	copy(buf, p)
	n, err := do(buf)
	copy(p, buf)
	return n, err
}

func (d rawDevice) ReadAt(p []byte, off int64) (int, error) {
	return throughBuffer(p, func(b []byte) (int, error) { return d.f.ReadAt(b, off) })
}

func (d rawDevice) WriteAt(p []byte, off int64) (int, error) {
	return throughBuffer(bytes.Clone(p), func(b []byte) (int, error) { return d.f.WriteAt(b, off) })
}

func (d rawDevice) Sync() error { return d.f.Sync() }

// isBound tells whether a loop device has anything under it.
func isBound(path string) bool {
	_, err := os.Stat(filepath.Join("/sys/block", filepath.Base(path), "loop/backing_file"))
	return err == nil
}

// leaving returns a function that tells whether a loop device has let go of what is
// under it now. Somebody else may take the device at once, which the kernel's count of
// media tells.
func leaving(t *testing.T, path string) (gone func() bool) {
	t.Helper()
	count := func() string {
		b, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(path), "diskseq"))
		return string(b)
	}
	if !isBound(path) {
		t.Fatalf("there is nothing under %s", path)
	}
	before := count()
	return func() bool { return !isBound(path) || count() != before }
}

// serve attaches m for the length of the test, and hands the card out.
func serve(t *testing.T, m *Medium) *Card {
	t.Helper()
	c, err := Serve(m, "")
	if errors.Is(err, ErrUnsupported) {
		sample.Lack(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestACardIsABlockDeviceOfItsSize(t *testing.T) {
	for _, c := range []struct{ sector, want int }{{0, 512}, {512, 512}, {4096, 4096}} {
		t.Run(fmt.Sprint(c.sector), func(t *testing.T) {
			m := NewMedium(3*mib + 4096)
			m.SectorSize = c.sector
			f, err := os.Open(Attach(t, m))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if st, err := f.Stat(); err != nil || st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0 {
				t.Errorf("it is no block device: %v, %v", st.Mode(), err)
			}
			if size, err := f.Seek(0, io.SeekEnd); size != 3*mib+4096 || err != nil {
				t.Errorf("its size is %d, %v; want %d", size, err, 3*mib+4096)
			}
			if got, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); got != c.want || err != nil {
				t.Errorf("its sectors have %d bytes, %v; want %d", got, err, c.want)
			}
			if n := len(m.Log()); n != 0 {
				t.Errorf("before anybody used it, it was given %d operations", n)
			}
		})
	}
}

// TestAFlushOfTheDeviceReachesTheMedium holds that nothing else does what a flush
// does, too.
func TestAFlushOfTheDeviceReachesTheMedium(t *testing.T) {
	m := NewMedium(mib, Volatile(1))
	card := openDevice(t, Attach(t, m))
	p := Pattern(1, 64<<10)
	if err := write(card, p, 0); err != nil {
		t.Fatal(err)
	}
	if c := m.Counts(); c.Syncs != 0 || c.BytesWritten != 64<<10 {
		t.Errorf("after a direct write: %+v", c)
	}
	if !allZero(m.Bytes()) {
		t.Error("a write is at rest before it was flushed")
	}
	if err := card.Sync(); err != nil {
		t.Fatal(err)
	}
	log := m.Log()
	if last := log[len(log)-1]; last.Kind != Sync || m.Counts().Syncs != 1 {
		t.Errorf("after a sync: %v", log)
	}
	if !bytes.Equal(m.Bytes()[:len(p)], p) {
		t.Error("what was flushed is not at rest")
	}
}

func TestLargeTransfersStayLarge(t *testing.T) {
	m := NewMedium(8 * mib)
	card := openDevice(t, Attach(t, m))
	if err := write(card, make([]byte, 4*mib), 0); err != nil {
		t.Fatal(err)
	}
	if n := m.Counts().Writes; n > 16 {
		t.Errorf("a write of 4 MiB came as %d operations", n)
	}
}

func TestAHungCardStopsNoOther(t *testing.T) {
	hung, fine := NewMedium(8*mib), NewMedium(8*mib)
	hungCard, fineCard := openDevice(t, Attach(t, hung)), openDevice(t, Attach(t, fine))
	undo := hung.Inject(Hang(Write))
	p := Pattern(2, 4*mib)
	done := make(chan error, 1)
	go func() { done <- write(hungCard, p, 0) }()
	await(t, hung, under(Write))
	fill(t, fineCard, 3, 8*mib)
	select {
	case err := <-done:
		t.Fatal("the hung card answered:", err)
	default:
	}
	undo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(hung.Bytes()[:len(p)], p) {
		t.Error("the write that hung was not done in the end")
	}
}

// TestATestMayEndWhileItsCardHangs relies on Attach to let go before the clean-up
// that waits for the operation.
func TestATestMayEndWhileItsCardHangs(t *testing.T) {
	var path string
	var gone func() bool
	t.Run("Hang", func(t *testing.T) {
		for _, k := range []Kind{Read, Write, Sync} {
			m := NewMedium(mib)
			path = Attach(t, m)
			gone = leaving(t, path)
			card := openDevice(t, path)
			m.Inject(Hang(k))
			done := make(chan struct{})
			go func() {
				defer close(done)
				switch k {
				case Read:
					_, _ = card.ReadAt(make([]byte, 4096), 0)
				case Write:
					_, _ = card.WriteAt(make([]byte, 4096), 0)
				case Sync:
					_ = card.Sync()
				}
			}()
			t.Cleanup(func() { <-done })
			await(t, m, under(k))
		}
	})
	if gone != nil && !gone() {
		t.Errorf("%s is still there", path)
	}
}

func TestAPulledCardFailsAndItsDeviceGoes(t *testing.T) {
	m := NewMedium(mib)
	path := Attach(t, m)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	card := rawDevice{f}
	if err := write(card, make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	gone := leaving(t, path)
	m.Inject(Hang(Write))
	done := make(chan error, 1)
	go func() { done <- write(card, make([]byte, 4096), 0) }()
	await(t, m, under(Write))
	m.Pull()
	if err := <-done; err == nil {
		t.Error("a write under way when the card was pulled went well")
	}
	if _, err := card.ReadAt(make([]byte, 4096), 0); err == nil {
		t.Error("a read of a pulled card went well")
	}
	f.Close()
	waitUntil(t, path+" is gone", gone)

	other := NewMedium(2 * mib)
	if again := AttachAt(t, other, path); again != path {
		t.Errorf("another card came as %s, want %s", again, path)
	}
	fill(t, openDevice(t, path), 4, 2*mib)
}

// waitUntil polls for what the kernel does in its own time and tells nobody of.
func waitUntil(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestAReadOnlyCardSaysSo(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults []Fault
		want   int
	}{{"Tab", []Fault{ReadOnly()}, 1}, {"NoTab", nil, 0}} {
		t.Run(c.name, func(t *testing.T) {
			path := Attach(t, NewMedium(mib, c.faults...))
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); ro&1 != c.want || err != nil {
				t.Errorf("read-only is %d, %v; want %d", ro, err, c.want)
			}
			err = write(openDevice(t, path), make([]byte, 4096), 0)
			if refused := errors.Is(err, syscall.EPERM); refused != (c.want == 1) {
				t.Errorf("a write: %v", err)
			}
		})
	}
}

func TestAPowerCutThroughTheDevice(t *testing.T) {
	m := NewMedium(mib, Volatile(7))
	path := Attach(t, m)
	card := openDevice(t, path)
	flushed, not := Pattern(5, 256<<10), Pattern(6, 256<<10)
	if err := errors.Join(write(card, flushed, 0), card.Sync(), write(card, not, 512<<10)); err != nil {
		t.Fatal(err)
	}
	m.PowerCut()
	if err := write(card, not, 0); err == nil {
		t.Error("a write after the cut went well")
	}
	m.Plug()
	if err := expect(card, flushed, 0); err != nil {
		t.Error("what was flushed:", err)
	}
	if err := expect(card, not, 512<<10); err == nil {
		t.Error("nothing of what was not flushed is lost")
	}
}

func TestClosingACardLeavesNothing(t *testing.T) {
	mounts := func() int { // of file systems of FUSE; other tests mount others
		p, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(p), " - fuse")
	}
	before := mounts()
	m := NewMedium(mib)
	c := serve(t, m)
	if mounts() != before {
		t.Error("the card's file system can be seen")
	}
	gone := leaving(t, c.Path)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if !gone() {
		t.Errorf("%s is still there", c.Path)
	}
	if err := c.Close(); err != nil {
		t.Error("closed twice:", err)
	}
}

func TestClosingACardThatIsStillOpenSaysSo(t *testing.T) {
	m := NewMedium(mib)
	c := serve(t, m)
	gone := leaving(t, c.Path)
	c.grace = 10 * time.Millisecond
	f, err := os.Open(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err == nil || !strings.Contains(err.Error(), c.Path+": it is still open") {
		t.Errorf("got %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 4096), 0); err == nil {
		t.Error("the device still gives data")
	}
	f.Close()
	waitUntil(t, c.Path+" is gone", gone)
}

// cardOfAChild is the environment variable that makes a test binary a process that
// attaches a card, has operations on it hang, and waits to be killed.
const cardOfAChild = "DEVICETEST_CARD_OF_A_CHILD"

// TestAProcessKilledWhileItsOwnCardHangsLeavesNothing kills it several times, since
// which of its threads ends last is left to chance.
func TestAProcessKilledWhileItsOwnCardHangsLeavesNothing(t *testing.T) {
	if os.Getenv(cardOfAChild) != "" {
		hangUntilKilled(t)
	}
	if os.Geteuid() != 0 {
		sample.Lack(t, ErrUnsupported)
	}
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), cardOfAChild+"=1")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var path string
		if _, err := fmt.Fscanln(out, &path); err != nil || !strings.HasPrefix(path, "/dev/") {
			t.Fatalf("the child said %q, %v", path, err)
		}
		gone := leaving(t, path)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		waitUntil(t, path+" is gone", gone)
	}
}

// hangUntilKilled has a thread in uninterruptible sleep, and an asynchronous
// operation under way, which keeps the process's memory.
func hangUntilKilled(t *testing.T) {
	m := NewMedium(mib, Hang(Write))
	path := Attach(t, m)
	card := openDevice(t, path).(rawDevice)
	go func() { _ = write(card, make([]byte, 4096), 0) }()

	buf, err := block.Aligned(4096)
	if err != nil {
		t.Fatal(err)
	}
	var ctx uintptr
	if err := ioSetup(1, &ctx); err != nil {
		t.Fatal(err)
	}
	if err := ioSubmitWrite(ctx, int(card.f.Fd()), buf, 8192); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 8192} {
		await(t, m, func(r Record) bool { return r.Kind == Write && r.Off == off })
	}
	fmt.Println(path)
	select {}
}

func TestServeSaysWhatIsWrong(t *testing.T) {
	c := serve(t, NewMedium(mib))
	_, err := Serve(NewMedium(mib), c.Path)
	if !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), c.Path) {
		t.Errorf("a device that is taken: %v", err)
	}
	_, err = Serve(NewMedium(mib), "/dev/null")
	if err == nil || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("a device that is none: %v", err)
	}
	m := NewMedium(mib)
	m.SectorSize = 777
	if _, err := Serve(m, ""); err == nil {
		t.Error("a sector of 777 bytes went well")
	}
}

func TestAMediumCanBeAPlainFile(t *testing.T) {
	m := NewMedium(1<<20, Flip(5000))
	path, remove, err := ServeFile(m, t.TempDir())
	if errors.Is(err, ErrUnsupported) {
		sample.Lack(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := Pattern(1, 8192)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	got := m.Bytes()[:8192]
	if bytes.Equal(got, want) {
		t.Error("the file has no fault")
	}
	if got[5000] ^= bitAt(5000); !bytes.Equal(got, want) {
		t.Error("the file holds something else")
	}
	if m.Counts().Syncs == 0 {
		t.Error("the medium was not flushed")
	}
}
