package identity

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Words that templates have without any column.
const (
	varName    = "name"
	varIndex   = "index"
	varMAC     = "mac"
	varMachine = "machine-id"
)

// reserved cannot be names of columns. {mac} can: a column of that name gives it.
var reserved = []string{varName, varIndex, varMachine}

// isVariable tells whether a word can stand in braces.
func isVariable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r != '_' && !isNameRune(r) })
}

// A text is one of a template: {word} stands for a value, {{ and }} for braces.
type text struct {
	line  int // where it is written; 0: nowhere
	parts []part
}

// A part is either as it is, or the name of a variable.
type part struct{ literal, variable string }

func parseText(s string) (text, error) {
	var t text
	var literal strings.Builder
	for s != "" {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			i = len(s)
		}
		literal.WriteString(s[:i])
		switch s = s[i:]; {
		case s == "":
		case strings.HasPrefix(s, "{{"), strings.HasPrefix(s, "}}"):
			literal.WriteByte(s[0])
			s = s[2:]
		case s[0] == '}':
			return t, errors.New("a } has no { before it; }} stands for one")
		default:
			word, after, found := strings.Cut(s[1:], "}")
			if !found || !isVariable(word) {
				return t, errors.New("a { begins no {word}; {{ stands for one")
			}
			t.parts = append(t.parts, part{literal: literal.String()}, part{variable: word})
			literal.Reset()
			s = after
		}
	}
	t.parts = append(t.parts, part{literal: literal.String()})
	return t, nil
}

// with returns the text with the values put in.
func (t text) with(values map[string]string) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.literal)
		if p.variable == "" {
			continue
		}
		v, ok := values[p.variable]
		if !ok {
			known := slices.Sorted(maps.Keys(values))
			return "", fmt.Errorf("line %d: nothing is called {%s}; there is {%s}", t.line, p.variable, strings.Join(known, "}, {"))
		}
		b.WriteString(v)
	}
	return b.String(), nil
}
