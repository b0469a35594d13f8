package tui

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"multidd/internal/station"
	"multidd/internal/verify"
)

func TestEveryReasonHasWords(t *testing.T) {
	wordless := func(r verify.Reason) bool {
		m, ok := meanings[r]
		return !ok || m.short == "" || m.clause == "" || r.Hint() == ""
	}
	for _, r := range verify.Reasons {
		if wordless(r) {
			t.Errorf("%s has no words", r)
		}
		if n := len(meanings[r].short); n > 17 {
			t.Errorf("%s: %q is too long for a row", r, meanings[r].short)
		}
		// What people read when the station has no message of its own.
		var table strings.Builder
		snap := at(9, failed(card(0, station.Failed, 0), r, station.Writing, 5*mb, ""))
		snap.Done = true
		if err := Table(&table, snap, TableOptions{}); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(table.String()), " ")
		if !strings.Contains(text, ": "+string(r)+" in write, at byte 5000000") || !strings.Contains(text, r.Hint()) {
			t.Errorf("the table for %s does not say what to do:\n%s", r, table.String())
		}
	}
	if !wordless("no-such-reason") {
		t.Error("a reason without words is not noticed")
	}
	lane := failed(card(0, station.Failed, 0), "no-such-reason", station.Writing, -1, "")
	if !strings.Contains(advice(lane), "no-such-reason") {
		t.Errorf("an unknown reason is not named: %s", advice(lane))
	}
}

