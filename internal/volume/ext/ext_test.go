package ext

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multidd/internal/sample"
	"multidd/internal/tree"
)

var then = time.Date(2009, 7, 4, 12, 30, 15, 123456789, time.UTC)

// features are file systems as they are, or were, made for cards.
var features = []struct {
	name string
	args []string
	// whole: times have no parts of a second
	whole bool
}{
	{"ext4", []string{"-t", "ext4"}, false},
	{"ext4 with 1 KiB blocks", []string{"-t", "ext4", "-b", "1024"}, false},
	{"ext4 without a journal", []string{"-t", "ext4", "-O", "^has_journal"}, false},
	{"ext4 without checksums", []string{"-t", "ext4", "-O", "^metadata_csum"}, false},
	{"ext4 with uninit_bg", []string{"-t", "ext4", "-O", "^metadata_csum,uninit_bg"}, false},
	{"ext4 with uninit_bg, 32 bit", []string{"-t", "ext4", "-O", "^metadata_csum,uninit_bg,^64bit"}, false},
	{"ext4 with meta_bg", []string{"-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024"}, false},
	{"ext4 with sparse_super2", []string{"-t", "ext4", "-O", "sparse_super2,^resize_inode"}, false},
	{"ext4 without flex_bg", []string{"-t", "ext4", "-O", "^flex_bg", "-b", "1024"}, false},
	{"ext4 with inline_data", []string{"-t", "ext4", "-O", "inline_data", "-I", "256"}, false},
	{"ext4 with a seed of its own", []string{"-t", "ext4", "-O", "metadata_csum_seed"}, false},
	{"ext4 without extents", []string{"-t", "ext4", "-O", "^extents,^64bit"}, false},
	{"ext3", []string{"-t", "ext3"}, false},
	{"ext3 with small inodes", []string{"-t", "ext3", "-I", "128"}, true},
	{"ext2", []string{"-t", "ext2"}, false},
	{"ext2 with 1 KiB blocks", []string{"-t", "ext2", "-b", "1024"}, false},
	{"ext2 of 2009", []string{"-t", "ext2", "-b", "1024", "-I", "128", "-O", "none,filetype,sparse_super,resize_inode,dir_index,ext_attr"}, true},
	{"ext2 without anything", []string{"-t", "ext2", "-O", "none", "-I", "128"}, true},
}

