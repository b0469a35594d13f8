package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multidd/internal/sample"
	"multidd/internal/tree"
)

// everyKind are recipes of all kinds of file systems, with what they are made by.
var everyKind = map[string]string{
	"ext2": `fs = "ext2"`, "ext3": `fs = "ext3"`, "ext4": `fs = "ext4"`,
	"jffs2":             `fs = "jffs2"`,
	"jffs2 summary":     "fs = \"jffs2\"\njffs2 = {summary = true, pad = true, big-endian = true}",
	"ubi":               `fs = "ubifs"`,
	"ubifs":             "fs = \"ubifs\"\nubi = {ubifs-only = true, compression = \"zlib\"}",
	"squashfs":          `fs = "squashfs"`,
	"squashfs, in zstd": "fs = \"squashfs\"\nsquashfs = {compression = \"zstd\"}",
}

func needAll(t testing.TB) {
	sample.Need(t, "mke2fs", "mkfs.vfat", "sfdisk", "mkfs.jffs2", "sumtool", "mkfs.ubifs", "ubinize", "sqfstar", "unsquashfs")
}

// rootTar makes a tar with all that a root holds, and returns its directory.
func rootTar(t testing.TB) string {
	tr := tree.New()
	put := func(p string, n *tree.Node) {
		n.ModTime = then
		must(t, tr.Put(p, n))
	}
	put(".", &tree.Node{Mode: fs.ModeDir | 0o750})
	put("bin/su", tree.File([]byte("su"), 0o755|fs.ModeSetuid, then))
	put("bin/again", tr.Lookup("bin/su"))
	put("link", &tree.Node{Mode: fs.ModeSymlink | 0o777, Target: "bin/su"})
	put("etc/shadow", tree.File([]byte("secret"), 0, then)) // for nobody to read
	put("home/user", &tree.Node{Mode: fs.ModeDir | 0o700, UID: 1000, GID: 1001})
	put("dev/null", &tree.Node{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3})
	put("dev/pipe", &tree.Node{Mode: fs.ModeNamedPipe | 0o600, UID: 5})
	big := tree.File(bytes.Repeat([]byte("a line of text\n"), 20_000), 0o640, then)
	big.UID, big.GID = 7, 8
	put("home/user/text", big)
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "root.tar"))
	must(t, err)
	must(t, tr.WriteTar(f))
	must(t, f.Close())
	return dir
}

