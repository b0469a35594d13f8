package multidd_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is the import rule of ARCHITECTURE.md: which of multidd's packages,
// and which of other people's (by prefix), a package may import. What a package
// is not allowed to import it cannot come to know.
var mayImport = map[string][]string{
	"block":                 {},
	"codec":                 {"codec/bzip2", "github.com/klauspost/", "github.com/pierrec/lz4/", "github.com/mikelolasagasti/xz", "github.com/ulikunitz/xz", "github.com/zeebo/xxh3", "github.com/cespare/xxhash"},
	"codec/bzip2":           {},
	"image":                 {"block", "codec", "golang.org/x/sync/"},
	"device":                {"golang.org/x/sys/"},
	"device/devicetest":     {"block", "sample", "golang.org/x/sys/", "github.com/hanwen/go-fuse/"},
	"device/devicetest/...": {"device/devicetest", "golang.org/x/sys/"},
	"verify":                {"block", "github.com/zeebo/xxh3"},
	"volume":                {"block"},
	"volume/ext":            {"tree"},
	"volume/fat":            {"tree"},
	"volume/jffs2":          {"tree"},
	"volume/volumetest":     {"block"},
	"build":                 {"block", "codec", "image", "tree", "volume", "volume/ext", "volume/fat", "volume/jffs2", "github.com/pelletier/go-toml/"},
	"tree":                  {"golang.org/x/sys/"},
	"duplicate":             {"block", "verify"},
	"overlay":               {"block"},
	"overlay/edit":          {"block", "overlay", "identity", "volume", "volume/ext", "volume/fat"},
	"identity":              {"github.com/pelletier/go-toml/"},
	"resize":                {"block", "volume", "overlay"},
	"capture":               {"block", "verify", "volume"},
	"dd":                    {"block", "codec"},
	"station":               {"block", "duplicate", "verify", "image", "device", "overlay", "identity", "journal", "capture"},
	"tui":                   {"station", "verify", "capture", "charm.land/", "github.com/charmbracelet/", "golang.org/x/term", "github.com/mattn/go-runewidth"},
	"sample":                {},
	"faulttest":             {},
	"labtest":               {},
	"cardlab":               {"golang.org/x/sys/"},
	"cardlab/...":           {"cardlab"},
}

// testOnly are packages that only tests, the demo and the benchmarks import.
var testOnly = []string{"device/devicetest", "volume/volumetest", "cardlab", "sample"}

type goPackage struct {
	ImportPath, Dir string
	GoFiles         []string
	Imports         []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rule returns what the package may import; ok is false for what may import
// anything: the commands and the benchmarks.
func rule(name string) (allowed []string, ok bool) {
	if allowed, ok = mayImport[name]; ok {
		return allowed, true
	}
	for prefix := name; prefix != ""; {
		i := strings.LastIndex(prefix, "/")
		if i < 0 {
			break
		}
		prefix = prefix[:i]
		if allowed, ok = mayImport[prefix+"/..."]; ok {
			return allowed, true
		}
	}
	return nil, false
}

// forbidden returns why a package with that name may not import the other, or "".
func forbidden(name, imported string) string {
	ours, isOurs := strings.CutPrefix(imported, "multidd/internal/")
	if !isOurs && !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") {
		return "" // the standard library
	}
	allowed, ok := rule(name)
	if !ok {
		return "internal/" + name + " has no line in the import rule: give it one, in ARCHITECTURE.md too"
	}
	for _, a := range allowed {
		if isOurs && a == ours || !isOurs && strings.HasPrefix(imported, a) {
			return ""
		}
	}
	return "internal/" + name + " may not import " + imported + ": see ARCHITECTURE.md"
}

func TestImportsFollowTheRule(t *testing.T) {
	for _, p := range packages(t) {
		name, internal := strings.CutPrefix(p.ImportPath, "multidd/internal/")
		for _, imported := range p.Imports {
			if internal {
				if why := forbidden(name, imported); why != "" {
					t.Error(why)
				}
			}
			ours, _ := strings.CutPrefix(imported, "multidd/internal/")
			if slices.Contains(testOnly, ours) && p.ImportPath == "multidd/cmd/multidd" {
				t.Errorf("%s is test support and not for the program", imported)
			}
		}
	}
}

// The rule above would be worth nothing if it let everything pass.
func TestTheRuleForbids(t *testing.T) {
	for _, c := range [][2]string{
		{"block", "multidd/internal/codec"},
		{"duplicate", "multidd/internal/image"},
		{"duplicate", "golang.org/x/sys/unix"},
		{"tui", "multidd/internal/duplicate"},
		{"newcomer", "multidd/internal/block"},
	} {
		if forbidden(c[0], c[1]) == "" {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
	if why := forbidden("duplicate", "multidd/internal/verify"); why != "" {
		t.Error(why)
	}
}

// unsafe code, system calls and sysfs belong to the device package.
func TestOnlyDeviceIsUnsafe(t *testing.T) {
	for _, p := range packages(t) {
		if strings.Contains(p.ImportPath, "/device") || strings.Contains(p.ImportPath, "/cardlab") {
			continue
		}
		if slices.Contains(p.Imports, "unsafe") {
			t.Errorf("%s imports unsafe", p.ImportPath)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		documented := false
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), p.Dir+"/"+f, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if doc := file.Doc.Text(); strings.HasPrefix(doc, "Package ") || strings.HasPrefix(doc, "Command ") {
				documented = true
			}
		}
		if !documented {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
