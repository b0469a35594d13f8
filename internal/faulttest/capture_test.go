package faulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
	"multidd/internal/station"
)

// A captured is `multidd capture` of a card, and what it made.
type captured struct {
	*program
	dir, image string
}

// startCapture starts `multidd capture` of a card into a raw image in a directory of its
// own, or in dir.
func startCapture(t *testing.T, c *card, dir string, flags ...string) captured {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	image := filepath.Join(dir, "x.img")
	return captured{start(t, slices.Concat([]string{"capture", "--json"}, flags, []string{c.path, image})...), dir, image}
}

// bad returns the ranges of the last event.
func (p captured) bad() (ranges [][2]int64) {
	p.t.Helper()
	for line := range strings.Lines(p.text()) {
		var e struct {
			Event string `json:"event"`
			Bad   []struct {
				Off int64 `json:"offset"`
				Len int64 `json:"length"`
			} `json:"bad_ranges"`
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Event == "run-end" {
			for _, b := range e.Bad {
				ranges = append(ranges, [2]int64{b.Off, b.Len})
			}
		}
	}
	return ranges
}

// wantEnd checks how it ended.
func (p captured) wantEnd(exit int, reason string) {
	p.t.Helper()
	o := p.end()
	if o.exit != exit || !o.ended || o.last.Reason != reason {
		p.t.Errorf("exit status %d for %q, want %d for %q", o.exit, o.last.Reason, exit, reason)
	}
}

// wantImage checks that the image is what the card holds, but for some ranges, which are
// zeros.
func (p captured) wantImage(c *card, zero ...[2]int64) {
	p.t.Helper()
	got, err := os.ReadFile(p.image)
	if err != nil {
		p.t.Fatal(err)
	}
	want := c.Bytes()
	for _, z := range zero {
		clear(want[z[0] : z[0]+z[1]])
	}
	if at := differs(got, want); at >= 0 || len(got) != len(want) {
		p.t.Errorf("the image has %d bytes and the card %d; they differ from byte %d on", len(got), len(want), at)
	}
}

// wantNoImage checks that nothing has the image's name.
func (p captured) wantNoImage() {
	p.t.Helper()
	for _, name := range []string{p.image, p.image + ".bmap", p.image + ".sha256"} {
		if _, err := os.Lstat(name); err == nil {
			p.t.Errorf("%s is there", name)
		}
	}
}

// wantFiles checks what is in the directory, in the order of the names.
func (p captured) wantFiles(names ...string) {
	p.t.Helper()
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, names) {
		p.t.Errorf("there are %q, want %q", got, names)
	}
}

var imageFiles = []string{"x.img", "x.img.bmap", "x.img.sha256"}

func TestACardIsCapturedAsItIs(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{8 * mib, 3*mib + 512, 5 * 4096} {
		c := newCard(t, size)
		p := startCapture(t, c, "")
		p.wantEnd(station.ExitGood, "")
		p.wantImage(c)
		p.wantFiles(imageFiles...)
		if n := c.Counts().Writes; n != 0 {
			t.Errorf("a card that is only read was written to %d times", n)
		}
	}
}

// Sectors of 4096 bytes, and a card whose partition goes on beyond its end.
func TestCardsThatAreNotAsOthersAreCaptured(t *testing.T) {
	t.Parallel()
	file := filepath.Join(memoryDir(t), "card.img")
	m := devicetest.NewMedium(6*mib + 4096)
	m.Soil(used)
	data := m.Bytes()
	copy(data[446:], "\x00\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x00\x10\x00") // 512 MiB
	data[510], data[511] = 0x55, 0xaa
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, sector := range []string{"512", "4096"} {
		out, err := exec.Command("losetup", "--find", "--show", "-b", sector, file).Output()
		if err != nil {
			sample.Lack(t, "losetup: ", err)
		}
		dev := strings.TrimSpace(string(out))
		image := filepath.Join(t.TempDir(), "x.img")
		p := captured{start(t, "capture", "--json", dev, image), filepath.Dir(image), image}
		p.wantEnd(station.ExitGood, "")
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %s", out)
		}
		if got, err := os.ReadFile(image); err != nil || !bytes.Equal(got, data) {
			t.Errorf("sectors of %s bytes: the image is not the card: %v", sector, err)
		}
	}
}

