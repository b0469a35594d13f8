package resize

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/overlay"
	"multidd/internal/volume/volumetest"
)

// aCard is a used card: it is full of noise.
func aCard(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "card"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	noise := make([]byte, mib)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(noise) // it never fails
	for at := int64(0); at < size; at += mib {
		if _, err := f.WriteAt(noise[:min(mib, size-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// write writes a disk to a card as a run does: what is used, with the pieces laid
// over it, and the pieces where the disk has nothing.
func write(t *testing.T, card io.WriterAt, base io.ReaderAt, used []block.Extent, pieces []block.Block) {
	t.Helper()
	o, err := overlay.New(pieces)
	if err != nil {
		t.Fatal(err)
	}
	put := func(b block.Block) {
		if _, err := card.WriteAt(b.Data, b.Off); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	for _, e := range used {
		for at := e.Off; at < e.End(); at += mib {
			b := make([]byte, min(mib, e.End()-at))
			if err := readFull(base, b, at); err != nil {
				t.Fatal(err)
			}
			put(o.Apply(block.New(at, b, nil)))
		}
	}
	for _, e := range without(o.Extents(), used) {
		b := make([]byte, e.Len)
		o.Fill(b, e.Off)
		put(block.New(e.Off, b, nil))
	}
}

// grown grows a disk, writes it to a card of size bytes, and returns the card.
func grown(t *testing.T, im volumetest.Image, size int64) (volumetest.Image, *Growth) {
	t.Helper()
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := look(t, f)
	g, err := NewGrower(f, d, d.Map(), t.TempDir()).Grow(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	card := aCard(t, size)
	write(t, card, f, d.Map().Used, g.Pieces)
	return onCard(t, im, card), g
}

// onCard returns the disk as a card has it, with the parts where its own table says.
func onCard(t *testing.T, im volumetest.Image, card *os.File) volumetest.Image {
	t.Helper()
	d := look(t, card)
	out := im.At(card.Name())
	out.Size, out.Parts = d.Size, slices.Clone(im.Parts)
	if len(d.Warnings) > 0 {
		t.Errorf("the card: %q", d.Warnings)
	}
	if d.Table == "" {
		out.Parts[0].Len = d.Size
		return out
	}
	if len(d.Parts) != len(out.Parts) {
		t.Fatalf("the card has %d partitions, want %d", len(d.Parts), len(out.Parts))
	}
	for i, p := range d.Parts {
		out.Parts[i].Extent = p.Extent
	}
	return out
}

// fillUp writes to the file system, as large as it is now, and reads it back.
func fillUp(t *testing.T, im volumetest.Image, n int64) {
	t.Helper()
	p := im.Parts[len(im.Parts)-1]
	dir := t.TempDir()
	mount := exec.Command("mount", "-t", "ext4", "-o", fmt.Sprintf("loop,offset=%d,sizelimit=%d", p.Off, p.Len), im.Path, dir)
	if out, err := mount.CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	path := filepath.Join(dir, "large")
	want := bytes.Repeat([]byte("as large as it is "), int(n)/18)
	err := os.WriteFile(path, want, 0o600)
	got, err2 := os.ReadFile(path)
	err3 := os.Remove(path)
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
	if err := errors.Join(err, err2, err3); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a file of %d bytes: %v", n, err)
	}
}

// checkGrown grows the last partition and puts it to use.
func checkGrown(t *testing.T, im volumetest.Image, table string) {
	const size = 90*mib + 512*77
	card, g := grown(t, im, size)
	if words := card.Fsck(t); len(words) > 0 {
		t.Errorf("%q", words)
	}
	if diff := volumetest.Diff(t, im, card); len(diff) > 0 {
		t.Errorf("%d differ: %s", len(diff), diff[0])
	}
	if table != "" {
		if s := complaints(t, card.Path, table); s != "" {
			t.Error(s)
		}
	}
	was, last := im.Parts[len(im.Parts)-1], card.Parts[len(card.Parts)-1]
	if last.End() < size-2*mib || g.To < last.Len-9*mib || g.From != was.Len {
		t.Errorf("the last partition is %v of %d, its file system went from %d to %d", last.Extent, size, g.From, g.To)
	}
	fillUp(t, card, 45*mib)
	if words := card.Fsck(t); len(words) > 0 {
		t.Errorf("after it was filled: %q", words)
	}
	t.Logf("%d pieces, %d KiB", len(g.Pieces), g.Bytes()>>10)
}

// A piece that seems to change nothing, since the image has zeros there, is needed:
// the card has something else. Without it the judges find noise.
func TestWithoutTheZerosACardIsNotClean(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Table: "mbr", Parts: []volumetest.Part{kinds()["ext2 1k"]}})
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := look(t, f)
	g, err := NewGrower(f, d, d.Map(), "").Grow(t.Context(), 100*mib)
	if err != nil {
		t.Fatal(err)
	}
	for _, zeros := range []bool{true, false} {
		pieces := slices.DeleteFunc(slices.Clone(g.Pieces), func(p block.Block) bool {
			return !zeros && bytes.Equal(p.Data, make([]byte, len(p.Data)))
		})
		card := aCard(t, 100*mib)
		write(t, card, f, d.Map().Used, pieces)
		if words := onCard(t, im, card).Fsck(t); (len(words) == 0) != zeros {
			t.Errorf("with zeros %v: %d bytes of pieces, %.300q", zeros, g.Bytes(), words)
		}
	}
}

// A map may leave out what the file system has in use and is zero. What resize2fs
// works with is given to the card all the same.
func TestWhatAMapLeavesOutIsGiven(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Table: "mbr", Parts: []volumetest.Part{kinds()["ext2 1k"]}})
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := look(t, f)
	given := block.Map{Size: d.Size}
	var page [1024]byte
	for at := int64(0); at < d.Size; at += int64(len(page)) {
		if err := readFull(f, page[:], at); err != nil {
			t.Fatal(err)
		}
		if page != [1024]byte{} {
			given.Used = append(given.Used, block.Extent{Off: at, Len: int64(len(page))})
		}
	}
	for _, told := range []bool{true, false} {
		m := given
		if !told {
			m = d.Map()
		}
		g, err := NewGrower(f, d, m, "").Grow(t.Context(), 100*mib)
		if err != nil {
			t.Fatal(err)
		}
		card := aCard(t, 100*mib)
		write(t, card, f, given.Used, g.Pieces)
		if words := onCard(t, im, card).Fsck(t); (len(words) == 0) != told {
			t.Errorf("told of it %v: %.300q", told, words)
		}
	}
}

// A spy notes whether certain bytes are read.
type spy struct {
	io.ReaderAt
	watched []block.Extent
	read    int64
}

func (s *spy) ReadAt(p []byte, off int64) (int, error) {
	for _, e := range within(s.watched, block.Extent{Off: off, Len: int64(len(p))}) {
		s.read += e.Len
	}
	return s.ReaderAt.ReadAt(p, off)
}

// inTheWay is a file system in which files lie where descriptors of more groups
// would have to go.
func inTheWay() volumetest.Part {
	return volumetest.Part{Kind: "ext4", Size: 48 * mib, Args: []string{"-b", "1024", "-O", "^resize_inode", "-N", "2000"}}
}

// Only where the content of files has to be moved it is read. That is so where
// there is no room for more descriptors of groups.
func TestFilesAreReadOnlyIfTheyAreMoved(t *testing.T) {
	for name, moved := range map[string]bool{"ext3 1k": false, "ext4 4k": false, "ext4 bigalloc": false, "ext4 meta_bg": false, "in the way": true} {
		part, ok := kinds()[name]
		if !ok {
			part = inTheWay()
		}
		im := volumetest.Make(t, volumetest.Spec{Parts: []volumetest.Part{part}, Seed: 3})
		f, err := os.Open(im.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		data, err := filesOf(f, im.Size)
		if err != nil {
			t.Fatal(err)
		}
		r := &spy{ReaderAt: f, watched: data.extents}
		d := look(t, f)
		g := NewGrower(r, d, d.Map(), "")
		if _, err := g.Grow(t.Context(), 160*mib); err != nil {
			t.Fatal(err)
		}
		if (r.read > 0) != moved {
			t.Errorf("%s: %d bytes of files were read", name, r.read)
		}
		r.read, r.watched = 0, []block.Extent{{Len: im.Size}}
		if _, err := g.Grow(t.Context(), 160*mib); err != nil || r.read > 0 {
			t.Errorf("%s: once more for the same size read %d bytes: %v", name, r.read, err)
		}
	}
}

// Were files whose content moved not noticed, they would be full of zeros.
func TestUnnoticedMovesWouldLoseFiles(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Parts: []volumetest.Part{inTheWay()}, Seed: 3})
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := filesOf(f, im.Size)
	if err != nil {
		t.Fatal(err)
	}
	for _, blind := range []bool{false, true} {
		d := look(t, f)
		g := NewGrower(f, d, d.Map(), "")
		tg, err := g.target(160 * mib)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newScratch("", tg.part)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, err = tg.try(t.Context(), s, data)
		if !blind {
			if !errors.Is(err, errMoved) {
				t.Fatalf("got %v, want %v", err, errMoved)
			}
			continue
		}
		// The same, with the detector turned off.
		x, err := openExt(s, tg.end)
		if err != nil {
			t.Fatal(err)
		}
		pieces, err := tg.compare(s, x, without(tg.disk.Map().Used, data.extents), data.extents)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(pieces, func(a, b block.Block) int { return cmp.Compare(a.Off, b.Off) })
		card := aCard(t, 160*mib)
		write(t, card, f, tg.disk.Map().Used, pieces)
		if diff := volumetest.Diff(t, im, onCard(t, im, card)); len(diff) == 0 {
			t.Error("nothing was moved: the test above proves nothing")
		}
	}
}

// A journal that has to be replayed is replayed, with all that is on the disk.
func TestADirtyFileSystemIsRepairedOnTheWay(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Table: "mbr", Parts: []volumetest.Part{kinds()["ext4 1k"]}})
	f, err := os.OpenFile(im.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// As if it had been pulled out: not cleanly unmounted. (s_state, no checksums
	// to be kept in this kind: debugfs does both.)
	part := im.Parts[0]
	out, err := exec.Command("debugfs", "-w", "-R", "feature needs_recovery", fmt.Sprintf("%s?offset=%d", im.Path, part.Off)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if d := look(t, f); len(d.Dirty()) != 1 {
		t.Fatalf("it is not dirty: %+v", d.Parts[0].FS)
	}
	card, _ := grown(t, im, 200*mib)
	if words := card.Fsck(t); len(words) > 0 {
		t.Errorf("%q", words)
	}
	if diff := volumetest.Diff(t, im, card); len(diff) > 0 {
		t.Errorf("%d differ: %s", len(diff), diff[0])
	}
}

func TestWhatCannotBeGrownIsSaid(t *testing.T) {
	ext := volumetest.Part{Kind: "ext4", Size: 16 * mib, Empty: true}
	fat := volumetest.Part{Kind: "fat16", Size: 16 * mib, Empty: true}
	for _, c := range []struct {
		name string
		spec volumetest.Spec
		size int64 // MiB
		want string
	}{
		{"fat last", volumetest.Spec{Table: "mbr", Parts: []volumetest.Part{ext, fat}}, 100, "partition 2, of 16777216 bytes, is fat16: only ext2, ext3 and ext4 can be grown"},
		{"noise last", volumetest.Spec{Table: "gpt", Parts: []volumetest.Part{ext, {Kind: "noise", Size: mib}}}, 100, "partition 2, the last one, of 1048576 bytes, has no file system that is known"},
		{"noise alone", volumetest.Spec{Parts: []volumetest.Part{{Kind: "noise", Size: 2 * mib}}}, 100, "no partition table and no file system"},
		{"a smaller card", volumetest.Spec{Table: "gpt", Parts: []volumetest.Part{ext}}, 17, "the card has 17825792 bytes, and the image needs 17842688 for its partitions as they are"},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := volumetest.Make(t, c.spec)
			f, err := os.Open(im.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			d := look(t, f)
			_, err = NewGrower(f, d, d.Map(), "").Grow(t.Context(), c.size*mib)
			if _, ok := errors.AsType[*Refusal](err); !ok || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// On a card of another size that has no room to grow into, the backup of the table
// goes to the end; on one of the same size nothing is changed.
func TestACardWithoutMoreRoomGetsTheBackupWhereItBelongs(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Table: "gpt", Parts: []volumetest.Part{kinds()["ext4 1k"]}})
	if _, g := grown(t, im, im.Size); len(g.Pieces) != 0 || g.From != g.To {
		t.Errorf("of the same size: %d pieces, from %d to %d", len(g.Pieces), g.From, g.To)
	}
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := im.Size - 512*1024 // still behind the partition
	d := look(t, f)
	g, err := NewGrower(f, d, d.Map(), "").Grow(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	card := aCard(t, size)
	write(t, card, f, within(look(t, f).Map().Used, block.Extent{Len: size}), g.Pieces)
	if s := complaints(t, card.Name(), "gpt"); s != "" {
		t.Error(s)
	}
}

func TestWhatLiesBehindThePartitionIsToldOf(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Table: "mbr", Parts: []volumetest.Part{kinds()["ext4 1k"]}})
	f, err := os.OpenFile(im.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, words := range []string{"", "bootdelay=3"} {
		if _, err := f.WriteAt([]byte(words), im.Size-8192); err != nil {
			t.Fatal(err)
		}
		d := look(t, f)
		g, err := NewGrower(f, d, d.Map(), "").Grow(t.Context(), 100*mib)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("(bytes %d to %d)", im.Size-8192, im.Size-8192+10)
		if (words != "") != (len(g.Notes) == 1 && strings.Contains(g.Notes[0], want)) {
			t.Errorf("with %q: %q", words, g.Notes)
		}
	}
}

// Damage is told, with what e2fsck says of it, and nothing is grown.
func TestDamageIsSaid(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Table: "mbr", Parts: []volumetest.Part{kinds()["ext2 1k"]}})
	out, err := exec.Command("debugfs", "-w", "-R", "clri <2>", fmt.Sprintf("%s?offset=%d", im.Path, im.Parts[0].Off)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := look(t, f)
	_, err = NewGrower(f, d, d.Map(), "").Grow(t.Context(), 100*mib)
	if _, ok := errors.AsType[*Damage](err); !ok || !strings.Contains(err.Error(), "e2fsck finds damage in partition 1") || !strings.Contains(err.Error(), "Root inode") {
		t.Errorf("got %v", err)
	}
}

func TestAMissingProgramIsNamedWithItsPackage(t *testing.T) {
	_, err := find("resize2fs-of-another-world")
	if e, ok := errors.AsType[*Missing](err); !ok || e.Package != "e2fsprogs" || !strings.Contains(e.Error(), "resize2fs-of-another-world is needed, and not installed; on Debian it is in the package e2fsprogs") {
		t.Errorf("got %v", err)
	}
	if err := Available(); err != nil && os.Getenv("CI") != "" {
		t.Error(err)
	}
}
