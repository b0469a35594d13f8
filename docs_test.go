package multidd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"multidd/internal/verify"
)

// help returns what the program says when it is asked for help.
var help = sync.OnceValues(func() (map[string]string, error) {
	dir, err := os.MkdirTemp("", "multidd-docs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "multidd")
	if out, err := exec.Command("go", "build", "-o", program, "multidd/cmd/multidd").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build multidd: %w\n%s", err, out)
	}
	texts := map[string]string{}
	for _, command := range []string{"", "write", "capture", "inspect", "build", "extract", "devices", "dd", "exit-codes"} {
		out, err := exec.Command(program, append(strings.Fields(command), "--help")...).Output()
		if err != nil {
			return nil, fmt.Errorf("multidd %s --help: %w", command, err)
		}
		texts[command] = string(out)
	}
	return texts, nil
})

func helpOf(t *testing.T, command string) string {
	t.Helper()
	texts, err := help()
	if err != nil {
		t.Fatal(err)
	}
	return texts[command]
}

// page returns the text of a page in docs.
func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// describes tells whether a page has word, or word and what it takes, set as
// code: `--store`, `--store DIR|off`.
func describes(page, word string) bool {
	return regexp.MustCompile("`" + regexp.QuoteMeta(word) + "[` =]").MatchString(page)
}

var flagLine = regexp.MustCompile(`(?m)^ {2,6}(?:-\w, )?(--[\w-]+)`)

// flags returns the flags that a help text lists.
func flags(text string) (names []string) {
	for _, m := range flagLine.FindAllStringSubmatch(text, -1) {
		if m[1] != "--help" && !slices.Contains(names, m[1]) {
			names = append(names, m[1])
		}
	}
	return names
}

func TestEveryFlagIsDescribed(t *testing.T) {
	for command, least := range map[string]int{"write": 10, "capture": 10, "inspect": 4, "build": 4, "extract": 4, "devices": 3} {
		all := flags(helpOf(t, command))
		if len(all) < least {
			t.Fatalf("the help of %s lists only %q", command, all)
		}
		for _, f := range all {
			if !describes(page(t, command+".md"), f) {
				t.Errorf("docs/%s.md does not describe %s", command, f)
			}
		}
	}
}

// What is described must be there, too.
func TestEveryDescribedFlagIsThere(t *testing.T) {
	for _, command := range []string{"write", "capture", "inspect", "build", "extract", "devices"} {
		all := flags(helpOf(t, command))
		for _, m := range regexp.MustCompile("(?m)^\\| `(--[\\w-]+)").FindAllStringSubmatch(page(t, command+".md"), -1) {
			if !slices.Contains(all, m[1]) {
				t.Errorf("docs/%s.md describes %s, which there is not", command, m[1])
			}
		}
	}
}

func TestEveryOperandIsDescribed(t *testing.T) {
	operands := regexp.MustCompile(`(?m)^    ([a-z]+=)`).FindAllStringSubmatch(helpOf(t, "dd"), -1)
	if len(operands) < 10 {
		t.Fatalf("the help of dd lists only %q", operands)
	}
	text := page(t, "dd.md")
	for _, m := range operands {
		if !strings.Contains(text, "`"+m[1]) {
			t.Errorf("docs/dd.md does not describe %s", m[1])
		}
	}
}

func TestHelpFitsTheTerminal(t *testing.T) {
	for _, command := range []string{"", "write", "capture", "inspect", "build", "extract", "devices", "dd", "exit-codes"} {
		for line := range strings.Lines(helpOf(t, command)) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("multidd %s --help has a line of %d characters: %s", command, n, line)
			}
		}
	}
}

func TestEveryReasonIsDescribed(t *testing.T) {
	text := page(t, "write.md")
	for _, r := range verify.Reasons {
		if !describes(text, string(r)) {
			t.Errorf("docs/write.md does not describe the reason %s", r)
		}
	}
}

