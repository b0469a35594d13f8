package tui

import (
	"slices"
	"strings"
	"unicode"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/station"
)

// A look is how things are drawn: with which signs, and whether in colour.
// Nothing is ever said by colour alone.
type look struct {
	signs signs
	color bool
}

// signs are the marks and lines that a look draws with. Each is one cell wide.
type signs struct {
	ascii                                   bool
	good, bad, warn, stopped, unread, moves string
	empty, written, proved, lost            string // pieces of a bar
	rule, between, more, up, down           string
}

func unicodeSigns() signs {
	return signs{
		good: "✔", bad: "✘", warn: "!", stopped: "–", unread: "?", moves: "▸",
		empty: "▁", written: "▃", proved: "▆", lost: "▒",
		rule: "─", between: "│", more: "…", up: "↑", down: "↓",
	}
}

func asciiSigns() signs {
	return signs{
		ascii: true,
		good:  "+", bad: "X", warn: "!", stopped: "-", unread: "?", moves: ">",
		empty: ".", written: "=", proved: "#", lost: "x",
		rule: "-", between: "|", more: "~", up: "^", down: "v",
	}
}

// lookFor chooses the look for a terminal from the environment: colour unless
// NO_COLOR is set (no-color.org) or the terminal is dumb; Unicode where the
// locale says UTF-8, except on the Linux console, whose fonts lack the marks.
func lookFor(getenv func(string) string) look {
	l := look{signs: asciiSigns(), color: getenv("NO_COLOR") == "" && !dumb(getenv("TERM"))}
	if utf8Locale(getenv) && getenv("TERM") != "linux" {
		l.signs = unicodeSigns()
	}
	return l
}

// dumb tells whether a terminal cannot move its cursor.
func dumb(term string) bool { return term == "" || term == "dumb" || term == "unknown" }

// utf8Locale follows setlocale(3): the first variable that is set decides.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.HasSuffix(v, ".utf-8") || strings.HasSuffix(v, ".utf8") ||
				strings.Contains(v, ".utf-8@") || strings.Contains(v, ".utf8@")
		}
	}
	return false
}

// An ink is what a piece of text is drawn with. Only the terminal's own sixteen
// colours are used, so that light and dark themes both stay readable.
type ink int

const (
	plain ink = iota
	bold
	faint
	green
	red
	yellow
	cyan
	onGreen
	onRed
	onYellow
)

func (l look) paint(i ink, s string) string {
	if !l.color || i == plain || s == "" {
		return s
	}
	var st ansi.Style
	switch i {
	case bold:
		st = st.Bold()
	case faint:
		st = st.Faint()
	case green:
		st = st.ForegroundColor(ansi.Green)
	case red:
		st = st.Bold().ForegroundColor(ansi.Red)
	case yellow:
		st = st.ForegroundColor(ansi.Yellow)
	case cyan:
		st = st.ForegroundColor(ansi.Cyan)
	case onGreen:
		st = st.ForegroundColor(ansi.Black).BackgroundColor(ansi.Green)
	case onRed:
		st = st.Bold().ForegroundColor(ansi.BrightWhite).BackgroundColor(ansi.Red)
	case onYellow:
		st = st.ForegroundColor(ansi.Black).BackgroundColor(ansi.Yellow)
	}
	return st.Styled(s)
}

// text makes a string from a snapshot fit for a line: safe to print, wherever it
// came from, and nothing in it that the locale cannot show.
func (l look) text(s string) string {
	s = station.Clean(s)
	if !l.signs.ascii {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, s)
}

// clean is the snapshot with every string made fit by text. The original is left
// as it is.
func (l look) clean(snap station.Snapshot) station.Snapshot {
	im := &snap.Image
	im.Name, im.Format, im.Err = l.text(im.Name), l.text(im.Format), l.text(im.Err)
	snap.Warnings = l.texts(snap.Warnings)
	snap.Lanes = slices.Clone(snap.Lanes)
	for i := range snap.Lanes {
		lane := &snap.Lanes[i]
		for _, s := range []*string{&lane.Slot, &lane.Device, &lane.Model, &lane.Serial, &lane.Message} {
			*s = l.text(*s)
		}
		lane.Amber = l.texts(lane.Amber)
	}
	return snap
}

func (l look) texts(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = l.text(s)
	}
	return out
}

// fit makes s exactly w cells wide: cut at the end, or filled with blanks.
func (l look) fit(s string, w int) string {
	if ansi.StringWidth(s) > w {
		s = ansi.Truncate(s, w, l.signs.more)
	}
	return s + blanks(w-ansi.StringWidth(s))
}

// fitTail is fit, but it is the beginning that is cut: of a path or a port, the
// end tells them apart.
func (l look) fitTail(s string, w int) string {
	cut := s
	for n := ansi.StringWidth(s) - w + 1; ansi.StringWidth(cut) > w && w > 0; n++ {
		cut = ansi.TruncateLeft(s, n, l.signs.more) // a wide letter may need one more
	}
	return l.fit(cut, w)
}

// right is fit with the text at the right edge.
func (l look) right(s string, w int) string {
	if n := ansi.StringWidth(s); n < w {
		return blanks(w-n) + s
	}
	return l.fit(s, w)
}

func blanks(n int) string { return strings.Repeat(" ", max(n, 0)) }

// wrap breaks a sentence at its blanks into lines of at most w cells. A word
// that is longer than a line is cut.
func wrap(s string, w int) []string {
	if w < 1 {
		return nil
	}
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && ansi.StringWidth(line)+1+ansi.StringWidth(word) <= w {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		pieces := strings.Split(ansi.Hardwrap(word, w, false), "\n")
		lines, line = append(lines, pieces[:len(pieces)-1]...), pieces[len(pieces)-1]
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