// buildAll builds every kind into a directory.
func buildAll(t testing.TB, dir, out string) {
	t.Helper()
	for name, recipe := range everyKind {
		r, err := ParseRecipe([]byte("[[partition]]\n" + recipe + "\ntree = [{tar = \"root.tar\"}]\n"))
		must(t, err)
		r.dir = dir
		if _, err := Build(context.Background(), r, filepath.Join(out, name+".img"), Options{Now: then, Scratch: out}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// Twice is the same, whoever builds, and whenever.
func TestEveryKindIsReproducible(t *testing.T) {
	needAll(t)
	if out := os.Getenv("BUILD_ALL_INTO"); out != "" { // this is nobody, see below
		buildAll(t, os.Getenv("BUILD_ALL_FROM"), out)
		return
	}
	dir, first := rootTar(t), t.TempDir()
	buildAll(t, dir, first)
	time.Sleep(1100 * time.Millisecond) // what is taken from the clock counts seconds
	second := t.TempDir()
	if os.Geteuid() != 0 {
		buildAll(t, dir, second)
	} else {
		asNobody(t, dir, second)
		// sqfstar gives the top directory to whoever calls it, whatever it is told.
		again := t.TempDir()
		buildAll(t, dir, again)
		for name := range everyKind {
			if strings.HasPrefix(name, "squashfs") {
				must(t, os.Rename(filepath.Join(again, name+".img"), filepath.Join(second, name+".img")))
			}
		}
	}
	for name := range everyKind {
		a, err := os.ReadFile(filepath.Join(first, name+".img"))
		must(t, err)
		b, err := os.ReadFile(filepath.Join(second, name+".img"))
		must(t, err)
		if !bytes.Equal(a, b) {
			at := 0
			for at < min(len(a), len(b)) && a[at] == b[at] {
				at++
			}
			t.Errorf("%s: the images, of %d and %d bytes, differ from byte %d on", name, len(a), len(b), at)
		}
	}
}

// asNobody runs this test once more as a user without rights, who builds into a directory.
func asNobody(t *testing.T, dir, out string) {
	t.Helper()
	sample.Need(t, "setpriv")
	place, err := os.MkdirTemp("", "multidd-nobody-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(place) })
	program, from, to := filepath.Join(place, "test"), filepath.Join(place, "from"), filepath.Join(place, "to")
	self, err := os.Executable()
	must(t, err)
	b, err := os.ReadFile(self)
	must(t, err)
	tar, err := os.ReadFile(filepath.Join(dir, "root.tar"))
	must(t, err)
	must(t, errors.Join(os.Chmod(place, 0o755), os.WriteFile(program, b, 0o755), os.Mkdir(from, 0o755), os.WriteFile(filepath.Join(from, "root.tar"), tar, 0o644), os.Mkdir(to, 0o755), os.Chown(to, 65534, 65534)))
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "-test.run=^TestEveryKindIsReproducible$")
	cmd.Dir = place
	cmd.Env = append(os.Environ(), "BUILD_ALL_INTO="+to, "BUILD_ALL_FROM="+from, "HOME="+to, "TMPDIR="+to)
	if o, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("as nobody: %v\n%s", err, o)
	}
	for name := range everyKind {
		must(t, os.Rename(filepath.Join(to, name+".img"), filepath.Join(out, name+".img")))
	}
}

func TestASquashfsHoldsItsTree(t *testing.T) {
	needAll(t)
	dir, out := rootTar(t), t.TempDir()
	buildAll(t, dir, out)
	o, err := exec.Command("unsquashfs", "-lln", "-UTC", filepath.Join(out, "squashfs.img")).CombinedOutput()
	must(t, err)
	for _, want := range []string{
		"drwxr-x--- 0/0 .* squashfs-root$", "-rwsr-xr-x 0/0 .* squashfs-root/bin/again", "---------- 0/0 .* squashfs-root/etc/shadow", "crw-rw-rw- 0/0 .* squashfs-root/dev/null",
		"drwx------ 1000/1001 .* squashfs-root/home/user", "-rw-r----- 7/8 .* squashfs-root/home/user/text",
	} {
		cmd := exec.Command("grep", "-q", "--", want)
		cmd.Stdin = bytes.NewReader(o)
		if cmd.Run() != nil {
			t.Errorf("there is no %s in\n%s", want, o)
		}
	}
}

// Types by the names that sfdisk has for them, names and flags.
func TestTheTableIsAsTheRecipeSays(t *testing.T) {
	recipe := "table = \"gpt\"\nsize = \"40MiB\"\ndisk-id = \"11111111-2222-3333-4444-555555555555\"\n" +
		"[[partition]]\nfs = \"fat\"\nsize = \"8MiB\"\ntype = \"uefi\"\nname = \"EFI, the 1st\"\nflags = [\"RequiredPartition\", \"GUID:60\"]\n" +
		"[[partition]]\nfs = \"ext4\"\nsize = \"8MiB\"\ntype = \"Linux root (ARM-64)\"\nboot = true\npart-uuid = \"aaaaaaaa-2222-3333-4444-555555555555\"\n" +
		"[[partition]]\nfs = \"swap\"\nsize = \"4MiB\"\nlabel = \"swap space\"\n"
	_, out, err := build(t, roots(t), recipe, "x.img")
	must(t, err)
	sfdisk(t, out)
	o, err := exec.Command("sfdisk", "-d", out).CombinedOutput()
	must(t, err)
	for _, want := range []string{
		"label-id: 11111111-2222-3333-4444-555555555555", "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,", `name="EFI, the 1st"`, `attrs="RequiredPartition GUID:60"`,
		"type=B921B045-1DF0-41C3-AF44-4C6F280D3FAE, uuid=AAAAAAAA-2222-3333-4444-555555555555", `attrs="LegacyBIOSBootable"`, "type=0657FD6D",
	} {
		if !strings.Contains(string(o), want) {
			t.Errorf("there is no %s in\n%s", want, o)
		}
	}
	_, out, err = build(t, roots(t), "table = \"mbr\"\n[[partition]]\nfs = \"fat\"\nsize = \"8MiB\"\ntype = \"uefi\"\n[[partition]]\nfs = \"ext4\"\ntype = \"linux\"\n", "x.img")
	must(t, err)
	if p := sfdisk(t, out).PartitionTable.Partitions; p[0].Type != "ef" || p[1].Type != "83" {
		t.Errorf("got %+v", p)
	}
}

func TestWordsThatAreNoneAreRefused(t *testing.T) {
	for recipe, want := range map[string]string{
		"table=\"mbr\"\ndisk-id=\"12\"\n[[partition]]\nfs=\"ext4\"\n":                                "8 hexadecimal digits",
		"table=\"gpt\"\ndisk-id=\"1a2b3c4d\"\n[[partition]]\nfs=\"ext4\"\n":                          "a UUID",
		"[[partition]]\nfs=\"ext4\"\nuuid=\"123\"\n":                                                 "is no UUID",
		"[[partition]]\nfs=\"fat\"\nuuid=\"11111111-2222-3333-4444-555555555555\"\n":                 "1234-ABCD",
		"[[partition]]\nfs=\"fat\"\nlabel=\"a long label\"\n":                                        "11 bytes",
		"[[partition]]\nfs=\"jffs2\"\nlabel=\"x\"\n":                                                 "no label",
		"[[partition]]\nfs=\"fat\"\next={reserved=1}\n":                                              "says nothing to",
		"[[partition]]\nfs=\"ext4\"\next={block=\"3K\"}\n":                                           "a power of two",
		"[[partition]]\nfs=\"ext4\"\next={block=\"rest\"}\n":                                         "a power of two",
		"table=\"gpt\"\n[[partition]]\nfs=\"ext4\"\ntype=\"83\\nstart=1\"\n":                         "sfdisk knows",
		"table=\"gpt\"\n[[partition]]\nfs=\"ext4\"\nname=\"a\\\"b\"\n":                               "no quotes",
		"table=\"gpt\"\n[[partition]]\nfs=\"ext4\"\nflags=[\"Shiny\"]\n":                             "RequiredPartition",
		"table=\"mbr\"\n[[partition]]\nfs=\"ext4\"\nflags=[\"RequiredPartition\"]\n":                 "only partitions of a gpt",
		"[[partition]]\nfs=\"squashfs\"\nsquashfs={compression=\"rar\"}\n":                           "gzip, lz4",
		"[[partition]]\nfs=\"fat\"\nfat={bits=13}\n":                                                 "12, 16 or 32",
		"table=\"mbr\"\n[[partition]]\nfs=\"ext4\"\nuuid=\"11111111-2222-3333-4444-55555555555\"\n":  "is no UUID",
		"table=\"gpt\"\n[[partition]]\nfs=\"ext4\"\nname=\"" + strings.Repeat("x", 37) + "\"\n":      "36 characters",
		"[[partition]]\nfs=\"jffs2\"\njffs2={page=\"128KiB\"}\n":                                     "from 1024 to 65536",
		"[[partition]]\nfs=\"ext4\"\next={features=\"has_journal, 64bit\"}\n":                        "commas",
		"table=\"mbr\"\n[[partition]]\nfs=\"raw\"\nfile=\"x\"\nuuid=\"11111111-2222-3333-4444-5\"\n": "has no uuid",
	} {
		if _, err := ParseRecipe([]byte(recipe)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %s", recipe, err, want)
		}
	}
}

// A root for a Nokia flasher is what 0xFFFF packs and unpacks again.
func TestARootIsPackedForAFlasher(t *testing.T) {
	sample.Need(t, "mkfs.jffs2", "0xFFFF")
	r, err := ParseRecipe([]byte("name = \"moz:ref %1\"\nrevision = \"v2\"\n[[partition]]\nfs = \"jffs2\"\ntree = [{tar = \"root.tar\"}]\n"))
	must(t, err)
	r.dir = rootTar(t)
	var packed [2][]byte
	for i := range packed {
		out := t.TempDir()
		if _, err := Build(context.Background(), r, filepath.Join(out, "root.jffs2"), Options{Now: then, Fiasco: filepath.Join(out, "a:b%.fiasco")}); err != nil {
			t.Fatal(err)
		}
		packed[i], err = os.ReadFile(filepath.Join(out, "a:b%.fiasco"))
		must(t, err)
		root, err := os.ReadFile(filepath.Join(out, "root.jffs2"))
		must(t, err)
		if !bytes.Contains(packed[i], root) || !bytes.Contains(packed[i], []byte("moz:ref__1_v2")) {
			t.Error("the packed root does not hold the root, or not its version")
		}
		if files, _ := os.ReadDir(out); len(files) != 3 {
			t.Errorf("there are %v", files)
		}
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("packing it again gives something else")
	}
}

func TestWithoutRootWhatWouldBeLostIsSaid(t *testing.T) {
	for want, put := range map[string]*tree.Node{
		"/x is a symbolic link of 3:4": {Mode: fs.ModeSymlink, UID: 3, GID: 4},
		"is a socket":                  {Mode: fs.ModeSocket},
	} {
		f := flashTree{plain: tree.New(), as: map[*tree.Node]*tree.Node{}}
		if err := f.add("x", put); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	f := flashTree{plain: tree.New(), as: map[*tree.Node]*tree.Node{}}
	if err := f.add("a name", tree.File(nil, 0o644, then)); err == nil || !strings.Contains(err.Error(), "spaces") {
		t.Errorf("got %v", err)
	}
	f.root = true
	must(t, f.add("a name", tree.File(nil, 0o644, then)))
}

func TestPartitionsAreChosen(t *testing.T) {
	_, out, err := build(t, roots(t), "table = \"gpt\"\n[[partition]]\nfs = \"fat\"\nlabel = \"BOOT\"\nsize=\"8MiB\"\n[[partition]]\nfs = \"jffs2\"\nname = \"flash\"\ntree = [{text = \"x\", to = \"f\"}]\n[[partition]]\nfs=\"swap\"\nsize=\"4MiB\"\n", "x.img")
	must(t, err)
	f, err := os.Open(out)
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	for which, want := range map[string]string{
		"1": "1 fat", "BOOT": "1 fat", "2": "2 jffs2", "flash": "2 jffs2",
		"": "there are several partitions with files: 1 (fat12 \"BOOT\"), 2 (jffs2); say which", "3": "files of a file system of kind swap are not read", "boot": "there is no partition boot; those with files are 1",
	} {
		files, err := ReadFiles(f, st.Size(), which)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(files.Part.Number, " ", files.Part.FS.Kind)
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%q: %s, want %s", which, got, want)
		}
	}
}
