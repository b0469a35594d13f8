package volume

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/sample"
)

// partitioned returns a file of size bytes that a program has partitioned as it was told on
// its standard input.
func partitioned(t testing.TB, size int64, script, name string, args ...string) string {
	t.Helper()
	sample.Need(t, name)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, append(args, path)...)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return path
}

// place lays an ext4 of n MiB with 1 KiB blocks, in which most is free, at off of a file.
func place(t testing.TB, path string, off, n int64) {
	t.Helper()
	sample.Need(t, "mke2fs")
	command(t, "mke2fs", "-q", "-F", "-b", "1024", "-E", fmt.Sprintf("offset=%d", off), path, fmt.Sprintf("%dM", n))
}

// read returns what is in a file.
func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// with returns a copy of b with other bytes at off.
func with(b []byte, off int64, other ...byte) []byte {
	b = slices.Clone(b)
	copy(b[off:], other)
	return b
}

// sfdisk returns what sfdisk finds on a disk, as far as Look finds the same.
func sfdisk(t *testing.T, path string) *Disk {
	t.Helper()
	var out struct {
		PartitionTable struct {
			Label, ID  string
			SectorSize int64
			Partitions []struct {
				Node, Type, UUID, Name, Attrs string

				Start, Size int64
				Bootable    bool
			}
		}
	}
	b, err := exec.Command("sfdisk", "--json", path).Output()
	if err != nil {
		t.Fatalf("sfdisk: %v", err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	table := out.PartitionTable
	d := &Disk{Table: table.Label, ID: table.ID}
	if table.Label == "dos" {
		d.Table, d.ID = "mbr", strings.TrimPrefix(table.ID, "0x")
	}
	for _, p := range table.Partitions {
		if p.Type == "5" || p.Type == "f" || p.Type == "85" {
			continue
		}
		n := 0
		if _, err := fmt.Sscanf(strings.TrimPrefix(p.Node, path), "%d", &n); err != nil {
			t.Fatal(p.Node)
		}
		q := Part{
			Number: n, Type: p.Type, UUID: p.UUID, Name: p.Name, Boot: p.Bootable || strings.Contains(p.Attrs, "LegacyBIOSBootable"),
			Extent: block.Extent{Off: p.Start * table.SectorSize, Len: p.Size * table.SectorSize},
		}
		if d.Table == "mbr" {
			q.Type, q.UUID, q.Logical = fmt.Sprintf("%02s", p.Type), fmt.Sprintf("%s-%02x", d.ID, n), n > 4
		}
		d.Parts = append(d.Parts, q)
	}
	slices.SortFunc(d.Parts, byOffset)
	return d
}

func TestTablesAgreeWithSfdisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, script string }{
		{"mbr", "label: dos\nlabel-id: 0x1234abcd\n2048,20480,c,*\n22528,,83\n"},
		{"mbr out of order", "label: dos\n3 : start=2048, size=2048, type=82\n1 : start=8192, size=2048, type=83\n"},
		{"mbr with logical partitions", "label: dos\n2048,2048,83\n4096,,5\n,2048,83\n,4096,82\n,2048,c\n"},
		{"mbr with a primary behind the extended", "label: dos\n4096,40960,f\n63488,,83\n2048,2048,c\n5 : start=6144, size=2048\n6 : start=10240, size=2048\n"},
		{"gpt", "label: gpt\nstart=2048, size=4096, type=U, name=\"EFI \\xc3\\xa4\"\nsize=20480, attrs=LegacyBIOSBootable\n,,L\n"},
		{"gpt with gaps", "label: gpt\n7 : start=4096, size=2048\n2 : start=40960, size=2048, name=\"a name that takes all 36 characters..\"\n"},
		{"gpt for many", "label: gpt\ntable-length: 256\nstart=2048, size=2048\n200 : size=2048\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := partitioned(t, 64*mib, c.script, "sfdisk", "-q")
			b := read(t, path)
			got, want := look(t, bytes.NewReader(b)), sfdisk(t, path)
			if len(got.Warnings) > 0 {
				t.Errorf("warnings: %q", got.Warnings)
			}
			if got.Table != want.Table || got.ID != want.ID || !slices.Equal(got.Parts, want.Parts) {
				t.Errorf("got  %+v\nwant %+v", got.Parts, want.Parts)
				for i, p := range got.Parts {
					if i < len(want.Parts) && p != want.Parts[i] {
						t.Errorf("got  %q\nwant %q", fmt.Sprintf("%#v", p), fmt.Sprintf("%#v", want.Parts[i]))
					}
				}
			}
			streamed(t, bytes.NewReader(b), got)
			_, w := watch(t, bytes.NewReader(b), func() int { return 4096 })
			if d := w.Disk(); !slices.Equal(d.Parts, got.Parts) || d.ID != got.ID || d.Size != got.Size {
				t.Errorf("as it passed: %+v", d)
			}
		})
	}
}

