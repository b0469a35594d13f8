package faulttest

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"multidd/internal/device/devicetest"
	"multidd/internal/station"
)

// However multidd is ended in mid-write, the card does not look whole, and can be
// written again at once.
func TestEndedInMidWrite(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 6*mib)
	for _, c := range []struct {
		name    string
		end     func(p *program, worker int)
		exit    int
		verdict string // in the last event; "": there is none
	}{
		{"Ctrl-C", func(p *program, _ int) { p.signal(syscall.SIGINT) }, 130, "interrupted"},
		{"SIGTERM", func(p *program, _ int) { p.signal(syscall.SIGTERM) }, 143, "interrupted"},
		{"SIGHUP", func(p *program, _ int) { p.signal(syscall.SIGHUP) }, 143, "interrupted"},
		{"kill -9 of the worker", func(p *program, worker int) { kill(p, worker) }, 128 + 9, ""},
		{"kill -9 of the program", func(p *program, _ int) { kill(p, p.cmd.Process.Pid) }, -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cards := []*card{newCard(t, 8*mib, devicetest.Rate(4*mib, 0)), newCard(t, 8*mib, devicetest.Rate(3*mib, 0))}
			p := startWrite(t, m.path, cards)
			worker := p.worker()
			for _, card := range cards {
				card.await(func(r devicetest.Record) bool { return r.Kind == devicetest.Write && r.Off >= 3*mib && r.Len > 4096 })
			}
			c.end(p, worker)
			out := p.end()
			if c.verdict != "" {
				out.want(c.exit, c.verdict, c.verdict)
			} else if out.exit != c.exit || out.ended {
				t.Errorf("exit status %d, want %d; last event: %v", out.exit, c.exit, out.ended)
			}
			if c.exit == 128+9 && !strings.Contains(out.text, "the cards it was writing are not usable") {
				t.Error("no word of what became of the cards")
			}
			p.untilGone(worker)
			for _, card := range cards {
				card.wantDead()
				card.Heal()
			}
			startWrite(t, m.path, cards).end().want(station.ExitGood, "good", "good") // the control: it was let be
			for _, card := range cards {
				card.wantHolds(m.data)
			}
		})
	}
}

func kill(p *program, pid int) {
	p.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
}

// A run that is ended when only the flush of a card's first page is missing leaves that
// card blank, not whole.
func TestInterruptedAtTheSeal(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	for _, interrupted := range []bool{true, false} {
		c := newCard(t, 4*mib)
		writes := 0 // of the first page; the second time it is sealed
		reached, gate := make(chan struct{}), make(chan struct{})
		c.Inject(devicetest.On(func(op devicetest.Op) error {
			switch {
			case op.Kind == devicetest.Write && op.Off == 0:
				writes++
			case op.Kind == devicetest.Sync && writes == 2:
				writes++
				close(reached)
				<-gate
			}
			return nil
		}))
		r := job{image: m.path}.start(t, c)
		<-reached
		if !interrupted { // the control
			close(gate)
			r.end().want(station.ExitGood, "good")
			continue
		}
		r.st.Interrupt()
		r.untilPhase(0, station.Interrupted)
		close(gate)
		r.end().want(station.ExitInterrupted, "interrupted")
		c.wantDead()
	}
}

// A card that does not answer keeps neither Ctrl-C nor a second one from ending the
// program.
func TestCtrlCWhileACardHangs(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 6*mib)
	for _, times := range []int{1, 2} {
		for _, h := range hangs[1:] {
			t.Run(fmt.Sprintf("%d times, in %s", times, h.name), func(t *testing.T) {
				t.Parallel()
				hung := newCard(t, 8*mib, h.fault())
				p := startWrite(t, m.path, []*card{hung})
				worker := p.worker()
				hung.await(h.stuck)
				p.signal(syscall.SIGINT)
				if times == 2 {
					time.Sleep(300 * time.Millisecond) // two signals at once are one
					_ = p.cmd.Process.Signal(syscall.SIGINT)
				}
				out := p.end()
				if out.exit != 130 {
					t.Errorf("exit status %d, want 130", out.exit)
				}
				if times == 1 {
					out.want(130, "interrupted")
				}
				hung.wantDead()
				if !exists(worker) { // the control: it would have had to wait for that
					t.Error("the card did not keep the worker")
				}
				hung.LetGo()
				p.untilGone(worker)
			})
		}
	}
}
