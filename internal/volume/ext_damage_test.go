package volume

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/sample"
)

// extFile returns an ext4 of 64 MiB with eight groups and a tree in it.
func extFile(t testing.TB, args string) string {
	t.Helper()
	sample.Need(t, "mke2fs", "debugfs", "dumpe2fs")
	return makeExt(t, extCase{size: 64, args: "-t ext4 -b 1024 " + args}, tree(t))
}

// at returns the offset of the descriptor of a group, and of its bitmap.
func at(t testing.TB, path string, g int64) (desc, bitmap int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := openExt(f, 64*mib)
	if err != nil {
		t.Fatal(err)
	}
	e := fs.(*ext)
	return (e.first+1)*e.block + g*e.descSize, e.group(g).bitmap * e.block
}

func truncate(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedExtCountsAsUsedWhole(t *testing.T) {
	summed, plain := extFile(t, "-O metadata_csum"), extFile(t, "-O ^metadata_csum,^uninit_bg")
	for _, path := range []string{summed, plain} {
		if d := look(t, open(t, path)); d.FS.State != Clean || d.Map().Bytes() > 32*mib {
			t.Fatalf("undamaged: %+v", d.FS)
		}
	}
	desc0, bitmap0 := at(t, summed, 0)
	desc5, _ := at(t, summed, 5)
	_, bitmap1 := at(t, summed, 1)
	plainDesc5, plainBitmap5 := at(t, plain, 5)
	for _, c := range []struct {
		name, path string
		off        int64
		bit        byte
		why        string
		late       bool
	}{
		{"superblock", summed, 1024 + 0x10, 0, "superblock has a wrong checksum", false},
		{"label", summed, 1024 + 0x78, 0, "superblock has a wrong checksum", false},
		{"descriptor of group 0", summed, desc0, 3, "descriptor of its group 0 has a wrong checksum", false},
		{"descriptor of group 5", summed, desc5 + 0xC, 0, "descriptor of its group 5 has a wrong checksum", false},
		{"bitmap of group 0", summed, bitmap0 + 1000, 0, "bitmap of its group 0 has a wrong checksum", true},
		{"bitmap of group 1", summed, bitmap1 + 1000, 7, "bitmap of its group 1 has a wrong checksum", true},
		{"count without checksums", plain, plainDesc5 + 0xC, 0, "free blocks and its groups", false},
		{"superblock's count without checksums", plain, 1024 + 0xC, 0, "free blocks and its groups", false},
		{"bitmap without checksums", plain, plainBitmap5 + 1000, 0, "bitmap of its group 5 has", true},
		{"bitmap of metadata", plain, plainBitmap5, 0, "bitmap of its group 5 ", true},
		{"place of a bitmap", plain, plainDesc5 + 3, 6, "metadata of its group 5 is outside", false},
		{"two bitmaps in one place", plain, plainDesc5, 0, "is metadata twice", false},
		{"number of inodes", plain, 1024, 4, "inodes in 8 groups", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := read(t, c.path)
			b[c.off] ^= 1 << c.bit
			m := bytes.NewReader(b)
			d := look(t, m)
			if d.FS.State != Dirty || !strings.Contains(d.FS.Why, c.why) || d.Map().Bytes() != d.Size {
				t.Errorf("%v %q, %d bytes used", d.FS.State, d.FS.Why, d.Map().Bytes())
			}
			if len(d.Dirty()) != 1 {
				t.Errorf("Dirty returns %v", d.Dirty())
			}
			if !c.late {
				streamed(t, m, d)
				return
			}
			lateDamage(t, m, look(t, open(t, c.path)))
		})
	}
}