// empty makes an empty file system of that many MiB.
func empty(t testing.TB, mib int64, args ...string) *os.File {
	t.Helper()
	sample.Need(t, "mke2fs", "e2fsck")
	f, err := os.Create(filepath.Join(t.TempDir(), "fs"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, f.Truncate(mib<<20))
	cmd := exec.Command("mke2fs", append(append([]string{"-q", "-F"}, args...), f.Name())...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %v: %v\n%s", args, err, out)
	}
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fsck returns what e2fsck says of a file system; "": it is clean.
func fsck(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", name).CombinedOutput()
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%v\n%s", err, out)
}

// aTree has something of everything in it. Without wide numbers it fits on a file
// system of 1993.
func aTree(seed uint64) *tree.Tree {
	rng := rand.New(rand.NewPCG(seed, 1))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	t := tree.New()
	put := func(p string, n *tree.Node) {
		if err := t.Put(p, n); err != nil {
			panic(err)
		}
	}
	for i, n := range []int{0, 1, 59, 60, 61, 1000, 1024, 1025, 4096, 5000, 13 << 10, 70_000, 300_000, 1_500_000} {
		put(fmt.Sprintf("sizes/%d", i), tree.File(random(n), 0o644, then.Add(time.Duration(i)*time.Hour)))
	}
	islands := make([]byte, 900_000)
	for i := range 40 {
		copy(islands[i*22_000:], random(500))
	}
	holes := tree.File(islands, 0o600, then)
	holes.Holes = true
	put("holes", holes)
	hollow := &tree.Node{Mode: 0o644, ModTime: then, Size: 6 << 20, Holes: true}
	put("hollow", hollow)
	put("setuid", tree.File([]byte("x"), 0o755|fs.ModeSetuid|fs.ModeSetgid, then))
	put("sticky", &tree.Node{Mode: fs.ModeDir | fs.ModeSticky | 0o777, ModTime: then, UID: 70_000, GID: 80_000})
	put("name1", tree.File([]byte("two names"), 0o640, then))
	put("sub/name2", t.Lookup("name1"))
	put("short", &tree.Node{Mode: fs.ModeSymlink | 0o777, ModTime: then, Target: "sizes/1", UID: 5})
	put("long", &tree.Node{Mode: fs.ModeSymlink | 0o777, ModTime: then, Target: strings.Repeat("x/", 200)})
	put("just", &tree.Node{Mode: fs.ModeSymlink | 0o777, ModTime: then, Target: strings.Repeat("y", 60)})
	put("dev/null", &tree.Node{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, ModTime: then, Major: 1, Minor: 3})
	put("dev/big", &tree.Node{Mode: fs.ModeDevice | 0o600, ModTime: then, Major: 259, Minor: 70_000})
	put("dev/fifo", &tree.Node{Mode: fs.ModeNamedPipe | 0o600, ModTime: then})
	put("dev/socket", &tree.Node{Mode: fs.ModeSocket | 0o600, ModTime: then})
	put("odd \n\xff\"name", tree.File(nil, 0, then))
	put(strings.Repeat("n", 255), tree.File([]byte("long name"), 0o644, then))
	for i := range 700 {
		put(fmt.Sprintf("many/file number %d %s", i, strings.Repeat("z", i%50)), tree.File([]byte{byte(i)}, 0o644, then))
	}
	x := tree.File([]byte("with attributes"), 0o644, then)
	x.Xattrs = map[string]string{
		"user.comment": "short", "user.empty": "", "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"system.posix_acl_access": "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff",
	}
	put("attributes", x)
	y := tree.File([]byte("with long ones"), 0o644, then)
	y.Xattrs = map[string]string{"user.long": string(random(700)), "user.s": "t"}
	put("more attributes", y)
	put("deep/er/and/er", &tree.Node{Mode: fs.ModeDir | 0o700, ModTime: then})
	return t
}

// whole takes the parts of a second from all times.
func whole(t *testing.T, tr *tree.Tree) {
	must(t, tr.Walk(func(p string, n *tree.Node) error {
		return tr.Change(p, func(n *tree.Node) { n.ModTime = n.ModTime.Truncate(time.Second) })
	}))
}

func same(t *testing.T, a, b *tree.Tree, o tree.CompareOptions) {
	t.Helper()
	changes, err := tree.Compare(a, b, o)
	must(t, err)
	for i, c := range changes {
		if i == 10 {
			t.Fatalf("and %d more", len(changes)-i)
		}
		t.Error(c)
	}
}

func TestATreeComesBackFromEveryKindOfFileSystem(t *testing.T) {
	for _, c := range features {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := empty(t, 48, c.args...)
			tr := aTree(1)
			must(t, Fill(f, tr))
			if s := fsck(t, f.Name()); s != "" {
				t.Fatal(s)
			}
			got, err := Read(f)
			must(t, err)
			if c.whole {
				whole(t, tr)
			}
			same(t, tr, got, tree.CompareOptions{})
		})
	}
}

func TestTheKernelSeesTheSameTree(t *testing.T) {
	if os.Geteuid() != 0 {
		sample.Lack(t, "mounting needs root")
	}
	for _, c := range features {
		t.Run(c.name, func(t *testing.T) {
			f := empty(t, 48, c.args...)
			tr := aTree(2)
			must(t, Fill(f, tr))
			dir := t.TempDir()
			out, err := exec.Command("mount", "-o", "ro,loop", f.Name(), dir).CombinedOutput()
			if err != nil {
				t.Fatalf("mount: %v\n%s", err, out)
			}
			defer func() {
				if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
					t.Errorf("umount: %v\n%s", err, out)
				}
			}()
			got, err := tree.FromDir(dir)
			must(t, err)
			got.Remove("lost+found")
			if c.whole {
				whole(t, tr)
			}
			same(t, tr, got, tree.CompareOptions{})
		})
	}
}

