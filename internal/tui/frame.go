package tui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/station"
)

// A view is how somebody looks at a run: the size of the screen, how far it is
// scrolled, and what was asked for.
type view struct {
	width, height int
	top           int // index of the first lane shown
	stopping      bool
	look          look
}

// A layout is how the lines of a screen are shared out.
type layout struct {
	width   int
	title   bool // the image
	run     bool // counts, speed, times
	bar     bool // the whole run
	air     bool // a blank line below the bar
	heads   bool
	rows    int // lines for cards
	cols    int // cards side by side
	cell    int // width of each
	top     int // index of the first lane shown, within bounds
	notes   []string
	footer  bool
	columns columns
}

// Below this width rows are not spread out; the eye must find its way from a
// slot's name to its verdict.
const maxWidth = 128

// lay shares out the screen. All cards are shown at once if there is any way
// to: in several columns, narrower, with less about each. Else they are paged.
func lay(snap station.Snapshot, v view) layout {
	h, n := v.height, len(snap.Lanes)
	l := layout{width: v.width, run: h > 0, title: h >= 4, bar: h >= 9, heads: h >= 12, footer: h >= 7}
	avail := h
	for _, line := range []bool{l.run, l.title, l.bar, l.heads, l.footer} {
		if line {
			avail--
		}
	}
	notes := notesOf(snap, v.look)
	reserve := 0 // lines that cards leave to notes, when not all are in sight
	if len(notes) > 0 && n > avail && avail >= 6 {
		reserve = min(len(notes), max(2, avail/5)) + 1
	}
	l.rows = max(min(n, avail-reserve), 0)
	l.cols = 1
	if n > l.rows && l.rows > 0 {
		l.cols = sideBySide(v.width, n, l.rows)
		l.rows = min(l.rows, (n+l.cols-1)/l.cols)
	}
	if l.cols == 1 {
		l.width = min(l.width, maxWidth)
	}
	l.cell = (l.width - gutter*(l.cols-1)) / l.cols
	l.columns = columnsFor(l.cell, snap.Lanes)
	l.top = min(max(v.top, 0), max(n-l.rows*l.cols, 0))
	avail -= l.rows
	if avail > 1 {
		avail-- // a blank line before the notes
	}
	l.notes = fold(notes, v.look, l.width, avail)
	l.air = l.bar && avail >= len(l.notes)+2
	return l
}

// gutter is the width between cards side by side.
const gutter = 3

// sideBySide is how many columns n cards take to be shown in so many rows. If
// that is too many, it is as many as leave each row legible.
func sideBySide(width, n, rows int) int {
	for k := 2; (width-gutter*(k-1))/k >= minCell; k++ {
		if (n+k-1)/k <= rows {
			return k
		}
	}
	const legible = 36
	return max((width+gutter)/(legible+gutter), 1)
}

// frame draws the whole screen: v.height lines at most, none wider than v.width.
func frame(snap station.Snapshot, v view) []string {
	snap = v.look.clean(snap)
	l := lay(snap, v)
	var out []string
	if l.title {
		out = append(out, titleLine(snap, v.look, l.width))
	}
	if l.run {
		out = append(out, runLine(snap, v.look, l.width))
	}
	if l.bar {
		out = append(out, runBar(snap, v.look, l.width))
	}
	if l.air {
		out = append(out, "")
	}
	if l.heads {
		out = append(out, joinCells(v.look, l, func(int) string { return l.columns.heads(v.look) }))
	}
	for r := range l.rows {
		out = append(out, joinCells(v.look, l, func(col int) string {
			i := l.top + col*l.rows + r
			if i >= len(snap.Lanes) {
				return ""
			}
			return l.columns.row(v.look, snap.Lanes[i])
		}))
	}
	if below := v.height - len(out) - 1; len(l.notes) > 0 && below > len(l.notes) {
		out = append(out, "")
	}
	out = append(out, l.notes...)
	if l.footer {
		for len(out) < v.height-1 {
			out = append(out, "")
		}
		out = append(out, footLine(snap, v, l))
	}
	for i, line := range out {
		if ansi.StringWidth(line) > v.width {
			out[i] = ansi.Truncate(line, v.width, "")
		}
	}
	return out
}

// joinCells sets one line's cells side by side.
func joinCells(lk look, l layout, cell func(col int) string) string {
	cells := make([]string, l.cols)
	for i := range cells {
		s := cell(i)
		cells[i] = s + blanks(l.cell-ansi.StringWidth(s))
	}
	return strings.TrimRight(strings.Join(cells, " "+lk.paint(faint, lk.signs.between)+" "), " ")
}

