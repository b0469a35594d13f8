package faulttest

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"multidd/internal/device/devicetest"
	"multidd/internal/station"
)

// hangAt is the byte at which a card stops answering.
const hangAt = 4*mib + 100

// hangs are the ways in which a card stops answering, the operation that it does not
// answer, and the phase in which that is noticed.
var hangs = []struct {
	name  string
	fault func() devicetest.Fault
	stuck func(devicetest.Record) bool
	step  string
}{
	{"write", func() devicetest.Fault { return devicetest.HangAt(devicetest.Write, hangAt, 1) }, stuckIn(devicetest.Write), "write"},
	{"read", func() devicetest.Fault { return devicetest.HangAt(devicetest.Read, hangAt, 1) }, stuckIn(devicetest.Read), "verify"},
	{"flush", func() devicetest.Fault { return devicetest.Hang(devicetest.Sync) }, stuckIn(devicetest.Sync), "prepare"},
}

func stuckIn(k devicetest.Kind) func(devicetest.Record) bool {
	return func(r devicetest.Record) bool {
		return r.Kind == k && (k == devicetest.Sync || touches(r, hangAt))
	}
}

// A card that stops answering is shown as stalled and given up; the others do not
// notice.
func TestACardThatStopsAnsweringIsGivenUp(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 6*mib)
	j := job{image: m.path}
	j.engine.StallShown, j.engine.StallMin, j.engine.StallMax = 2*time.Second, 5*time.Second, 5*time.Second
	for _, h := range hangs {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			bad, good := newCard(t, 8*mib, h.fault()), newCard(t, 8*mib)
			r := j.start(t, bad, good)
			res := r.end()
			res.want(station.ExitSomeFailed, "stalled", "good")
			if got := res.Lanes[0].Step.String(); got != h.step {
				t.Errorf("stalled in phase %q, want %q", got, h.step)
			}
			good.wantHolds(m.data)
			shown := slices.ContainsFunc(res.all, func(s station.Snapshot) bool {
				return s.Lanes[0].Stalled > 0 && !s.Lanes[0].Phase.Final()
			})
			if !shown {
				t.Error("it was not shown as stalled before it was given up")
			}
			// It still hangs: nobody waited for it.
			if !slices.ContainsFunc(bad.Log(), func(r devicetest.Record) bool { return !r.Done }) {
				t.Error("the card has answered after all")
			}
			bad.wantDead()
		})
	}
	t.Run("not for long", func(t *testing.T) { // the control
		t.Parallel()
		c := newCard(t, 8*mib, hangs[0].fault())
		r := j.start(t, c)
		c.awaitWrite(hangAt)
		c.Heal()
		r.end().want(station.ExitGood, "good")
		c.wantHolds(m.data)
	})
}

// A process with a thread that the kernel does not give back cannot end. The one that
// the user started ends all the same, with the right status, and lets go of its
// output, so that what it is piped to ends, too.
func TestTheProgramEndsAlthoughACardHangs(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 6*mib)
	for _, h := range hangs {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			bad, good := newCard(t, 8*mib, h.fault()), newCard(t, 8*mib)
			p := startWrite(t, m.path, []*card{bad, good}, "--stall-limit=5s")
			worker := p.worker()
			p.untilLane(0, "shown as stalled", func(e event) bool { return e.Event == "lane" && e.Stalled > 0 })
			out := p.end()
			out.want(station.ExitSomeFailed, "stalled", "good")
			good.wantHolds(m.data)
			bad.wantDead()
			// The control: its worker is still there, and cannot even be killed.
			if !exists(worker) {
				t.Error("the worker has ended: the card did not keep it")
			}
			bad.LetGo()
			p.untilGone(worker)
		})
	}
}

// A card that is slow costs the others nothing but is told.
func TestASlowCardKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 4*mib)
	const rate = 30 * mib
	slow := newCard(t, 6*mib, devicetest.Rate(rate/20, 0))
	cards := []*card{slow}
	for range 3 {
		cards = append(cards, newCard(t, 6*mib, devicetest.Rate(rate, 0)))
	}
	res := job{image: m.path}.run(t, cards...)
	res.want(station.ExitGood, "good", "good", "good", "good")
	ahead := slices.ContainsFunc(res.all, func(s station.Snapshot) bool {
		others := 0
		for _, l := range s.Lanes[1:] {
			if l.Phase == station.Good {
				others++
			}
		}
		return others == 3 && s.Lanes[0].Phase == station.Writing
	})
	if !ahead {
		t.Error("the others were not good while the slow one was still being written")
	}
	res.wantAmber(0, "much slower than the others")
	for _, c := range cards {
		c.wantHolds(m.data)
	}
	// The control: all are slow, nobody is told.
	for _, c := range cards {
		c.Heal()
		c.Inject(devicetest.Rate(rate/10, 0))
	}
	res = job{image: m.path}.run(t, cards...)
	for i := range cards {
		res.wantAmber(i, "")
	}
}

// However far a card falls behind, the memory of the program stays within its bound.
func TestMemoryIsBoundedHoweverFarACardFallsBehind(t *testing.T) {
	t.Parallel()
	const size = station.Resident + 8*mib // more than could be kept
	path := t.TempDir() + "/master.img"
	head := newMaster(t, 2*mib).data
	if err := os.WriteFile(path, head, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	behind := newBlankCard(t, size, devicetest.HangAt(devicetest.Write, 6*mib, 1))
	fast := newBlankCard(t, size)
	p := startWrite(t, path, []*card{behind, fast}, "--stall-limit=1h", "--verify=none")
	worker := p.worker()
	p.untilPhase(1, "unverified")
	behind.Heal()
	most := p.mostMemory(worker)
	out := p.end()
	out.want(station.ExitUnverified, "unverified", "unverified")
	if most == 0 || most > station.Resident {
		t.Errorf("%d bytes resident, the bound is %d", most, station.Resident)
	}
	if !strings.Contains(out.text, `"behind":true`) {
		t.Error("the card did not fall behind")
	}
	for _, c := range []*card{behind, fast} {
		if at := differs(read(c.Medium, 0, 4*mib), append(slices.Clone(head), make([]byte, 2*mib)...)); at >= 0 {
			t.Errorf("byte %d is not that of the image", at)
		}
	}
	t.Logf("%d MiB resident at most", most>>20)
}
