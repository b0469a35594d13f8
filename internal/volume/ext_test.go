package volume

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/sample"
	"multidd/internal/volume/volumetest"
)

// An extCase is a way to make an ext file system.
type extCase struct {
	name string
	size int64 // MiB
	args string
	aged bool // is also put through the hands of the kernel
	// Bitmaps lie so far before what they are about that they have passed when their
	// descriptors come.
	behind bool
}

func extCases() []extCase {
	return []extCase{
		{name: "ext2 with 1 KiB blocks", size: 40, args: "-t ext2 -b 1024", aged: true},
		{name: "ext2 with 2 KiB blocks", size: 40, args: "-t ext2 -b 2048"},
		{name: "ext2 with 4 KiB blocks", size: 200, args: "-t ext2 -b 4096", aged: true},
		{name: "ext2 of the first revision", size: 20, args: "-t ext2 -r 0 -b 1024"},
		{name: "ext2 with all superblocks", size: 60, args: "-t ext2 -b 1024 -O ^sparse_super,^resize_inode"},
		{name: "ext3", size: 40, args: "-t ext3"},
		{name: "ext3 of 2009", size: 200, args: "-t ext3 -b 4096 -I 128 -O none,has_journal,resize_inode,dir_index,filetype,sparse_super,large_file", aged: true},
		{name: "ext4", size: 64, args: "-t ext4", aged: true},
		{name: "ext4 with 1 KiB blocks", size: 200, args: "-t ext4 -b 1024", aged: true},
		{name: "ext4 with 64 KiB blocks", size: 128, args: "-t ext4 -b 65536"},
		{name: "ext4 of 2009", size: 200, args: "-t ext4 -b 1024 -O ^metadata_csum,^64bit,uninit_bg", aged: true},
		{name: "no flex_bg", size: 100, args: "-t ext4 -b 1024 -O ^flex_bg", aged: true},
		{name: "no flex_bg, no checksums", size: 100, args: "-t ext4 -b 1024 -O ^flex_bg,^metadata_csum,^uninit_bg,^64bit"},
		{name: "no flex_bg, uninit_bg", size: 100, args: "-t ext4 -b 1024 -O ^flex_bg,^metadata_csum,uninit_bg"},
		{name: "checksums without 64bit", size: 100, args: "-t ext4 -b 1024 -O ^64bit"},
		{name: "large flex_bg", size: 150, args: "-t ext4 -b 1024 -G 64"},
		{name: "small flex_bg", size: 150, args: "-t ext4 -b 1024 -G 2"},
		{name: "meta_bg", size: 80, args: "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode", aged: true},
		{name: "meta_bg without flex_bg", size: 80, args: "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode,^flex_bg"},
		{name: "meta_bg without checksums", size: 80, args: "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode,^metadata_csum,^uninit_bg"},
		{name: "meta_bg with flex_bg over its groups", size: 120, args: "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode -G 64", behind: true},
		{name: "bigalloc", size: 128, args: "-t ext4 -O bigalloc"},
		{name: "bigalloc with clusters of 8 KiB", size: 100, args: "-t ext4 -b 1024 -C 8192 -O bigalloc", aged: true},
		{name: "bigalloc with few blocks in a group", size: 100, args: "-t ext4 -b 1024 -C 4096 -g 4096 -O bigalloc"},
		{name: "bigalloc and meta_bg", size: 100, args: "-t ext4 -b 1024 -C 2048 -g 2048 -O bigalloc,meta_bg,^resize_inode"},
		{name: "bigalloc without checksums", size: 128, args: "-t ext4 -O bigalloc,^metadata_csum,^uninit_bg -C 65536"},
		{name: "sparse_super2", size: 100, args: "-t ext4 -b 1024 -O sparse_super2,^resize_inode"},
		{name: "sparse_super2 with one copy", size: 100, args: "-t ext4 -b 1024 -O sparse_super2,^resize_inode -E num_backup_sb=1"},
		{name: "sparse_super2 without copies", size: 100, args: "-t ext4 -b 1024 -O sparse_super2,^resize_inode -E num_backup_sb=0"},
		{name: "inline_data", size: 64, args: "-t ext4 -O inline_data -I 256", aged: true},
		{name: "orphan_file", size: 64, args: "-t ext4 -O orphan_file", aged: true},
		{name: "quota and project", size: 64, args: "-t ext4 -O quota,project"},
		{name: "stable_inodes, fast_commit", size: 64, args: "-t ext4 -O stable_inodes,fast_commit"},
		{name: "casefold, encrypt, verity", size: 64, args: "-t ext4 -O casefold,encrypt,verity"},
		{name: "ea_inode, large_dir", size: 64, args: "-t ext4 -O ea_inode,large_dir"},
		{name: "mmp", size: 64, args: "-t ext4 -O mmp"},
		{name: "packed metadata", size: 200, args: "-t ext4 -b 1024 -E packed_meta_blocks=1"},
		{name: "a stride", size: 150, args: "-t ext4 -b 1024 -O ^flex_bg -E stride=4,stripe_width=16"},
		{name: "room to grow", size: 64, args: "-t ext4 -b 1024 -E resize=4000000"},
		{name: "no journal", size: 64, args: "-t ext4 -O ^has_journal", aged: true},
		{name: "tables not yet zeroed", size: 100, args: "-t ext4 -b 1024 -E lazy_itable_init=1,lazy_journal_init=1", aged: true},
		{name: "few blocks in a group", size: 40, args: "-t ext4 -b 1024 -g 256"},
		{name: "hardly larger than a group", size: 0, args: "-t ext4 -b 1024 9000"},
	}
}

