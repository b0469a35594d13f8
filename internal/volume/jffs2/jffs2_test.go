package jffs2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multidd/internal/build"
	"multidd/internal/sample"
	"multidd/internal/tree"
	"multidd/internal/volume/jffs2"
)

var then = time.Date(2009, 7, 4, 12, 30, 14, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fileSystem makes a tree with all that a JFFS2 can hold.
func fileSystem(t testing.TB) *tree.Tree {
	tr := tree.New()
	put := func(p string, n *tree.Node) {
		n.ModTime = then
		must(t, tr.Put(p, n))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 70_001)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	text := bytes.Repeat([]byte("a line of text that can be packed\n"), 3000)
	put(".", &tree.Node{Mode: os.ModeDir | 0o755})
	put("bin", &tree.Node{Mode: os.ModeDir | 0o750, UID: 7, GID: 8})
	put("bin/noise", tree.File(noise, 0o755, then))
	put("bin/su", tree.File([]byte("su"), 0o755|os.ModeSetuid, then))
	put("text", tree.File(text, 0o644, then))
	put("empty", tree.File(nil, 0o600, then))
	put("zeros", tree.File(make([]byte, 300_000), 0o600, then))
	put("link", &tree.Node{Mode: os.ModeSymlink | 0o777, Target: "bin/noise"})
	put("dev/null", &tree.Node{Mode: os.ModeDevice | os.ModeCharDevice | 0o666, Major: 1, Minor: 3})
	put("dev/sda", &tree.Node{Mode: os.ModeDevice | 0o660, GID: 6, Major: 8})
	put("dev/pipe", &tree.Node{Mode: os.ModeNamedPipe | 0o600, UID: 1000})
	put("tmp", &tree.Node{Mode: os.ModeDir | os.ModeSticky | 0o777})
	put("name-"+strings.Repeat("x", 240), tree.File([]byte("long"), 0o644, then))
	put("naïve\xff", tree.File([]byte("bytes"), 0o644, then))
	mixed := tree.File(append(bytes.Clone(text[:10_000]), noise[:10_000]...), 0o640, then)
	mixed.UID, mixed.GID = 1000, 65533
	put("mixed", mixed)
	return tr
}

// makeFS has internal/build make a JFFS2 of a tree.
func makeFS(t testing.TB, tr *tree.Tree, options string) []byte {
	t.Helper()
	sample.Need(t, "mkfs.jffs2", "sumtool")
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "root.tar"))
	must(t, err)
	must(t, tr.WriteTar(f))
	must(t, f.Close())
	recipe, out := filepath.Join(dir, "recipe.toml"), filepath.Join(dir, "root.jffs2")
	must(t, os.WriteFile(recipe, fmt.Appendf(nil, "revision-file = \"none\"\n[[partition]]\nfs = \"jffs2\"\ntree = [{tar = \"root.tar\"}]\njffs2 = {%s}\n", options), 0o644))
	r, err := build.ReadRecipe(recipe)
	must(t, err)
	if _, err := build.Build(context.Background(), r, out, build.Options{Now: then.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	must(t, err)
	return b
}

func read(b []byte) (*tree.Tree, error) { return jffs2.Read(bytes.NewReader(b), int64(len(b))) }

// same compares two trees.
func same(t testing.TB, want, got *tree.Tree) {
	t.Helper()
	changes, err := tree.Compare(want, got, tree.CompareOptions{})
	must(t, err)
	for _, c := range changes {
		t.Error(c)
	}
}

func TestWhatIsBuiltIsReadBack(t *testing.T) {
	tr := fileSystem(t)
	for name, options := range map[string]string{
		"plain": "", "big-endian": "big-endian=true", "summary": "summary=true", "summary, big-endian": "summary=true, big-endian=true", "pad": "pad=true", "pad-to": `pad-to="3MiB"`,
		"without markers": "clean-markers=false", "small blocks": `erase-block="16KiB"`, "not packed": `compression="none"`, "as small as can be": `compression="size"`, "small pages": `page="1KiB"`,
		"all": `big-endian=true, summary=true, pad=true, clean-markers=false, erase-block="64KiB"`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(makeFS(t, tr, options))
			must(t, err)
			same(t, tr, got)
		})
	}
}

