package device

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multidd/internal/sample"
)

// alignedBuffer returns n bytes at an address fit for direct I/O.
func alignedBuffer(t *testing.T, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

// The kinds of target there are. Each test of reading and writing runs on all.
func eachTarget(t *testing.T, size int64, f func(t *testing.T, c *Card)) {
	buffered := named
	buffered.buffered = true
	for _, k := range []struct {
		name string
		open func(t *testing.T) *Card
	}{
		{"device", func(t *testing.T) *Card { return open(t, newLoop(t, size).path, named) }},
		{"device with sectors of 4096", func(t *testing.T) *Card { return open(t, newLoop(t, size, "--sector-size", "4096").path, named) }},
		{"device, buffered", func(t *testing.T) *Card { return open(t, newLoop(t, size).path, buffered) }},
		{"file", func(t *testing.T) *Card { return open(t, scratch(t, size), Options{}) }},
		{"file on disk", func(t *testing.T) *Card {
			path := filepath.Join(t.TempDir(), "card.img")
			if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
				t.Fatal(err)
			}
			return open(t, path, Options{})
		}},
		{"file, buffered", func(t *testing.T) *Card { return open(t, scratch(t, size), buffered) }},
	} {
		t.Run(k.name, func(t *testing.T) { f(t, k.open(t)) })
	}
}

func TestBytesOfAnyAlignmentArriveAndNothingElseChanges(t *testing.T) {
	const size = 512 << 10
	eachTarget(t, size, func(t *testing.T, c *Card) {
		seed := uint64(20260501)
		rnd := rand.New(rand.NewPCG(seed, 0))
		t.Logf("seed %d", seed)
		want := pattern(1, size)
		if _, err := c.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		memory := alignedBuffer(t, size+4096)
		for i := range 100 {
			off := rnd.IntN(size)
			n := rnd.IntN(min(size-off, []int{17, 600, 9000, 300000}[i%4]) + 1)
			if i%3 == 0 {
				off, n = off/4096*4096, n/4096*4096
			}
			p := memory[rnd.IntN(3)*256:][:n] // aligned for some, not for others
			for j := range p {
				p[j] = byte(rnd.Uint32())
			}
			if k, err := c.WriteAt(p, int64(off)); k != n || err != nil {
				t.Fatalf("write %d at %d: %d, %v", n, off, k, err)
			}
			copy(want[off:], p)
			off = rnd.IntN(size)
			n = rnd.IntN(size - off + 1)
			got := memory[rnd.IntN(3)*256:][:n]
			if k, err := c.ReadAt(got, int64(off)); k != n || err != nil {
				t.Fatalf("read %d at %d: %d, %v", n, off, k, err)
			}
			if !bytes.Equal(got, want[off:off+n]) {
				t.Fatalf("round %d: %d bytes at %d read back wrong", i, n, off)
			}
		}
		if err := c.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("after our own writes only: %v", err)
		}
	})
}

func TestATailThatIsNoWholeSectorKeepsTheRestOfIt(t *testing.T) {
	eachTarget(t, 64<<10, func(t *testing.T, c *Card) {
		old := bytes.Repeat([]byte{0xee}, 64<<10)
		if _, err := c.WriteAt(old, 0); err != nil {
			t.Fatal(err)
		}
		image := pattern(3, 40000) // no multiple of 512
		if _, err := c.WriteAt(image, 0); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 64<<10)
		if _, err := c.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, append(image, old[40000:]...)) {
			t.Error("the tail, or what follows it, is wrong")
		}
	})
}

