package build

import (
	"bytes"
	"context"
	"encoding/json"
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
	"multidd/internal/volume/ext"
	"multidd/internal/volume/fat"
)

var then = time.Date(2009, 7, 4, 12, 30, 14, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// build writes a recipe and builds it.
func build(t testing.TB, dir, recipe, out string) (Report, string, error) {
	t.Helper()
	sample.Need(t, "mke2fs", "mkfs.vfat", "sfdisk")
	name := filepath.Join(dir, "recipe.toml")
	must(t, os.WriteFile(name, []byte(recipe), 0o644))
	r, err := ReadRecipe(name)
	if err != nil {
		return Report{}, "", err
	}
	to := filepath.Join(t.TempDir(), out)
	rep, err := Build(context.Background(), r, to, Options{Now: then})
	return rep, to, err
}

// roots makes a directory with trees for recipes.
func roots(t testing.TB) string {
	dir := t.TempDir()
	for p, content := range map[string]string{
		"root/etc/hostname": "master\n", "root/etc/fstab": "/dev/mmcblk0p1 / ext2 defaults 0 1\n", "root/bin/su": "#!su", "root/home/user/notes": "notes", "root/tmp/x": "leave out", "root/a.o": "leave out",
		"v2/etc/motd": "welcome to v2\n", "v2/etc/hostname": "v2\n", "boot/config.txt": "arm_64bit=1\n", "boot/kernel.img": strings.Repeat("kernel", 9000), "u-boot.bin": strings.Repeat("BOOT", 4000),
		"devices": "/dev d 755 0 0\n/dev/null c 666 0 0 1 3\n/bin/su f 4755 0 50\n/home/user r 700 1000 1000\n",
	} {
		p = filepath.Join(dir, p)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte(content), 0o644))
	}
	must(t, os.Symlink("su", filepath.Join(dir, "root/bin/link")))
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() != fs.ModeSymlink {
			err = os.Chtimes(p, then, then)
		}
		return err
	}))
	return dir
}

const n810 = `
name = "moz-ref"
revision = "v2"
size = "48MiB"
table = "mbr"
disk-id = "1a2b3c4d"

[[raw]]
file = "u-boot.bin"
offset = "8KiB"

[[partition]]
size = "8MiB"
fs = "fat"
label = "BOOT"
boot = true
[[partition.tree]]
dir = "boot"
[[partition.tree]]
text = "root=/dev/mmcblk0p2\n"
to = "cmdline.txt"

[[partition]]
size = "rest"
fs = "ext2"
label = "rootfs"
exclude = ["*.o", "/tmp/*"]
remove = ["home/user/notes"]
devices = "devices"
[[partition.tree]]
dir = "root"
owner = "0:0"
[[partition.tree]]
dir = "v2"
exclude = ["hostname"]
owner = "0:0"
[[partition.rule]]
path = "/etc/motd"
mode = "0600"
owner = "3:4"

[[partition]]
size = "4MiB"
fs = "swap"
`

// sfdisk returns what sfdisk says of an image.
func sfdisk(t testing.TB, name string) (table struct {
	PartitionTable struct {
		Label, ID  string
		Partitions []struct {
			Start, Size int64
			Type, UUID  string
			Name        string
			Bootable    bool
		}
	}
}) {
	t.Helper()
	out, err := exec.Command("sfdisk", "--json", name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, json.Unmarshal(out, &table))
	if out, err := exec.Command("sfdisk", "--verify", name).CombinedOutput(); err != nil {
		t.Errorf("sfdisk --verify: %v\n%s", err, out)
	}
	return table
}