func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "faulttest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var badSectors = [][2]int64{{2*mib + 4096, 4096}, {5 * mib, 8192}}

// What a card cannot read is named, and is never silently zeros; another try goes on.
func TestACardThatCannotReadSomeOfItsBytes(t *testing.T) {
	t.Parallel()
	var faults []devicetest.Fault
	for _, b := range badSectors {
		faults = append(faults, devicetest.FailAt(devicetest.Read, b[0], b[1], devicetest.Always))
	}
	c := newCard(t, 8*mib, faults...)
	p := startCapture(t, c, "")
	p.wantEnd(station.ExitNoneGood, "read-eio")
	if got := p.bad(); !slices.Equal(got, badSectors) {
		t.Errorf("bad places %v, want %v", got, badSectors)
	}
	p.wantFiles("x.img.map", "x.img.partial")
	if text := p.text(); !strings.Contains(text, "--map="+p.image+".map") || !strings.Contains(text, "--allow-bad") {
		t.Error("no word of how to go on")
	}

	// Without the map the partial is not lost by accident.
	again := startCapture(t, c, p.dir)
	again.wantEnd(station.ExitRefused, "")
	p.wantFiles("x.img.map", "x.img.partial")

	// It still cannot: zeros there, if that is allowed.
	allowed := startCapture(t, c, p.dir, "--map="+p.image+".map", "--allow-bad")
	allowed.wantEnd(station.ExitSomeFailed, "read-eio")
	allowed.wantImage(c, badSectors...)
	if got := allowed.bad(); !slices.Equal(got, badSectors) {
		t.Errorf("bad places %v, want %v", got, badSectors)
	}
	allowed.wantFiles("x.img", "x.img.bmap", "x.img.map", "x.img.sha256")

	// The control: in another reader, so to speak, nothing is bad.
	c.Heal()
	good := startCapture(t, c, "")
	good.wantEnd(station.ExitGood, "")
	good.wantImage(c)
}

func TestASecondTryInABetterReaderCompletesTheImage(t *testing.T) {
	t.Parallel()
	c := newCard(t, 8*mib, devicetest.FailAt(devicetest.Read, badSectors[0][0], badSectors[0][1], devicetest.Always))
	p := startCapture(t, c, "")
	p.wantEnd(station.ExitNoneGood, "read-eio")
	c.Heal()
	again := startCapture(t, c, p.dir, "--map="+p.image+".map")
	again.wantEnd(station.ExitGood, "")
	again.wantImage(c)
	again.wantFiles(imageFiles...)
}

