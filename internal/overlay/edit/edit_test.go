package edit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multidd/internal/identity"
	"multidd/internal/tree"
	"multidd/internal/volume"
	"multidd/internal/volume/fat"
)

const aSet = `
[[file]]
path = "/etc/hostname"
content = "{name}\n"
[[line]]
path = "/etc/hosts"
begins = "127.0.1.1"
text = "127.0.1.1\t{name}"
[[file]]
path = "/etc/absolute"
content = "{name}: a link leads here, and another name stays as it is\n"
[[file]]
path = "/etc/up"
content = "{index}\n"
mode = "0600"
owner = "70000:3"
[[file]]
path = "/conf/new <12>"
content = "in a directory with an index\n"
[[file]]
path = "/etc/large"
content = "small\n"
[[key]]
partition = "BOOT"
path = "cmdline.txt"
key = "ip"
value = "10.0.0.{index}"
words = true
[[file]]
partition = 1
path = "A new file with a long name.txt"
content = "{name}\r\n"
`

func parse(t testing.TB, text string) *identity.Set {
	t.Helper()
	s, err := identity.ParseSet([]byte(text))
	must(t, err)
	return s
}

func rows(n int) []identity.Row {
	var all []identity.Row
	for i := range n {
		all = append(all, identity.Row{Name: fmt.Sprintf("card-%02d", i+1), Index: i + 1})
	}
	return all
}

func makeAll(t testing.TB, d *aDisk, set string, n int, o Options) []*Patch {
	t.Helper()
	o.Now = now
	e := New(d, d.look(), o)
	defer e.Close()
	patches, err := e.MakeAll(context.Background(), parse(t, set), rows(n))
	must(t, err)
	return patches
}

func read(t testing.TB, tr interface {
	ReadFile(string, int64) ([]byte, error)
}, p string) string {
	t.Helper()
	b, err := tr.ReadFile(p, 1<<20)
	must(t, err)
	return string(b)
}

func TestEveryFileSystemTakesTheEdits(t *testing.T) {
	for _, c := range features {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDisk(t, 24, aSystem(1), c.args...)
			p := makeAll(t, d, aSet, 3, Options{})[2]
			card := d.card(p)
			d.clean(card)
			got := d.extTree(card)
			for path, want := range map[string]string{
				"etc/hostname": "card-03\n", "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tcard-03\n", "etc/new-by-link": "3\n", "etc/large": "small\n",
				"etc/two": "card-03: a link leads here, and another name stays as it is\n", "srv/names": "two names\n", "etc/many/new <12>": "in a directory with an index\n",
			} {
				if b := read(t, got, path); b != want {
					t.Errorf("%s: %q", path, b)
				}
				if m := got.Lookup(path).ModTime; !m.Equal(now) && path != "srv/names" {
					t.Errorf("%s is of %v", path, m)
				}
			}
			h := got.Lookup("etc/hostname")
			if h.Mode != 0o640 || h.UID != 7 || h.GID != 70_000 || h.Xattrs["user.note"] != "kept" {
				t.Errorf("the attributes of a file that was there are lost: %+v", h)
			}
			if n := got.Lookup("etc/new-by-link"); n.Mode != 0o600 || n.UID != 70_000 || n.GID != 3 {
				t.Errorf("a new file: %+v", n)
			}
			sameBut(t, d.extTree(d), got, "etc/hostname", "etc/hosts", "etc/new-by-link", "etc/large", "etc/two", "srv/names", "etc/many/new <12>")
			boot := d.fatTree(card)
			if b := read(t, boot, "cmdline.txt"); b != "root=PARTUUID=1a2b3c4d-02 quiet ip=10.0.0.3\n" {
				t.Errorf("%q", b)
			}
			sameBut(t, d.fatTree(d), boot, "cmdline.txt", "A new file with a long name.txt")
			if n := p.Bytes(); n > 1<<20 || n == 0 {
				t.Errorf("the patch has %d bytes", n)
			}
			shown := Show(card, d.look(), parse(t, aSet))
			if shown.Hostname != "card-03" || shown.Revision != "moz-ref v2" || len(shown.Files) != 8 || shown.Files[6].Err != nil {
				t.Errorf("%+v", shown)
			}
		})
	}
}

// The image itself is only read, and each card has what is its own.
func TestCardsAreMadeSideBySide(t *testing.T) {
	d := newDisk(t, 24, aSystem(2), "-t", "ext4")
	before, err := os.ReadFile(d.Name())
	must(t, err)
	for _, p := range makeAll(t, d, aSet, 20, Options{Workers: 4, Thorough: true}) {
		r, err := Patched(d, p)
		must(t, err)
		if got := Show(r, d.look(), nil); got.Hostname != p.Name {
			t.Errorf("%s says that it is %q", p.Name, got.Hostname)
		}
		if len(p.Changed) != 8 {
			t.Errorf("%v", p.Changed)
		}
	}
	after, err := os.ReadFile(d.Name())
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the image was written")
	}
}