// lateDamage checks what a Watcher says of a disk whose damage shows when a part of it has
// passed: what is free without the damage may have been called free, and it has told.
func lateDamage(t *testing.T, m medium, sound *Disk) {
	t.Helper()
	got, w := watch(t, m, func() int { return mib })
	if e, ok := missing(got, sound.Map()); ok {
		t.Errorf("as it passed: %v are called free", e)
	}
	d := w.Disk()
	if len(d.Warnings) != 1 || d.FS.State != Dirty {
		t.Errorf("as it passed: %q, %+v", d.Warnings, d.FS)
	}
	if last := (block.Extent{Off: d.Size - 20*mib, Len: 20 * mib}); got.Used[len(got.Used)-1].Intersect(last) != last {
		t.Errorf("as it passed: behind the damage not all is used: %v", got.Used)
	}
}

func TestAnExtThatHasToBeRepairedCountsAsUsedWhole(t *testing.T) {
	summed := extFile(t, "-O metadata_csum")
	for _, c := range []struct {
		name, script string
		state        State
		why          string
	}{
		{"journal", "feature needs_recovery", Dirty, "its journal has to be replayed"},
		{"mounted", "ssv state 0", Dirty, "it was not cleanly unmounted"},
		{"errors", "ssv state 3", Dirty, "errors were found in it"},
		{"orphans", "ssv last_orphan 12", Dirty, "deleted files have still to be removed"},
		{"orphan file", "feature orphan_file orphan_present", Dirty, "deleted files have still to be removed"},
		{"incompatible feature", "ssv feature_incompat 0x400002c2", Unknown, "FEATURE_I30"},
		{"compression", "ssv feature_incompat 0x2c3", Unknown, "FEATURE_I0"},
		{"feature for writing", "ssv feature_ro_compat 0x8000046b", Unknown, "FEATURE_R31"},
		{"snapshots", "ssv feature_ro_compat 0x4eb", Unknown, "FEATURE_R7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "copy")
			if err := os.WriteFile(path, read(t, summed), 0o600); err != nil {
				t.Fatal(err)
			}
			command(t, "debugfs", "-w", "-R", c.script, path)
			d := look(t, open(t, path))
			if d.FS == nil || d.FS.State != c.state || !strings.Contains(d.FS.Why, c.why) || d.Map().Bytes() != d.Size {
				t.Errorf("%+v, %d bytes used", d.FS, d.Map().Bytes())
			}
			if got := len(d.Dirty()); got == 1 != (c.state == Dirty) {
				t.Errorf("Dirty returns %v", d.Dirty())
			}
			streamed(t, open(t, path), d)
		})
	}
}

// Features that are compatible by definition change nothing.
func TestAnExtWithANewCompatibleFeatureIsUnderstood(t *testing.T) {
	path := extFile(t, "")
	want := look(t, open(t, path))
	command(t, "debugfs", "-w", "-R", "ssv feature_compat 0x8000003c", path)
	if d := look(t, open(t, path)); d.FS.State != Clean || d.Map().Bytes() != want.Map().Bytes() {
		t.Errorf("%+v", d.FS)
	}
}

func TestAnExtLargerThanItsPlaceIsNotBelieved(t *testing.T) {
	path := extFile(t, "")
	truncate(t, path, 63*mib)
	if d := look(t, open(t, path)); d.FS.State != Unknown || d.Map().Bytes() != d.Size {
		t.Errorf("%+v", d.FS)
	}
}

func TestWhatLiesBehindAnExtIsUsed(t *testing.T) {
	path := extFile(t, "")
	truncate(t, path, 70*mib)
	d := look(t, open(t, path))
	last := d.Map().Used[len(d.Map().Used)-1]
	if behind := (block.Extent{Off: 64 * mib, Len: 6 * mib}); d.FS.State != Clean || last.Intersect(behind) != behind {
		t.Errorf("%v", d.Map())
	}
	streamed(t, open(t, path), d)
}

