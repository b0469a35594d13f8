package dd

import (
	"fmt"
	"math/bits"
	"strconv"
)

// human writes n·from/to for people as GNU's human_readable does for dd: with
// one decimal below 10, rounded to the nearest and halves to even, with a prefix
// of powers of base (1000 or 1024) and unit B.
func human(n, from, to, base uint64) string {
	if from%to == 0 {
		if hi, amount := bits.Mul64(n, from/to); hi == 0 {
			return humanInt(amount, 0, 0, base)
		}
	} else if to%from == 0 {
		div := to / from
		tenths := n % div * 10
		return humanInt(n/div, tenths/div, against(tenths%div, 0, div), base)
	}
	return humanFloat(float64(n)*(float64(from)/float64(to)), base)
}

// against tells how a rest, with what is behind it, compares with half of the
// divisor: 0 there is none, 1 less, 2 half, 3 more.
func against(rest, behind, div uint64) uint64 {
	twice := rest*2 + behind>>1
	switch {
	case twice+behind == 0:
		return 0
	case twice < div:
		return 1
	case twice+behind == div:
		return 2
	}
	return 3
}

// humanInt writes amount, plus so many tenths, plus what is behind those.
func humanInt(amount, tenths, behind, base uint64) string {
	power := 0
	for ; amount >= base && power < 8; power++ {
		rest := amount%base*10 + tenths
		amount, tenths, behind = amount/base, rest/base, against(rest%base, behind, base)
	}
	decimal := power > 0 && amount < 10
	if decimal && behind+tenths&1 > 2 {
		if tenths++; tenths == 10 {
			amount, tenths = amount+1, 0
		}
		decimal = amount < 10
		behind = 0
	}
	s := ""
	if decimal {
		s, tenths, behind = fmt.Sprintf(".%d", tenths), 0, 0
	}
	half := uint64(0)
	if behind+amount&1 > 0 {
		half = 1
	}
	if tenths+half > 5 {
		if amount++; amount == base && power < 8 {
			amount, power, s = 1, power+1, ".0"
		}
	}
	return strconv.FormatUint(amount, 10) + s + prefix(power, base)
}

// humanFloat writes a number that is not whole. It always has a prefix.
func humanFloat(x float64, base uint64) string {
	power := 1
	unit := float64(base)
	for ; x >= unit*float64(base) && power < 8; power++ {
		unit *= float64(base)
	}
	s := strconv.FormatFloat(x/unit, 'f', 1, 64)
	limit := len("99.9")
	if base == 1024 {
		limit = len("9.9")
	}
	if len(s) > limit {
		s = strconv.FormatFloat(x/unit, 'f', 0, 64)
	}
	return s + prefix(power, base)
}

func prefix(power int, base uint64) string {
	switch {
	case power == 0:
		return " B"
	case base == 1024:
		return " " + "KMGTPEZY"[power-1:power] + "iB"
	}
	return " " + "kMGTPEZY"[power-1:power] + "B"
}
