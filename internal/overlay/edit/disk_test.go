package edit

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/sample"
	"multidd/internal/tree"
	"multidd/internal/volume"
	"multidd/internal/volume/ext"
	"multidd/internal/volume/fat"
)

var (
	then = time.Date(2009, 7, 4, 12, 30, 14, 0, time.UTC)
	now  = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
)

// features are file systems as they are, or were, made for cards.
var features = []struct {
	name string
	args []string
}{
	{"ext4", []string{"-t", "ext4"}},
	{"ext4, 1 KiB", []string{"-t", "ext4", "-b", "1024"}},
	{"ext4, no journal", []string{"-t", "ext4", "-O", "^has_journal"}},
	{"ext4, no checksums", []string{"-t", "ext4", "-O", "^metadata_csum"}},
	{"ext4, uninit_bg", []string{"-t", "ext4", "-O", "^metadata_csum,uninit_bg"}},
	{"ext4, uninit_bg, 32 bit", []string{"-t", "ext4", "-O", "^metadata_csum,uninit_bg,^64bit"}},
	{"ext4, meta_bg", []string{"-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024"}},
	{"ext4, sparse_super2", []string{"-t", "ext4", "-O", "sparse_super2,^resize_inode"}},
	{"ext4, no flex_bg", []string{"-t", "ext4", "-O", "^flex_bg", "-b", "1024"}},
	{"ext4, inline_data", []string{"-t", "ext4", "-O", "inline_data", "-I", "256"}},
	{"ext4, a seed of its own", []string{"-t", "ext4", "-O", "metadata_csum_seed,orphan_file"}},
	{"ext4, no extents", []string{"-t", "ext4", "-O", "^extents,^64bit"}},
	{"ext4, lazy", []string{"-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1"}},
	{"ext3", []string{"-t", "ext3"}},
	{"ext3, small inodes", []string{"-t", "ext3", "-I", "128"}},
	{"ext2", []string{"-t", "ext2"}},
	{"ext2, 1 KiB", []string{"-t", "ext2", "-b", "1024"}},
	{"ext2 of 2009", []string{"-t", "ext2", "-b", "1024", "-I", "128", "-O", "none,filetype,sparse_super,resize_inode,dir_index,ext_attr"}},
	{"ext2, nothing", []string{"-t", "ext2", "-O", "none", "-I", "128"}},
}

// Programs that make file systems wait for a disk, if there is one below.
func TestMain(m *testing.M) {
	if dir, err := os.MkdirTemp(shm, "multidd-test-"); err == nil {
		os.Setenv("TMPDIR", dir)
		defer os.RemoveAll(dir)
	}
	m.Run()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	path, err := look(name)
	if err != nil {
		path = name
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = bytes.NewReader([]byte(stdin))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

const (
	fatOff = 63 * 512 // as disks of 2009 have it: not on a multiple of 4 KiB
	fatLen = 12 << 20
	extOff = 16 << 20
	id     = "0x1a2b3c4d"
)

// aDisk is an MBR with a FAT, labelled BOOT, and an ext file system in a file.
type aDisk struct {
	*os.File
	t      testing.TB
	extLen int64
}

// newDisk makes one with so many MiB of ext, which holds the tree.
func newDisk(t testing.TB, mib int64, tr *tree.Tree, args ...string) *aDisk {
	t.Helper()
	sample.Need(t, "mke2fs", "e2fsck", "debugfs", "tune2fs", "mkfs.vfat", "fsck.vfat", "sfdisk")
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "disk"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	d := &aDisk{f, t, mib << 20}
	must(t, f.Truncate(extOff+d.extLen))
	run(t, fmt.Sprintf("label: dos\nlabel-id: %s\nstart=63, size=%d, type=c\nstart=%d, type=83\n", id, fatLen/512, extOff/512), "sfdisk", "-q", f.Name())

	part, err := os.Create(filepath.Join(dir, "part"))
	must(t, err)
	defer os.Remove(part.Name())
	must(t, part.Truncate(d.extLen))
	run(t, "", "mke2fs", append(append([]string{"-q", "-F"}, args...), part.Name())...)
	must(t, ext.Fill(part, tr))
	// Directories get their index as e2fsck makes it.
	if out, err := exec.Command("e2fsck", "-fyD", part.Name()).CombinedOutput(); err != nil && exec.Command("e2fsck", "-fn", part.Name()).Run() != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d.put(part, extOff)
	must(t, part.Truncate(0))
	must(t, part.Truncate(fatLen))
	run(t, "", "mkfs.vfat", "-n", "BOOT", part.Name())
	v, err := fat.Edit(part)
	must(t, err)
	for name, text := range map[string]string{"cmdline.txt": "root=PARTUUID=1a2b3c4d-02 quiet\n", "config.txt": "mode=1\r\n", "other": "other"} {
		must(t, v.WriteFile(name, bytes.NewReader([]byte(text)), int64(len(text)), then))
	}
	must(t, v.Flush())
	d.put(part, fatOff)
	must(t, part.Close())
	return d
}

func (d *aDisk) put(part *os.File, off int64) {
	d.t.Helper()
	b, err := os.ReadFile(part.Name())
	must(d.t, err)
	_, err = d.WriteAt(b, off)
	must(d.t, err)
}

func (d *aDisk) look() *volume.Disk {
	d.t.Helper()
	v, err := volume.Look(d, extOff+d.extLen)
	must(d.t, err)
	return v
}

// noise is what lies on a card before: no byte of it is zero.
var noise = sync.OnceValue(func() []byte {
	b := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	for i := range b {
		b[i] |= 1
	}
	return b
})

// card returns what a card holds on which all that is used was written over noise, and the
// patch.
func (d *aDisk) card(p *Patch) *os.File {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.t.TempDir(), "card"))
	must(d.t, err)
	d.t.Cleanup(func() { f.Close() })
	noise := noise()
	size := extOff + d.extLen
	for at := int64(0); at < size; at += int64(len(noise)) {
		_, err := f.WriteAt(noise[:min(int64(len(noise)), size-at)], at)
		must(d.t, err)
	}
	for _, e := range d.look().Map().Used {
		_, err := io.Copy(io.NewOffsetWriter(f, e.Off), io.NewSectionReader(d, e.Off, e.Len))
		must(d.t, err)
	}
	for _, b := range p.Pieces {
		_, err := f.WriteAt(b.Data, b.Off)
		must(d.t, err)
	}
	return f
}