func TestTheEndOfTheCardIsTheEnd(t *testing.T) {
	eachTarget(t, 64<<10, func(t *testing.T, c *Card) {
		p := make([]byte, 8192)
		if n, err := c.WriteAt(p, 60<<10); n != 0 || reasonOf(err) != ReasonTooSmall {
			t.Errorf("writing past the end: %d, %v", n, err)
		}
		if err := c.StartWrite(p, 60<<10); reasonOf(err) != ReasonTooSmall {
			t.Errorf("starting to write past the end: %v", err)
		}
		if n, err := c.WriteAt(p, -1); n != 0 || err == nil {
			t.Errorf("writing before the beginning: %d, %v", n, err)
		}
		if n, err := c.ReadAt(p, 60<<10); n != 4096 || err != io.EOF {
			t.Errorf("reading past the end: %d, %v", n, err)
		}
		if n, err := c.ReadAt(p, 64<<10); n != 0 || err != io.EOF {
			t.Errorf("reading at the end: %d, %v", n, err)
		}
		if n, err := c.ReadAt(p, -1); n != 0 || err == nil || err == io.EOF {
			t.Errorf("reading before the beginning: %d, %v", n, err)
		}
		if n, err := c.WriteAt(p[:4096], 60<<10); n != 4096 || err != nil {
			t.Errorf("writing up to the end: %d, %v", n, err)
		}
		if n, err := c.ReadAt(p[:0], 3); n != 0 || err != nil {
			t.Errorf("reading nothing: %d, %v", n, err)
		}
		if n, err := c.WriteAt(nil, 3); n != 0 || err != nil {
			t.Errorf("writing nothing: %d, %v", n, err)
		}
	})
}

