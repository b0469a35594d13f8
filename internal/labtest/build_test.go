package labtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multidd/internal/cardlab"
	"multidd/internal/tree"
)

// builtTree is a small root with what file systems can hold; plain: what FAT can hold.
func builtTree(t *testing.T, plain bool) string {
	t.Helper()
	then := time.Date(2009, 7, 4, 12, 30, 14, 0, time.UTC)
	tr := tree.New()
	put := func(p string, n *tree.Node) {
		n.ModTime = then
		if err := tr.Put(p, n); err != nil {
			t.Fatal(err)
		}
	}
	put("etc/hostname", tree.File([]byte("master\n"), 0o755, then))
	put("Text with a long name.txt", tree.File([]byte(strings.Repeat("a line of text\n", 9000)), 0o755, then))
	put("empty", tree.File(nil, 0o755, then))
	if !plain {
		put("bin/su", tree.File([]byte("su"), 0o755|fs.ModeSetuid, then))
		put("bin/again", tr.Lookup("bin/su"))
		put("bin/link", &tree.Node{Mode: fs.ModeSymlink | 0o777, Target: "su"})
		put("dev/null", &tree.Node{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3})
		put("dev/pipe", &tree.Node{Mode: fs.ModeNamedPipe | 0o600})
		put("home/user", &tree.Node{Mode: fs.ModeDir | 0o700, UID: 1000, GID: 1000})
		put("home/user/notes", &tree.Node{Mode: 0o640, UID: 1000, GID: 1001, Size: 100_000})
	}
	dir := filepath.Join(t.TempDir(), "tree")
	if _, err := tr.WriteDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What multidd builds, Linux mounts, file by file as the tree it was built of.
func TestLinuxMountsWhatIsBuilt(t *testing.T) {
	need(t, false)
	if os.Geteuid() != 0 {
		t.Skip("a tree with devices and owners needs root")
	}
	full, plain := builtTree(t, false), builtTree(t, true)
	multidd, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	make := func(name, recipe, tree string) {
		t.Helper()
		file := filepath.Join(dir, name+".toml")
		text := fmt.Sprintf("revision-file = \"none\"\n[[partition]]\n%s\ntree = [{dir = %q}]\n", recipe, tree)
		cmd := exec.Command(multidd, "build", file, "-o", filepath.Join(dir, name+".img"))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	kinds := []struct{ name, recipe, mount string }{
		{"jffs2", `fs = "jffs2"`, "mount-mtdram IMAGE /mnt 128"},
		{"jffs2-summary", "fs = \"jffs2\"\njffs2 = {summary = true, pad-to = \"1MiB\", erase-block = \"64KiB\"}", "mount-jffs2 IMAGE /mnt 64"},
		{"jffs2-pad", "fs = \"jffs2\"\njffs2 = {pad-to = \"2MiB\"}", "mount-jffs2 IMAGE /mnt 128"},
		{"ubi", "fs = \"ubifs\"\nubi = {max-blocks = 200}", ubiMount},
		{"ext2", `fs = "ext2"`, "mount -o ro,loop IMAGE /mnt"}, {"ext3", `fs = "ext3"`, "mount -o ro,loop IMAGE /mnt"}, {"ext4", `fs = "ext4"`, "mount -o ro,loop IMAGE /mnt"},
		{"squashfs", `fs = "squashfs"`, "mount -o ro,loop IMAGE /mnt"},
		{"fat", `fs = "fat"`, "mount -t vfat -o ro,loop,fmask=022,dmask=022,tz=UTC,utf8 IMAGE /mnt"},
	}
	for _, k := range kinds {
		from := full
		if k.name == "fat" {
			from = plain
		}
		make(k.name, k.recipe, from)
	}
	r := boot(t, cardlab.Config{})
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			r, from := r.in(t), full
			if k.name == "fat" {
				from = plain
			}
			r.sh(strings.ReplaceAll(k.mount, "IMAGE", filepath.Join(dir, k.name+".img")))
			want, got := r.sh(fmt.Sprintf(listing, from)), r.sh(fmt.Sprintf(listing, "/mnt"))
			if want != got || strings.Count(want, "\n") < 5 {
				t.Errorf("the tree is\n%s\nand what is mounted\n%s", want, got)
			}
			r.sh(fmt.Sprintf("cd %s && find . -type f -exec cmp {} /mnt/{} \\;", from))
			r.sh("echo changed >/tmp/x; ! cmp -s /tmp/x /mnt/etc/hostname") // cmp does tell
			r.sh("umount /mnt")
		})
	}
}

// listing prints a line about every file: name, mode, owner, links, device, size, time.
// Directories have sizes, links and times of their own; so have devices in a UBIFS.
const listing = `cd %s && find . ! -name lost+found | sort | while read -r f; do
	if [ -d "$f" ]; then stat -c '%%n %%f %%u %%g' "$f"
	elif [ -f "$f" ] || [ -L "$f" ]; then stat -c '%%n %%f %%u %%g %%h %%s %%Y' "$f"; else stat -c '%%n %%f %%u %%g %%h %%t %%T' "$f"; fi; done`

// ubiMount attaches a UBI on a simulated NAND of 128 MiB with pages of 2 KiB.
const ubiMount = `modprobe nandsim first_id_byte=0x20 second_id_byte=0xa1 third_id_byte=0x00 fourth_id_byte=0x15
modprobe ubi; modprobe ubifs || { dmesg | tail -5; exit 1; }
n=$(sed -n 's/^mtd\([0-9]*\):.*NAND sim.*/\1/p' /proc/mtd | tail -n 1)
ubiformat /dev/mtd$n -y -q -s 2048 -f IMAGE
ubiattach -m $n -O 2048
mount -t ubifs -o ro ubi0:rootfs /mnt`
