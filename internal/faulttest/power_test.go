package faulttest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"multidd/internal/device/devicetest"
	"multidd/internal/station"
)

// cutAt takes the power away just before the operation of number n, from the time the
// fault is put in.
func cutAt(m *devicetest.Medium, n int) devicetest.Fault {
	first := len(m.Log())
	return devicetest.On(func(op devicetest.Op) error {
		if op.N == first+n {
			m.PowerCut()
		}
		return nil
	})
}

// oldCard makes a card hold what somebody left on it: another disk that boots. It
// returns what that is.
func (c *card) oldCard() []byte {
	c.t.Helper()
	old := make([]byte, c.Size())
	_, _ = rand.NewChaCha8([32]byte{2}).Read(old)
	old[510], old[511] = 0x55, 0xaa
	if _, err := c.Cells().WriteAt(old, 0); err != nil {
		c.t.Fatal(err)
	}
	return old
}

// halfWritten tells whether a card that looks whole holds anything but all of the
// old or all of the new: then whoever boots it is deceived.
func halfWritten(held, old, image []byte) bool {
	if !looksWhole(held) {
		return false
	}
	// Before it is blanked a card is still the old one; of that, parts of the first
	// MiB may be blank already.
	isOld := bytes.Equal(held[:4096], old[:4096]) && bytes.Equal(held[mib:], old[mib:])
	isNew := bytes.Equal(held[:len(image)], image)
	return !isOld && !isNew
}

// When the power goes, at whatever moment, a card that was not called good either is
// what it was before, or looks blank, or is whole. Which of what was not flushed is
// lost is different for each seed.
func TestAPowerCutLeavesNoCardHalfWritten(t *testing.T) {
	t.Parallel()
	const seed = 44
	t.Logf("seed %d", seed)
	m := newMaster(t, 3*mib)
	j := job{image: m.path}

	// What there is to do in a run that is left alone. The power is cut at each flush
	// and write that comes after the image was written (the seal), several times
	// since each time something else is lost, and at some moments before.
	c := newCard(t, 4*mib)
	first := len(c.Log())
	j.run(t, c).want(station.ExitGood, "good")
	ops := c.Log()[first:]
	written := 0
	var moments []int
	for n, r := range ops {
		switch {
		case r.Kind == devicetest.Write && r.Off >= mib:
			written, moments = n, nil
		case r.Kind != devicetest.Read:
			moments = append(moments, n, n, n, n)
		}
	}
	rng := rand.New(rand.NewPCG(seed, seed))
	for range 8 {
		moments = append(moments, rng.IntN(written))
	}
	cut := 0
	for i, n := range moments {
		c.Heal()
		c.Plug()
		old := c.oldCard()
		c.Inject(devicetest.Volatile(seed + uint64(i)))
		c.Inject(cutAt(c.Medium, n))
		l := j.run(t, c).Lanes[0]
		held := c.Bytes()
		if halfWritten(held, old, m.data) {
			t.Errorf("the power was cut at operation %d of %d (%v): the card looks whole and is not", n, len(ops), l.Step)
		}
		if l.Phase != station.Good {
			cut++
		} else if !bytes.Equal(held[:len(m.data)], m.data) {
			t.Errorf("the power was cut at operation %d of %d: the card was called good and is not", n, len(ops))
		}
	}
	t.Logf("cut at %v of %d operations", moments, len(ops))
	if cut < len(moments)/2 {
		t.Errorf("only %d of %d cuts were felt", cut, len(moments))
	}
}

// The control of the above: that it can tell. A copy in order, as dd makes it, leaves a
// card that boots and is half written.
func TestAPowerCutIsFeltByAPlainCopy(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	c := newCard(t, 4*mib)
	old := c.oldCard()
	c.Inject(devicetest.Volatile(1))
	command(t, "dd", "if="+m.path, "of="+c.path, "bs=1M", "count=2", "oflag=direct", "conv=fsync", "status=none")
	c.PowerCut()
	if !halfWritten(c.Bytes(), old, m.data) {
		t.Error("the copy is not half written")
	}
}

// What was called good stays so, even if the power goes at that moment.
func TestAGoodCardSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	for _, honest := range []bool{true, false} {
		t.Run(fmt.Sprintf("the card empties its cache: %v", honest), func(t *testing.T) {
			lost := 0
			for seed := range uint64(4) {
				c := newCard(t, 4*mib, devicetest.Volatile(seed))
				if !honest { // the control: it says so and does not
					c.Inject(devicetest.FaultFunc(func(op devicetest.Op, next devicetest.Next) (int, error) {
						if op.Kind == devicetest.Sync {
							return 0, nil
						}
						return next(op)
					}))
				}
				r := job{image: m.path}.start(t, c)
				r.untilPhase(0, station.Good)
				c.PowerCut()
				r.end()
				if !c.holds(m.data) {
					lost++
				}
			}
			if honest != (lost == 0) {
				t.Errorf("%d cards lost something", lost)
			}
		})
	}
}