// makeExt makes the file system with a tree in it, of which a part is removed again.
func makeExt(t testing.TB, c extCase, tree string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs")
	args := []string{"-q", "-F", "-d", tree}
	if c.size > 0 {
		args = append(args, strings.Fields(c.args)...)
		args = append(args, path, fmt.Sprintf("%dM", c.size))
	} else {
		words := strings.Fields(c.args)
		args = append(args, words[:len(words)-1]...)
		args = append(args, path, words[len(words)-1])
	}
	command(t, "mke2fs", args...)
	return path
}

// thin removes every third file of the tree and writes some anew.
func thin(t *testing.T, path string) {
	t.Helper()
	var script strings.Builder
	for i := 0; i < trees; i += 3 {
		fmt.Fprintf(&script, "rm /d%d/f%d\n", i%7, i)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("more"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&script, "write %s /anew\n", big)
	list := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(list, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "debugfs", "-w", "-f", list, path)
}

const trees = 150 // files of a tree

// tree returns a folder with 5 MiB or so in files.
func tree(t testing.TB) string {
	t.Helper()
	rng, noise := rand.New(rand.NewPCG(1, 2)), rand.NewChaCha8([32]byte{1})
	dir := t.TempDir()
	for i := range trees {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, rng.IntN(70_000))
		_, _ = noise.Read(b)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/sbin:/usr/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// dumped returns what dumpe2fs says is used of the file system in a file.
func dumped(t *testing.T, path string) block.Map {
	t.Helper()
	out := command(t, "dumpe2fs", path)
	number := func(field string) int64 {
		m := regexp.MustCompile(`(?m)^` + field + `:\s+(\d+)$`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("dumpe2fs says nothing of %s:\n%s", field, out)
		}
		n, _ := strconv.ParseInt(m[1], 10, 64)
		return n
	}
	size := number("Block size")
	unit := size // of a free range it gives the first block of the last cluster
	if strings.Contains(out, "\nCluster size:") {
		unit = number("Cluster size")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	m := told{}
	for _, line := range regexp.MustCompile(`(?m)^  Free blocks: (.*)$`).FindAllStringSubmatch(out, -1) {
		for _, word := range strings.Split(line[1], ", ") {
			var a, b int64
			switch n, _ := fmt.Sscanf(word, "%d-%d", &a, &b); n {
			case 0:
				continue
			case 1:
				b = a
			}
			m.useTo(a * size)
			m.freeTo(b*size + unit)
		}
	}
	m.useTo(info.Size())
	return block.Map{Size: info.Size(), Used: m.used}
}

// A medium is a disk that can be read anywhere.
type medium interface {
	io.ReaderAt
	Size() int64
}

// open opens a file for the time of a test.
func open(t testing.TB, path string) medium {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(f, 0, info.Size())
}

func look(t testing.TB, r medium) *Disk {
	t.Helper()
	d, err := Look(r, r.Size())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Map().Check(); err != nil {
		t.Fatal(err)
	}
	return d
}

// agree compares what is known about an ext file system with dumpe2fs and blkid.
func agree(t *testing.T, path string) {
	t.Helper()
	d := look(t, open(t, path))
	if d.FS == nil || d.FS.State != Clean {
		t.Fatalf("%+v %+v", d, d.FS)
	}
	want := dumped(t, path)
	if got := d.Map(); !slices.Equal(got.Used, want.Used) {
		t.Errorf("used: %d bytes, dumpe2fs: %d; first difference: %s", got.Bytes(), want.Bytes(), difference(got, want))
	}
	for field, got := range map[string]string{"TYPE": d.FS.Kind, "UUID": d.FS.UUID, "LABEL": d.FS.Label} {
		if want := blkidValue(path, field); got != want {
			t.Errorf("%s is %q, blkid says %q", field, got, want)
		}
	}
	if got := want.Bytes() - (d.Size - d.FS.Size); d.FS.Used != got {
		t.Errorf("%d bytes used, dumpe2fs says %d", d.FS.Used, got)
	}
}

// passes compares what a Watcher says with what was found by looking.
func passes(t *testing.T, path string, c extCase) {
	t.Helper()
	m := open(t, path)
	if extra := streamed(t, m, look(t, m)); extra > 100_000 && !c.behind {
		t.Errorf("as it passes: %d bytes too many", extra)
	}
}

func blkidValue(path, field string) string {
	out, _ := exec.Command("blkid", "-p", "-o", "value", "-s", field, path).Output()
	return strings.TrimSpace(string(out))
}

// difference names the first extent that is in one map only.
func difference(a, b block.Map) string {
	for i := range min(len(a.Used), len(b.Used)) {
		if a.Used[i] != b.Used[i] {
			return fmt.Sprint(a.Used[i], " and ", b.Used[i])
		}
	}
	return fmt.Sprint(len(a.Used), " and ", len(b.Used), " extents")
}

func TestExtAgreesWithDumpe2fs(t *testing.T) {
	sample.Need(t, "mke2fs", "debugfs", "dumpe2fs", "blkid")
	dir := tree(t)
	for _, c := range extCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := makeExt(t, c, dir)
			agree(t, path)
			if strings.Contains(c.args, "mmp") {
				passes(t, path, c)
				return // debugfs would wait for ten seconds whether another uses it
			}
			thin(t, path)
			agree(t, path)
			passes(t, path, c)
		})
	}
}

func TestExtAgreesWithDumpe2fsWhenTheKernelAgedIt(t *testing.T) {
	for _, c := range extCases() {
		if !c.aged {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			args := strings.Fields(c.args)
			im := volumetest.Make(t, volumetest.Spec{Seed: 7, Parts: []volumetest.Part{{
				Kind: args[1], Size: c.size << 20, Args: args[2:],
			}}})
			agree(t, im.Path)
			passes(t, im.Path, c)
		})
	}
}