func TestHolesTakeNoRoom(t *testing.T) {
	f := empty(t, 16, "-t", "ext4")
	tr := tree.New()
	must(t, tr.Put("big", &tree.Node{Mode: 0o644, ModTime: then, Size: 1 << 40, Holes: true, Content: func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(bytes.NewReader(nil), 0)), errors.New("not to be read here")
	}}))
	if err := Fill(f, tr); err == nil {
		t.Fatal("an error of reading is lost")
	}
	f = empty(t, 16, "-t", "ext4")
	must(t, tr.Put("big", &tree.Node{Mode: 0o644, ModTime: then, Size: 300 << 20, Holes: true}))
	must(t, Fill(f, tr))
	if s := fsck(t, f.Name()); s != "" {
		t.Fatal(s)
	}
	must(t, tr.Put("big", &tree.Node{Mode: 0o644, ModTime: then, Size: 300 << 20}))
	if err := Fill(empty(t, 16, "-t", "ext4"), tr); !errors.Is(err, ErrFull) {
		t.Errorf("zeros that are not holes: %v", err)
	}
}

func TestTooMuchIsSaid(t *testing.T) {
	few := empty(t, 16, "-t", "ext4", "-N", "64")
	if err := Fill(few, aTree(1)); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "inodes") {
		t.Errorf("too many files: %v", err)
	}
	small := tree.New()
	must(t, small.Put("f", tree.File(make([]byte, 17<<20), 0o644, then)))
	if err := Fill(empty(t, 16, "-t", "ext2"), small); !errors.Is(err, ErrFull) {
		t.Errorf("too much in them: %v", err)
	}
}

func TestOnlyAnEmptyFileSystemIsFilled(t *testing.T) {
	f := empty(t, 16, "-t", "ext4")
	tr := tree.New()
	must(t, tr.Put("a", tree.File([]byte("a"), 0o644, then)))
	must(t, Fill(f, tr))
	if err := Fill(f, tr); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a second time: %v", err)
	}
	for _, feature := range []string{"bigalloc", "quota", "encrypt"} {
		if err := Fill(empty(t, 32, "-t", "ext4", "-O", feature), tr); err == nil || !strings.Contains(err.Error(), "features") {
			t.Errorf("%s: %v", feature, err)
		}
	}
	if err := Fill(zeroDevice{}, tr); !errors.Is(err, ErrNotExt) {
		t.Errorf("nothing at all: %v", err)
	}
}

type zeroDevice struct{}

func (zeroDevice) ReadAt(p []byte, _ int64) (int, error)  { clear(p); return len(p), nil }
func (zeroDevice) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestTheSameTreeGivesTheSameBytes(t *testing.T) {
	var sums [2][]byte
	for i := range sums {
		f := empty(t, 24, "-t", "ext4", "-U", "6b3a4b1e-0c1c-4f4e-9a3d-0b8f5a1d2c3e", "-E", "hash_seed=6b3a4b1e-0c1c-4f4e-9a3d-0b8f5a1d2c3e")
		before, err := os.ReadFile(f.Name())
		must(t, err)
		must(t, Fill(f, aTree(3)))
		after, err := os.ReadFile(f.Name())
		must(t, err)
		// The times that mke2fs noted are not this package's affair.
		copy(after[superOff:], before[superOff:superOff+0x5c])
		for k := range after {
			if after[k] == before[k] {
				after[k] = 0
			}
		}
		sums[i] = after[1<<20:]
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Error("they differ")
	}
}

