package faulttest

import (
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multidd/internal/device"
	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
	"multidd/internal/station"
)

// command runs a program that must succeed.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// mount mounts something until umount is called, or the end of the test.
func mount(t *testing.T, args ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	command(t, "mount", append(args, dir)...)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil && !strings.Contains(string(out), "not mounted") {
			t.Errorf("umount %s: %s", dir, out)
		}
	})
	return dir
}

// The image that is being read is not overwritten, whether it lies on the card or is
// the card.
func TestTheImageIsNotWrittenOverItself(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	c, other := newCard(t, 8*mib), newCard(t, 8*mib)
	command(t, "mke2fs", "-q", "-F", c.path)
	dir := mount(t, c.path)
	image := filepath.Join(dir, "master.img")
	if err := os.WriteFile(image, m.data, 0o644); err != nil {
		t.Fatal(err)
	}
	startWrite(t, image, []*card{c}).end().wantRefused("source-on-target", image, "copy it")
	startWrite(t, image, []*card{c, other}).end().wantRefused("source-on-target")
	other.wantUntouched()
	startWrite(t, image, []*card{other}).end().want(station.ExitGood, "good") // the control
	command(t, "umount", dir)
	startWrite(t, c.path, []*card{c}).end().wantRefused("source-on-target")
	if before := c.Bytes(); before[1024+56] != 0x53 || before[1024+57] != 0xef {
		t.Error("the file system on the card is damaged")
	}
}

func TestAMountedCardIsRefused(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	c := newCard(t, 8*mib)
	command(t, "mke2fs", "-q", "-F", c.path)
	dir := mount(t, "-o", "ro", c.path)
	before := c.Counts().Writes
	startWrite(t, m.path, []*card{c}).end().wantRefused("mounted", dir, "umount")
	if n := c.Counts().Writes - before; n != 0 {
		t.Errorf("%d writes to a mounted card", n)
	}
	command(t, "umount", dir)
	startWrite(t, m.path, []*card{c}).end().want(station.ExitGood, "good")
}

// A card that another program has claimed is refused, and the program is named.
func TestACardInUseIsRefusedAndItsUserNamed(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	c := newCard(t, 4*mib)
	t.Run("claimed", func(t *testing.T) {
		who := startNeighbour(t, "claim", c)
		startWrite(t, m.path, []*card{c}).end().wantRefused("busy", fmt.Sprintf("process %d (", who.Pid))
		c.wantUntouched()
	})
	t.Run("only opened", func(t *testing.T) { // the control
		startNeighbour(t, "read", c, 0)
		startWrite(t, m.path, []*card{c}).end().want(station.ExitGood, "good")
	})
}

// A card that is one sector too small is refused before anything is written to any
// card. If the size of the image is known only at its end, that card fails and never
// looks whole.
func TestACardOneSectorTooSmall(t *testing.T) {
	t.Parallel()
	const size = 5 * mib
	m := newMaster(t, size)
	small, good := newCard(t, size-512), newCard(t, size)
	startWrite(t, m.path, []*card{small, good}).end().wantRefused("too-small", fmt.Sprint(size-512), fmt.Sprint(size))
	small.wantUntouched()
	good.wantUntouched()

	packed := pack(t, m.data)
	job{image: packed}.run(t, small, good).want(station.ExitSomeFailed, "too-small", "good")
	small.wantDead()
	good.wantHolds(m.data)

	// If there is no card that is big enough, the image may as well have no end.
	for _, tail := range []int{512, 2 * mib} {
		small := newCard(t, size-int64(tail))
		res := job{image: packed}.run(t, small)
		res.want(station.ExitImage, "image-decode|too-small")
		if !strings.Contains(res.Image.Err, fmt.Sprint(small.Size())) {
			t.Errorf("no word of the card's size: %q", res.Image.Err)
		}
		small.wantDead()
	}
	startWrite(t, m.path, []*card{good}).end().want(station.ExitGood, "good") // the control
}

// pack packs data, so that its size is known only at its end.
func pack(t *testing.T, data []byte) (path string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "master.img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err == nil {
		_, err = z.Write(data)
	}
	for _, e := range []error{err, z.Close(), f.Close()} {
		if e != nil {
			t.Fatal(e)
		}
	}
	return f.Name()
}

// lock makes the card's device read-only until the test ends: whoever has it next is
// not to inherit that.
func (c *card) lock() {
	c.t.Helper()
	command(c.t, "blockdev", "--setro", c.path)
	c.t.Cleanup(func() { command(c.t, "blockdev", "--setrw", c.path) })
}