// GNU ddrescue goes on where we left off, and we where it did.
func TestDdrescueGoesOn(t *testing.T) {
	t.Parallel()
	sample.Need(t, "ddrescue")
	c := newCard(t, 8*mib, devicetest.FailAt(devicetest.Read, badSectors[0][0], badSectors[0][1], devicetest.Always))
	p := startCapture(t, c, "")
	p.wantEnd(station.ExitNoneGood, "read-eio")
	c.Heal()
	partial, m := p.image+".partial", p.image+".map"
	if out, err := exec.Command("ddrescue", "-q", "-d", "-r1", c.path, partial, m).CombinedOutput(); err != nil {
		t.Fatalf("ddrescue: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(partial); err != nil || !bytes.Equal(got, c.Bytes()) {
		t.Errorf("ddrescue did not complete it: %v", err)
	}
	before := c.Counts().Reads
	again := startCapture(t, c, p.dir, "--map="+m)
	again.wantEnd(station.ExitGood, "")
	again.wantImage(c)
	if n := c.Counts().Reads - before; n > 200 { // tables, and to know the card again
		t.Errorf("%d requests for a card that had been read", n)
	}
}

// What reads differently the second time is found by reading twice, and only so: a bit
// that turns over, and a place that is never the same.
func TestWhatReadsDifferentlyIsNotCaptured(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func() devicetest.Fault{
		"unstable": func() devicetest.Fault { return devicetest.Unstable(3*mib, 8192, 1) },
		"a bit": func() devicetest.Fault {
			reads := 0
			return devicetest.FaultFunc(func(op devicetest.Op, next devicetest.Next) (int, error) {
				n, err := next(op)
				if op.Kind == devicetest.Read && op.Off <= 4*mib && op.End() > 4*mib {
					if reads++; reads == 2 {
						op.Data[4*mib-op.Off] ^= 1
					}
				}
				return n, err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startCapture(t, newCard(t, 8*mib, fault()), "", "--verify=card")
			p.wantEnd(station.ExitNoneGood, "unstable-read")
			p.wantNoImage()
			// The controls: read once, nobody can know; and a sound card passes.
			startCapture(t, newCard(t, 8*mib, fault()), "").wantEnd(station.ExitGood, "")
			startCapture(t, newCard(t, 8*mib), "", "--verify=card").wantEnd(station.ExitGood, "")
		})
	}
}

// A card that is pulled ends the capture, and what is put in its place is never gone on
// with.
func TestACardPulledWhileItIsCaptured(t *testing.T) {
	t.Parallel()
	place := newSlot(t)
	pulled := place.put(8 * mib)
	pulled.Inject(devicetest.HangAt(devicetest.Read, 6*mib+100, 1))
	p := startCapture(t, pulled, "", "--map="+filepath.Join(t.TempDir(), "map"))
	m := p.cmd.Args[3][len("--map="):]
	pulled.await(func(r devicetest.Record) bool { return r.Kind == devicetest.Read && touches(r, 6*mib+100) })
	pulled.Pull()
	p.wantEnd(station.ExitNoneGood, "removed")
	p.wantNoImage()

	next := place.put(8 * mib)
	noise := devicetest.NewMedium(8 * mib)
	noise.Soil(used + 1)
	if _, err := next.Cells().WriteAt(noise.Bytes(), 0); err != nil {
		t.Fatal(err)
	}
	other := startCapture(t, next, p.dir, "--map="+m)
	other.end()
	if !strings.Contains(other.text(), "it is another card") {
		t.Error("another card was gone on with")
	}
	other.wantNoImage()
	// The control: the one that was pulled, once it is back.
	next.Pull()
	back := place.put(8 * mib)
	good := startCapture(t, back, p.dir, "--map="+m)
	good.wantEnd(station.ExitGood, "")
	good.wantImage(back)
}

func TestACardThatHangsWhileItIsCaptured(t *testing.T) {
	t.Parallel()
	c := newCard(t, 8*mib, devicetest.HangAt(devicetest.Read, 5*mib, 1))
	p := startCapture(t, c, "", "--stall-limit=1s")
	worker := p.worker()
	p.wantEnd(station.ExitNoneGood, "stalled")
	p.wantNoImage()
	c.LetGo()
	p.untilGone(worker)

	// One that hangs when its table is looked at, and somebody who does not wait.
	c = newCard(t, 8*mib, devicetest.Hang(devicetest.Read))
	p = startCapture(t, c, "", "--stall-limit=1h")
	c.await(func(r devicetest.Record) bool { return r.Kind == devicetest.Read })
	p.signal(syscall.SIGINT)
	if o := p.end(); o.exit != station.ExitInterrupted {
		t.Errorf("exit status %d", o.exit)
	}
	p.wantNoImage()
	c.LetGo()
}

// However a capture is ended, nothing has the image's name, and the next one is whole.
func TestACaptureThatIsEnded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(p *program, worker int)
		exit int
	}{
		{"Ctrl-C", func(p *program, _ int) { p.signal(syscall.SIGINT) }, station.ExitInterrupted},
		{"SIGTERM", func(p *program, _ int) { p.signal(syscall.SIGTERM) }, station.ExitTerminated},
		{"kill -9 of the worker", func(p *program, worker int) { kill(p, worker) }, 128 + 9},
		{"kill -9 of the program", func(p *program, _ int) { kill(p, p.cmd.Process.Pid) }, -1},
	} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keep %v", c.name, keep), func(t *testing.T) {
				t.Parallel()
				card := newCard(t, 8*mib, devicetest.Rate(0, 4*mib))
				dir := t.TempDir()
				var flags []string
				if keep {
					flags = []string{"--map=" + filepath.Join(dir, "x.map")}
				}
				p := startCapture(t, card, dir, flags...)
				worker := p.worker()
				card.await(func(r devicetest.Record) bool { return r.Kind == devicetest.Read && r.Off >= 4*mib && r.Len > 4096 })
				c.end(p.program, worker)
				if o := p.end(); o.exit != c.exit {
					t.Errorf("exit status %d, want %d", o.exit, c.exit)
				}
				p.untilGone(worker)
				p.wantNoImage()
				killed := strings.HasPrefix(c.name, "kill")
				if !killed && !keep {
					p.wantFiles()
				}
				card.Heal()
				if killed && !keep {
					flags = append(flags, "--force")
				}
				again := startCapture(t, card, dir, flags...) // the control: it was let be
				again.wantEnd(station.ExitGood, "")
				again.wantImage(card)
			})
		}
	}
}

