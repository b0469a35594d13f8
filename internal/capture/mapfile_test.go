package capture

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/sample"
)

const sampleMap = `# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue /dev/sdb x.img x.map
# current_pos  current_status  current_pass
0x00120000     ?               1
#      pos        size  status
0x00000000  0x00117000  +
0x00117000  0x00000200  -
0x00117200  0x00001000  /
0x00118200  010000  *
0x00119200  1234432 ?
`

func TestMapFilesAreRead(t *testing.T) {
	m, err := ParseMapfile(strings.NewReader(sampleMap))
	if err != nil {
		t.Fatal(err)
	}
	want := []Segment{
		{block.Extent{Off: 0, Len: 0x117000}, Finished}, {block.Extent{Off: 0x117000, Len: 0x200}, Bad}, {block.Extent{Off: 0x117200, Len: 0x1000}, Unscraped},
		{block.Extent{Off: 0x118200, Len: 0o10000}, Untrimmed}, {block.Extent{Off: 0x119200, Len: 1234432}, Untried},
	}
	if !slices.Equal(m.Chart.segments, want) || m.Pos != 0x120000 || m.Status != '?' || len(m.Comments) != 4 {
		t.Errorf("got %+v, chart %v", m, m.Chart.segments)
	}
}

func TestBadMapFilesAreRefusedWithTheirLine(t *testing.T) {
	const head = "0x0 ? 1\n"
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "before its first block"},
		{"no blocks", "# x\n" + head, "before its first block"},
		{"no status line", "0x0 0x100 +\n", "line 1"},
		{"a gap", head + "0 16 +\n32 16 +\n", "line 3: the block begins at byte 32, and the one before it ends at 16"},
		{"an overlap", head + "0 16 +\n8 16 +\n", "line 3"},
		{"it does not begin at 0", head + "16 16 +\n", "line 2"},
		{"an empty block", head + "0 0 +\n", "line 2"},
		{"beyond everything", head + "0 0x7fffffffffffffff +\n0x7fffffffffffffff 1 +\n", "line 3"},
		{"too big a number", head + "0 0xffffffffffffffffff +\n", "line 2"},
		{"a negative number", head + "0 -5 +\n", "line 2"},
		{"a status that there is not", head + "0 16 x\n", "line 2"},
		{"a long status", head + "0 16 ++\n", "line 2"},
		{"too few words", head + "0 16\n", "line 2"},
		{"a long line", head + "# " + strings.Repeat("x", 5000) + "\n", "line 2"},
		{"too many lines", head + strings.Repeat("#\n", maxMapfileLines), "more than"},
		{"binary", "\x00\x01\x02", "line 1"},
	} {
		if _, err := ParseMapfile(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzMapfile(f *testing.F) {
	f.Add([]byte(sampleMap))
	f.Add([]byte("0 + 1\n0 010 +\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMapfile(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if _, err := m.WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		again, err := ParseMapfile(&out)
		if err != nil || !slices.Equal(again.Chart.segments, m.Chart.segments) || again.Pos != m.Pos || again.Status != m.Status {
			t.Errorf("written and read again: %v", err)
		}
		at := int64(0)
		for i, s := range m.Chart.segments {
			if s.Off != at || s.Len <= 0 || i > 0 && m.Chart.segments[i-1].Status == s.Status {
				t.Fatalf("segment %d: %v", i, s)
			}
			at = s.End()
		}
	})
}

// The chart is checked against a byte for each byte.
func FuzzChart(f *testing.F) {
	f.Add([]byte{3, 5, 0, 9, 20, 1, 0, 255, 2, 17, 3, 3})
	f.Fuzz(func(t *testing.T, ops []byte) {
		const size = 100
		c, want := NewChart(size), bytes.Repeat([]byte{byte(Untried)}, size)
		all := []Status{Untried, Untrimmed, Unscraped, Bad, Finished}
		for ; len(ops) >= 3; ops = ops[3:] {
			e := block.Extent{Off: int64(ops[0]) % size, Len: int64(ops[1])}.Intersect(block.Extent{Len: size})
			s := all[int(ops[2])%len(all)]
			c.Set(e, s)
			for i := e.Off; i < e.End(); i++ {
				want[i] = byte(s)
			}
		}
		got := make([]byte, 0, size)
		for i, s := range c.segments {
			if s.Off != int64(len(got)) || s.Len <= 0 || i > 0 && c.segments[i-1].Status == s.Status {
				t.Fatalf("segment %d of %v", i, c.segments)
			}
			got = append(got, bytes.Repeat([]byte{byte(s.Status)}, int(s.Len))...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		for _, e := range c.Of(block.Extent{Off: 10, Len: 50}, Bad, Untried) {
			for i := e.Off; i < e.End(); i++ {
				if i < 10 || i >= 60 || want[i] != byte(Bad) && want[i] != byte(Untried) {
					t.Errorf("byte %d is not asked for", i)
				}
			}
		}
	})
}

// GNU ddrescue itself reads our map files and we its.
func TestDdrescueUnderstandsOurMapFiles(t *testing.T) {
	sample.Need(t, "ddrescue", "ddrescuelog")
	dir := t.TempDir()
	ours, image := filepath.Join(dir, "ours.map"), filepath.Join(dir, "image")
	c := NewChart(3 << 20)
	c.Set(block.Extent{Len: 2 << 20}, Finished)
	c.Set(block.Extent{Off: 1 << 20, Len: 512}, Bad)
	c.Set(block.Extent{Off: 1<<20 + 512, Len: 4096}, Unscraped)
	c.Set(block.Extent{Off: 5 << 19, Len: 4096}, Untrimmed)
	if err := replace(ours, &Mapfile{Comments: []string{"made\nby a test"}, Status: '?', Chart: c}); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ddrescuelog", "-t", ours).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "512 B,  in      1 area(s)") {
		t.Errorf("ddrescuelog: %v\n%s", err, out)
	}
	// It goes on from ours: what we say is finished it leaves alone.
	card := filepath.Join(dir, "card")
	for name, data := range map[string][]byte{card: bytes.Repeat([]byte{7}, 3<<20), image: make([]byte, 3<<20)} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("ddrescue", "-q", "-r1", card, image, ours).CombinedOutput(); err != nil {
		t.Fatalf("ddrescue: %v\n%s", err, out)
	}
	got, err := os.ReadFile(image)
	if err != nil || got[0] != 0 || got[1<<20] != 7 || got[1<<20+4000] != 7 || got[5<<19] != 7 || got[3<<20-1] != 7 {
		t.Errorf("ddrescue did not go on from our map file: %v", err)
	}
	theirs, err := os.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	m, err := ParseMapfile(theirs)
	if err != nil || m.Status != '+' || total(m.Chart.Of(block.Extent{Len: 3 << 20}, Finished)) != 3<<20 {
		t.Errorf("what ddrescue made of it: %v, %+v", err, m)
	}
}
