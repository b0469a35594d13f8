package resize

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/sample"
	"multidd/internal/volume"
)

const mib = 1 << 20

// aDisk lets sfdisk make a disk of n MiB, with noise where boot code and signatures
// of other things would be, and returns its path.
func aDisk(t *testing.T, n int64, script string, args ...string) string {
	t.Helper()
	sample.Need(t, "sfdisk", "sgdisk")
	path := filepath.Join(t.TempDir(), "disk")
	data := make([]byte, mib)
	for i := range 440 {
		data[i] = byte(i*7 + 1)
	}
	copy(data[200*512:], "a boot loader lives in the gap")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, n*mib); err != nil {
		t.Fatal(err)
	}
	sfdisk(t, path, script, append(args, "--wipe=never")...)
	return path
}

func sfdisk(t *testing.T, path, script string, args ...string) {
	t.Helper()
	cmd := exec.Command("sfdisk", append(args, "-q", "--no-reread", "--no-tell-kernel", path)...)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
}

// describe returns what sfdisk says of a disk, without its name.
func describe(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("sfdisk", "--dump", path).CombinedOutput()
	if err != nil {
		t.Fatalf("sfdisk --dump: %v\n%s", err, out)
	}
	return strings.ReplaceAll(string(out), path, "disk")
}

// complaints returns what the judges say against a partition table; "": nothing.
func complaints(t *testing.T, path, table string) string {
	t.Helper()
	out, err := exec.Command("sfdisk", "--verify", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") || strings.Contains(string(out), "doesn't") {
		return fmt.Sprintf("sfdisk --verify: %v\n%s", err, out)
	}
	if table == "gpt" {
		out, err := exec.Command("sgdisk", "-v", path).CombinedOutput()
		// sfdisk makes it so that there is a gap, which sgdisk finds unusual.
		said := strings.Replace(string(out), "Warning: There is a gap between the main partition table", "", 1)
		if err != nil || !strings.Contains(said, "No problems found") || strings.Contains(said, "Warning") || strings.Contains(said, "Caution") {
			return fmt.Sprintf("sgdisk -v: %v\n%s", err, out)
		}
	}
	return ""
}

// refit makes the disk one of size bytes whose last partition ends there.
func refit(t *testing.T, path string, size, end int64) ([]block.Block, error) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := look(t, f)
	if end == 0 {
		end = d.Parts[len(d.Parts)-1].End()
	}
	pieces, err := Refit(f, d, size, end)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	for _, p := range pieces {
		if p.Off < at {
			t.Errorf("the piece at %d is out of order", p.Off)
		}
		at = p.Extent().End()
		if _, err := f.WriteAt(p.Data, p.Off); err != nil {
			t.Fatal(err)
		}
	}
	return pieces, nil
}

