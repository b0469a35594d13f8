package faulttest

import (
	"bytes"
	"syscall"
	"testing"

	"multidd/internal/device/devicetest"
	"multidd/internal/duplicate"
	"multidd/internal/station"
	"multidd/internal/verify"
)

// The faults of a card, when only what differs is written to it. How the engine
// finds them is tried out further in package duplicate; these go through the whole of
// multidd and a block device.

// oldCard returns a card with an earlier image on it, of which this one differs in a
// grain in every ten. The faults come when it is there.
func oldCard(t *testing.T, m master, size int64, faults ...devicetest.Fault) *card {
	t.Helper()
	c := newCard(t, size)
	old := bytes.Clone(m.data)
	for at := 2*mib + 5000; at < len(old); at += 10 * verify.Grain {
		for i := range old[at:min(at+3000, len(old))] {
			old[at+i] ^= 0x55
		}
	}
	for _, f := range faults {
		c.Inject(f)
	}
	_, _ = c.WriteAt(old, 0) // a card that lies takes it in its own way
	return c
}

func TestADeltaLeavesWhatIsRightAlone(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 9*mib+100)
	cards := []*card{oldCard(t, m, 12*mib), newCard(t, 12*mib), oldCard(t, m, 12*mib)}
	before := cards[0].Counts()
	res := job{image: m.path, delta: true}.run(t, cards...)
	res.want(station.ExitGood, "good", "good", "good")
	for i, c := range cards {
		if !bytes.Equal(read(c.Medium, 0, int64(len(m.data))), m.data) {
			t.Errorf("card %d does not hold the image", i)
		}
		res.wantAmber(i, "")
	}
	if l := res.Lanes[0]; l.Compared != int64(len(m.data)) || l.Differed == 0 || l.Differed > 2*mib {
		t.Errorf("%d bytes compared, %d differed", l.Compared, l.Differed)
	}
	if l := res.Lanes[1]; l.Differed != l.Compared {
		t.Errorf("of a card with something else on it %d of %d bytes differed", l.Differed, l.Compared)
	}
	// The first MiB twice, what differed, and the marks of the probe with what was
	// there before.
	if n := cards[0].Counts().BytesWritten - before.BytesWritten; n > res.Lanes[0].Differed+2*mib+100<<10 {
		t.Errorf("%d bytes were written, %d differed", n, res.Lanes[0].Differed)
	}
	// Once more: nothing is written.
	before = cards[0].Counts()
	res = job{image: m.path, delta: true}.run(t, cards[0])
	res.want(station.ExitGood, "good")
	if n := cards[0].Counts(); n.Writes != before.Writes {
		t.Errorf("a card that is right was written to: %d times", n.Writes-before.Writes)
	}
}

func TestACardThatLiesIsFoundThoughOnlyALittleIsWritten(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 9*mib)
	for _, c := range []struct {
		name    string
		fault   func() devicetest.Fault
		verdict string
	}{
		{"drops all", devicetest.Drop, "readback-mismatch"},
		{"limbo", func() devicetest.Fault { return devicetest.Limbo(4 * mib) }, "fake-capacity"},
		{"limbo, with what was there before", func() devicetest.Fault { return devicetest.Stale(4 * mib) }, "fake-capacity"},
		{"wrap at a power of two", func() devicetest.Fault { return devicetest.Wrap(8 * mib) }, "fake-capacity"},
		{"wrap at no power of two", func() devicetest.Fault { return devicetest.Wrap(7 * mib) }, "fake-capacity"},
		{"wrap at an odd place", func() devicetest.Fault { return devicetest.Wrap(6*mib + 4096) }, "readback-mismatch|fake-capacity"},
		{"a bit flips", func() devicetest.Fault { return devicetest.Flip(2*mib + 5100) }, "readback-mismatch"},
		{"a small cache, and nothing behind it", func() devicetest.Fault { return devicetest.Cache(mib) }, "readback-mismatch"},
		{"reads fail where it was written", func() devicetest.Fault {
			return devicetest.FailAt(devicetest.Read, 2*mib+8192, 4096, devicetest.Always)
		}, "read-eio"},
		{"reads differ", func() devicetest.Fault { return devicetest.Unstable(3*mib, 8192, 1) }, "unstable-read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, noProbe := range []bool{false, true} {
				bad := oldCard(t, m, 10*mib, c.fault())
				verdict := c.verdict
				if noProbe && verdict == "fake-capacity" {
					verdict += "|readback-mismatch"
				}
				res := job{image: m.path, delta: true, engine: duplicate.Options{NoProbe: noProbe, Rewrites: 2}}.run(t, bad)
				res.want(station.ExitNoneGood, verdict)
				bad.wantDead()
			}
			// The controls: nobody looks; and the card is sound.
			bad := oldCard(t, m, 10*mib, c.fault())
			res := job{image: m.path, delta: true, engine: unproved}.run(t, bad)
			res.want(station.ExitUnverified, "unverified")
			if bad.holds(m.data) && c.name != "reads fail where it was written" && c.name != "reads differ" {
				t.Error("the control's card holds the image")
			}
			bad.Heal()
			job{image: m.path, delta: true}.run(t, bad).want(station.ExitGood, "good")
			if !bytes.Equal(read(bad.Medium, 0, int64(len(m.data))), m.data) {
				t.Error("the card was mended and does not hold the image")
			}
		})
	}
}

// A place that cannot be read is no reason to give a card up: it is written anew.
func TestADeltaMendsWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 5*mib)
	c := newCard(t, 6*mib)
	_, _ = c.WriteAt(m.data, 0)
	const off = 3*mib + 8192
	written := false
	c.Inject(devicetest.FaultFunc(func(op devicetest.Op, next devicetest.Next) (int, error) {
		if op.Off <= off && off < op.End() {
			written = written || op.Kind == devicetest.Write
			if op.Kind == devicetest.Read && !written {
				return 0, syscall.EIO
			}
		}
		return next(op)
	}))
	res := job{image: m.path, delta: true}.run(t, c)
	res.want(station.ExitGood, "good")
	res.wantAmber(0, "could not be read and was written anew")
	c.wantHolds(m.data)
}