func part(t testing.TB, image string, start, size int64) *os.File {
	t.Helper()
	b, err := os.ReadFile(image)
	must(t, err)
	name := filepath.Join(t.TempDir(), "part")
	must(t, os.WriteFile(name, b[start*512:(start+size)*512], 0o600))
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestACardIsBuiltAsItsRecipeSays(t *testing.T) {
	dir := roots(t)
	rep, out, err := build(t, dir, n810, "n810.img")
	must(t, err)
	table := sfdisk(t, out).PartitionTable
	if table.Label != "dos" || table.ID != "0x1a2b3c4d" || len(table.Partitions) != 3 {
		t.Fatalf("the table is %+v", table)
	}
	for i, want := range []struct {
		start, size int64
		typ         string
		boot        bool
	}{{8192, 16384, "c", true}, {24576, (48-12-4)<<11 - 0, "83", false}, {90112, 8192, "82", false}} {
		p := table.Partitions[i]
		if p.Start != want.start || p.Type != want.typ || p.Bootable != want.boot || i != 1 && p.Size != want.size {
			t.Errorf("partition %d is %+v, want %+v", i+1, p, want)
		}
	}
	image, err := os.ReadFile(out)
	must(t, err)
	if !bytes.HasPrefix(image[8192:], []byte("BOOTBOOT")) || len(image) != 48<<20 {
		t.Error("the boot loader is not in its place")
	}
	p := table.Partitions
	boot, err := fat.Read(part(t, out, p[0].Start, p[0].Size))
	must(t, err)
	if b, err := boot.ReadFile("cmdline.txt", 100); err != nil || string(b) != "root=/dev/mmcblk0p2\n" || boot.Lookup("kernel.img") == nil {
		t.Errorf("the boot partition has %q, %v", b, err)
	}
	rootFile := part(t, out, p[1].Start, p[1].Size)
	if o, err := exec.Command("e2fsck", "-fn", rootFile.Name()).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, o)
	}
	root, err := ext.Read(rootFile)
	must(t, err)
	for p, want := range map[string]string{
		"etc/hostname": "-rw-r--r-- 0:0", "etc/motd": "-rw------- 3:4", "bin/su": "urwxr-xr-x 0:50", "dev/null": "Dcrw-rw-rw- 0:0", "home/user": "drwx------ 1000:1000", "bin/link": "Lrwxrwxrwx 0:0", "etc/image-revision": "-rw-r--r-- 0:0",
		"home/user/notes": "", "a.o": "", "tmp/x": "",
	} {
		n, got := root.Lookup(p), ""
		if n != nil {
			got = fmt.Sprintf("%v %d:%d", n.Mode, n.UID, n.GID)
		}
		if got != want {
			t.Errorf("%s is %q, want %q", p, got, want)
		}
	}
	if b, err := root.ReadFile("etc/image-revision", 1000); err != nil || string(b) != "name: moz-ref\nrevision: v2\ndate: 2009-07-04T12:30:14Z\ninputs: sha256:"+rep.Digest+"\n" {
		t.Errorf("the revision is %q, %v", b, err)
	}
	if b, _ := root.ReadFile("etc/hostname", 100); string(b) != "master\n" {
		t.Errorf("the hostname is %q", b)
	}
	if rep.Used > 20<<20 || rep.Used < 1<<20 {
		t.Errorf("%d bytes are used", rep.Used)
	}
	if _, err := os.Stat(strings.TrimSuffix(out, ".img") + ".img.bmap"); err != nil {
		t.Error(err)
	}
}

func TestTheSameTreesGiveTheSameBytes(t *testing.T) {
	for name, recipe := range map[string]string{
		"mbr":   n810,
		"gpt":   strings.NewReplacer(`"mbr"`, `"gpt"`, `disk-id = "1a2b3c4d"`, "", `offset = "8KiB"`, `offset = "1MiB"`, `fs = "ext2"`, `fs = "ext4"`).Replace(n810),
		"jffs2": "[[partition]]\nfs=\"jffs2\"\ntree=[{dir=\"root\"}]\n",
	} {
		sample.Need(t, "mkfs.jffs2")
		dir := roots(t)
		var images [2][]byte
		for i := range images {
			_, out, err := build(t, dir, recipe, "x.img")
			must(t, err)
			images[i], err = os.ReadFile(out)
			must(t, err)
			time.Sleep(1100 * time.Millisecond) // what is taken from the clock counts seconds
		}
		if !bytes.Equal(images[0], images[1]) {
			at := 0
			for images[0][at] == images[1][at] {
				at++
			}
			t.Errorf("%s: the images differ from byte %d on", name, at)
		}
		must(t, os.WriteFile(filepath.Join(dir, "root/etc/hostname"), []byte("other\n"), 0o644))
		_, out, err := build(t, dir, recipe, "x.img")
		must(t, err)
		if b, _ := os.ReadFile(out); bytes.Equal(b, images[0]) {
			t.Errorf("%s: another tree gives the same image", name)
		}
	}
}

