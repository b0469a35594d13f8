package dd

import (
	"errors"
	"math"
	"math/bits"
	"strings"
)

var (
	errNumber   = errors.New("not a number in dd's grammar")
	errOverflow = errors.New("too large")
)

// parseNumber returns the value of a number in dd's grammar:
//
//	number  = factor { "x" factor }
//	factor  = [ digits ] [ suffix ] [ "B" ]      at least digits or a suffix
//	suffix  = "c" (1) | "w" (2) | "b" (512) | prefix [ "B" | "D" | "iB" ]
//	prefix  = "k" | "K" | "M" | "G" | "T" | "P" | "E" | "Z" | "Y" | "R" | "Q"
//
// A prefix counts in powers of 1024, and of 1000 before "B" or "D". The "B" at
// the end of a factor changes nothing by itself; to count, skip and seek it says
// that bytes are meant. As in C, white space and "+" may stand before the
// digits. The errors are errNumber and errOverflow. What is multiplied by 0 may
// be too large.
func parseNumber(s string) (int64, error) {
	switch n, over, ok := parseProduct(s); {
	case over:
		return 0, errOverflow
	case !ok:
		return 0, errNumber
	default:
		return n, nil
	}
}

// parseProduct parses a number. over: it is too large. It may be that as far as
// it goes and still not be a number as a whole.
func parseProduct(s string) (n int64, over, ok bool) {
	first, rest, over, ok := parseFactor(s)
	if !ok {
		return 0, false, false
	}
	if rest != "" && rest[0] == 'B' && s[len(s)-len(rest)-1] != 'B' {
		rest = rest[1:]
	}
	if over = over || first > math.MaxInt64; !strings.HasPrefix(rest, "x") {
		return int64(min(first, math.MaxInt64)), over, rest == ""
	}
	second, tooLarge, ok := parseProduct(rest[1:])
	switch {
	case !ok:
		return 0, false, false
	case first == 0 || second == 0:
		return 0, false, true
	}
	hi, lo := bits.Mul64(first, uint64(second))
	return int64(lo), over || tooLarge || hi != 0 || lo > math.MaxInt64, true
}

// parseFactor takes digits and a suffix from the front of s. If over is set the
// value is too large for 64 bits, and n is the largest that is not.
func parseFactor(s string) (n uint64, rest string, over, ok bool) {
	rest = strings.TrimLeft(s, " \t\n\v\f\r")
	rest = strings.TrimPrefix(rest, "+")
	digits := 0
	for ; digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9'; digits++ {
		n, over = times(n, 10, over)
		if digit := uint64(rest[digits] - '0'); n > math.MaxUint64-digit {
			n, over = math.MaxUint64, true
		} else {
			n += digit
		}
	}
	rest = rest[digits:]
	if digits == 0 {
		if rest != s { // a suffix alone is one of it, but not behind a space or sign
			return 0, "", false, false
		}
		n = 1
	}
	factor, power, length := suffix(rest)
	if length == 0 && digits == 0 {
		return 0, "", false, false
	}
	for range power {
		n, over = times(n, factor, over)
	}
	return n, rest[length:], over, true
}

// suffix returns what the suffix at the front of s multiplies by, how often, and
// its length, which is 0 if there is none.
func suffix(s string) (factor uint64, power, length int) {
	if s == "" {
		return 1, 0, 0
	}
	switch s[0] {
	case 'c':
		return 1, 1, 1
	case 'w':
		return 2, 1, 1
	case 'b':
		return 512, 1, 1
	case 'K':
		power = 1
	default:
		power = strings.IndexByte("kMGTPEZYRQ", s[0]) + 1
	}
	switch {
	case power == 0:
		return 1, 0, 0
	case strings.HasPrefix(s[1:], "iB"):
		return 1024, power, 3
	case len(s) > 1 && (s[1] == 'B' || s[1] == 'D'):
		return 1000, power, 2
	}
	return 1024, power, 1
}

// times multiplies, and remembers whether the product was ever too large.
func times(n, factor uint64, over bool) (uint64, bool) {
	if hi, lo := bits.Mul64(n, factor); hi == 0 {
		return lo, over
	}
	return math.MaxUint64, true
}