func TestRequestsInTheBackgroundAreDoneInOrder(t *testing.T) {
	const size, piece = 4 << 20, 64 << 10
	eachTarget(t, size, func(t *testing.T, c *Card) {
		memory := alignedBuffer(t, size)
		// More than the kernel takes at a time, each over the one before by half;
		// some unaligned.
		want := make([]byte, size)
		var n int
		for off := 0; off+piece <= size; off += piece / 2 {
			p := memory[:piece]
			if n%5 == 4 {
				p = p[:piece-100]
			}
			if n >= 3 {
				// Only then may the memory be used again.
				if err := c.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			p = memory[n%4*piece:][:len(p)]
			copy(p, pattern(byte(n), len(p)))
			if err := c.StartWrite(p, int64(off)); err != nil {
				t.Fatal(err)
			}
			copy(want[off:], p)
			n++
		}
		for range 3 {
			if err := c.Wait(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Wait(); err == nil {
			t.Error("waiting for nothing")
		}
		if err := c.Sync(); err != nil {
			t.Fatal(err)
		}
		for off := 0; off < size; off += size / 16 {
			if err := c.StartRead(memory[off:off+size/16], int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		for range 16 {
			if err := c.Wait(); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(memory, want) {
			t.Error("read back wrong")
		}
		if err := c.StartRead(memory[:8192], size-4096); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err == nil {
			t.Error("reading past the end gave no error")
		}
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	})
}

func TestTheBackgroundIsUsedWhereItCanBe(t *testing.T) {
	for _, k := range []struct {
		name string
		skew int
		want int
	}{{"aligned", 0, 1}, {"unaligned", 1, 0}} {
		c := open(t, newLoop(t, 1<<20).path, named)
		p := alignedBuffer(t, 8192)[k.skew:][:4096]
		if err := c.StartWrite(p, 0); err != nil {
			t.Fatal(err)
		}
		if c.queue.context == 0 != (k.want == 0) {
			t.Errorf("%s: handed to the kernel: %v", k.name, c.queue.context != 0)
		}
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestWithoutBackgroundRequestsItIsDoneInTheForeground(t *testing.T) {
	c := open(t, newLoop(t, 1<<20).path, named)
	c.queue.refused = true // as by a container's rules
	p := alignedBuffer(t, 8192)
	copy(p, pattern(5, 8192))
	if err := c.StartWrite(p, 4096); err != nil {
		t.Fatal(err)
	}
	if c.queue.context != 0 || !c.queue.pending[0].done {
		t.Error("it was not done in the foreground")
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	q := alignedBuffer(t, 8192)
	if err := c.StartRead(q, 4096); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil || !bytes.Equal(p, q) {
		t.Errorf("read back: %v", err)
	}
}

func TestReadingComesFromTheMediumNotTheCache(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		t.Run(fmt.Sprint("buffered ", buffered), func(t *testing.T) {
			l := newLoop(t, 1<<20)
			o := named
			o.buffered = buffered
			c := open(t, l.path, o)
			if c.Direct() == buffered {
				t.Fatalf("direct: %v", c.Direct())
			}
			if _, err := c.WriteAt(pattern(1, 64<<10), 0); err != nil {
				t.Fatal(err)
			}
			if err := c.Sync(); err != nil {
				t.Fatal(err)
			}
			// Fill the device's cache, then change the medium behind it.
			other, err := os.Open(l.path)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			cached := make([]byte, 64<<10)
			if _, err := other.ReadAt(cached, 0); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(l.file, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("changed"), 4096); err != nil {
				t.Fatal(err)
			}
			// The control: an ordinary reader is fooled.
			got := make([]byte, 7)
			if _, err := other.ReadAt(got, 4096); err != nil || string(got) == "changed" {
				t.Fatalf("the cache was not in use: %q, %v", got, err)
			}
			if _, err := c.ReadAt(got, 4096); err != nil || string(got) != "changed" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

func TestStrictTakesNoPageCache(t *testing.T) {
	o := named
	o.Strict = true
	l, file := newLoop(t, 1<<20), scratch(t, 1<<20)
	open(t, l.path, o).Close()
	o.buffered = true
	refuses(t, l.path, o, ReasonNoDirectIO)
	refuses(t, file, o, ReasonNoDirectIO)
	fresh := filepath.Join(t.TempDir(), "new.img")
	c := open(t, fresh, o)
	if _, err := c.WriteAt([]byte("x"), 0); reasonOf(err) != ReasonNoDirectIO {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(fresh); err == nil {
		t.Error("the file was made all the same")
	}
	o.Strict = false
	open(t, l.path, o) // the control
	if c := open(t, file, o); c.Direct() {
		t.Error("it says that it goes past the cache")
	}
}

func TestAClosedCardSaysSoAndTakesNothing(t *testing.T) {
	eachTarget(t, 64<<10, func(t *testing.T, c *Card) {
		p := alignedBuffer(t, 4096)
		if err := c.StartWrite(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
		if _, err := c.WriteAt(p, 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if _, err := c.ReadAt(p, 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if err := c.StartWrite(p, 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("start: %v", err)
		}
		if err := c.Sync(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("sync: %v", err)
		}
		done := make(chan error, 1)
		go func() { done <- c.Wait() }()
		select {
		case <-done: // what became of it is not known
		case <-time.After(20 * time.Second):
			t.Fatal("waiting on a closed card does not end")
		}
	})
}

func TestABackupTableIsFound(t *testing.T) {
	for _, sector := range []string{"512", "4096"} {
		l := newLoop(t, 4<<20, "--sector-size", sector)
		c := open(t, l.path, named)
		if _, _, ok := c.BackupTable(); ok {
			t.Error("found on a blank card")
		}
		c.Close()
		sample.Need(t, "sfdisk")
		cmd := exec.Command("sfdisk", "-q", l.path)
		cmd.Stdin = strings.NewReader("label: gpt\nsize=1M\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		c = open(t, l.path, named)
		off, n, ok := c.BackupTable()
		if fmt.Sprint(n) != sector || off != 4<<20-n || !ok {
			t.Errorf("sectors of %s: %d, %d, %v", sector, off, n, ok)
		}
		if _, err := c.WriteAt(make([]byte, n), off); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := c.BackupTable(); ok {
			t.Error("found after it was wiped")
		}
	}
}

func TestSectorsOf4096AreWrittenWhole(t *testing.T) {
	l := newLoop(t, 1<<20, "--sector-size", "4096")
	c := open(t, l.path, named)
	if c.Sector() != 4096 {
		t.Fatalf("sector %d", c.Sector())
	}
	// The control: what is aligned to 512 only is refused by the device itself.
	h := c.handle.Load()
	if _, err := h.direct.WriteAt(alignedBuffer(t, 4096)[:512], 512); !errors.Is(err, unix.EINVAL) {
		t.Errorf("the device takes a part of a sector: %v", err)
	}
	if _, err := c.WriteAt(pattern(1, 512), 512); err != nil {
		t.Error(err)
	}
	got := make([]byte, 512)
	if _, err := c.ReadAt(got, 512); err != nil || !bytes.Equal(got, pattern(1, 512)) {
		t.Error("read back wrong", err)
	}
}
