package tui

import (
	"fmt"
	"math"
	"time"
)

// size says a number of bytes in SI units with three digits: "512 B",
// "4.10 kB", "15.9 GB". A negative number is not known: "?".
func size(n int64) string {
	if n < 0 {
		return "?"
	}
	return scaled(float64(n), 1000, "B", "kB", "MB", "GB", "TB", "PB", "EB")
}

// speed says bytes per second: "19.8 MB/s".
func speed(bytesPerSecond float64) string {
	return size(whole(bytesPerSecond)) + "/s"
}

// scaled divides v by base until it has at most three digits before the point,
// as they are after rounding.
func scaled(v, base float64, units ...string) string {
	if v < 999.5 {
		return fmt.Sprintf("%.0f %s", v, units[0])
	}
	i := 0
	for i < len(units)-1 && v >= 999.5 {
		v /= base
		i++
	}
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f %s", v, units[i])
	case v < 99.95:
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

// whole makes a count of a measured number; what cannot be counted is 0.
func whole(v float64) int64 {
	if math.IsNaN(v) || v < 0 {
		return 0
	}
	return int64(math.Min(v, math.MaxInt64/2))
}

// megabytes is a speed as a bare number, for a column headed MB/s.
func megabytes(bytesPerSecond float64) string {
	mb := float64(whole(bytesPerSecond)) / 1e6
	if mb < 99.95 {
		return fmt.Sprintf("%.1f", mb)
	}
	return fmt.Sprintf("%.0f", mb)
}

// clock says a duration as people read it off a clock: "0:09", "3:07",
// "1:02:33". A negative one is not known: "?".
func clock(d time.Duration) string {
	if d < 0 {
		return "?"
	}
	s := int64(d / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// shortClock is clock in at most five cells: "59:59", "1h02m", "99h".
func shortClock(d time.Duration) string {
	m := int64(d / time.Minute)
	switch {
	case m < 60:
		return clock(d)
	case m < 10*60:
		return fmt.Sprintf("%dh%02dm", m/60, m%60)
	}
	return fmt.Sprintf("%dh", min(m/60, 9999))
}

// ddSize says a number of bytes as dd does, in powers of base: two digits, so
// "1.1 GB" and "11 GB".
func ddSize(n int64, base float64, units ...string) string {
	v, i := float64(n), 0
	for i < len(units)-1 && v >= base {
		v /= base
		i++
	}
	if i > 0 && v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}