func TestHybridAndProtectiveMBRsLeadToTheGPT(t *testing.T) {
	t.Parallel()
	path := partitioned(t, 64*mib, "", "sgdisk", "-n", "1:2048:+4M", "-n", "2::+8M", "-t", "2:0700", "-h", "2")
	got, want := look(t, open(t, path)), sfdisk(t, path)
	if got.Table != "gpt" || len(got.Parts) != 2 || !slices.Equal(got.Parts, want.Parts) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestGPTInSectorsOf4096(t *testing.T) {
	t.Parallel()
	path := partitioned(t, 64*mib, "g\nn\n1\n\n+4M\nn\n2\n\n+8M\nw\n", "fdisk", "-b", "4096")
	b := read(t, path)
	d := look(t, bytes.NewReader(b))
	if d.Sector != 4096 || len(d.Parts) != 2 || d.Parts[0].Off != 1*mib || d.Parts[1].Len != 8*mib || len(d.Warnings) > 0 {
		t.Errorf("%+v", d)
	}
	if d := look(t, bytes.NewReader(with(b, 4096, 0))); len(d.Parts) != 2 || len(d.Warnings) != 1 {
		t.Errorf("from its backup: %+v", d)
	}
}

// gptDisk returns a disk of 64 MiB with a GPT, in it partition 1 from 1 MiB on with an ext4 of 16
// MiB.
func gptDisk(t testing.TB) []byte {
	path := partitioned(t, 64*mib, "label: gpt\nstart=2048, size=32768\n", "sfdisk", "-q")
	place(t, path, mib, 16)
	return read(t, path)
}

func TestADamagedGPTIsReadFromItsBackup(t *testing.T) {
	t.Parallel()
	disk := gptDisk(t)
	whole := look(t, bytes.NewReader(disk))
	for _, c := range []struct {
		name      string
		damage    func(b []byte) []byte
		warn      string
		same, all bool
	}{
		{"header", func(b []byte) []byte { return with(b, 512+56, 0xAA) }, "its backup is believed", true, false},
		{"entries", func(b []byte) []byte { return with(b, 1024+40, 0xAA) }, "its backup is believed", true, false},
		{"backup", func(b []byte) []byte { return with(b, 64*mib-512, 0xAA) }, "backup of the GPT is damaged", true, false},
		{"both", func(b []byte) []byte { return with(with(b, 512, 0xAA), 64*mib-512, 0xAA) }, "and so is its backup", false, true},
		{"cut", func(b []byte) []byte { return b[:40*mib] }, "backup of the GPT is missing", true, false},
		{"longer", func(b []byte) []byte { return append(slices.Clone(b), make([]byte, 16*mib)...) }, "not at the end of the disk", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.damage(disk)
			d := look(t, bytes.NewReader(b))
			if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], c.warn) {
				t.Errorf("warnings: %q", d.Warnings)
			}
			if c.same && (len(d.Parts) != 1 || d.Parts[0].Extent != whole.Parts[0].Extent) {
				t.Errorf("%+v", d)
			}
			if all := d.Map().Bytes() == d.Size; all != c.all {
				t.Errorf("%d of %d bytes are used", d.Map().Bytes(), d.Size)
			}
			streamed(t, bytes.NewReader(b), d)
		})
	}
}