func TestOneFileIsFoundThroughLinks(t *testing.T) {
	f := empty(t, 16, "-t", "ext4")
	tr := tree.New()
	link := func(p, to string) {
		must(t, tr.Put(p, &tree.Node{Mode: fs.ModeSymlink | 0o777, ModTime: then, Target: to}))
	}
	must(t, tr.Put("etc/revision", tree.File([]byte("v2\n"), 0o644, then)))
	link("abs", "/etc/revision")
	link("up", "../../../../etc/revision")
	link("dir", "etc")
	link("loop", "loop")
	must(t, Fill(f, tr))
	v, err := Open(f)
	must(t, err)
	for _, p := range []string{"etc/revision", "/etc/revision", "abs", "up", "dir/revision", "../dir/../etc/revision"} {
		if b, err := v.ReadFile(p, 100); err != nil || string(b) != "v2\n" {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
	for _, p := range []string{"loop", "etc", "etc/none", "etc/revision/x"} {
		if b, err := v.ReadFile(p, 100); err == nil {
			t.Errorf("%s: %q", p, b)
		}
	}
	if _, err := v.ReadFile("etc/revision", 2); err == nil {
		t.Error("the limit does not hold")
	}
}

// Whoever leaves out the content of files must know all of it, and nothing else.
func TestPlacesAndContentAreFound(t *testing.T) {
	for _, args := range [][]string{{"-t", "ext4"}, {"-t", "ext2", "-b", "1024"}} {
		f := empty(t, 24, args...)
		tr := tree.New()
		big := bytes.Repeat([]byte("content of a file "), 20_000)
		must(t, tr.Put("a/big", tree.File(big, 0o640, then)))
		must(t, tr.Put("b/again", tr.Lookup("a/big")))
		must(t, tr.Put("to", &tree.Node{Mode: fs.ModeSymlink | 0o777, ModTime: then, Target: "/a"}))
		must(t, Fill(f, tr))
		v, err := Open(f)
		must(t, err)
		p, err := v.Find("to/big")
		if err != nil || p.Path != "/a/big" || p.Name != "big" || p.Links != 2 || p.Node.Mode != 0o640 {
			t.Errorf("%+v, %v", p, err)
		}
		if n, err := v.Find("to/new"); err != nil || n.Path != "/a/new" || n.Dir != p.Dir || n.Node != nil || n.Ino != 0 {
			t.Errorf("%+v, %v", n, err)
		}
		if _, err := v.Find("to/none/new"); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if _, err := v.Find("a/big/new"); err == nil {
			t.Error("a file below a file")
		}
		var found []byte
		must(t, v.Content(func(ino, off, n int64) error {
			b := make([]byte, n)
			_, err := f.ReadAt(b, off)
			if ino == p.Ino {
				found = append(found, b...)
			} else {
				t.Errorf("inode %d has content", ino)
			}
			return err
		}))
		if !bytes.HasPrefix(found, big) || len(found)-len(big) > 4096 {
			t.Errorf("%d bytes of content, and not %d", len(found), len(big))
		}
	}
}

// What is fuzzed is not the whole of a file system but what is changed in one: seven bytes
// say where, and what to.
func FuzzRead(f *testing.F) {
	var bases [][]byte
	for _, args := range [][]string{{"-t", "ext4", "-b", "1024"}, {"-t", "ext2", "-b", "1024", "-I", "128"}, {"-t", "ext4", "-b", "1024", "-O", "inline_data"}} {
		file := empty(f, 1, append(args, "-N", "16", "-O", "^has_journal")...)
		must(f, Fill(file, fuzzTree()))
		b, err := os.ReadFile(file.Name())
		must(f, err)
		bases = append(bases, b[:64<<10])
		f.Add(uint8(len(bases)-1), []byte{0x18, 4, 0, 9, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, base uint8, changes []byte) {
		b := bytes.Clone(bases[int(base)%len(bases)])
		for ; len(changes) >= 7; changes = changes[7:] {
			at := int(changes[0]) | int(changes[1])<<8 | int(changes[2])<<16
			copy(b[at%(len(b)-4):], changes[3:7])
		}
		tr, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		_ = tr.Walk(func(p string, n *tree.Node) error {
			if n.Mode.IsRegular() && n.Size < 1<<16 {
				_, _ = tr.ReadFile(p, 1<<16)
			}
			return nil
		})
	})
}

func fuzzTree() *tree.Tree {
	t := tree.New()
	x := tree.File([]byte("content"), 0o644, then)
	x.Xattrs = map[string]string{"user.a": "b"}
	for p, n := range map[string]*tree.Node{
		"d/f": x, "d/g": tree.File(make([]byte, 5000), 0o644, then), "l": {Mode: fs.ModeSymlink | 0o777, ModTime: then, Target: "d/f"},
	} {
		_ = t.Put(p, n)
	}
	return t
}

func BenchmarkFill(b *testing.B) {
	tr, err := tree.FromDir("/usr/share")
	must(b, err)
	totals := tr.Totals()
	b.ReportMetric(float64(totals.Names), "names")
	for b.Loop() {
		f := empty(b, totals.Bytes*3>>21+200, "-t", "ext4", "-N", fmt.Sprint(totals.Names+100))
		must(b, Fill(f, tr))
	}
	b.SetBytes(totals.Bytes)
}
