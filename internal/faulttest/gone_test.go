package faulttest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
	"multidd/internal/station"
)

// A slot is a loop device that nobody else takes when it is free, so that one card
// after the other can be put into it.
type slot struct {
	t    *testing.T
	path string
}

func newSlot(t *testing.T) slot {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		sample.Lack(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	// Who wants any free device gets the lowest.
	for n := 1000 + os.Getpid()%1000; ; n++ {
		err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, n)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s := slot{t, fmt.Sprintf("/dev/loop%d", n)}
		s.node(n)
		t.Cleanup(func() { s.remove(n) })
		return s
	}
}

// node makes the device's node where nothing makes it by itself.
func (s slot) node(n int) {
	s.t.Helper()
	if err := unix.Mknod(s.path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(n)))); err != nil && err != unix.EEXIST {
		s.t.Fatal(err)
	}
}

func (s slot) remove(n int) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer control.Close()
	s.eventually("be removed", func() error { return unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, n) })
	_ = os.Remove(s.path) // where nothing does it by itself
}

// eventually repeats what the kernel does in its own time and tells nobody of.
func (s slot) eventually(what string, try func() error) {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("within %v %s could not %s: %v", patience, s.path, what, err)
		}
	}
}

// put puts a new card into the slot, once that is free.
func (s slot) put(size int64) *card {
	s.t.Helper()
	m := devicetest.NewMedium(size)
	m.Soil(used)
	s.eventually("be free", func() error {
		served, err := devicetest.Serve(m, s.path)
		if errors.Is(err, devicetest.ErrUnsupported) {
			sample.Lack(s.t, err)
		}
		if err == nil {
			s.t.Cleanup(func() { m.LetGo(); served.Close() })
		}
		return err
	})
	return &card{m, s.t, s.path}
}

// A card that is pulled in mid-write fails, the others do not notice, and what is put
// in its place is another card: nothing is written to that.
func TestACardPulledInMidWriteIsRemoved(t *testing.T) {
	m := newMaster(t, 8*mib)
	place := newSlot(t)
	pulled, good := place.put(10*mib), newCard(t, 10*mib)
	pulled.Inject(devicetest.HangAt(devicetest.Write, 6*mib+100, 1))
	p := startWrite(t, m.path, []*card{pulled, good})
	pulled.awaitWrite(6*mib + 100)
	pulled.Pull()
	p.end().want(station.ExitSomeFailed, "removed", "good")
	good.wantHolds(m.data)
	pulled.wantDead()

	next := place.put(10 * mib)
	next.wantUntouched()
	// The control: a run of its own writes it, and the pulled one, once it is back, too.
	startWrite(t, m.path, []*card{next}).end().want(station.ExitGood, "good")
	next.wantHolds(m.data)
	pulled.Heal()
	pulled.path = devicetest.Attach(t, pulled.Medium)
	startWrite(t, m.path, []*card{pulled}).end().want(station.ExitGood, "good")
}

// The same if the reader notices first, and says that it has no bytes, so that the
// kernel refuses to write past the end or finds nothing to read.
func TestACardTakenOutOfItsReaderIsRemoved(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 8*mib)
	for _, c := range []struct {
		kind  devicetest.Kind
		fault devicetest.Fault
	}{
		{devicetest.Write, devicetest.Rate(4*mib, 0)},
		{devicetest.Read, devicetest.Rate(0, 4*mib)},
	} {
		taken, good := newCard(t, 10*mib, c.fault), newCard(t, 10*mib)
		r := job{image: m.path}.start(t, taken, good)
		taken.await(func(r devicetest.Record) bool { return r.Kind == c.kind && r.Off >= 3*mib && r.Len > 4096 })
		taken.takeOut()
		r.end().want(station.ExitSomeFailed, "removed", "good")
		taken.wantDead()
		good.wantHolds(m.data)
	}
}

// gateProbe makes a card keep the one who looks what is on it waiting, until open is
// called.
func (c *card) gateProbe() (looking <-chan struct{}, open func()) {
	began, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.Inject(devicetest.On(func(op devicetest.Op) error {
		if op.Kind == devicetest.Read {
			once.Do(func() { close(began) })
			<-gate
		}
		return nil
	}))
	return began, sync.OnceFunc(func() { close(gate) })
}

