package identity

import (
	"bytes"
	"crypto/rand"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multidd/internal/sample"
)

func card(t *testing.T, text string, r Row) *Card {
	t.Helper()
	s, err := ParseSet([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check([]Row{r}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Card(r, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTemplatesSayWhatACardGets(t *testing.T) {
	c := card(t, `
mac-base = "02:00:00:00:ff:fe"
[[file]]
partition = 2
path = "/etc/network"
content = "{name} {index} {ip} {mac} {{x}}\n"
mode = "0640"
owner = "5:6"
[[line]]
path = "/etc/hosts"
begins = "127.0.1.1"
text = "127.0.1.1\t{name}"
[[key]]
partition = "boot"
path = "cmdline.txt"
key = "ip"
value = "{ip}"
words = true
[[key]]
partition = "boot"
path = "config.txt"
key = "mode"
value = "{index}"
`, Row{"one", 3, map[string]string{"ip": "10.0.0.1"}})
	for i, x := range []struct{ old, want string }{
		{"whatever", "one 3 10.0.0.1 02:00:00:01:00:00 {x}\n"},
		{"127.0.0.1 localhost\r\n127.0.1.10 x\r\n127.0.1.1 old\r\n127.0.1.1 older\r\n::1 six", "127.0.0.1 localhost\r\n127.0.1.10 x\r\n127.0.1.1\tone\r\n::1 six"},
		{"root=/dev/mmcblk0p2 ip=1.2.3.4 quiet\n", "root=/dev/mmcblk0p2 ip=10.0.0.1 quiet\n"},
		{"# mode=1\n mode = 7\nmodes=2", "# mode=1\nmode=3\nmodes=2"},
	} {
		got, err := c.Edits[i].Apply([]byte(x.old))
		if err != nil || string(got) != x.want {
			t.Errorf("edit %d: %q, %v", i, got, err)
		}
	}
	for i, want := range map[int]string{1: "127.0.1.1\tone\n", 2: "ip=10.0.0.1\n", 3: "mode=3\n"} {
		if got, err := c.Edits[i].Apply(nil); err != nil || string(got) != want {
			t.Errorf("edit %d of nothing: %q, %v", i, got, err)
		}
	}
	if e := c.Edits[0]; e.Number != 2 || e.Mode != 0o640 || e.UID != 5 || e.GID != 6 {
		t.Errorf("%+v", e)
	}
	if got, _ := c.Edits[1].Apply([]byte("no end of line")); string(got) != "no end of line\n127.0.1.1\tone\n" {
		t.Errorf("%q", got)
	}
	if _, err := c.Edits[2].Apply([]byte("two\nlines\n")); err == nil {
		t.Error("a command line of two lines")
	}
}

func TestBadTemplatesAreRefusedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "changes nothing"},
		{"\nfoo = 1\n", `line 2: there is no key "foo"`},
		{"[[file]]\npath = \"/a\"\nconten = \"\"\n", "line 3: "},
		{"[[file]]\ncontent = \"x\"\n", "line 1: path"},
		{"[[file]]\n\npath = \"../x\"\n", "line 3: path"},
		{"[[file]]\npath = \"/a/../x\"\n", "line 2: path"},
		{"[[file]]\npath = '/a\"b'\n", "line 2: path"},
		{"[[file]]\npath = \"/a\\nrm /b\"\n", "line 2: path"},
		{"[[file]]\npath = \"/a\\u0000b\"\n", "line 2: path"},
		{"[[file]]\npath = \"/a\"\ncontent = \"{na\"\n", "line 3: "},
		{"[[file]]\npath = \"/a\"\ncontent = \"x}\"\n", "line 3: "},
		{"[[file]]\npath = \"/a\"\nmode = \"09\"\n", "line 3: "},
		{"[[file]]\npath = \"/a\"\nowner = \"root\"\n", "line 3: "},
		{"[[file]]\npath = \"/a\"\npartition = 0\n", "line 3: "},
		{"[[file]]\npath=\"/a\"\n[[file]]\npath=\"/b\"\npartition=1.5\n", "line 5: "},
		{"[[line]]\npath = \"/a\"\ntext = \"x\"\n", "line 1: begins"},
		{"[[line]]\npath = \"/a\"\nbegins = \"x\"\ntext = \"x\\ny\"\n", "line 4: text"},
		{"[[key]]\npath = \"/a\"\nkey = \"x y\"\nvalue=\"\"\n", "line 3: key"},
		{"[[key]]\npath = \"/a\"\nkey = \"x\"\n", "line 3: value is missing"},
		{"ssh-keys = [\"dsa\"]\n", "line 1: "},
		{"machine-id = true\nmac-base = \"00:11:22:33:44:55\"\n", "line 2: "},
		{"machine-id = 1\n", "line 1: "},
	} {
		if _, err := ParseSet([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

func TestUnknownWordsAreRefusedBeforeAnyCard(t *testing.T) {
	s, err := ParseSet([]byte("[[file]]\npath = \"/a\"\n\ncontent = \"{nmae}\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check([]Row{{Name: "a"}}); err == nil || !strings.Contains(err.Error(), "line 4: nothing is called {nmae}") {
		t.Error(err)
	}
	if _, err := s.Card(Row{Name: "a"}, rand.Reader); err == nil {
		t.Error("a card")
	}
}

func TestNewIdentifiersAreNewOnEveryCard(t *testing.T) {
	const text = "machine-id = true\nssh-keys = [\"ed25519\"]\ndisk-id = true\nuuids = [1, \"root\"]\n"
	var seen [][]byte
	for i := range 3 {
		c := card(t, text, Row{Name: "a", Index: i + 1})
		if len(c.Edits) != 3 || len(c.UUIDs) != 2 || c.UUIDs[1].Label != "root" {
			t.Fatalf("%+v", c)
		}
		now := [][]byte{c.DiskID[:], c.UUIDs[0].UUID[:], c.UUIDs[1].UUID[:]}
		for _, e := range c.Edits {
			b, err := e.Apply(nil)
			if err != nil {
				t.Fatal(err)
			}
			now = append(now, b)
		}
		for _, x := range now {
			for _, y := range seen {
				if bytes.Equal(x, y) {
					t.Errorf("%x twice", x)
				}
			}
		}
		seen = append(seen, now...)
	}
	// The same bytes, the same card.
	s, _ := ParseSet([]byte(text))
	var both [2][]byte
	for i := range both {
		c, err := s.Card(Row{Name: "a"}, mathrand.NewChaCha8([32]byte{7}))
		if err != nil {
			t.Fatal(err)
		}
		both[i], _ = c.Edits[1].Apply(nil)
	}
	if !bytes.Equal(both[0], both[1]) {
		t.Error("random bytes that are the same give another key")
	}
}

// The judge of keys is the program that makes them elsewhere.
func TestSSHReadsTheKeys(t *testing.T) {
	sample.Need(t, "ssh-keygen")
	for _, kind := range keyKinds {
		private, public, err := hostKey(kind, "root@one", rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(name, private, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ssh-keygen", "-y", "-P", "", "-f", name).CombinedOutput()
		if err != nil || string(out) != string(public) {
			t.Errorf("%s: %v\n%s\n%s", kind, err, out, public)
		}
		// A signature proves the private half.
		sign := exec.Command("ssh-keygen", "-Y", "sign", "-n", "file", "-f", name)
		sign.Stdin = strings.NewReader("text")
		if out, err := sign.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", kind, err, out)
		}
	}
}

func TestTheDefaultIsTheNameInTwoFiles(t *testing.T) {
	c, err := Default().Card(Row{Name: "one", Index: 1}, rand.Reader)
	if err != nil || len(c.Edits) != 2 || c.Edits[0].Path != "/etc/hostname" || c.Edits[1].Path != "/etc/hosts" {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzSet(f *testing.F) {
	f.Add([]byte("[[file]]\npath = \"/etc/hostname\"\ncontent = \"{name}\\n\"\n"), []byte("old\n"))
	f.Add([]byte("[[line]]\npath = \"/etc/hosts\"\nbegins = \"x\"\ntext = \"x {name}\"\n[[key]]\npath = \"c\"\nkey = \"k\"\nwords = true\n"), []byte("a k=1 b"))
	f.Fuzz(func(t *testing.T, text, old []byte) {
		s, err := ParseSet(text)
		if err != nil || len(s.sshKeys) > 0 {
			return
		}
		c, err := s.Card(Row{Name: "a", Index: 1}, mathrand.NewChaCha8([32]byte{}))
		if err != nil {
			return
		}
		for _, e := range c.Edits {
			if CheckPath(e.Path) != nil {
				t.Errorf("%q is a path", e.Path)
			}
			once, err := e.Apply(old)
			if err != nil {
				continue
			}
			if twice, err := e.Apply(once); err != nil || !bytes.Equal(once, twice) {
				t.Errorf("%q is not what a second time gives: %q, %v", once, twice, err)
			}
		}
	})
}

// The page about identities promises what is understood.
func TestTheTemplatesInTheDocsAreGood(t *testing.T) {
	b, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "```toml\n")
	text, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("there are none")
	}
	s, err := ParseSet([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check([]Row{{Name: "a", Index: 1, Columns: map[string]string{"ip": "10.0.0.1"}}}); err != nil {
		t.Error(err)
	}
}
