package identity

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// splitTop splits at the commas that are not in braces.
func splitTop(text string) []string {
	var words []string
	begin, depth := 0, 0
	for i, c := range text {
		switch {
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		case c == ',' && depth == 0:
			words = append(words, text[begin:i])
			begin = i + 1
		}
	}
	return append(words, text[begin:])
}

// expand returns what a word with braces stands for, in the shell's order: the last
// brace changes fastest. It never makes more than most words.
func expand(word string, most int) ([]string, error) {
	before, rest, found := strings.Cut(word, "{")
	if !found {
		if strings.ContainsRune(word, '}') {
			return nil, errors.New("a } has no { before it")
		}
		return []string{word}, nil
	}
	inside, after, found := strings.Cut(rest, "}")
	switch {
	case !found:
		return nil, errors.New("a { has no } behind it")
	case strings.ContainsRune(inside, '{'):
		return nil, errors.New("braces inside braces are not understood")
	case strings.ContainsRune(before, '}'):
		return nil, errors.New("a } has no { before it")
	}
	middle, err := alternatives(inside, most)
	if err != nil {
		return nil, err
	}
	ends, err := expand(after, most)
	if err != nil {
		return nil, err
	}
	if len(middle) > most/len(ends) {
		return nil, tooMany(most)
	}
	all := make([]string, 0, len(middle)*len(ends))
	for _, m := range middle {
		for _, e := range ends {
			all = append(all, before+m+e)
		}
	}
	return all, nil
}

func tooMany(most int) error { return fmt.Errorf("it stands for more than %d names", most) }

// alternatives returns what one pair of braces stands for.
func alternatives(inside string, most int) ([]string, error) {
	if strings.ContainsRune(inside, ',') {
		return strings.Split(inside, ","), nil
	}
	parts := strings.Split(inside, "..")
	step := 1
	if len(parts) == 3 {
		n, err := strconv.Atoi(parts[2])
		if err != nil || n == 0 || n < -1_000_000 || n > 1_000_000 {
			return nil, fmt.Errorf("{%s}: the step %q is not a number", inside, parts[2])
		}
		step = max(n, -n)
		parts = parts[:2]
	}
	if len(parts) != 2 {
		return nil, fmt.Errorf("{%s} is neither a range, such as {01..14}, nor a list, such as {a,b}", inside)
	}
	if isLetter(parts[0]) && isLetter(parts[1]) {
		return count(int(parts[0][0]), int(parts[1][0]), step, most, func(n int) string { return string(rune(n)) })
	}
	width := 0
	var ends [2]int
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 || len(p) > 18 {
			return nil, fmt.Errorf("{%s}: %q is not a number", inside, p)
		}
		ends[i] = n
		if len(p) > 1 && p[0] == '0' {
			width = max(len(parts[0]), len(parts[1]))
		}
	}
	return count(ends[0], ends[1], step, most, func(n int) string { return fmt.Sprintf("%0*d", width, n) })
}

func isLetter(s string) bool {
	return len(s) == 1 && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
}

// count counts from one number to another, up or down.
func count(from, to, step, most int, text func(int) string) ([]string, error) {
	if from > to {
		step = -step
	}
	n := (to-from)/step + 1
	if n > most {
		return nil, tooMany(most)
	}
	all := make([]string, n)
	for i := range all {
		all[i] = text(from + i*step)
	}
	return all, nil
}
