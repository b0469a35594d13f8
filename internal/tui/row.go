package tui

import (
	"fmt"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/station"
)

// A columns is how wide each part of a card's row is, in cells; 0 is not shown.
// It is the same for every row, so that they line up.
type columns struct {
	slot, device, model int
	// The rest is how far the card has come, or, once that is known, its verdict.
	phase, bar, percent, rate, left int
}

// What a row is made of at least, and what it should not be wider than.
const (
	markWidth = 3
	minSlot   = 5
	maxSlot   = 24
	maxPath   = 48 // of a slot that is all there is to name a card
	minDevice = 6
	maxDevice = 16
	minModel  = 6
	maxModel  = 28
	minBar    = 4
	goodBar   = 12
	maxBar    = 48
	minCell   = 20 // no row is narrower, where there is room
)

// width is the whole row's: two blanks between what names the card and what
// happens to it, one within.
func (c columns) width() int {
	w := markWidth
	for _, n := range []int{c.slot, c.device, c.model} {
		if n > 0 {
			w += 1 + n
		}
	}
	return w + 2 + c.status()
}

// status is the width of the right part.
func (c columns) status() int {
	w := 0
	for _, n := range []int{c.phase, c.bar, c.percent, c.rate, c.left} {
		if n > 0 {
			w += n + 1
		}
	}
	return max(w-1, 0)
}

// columnsFor divides w cells. What matters least is narrowed and then left out
// first: the model, the speed, the time left, the device, the bar, the phase.
func columnsFor(w int, lanes []station.LaneState) columns {
	want := natural(lanes)
	c := want
	c.model = min(c.model, minModel)
	c.bar = goodBar
	steps := []func(){
		func() { c.slot = min(c.slot, minSlot+7) },
		func() { c.model = 0 },
		func() { c.bar = minBar + 2 },
		func() { c.rate = 0 },
		func() { c.slot = min(c.slot, minSlot+3) },
		func() { c.left = 0 },
		func() { c.device = 0 },
		func() { c.bar = minBar },
		func() { c.bar = 0 },
		func() { c.percent = 0 },
		func() { c.slot = min(c.slot, minSlot) },
	}
	for _, narrow := range steps {
		if c.width() <= w {
			break
		}
		narrow()
	}
	// What is over goes first to the names, then to the bar.
	spare := w - c.width()
	grow := func(n *int, to int) {
		if *n > 0 && *n < to && spare > 0 {
			by := min(spare, to-*n)
			*n, spare = *n+by, spare-by
		}
	}
	grow(&c.slot, want.slot)
	grow(&c.bar, goodBar)
	grow(&c.model, want.model)
	grow(&c.bar, maxBar)
	return c
}

// natural is what the lanes' own names would take.
func natural(lanes []station.LaneState) columns {
	c := columns{slot: minSlot, phase: 7, percent: 4, rate: 5, left: 5}
	for _, lane := range lanes {
		c.slot = max(c.slot, ansi.StringWidth(rowSlot(lane)))
		c.device = max(c.device, ansi.StringWidth(rowDevice(lane)))
		c.model = max(c.model, ansi.StringWidth(lane.Model))
	}
	if c.device > 0 || c.model > 0 {
		c.slot = min(c.slot, maxSlot)
	}
	c.slot, c.device, c.model = min(c.slot, maxPath), min(c.device, maxDevice), min(c.model, maxModel)
	if c.device > 0 {
		c.device = max(c.device, minDevice)
	}
	return c
}

// rowSlot is what a card's row is called by: its slot, else its device.
func rowSlot(lane station.LaneState) string {
	if lane.Slot == "" {
		return rowName(lane.Device)
	}
	return rowName(lane.Slot)
}

// rowDevice is the device, unless the row is called by it already.
func rowDevice(lane station.LaneState) string {
	if lane.Slot == "" || lane.Slot == lane.Device {
		return ""
	}
	return rowName(lane.Device)
}

func rowName(path string) string { return strings.TrimPrefix(path, "/dev/") }

// heads is the line above the rows.
func (c columns) heads(l look) string {
	var b strings.Builder
	b.WriteString(blanks(markWidth))
	for _, col := range []struct {
		head string
		w    int
	}{{"SLOT", c.slot}, {"DEVICE", c.device}, {"MODEL", c.model}} {
		if col.w > 0 {
			b.WriteString(" " + l.fit(col.head, col.w))
		}
	}
	b.WriteString("  " + l.fit("PHASE", c.phase))
	if c.bar > 0 {
		b.WriteString(blanks(1 + c.bar))
	}
	if c.percent > 0 {
		b.WriteString(blanks(1 + c.percent))
	}
	if c.rate > 0 {
		b.WriteString(" " + l.right("MB/s", c.rate))
	}
	if c.left > 0 {
		b.WriteString(" " + l.right("LEFT", c.left))
	}
	return l.paint(faint, b.String())
}

// row draws one card in exactly c.width() cells.
func (c columns) row(l look, lane station.LaneState) string {
	var b strings.Builder
	b.WriteString(badge(l, lane) + " ")
	name := plain
	if lane.Phase == station.Ready {
		name = faint
	}
	b.WriteString(l.paint(name, l.fitTail(rowSlot(lane), c.slot)))
	if c.device > 0 {
		b.WriteString(" " + l.paint(name, l.fitTail(rowDevice(lane), c.device)))
	}
	if c.model > 0 {
		b.WriteString(" " + l.paint(faint, l.fit(lane.Model, c.model)))
	}
	b.WriteString("  ")
	if lane.Phase.Final() {
		b.WriteString(c.verdict(l, lane))
	} else {
		b.WriteString(c.progress(l, lane))
	}
	return b.String()
}

