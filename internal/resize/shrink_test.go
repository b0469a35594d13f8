package resize

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/volume/volumetest"
)

// shrunk shrinks a copy of a disk.
func shrunk(t *testing.T, im volumetest.Image, room int64) (volumetest.Image, *Shrinkage) {
	t.Helper()
	small := im.Copy(t)
	s, err := Shrink(t.Context(), small.Path, room)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(small.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != s.Size {
		t.Errorf("the file has %d bytes, and is said to have %d: %v", fi.Size(), s.Size, err)
	}
	return onCard(t, im, f), s
}

// checkShrunk shrinks the last partition.
func checkShrunk(t *testing.T, im volumetest.Image, table string) {
	small, s := shrunk(t, im, mib)
	if words := small.Fsck(t); len(words) > 0 {
		t.Errorf("%q", words)
	}
	if diff := differences(t, im, small); len(diff) > 0 {
		t.Errorf("%d differ: %s", len(diff), diff[0])
	}
	if table != "" {
		if words := complaints(t, small.Path, table); words != "" {
			t.Error(words)
		}
	}
	was, last := im.Parts[len(im.Parts)-1], small.Parts[len(small.Parts)-1]
	if s.Size > im.Size-10*mib || s.To > last.Len || s.From != was.Len || s.Before != im.Size {
		t.Errorf("%+v", s)
	}
	t.Logf("from %d to %d KiB", im.Size>>10, s.Size>>10)
}

// A small image on large cards is what this is for.
func TestWhatWasShrunkCanBeGrown(t *testing.T) {
	for _, name := range []string{"ext2 of 2009", "ext4 4k", "ext4 bigalloc"} {
		im := volumetest.Make(t, aSpec("gpt", kinds()[name], 8))
		small, _ := shrunk(t, im, 0)
		card, _ := grown(t, small, 70*mib)
		if words := card.Fsck(t); len(words) > 0 {
			t.Errorf("%s: %q", name, words)
		}
		if diff := differences(t, im, card); len(diff) > 0 {
			t.Errorf("%s: %d differ: %s", name, len(diff), diff[0])
		}
	}
}

// times are those at which folders were changed: resize2fs makes it the present for
// those whose files get other inodes.
var times = regexp.MustCompile(`(mode 4.* changed) [0-9.]+`)

// differences returns the files that are not the same on two disks.
func differences(t *testing.T, a, b volumetest.Image) []string {
	t.Helper()
	return slices.DeleteFunc(volumetest.Diff(t, a, b), func(s string) bool {
		lines := strings.Split(times.ReplaceAllString(s, "$1"), "\n")
		return len(lines) == 3 && lines[1] == lines[2]
	})
}

// The room that is asked for is there, and by default some.
func TestAShrunkFileSystemHasRoom(t *testing.T) {
	part := kinds()["ext4 4k"]
	part.Size = 200 * mib
	im := volumetest.Make(t, aSpec("mbr", part, 2))
	last := int64(0)
	for _, room := range []int64{0, 16 * mib, -1, 128 * mib, 1 << 62} {
		small, s := shrunk(t, im, room)
		want := room
		if room < 0 {
			want = DefaultRoom
		}
		f, err := os.Open(small.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		d := look(t, f)
		fs := d.Parts[len(d.Parts)-1].FS
		if free := fs.Size - fs.Used; want < im.Size && (free < want/10*9 || free > want+24*mib) {
			t.Errorf("room for %d: %d bytes are free of %d", want, free, fs.Size)
		}
		if s.Size <= last {
			t.Errorf("room for %d: %d bytes, no more than with less room", want, s.Size)
		}
		last = s.Size
	}
	if last != im.Size-2*mib { // what lies behind the partition goes anyway
		t.Errorf("with all the room there is, it has %d bytes instead of %d", last, im.Size)
	}
	if got := Room(10 << 30); got != 512<<20 {
		t.Errorf("10 GiB in use get %d bytes of room", got)
	}
}

// Whatever was deleted and whatever lies behind may not come back: it is neither
// read nor kept.
func TestNothingUnusedIsKept(t *testing.T) {
	im := volumetest.Make(t, aSpec("gpt", kinds()["ext4 1k"], 4))
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im.Scramble(t, look(t, f).Map(), 9)
	small, s := shrunk(t, im, mib)
	if diff := differences(t, im, small); len(diff) > 0 || len(small.Fsck(t)) > 0 {
		t.Errorf("%d differ", len(diff))
	}
	sf, err := os.Open(small.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer sf.Close()
	free := without([]block.Extent{{Len: s.Size}}, look(t, sf).Map().Used)
	tail := free[len(free)-1]
	b := make([]byte, min(tail.Len, 64<<10))
	if err := readFull(sf, b, tail.End()-int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
		t.Errorf("%v is free and has something in it", tail)
	}
}

func TestWhatCannotBeShrunkIsSaidAndLeftAlone(t *testing.T) {
	ext := volumetest.Part{Kind: "ext4", Size: 16 * mib, Empty: true}
	im := volumetest.Make(t, volumetest.Spec{Table: "mbr", Parts: []volumetest.Part{ext, {Kind: "noise", Size: 3 * mib}}})
	before := mustRead(t, im.Path, int(im.Size))
	_, err := Shrink(t.Context(), im.Path, -1)
	if _, ok := errors.AsType[*Refusal](err); !ok || !strings.Contains(err.Error(), "partition 2, the last one, of 3145728 bytes, has no file system that is known: only ext2, ext3 and ext4 can be shrunk") {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(before, mustRead(t, im.Path, int(im.Size))) {
		t.Error("it was changed")
	}
	if _, err := Shrink(t.Context(), "/dev/null", -1); err == nil || !strings.Contains(err.Error(), "is not a plain file") {
		t.Errorf("a device: %v", err)
	}
	if _, err := Shrink(t.Context(), filepath.Join(t.TempDir(), "none"), -1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// What does not get smaller stays as it is, to the byte.
func TestAnImageWithoutRoomStaysAsItIs(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Parts: []volumetest.Part{{Kind: "ext4", Size: 24 * mib}}})
	before := mustRead(t, im.Path, int(im.Size))
	s, err := Shrink(t.Context(), im.Path, -1)
	if err != nil || s.From != s.To || s.Size != s.Before {
		t.Errorf("%+v, %v", s, err)
	}
	if !slices.Equal(before, mustRead(t, im.Path, int(im.Size))) {
		t.Error("it was changed")
	}
}

// aSpec returns a disk whose last part is to be resized, with others before it.
func aSpec(table string, part volumetest.Part, seed uint64) volumetest.Spec {
	spec := volumetest.Spec{Table: table, Seed: seed, Slack: mib}
	switch table {
	case "logical":
		spec.Table, part.Logical = "mbr", true
		spec.Parts = []volumetest.Part{{Kind: "noise", Size: mib}, {Kind: "swap", Size: 2 * mib, Logical: true}, part}
	case "":
		spec.Parts, spec.Slack = []volumetest.Part{part}, 0
	default:
		spec.Parts = []volumetest.Part{{Kind: "noise", Size: mib}, part}
	}
	return spec
}