func TestManyPartitionsAreMade(t *testing.T) {
	for _, table := range []string{"mbr", "gpt"} {
		recipe := "table = \"" + table + "\"\nalign = \"1MiB\"\n"
		for i := range 6 {
			recipe += fmt.Sprintf("[[partition]]\nfs = \"ext4\"\nlabel = \"p%d\"\ntree = [{text = \"%d\", to = \"f\"}]\n", i, i)
		}
		rep, out, err := build(t, roots(t), recipe, "x.img")
		must(t, err)
		parts := sfdisk(t, out).PartitionTable.Partitions
		if want := map[string]int{"mbr": 7, "gpt": 6}[table]; len(parts) != want {
			t.Fatalf("%s: there are %d partitions, want %d", table, len(parts), want)
		}
		for i, p := range rep.Parts {
			tr, err := ext.Read(part(t, out, p.Off/512, p.Size/512))
			must(t, err)
			if b, err := tr.ReadFile("f", 10); string(b) != fmt.Sprint(i) {
				t.Errorf("%s: partition %d holds %q, %v", table, p.Number, b, err)
			}
		}
	}
}

func TestTreesComeFromTarsAndImages(t *testing.T) {
	sample.Need(t, "tar", "xz")
	dir := roots(t)
	if out, err := exec.Command("tar", "-C", filepath.Join(dir, "root"), "--owner=7", "--group=8", "-cJf", filepath.Join(dir, "root.tar.xz"), ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, base, err := build(t, dir, "table=\"gpt\"\n[[partition]]\nfs=\"ext4\"\ntree=[{tar=\"root.tar.xz\"}]\n", "base.img.zst")
	must(t, err)
	must(t, os.Rename(base, filepath.Join(dir, "base.img.zst")))
	_, out, err := build(t, dir, "[[partition]]\nfs=\"ext2\"\ntree=[{image=\"base.img.zst\", partition=1, to=\"old/\"}, {file=\"devices\", to=\"etc/table\"}]\n", "x.img")
	must(t, err)
	f, err := os.Open(out)
	must(t, err)
	defer f.Close()
	tr, err := ext.Read(f)
	must(t, err)
	n := tr.Lookup("old/etc/hostname")
	if n == nil || n.UID != 7 || n.GID != 8 || !n.ModTime.Equal(then) || tr.Lookup("etc/table") == nil {
		t.Errorf("got %+v", n)
	}
}

func TestWhatIsWrongWithARecipeIsSaid(t *testing.T) {
	dir := roots(t)
	for recipe, want := range map[string]string{
		"table=\"mbr\"\nsise=\"1M\"\n[[partition]]\nfs=\"ext4\"\n":         `line 2: there is no key "sise" here`,
		"table=\"mbr\"\n[[partition]]\nfs=\"ext4\"\nlabl=\"x\"\n":          `line 4: there is no key "partition.labl" here`,
		"table=\"mbr\"\nsize=\"12 parsecs\"\n[[partition]]\nfs=\"ext4\"\n": "line 2:",
		"table=\"mbr\"\n": "no [[partition]]",
		"table=\"mbr\"\n[[partition]]\nfs=\"ext5\"\n":                                                            "ext2, ext3, ext4",
		"table=\"mbr\"\n[[partition]]\nfs=\"swap\"\n":                                                            "needs a size",
		"table=\"apple\"\n[[partition]]\nfs=\"ext4\"\n":                                                          "mbr, gpt or none",
		"table=\"mbr\"\n[[partition]]\nfs=\"ext4\"\nsize=\"rest\"\n":                                             "no size",
		"table=\"mbr\"\nsize=\"20M\"\n[[partition]]\nfs=\"ext4\"\nsize=\"30M\"\n":                                "the partitions take",
		"[[partition]]\nfs=\"ext4\"\ntree=[{dir=\"nowhere\"}]\n":                                                 "nowhere",
		"[[partition]]\nfs=\"ext4\"\ntree=[{dir=\"root\", tar=\"x\"}]\n":                                         "one of dir, tar",
		"[[partition]]\nfs=\"ext4\"\nremove=[\"nothing\"]\ntree=[{dir=\"root\"}]\n":                              "there is no /nothing",
		"[[partition]]\nfs=\"ext4\"\nsize=\"1M\"\ntree=[{dir=\"root\"},{file=\"big\", to=\"big\"}]\n":            "full",
		"[[partition]]\nfs=\"fat\"\ntree=[{dir=\"root\"}]\n":                                                     "symbolic link",
		"[[partition]]\nfs=\"ext4\"\ntree=[{dir=\"root\"}]\nrule=[{path=\"/nope\", mode=\"644\"}]\n":             "nothing in the trees is called /nope",
		"[[partition]]\nfs=\"ext4\"\ntree=[{dir=\"root\"}]\ndevices=\"root/etc/fstab\"\n":                        "line 1:",
		"table=\"mbr\"\n[[raw]]\nfile=\"u-boot.bin\"\noffset=0\n[[partition]]\nfs=\"ext4\"\n":                    "over the partition table",
		"table=\"mbr\"\nalign=\"4K\"\n[[raw]]\nfile=\"u-boot.bin\"\noffset=\"1K\"\n[[partition]]\nfs=\"ext4\"\n": "over partition 1",
		"[[partition]]\nfs=\"ext4\"\next={features=\"nonsense\"}\n":                                              "mke2fs:",
	} {
		must(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 2<<20), 0o644))
		if _, out, err := build(t, dir, recipe, "x.img"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %s", recipe, err, want)
		} else if files, _ := filepath.Glob(filepath.Dir(out) + "/*"); out != "" && len(files) > 0 {
			t.Errorf("%q left %v", recipe, files)
		}
	}
}

func TestAMissingToolIsNamedWithItsPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := tool{now: then}.run(context.Background(), "0xFFFF", nil)
	if !errors.Is(err, ErrTool) || !strings.Contains(err.Error(), "install the package 0xffff") {
		t.Errorf("got %v", err)
	}
}

func TestARootOfManyFilesIsBuilt(t *testing.T) {
	tr := tree.New()
	for i := range 6000 {
		must(t, tr.Put(fmt.Sprintf("var/lib/list/file-%d", i), tree.File([]byte{byte(i)}, 0o644, then)))
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "root.tar"))
	must(t, err)
	defer f.Close()
	must(t, tr.WriteTar(f))
	_, out, err := build(t, dir, "[[partition]]\nfs=\"ext4\"\ntree=[{tar=\"root.tar\"}]\n", "x.img")
	must(t, err)
	o, err := exec.Command("debugfs", "-R", "stat /var/lib/list", out).CombinedOutput()
	if err != nil || !strings.Contains(string(o), "Flags: 0x81000") {
		t.Errorf("the large directory has no index: %v\n%s", err, o)
	}
}

func FuzzRecipe(f *testing.F) {
	f.Add([]byte(n810))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecipe(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
			return
		}
		sizes := make([]int64, len(r.Partitions))
		for i, p := range r.Partitions {
			if sizes[i] = int64(p.Size); p.Size == Fit {
				sizes[i] = 1 << 20
			}
		}
		places, size, err := r.layout(sizes)
		if err != nil {
			return
		}
		at := int64(0)
		for _, p := range places {
			if p.off < at || p.size < 0 || p.off+p.size > size {
				t.Errorf("%v in %d", places, size)
			}
			at = p.off + p.size
		}
	})
}
