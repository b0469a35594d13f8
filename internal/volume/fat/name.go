package fat

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// An entry of a directory has 32 bytes. What stands where in one:
const (
	entryLen     = 32
	attrReadOnly = 0x01
	attrVolume   = 0x08
	attrDir      = 0x10
	attrArchive  = 0x20
	attrLong     = 0x0f
	free         = 0xe5 // the first byte of one that was deleted
)

// longPart is how many characters of a long name an entry holds, and longAt where.
const longPart = 13

func longAt(i int) int {
	switch {
	case i < 5:
		return 1 + 2*i
	case i < 11:
		return 14 + 2*(i-5)
	default:
		return 28 + 2*(i-11)
	}
}

// shortSum is what a long name's entries say of the short name they belong to.
func shortSum(short []byte) (sum byte) {
	for _, c := range short[:11] {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}

// maxName is the most characters (of UTF-16) in a name.
const maxName = 255

// checkName refuses a name that FAT cannot keep.
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8, which FAT needs", name)
	case len(utf16.Encode([]rune(name))) > maxName:
		return fmt.Errorf("the name %.20q… is longer than %d characters", name, maxName)
	case name == "" || name == "." || name == "..", strings.TrimRight(name, ". ") != name, strings.ContainsAny(name, `"*/:<>?\|`),
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("the name %q is not possible on FAT", name)
	}
	return nil
}

// isShort tells whether a name can be kept as a short one alone: eight characters and
// three, upper case.
func isShort(name string) bool {
	base, ext, dot := strings.Cut(name, ".")
	ok := func(s string, n int) bool {
		return len(s) <= n && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~") == ""
	}
	return base != "" && (!dot || ext != "") && ok(base, 8) && ok(ext, 3)
}

// shortOf makes the 11 bytes of a short name.
func shortOf(base, ext string) []byte {
	return []byte(fmt.Sprintf("%-8s%-3s", base, ext))
}

// aliases calls try with the short names that may stand for a long one until it returns
// true.
func aliases(name string, try func([]byte) bool) bool {
	clean := func(s string) string {
		return strings.Map(func(r rune) rune {
			switch {
			case r == ' ' || r == '.':
				return -1
			case r >= 'a' && r <= 'z':
				return r - 'a' + 'A'
			case r > 0x7e || strings.ContainsRune("+,;=[]", r):
				return '_'
			}
			return r
		}, s)
	}
	stem, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		stem, ext = name[:i], name[i+1:]
	}
	upper := strings.ToUpper(name)
	stem, ext = clean(stem), clean(ext)
	ext = ext[:min(3, len(ext))]
	if isShort(upper) && try(shortOf(stem, ext)) {
		return true
	}
	if stem == "" {
		stem = "_"
	}
	for n := 1; n < 1_000_000; n++ {
		tail := fmt.Sprintf("~%d", n)
		if try(shortOf(stem[:min(8-len(tail), len(stem))]+tail, ext)) {
			return true
		}
	}
	return false
}

// entriesFor makes the entries of a new file with that name: those of the long name,
// if it needs one, and the short one, which the caller fills in. taken tells whether
// a short name is in use.
func entriesFor(name string, taken func(short []byte) bool) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var short []byte
	found := aliases(name, func(s []byte) bool {
		short = s
		return !taken(s)
	})
	if !found {
		return nil, fmt.Errorf("there is no short name left for %q", name)
	}
	last := make([]byte, entryLen)
	copy(last, short)
	if short[0] == free {
		last[0] = 5
	}
	if isShort(name) {
		return last, nil
	}
	chars := utf16.Encode([]rune(name))
	parts := (len(chars) + longPart - 1) / longPart
	var all []byte
	for i := parts; i > 0; i-- {
		e := make([]byte, entryLen)
		e[0], e[11], e[13] = byte(i), attrLong, shortSum(short)
		if i == parts {
			e[0] |= 0x40
		}
		for k := range longPart {
			c := uint16(0xffff)
			if j := (i-1)*longPart + k; j < len(chars) {
				c = chars[j]
			} else if j == len(chars) {
				c = 0
			}
			le.PutUint16(e[longAt(k):], c)
		}
		all = append(all, e...)
	}
	return append(all, last...), nil
}

// shortName returns a short name as it is shown.
func shortName(e []byte) string {
	b := append([]byte(nil), e[:11]...)
	if b[0] == 5 {
		b[0] = free
	}
	lower := func(s string, bit byte) string {
		if e[12]&bit != 0 { // as Windows NT keeps names that are all small letters
			return strings.ToLower(s)
		}
		return s
	}
	show := func(b []byte) string { // other characters are in a code page that nobody knows
		return strings.TrimRight(strings.Map(func(r rune) rune {
			if r > 0x7e || r < ' ' {
				return '_'
			}
			return r
		}, latin(b)), " ")
	}
	name := lower(show(b[:8]), 0x08)
	if ext := lower(show(b[8:11]), 0x10); ext != "" {
		name += "." + ext
	}
	return name
}

// latin makes a character of every byte.
func latin(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}