func TestWhatLiesOutsideOfPartitions(t *testing.T) {
	t.Parallel()
	behind := block.Extent{Off: 17 * mib, Len: 46 * mib} // up to the last MiB
	for _, c := range []struct {
		name string
		disk []byte
		free []block.Extent // beside that in the file system
	}{
		{"gpt", gptDisk(t), []block.Extent{behind}},
		{"mbr", mbrDisk(t, "2048,32768,83\n"), []block.Extent{behind}},
		{"gaps are used", mbrDisk(t, "2048,32768,83\n40960,2048,83\n"), []block.Extent{{Off: 21 * mib, Len: 42 * mib}}},
		{"an extended partition is used", mbrDisk(t, "2048,32768,83\n40960,20480,5\n"), []block.Extent{{Off: 30 * mib, Len: 33 * mib}}},
	} {
		d := look(t, bytes.NewReader(c.disk))
		m := d.Map()
		for _, f := range c.free {
			for _, u := range m.Used {
				if u.Intersect(f).Len > 0 {
					t.Errorf("%s: %v are used", c.name, u.Intersect(f))
				}
			}
		}
		outside := told{}
		outside.useTo(mib)
		outside.freeTo(17 * mib) // the partition
		for _, f := range c.free {
			outside.useTo(f.Off)
			outside.freeTo(f.End())
		}
		outside.useTo(d.Size)
		if e, ok := missing(m, block.Map{Used: outside.used}); ok {
			t.Errorf("%s: %v are free", c.name, e)
		}
		if len(d.Warnings) > 0 {
			t.Errorf("%s: %q", c.name, d.Warnings)
		}
	}
}

// mbrDisk returns a disk of 64 MiB with the partitions of the script, and an ext4 of 16
// MiB at 1 MiB.
func mbrDisk(t testing.TB, script string) []byte {
	path := partitioned(t, 64*mib, "label: dos\n"+script, "sfdisk", "-q")
	place(t, path, mib, 16)
	return read(t, path)
}

// An MBR does not say how large its sectors are. That a file system is where it says one is
// shows it.
func TestBehindAnMBRThatLeadsToNothingAllIsUsed(t *testing.T) {
	t.Parallel()
	d := look(t, open(t, partitioned(t, 64*mib, "label: dos\n2048,32768,83\n", "sfdisk", "-q")))
	if d.Map().Bytes() != d.Size {
		t.Errorf("%v", d.Map())
	}
}

func entry(flag, kind byte, start, count uint32) []byte {
	b := append([]byte{flag, 0, 0, 0, kind, 0, 0, 0}, le.AppendUint32(nil, start)...)
	return le.AppendUint32(b, count)
}

// Each of these has a partition at 1 MiB in which most is free, and something that cannot be.
func TestStrangeTablesMakeAllUsed(t *testing.T) {
	t.Parallel()
	const script = "2048,32768,83\n40960,40960,5\n5 : start=43008, size=2048\n6 : start=47104, size=2048\n"
	ebr := func(n int64) int64 { return 20*mib + n*2*mib + mbrEntries } // the entries of the n-th
	disk := mbrDisk(t, script)
	if d := look(t, bytes.NewReader(disk)); d.Map().Bytes() == d.Size || len(d.Parts) != 3 || len(d.Warnings) > 0 {
		t.Fatalf("without anything strange: %+v", d)
	}
	for _, c := range []struct {
		name string
		off  int64
		b    []byte
		late bool // it shows when a part of the disk has passed
	}{
		{"two overlap", mbrEntries + 32, entry(0, 0x83, 30000, 20000), false},
		{"one beyond the end", mbrEntries + 32, entry(0, 0x83, 100000, 1<<31), true},
		{"one over the table", mbrEntries + 32, entry(0, 0x83, 0, 1), false},
		{"two extended", mbrEntries + 32, entry(0, 0x0F, 100000, 1000), false},
		{"an extended one beyond the end", mbrEntries + 16, entry(0, 5, 40960, 1<<31), true},
		{"a loop", ebr(1) + 16, entry(0, 5, 0, 1000), true},
		{"a chain that leaves", ebr(1) + 16, entry(0, 5, 1<<31, 1000), true},
		{"a chain that leads nowhere", ebr(1) + 16, entry(0, 5, 20000, 1000), true},
		{"a logical one beyond the extended", ebr(1), entry(0, 0x83, 2048, 100000), true},
		{"two logical ones overlap", ebr(0), entry(0, 0x83, 2048, 6000), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := with(disk, c.off, c.b...)
			d := look(t, bytes.NewReader(b))
			if d.Map().Bytes() != d.Size {
				t.Errorf("%d of %d bytes are used", d.Map().Bytes(), d.Size)
			}
			if d.Table != "" && len(d.Warnings) == 0 {
				t.Error("without a warning")
			}
			got, w := watch(t, bytes.NewReader(b), func() int { return mib })
			if !c.late {
				streamed(t, bytes.NewReader(b), d)
			} else if !strings.Contains(c.name, "end") && len(w.Disk().Warnings) == 0 {
				t.Error("as it passed: without a warning")
			}
			if last := (block.Extent{Off: 41 * mib, Len: 23 * mib}); got.Used[len(got.Used)-1].Intersect(last) != last {
				t.Errorf("as it passed: %v", got.Used)
			}
		})
	}
}

