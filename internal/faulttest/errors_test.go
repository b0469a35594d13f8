package faulttest

import (
	"fmt"
	"strings"
	"testing"

	"multidd/internal/device/devicetest"
	"multidd/internal/station"
	"multidd/internal/verify"
)

// A card that refuses to be written somewhere is given up after a bounded number of
// tries, with the exact place, and nothing more is written to it.
func TestAWriteThatFailsEndsItsCardOnly(t *testing.T) {
	t.Parallel()
	const retries = 3
	m := newMaster(t, 6*mib)
	bad := []struct {
		off  int64
		step station.Phase
	}{
		{5*mib + 77*verify.Page + 512, station.Writing},
		{5 * mib, station.Writing},                  // the quick look meets it first
		{100*verify.Page + 4095, station.Preparing}, // while the first MiB is blanked
	}
	var cards []*card
	for _, b := range bad {
		cards = append(cards, newCard(t, 8*mib, devicetest.FailAt(devicetest.Write, b.off, 1, devicetest.Always)))
	}
	cards = append(cards, newCard(t, 8*mib))
	res := job{image: m.path}.run(t, cards...)
	res.want(station.ExitSomeFailed, "write-eio", "write-eio", "write-eio", "good")
	for i, b := range bad {
		l := res.Lanes[i]
		if page := b.off / verify.Page * verify.Page; l.Offset != page || l.Step != b.step || !strings.Contains(l.Message, fmt.Sprintf("at byte %d", page)) {
			t.Errorf("byte %d: failed at byte %d in phase %v: %s", b.off, l.Offset, l.Step, l.Message)
		}
		if l.Retries != retries {
			t.Errorf("byte %d: %d retries, want %d", b.off, l.Retries, retries)
		}
		cards[i].wantGivenUpAt(b.off, 1+retries)
		cards[i].wantDead()
	}
	cards[len(bad)].wantHolds(m.data)
	// The control: the same cards without the fault.
	for _, c := range cards {
		c.Heal()
	}
	job{image: m.path}.run(t, cards...).want(station.ExitGood, "good", "good", "good", "good")
}

// wantGivenUpAt checks that a byte was tried to be written so many times by a run, the
// last time as the last write of all, and that no block behind those that were under
// way was written.
func (c *card) wantGivenUpAt(off int64, tries int) {
	c.t.Helper()
	log := c.Log()
	last, failed, far := -1, 0, int64(0)
	for i, r := range log {
		if r.Kind != devicetest.Write {
			continue
		}
		last = i
		if r.Err != nil && r.Len > verify.Page || r.Err != nil && failed == tries-1 {
			failed++
		}
		if failed > 0 {
			far = max(far, r.Off)
		}
	}
	if last < 0 || log[last].Err == nil || log[last].Off > off || log[last].Off+int64(log[last].Len) <= off {
		c.t.Errorf("the last write is %+v, not that of byte %d", log[last], off)
	}
	if failed != tries {
		c.t.Errorf("byte %d was tried %d times, want %d", off, failed, tries)
	}
	if limit := off/mib*mib + 2*mib; far >= limit {
		c.t.Errorf("after byte %d could not be written, byte %d was", off, far)
	}
}

// A write that fails once is repeated; the card is good if it is proved, and the
// trouble is told.
func TestAWriteThatFailsOnceIsRepeatedAndTold(t *testing.T) {
	t.Parallel()
	const off = 3*mib + 8192
	m := newMaster(t, 5*mib)
	once := newCard(t, 6*mib, devicetest.FailAt(devicetest.Write, off, 512, 1))
	twice := newCard(t, 6*mib, devicetest.FailAt(devicetest.Write, off, 512, 2))
	sound := newCard(t, 6*mib)
	res := job{image: m.path}.run(t, once, twice, sound)
	res.want(station.ExitGood, "good", "good", "good")
	for i, c := range []*card{once, twice, sound} {
		c.wantHolds(m.data)
		if got, want := res.Lanes[i].Retries, []int{1, 2, 0}[i]; got != want {
			t.Errorf("card %d: %d retries, want %d", i, got, want)
		}
	}
	res.wantAmber(0, fmt.Sprintf("A write at byte %d failed and had to be repeated (1 of at most 3 times).", 3*mib))
	res.wantAmber(1, "2 of at most 3 times")
	res.wantAmber(2, "")
	// The controls: it may not be repeated; and one that goes on failing.
	j := job{image: m.path}
	j.engine.Retries = -1
	again := newCard(t, 6*mib, devicetest.FailAt(devicetest.Write, off, 512, 1))
	res = j.run(t, again)
	res.want(station.ExitNoneGood, "write-eio")
	if res.Lanes[0].Retries != 0 {
		t.Errorf("%d retries, want none", res.Lanes[0].Retries)
	}
}

// A card that cannot read its own bytes is not one that holds others.
func TestAReadThatFailsIsNoMismatch(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 6*mib)
	bad := []struct {
		off  int64
		step station.Phase
	}{
		{5*mib + 77*verify.Page + 512, station.Verifying},
		{5 * mib, station.Verifying}, // the quick look meets it first
		{6*mib - 1, station.Verifying},
		{300*verify.Page - 4096 + 1, station.Verifying},
	}
	var cards []*card
	for _, b := range bad {
		cards = append(cards, newCard(t, 8*mib, devicetest.FailAt(devicetest.Read, b.off, 1, devicetest.Always)))
	}
	cards = append(cards, newCard(t, 8*mib, devicetest.Flip(bad[0].off)))
	res := job{image: m.path}.run(t, cards...)
	res.want(station.ExitNoneGood, "read-eio", "read-eio", "read-eio", "read-eio", "readback-mismatch")
	for i, b := range bad {
		l := res.Lanes[i]
		if page := b.off / verify.Page * verify.Page; l.Offset != page || l.Step != b.step || !strings.Contains(l.Message, fmt.Sprintf("at byte %d", page)) {
			t.Errorf("byte %d: failed at byte %d in phase %v: %s", b.off, l.Offset, l.Step, l.Message)
		}
		cards[i].wantDead()
	}
	for _, c := range cards {
		c.Heal()
	}
	job{image: m.path}.run(t, cards...).want(station.ExitGood, "good", "good", "good", "good", "good")
}

// A card that fails to empty its cache is not good: not if it never can, and not if
// it only once could not, whichever time that was, since the device tells of what it
// lost only once.
func TestAFlushThatFailsIsNeverForgotten(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	bad, good := newCard(t, 4*mib, devicetest.Fail(devicetest.Sync, 0, devicetest.Always)), newCard(t, 4*mib)
	job{image: m.path}.run(t, bad, good).want(station.ExitSomeFailed, "flush", "good")
	bad.wantDead()
	good.wantHolds(m.data)

	for n := 0; ; n++ {
		bad.Heal()
		bad.Inject(devicetest.Fail(devicetest.Sync, n, 1))
		before := bad.Counts().Failed
		res := job{image: m.path}.run(t, bad)
		if bad.Counts().Failed == before { // the control: there was no such flush
			res.want(station.ExitGood, "good")
			bad.wantHolds(m.data)
			if n < 4 {
				t.Errorf("there are only %d flushes", n)
			}
			break
		}
		res.want(station.ExitNoneGood, "flush")
		bad.wantDead()
		if t.Failed() {
			t.Fatalf("when flush %d failed", n)
		}
	}
}
