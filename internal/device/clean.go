package device

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	textLength = 1024 // runes that Clean leaves
	nameLength = 64   // runes that cleanName leaves
	cleanMarks = 2    // combining marks left on one letter
)

// Clean makes a string that comes from hardware, from a medium or from a file, or
// that may have such in it, fit to be shown to people: it takes out terminal
// sequences, control and direction characters, invalid UTF-8 and piles of combining
// marks, makes every run of white space one space, and cuts what is longer than a
// sentence with a path in it may be, 1024 characters. Whether "<" means something
// where the string is shown is not its concern.
func Clean(s string) string { return clean(s, textLength) }

// cleanName is Clean for names, of which 64 characters are enough.
func cleanName(s string) string { return clean(s, nameLength) }

func clean(s string, limit int) string {
	var b strings.Builder
	n, marks, space := 0, 0, false
	for len(s) > 0 {
		if k := sequence(s); k > 0 {
			s = s[k:]
			continue
		}
		r, k := utf8.DecodeRuneInString(s)
		s = s[k:]
		switch {
		case r == utf8.RuneError && k <= 1:
			continue
		case unicode.IsSpace(r):
			space = true
			continue
		case !unicode.IsPrint(r): // control, format (direction, zero width), private, unassigned
			continue
		case unicode.IsMark(r):
			if marks++; marks > cleanMarks || n == 0 {
				continue
			}
		default:
			marks = 0
		}
		if space && n > 0 {
			b.WriteByte(' ')
			n++
		}
		space = false
		if n >= limit {
			return strings.TrimRight(b.String(), " ") + "…"
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// sequence returns the length of the terminal control sequence s begins with,
// or 0 (ECMA-48, sections 5.4 and 5.6). One that does not end is only its
// introducer long, so that a lone escape cannot swallow a name.
func sequence(s string) int {
	var kind byte
	intro := 2
	switch {
	case s[0] == 0x1b && len(s) >= 2 && s[1] >= 0x20 && s[1] < 0x80:
		kind = s[1]
	case s[0] == 0xc2 && len(s) >= 2 && s[1] >= 0x80 && s[1] < 0xa0: // C1 as UTF-8
		kind = s[1] - 0x40
	case s[0] >= 0x80 && s[0] < 0xa0: // C1 as a byte
		kind, intro = s[0]-0x40, 1
	default:
		return 0
	}
	rest := s[intro:]
	switch {
	case kind >= 0x20 && kind < 0x30: // such as the choice of a character set: intermediates, then one final byte
		i := 0
		for i < len(rest) && rest[i] >= 0x20 && rest[i] < 0x30 {
			i++
		}
		if i < len(rest) && rest[i] >= 0x30 && rest[i] < 0x7f {
			return intro + i + 1
		}
	case kind == '[': // CSI: parameters and intermediates, then one final byte
		i := 0
		for i < len(rest) && rest[i] >= 0x20 && rest[i] < 0x40 {
			i++
		}
		if i < len(rest) && rest[i] >= 0x40 && rest[i] < 0x7f {
			return intro + i + 1
		}
	case strings.IndexByte("]PX^_", kind) >= 0: // strings, up to BEL or ST
		for i := 0; i < len(rest); i++ {
			switch {
			case rest[i] == 7, rest[i] == 0x9c && (i == 0 || rest[i-1] < 0x80):
				return intro + i + 1
			case strings.HasPrefix(rest[i:], "\x1b\\"), strings.HasPrefix(rest[i:], "\u009c"):
				return intro + i + 2
			}
		}
	}
	return intro
}