func TestTheSameRowGivesTheSameBytes(t *testing.T) {
	d := newDisk(t, 24, aSystem(3), "-t", "ext4")
	first := makeAll(t, d, aSet, 4, Options{Workers: 1})
	again := makeAll(t, d, aSet, 4, Options{Workers: 2})
	for i := range first {
		a, b := first[i].Pieces, again[i].Pieces
		if len(a) != len(b) {
			t.Fatalf("%d pieces and %d", len(a), len(b))
		}
		for k := range a {
			if a[k].Off != b[k].Off || !bytes.Equal(a[k].Data, b[k].Data) {
				t.Errorf("card %d: piece %d differs", i, k)
			}
		}
	}
}

func TestWhatCannotBeIsRefusedBeforeAnyCard(t *testing.T) {
	d := newDisk(t, 24, aSystem(4), "-t", "ext4", "-b", "1024")
	fill := func(path string, size int) string {
		return fmt.Sprintf("[[file]]\npath = %q\ncontent = %q\n", path, strings.Repeat("x", size))
	}
	for _, c := range []struct{ set, want string }{
		{fill("/etc/none/file", 1), "no directory none"},
		{fill("/etc/hosts/file", 1), "not a directory"},
		{fill("/etc/many", 1), "not a file"},
		{"[[file]]\npartition = 7\npath = \"/a\"\n", "partition 7 is not in the image"},
		{"[[file]]\npartition = \"ROOT\"\npath = \"/a\"\n", "\"ROOT\" is not in the image"},
		{"[[file]]\npartition = 1\npath = \"/none/a\"\n", "there is no directory /none"},
		{"[[file]]\npartition = 1\npath = \"/con?\"\n", "cannot be edited"},
	} {
		e := New(d, d.look(), Options{Now: now})
		_, err := e.MakeAll(context.Background(), parse(t, c.set), rows(1))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("%.60s: %v", c.set, err)
		}
		e.Close()
	}
}

func TestNoRoomIsRefused(t *testing.T) {
	tr := aSystem(5)
	d := newDisk(t, 12, tr, "-t", "ext2")
	var set strings.Builder
	for i := range 15 {
		fmt.Fprintf(&set, "[[file]]\npath = \"/etc/big%d\"\ncontent = %q\n", i, strings.Repeat("x", 900<<10))
	}
	e := New(d, d.look(), Options{Now: now})
	defer e.Close()
	s, err := identity.ParseSet([]byte(set.String()))
	if err == nil {
		_, err = e.MakeAll(context.Background(), s, rows(1))
	}
	if err == nil || !strings.Contains(err.Error(), "room") {
		t.Error(err)
	}
	if _, err := e.MakeAll(context.Background(), identity.Default(), rows(2)); err != nil {
		t.Errorf("what fits after what did not: %v", err)
	}
}