func TestNumbersReadAsPeopleSayThem(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{size(-1), "?"}, {size(0), "0 B"}, {size(999), "999 B"}, {size(1000), "1.00 kB"}, {size(4096), "4.10 kB"},
		{size(999_499), "999 kB"}, {size(999_500), "1.00 MB"}, {size(15_931_539_456), "15.9 GB"}, {size(1 << 62), "4.61 EB"},
		{speed(19.8 * mb), "19.8 MB/s"}, {speed(0), "0 B/s"}, {speed(1.204e9), "1.20 GB/s"},
		{megabytes(0), "0.0"}, {megabytes(99.94 * mb), "99.9"}, {megabytes(99.96 * mb), "100"}, {megabytes(1204 * mb), "1204"},
		{clock(-1), "?"}, {clock(0), "0:00"}, {clock(9900 * time.Millisecond), "0:09"}, {clock(187 * time.Second), "3:07"}, {clock(3753 * time.Second), "1:02:33"},
		{shortClock(59*time.Minute + 59*time.Second), "59:59"}, {shortClock(62 * time.Minute), "1h02m"}, {shortClock(99 * time.Hour), "99h"},
		{percent(0), "0%"}, {percent(0.999), "99%"}, {percent(1), "100%"}, {percent(0.29), "29%"},
		{ddSize(0, 1000, "B", "kB"), "0 B"}, {ddSize(1<<30, 1024, "B", "KiB", "MiB", "GiB"), "1.0 GiB"}, {ddSize(104857600, 1000, "B", "kB", "MB"), "105 MB"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestTheShareDoneOnlyGrows(t *testing.T) {
	for _, writeOnly := range []bool{false, true} {
		last := -1.0
		for _, lane := range []station.LaneState{
			card(0, station.Ready, 0), card(0, station.Preparing, 0), card(0, station.Writing, 0.3), card(0, station.Writing, 0.9),
			card(0, station.Flushing, 0), card(0, station.Verifying, 0), card(0, station.Verifying, 0.5), card(0, station.Sealing, 0), card(0, station.Good, 0),
		} {
			if writeOnly && (lane.Phase == station.Verifying || lane.Phase == station.Sealing) {
				continue
			}
			snap := at(1, lane)
			snap.WriteOnly = writeOnly
			f := shares(snap).done()
			if f < last || f > 1 {
				t.Errorf("write only %v: %v with %d of %d done is %v, after %v", writeOnly, lane.Phase, lane.Done, lane.Total, f, last)
			}
			last = f
		}
		if last != 1 {
			t.Errorf("at the end the share is %v", last)
		}
	}
}

func TestTheTimeLeftIsTheSlowestCards(t *testing.T) {
	stalled := card(0, station.Writing, 0.5)
	stalled.Stalled, stalled.ETA = 20*time.Second, -1
	unknown := card(0, station.Writing, 0.5)
	unknown.ETA = -1
	quick := card(0, station.Verifying, 0.5) // 24 s
	for _, c := range []struct {
		name  string
		lanes []station.LaneState
		want  time.Duration
	}{
		{"none", nil, -1},
		{"all final", []station.LaneState{card(0, station.Good, 1)}, -1},
		{"slowest", []station.LaneState{quick, card(1, station.Writing, 1)}, 48 * time.Second},
		{"a stalled card is left out", []station.LaneState{quick, stalled}, 24 * time.Second},
		{"only a stalled card", []station.LaneState{stalled}, -1},
		{"one that moves does not know", []station.LaneState{quick, unknown}, -1},
		{"flushing does not know", []station.LaneState{quick, card(1, station.Flushing, 0)}, 24 * time.Second},
	} {
		if got := left(c.lanes); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// A tape is a station that plays snapshots back.
type tape struct {
	snaps       []station.Snapshot
	interrupted int
}

func (t *tape) Interrupt() { t.interrupted++ }

func (t *tape) Watch(ctx context.Context) <-chan station.Snapshot {
	ch := make(chan station.Snapshot)
	go func() {
		defer close(ch)
		for _, s := range t.snaps {
			select {
			case ch <- s:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch
}

// shortWriter fails after so many calls of Write.
type shortWriter struct{ calls int }

var errFull = errors.New("no space left on device")

func (w *shortWriter) Write(p []byte) (int, error) {
	if w.calls--; w.calls < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestAnOutputThatFailsDoesNotEndTheRun(t *testing.T) {
	for name, show := range map[string]func(*shortWriter, Station) error{
		"plain": func(w *shortWriter, s Station) error { return Plain(t.Context(), w, PlainOptions{}, s) },
		"json":  func(w *shortWriter, s Station) error { return JSON(t.Context(), w, JSONOptions{}, s) },
	} {
		seen := 0
		s := &counted{Station: &tape{snaps: story()}, seen: &seen}
		if err := show(&shortWriter{calls: 1}, s); !errors.Is(err, errFull) {
			t.Errorf("%s: %v, want %v", name, err, errFull)
		}
		if seen != len(story()) {
			t.Errorf("%s: %d of %d snapshots were taken", name, seen, len(story()))
		}
		if err := show(&shortWriter{calls: 1000}, &tape{snaps: story()}); err != nil {
			t.Errorf("%s: %v on a good output", name, err)
		}
	}
}

// counted counts the snapshots that are taken.
type counted struct {
	Station
	seen *int
}

func (c *counted) Watch(ctx context.Context) <-chan station.Snapshot {
	in, out := c.Station.Watch(ctx), make(chan station.Snapshot)
	go func() {
		defer close(out)
		for s := range in {
			*c.seen++
			out <- s
		}
	}()
	return out
}

func TestARunWithoutAnEndIsAnError(t *testing.T) {
	whole := story()
	if err := Plain(t.Context(), &strings.Builder{}, PlainOptions{}, &tape{snaps: whole[:len(whole)-1]}); !errors.Is(err, errNoEnd) {
		t.Errorf("a tape without its end: %v", err)
	}
	gone := errors.New("second signal")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if err := JSON(ctx, &strings.Builder{}, JSONOptions{}, &tape{snaps: whole}); !errors.Is(err, gone) {
		t.Errorf("a context that has ended: %v", err)
	}
}

func TestADeltaSaysHowMuchOfACardWasWritten(t *testing.T) {
	of := func(i int, differed int64) station.LaneState {
		lane := card(i, station.Good, 0)
		lane.Delta, lane.Compared, lane.Differed, lane.Took = true, 1e9, differed, 25*time.Second
		return lane
	}
	table := func(lanes ...station.LaneState) string {
		snap := at(9, lanes...)
		snap.Done = true
		var b strings.Builder
		if err := Table(&b, snap, TableOptions{Width: 200}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	plain := card(1, station.Good, 0)
	for _, c := range []struct{ got, want string }{
		{table(of(0, 12e6)), " is good: 12.0 MB of 1.00 GB differed, and were written and read back."},
		{table(of(0, 0)), " is good: nothing of 1.00 GB differed, and nothing was written."},
		{table(of(0, 12e6), of(1, 0)), "All 2 cards are good: in all, 12.0 MB of 2.00 GB differed, and were written and read back."},
		{table(of(0, 12e6), plain), "Both cards are good: written, flushed and read back."},
		{phaseWords(of(0, 12e6)), "good in 0:25, 12.0 MB of 1.00 GB differed, and were written and read back"},
		{phaseWords(card(0, station.Comparing, 0.5)), "comparing"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("got %q, want %q in it", c.got, c.want)
		}
	}
}