// titleLine names the image.
func titleLine(snap station.Snapshot, lk look, w int) string {
	im := snap.Image
	about := []string{"", im.Format} // from the shortest to the fullest
	if im.Size >= 0 {
		about = append(about, strings.TrimPrefix(im.Format+", "+size(im.Size), ", "))
		if im.Used >= 0 && im.Used < im.Size {
			about = append(about, about[2]+", "+size(im.Used)+" used")
		}
	}
	read := "image " + size(im.Read) + " read"
	if im.Size > 0 && (im.Used < 0 || im.Used >= im.Size) { // else the end comes long before 100%
		read = "image " + percent(min(float64(im.Read)/float64(im.Size), 1)) + " read"
	}
	room := w - 2
	name := strings.TrimRight(lk.fitTail(im.Name, min(ansi.StringWidth(im.Name), room)), " ")
	room -= ansi.StringWidth(name)
	tail := ""
	if room >= 2+len(read) {
		room -= 2 + len(read)
		tail = read
	}
	head := " " + lk.paint(bold, name)
	for _, a := range slices.Backward(about) {
		if a != "" && ansi.StringWidth(a)+2 <= room {
			head += "  " + lk.paint(faint, a)
			break
		}
	}
	if tail != "" {
		head += blanks(w-1-ansi.StringWidth(head)-len(tail)) + lk.paint(faint, tail)
	}
	return head
}

// A piece is a part of a line that gives way when there is no room: it is said
// in short, or, if there is no short for it, left out.
type piece struct {
	text, short string
	ink         ink
	rank        int // the highest gives way first
}

// runLine says how the run stands.
func runLine(snap station.Snapshot, lk look, w int) string {
	t := count(snap.Lanes)
	var ps []piece
	tallied := func(n int, sign, word string, i ink) {
		if n > 0 {
			short := fmt.Sprintf("%s %d", sign, n)
			ps = append(ps, piece{short + " " + word, short, i, 1})
		}
	}
	tallied(t.good, lk.signs.good, "good", green)
	tallied(t.failed, lk.signs.bad, "failed", red)
	tallied(t.unread, lk.signs.unread, "not read back", yellow)
	tallied(t.interrupted, lk.signs.stopped, "interrupted", yellow)
	tallied(t.stalled, lk.signs.warn, "stalled", yellow)
	switch n := t.running - t.stalled; {
	case n > 0 && n == t.all:
		ps = append(ps, piece{cards(n), cards(n), plain, 0})
	case n > 0:
		ps = append(ps, piece{fmt.Sprintf("%d to go", n), fmt.Sprint(n), plain, 0})
	}
	if snap.Rate > 0 && t.running > 0 {
		ps = append(ps, piece{speed(snap.Rate), "", plain, 2})
	}
	ps = append(ps, piece{clock(snap.Elapsed), "", plain, 4})
	if s := limit(snap); s != "" && t.running > 0 {
		ps = append(ps, piece{s, "", faint, 3})
	}
	return " " + joinPieces(lk, ps, w-2)
}

// joinPieces joins pieces to at most w cells, as far as they give way.
func joinPieces(lk look, ps []piece, w int) string {
	for rank := 4; rank >= 0 && widthOf(ps) > w; rank-- {
		for i := range ps {
			if ps[i].rank == rank {
				ps[i].text = ps[i].short
			}
		}
	}
	var out []string
	for _, p := range ps {
		if p.text != "" {
			out = append(out, lk.paint(p.ink, p.text))
		}
	}
	return strings.Join(out, "  ")
}

func widthOf(ps []piece) int {
	w := -2
	for _, p := range ps {
		if p.text != "" {
			w += 2 + ansi.StringWidth(p.text)
		}
	}
	return w
}

// runBar is the line below the header, filled as far as the run has come: what
// is good, what has failed, what is under way.
func runBar(snap station.Snapshot, lk look, w int) string {
	sh := shares(snap)
	tail := "  " + percent(sh.done())
	if d := left(snap.Lanes); d >= 0 && w >= 30 {
		tail += "  " + clock(d) + " left"
	}
	tail += blanks(18 - len(tail)) // so that the bar keeps its length
	if w < 30 {
		tail = fmt.Sprintf(" %4s", percent(sh.done()))
	}
	room := max(w-2-len(tail), 0)
	cells := func(f float64) int { return int(f*float64(room) + 1e-9) }
	good, lost, all := cells(sh.good), cells(sh.good+sh.lost), cells(sh.done())
	s := lk.signs
	return " " + lk.paint(green, strings.Repeat(s.proved, good)) +
		lk.paint(red, strings.Repeat(s.lost, lost-good)) +
		lk.paint(cyan, strings.Repeat(s.written, all-lost)) +
		lk.paint(faint, strings.Repeat(s.empty, room-all)) + lk.paint(bold, tail)
}

// footLine says what can be done, and how much is not in sight.
func footLine(snap station.Snapshot, v view, l layout) string {
	lk := v.look
	keys, how := "Ctrl-C stops", faint
	if v.stopping {
		keys, how = "stopping; Ctrl-C again leaves at once", yellow
	}
	n, page := len(snap.Lanes), l.rows*l.cols
	where := ""
	if page < n && page > 0 {
		where = fmt.Sprintf("cards %d-%d of %d", l.top+1, min(l.top+page, n), n)
		if !v.stopping {
			keys += fmt.Sprintf("   %s %s PgUp PgDn scroll", lk.signs.up, lk.signs.down)
		}
	}
	gap := l.width - 2 - ansi.StringWidth(keys) - ansi.StringWidth(where)
	if gap < 2 && where != "" {
		keys, gap = "", l.width-2-ansi.StringWidth(where)
	}
	return strings.TrimRight(" "+lk.paint(how, keys)+blanks(gap)+where, " ")
}