func look(t *testing.T, f *os.File) *volume.Disk {
	t.Helper()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d, err := volume.Look(f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	gptScript = `label: gpt
label-id: 12345678-1234-1234-1234-123456789ABC
1 : start=2048, size=20480, name="boot", uuid=11111111-1111-1111-1111-111111111111, attrs="LegacyBIOSBootable GUID:60"
3 : start=40960, size=40960, name="räume", uuid=33333333-3333-3333-3333-333333333333
`
	mbrScript = `label: dos
label-id: 0xdeadbeef
1 : start=2048, size=20480, type=c, bootable
3 : start=40960, size=40960, type=83
`
	logicalScript = `label: dos
label-id: 0xdeadbeef
1 : start=2048, size=20480, type=c
2 : start=24576, size=176128, type=5
5 : start=26624, size=20480, type=83
6 : start=49152, size=20480, type=83
7 : start=71680, size=61440, type=83
`
)

// sfdisk changes a table in its own way; what matters must come out the same, and
// nothing else may have been touched.
func TestTheLastPartitionEndsWhereItIsToldTo(t *testing.T) {
	for _, c := range []struct {
		name, table, script string
		number              int
		size, end           int64 // MiB
	}{
		{"gpt grows", "gpt", gptScript, 3, 200, 199},
		{"gpt shrinks", "gpt", gptScript, 3, 32, 30},
		{"gpt moves to a larger disk", "gpt", gptScript, 3, 150, 0},
		{"gpt moves to a smaller disk", "gpt", gptScript, 3, 41, 0},
		{"mbr grows", "mbr", mbrScript, 3, 200, 200},
		{"mbr grows beyond what cylinders can say", "mbr", mbrScript, 3, 20000, 20000},
		{"mbr shrinks", "mbr", mbrScript, 3, 30, 30},
		{"logical grows", "mbr", logicalScript, 7, 200, 200},
		{"logical shrinks", "mbr", logicalScript, 7, 50, 50},
		{"one logical grows", "mbr", "label: dos\n1 : start=2048, size=196608, type=f\n5 : start=4096, size=20480, type=83\n", 5, 200, 120},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := aDisk(t, 100, c.script)
			before := mustRead(t, path, int(min(40, c.size)*mib))
			was, boot := describe(t, path), bytes.Clone(before[:mbrEntries])
			pieces, err := refit(t, path, c.size*mib, c.end*mib)
			if err != nil {
				t.Fatal(err)
			}
			if s := complaints(t, path, c.table); s != "" {
				t.Error(s)
			}
			checkDump(t, was, describe(t, path), c.number, c.end*mib)
			after := mustRead(t, path, len(before))
			for _, p := range pieces {
				e := p.Extent()
				if e.End() <= int64(len(before)) {
					clear(before[e.Off:e.End()])
					clear(after[e.Off:e.End()])
				}
			}
			if !bytes.Equal(before, after) {
				t.Error("something else was changed")
			}
			if !bytes.Equal(boot, mustRead(t, path, mbrEntries)) {
				t.Error("the boot code or the signature was changed")
			}
		})
	}
}