// At whatever moment it is killed, there is either no image, or a whole one.
func TestACaptureKilledAtAnyTime(t *testing.T) {
	t.Parallel()
	const times = 16
	whole := 0
	for i := range times {
		c := newCard(t, 2*mib, devicetest.Rate(0, 40*mib))
		p := startCapture(t, c, "")
		worker := p.worker()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-p.ended; cancel() }() // it may need fewer requests than that
		_, _ = c.Await(ctx, func(r devicetest.Record) bool { return r.N >= 2*i })
		_ = syscall.Kill(worker, syscall.SIGKILL) // it may just have ended
		p.end()
		p.untilGone(worker)
		if _, err := os.Stat(p.image); err == nil {
			whole++
			p.wantImage(c)
		}
	}
	if whole == 0 || whole == times { // else nothing was tried
		t.Errorf("%d of %d were whole", whole, times)
	}
}

// A writer beside the capture makes a mixture of what is read.
func TestSomebodyElseWritesWhileTheCardIsCaptured(t *testing.T) {
	t.Parallel()
	for _, foreign := range []bool{true, false} {
		c := newCard(t, 8*mib, devicetest.Rate(0, 8*mib))
		p := startCapture(t, c, "")
		c.await(func(r devicetest.Record) bool { return r.Kind == devicetest.Read && r.Off >= 4*mib })
		if foreign {
			f, err := os.OpenFile(c.path, os.O_WRONLY|syscall.O_DSYNC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(make([]byte, 4096), 4096); err != nil {
				t.Fatal(err)
			}
			f.Close()
			p.wantEnd(station.ExitNoneGood, "foreign-write")
			p.wantNoImage()
			continue
		}
		p.wantEnd(station.ExitGood, "")
	}
}

func TestACaptureOfAMountedCardIsRefused(t *testing.T) {
	t.Parallel()
	sample.Need(t, "mke2fs", "mount")
	c := newCard(t, 8*mib)
	if out, err := exec.Command("mke2fs", "-q", "-F", c.path).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	dir := t.TempDir()
	mount := func(options string) {
		if out, err := exec.Command("mount", "-o", options, c.path, dir).CombinedOutput(); err != nil {
			sample.Lack(t, "mount: ", string(out))
		}
	}
	unmount := func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	}
	for _, flags := range [][]string{nil, {"--dirty=whole"}, {"--blocks=all"}} {
		mount("rw")
		o := startCapture(t, c, "", flags...).end()
		unmount()
		if o.exit != station.ExitRefused || !strings.Contains(o.text, "[mounted]") || !strings.Contains(o.text, dir) {
			t.Errorf("exit status %d", o.exit)
		}
	}
	mount("ro") // the control: nothing changes
	p := startCapture(t, c, "")
	p.end()
	unmount()
	if _, err := os.Stat(p.image); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", p.image).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}