// mkfs.jffs2 is told to pack in one way only.
func TestEveryPackingIsRead(t *testing.T) {
	sample.Need(t, "mkfs.jffs2")
	tr := fileSystem(t)
	dir, out := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "fs")
	must(t, tr.Put("bin/again", tr.Lookup("text")))
	if os.Geteuid() != 0 {
		sample.Lack(t, errors.New("it makes devices, as root"))
	}
	_, err := tr.WriteDir(dir)
	must(t, err)
	for way, args := range map[string][]string{
		"zlib": {"-x", "lzo", "-x", "rtime"}, "lzo": {"-X", "lzo", "-x", "zlib", "-x", "rtime"}, "rtime": {"-x", "zlib", "-x", "lzo"},
	} {
		t.Run(way, func(t *testing.T) {
			if o, err := exec.Command("mkfs.jffs2", append(args, "-r", dir, "-o", out, "-l", "-v")...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, o)
			}
			b, err := os.ReadFile(out)
			must(t, err)
			if plain := 600_000; len(b) > plain {
				t.Errorf("%d bytes: it is not packed", len(b))
			}
			got, err := read(b)
			must(t, err)
			want, err := tree.FromDir(dir)
			must(t, err)
			changes, err := tree.Compare(want, got, tree.CompareOptions{Coarse: time.Second})
			must(t, err)
			for _, c := range changes {
				t.Error(c)
			}
		})
	}
}

// A byte that is not as it was is noticed, wherever it is: what is read is right, or it
// is an error.
func TestDamageIsNoticed(t *testing.T) {
	tr := fileSystem(t)
	b := makeFS(t, tr, "")
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		at := rng.IntN(len(b))
		c := bytes.Clone(b)
		c[at] ^= 1 << rng.IntN(8)
		got, err := read(c)
		if err != nil {
			continue
		}
		changes, err := tree.Compare(tr, got, tree.CompareOptions{})
		if err == nil && len(changes) > 0 {
			t.Errorf("byte %d was changed, and so was the tree: %v", at, changes)
		}
	}
}

// Whatever comes last counts: names and content, and what was deleted is gone.
func TestTheNewestVersionCounts(t *testing.T) {
	l := &log{t: t}
	l.inode(node{ino: 1, version: 1, mode: 0o40755})
	l.dirent(1, 1, 2, "file")
	l.dirent(1, 2, 3, "gone")
	l.inode(node{ino: 2, version: 1, mode: 0o100644, size: 10, data: "0123456789"})
	l.inode(node{ino: 3, version: 1, mode: 0o100644, size: 1, data: "x"})
	l.inode(node{ino: 2, version: 3, mode: 0o100600, size: 12, off: 4, data: "abc"})
	l.inode(node{ino: 2, version: 2, mode: 0o100644, size: 12, off: 3, data: "DEF"})
	l.inode(node{ino: 2, version: 4, mode: 0o100600, size: 12, off: 9, zeros: 3})
	l.dirent(1, 3, 0, "gone")
	l.dirent(1, 4, 2, "also")
	l.dirent(1, 2, 3, "gone") // an old one, found later
	tr, err := read(l.b.Bytes())
	must(t, err)
	if b, err := tr.ReadFile("file", 100); err != nil || string(b) != "012Dabc78\x00\x00\x00" {
		t.Errorf("got %q, %v", b, err)
	}
	n := tr.Lookup("file")
	if tr.Lookup("gone") != nil || n != tr.Lookup("also") || n.Mode != 0o600 || !n.Holes {
		t.Errorf("got %+v, and gone is %v", n, tr.Lookup("gone"))
	}
}

