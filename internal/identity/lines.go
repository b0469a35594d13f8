package identity

import (
	"bytes"
	"fmt"
	"strings"
)

// replaceLine puts a line in the place of the first one that begins with a word, or behind
// the last line, and takes out further lines that begin with it.
func replaceLine(old []byte, begins, line string) []byte {
	return replace(old, line, func(have string) bool {
		rest, ok := strings.CutPrefix(have, begins)
		return ok && (rest == "" || !isWordByte(begins[len(begins)-1]) || !isWordByte(rest[0]))
	})
}

// isWordByte keeps 127.0.1.1 and 127.0.1.10 apart.
func isWordByte(c byte) bool {
	return c == '.' || c == '_' || c >= 0x80 || isNameRune(rune(c))
}

// setLine sets one line of a file of the form key=value.
func setLine(old []byte, key, line string) []byte {
	return replace(old, line, func(have string) bool {
		rest, ok := strings.CutPrefix(strings.TrimLeft(have, " \t"), key)
		return ok && strings.HasPrefix(strings.TrimLeft(rest, " \t"), "=")
	})
}

// replace puts a line in the place of those that are chosen, with the line's end that the
// file has.
func replace(old []byte, line string, chosen func(string) bool) []byte {
	var out bytes.Buffer
	end, done := "\n", false
	if bytes.Contains(old, []byte("\r\n")) {
		end = "\r\n"
	}
	for have := range bytes.Lines(old) {
		if !chosen(strings.TrimRight(string(have), "\r\n")) {
			out.Write(have)
			continue
		}
		if !done {
			out.WriteString(line + end)
		}
		done = true
	}
	if !done {
		if n := out.Len(); n > 0 && out.Bytes()[n-1] != '\n' {
			out.WriteString(end)
		}
		out.WriteString(line + end)
	}
	return out.Bytes()
}

// setWord sets one word of a file of one line, such as a kernel's command line.
func setWord(old []byte, key, word string) ([]byte, error) {
	text := strings.TrimRight(string(old), "\r\n \t\x00")
	if strings.ContainsAny(text, "\n") {
		return nil, fmt.Errorf("it has several lines, and one was expected, of words such as %s", word)
	}
	var out []string
	done := false
	for _, have := range strings.Fields(text) {
		if name, _, _ := strings.Cut(have, "="); name != key {
			out = append(out, have)
			continue
		}
		if !done {
			out = append(out, word)
		}
		done = true
	}
	if !done {
		out = append(out, word)
	}
	return []byte(strings.Join(out, " ") + "\n"), nil
}
