package labtest

import (
	"bytes"
	"os"
	"syscall"
	"testing"
	"time"

	"multidd/internal/cardlab"
)

// When the power goes, a card that was called good is good, and one that was being
// written does not boot.
func TestPowerCut(t *testing.T) {
	need(t, false)
	for _, how := range []string{"cut", "writes in flight lost"} {
		t.Run(how, func(t *testing.T) {
			const quick, slow, byDD = 0, 1, 2
			r := boot(t, cardlab.Config{Cards: []cardlab.Card{{}, {WriteBPS: mib}, {WriteBPS: mib}}})
			image := newImage(t, 24*mib, 1)
			r.device(byDD)
			before := r.taken()
			dd := r.begin(r.Command("dd", "if="+image, "of="+r.device(byDD), "bs=1M", "oflag=direct"))
			run := r.write(image, quick, slow)
			dd.untilTaken(byDD, before, 2*mib)
			run.untilTaken(slow, before, 2*mib)
			run.untilPhase(0, "good")
			if how == "cut" {
				r.must(r.PowerCut())
			} else {
				r.must(r.Kill())
			}
			r.holds(quick, image)
			if differs(t, r.Backing(slow), image) < 0 {
				t.Fatal("the slow card was whole before the power was cut")
			}
			r.dead(slow)
			// What dd leaves behind would boot: the test can tell.
			whole, err := os.ReadFile(image)
			r.must(err)
			if !bytes.Equal(head(t, r.Backing(byDD)), whole[:mib]) || differs(t, r.Backing(byDD), image) < 0 {
				t.Error("the card that dd was writing is not half written")
			}
		})
	}
}

// However multidd is ended in mid-write, the card does not boot, nothing of
// multidd is left behind, and the card can be written again.
func TestEndedInMidWrite(t *testing.T) {
	need(t, false)
	r := boot(t, cardlab.Config{Cards: []cardlab.Card{{}}})
	for _, c := range []struct {
		name    string
		exit    int
		verdict string // in the last event; "": there is none
		end     func(r *rack, run *run)
	}{
		{"kill -9", 128 + 9, "", func(r *rack, run *run) {
			r.must(run.cmd.Signal(syscall.SIGKILL))
		}},
		{"kill -9 of the first process alone", 128 + 9, "", func(r *rack, run *run) {
			r.sh("kill -9 $(pidof multidd | tr ' ' '\\n' | sort -n | head -n 1)")
		}},
		{"Ctrl-C", 130, "interrupted", func(r *rack, run *run) {
			r.must(run.cmd.Signal(syscall.SIGINT))
		}},
		{"SIGTERM", 143, "interrupted", func(r *rack, run *run) {
			r.must(run.cmd.Signal(syscall.SIGTERM))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, image := r.in(t), newImage(t, 16*mib, 1)
			r.change(0, cardlab.Card{File: r.newDisk(0), WriteBPS: mib})
			before := r.taken()
			run := r.write(image, 0)
			run.untilTaken(0, before, 3*mib)
			c.end(r, run)
			res := run.end()
			if c.verdict != "" {
				res.want(c.exit, c.verdict)
			} else if res.exit != c.exit || res.lanes != nil {
				t.Errorf("exit status %d, want %d; last event: %v", res.exit, c.exit, res.lanes)
			}
			r.none()
			r.dead(0)
			r.must(r.Slow(0, 0))
			r.write(image, 0).end().want(0, "good")
			r.holds(0, image)
		})
	}
}

// A card that does not answer cannot keep multidd from ending.
func TestCtrlCTwiceWhileACardHangs(t *testing.T) {
	need(t, false)
	r := boot(t, cardlab.Config{Cards: []cardlab.Card{{}}})
	image := newImage(t, 16*mib, 1)
	r.must(r.Slow(0, 2*mib))
	before := r.taken()
	run := r.write(image, 0)
	run.untilTaken(0, before, 3*mib)
	answers := make(chan error, 1)
	go func() { answers <- r.Stall(0, 20*time.Second) }()
	r.must(run.cmd.Signal(syscall.SIGINT))
	time.Sleep(500 * time.Millisecond) // two signals at once are one
	r.must(run.cmd.Signal(syscall.SIGINT))
	res := run.end()
	if res.exit != 130 {
		t.Errorf("exit status %d, want 130", res.exit)
	}
	select {
	case err := <-answers:
		t.Errorf("multidd ended only when the card answered again: %v", err)
	default:
		r.must(<-answers)
	}
	r.none()
	r.dead(0)
	r.must(r.Slow(0, 0))
	r.write(image, 0).end().want(0, "good")
	r.holds(0, image)
}

// none waits until no process of multidd is left.
func (r *rack) none() {
	r.t.Helper()
	r.sh("while pidof multidd >/dev/null; do sleep 0.1; done")
}