func TestAGPTThatContradictsItselfMakesAllUsed(t *testing.T) {
	t.Parallel()
	disk := gptDisk(t)
	for _, c := range []struct {
		name string
		off  int64 // in the entries
		b    []byte
	}{
		{"ends before it begins", 40, []byte{1, 0, 0, 0, 0, 0, 0, 0}},
		{"beyond the end", 40, []byte{0, 0, 0, 0, 0, 0, 0, 0x80}},
		{"over the table", 32, []byte{1, 0, 0, 0, 0, 0, 0, 0}},
		{"over the backup", 40, le.AppendUint64(nil, 64*2048-10)},
		{"overlap", 128, append(bytes.Repeat([]byte{7}, 32), le.AppendUint64(le.AppendUint64(nil, 4000), 5000)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := with(disk, 1024+c.off, c.b...)
			sealGPT(b)
			d := look(t, bytes.NewReader(b))
			if d.Map().Bytes() != d.Size || len(d.Warnings) == 0 {
				t.Errorf("%v %q", d.Map(), d.Warnings)
			}
		})
	}
}

// sealGPT makes the checksums of the primary GPT right.
func sealGPT(b []byte) {
	h := b[512:604]
	le.PutUint32(h[88:], crc32.ChecksumIEEE(b[1024:1024+128*128]))
	clear(h[16:20])
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
}

func TestABootSectorIsNoTable(t *testing.T) {
	t.Parallel()
	sample.Need(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "fs")
	command(t, "mke2fs", "-q", "-F", "-b", "1024", path, "16M")
	b := read(t, path)
	clean := look(t, bytes.NewReader(b)).Map()
	copy(b[510:], "\x55\xaa")
	for _, c := range []struct {
		name    string
		entries []byte
	}{
		{"empty", nil},
		{"text", []byte("Non-System disk. Press any key to restart and so on, and on, and on")[:64]},
		{"itself as a partition", entry(0x80, 0x0C, 0, 32768)},
		{"beyond its end", entry(0, 0x83, 77, 1<<30)},
	} {
		b := with(b, mbrEntries, c.entries...)
		d := look(t, bytes.NewReader(b))
		if d.Table != "" || d.FS == nil || !slices.Equal(d.Map().Used, clean.Used) || len(d.Warnings) > 0 {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
	// One that could be either keeps what either needs.
	copy(b[mbrEntries:], entry(0, 0x83, 2048, 2048))
	if d := look(t, bytes.NewReader(b)); d.Map().Bytes() != d.Size || len(d.Warnings) != 1 {
		t.Errorf("ambiguous: %+v", d)
	}
}

func TestMarksOfTwoKindsMakeAPartitionUsed(t *testing.T) {
	t.Parallel()
	disk := gptDisk(t)
	for _, mark := range []struct {
		off  int64
		mark string
	}{{0, "LUKS\xba\xbe"}, {512, "LABELONE"}, {4096, "\xfc\x4e\x2b\xa9"}} {
		d := look(t, bytes.NewReader(with(disk, mib+mark.off, []byte(mark.mark)...)))
		if used := (block.Extent{Off: mib, Len: 16 * mib}); d.Map().Used[0].Intersect(used) != used || len(d.Warnings) != 1 || d.Parts[0].FS != nil {
			t.Errorf("%q: %+v", mark.mark, d)
		}
	}
}