func TestAWriteProtectedCardIsRefused(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	locked := newCard(t, 4*mib, devicetest.ReadOnly())
	switched := newCard(t, 4*mib)
	switched.lock()
	for _, c := range []*card{locked, switched} {
		startWrite(t, m.path, []*card{c}).end().wantRefused("read-only", c.path, "tab")
		c.wantUntouched()
	}
	command(t, "blockdev", "--setrw", switched.path)
	startWrite(t, m.path, []*card{switched}).end().want(station.ExitGood, "good")
}

// A card that takes its writes and turns read-only then, as worn ones do, fails with
// that reason.
func TestACardThatTurnsReadOnlyFails(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 6*mib)
	c, good := newCard(t, 8*mib, devicetest.HangAt(devicetest.Write, hangAt, 1)), newCard(t, 8*mib)
	r := job{image: m.path}.start(t, c, good)
	c.awaitWrite(hangAt)
	c.lock()
	c.Heal()
	r.end().want(station.ExitSomeFailed, "read-only|write-eio", "good")
	c.wantDead()
}

// What cannot be read past the page cache is said to have been read through it, or
// refused if that is not enough.
func TestWithoutDirectIOThatIsSaidOrRefused(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	if os.Geteuid() != 0 {
		sample.Lack(t, "only root can mount")
	}
	for _, c := range []struct {
		fs     string
		direct bool
	}{{"ramfs", false}, {"tmpfs", true}} { // the second is the control
		file := filepath.Join(mount(t, "-t", c.fs, c.fs), "card.img")
		before := make([]byte, 4*mib)
		if err := os.WriteFile(file, before, 0o600); err != nil {
			t.Fatal(err)
		}
		j := job{image: m.path, device: device.Options{Strict: true}}
		if plan, _ := j.plan(t, &card{path: file}); !c.direct {
			plan.Open()
			wantRefusal(t, plan, "no-direct-io")
			start(t, "write", "--yes", "--strict", m.path, file).end().wantRefused("no-direct-io", file)
			if b, err := os.ReadFile(file); err != nil || differs(b, before) >= 0 {
				t.Errorf("the file was written, %v", err)
			}
		}
		j.device.Strict = c.direct
		res := j.run(t, &card{path: file})
		res.want(station.ExitGood, "good")
		if c.direct {
			res.wantAmber(0, "")
		} else {
			res.wantAmber(0, "read back through the page cache")
		}
		if b, err := os.ReadFile(file); err != nil || differs(b[:len(m.data)], m.data) >= 0 {
			t.Errorf("%s: the file does not hold the image, %v", c.fs, err)
		}
	}
}

// countTraffic turns the kernel's counting of what is written to a card on or off.
func (c *card) countTraffic(on bool) {
	c.t.Helper()
	value := "0"
	if on {
		value = "1"
	}
	path := filepath.Join("/sys/block", filepath.Base(c.path), "queue/iostats")
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		c.t.Fatal(err)
	}
}

// A card to which another program writes meanwhile is not good, wherever it writes and
// whether or not that reaches the card at once.
func TestACardThatAnotherProgramWritesToIsNotGood(t *testing.T) {
	t.Parallel()
	const size = 6 * mib
	m := newMaster(t, size)
	for _, c := range []struct {
		name   string
		doing  string
		off    int64
		seal   bool // it happens when only the first page is missing
		blind  bool // the detector is off
		result string
	}{
		{"beyond the image", "write", size + mib, false, false, "foreign-write"},
		{"within the image", "write", 2 * mib, false, false, "foreign-write"},
		{"in the page cache only", "dirty", 2*mib + 8192, false, false, "foreign-write"},
		{"at the very end", "write", size + mib, true, false, "foreign-write"},
		{"only reading", "read", 2 * mib, false, false, "good"},
		{"nobody counts", "write", size + mib, false, true, "good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bad, good := newCard(t, 8*mib), newCard(t, 8*mib)
			if c.blind {
				bad.countTraffic(false)
				t.Cleanup(func() { bad.countTraffic(true) })
			}
			writes := 0 // of the first page; the second time it is sealed
			reached, gate := make(chan struct{}), make(chan struct{})
			bad.Inject(devicetest.On(func(op devicetest.Op) error {
				if op.Kind == devicetest.Write && op.Off == 0 {
					writes++
				}
				if op.Kind == devicetest.Write && (c.seal && op.Off == 0 && writes == 2 || !c.seal && op.Off == 4*mib && len(op.Data) > 4096) {
					close(reached)
					<-gate
				}
				return nil
			}))
			r := job{image: m.path}.start(t, bad, good)
			<-reached
			startNeighbour(t, c.doing, bad, c.off)
			close(gate)
			exit := station.ExitSomeFailed
			if c.result == "good" {
				exit = station.ExitGood
			}
			r.end().want(exit, c.result, "good")
			if c.result != "good" {
				bad.wantDead()
			}
			good.wantHolds(m.data)
		})
	}
}