// clean lets e2fsck and fsck.vfat judge a card.
func (d *aDisk) clean(card *os.File) {
	d.t.Helper()
	for _, c := range []struct {
		e    block.Extent
		args []string
	}{{block.Extent{Off: extOff, Len: d.extLen}, []string{"e2fsck", "-fn"}}, {block.Extent{Off: fatOff, Len: fatLen}, []string{"fsck.vfat", "-n"}}} {
		part, err := os.Create(filepath.Join(d.t.TempDir(), "part"))
		must(d.t, err)
		_, err = io.Copy(part, io.NewSectionReader(card, c.e.Off, c.e.Len))
		must(d.t, err)
		must(d.t, part.Close())
		if out, err := exec.Command(c.args[0], c.args[1], part.Name()).CombinedOutput(); err != nil {
			d.t.Errorf("%v: %v\n%s", c.args, err, out)
		}
		must(d.t, os.Remove(part.Name()))
	}
}

func (d *aDisk) extTree(r io.ReaderAt) *tree.Tree {
	d.t.Helper()
	tr, err := ext.Read(io.NewSectionReader(r, extOff, d.extLen))
	must(d.t, err)
	return tr
}

func (d *aDisk) fatTree(r io.ReaderAt) *tree.Tree {
	d.t.Helper()
	tr, err := fat.Read(io.NewSectionReader(r, fatOff, fatLen))
	must(d.t, err)
	return tr
}

// sameBut fails if two trees differ in anything but the paths that are named.
func sameBut(t testing.TB, a, b *tree.Tree, paths ...string) {
	t.Helper()
	for _, tr := range []*tree.Tree{a, b} {
		for _, p := range paths {
			tr.Remove(p)
		}
	}
	changes, err := tree.Compare(a, b, tree.CompareOptions{})
	must(t, err)
	for i, c := range changes {
		if i == 10 {
			t.Fatalf("and %d more", len(changes)-i)
		}
		t.Errorf("%v", c)
	}
}

// aSystem is a small root file system with what makes edits difficult.
func aSystem(seed uint64) *tree.Tree {
	rng := rand.New(rand.NewPCG(seed, 2))
	t := tree.New()
	put := func(p string, n *tree.Node) {
		if err := t.Put(p, n); err != nil {
			panic(err)
		}
	}
	file := func(p string, n int) {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		put(p, tree.File(b, 0o644, then))
	}
	link := func(p, to string) { put(p, &tree.Node{Mode: fs.ModeSymlink | 0o777, ModTime: then, Target: to}) }
	host := tree.File([]byte("master\n"), 0o640, then)
	host.UID, host.GID = 7, 70_000
	host.Xattrs = map[string]string{"user.note": "kept"}
	put("etc/hostname", host)
	put("etc/hosts", tree.File([]byte("127.0.0.1\tlocalhost\n127.0.1.1\tmaster\n"), 0o644, then))
	put("etc/fstab", tree.File([]byte("PARTUUID=1A2B3C4D-02 / ext4 defaults 0 1\nPARTUUID=1a2b3c4d-01 /boot vfat defaults 0 2\n"), 0o644, then))
	two := tree.File([]byte("two names\n"), 0o644, then)
	put("etc/two", two)
	put("srv/names", two)
	put("etc/ssh", &tree.Node{Mode: fs.ModeDir | 0o755, ModTime: then})
	put("etc/image-revision", tree.File([]byte("moz-ref v2\n"), 0o644, then))
	for i := range 600 {
		put(fmt.Sprintf("etc/many/a rather long name of a file, number %d", i), tree.File([]byte{byte(i)}, 0o644, then))
	}
	for i := range 30 {
		file(fmt.Sprintf("usr/lib/%d", i), rng.IntN(60_000))
	}
	file("etc/large", 300_000)
	link("etc/absolute", "/etc/two")
	link("etc/up", "../../../../../../etc/new-by-link")
	link("conf", "/etc/many")
	link("escape", "../../../../tmp/multidd-escape")
	link("tmp", "/")
	return t
}