// A card that is exchanged after it was looked at is not written, nor is what came in
// its place.
func TestACardExchangedBeforeItIsOpenedIsNotWritten(t *testing.T) {
	m := newMaster(t, 3*mib)
	for _, exchanged := range []bool{true, false} {
		t.Run(fmt.Sprintf("exchanged: %v", exchanged), func(t *testing.T) {
			place := newSlot(t)
			first, other := place.put(4*mib), newCard(t, 4*mib)
			looking, open := other.gateProbe()
			t.Cleanup(open)
			// The program has found both cards by the time it looks what is on them.
			p := startWrite(t, m.path, []*card{first, other})
			select {
			case <-looking:
			case <-time.After(patience):
				t.Fatal("nobody looks at the card")
			}
			if !exchanged {
				open()
				p.end().want(station.ExitGood, "good", "good")
				return
			}
			first.Pull()
			next := place.put(4 * mib)
			open()
			out, reason := p.end(), "target-changed"
			if strings.Contains(out.text, "[empty]") {
				reason = "empty" // it was looked into the slot at just that moment
			}
			out.wantRefused(reason, place.path)
			for _, c := range []*card{first, next, other} {
				c.wantUntouched()
			}
		})
	}
}

// The same between the question and the answer.
func TestACardThatIsGoneWhenTheQuestionIsAnsweredIsRefused(t *testing.T) {
	m := newMaster(t, 3*mib)
	for _, pulled := range []bool{true, false} {
		t.Run(fmt.Sprintf("pulled: %v", pulled), func(t *testing.T) {
			first, other := newCard(t, 4*mib), newCard(t, 4*mib)
			p := newProgram(t, "write", m.path, first.path, other.path)
			keys := p.atTerminal()
			p.untilPrinted("Type yes: ")
			if pulled {
				first.takeOut()
			}
			if _, err := io.WriteString(keys, "yes\n"); err != nil {
				t.Fatal(err)
			}
			out := p.end()
			if !pulled {
				if out.exit != station.ExitGood {
					t.Errorf("exit status %d, want 0", out.exit)
				}
				first.wantHolds(m.data)
				return
			}
			out.wantRefused("removed", first.path)
			first.wantUntouched()
			other.wantUntouched()
		})
	}
}

// takeOut takes a card out of its reader, which then says that it has no bytes. Pull
// alone makes what is read or written fail.
func (c *card) takeOut() {
	c.t.Helper()
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err == nil {
		info.Offset = uint64(c.Size()) + 512
		err = unix.IoctlLoopSetStatus64(int(f.Fd()), info)
	}
	if err != nil {
		c.t.Fatalf("take the card out of %s: %v", c.path, err)
	}
	c.Pull()
}

// atTerminal starts the program on a terminal. What is written to keys is typed there.
func (p *program) atTerminal() (keys io.Writer) {
	p.t.Helper()
	ours, theirs, err := pty.Open()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ours.Close() })
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs, theirs, theirs
	p.begin(theirs)
	p.listen(ours)
	return ours
}

// A device whose node has gone is refused, and no file is made in its place; nor is a
// file that somebody else left there taken for a card.
func TestAVanishedDeviceDoesNotBecomeAFile(t *testing.T) {
	m := newMaster(t, 3*mib)
	place := newSlot(t)
	c := place.put(4 * mib)
	j := job{image: m.path}
	found, _ := j.plan(t, c)
	if r := found.Refused(); r != nil {
		t.Fatal(r)
	}
	fi, err := os.Stat(c.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.path); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() {
		_ = os.Remove(c.path) // a file that a test left there
		var n int
		_, _ = fmt.Sscanf(fi.Name(), "loop%d", &n)
		place.node(n)
	})
	t.Cleanup(restore)

	found.Open()
	wantRefusal(t, found, "no-such-device")
	startWrite(t, m.path, []*card{c}).end().wantRefused("no-such-device", c.path)
	if _, err := os.Lstat(c.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is something at %s: %v", c.path, err)
	}

	if err := os.WriteFile(c.path, make([]byte, 4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	startWrite(t, m.path, []*card{c}).end().wantRefused("not-a-card", c.path)
	if b, err := os.ReadFile(c.path); err != nil || differs(b, make([]byte, 4*mib)) >= 0 {
		t.Errorf("the file was written, %v", err)
	}
	c.wantUntouched()

	restore() // the control
	startWrite(t, m.path, []*card{c}).end().want(station.ExitGood, "good")
}

// wantRefusal checks that all targets of a plan are refused for a reason.
func wantRefusal(t *testing.T, p *station.Plan, reason string) {
	t.Helper()
	for _, target := range p.Targets {
		if len(target.Refusals) == 0 || target.Refusals[0].Reason != reason {
			t.Errorf("%s: refused for %v, want %s", target.Name, target.Refusals, reason)
		}
	}
}