// constants returns the constants of a Go file whose names begin so, with their
// values as they are written.
func constants(t *testing.T, file, prefix string) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			if lit, ok := valueOf(spec, i); ok && strings.HasPrefix(name.Name, prefix) {
				values[name.Name] = lit
			}
		}
		return true
	})
	if len(values) == 0 {
		t.Fatalf("%s has no constants %s…", file, prefix)
	}
	return values
}

func valueOf(spec *ast.ValueSpec, i int) (string, bool) {
	if i >= len(spec.Values) {
		return "", false
	}
	lit, ok := spec.Values[i].(*ast.BasicLit)
	if !ok {
		return "", false
	}
	if s, err := strconv.Unquote(lit.Value); err == nil {
		return s, true
	}
	return lit.Value, true
}

func TestEveryGuardIsDescribed(t *testing.T) {
	text := page(t, "guards.md")
	for _, token := range constants(t, "internal/device/guard.go", "Reason") {
		if !describes(text, token) {
			t.Errorf("docs/guards.md does not describe the guard %s", token)
		}
	}
}

func TestEveryExitStatusIsDescribed(t *testing.T) {
	text, told := page(t, "exit-codes.md"), helpOf(t, "exit-codes")
	for name, status := range constants(t, "internal/station/station.go", "Exit") {
		if !strings.Contains(text, "\n| "+status+" |") {
			t.Errorf("docs/exit-codes.md does not describe %s, %s", name, status)
		}
		if !regexp.MustCompile(`\b` + status + `\b`).MatchString(told) {
			t.Errorf("multidd help exit-codes does not tell of %s, %s", name, status)
		}
	}
}

// A fenced block and indented code are no prose: links in them lead nowhere.
var code = regexp.MustCompile("(?ms)^```.*?^```$|^    .*?$|`[^`\n]*`")

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	pages := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		pages++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(string(b), ""), -1) {
			if why := broken(path, m[1]); why != "" {
				t.Errorf("%s: the link %s %s", path, m[1], why)
			}
		}
		return nil
	})
	if err != nil || pages < 10 {
		t.Errorf("looked at %d pages: %v", pages, err)
	}
}

// broken tells what is wrong with a link on a page, or returns "". Other people's
// pages are not looked at.
func broken(from, to string) string {
	if strings.Contains(to, "://") {
		return ""
	}
	file, heading, _ := strings.Cut(to, "#")
	path := from
	if file != "" {
		path = filepath.Join(filepath.Dir(from), file)
	}
	b, err := os.ReadFile(path)
	switch {
	case err != nil:
		return "leads nowhere"
	case heading != "" && !slices.Contains(headings(string(b)), heading):
		return "leads to no heading"
	}
	return ""
}

// headings returns the names by which links reach the headings of a page.
func headings(page string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(code.ReplaceAllString(page, ""), -1) {
		name := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// The checks above would be worth nothing if they let everything pass.
func TestTheChecksOfTheDocsForbid(t *testing.T) {
	for _, c := range []struct{ from, to string }{
		{"README.md", "docs/nothing.md"}, {"README.md", "docs/write.md#nothing"}, {"docs/write.md", "docs/write.md"}, {"README.md", "#nothing"},
	} {
		if broken(c.from, c.to) == "" {
			t.Errorf("a link from %s to %s is let pass", c.from, c.to)
		}
	}
	if why := broken("docs/guards.md", "write.md#reasons"); why != "" {
		t.Errorf("a sound link %s", why)
	}
	if describes("the flag `--store-limit` and --store", "--store") || !describes("| `--store DIR\\|off` |", "--store") {
		t.Error("a flag is taken for another")
	}
	if got := flags("  -a, --all   list\n      --json   one --object\n"); !slices.Equal(got, []string{"--all", "--json"}) {
		t.Errorf("flags of a help text: %q", got)
	}
}