func mustRead(t *testing.T, path string, n int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// checkDump compares two dumps of sfdisk: only the last partition, the extended one
// and the last usable sector may differ.
func checkDump(t *testing.T, was, now string, number int, end int64) {
	t.Helper()
	a, b := strings.Split(was, "\n"), strings.Split(now, "\n")
	if len(a) != len(b) {
		t.Fatalf("was\n%s\nis\n%s", was, now)
	}
	found := false
	for i := range a {
		switch last := strings.HasPrefix(a[i], fmt.Sprintf("disk%d ", number)); {
		case strings.HasPrefix(a[i], "last-lba:"), a[i] == b[i] && !last:
		case last:
			found = true
			if end > 0 {
				start, size := numbers(t, b[i])
				if (start+size)*512 != end {
					t.Errorf("the partition ends at %d, want %d: %s", (start+size)*512, end, b[i])
				}
			}
			if rest(a[i]) != rest(b[i]) {
				t.Errorf("%s\nbecame\n%s", a[i], b[i])
			}
		case strings.Contains(a[i], "type=5") || strings.Contains(a[i], "type=f"):
			if start, size := numbers(t, b[i]); (start+size)*512 != end {
				t.Errorf("the extended partition ends at %d, want %d", (start+size)*512, end)
			}
		default:
			t.Errorf("%s\nbecame\n%s", a[i], b[i])
		}
	}
	if !found {
		t.Errorf("no partition %d in\n%s", number, now)
	}
}

// numbers returns the start and the size on a line of a dump, in sectors.
func numbers(t *testing.T, line string) (start, size int64) {
	t.Helper()
	_, after, _ := strings.Cut(line, "start=")
	if _, err := fmt.Sscanf(strings.ReplaceAll(after, ",", " "), "%d size=%d", &start, &size); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return start, size
}

// rest returns a line of a dump without the size.
func rest(line string) string {
	before, after, _ := strings.Cut(line, "size=")
	_, after, _ = strings.Cut(after, ",")
	return before + after
}

// A GPT must be there twice, and the judges notice if it is not.
func TestABackupThatStaysBehindIsNoticed(t *testing.T) {
	path := aDisk(t, 100, gptScript)
	if err := os.Truncate(path, 200*mib); err != nil {
		t.Fatal(err)
	}
	if complaints(t, path, "gpt") == "" {
		t.Error("the judges let a disk pass whose backup is in its middle")
	}
}

// The old program's address of a sector goes along as sfdisk has it.
func TestCylindersAreAsSfdiskHasThem(t *testing.T) {
	for _, end := range []int64{30, 199, 8000, 9000} {
		grown := aDisk(t, 20, "label: dos\nlabel-id: 0x1\n1 : start=2048, size=20480, type=83\n")
		if _, err := refit(t, grown, 9001*mib, end*mib); err != nil {
			t.Fatal(err)
		}
		made := aDisk(t, 20, "label: dos\nlabel-id: 0x1\n1 : start=2048, size=20480, type=83\n")
		if err := os.Truncate(made, 9001*mib); err != nil {
			t.Fatal(err)
		}
		sfdisk(t, made, fmt.Sprintf("label: dos\nlabel-id: 0x1\n1 : start=2048, size=%d, type=83\n", end*2048-2048))
		if a, b := mustRead(t, grown, 512), mustRead(t, made, 512); !bytes.Equal(a[440:], b[440:]) {
			t.Errorf("end at %d MiB:\n% x\nsfdisk\n% x", end, a[446:462], b[446:462])
		}
	}
	// A table of some other geometry is left alone.
	path := aDisk(t, 20, "label: dos\n1 : start=2048, size=20480, type=83\n")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	odd := []byte{7, 8, 9}
	if _, err := f.WriteAt(odd, mbrEntries+entryEnd); err != nil {
		t.Fatal(err)
	}
	if _, err := refit(t, path, 40*mib, 40*mib); err != nil {
		t.Fatal(err)
	}
	if b := mustRead(t, path, 512); !slices.Equal(b[mbrEntries+entryEnd:][:3], odd) {
		t.Errorf("the address became % x", b[mbrEntries+entryEnd:][:3])
	}
}

func TestATableThatCannotBeChangedIsLeftAlone(t *testing.T) {
	damage := func(off int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := []byte{0}
			if _, err := f.ReadAt(b, off); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 0x40
			if _, err := f.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name, script string
		harm         func(*testing.T, string)
		size, end    int64 // MiB
		want         string
	}{
		{"a backup without room", gptScript, nil, 40, 40, "the backup of the GPT needs the last"},
		{"the end before the beginning", mbrScript, nil, 40, 10, "cannot end at byte"},
		{"the end behind the disk", mbrScript, nil, 40, 41, "cannot end at byte"},
		{"more than an MBR can say", mbrScript, nil, 3 << 20, 3 << 20, "it ends at 2 TiB"},
		{"a header that is damaged", gptScript, damage(512 + 60), 200, 190, "header of the GPT is damaged"},
		{"entries that are damaged", gptScript, damage(1024 + 60), 200, 190, "entries of the GPT are damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := aDisk(t, 100, c.script)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			d := look(t, f)
			if c.harm != nil {
				c.harm(t, path)
			}
			if _, err := Refit(f, d, c.size*mib, c.end*mib); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// A flipped disk has a byte that is not as it was.
type flipped struct {
	io.ReaderAt
	at   int64
	with byte
}

func (f flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if i := f.at - off; i >= 0 && i < int64(n) {
		p[i] ^= f.with
	}
	return n, err
}

func FuzzRefit(f *testing.F) {
	f.Add(uint64(0), uint16(446), byte(1), int64(60), int64(59))
	f.Add(uint64(1), uint16(600), byte(2), int64(60), int64(59))
	f.Add(uint64(2), uint16(1024), byte(3), int64(30), int64(25))
	f.Add(uint64(2), uint16(0), byte(0), int64(409600), int64(409600))
	disks := map[uint64][]byte{}
	f.Fuzz(func(t *testing.T, which uint64, at uint16, with byte, size, end int64) {
		which %= 3
		if disks[which] == nil {
			disks[which] = mustRead(t, aDisk(t, 100, []string{gptScript, mbrScript, logicalScript}[which]), 40*mib)
		}
		r := flipped{bytes.NewReader(disks[which]), int64(at), with}
		d, err := volume.Look(r, 40*mib)
		if err != nil {
			t.Fatal(err)
		}
		size, end = size%(1<<30)*512, end%(1<<30)*512
		pieces, err := Refit(r, d, size, end)
		if err != nil {
			return
		}
		for _, p := range pieces {
			if p.Off < 0 || p.Extent().End() > max(size, 40*mib) {
				t.Errorf("a piece at %v", p.Extent())
			}
		}
	})
}