func TestAJournalOfAnotherFileSystemIsUsed(t *testing.T) {
	sample.Need(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "journal")
	command(t, "mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", path, "16M")
	d := look(t, open(t, path))
	if d.FS == nil || d.FS.Kind != "jbd" || d.FS.State != Clean || d.Map().Bytes() != d.Size {
		t.Errorf("%+v %v", d, d.FS)
	}
	if got, want := d.FS.UUID, blkidValue(path, "LOGUUID"); got != want {
		t.Errorf("UUID %s, blkid says %s", got, want)
	}
}

func TestNoiseIsNoExt(t *testing.T) {
	b := make([]byte, 2*mib)
	for i := range b {
		b[i] = 0x53 ^ 0xBC*byte(i&1) // the mark of ext wherever one looks
	}
	path := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if d := look(t, open(t, path)); d.FS != nil || d.Map().Bytes() != d.Size {
		t.Error(fmt.Sprint(d))
	}
}

// Whatever bit of the superblock, of a descriptor or of a bitmap changes, with checksums or
// without: what was used is used.
func TestNoBitMakesAnExtSilentlyWrong(t *testing.T) {
	sample.Need(t, "mke2fs")
	for i, args := range []string{
		"-t ext2",
		"-t ext2 -b 2048",
		"-t ext2 -O ^sparse_super,^resize_inode",
		"-t ext4 -O ^has_journal,^metadata_csum",
		"-t ext4 -O ^has_journal,^metadata_csum,^uninit_bg,^64bit",
		"-t ext4 -O ^has_journal",
		"-t ext4 -O ^has_journal,bigalloc -C 2048 -g 512",
		"-t ext4 -O ^has_journal,meta_bg,^resize_inode,^metadata_csum",
	} {
		path := filepath.Join(t.TempDir(), "fs")
		command(t, "mke2fs", append(strings.Fields("-q -F -N 64 -b 1024 -g 256 "+args), path, "2M")...)
		b := read(t, path)
		sound := look(t, bytes.NewReader(b))
		if sound.FS.State != Clean || sound.Map().Bytes() > 3*mib/2 {
			t.Fatalf("%s: %+v", args, sound.FS)
		}
		for bit := 1024 * 8; bit < 40_000*8; bit++ {
			// In bitmaps and tables a sample, and of the rest a quarter in each.
			if bit >= 8*(2048+512) && bit%127 != 0 || bit%4 != i%4 {
				continue
			}
			b[bit/8] ^= 1 << (bit % 8)
			d := look(t, bytes.NewReader(b))
			if e, ok := missing(d.Map(), sound.Map()); ok {
				t.Errorf("%s: with bit %d of byte %d, %v are free", args, bit%8, bit/8, e)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// A system that is shut down often leaves its root not unmounted but read-only.
func TestAnExtInUseIsDirtyUntilItIsReadOnly(t *testing.T) {
	sample.Need(t, "mke2fs", "mount", "umount")
	if os.Geteuid() != 0 {
		sample.Lack(t, "mounting needs root")
	}
	for _, args := range []string{"-t ext2", "-t ext3", "-t ext4", "-t ext4 -O ^has_journal"} {
		dir := t.TempDir()
		path, root := filepath.Join(dir, "fs"), filepath.Join(dir, "root")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		command(t, "mke2fs", append(strings.Fields("-q -F "+args), path, "32M")...)
		state := func() State {
			command(t, "sync", "-f", root)
			return look(t, bytes.NewReader(read(t, path))).FS.State
		}
		command(t, "mount", "-o", "loop", path, root)
		unmount := func() { command(t, "umount", root) }
		t.Cleanup(func() { unmount() })
		if err := os.WriteFile(filepath.Join(root, "file"), make([]byte, 3*mib), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := state(); got != Dirty {
			t.Errorf("%s: in use it is %v", args, got)
		}
		command(t, "mount", "-o", "remount,ro", root)
		if got := state(); got != Clean {
			t.Errorf("%s: read-only it is %v", args, got)
		}
		unmount()
		unmount = func() {}
	}
}