// badge is the lamp at the left of a row: green, red or yellow, each with its
// own sign.
func badge(l look, lane station.LaneState) string {
	s := l.signs
	switch {
	case lane.Phase == station.Failed:
		return l.paint(onRed, " "+s.bad+" ")
	case lane.Phase == station.Good && len(lane.Amber) == 0:
		return l.paint(onGreen, " "+s.good+" ")
	case lane.Phase == station.Interrupted:
		return l.paint(onYellow, " "+s.stopped+" ")
	case lane.Phase == station.Unverified:
		return l.paint(onYellow, " "+s.unread+" ")
	case lane.Phase == station.Good, lane.Stalled > 0, len(lane.Amber) > 0:
		return l.paint(onYellow, " "+s.warn+" ")
	case lane.Phase == station.Ready:
		return "   "
	}
	return l.paint(cyan, " "+s.moves+" ")
}

// progress draws the right part of a card that has no verdict yet.
func (c columns) progress(l look, lane station.LaneState) string {
	word, how := lane.Phase.String(), plain
	switch {
	case lane.Stalled > 0:
		word, how = "stalled", yellow
	case lane.Phase == station.Ready:
		how = faint
	}
	out := []string{l.paint(how, l.fit(word, c.phase))}
	f, known := part(lane)
	if c.bar > 0 {
		out = append(out, bar(l, c.bar, lane))
	}
	if c.percent > 0 {
		p := ""
		if known && underway(lane) {
			p = percent(f)
		}
		out = append(out, l.right(p, c.percent))
	}
	if lane.Stalled > 0 && c.left > 0 {
		w := c.left
		if c.rate > 0 {
			w += c.rate + 1
		}
		since := "for " + clock(lane.Stalled)
		if len(since) > w {
			since = shortClock(lane.Stalled)
		}
		return strings.Join(append(out, l.paint(yellow, l.right(since, w))), " ")
	}
	if c.rate > 0 {
		r := ""
		if lane.Rate > 0 {
			r = megabytes(lane.Rate)
		}
		out = append(out, l.right(r, c.rate))
	}
	if c.left > 0 {
		t := ""
		if lane.ETA >= 0 && lane.Phase > station.Preparing {
			t = shortClock(lane.ETA)
		}
		out = append(out, l.right(t, c.left))
	}
	return strings.Join(out, " ")
}

// bar shows a card's whole way: it is filled once while the card is written and
// a second time, over that, while it is read back.
func bar(l look, w int, lane station.LaneState) string {
	f, known := part(lane)
	n := int(f * float64(w))
	s := l.signs
	switch lane.Phase {
	case station.Writing, station.Comparing:
		if !known {
			return l.paint(cyan, l.fit(size(lane.Done), w))
		}
		return l.paint(cyan, strings.Repeat(s.written, n)) + l.paint(faint, strings.Repeat(s.empty, w-n))
	case station.Flushing:
		return l.paint(cyan, strings.Repeat(s.written, w))
	case station.Verifying:
		return l.paint(green, strings.Repeat(s.proved, n)) + l.paint(cyan, strings.Repeat(s.written, w-n))
	case station.Sealing:
		return l.paint(green, strings.Repeat(s.proved, w))
	}
	return l.paint(faint, strings.Repeat(s.empty, w))
}

// verdict draws the right part of a card that has one, as fully as it fits.
func (c columns) verdict(l look, lane station.LaneState) string {
	word, how, details := lane.Phase.String(), plain, []string(nil)
	took, wrote, read := clock(lane.Took), megabytes(lane.WriteRate), megabytes(lane.ReadRate)
	switch lane.Phase {
	case station.Good:
		how = green
		details = []string{
			fmt.Sprintf(" in %s, written %s, read back %s MB/s", took, wrote, read),
			fmt.Sprintf(" in %s, wrote %s, read %s MB/s", took, wrote, read),
			fmt.Sprintf(" in %s, wrote %s, read %s", took, wrote, read),
			" in " + took,
		}
		if lane.Delta {
			details = []string{
				fmt.Sprintf(" in %s, %s", took, differed(lane)),
				fmt.Sprintf(" in %s, %s of %s written", took, size(lane.Differed), size(lane.Compared)),
				" in " + took,
			}
		}
	case station.Unverified:
		how, word = yellow, "written, not read back"
		details = []string{" in " + took + ", " + wrote + " MB/s", " in " + took}
	case station.Interrupted:
		how = yellow
		details = []string{": not finished"}
	case station.Failed:
		how = red
		short := means(lane.Reason).short
		details = []string{": " + short + where(lane), ": " + short}
		if len("failed: "+short) > c.status() {
			word = short
		}
	}
	w := c.status()
	if ansi.StringWidth(word) > w {
		return l.paint(how, l.fit(word, w))
	}
	for _, d := range details {
		if ansi.StringWidth(word+d) <= w {
			rest := l.fit(d, w-ansi.StringWidth(word))
			if how == red {
				return l.paint(how, word+rest)
			}
			return l.paint(how, word) + l.paint(faint, rest)
		}
	}
	return l.paint(how, l.fit(word, w))
}