// What a power cut leaves is no damage.
func TestANodeThatWasNotWrittenToItsEndIsLeftOut(t *testing.T) {
	l := &log{t: t}
	l.inode(node{ino: 1, version: 1, mode: 0o40755})
	l.dirent(1, 1, 2, "file")
	l.inode(node{ino: 2, version: 1, mode: 0o100644, size: 3, data: "old"})
	whole := l.b.Len()
	l.inode(node{ino: 2, version: 2, mode: 0o100644, size: 300, data: strings.Repeat("new", 100)})
	for cut := whole; cut < l.b.Len(); cut += 8 {
		b := bytes.Clone(l.b.Bytes())
		for i := cut; i < len(b); i++ {
			b[i] = 0xff
		}
		tr, err := read(b)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut-whole, err)
		}
		if got, err := tr.ReadFile("file", 1000); string(got) != "old" {
			t.Errorf("cut at %d: got %q, %v", cut-whole, got, err)
		}
	}
	b := bytes.Clone(l.b.Bytes()) // damage in the middle is
	b[whole+100] ^= 1
	if _, err := read(b); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the node at byte %d", whole)) {
		t.Errorf("damage: %v", err)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	root := node{ino: 1, version: 1, mode: 0o40755}
	for want, write := range map[string]func(*log){
		"it is no JFFS2":        func(l *log) { l.b.WriteString("something else altogether") },
		"inode 5 is missing":    func(l *log) { l.inode(root); l.dirent(1, 1, 5, "x") },
		"no path inside a tree": func(l *log) { l.inode(root); l.dirent(1, 1, 2, "../x"); l.inode(node{ino: 2, mode: 0o100644}) },
		"its bytes 2 to 9 are missing": func(l *log) {
			l.inode(root)
			l.dirent(1, 1, 2, "x")
			l.inode(node{ino: 2, mode: 0o100644, size: 9, data: "ab"})
		},
		"/a/b is a directory that has": func(l *log) {
			l.inode(root)
			l.dirent(1, 1, 2, "a")
			l.inode(node{ino: 2, mode: 0o40755})
			l.dirent(2, 1, 2, "b")
		},
		"a directory that has another name": func(l *log) { l.inode(root); l.dirent(1, 1, 1, "a") },
		"is no node and no erased flash":    func(l *log) { l.inode(root); l.b.WriteString("what is this?...") },
		"and the file system ends at":       func(l *log) { l.inode(root); l.inode(root); l.b.Truncate(l.b.Len() - 4) },
		"of a kind (0xe00f)":                func(l *log) { l.node(0xe00f, make([]byte, 20)) },
		"no kind of file":                   func(l *log) { l.inode(root); l.dirent(1, 1, 2, "x"); l.inode(node{ino: 2, mode: 0o30644}) },
	} {
		l := &log{t: t}
		write(l)
		if _, err := read(l.b.Bytes()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	// What is not known and says that it may be left out, is left out.
	l := &log{t: t}
	l.inode(root)
	l.node(0x200f, make([]byte, 20))
	l.node(0xc002, make([]byte, 60)) // it no longer counts
	if _, err := read(l.b.Bytes()); err != nil {
		t.Error(err)
	}
}

func TestAttributesAreRead(t *testing.T) {
	l := &log{t: t}
	l.inode(node{ino: 1, version: 1, mode: 0o40755})
	l.dirent(1, 1, 2, "a")
	l.dirent(1, 2, 3, "b")
	l.inode(node{ino: 2, version: 1, mode: 0o100644})
	l.inode(node{ino: 3, version: 1, mode: 0o100644})
	l.xattr(1, 1, 1, "comment", "old")
	l.xattr(1, 2, 1, "comment", "new")
	l.xattr(2, 1, 2, "capability", "\x01\x00")
	l.xattr(3, 1, 3, "", "\x01\x00\x00\x00"+"\x01\x00\x06\x00"+"\x02\x00\x04\x00\xe8\x03\x00\x00")
	for _, r := range [][3]uint32{{2, 1, 2}, {3, 1, 4}, {2, 2, 6}, {3, 2, 8}, {3, 2, 9}, {2, 3, 10}} {
		l.xref(r[0], r[1], r[2])
	}
	tr, err := read(l.b.Bytes())
	must(t, err)
	want := map[string]string{
		"user.comment": "new", "security.capability": "\x01\x00",
		"system.posix_acl_access": "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00",
	}
	if got := tr.Lookup("a").Xattrs; !maps.Equal(got, want) {
		t.Errorf("a has %q", got)
	}
	if got := tr.Lookup("b").Xattrs; !maps.Equal(got, map[string]string{"user.comment": "new"}) { // the other was taken away
		t.Errorf("b has %q", got)
	}
}

func FuzzRead(f *testing.F) {
	l := &log{t: f}
	l.inode(node{ino: 1, version: 1, mode: 0o40755})
	l.dirent(1, 1, 2, "file")
	l.inode(node{ino: 2, version: 1, mode: 0o100644, size: 10, data: "0123456789"})
	f.Add(l.b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 12 {
			b = l.mend(b) // or nothing would get past the checksums
		}
		tr, err := read(b)
		if err != nil {
			return
		}
		_ = tr.Walk(func(p string, n *tree.Node) error {
			if !n.Mode.IsRegular() || n.Size > 1<<20 {
				return nil
			}
			r, err := n.Open()
			if err != nil {
				t.Fatal(err)
			}
			if k, err := io.Copy(io.Discard, r); err == nil && k != n.Size {
				t.Errorf("%q has %d bytes, and %d were read", p, n.Size, k)
			}
			return r.Close()
		})
	})
}
