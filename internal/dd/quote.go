package dd

import (
	"fmt"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// quoteName writes a file's name as GNU's tools do, so that it can be pasted
// into a shell and cannot upset a terminal: 'a b', "it's", 'a'$'\n”b'.
func quoteName(name string) string {
	if strings.Contains(name, "'") && strings.Trim(name, withinDouble) == "" {
		return `"` + name + `"`
	}
	var b strings.Builder
	b.WriteByte('\'')
	escaping := false // within $'…'
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == '\'':
			b.WriteString(`'\''`)
			escaping = false
		case isPrint(r, n):
			if escaping {
				b.WriteString("''")
				escaping = false
			}
			b.WriteString(name[i : i+n])
		default:
			if !escaping {
				b.WriteString(`'$'`)
				escaping = true
			}
			for _, c := range []byte(name[i : i+n]) {
				b.WriteString(escape(c))
			}
		}
		i += n
	}
	b.WriteByte('\'')
	return b.String()
}

const (
	alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	withinDouble = alphanumeric + " %'+,-./:@]_" // what "…" leaves alone in every shell
	withinNone   = alphanumeric + "#%+,-./@]_{}~"
)

// quoteBare is quoteName for the start of a line, where a name that needs no
// quotes has none.
func quoteBare(name string) string {
	if name == "" || strings.Trim(name, withinNone) != "" || strings.ContainsRune("#~", rune(name[0])) || name == "{" || name == "}" {
		return quoteName(name)
	}
	return name
}

// quoteWord writes a word of the command line that is not understood.
func quoteWord(word string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for i := 0; i < len(word); {
		r, n := utf8.DecodeRuneInString(word[i:])
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			fallthrough
		case isPrint(r, n):
			b.WriteString(word[i : i+n])
		default:
			for _, c := range []byte(word[i : i+n]) {
				b.WriteString(escape(c))
			}
		}
		i += n
	}
	b.WriteByte('\'')
	return b.String()
}

// isPrint tells whether a character of n bytes may be shown. It is false for
// what changes the direction of writing, and for bytes that are no character.
func isPrint(r rune, n int) bool { return unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) }

// escape writes a byte as C does.
func escape(c byte) string {
	if i := strings.IndexByte("\a\b\t\n\v\f\r", c); i >= 0 {
		return `\` + "abtnvfr"[i:i+1]
	}
	return fmt.Sprintf(`\%03o`, c)
}

// reason says a system error in the words of the C library, which differ from
// Go's by a capital letter.
func reason(e syscall.Errno) string {
	s := e.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
