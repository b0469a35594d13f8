package tui

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"multidd/internal/station"
)

// PlainOptions say how a log of plain lines is written.
type PlainOptions struct {
	// Interval is the time between two lines about the run as a whole; 0 is 10 s.
	Interval time.Duration
}

// Plain shows a run as plain lines, for a log or a terminal that cannot do more:
// one for each thing that happens to a card, and now and then one for the run.
// Its clock is the snapshots'. When w fails the run goes on; the error is
// returned at its end.
func Plain(ctx context.Context, w io.Writer, o PlainOptions, s Station) error {
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	l := plainLog{interval: o.Interval, look: look{signs: unicodeSigns()}}
	return follow(ctx, s, func(snap station.Snapshot) error {
		if text := l.next(snap); text != "" {
			_, err := io.WriteString(w, text)
			return err
		}
		return nil
	})
}

// A plainLog remembers what has been said.
type plainLog struct {
	interval time.Duration
	look     look
	begun    bool
	last     time.Time // of the last line about the run
	lanes    []station.LaneState
	warnings int
	imageErr string
}

// next is what a snapshot adds to the log: some lines, or nothing.
func (p *plainLog) next(snap station.Snapshot) string {
	snap = p.look.clean(snap)
	var b strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&b, "%7s  %s\n", clock(snap.Elapsed), fmt.Sprintf(format, args...))
	}
	if !p.begun {
		p.begun, p.last = true, snap.Time
		say("%s to %s", imageWords(snap.Image), cards(len(snap.Lanes)))
	}
	for _, s := range snap.Warnings[min(p.warnings, len(snap.Warnings)):] {
		say("warning: %s", s)
	}
	if snap.Image.Err != p.imageErr {
		say("the image is bad: %s", snap.Image.Err)
	}
	for i, lane := range snap.Lanes {
		var before station.LaneState
		if i < len(p.lanes) {
			before = p.lanes[i]
		}
		for _, s := range happened(before, lane) {
			say("%s: %s", slotted(lane), s)
		}
	}
	if snap.Time.Sub(p.last) >= p.interval && !snap.Done {
		p.last = snap.Time
		say("%s", progressWords(snap))
	}
	p.lanes, p.warnings, p.imageErr = snap.Lanes, len(snap.Warnings), snap.Image.Err
	return b.String()
}

// imageWords is "x.img.bz2 (bz2, 3.97 GB, 2.10 GB used)".
func imageWords(im station.ImageState) string {
	about := im.Format
	if im.Size >= 0 {
		about += ", " + size(im.Size)
		if im.Used >= 0 && im.Used < im.Size {
			about += ", " + size(im.Used) + " used"
		}
	}
	if about = strings.TrimPrefix(about, ", "); about == "" {
		return im.Name
	}
	return im.Name + " (" + about + ")"
}

// progressWords says how the run stands.
func progressWords(snap station.Snapshot) string {
	t := count(snap.Lanes)
	parts := []string{percent(shares(snap).done()), fmt.Sprintf("%d of %s done", t.done(), cards(t.all))}
	if t.failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", t.failed))
	}
	if t.stalled > 0 {
		parts = append(parts, fmt.Sprintf("%d stalled", t.stalled))
	}
	if snap.Rate > 0 {
		parts = append(parts, speed(snap.Rate))
	}
	if d := left(snap.Lanes); d >= 0 {
		parts = append(parts, clock(d)+" left")
	}
	if s := limit(snap); s != "" {
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}

// happened says what became of a lane between two snapshots.
func happened(before, now station.LaneState) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if n := now.Retries - before.Retries; n > 0 {
		say("a write had to be repeated (%d so far)", now.Retries)
	}
	if n := now.Rewrote - before.Rewrote; n > 0 {
		say("a bad range was rewritten (%d so far)", now.Rewrote)
	}
	for _, s := range now.Amber[min(len(before.Amber), len(now.Amber)):] {
		say("warning: %s", s)
	}
	if now.Phase != before.Phase {
		say("%s", phaseWords(now))
	} else if (now.Stalled > 0) != (before.Stalled > 0) {
		if now.Stalled > 0 {
			say("stalled, nothing has moved for %s", clock(now.Stalled))
		} else {
			say("moves again")
		}
	}
	return out
}

// phaseWords says what a lane does, or how it ended.
func phaseWords(lane station.LaneState) string {
	switch lane.Phase {
	case station.Preparing:
		return "preparing"
	case station.Comparing:
		return "comparing"
	case station.Writing:
		return "writing"
	case station.Flushing:
		return "flushing"
	case station.Verifying:
		return "reading back"
	case station.Sealing:
		return "sealing"
	case station.Good:
		if lane.Delta {
			return fmt.Sprintf("good in %s, %s", clock(lane.Took), differed(lane))
		}
		return fmt.Sprintf("good in %s, written at %s, read back at %s",
			clock(lane.Took), speed(lane.WriteRate), speed(lane.ReadRate))
	case station.Unverified:
		return fmt.Sprintf("written, not read back, in %s at %s", clock(lane.Took), speed(lane.WriteRate))
	case station.Failed:
		return fmt.Sprintf("failed: %s%s (%s in %s)", means(lane.Reason).short, where(lane), lane.Reason, lane.Step)
	case station.Interrupted:
		return "interrupted, not finished"
	}
	return lane.Phase.String()
}

// Progress is a run in one line, in the manner of dd: what the cards have taken,
// how long that took and how fast they go, and then how many are done.
func Progress(snap station.Snapshot) string {
	snap = look{signs: unicodeSigns()}.clean(snap)
	var taken int64
	for _, lane := range snap.Lanes {
		taken += written(lane, snap.Image)
	}
	t := count(snap.Lanes)
	s := fmt.Sprintf("%d bytes (%s, %s) copied, %.1f s, %s", taken,
		ddSize(taken, 1000, "B", "kB", "MB", "GB", "TB", "PB"),
		ddSize(taken, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB"), snap.Elapsed.Seconds(),
		ddSize(whole(snap.Rate), 1000, "B", "kB", "MB", "GB", "TB")+"/s")
	if t.all == 1 {
		s += ", " + snap.Lanes[0].Phase.String()
	} else {
		s += fmt.Sprintf(", %d of %s done", t.done(), cards(t.all))
		if t.failed > 0 {
			s += fmt.Sprintf(", %d failed", t.failed)
		}
	}
	if d := left(snap.Lanes); d >= 0 {
		s += ", " + clock(d) + " left"
	}
	return s
}

// written is how many bytes of the image a card has taken, as far as a snapshot
// tells.
func written(lane station.LaneState, im station.ImageState) int64 {
	step := lane.Phase
	if step == station.Failed || step == station.Interrupted {
		step = lane.Step
	}
	switch {
	case lane.Delta:
		return lane.Compared
	case step < station.Comparing:
		return 0
	case step == station.Writing:
		return max(lane.Done, 0)
	case im.Used >= 0:
		return im.Used
	}
	return max(im.Size, 0)
}
