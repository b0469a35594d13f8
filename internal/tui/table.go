package tui

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"

	"multidd/internal/station"
	"multidd/internal/verify"
)

// TableOptions say how a table is drawn.
type TableOptions struct {
	Width int  // in cells; 0 is 80
	Color bool // with colours; the signs are there in any case
	ASCII bool // with no sign beyond ASCII
}

// OptionsFor is how a table is best drawn on f: as wide as its terminal, in colour
// unless it is none or NO_COLOR is set, in the signs that the locale knows.
func OptionsFor(f *os.File) TableOptions {
	l := lookFor(os.Getenv)
	o := TableOptions{ASCII: l.signs.ascii}
	if term.IsTerminal(int(f.Fd())) {
		o.Color = l.color
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			o.Width = w
		}
	}
	return o
}

func (o TableOptions) look() look {
	l := look{signs: unicodeSigns(), color: o.Color}
	if o.ASCII {
		l.signs = asciiSigns()
	}
	return l
}

// Table writes how a run ended: a line for each card, one sentence for all of
// them, and for each card that needs it a paragraph that says in which step and
// where it went wrong, what that probably means and what to do. A snapshot that
// is not Done is told as a run that was left.
func Table(w io.Writer, snap station.Snapshot, o TableOptions) error {
	lk := o.look()
	snap = lk.clean(snap)
	width := o.Width
	if width <= 0 {
		width = 80
	}
	width = min(max(width, 20), maxWidth)
	var b bytes.Buffer
	if len(snap.Lanes) > 0 {
		tableRows(&b, lk, snap.Lanes, width)
		b.WriteByte('\n')
	}
	how := bold
	if t := count(snap.Lanes); t.all > 0 && t.good == t.all {
		how = green
	}
	for _, line := range wrap(sentence(snap), width) {
		b.WriteString(lk.paint(how, line) + "\n")
	}
	for _, p := range paragraphs(snap, lk, width) {
		b.WriteString("\n" + p)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// A tableColumn is one column of the table: what it says of a lane, and how it
// gives way.
type tableColumn struct {
	head  string
	text  func(station.LaneState) string
	ink   func(station.LaneState) ink
	right bool // at the right edge of its column
	tail  bool // the end is what matters
	width int
}

func tableColumns(lanes []station.LaneState) []tableColumn {
	dim := func(station.LaneState) ink { return faint }
	normal := func(station.LaneState) ink { return plain }
	number := func(head string, of func(station.LaneState) float64) tableColumn {
		return tableColumn{head: head, right: true, ink: normal, text: func(lane station.LaneState) string {
			if of(lane) <= 0 {
				return ""
			}
			return megabytes(of(lane))
		}}
	}
	cols := []tableColumn{
		{head: "SLOT", tail: true, ink: normal, text: func(lane station.LaneState) string { return lane.Slot }},
		{head: "DEVICE", tail: true, ink: normal, text: func(lane station.LaneState) string {
			if lane.Device == lane.Slot {
				return ""
			}
			return lane.Device
		}},
		{head: "MODEL", ink: dim, text: func(lane station.LaneState) string { return lane.Model }},
		{head: "TIME", right: true, ink: normal, text: func(lane station.LaneState) string {
			if lane.Took <= 0 {
				return ""
			}
			return clock(lane.Took)
		}},
		number("WRITE", func(lane station.LaneState) float64 { return lane.WriteRate }),
		number("READ MB/s", func(lane station.LaneState) float64 { return lane.ReadRate }),
		{head: "VERDICT", ink: inkOf, text: verdictWords},
	}
	for i := range cols {
		c := &cols[i]
		for _, lane := range lanes {
			c.width = max(c.width, ansi.StringWidth(c.text(lane)))
		}
		if c.width > 0 {
			c.width = max(c.width, len(c.head))
		}
	}
	return cols
}

// narrow takes from the columns what is too much for the width, from what
// matters least to what matters most.
func narrow(cols []tableColumn, width int) {
	const slot, device, model, time, write, read, verdict = 0, 1, 2, 3, 4, 5, 6
	for _, step := range []struct{ col, least int }{
		{model, 10}, {slot, 24}, {model, 0}, {read, 0}, {write, 0}, {time, 0},
		{verdict, 16}, {device, 0}, {slot, 8}, {verdict, 4}, {slot, 4},
	} {
		over := markWidth - width
		for _, c := range cols {
			if c.width > 0 {
				over += gap + c.width
			}
		}
		c := &cols[step.col]
		if over <= 0 || c.width <= step.least {
			continue
		}
		c.width = max(c.width-over, step.least)
		if step.least == 0 {
			c.width = 0
		}
	}
}

// gap is the room between two columns of the table.
const gap = 2

// tableRows draws the table itself.
func tableRows(b *bytes.Buffer, lk look, lanes []station.LaneState, width int) {
	cols := tableColumns(lanes)
	narrow(cols, width)
	line := func(mark string, text func(tableColumn) string, how func(tableColumn) ink) {
		out := mark
		for _, c := range cols {
			if c.width == 0 {
				continue
			}
			fit := lk.fit
			if c.right {
				fit = lk.right
			} else if c.tail {
				fit = lk.fitTail
			}
			out += blanks(gap) + lk.paint(how(c), fit(text(c), c.width))
		}
		b.WriteString(strings.TrimRight(out, " ") + "\n")
	}
	line(blanks(markWidth), func(c tableColumn) string { return c.head }, func(tableColumn) ink { return faint })
	for _, lane := range lanes {
		line(badge(lk, lane), func(c tableColumn) string { return c.text(lane) },
			func(c tableColumn) ink { return c.ink(lane) })
	}
}

// verdictWords is a lane's verdict in a few words.
func verdictWords(lane station.LaneState) string {
	switch lane.Phase {
	case station.Good:
		if len(lane.Amber) > 0 {
			return "good, see below"
		}
		return "good"
	case station.Unverified:
		return "not read back"
	case station.Failed:
		return means(lane.Reason).short + where(lane)
	case station.Interrupted:
		return "not finished"
	}
	if lane.Phase == station.Ready {
		return "not begun"
	}
	return "left in " + lane.Phase.String()
}

func inkOf(lane station.LaneState) ink {
	switch lane.Phase {
	case station.Good:
		return green
	case station.Failed:
		return red
	}
	return yellow
}

// sentence says how the run ended.
func sentence(snap station.Snapshot) string {
	t := count(snap.Lanes)
	switch {
	case snap.Image.Err != "":
		return "The image is bad: " + stop(snap.Image.Err) +
			" No card is good, and none that was begun looks whole. Fetch or make the image again."
	case t.all == 0:
		return "There was no card to write."
	case t.good == t.all && differed(snap.Lanes...) != "":
		how := differed(snap.Lanes...) + "."
		if t.all == 1 {
			return "The card in " + slotted(snap.Lanes[0]) + " is good: " + how
		}
		return fmt.Sprintf("All %d cards are good: in all, %s", t.all, how)
	case t.good == t.all && t.all == 1:
		return "The card in " + slotted(snap.Lanes[0]) + " is good: written, flushed and read back."
	case t.good == t.all && t.all == 2:
		return "Both cards are good: written, flushed and read back."
	case t.good == t.all:
		return fmt.Sprintf("All %d cards are good: written, flushed and read back.", t.all)
	}
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case t.good > 0:
		say("%d of %d cards %s good", t.good, t.all, are(t.good))
	case t.all > 1 && t.unread < t.all:
		say("no card is good")
	}
	lanesIn := func(p station.Phase) (out []station.LaneState) {
		for _, lane := range snap.Lanes {
			if lane.Phase == p {
				out = append(out, lane)
			}
		}
		return out
	}
	switch bad := lanesIn(station.Failed); {
	case len(bad) == 1:
		m, verb := means(bad[0].Reason), "failed"
		if m.blame {
			verb = "is bad"
		}
		say("the card in %s %s: it %s%s", slotted(bad[0]), verb, m.clause, where(bad[0]))
	case len(bad) > 1:
		say("%d failed: %s", len(bad), list(bad, 6))
	}
	switch unread := lanesIn(station.Unverified); {
	case len(unread) == 1:
		say("the card in %s is written but not read back, so nothing proves it", slotted(unread[0]))
	case len(unread) > 1:
		say("%s are written but not read back, so nothing proves them", cards(len(unread)))
	}
	if n := t.interrupted + t.running; n == 1 {
		say("1 card was not finished and must be written again")
	} else if n > 1 {
		say("%d cards were not finished and must be written again", n)
	}
	return capital(strings.Join(parts, "; ")) + "."
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// list names lanes, at most so many: "1-2.1 (/dev/sdb), 1-2.2 (/dev/sdc) and 3 more".
func list(lanes []station.LaneState, most int) string {
	var names []string
	for i, lane := range lanes {
		if i == most && len(lanes) > most+1 {
			return strings.Join(names, ", ") + fmt.Sprintf(" and %d more", len(lanes)-most)
		}
		names = append(names, slotted(lane))
	}
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// stop ends a sentence.
func stop(s string) string {
	if s == "" || strings.HasSuffix(s, ".") || strings.HasSuffix(s, "!") || strings.HasSuffix(s, "?") {
		return s
	}
	return s + "."
}

// paragraphs tells of every card that needs words, and of what concerns the run.
// Cards with the same trouble share theirs.
func paragraphs(snap station.Snapshot, lk look, width int) []string {
	var out []string
	for i, lane := range snap.Lanes {
		if lane.Phase != station.Failed || snap.Image.Err != "" && ofImage(lane.Reason) {
			continue // the sentence has told of the image
		}
		same := func(other station.LaneState) bool {
			return other.Phase == station.Failed && other.Reason == lane.Reason && advice(other) == advice(lane)
		}
		if told(snap.Lanes[:i], same) {
			continue
		}
		var b strings.Builder
		for _, other := range snap.Lanes[i:] {
			if !same(other) {
				continue
			}
			paragraph(&b, lk, red, lk.signs.bad, width, failure(other))
		}
		indented(&b, width, advice(lane))
		out = append(out, b.String())
	}
	for _, lane := range snap.Lanes {
		if len(lane.Amber) == 0 {
			continue
		}
		var b strings.Builder
		paragraph(&b, lk, yellow, lk.signs.warn, width, slotted(lane)+": "+strings.Join(lane.Amber, " "))
		out = append(out, b.String())
	}
	for _, s := range snap.Warnings {
		var b strings.Builder
		paragraph(&b, lk, yellow, lk.signs.warn, width, s)
		out = append(out, b.String())
	}
	return out
}

func ofImage(r verify.Reason) bool { return r == verify.ImageDigest || r == verify.ImageDecode }

func told(before []station.LaneState, same func(station.LaneState) bool) bool {
	for _, lane := range before {
		if same(lane) {
			return true
		}
	}
	return false
}

// failure says which card failed, in which step, where and for which reason.
func failure(lane station.LaneState) string {
	s := slotted(lane)
	if lane.Model != "" {
		s += ", " + lane.Model
	}
	if lane.Serial != "" {
		s += ", serial " + lane.Serial
	}
	s += ": " + string(lane.Reason) + " in " + lane.Step.String()
	if lane.Offset >= 0 && lane.Step != station.Ready {
		s += fmt.Sprintf(", at byte %d (%s)", lane.Offset, size(lane.Offset))
	}
	if n := len(lane.Bad); n > 0 {
		var bytes int64
		for _, r := range lane.Bad {
			bytes += r.Len
		}
		s += fmt.Sprintf("; %d bad ranges, %s in all", n, size(bytes))
		if n == 1 {
			s = strings.Replace(s, "1 bad ranges, "+size(bytes)+" in all", "1 bad range of "+size(bytes), 1)
		}
	}
	return s + "."
}

const indent = 2

func paragraph(b *strings.Builder, lk look, i ink, sign string, width int, s string) {
	for n, line := range wrap(s, width-indent) {
		if n == 0 {
			b.WriteString(lk.paint(i, sign) + " " + line + "\n")
			continue
		}
		b.WriteString(blanks(indent) + line + "\n")
	}
}

func indented(b *strings.Builder, width int, s string) {
	for _, line := range wrap(s, width-indent) {
		b.WriteString(blanks(indent) + line + "\n")
	}
}
