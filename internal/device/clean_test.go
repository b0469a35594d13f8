package device

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestCleanLeavesNothingThatMovesTheCursorOrTurnsText(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"SanDisk", "SanDisk"},
		{"  Ultra \t Fit\n", "Ultra Fit"},
		{"Größe 漢字 é", "Größe 漢字 é"},
		{"a\x00b\x7fc", "abc"},
		{"\x1b[31;1mred\x1b[0m", "red"},
		{"\x1b[2J\x1b[Hgone", "gone"},
		{"\x1b]0;title\x07name", "name"},
		{"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"},
		{"\x1bPq#0\x1b\\x", "x"},
		{"\x1b(0lqqk\x1b(B", "lqqk"},
		{"\x9b31mred", "red"},
		{"\u009b31mred", "red"},
		{"\u009d0;t\u009cx", "x"},
		{"\x1b]0;never ends", "0;never ends"},
		{"\x1b", ""},
		{"\x1b[", ""},
		{"\x1bé", "é"},
		{"\x1b\x1b[31mx", "x"},
		{"abc\u202egpj.exe", "abcgpj.exe"},
		{"\u2066a\u2069\u200b\u200f\ufeff", "a"},
		{"bad\xff\xc3(utf8", "bad(utf8"},
		{"\u0301start", "start"},
		{"z" + strings.Repeat("\u0301", 40) + "algo", "z\u0301\u0301algo"},
		{"\ue000private", "private"},
		{strings.Repeat("x", 64), strings.Repeat("x", 64)},
		{strings.Repeat("x", 65), strings.Repeat("x", 64) + "…"},
		{strings.Repeat("x", 63) + " y", strings.Repeat("x", 63) + "…"},
		{"<b>&", "<b>&"},
	} {
		if got := cleanName(c.in); got != c.want {
			t.Errorf("cleanName(%q) = %q, want %q", c.in, got, c.want)
		}
		if got := Clean(c.in); !strings.HasSuffix(c.want, "…") && got != c.want {
			t.Errorf("Clean(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"a", "\x1b[31m", "\x1b]0;x\x07", "\u202e", "\xff", "\x9b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for limit, clean := range map[int]func(string) string{nameLength: cleanName, textLength: Clean} {
			c := clean(s)
			if !utf8.ValidString(c) || utf8.RuneCountInString(c) > limit+1 {
				t.Fatalf("%d: %q became %q", limit, s, c)
			}
			for _, r := range c {
				if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
					t.Fatalf("%d: %q became %q, which has %U", limit, s, c, r)
				}
			}
			if again := clean(c); again != c && !strings.HasSuffix(c, "…") {
				t.Fatalf("%d: %q became %q, and again %q", limit, s, c, again)
			}
		}
	})
}
