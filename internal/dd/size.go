package dd

import "fmt"

// ParseSize returns a size in bytes in dd's grammar: 512, 4k, 100M, 1kB, 2x512.
func ParseSize(s string) (int64, error) {
	n, err := parseNumber(s)
	switch {
	case err == errOverflow:
		return 0, fmt.Errorf("the size %q is too large", s)
	case err != nil:
		return 0, fmt.Errorf("%q is no size: write it as dd does, such as 512, 4k, 100M, 16G or 1kB", s)
	}
	return n, nil
}
