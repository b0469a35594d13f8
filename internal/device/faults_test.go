package device_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/device"
	"multidd/internal/device/devicetest"
	"multidd/internal/duplicate"
)

var (
	_ duplicate.Async   = (*device.Card)(nil)
	_ duplicate.Checker = (*device.Card)(nil)
)

const mib = 1 << 20

// attach makes a medium a block device and opens it.
func attach(t *testing.T, m *devicetest.Medium) *device.Card {
	t.Helper()
	return open(t, devicetest.Attach(t, m))
}

func open(t *testing.T, name string) *device.Card {
	t.Helper()
	var s device.System
	d, err := s.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Open(d, device.Options{Policy: device.Policy{Named: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func aligned(t *testing.T, n int) []byte {
	t.Helper()
	b, err := block.Aligned(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { block.Free(b) })
	return b
}

func reasonOf(err error) string {
	if e := (*device.Error)(nil); errors.As(err, &e) {
		return e.Reason()
	}
	return "none"
}

func TestEveryTargetKeepsTheContract(t *testing.T) {
	t.Run("card", func(t *testing.T) {
		devicetest.Contract(t, func(t *testing.T) (devicetest.Target, int64) {
			return attach(t, devicetest.NewMedium(8*mib)), 8 * mib
		})
	})
	t.Run("card with sectors of 4096", func(t *testing.T) {
		devicetest.Contract(t, func(t *testing.T) (devicetest.Target, int64) {
			m := devicetest.NewMedium(8 * mib)
			m.SectorSize = 4096
			return attach(t, m), 8 * mib
		})
	})
	t.Run("file", func(t *testing.T) {
		devicetest.Contract(t, func(t *testing.T) (devicetest.Target, int64) {
			const size = 8*mib + 1000 // no multiple of anything
			path := filepath.Join(t.TempDir(), "card.img")
			if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
				t.Fatal(err)
			}
			return open(t, path), size
		})
	})
	t.Run("new file", func(t *testing.T) {
		devicetest.Contract(t, func(t *testing.T) (devicetest.Target, int64) {
			c := open(t, filepath.Join(t.TempDir(), "card.img"))
			if err := c.Prepare(8 * mib); err != nil {
				t.Fatal(err)
			}
			return c, 8 * mib
		})
	})
}

func TestABadPlaceIsAnErrorThatNamesIt(t *testing.T) {
	m := devicetest.NewMedium(8 * mib)
	c := attach(t, m)
	p := aligned(t, mib)
	copy(p, devicetest.Pattern(1, mib))

	undo := m.Inject(devicetest.FailAt(devicetest.Write, 2*mib+8192, 4096, devicetest.Always))
	if _, err := c.WriteAt(p, 2*mib); reasonOf(err) != device.ReasonWriteEIO || !strings.Contains(err.Error(), "at byte 2097152") {
		t.Errorf("write: %v", err)
	}
	if err := c.Sync(); reasonOf(err) != device.ReasonWriteEIO {
		t.Errorf("flush after a write that failed: %v", err)
	}
	if err := c.StartWrite(p, 2*mib); err != nil {
		t.Fatal(err)
	}
	if err := c.StartWrite(p, 4*mib); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); reasonOf(err) != device.ReasonWriteEIO {
		t.Errorf("write in the background: %v", err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("the write after it: %v", err)
	}
	undo()
	// A fault that went away: the write is repeated, and all is well.
	if _, err := c.WriteAt(p, 2*mib); err != nil {
		t.Error(err)
	}
	if err := c.Sync(); err != nil {
		t.Errorf("flush after the write was repeated: %v", err)
	}

	m.Inject(devicetest.FailAt(devicetest.Read, 2*mib+8192, 4096, devicetest.Always))
	if _, err := c.ReadAt(p, 2*mib); reasonOf(err) != device.ReasonReadEIO {
		t.Errorf("read: %v", err)
	}
	if err := c.StartRead(p, 2*mib); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); reasonOf(err) != device.ReasonReadEIO {
		t.Errorf("read in the background: %v", err)
	}
	if err := c.Check(); err != nil {
		t.Errorf("it is still the same card: %v", err)
	}
}

// Why a write failed is looked for only when nothing else is under way: the look
// opens the device anew, and a card put in meanwhile would get the rest.
func TestNothingIsUnderWayWhenAFailureIsLookedInto(t *testing.T) {
	m := devicetest.NewMedium(8*mib, devicetest.FailAt(devicetest.Write, 2*mib, 4096, 1))
	slow := m.Inject(devicetest.FaultFunc(func(op devicetest.Op, next devicetest.Next) (int, error) {
		if op.Kind == devicetest.Write && op.Off >= 4*mib {
			time.Sleep(200 * time.Millisecond)
		}
		return next(op)
	}))
	defer slow()
	c := attach(t, m)
	p := aligned(t, mib)
	for _, off := range []int64{2 * mib, 4 * mib} {
		if err := c.StartWrite(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Wait(); reasonOf(err) != device.ReasonWriteEIO {
		t.Errorf("the first write: %v", err)
	}
	done := int64(0)
	for _, r := range m.Log() {
		if r.Kind == devicetest.Write && r.Off >= 4*mib && r.Done {
			done += int64(r.Len)
		}
	}
	if done != mib {
		t.Errorf("%d bytes of the second write were done when the first was told", done)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("the second write: %v", err)
	}
}

func TestAFlushThatFailedOnceStaysFailed(t *testing.T) {
	m := devicetest.NewMedium(mib)
	c := attach(t, m)
	if _, err := c.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	m.Inject(devicetest.Fail(devicetest.Sync, 0, 1))
	if err := c.Sync(); reasonOf(err) != device.ReasonFlush {
		t.Errorf("the flush that fails: %v", err)
	}
	// The control: the device itself has forgotten.
	f, err := os.OpenFile(c.Disk().Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatalf("the fault is still there: %v", err)
	}
	if err := c.Sync(); reasonOf(err) != device.ReasonFlush {
		t.Errorf("the next flush: %v", err)
	}
}

func TestSyncReachesTheMedium(t *testing.T) {
	m := devicetest.NewMedium(mib)
	c := attach(t, m)
	for i := range 3 {
		if _, err := c.WriteAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		if n := m.Counts().Syncs; n != i {
			t.Errorf("%d flushes before the %dth Sync", n, i+1)
		}
		if err := c.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.Counts().Syncs; n != 3 {
		t.Errorf("%d flushes after 3 Syncs", n)
	}
}

// aioCount is how many background requests the kernel has set memory aside for.
func aioCount(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/fs/aio-nr")
	if err != nil {
		t.Skip(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

func TestAWedgedCardCanBeClosed(t *testing.T) {
	for _, waiting := range []bool{false, true} {
		t.Run("somebody waits: "+strconv.FormatBool(waiting), func(t *testing.T) {
			m := devicetest.NewMedium(mib)
			c := attach(t, m)
			p := aligned(t, 64<<10)
			copy(p, devicetest.Pattern(1, len(p)))
			undo := m.Inject(devicetest.Hang(devicetest.Write))
			if err := c.StartWrite(p, 0); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := m.Await(ctx, func(r devicetest.Record) bool { return r.Kind == devicetest.Write }); err != nil {
				t.Fatal(err)
			}
			waited := make(chan error, 1)
			if waiting {
				go func() { waited <- c.Wait() }()
			}
			closed := make(chan error, 1)
			go func() { closed <- c.Close() }()
			select {
			case err := <-closed:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("closing a wedged card does not return")
			}
			// It is still claimed: nobody may use it before the kernel lets go.
			if f, err := os.OpenFile(c.Disk().Path, os.O_RDWR|os.O_EXCL, 0); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("a card with a request under way can be claimed: %v", err)
				f.Close()
			}
			undo()
			if waiting {
				if err := <-waited; err != nil && !errors.Is(err, os.ErrClosed) { // whoever was first
					t.Errorf("the request, once it was done: %v", err)
				}
			}
			for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the kernel tells nobody
				f, err := os.OpenFile(c.Disk().Path, os.O_RDWR|os.O_EXCL, 0)
				if err == nil {
					f.Close()
					break
				}
				if time.Now().After(end) {
					t.Fatalf("still claimed: %v", err)
				}
			}
			if !bytes.Equal(m.Bytes()[:len(p)], p) {
				t.Error("the write that hung was not carried out")
			}
		})
	}
}

// A thread in the kernel for each card costs memory and time, and a process cannot
// end before its threads come back.
func TestWaitingForACardTakesNoThread(t *testing.T) {
	const n = 3
	for range n {
		m := devicetest.NewMedium(mib)
		c := attach(t, m)
		m.Inject(devicetest.Hang(devicetest.Write))
		if err := c.StartWrite(aligned(t, 4096), 0); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() { waited <- c.Wait() }()
		t.Cleanup(func() {
			if err := <-waited; err != nil {
				t.Error(err)
			}
		})
	}
	// The runtime tells "IO wait" of those that wait in its poller, and "syscall" of
	// those that have a thread.
	stacks := make([]byte, 1<<20)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		waiting := 0
		for g := range bytes.SplitSeq(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
			if bytes.Contains(g, []byte("(*Card).Wait(")) && bytes.Contains(g, []byte("[IO wait")) {
				waiting++
			}
		}
		if waiting == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d wait without a thread", waiting, n)
		}
	}
}

func TestClosingGivesTheKernelsMemoryBack(t *testing.T) {
	before := aioCount(t)
	m := devicetest.NewMedium(mib)
	path := devicetest.Attach(t, m)
	p := aligned(t, 4096)
	for range 5 {
		c := open(t, path)
		if err := c.StartWrite(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		during := aioCount(t)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if during == before {
			t.Skip("requests are not done in the background here")
		}
	}
	// Other tests of this computer may hold some of their own. The kernel tells
	// nobody.
	for end := time.Now().Add(time.Minute); aioCount(t) >= before+5*8; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d requests set aside, %d before", aioCount(t), before)
		}
	}
}

func TestAPulledCardIsNoEndlessWait(t *testing.T) {
	m := devicetest.NewMedium(mib)
	c := attach(t, m)
	p := aligned(t, 64<<10)
	m.Inject(devicetest.Hang(devicetest.Write))
	for off := int64(0); off < 3*64<<10; off += 64 << 10 {
		if err := c.StartWrite(p, off); err != nil {
			t.Fatal(err)
		}
	}
	m.Pull()
	for range 3 {
		if err := c.Wait(); err == nil || reasonOf(err) == "none" {
			t.Errorf("a write to a card that was pulled: %v", err)
		}
	}
	if err := c.Sync(); err == nil {
		t.Error("a pulled card was flushed")
	}
}

func TestProbeWaitsForNoDisk(t *testing.T) {
	var s device.System
	var disks []device.Disk
	good, stuck := devicetest.NewMedium(mib), devicetest.NewMedium(mib)
	for _, m := range []*devicetest.Medium{stuck, good} {
		if _, err := m.WriteAt([]byte("hsqs"), 0); err != nil {
			t.Fatal(err)
		}
		d, err := s.Find(devicetest.Attach(t, m))
		if err != nil {
			t.Fatal(err)
		}
		disks = append(disks, d)
	}
	look := func(ctx context.Context) []device.Disk {
		done := make(chan []device.Disk, 1)
		go func() { done <- s.Probe(ctx, disks) }()
		select {
		case got := <-done:
			return got
		case <-time.After(30 * time.Second):
			t.Fatal("it waits for a disk that does not answer")
			return nil
		}
	}
	// The control: while all answer, all are known.
	if got := look(t.Context()); len(got) != 2 || got[0].FS != "squashfs" || got[1].FS != "squashfs" {
		t.Fatalf("got %+v", got)
	}
	stuck.Inject(devicetest.Hang(devicetest.Read))
	defer stuck.LetGo()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got := look(ctx); len(got) != 2 || got[0].FS != "" || got[0].Name != disks[0].Name || got[1].FS != "squashfs" {
		t.Errorf("got %+v", got)
	}
	if disks[1].FS != "" {
		t.Error("the caller's list was changed")
	}
	unread := device.Disk{Path: "/no/such/disk", Size: 1, Sector: 512}
	if got := s.Probe(t.Context(), []device.Disk{unread}); len(got) != 1 || got[0].FS != "" {
		t.Errorf("got %+v", got)
	}
}