func TestADirtyFileSystemIsRefused(t *testing.T) {
	d := newDisk(t, 24, aSystem(6), "-t", "ext4", "-O", "^metadata_csum")
	try := func(want string) {
		t.Helper()
		e := New(d, d.look(), Options{Now: now})
		defer e.Close()
		if _, err := e.MakeAll(context.Background(), identity.Default(), rows(1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
	var features [4]byte
	must(t, readFull(d, features[:], extOff+1024+0x60))
	features[0] |= 4 // the journal has to be replayed
	_, err := d.WriteAt(features[:], extOff+1024+0x60)
	must(t, err)
	try("cannot be changed as it is")

	d = newDisk(t, 24, aSystem(6), "-t", "ext2")
	// A name without a file: nothing notices it but e2fsck.
	run(t, "", "debugfs", "-w", "-R", "clri /etc/many", fmt.Sprintf("%s?offset=%d", d.Name(), extOff))
	try("cannot be changed as it is")
}

// Fault 42: nothing in an image leads out of it.
func TestNoPathLeadsToThisComputer(t *testing.T) {
	host := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(host, []byte("untouched"), 0o666))
	must(t, os.Chmod(filepath.Dir(host), 0o777))
	tr := aSystem(7)
	link := tr.Lookup("escape").Bare()
	link.Target = "../../../../../../../.." + host
	must(t, tr.Put("escape", link))
	abs := link.Bare()
	abs.Target = host
	must(t, tr.Put("absolute", abs))
	dir := link.Bare()
	dir.Target = filepath.Dir(host)
	must(t, tr.Put("dir", dir))
	odd := link.Bare()
	odd.Target = "/etc/a\"\nrm x"
	must(t, tr.Put("quote", odd))
	d := newDisk(t, 24, tr, "-t", "ext4")
	for path, want := range map[string]string{
		"/escape": "no directory", "/absolute": "no directory", "/dir/victim": "no directory", "/quote": "quotation mark",
	} {
		e := New(d, d.look(), Options{Now: now})
		_, err := e.MakeAll(context.Background(), parse(t, fmt.Sprintf("[[file]]\npath = %q\ncontent = \"x\"\n", path)), rows(1))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
		e.Close()
	}
	tr.Remove("tmp")
	// With the same directories inside, the same links are good, and stay inside.
	must(t, tr.Put(strings.TrimPrefix(filepath.Dir(host), "/")+"/x", tr.Lookup("etc/hosts")))
	d = newDisk(t, 24, tr, "-t", "ext4")
	p := makeAll(t, d, "[[file]]\npath = \"/absolute\"\ncontent = \"inside\"\n", 1, Options{})[0]
	if got := read(t, d.extTree(d.card(p)), host); got != "inside" {
		t.Errorf("%q", got)
	}
	if b, err := os.ReadFile(host); err != nil || string(b) != "untouched" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestIdentifiersChangeWithAllThatNamesThem(t *testing.T) {
	for _, c := range features {
		if !slices.Contains([]string{"ext4", "ext4, 1 KiB", "ext4, no checksums", "ext4, a seed of its own", "ext2"}, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDisk(t, 24, aSystem(8), c.args...)
			old := d.look()
			named := strings.ToUpper(old.Parts[1].FS.UUID) + " " + old.Parts[0].FS.UUID + " " + old.Parts[1].UUID + " x" + old.Parts[1].UUID + "\n"
			set := "disk-id = true\nuuids = [1, 2]\nmachine-id = true\nssh-keys = [\"ed25519\"]\n" +
				fmt.Sprintf("[[file]]\npath = \"/etc/own\"\ncontent = %q\n[[reference]]\npath = \"/etc/own\"\n", named)
			card := d.card(makeAll(t, d, set, 2, Options{})[1])
			d.clean(card)
			now, err := volume.Look(card, old.Size)
			must(t, err)
			if now.ID == old.ID || now.Parts[0].FS.UUID == old.Parts[0].FS.UUID || now.Parts[1].FS.UUID == old.Parts[1].FS.UUID {
				t.Errorf("an identifier is what it was: %v", now)
			}
			got := d.extTree(card)
			if m := got.Lookup("etc/ssh/ssh_host_ed25519_key"); m.Mode != 0o600 {
				t.Errorf("the key is %v", m.Mode)
			}
			want := strings.ToUpper(now.Parts[1].FS.UUID) + " " + now.Parts[0].FS.UUID + " " + now.Parts[1].UUID + " x" + old.Parts[1].UUID + "\n"
			if b := read(t, got, "etc/own"); b != want {
				t.Errorf("%q, not %q", b, want)
			}
			if b := read(t, got, "etc/fstab"); !strings.HasPrefix(b, "PARTUUID="+strings.ToUpper(now.ID)+"-02 ") || !strings.Contains(b, "PARTUUID="+now.ID+"-01 ") {
				t.Errorf("%q", b)
			}
			if b := read(t, d.fatTree(card), "cmdline.txt"); b != "root=PARTUUID="+now.Parts[1].UUID+" quiet\n" {
				t.Errorf("%q", b)
			}
			sameBut(t, d.extTree(d), got, "etc/own", "etc/fstab", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub")
			sameBut(t, d.fatTree(d), d.fatTree(card), "cmdline.txt")
		})
	}
}

// An identifier in a file that cannot be edited as a text is a refusal, and so is a file that is
// to be searched and not there.
func TestAReferenceThatCannotChangeIsARefusal(t *testing.T) {
	tr := aSystem(10)
	for set, want := range map[string]string{
		"disk-id = true\n[[reference]]\npath = \"/etc/none\"\n":   "is not in partition 2",
		"disk-id = true\n[[reference]]\npath = \"/etc/binary\"\n": "is no text",
		"uuids = [9]\n": "partition 9 is not in the image",
	} {
		must(t, tr.Put("etc/binary", tree.File([]byte("\x00root=PARTUUID=1a2b3c4d-02"), 0o644, then)))
		d := newDisk(t, 24, tr, "-t", "ext4")
		e := New(d, d.look(), Options{Now: now})
		if _, err := e.MakeAll(context.Background(), parse(t, set), rows(1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", set, err)
		}
		e.Close()
	}
}

func TestFATKeepsItsNeighbour(t *testing.T) {
	d := newDisk(t, 24, aSystem(9), "-t", "ext2")
	p := makeAll(t, d, "[[file]]\npartition=1\npath=\"config.txt\"\ncontent=\"x\"\n", 1, Options{})[0]
	for _, b := range p.Pieces {
		if e := b.Extent(); e.Off < fatOff || e.End() > fatOff+fatLen {
			t.Errorf("%v is not in partition 1", e)
		}
	}
	f, err := fat.Open(io.NewSectionReader(d.card(p), fatOff, fatLen))
	must(t, err)
	if b, err := f.ReadFile("config.txt", 10); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}
