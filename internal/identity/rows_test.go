package identity

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func namesOf(rows []Row) []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names
}

func TestListsOfNamesAreRead(t *testing.T) {
	for _, c := range []struct{ argument, want string }{
		{"a", "a"},
		{"a,b , c", "a b c"},
		{"maemo-n810-{08..11}", "maemo-n810-08 maemo-n810-09 maemo-n810-10 maemo-n810-11"},
		{"x{8..11}", "x8 x9 x10 x11"},
		{"x{08..101..46}", "x008 x054 x100"},
		{"x{3..1}", "x3 x2 x1"},
		{"r{1..2}s{a..c}", "r1sa r1sb r1sc r2sa r2sb r2sc"},
		{"{lab,hall}-{1..2},spare", "lab-1 lab-2 hall-1 hall-2 spare"},
	} {
		rows, err := ReadNames(c.argument, nil)
		if err != nil || strings.Join(namesOf(rows), " ") != c.want {
			t.Errorf("%s: %v, %v", c.argument, namesOf(rows), err)
		}
	}
}

// The shell's own word for braces is the last.
func TestBracesAreTheShells(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"a{1..5}", "a{01..5}", "a{1..05}", "a{001..12..5}", "{10..1..3}x", "{a..e..2}-{0..1}", "a{b,c}{1..2}d", "q{5..5}", "x{098..102}y{a,b}"} {
		out, err := exec.Command(bash, "-c", "echo "+word).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := expand(word, 1000); err != nil || !slices.Equal(got, strings.Fields(string(out))) {
			t.Errorf("%s: %v, %v; the shell says %s", word, got, err, out)
		}
	}
}

func TestFilesOfNamesAreRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	rows, err := ReadNames(write("names", "\ufeff# the lab\r\none # by the door\r\n\r\ntwo\r\n"), nil)
	if err != nil || !slices.Equal(namesOf(rows), []string{"one", "two"}) {
		t.Errorf("%v, %v", rows, err)
	}
	rows, err = ReadNames(write("names.csv", "ip, name ,note\n10.0.0.1,one,\"a, b\"\n# none\n10.0.0.2,two,\n"), nil)
	if err != nil || len(rows) != 2 || rows[0].Name != "one" || rows[0].Columns["ip"] != "10.0.0.1" || rows[0].Columns["note"] != "a, b" || rows[1].Index != 2 {
		t.Errorf("%v, %v", rows, err)
	}
	rows, err = ReadNames("-", strings.NewReader("host,ip\none,10.0.0.1\n"))
	if err != nil || rows[0].Name != "one" || rows[0].Columns["ip"] != "10.0.0.1" {
		t.Errorf("%v, %v", rows, err)
	}
}

func TestBadListsAreRefusedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"one\ntwo\nOne\n", `line 3: the name "One" is there already (line 1)`},
		{"one\n\ntwo words\n", "line 3: "},
		{"one\na.b\n", "line 2: "},
		{"-x\n", "line 1: "},
		{"x-\n", "hyphen"},
		{"\u00fcber\n", "line 1: "},
		{strings.Repeat("a", 64) + "\n", "64 characters"},
		{"# nothing\n", "no name"},
		{"name,name\na,b\n", "line 1: two columns"},
		{"name,ip\na,1\n,2\n", "line 3: the name is empty"},
		{"name,ip\na,1\nb\n", "line 3: "},
		{"name,ip\na,\"1\n2\"\n", "line 2: column \"ip\" has a control character"},
		{"name,index\na,1\n", "line 1: a column cannot be called"},
		{"name,a b\na,1\n", "line 1: column 2"},
	} {
		if _, err := ReadNames("-", strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
	for _, argument := range []string{"", ",", "a,", "a{1..3", "a}", "a{1..x}", "a{}", "a{1}", "{{1..2}}", "a,a", "{1..999999999}", "x{1..999}{1..999}", "{1..3..0}", "/no/such/file"} {
		if rows, err := ReadNames(argument, nil); err == nil {
			t.Errorf("%q: %v", argument, rows)
		}
	}
}

func TestTooFewNamesAreSaidWithNumbers(t *testing.T) {
	rows := make([]Row, 3)
	if err := Enough(rows, 3); err != nil {
		t.Error(err)
	}
	if err := Enough(rows, 5); !errors.Is(err, ErrTooFew) || !strings.Contains(err.Error(), "3 for 5") {
		t.Error(err)
	}
}

func FuzzNames(f *testing.F) {
	f.Add("a{01..14}", "name,ip\na,1\n")
	f.Add("{1..2}{a,b},x", "one\ntwo # b\n")
	f.Fuzz(func(t *testing.T, argument, file string) {
		for _, read := range []func() ([]Row, error){
			func() ([]Row, error) { return parseArgument(argument) },
			func() ([]Row, error) { return readList(strings.NewReader(file), "") },
		} {
			rows, err := read()
			if err != nil {
				continue
			}
			seen := map[string]bool{}
			for _, r := range rows {
				if key := strings.ToLower(r.Name); CheckName(r.Name) != nil || seen[key] {
					t.Errorf("%q is a name", r.Name)
				} else {
					seen[key] = true
				}
			}
		}
	})
}
