package faulttest

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/codec"
	"multidd/internal/device/devicetest"
	"multidd/internal/duplicate"
	"multidd/internal/image"
	"multidd/internal/station"
)

// An image whose length is no multiple of anything is written to its last byte, and
// what follows in the same sector stays as it was.
func TestAnImageOfOddLengthIsWrittenExactly(t *testing.T) {
	t.Parallel()
	var cards []*card
	for _, sector := range []int{512, 4096} {
		m := devicetest.NewMedium(4 * mib)
		m.SectorSize = sector
		cards = append(cards, attach(t, m))
	}
	for _, n := range []int{1, 511, 2*mib + 1, 2*mib + 511, 2*mib + 513, 2*mib + 4095, 3 * mib} { // longer each time
		data := newMaster(t, 3*mib).data[:n]
		m := masterOf(t, data)
		res := job{image: m.path}.run(t, cards...)
		res.want(station.ExitGood, "good", "good")
		for _, c := range cards {
			c.wantHolds(m.data)
		}
		if t.Failed() {
			t.Fatalf("an image of %d bytes", n)
		}
	}
	// The control: the last byte is compared, too.
	m := masterOf(t, newMaster(t, 3*mib).data[:2*mib+513])
	cards[1].Inject(devicetest.Flip(2*mib + 512))
	res := job{image: m.path}.run(t, cards...)
	res.want(station.ExitSomeFailed, "good", "readback-mismatch")
	if off := res.Lanes[1].Offset; off != 2*mib+512 {
		t.Errorf("bad at %d, want %d", off, 2*mib+512)
	}
}

// A card with sectors of 4096 bytes is only given whole ones.
func TestACardWithLargeSectorsIsGivenWholeOnes(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib+1000)
	for _, sector := range []int{4096, 512} {
		medium := devicetest.NewMedium(4 * mib)
		medium.SectorSize = sector
		c := attach(t, medium)
		job{image: m.path}.run(t, c).want(station.ExitGood, "good")
		c.wantHolds(m.data)
		odd := slices.ContainsFunc(c.Log(), func(r devicetest.Record) bool { return (r.Off|int64(r.Len))%4096 != 0 })
		if odd != (sector == 512) { // the control: with small ones the end is one
			t.Errorf("sectors of %d bytes: was given parts of 4096 bytes: %v", sector, odd)
		}
	}
}

// bmapOf returns a map (bmaptool's, version 2.0, without checksums of the ranges) that
// says which extents of an image are used.
func bmapOf(size int64, extents []block.Extent) string {
	var s strings.Builder
	var blocks int64
	for _, e := range extents {
		blocks += (e.Len + 4095) / 4096
	}
	fmt.Fprintf(&s, "<?xml version=\"1.0\" ?>\n<bmap version=\"1.2\">\n<ImageSize> %d </ImageSize>\n<BlockSize> 4096 </BlockSize>\n", size)
	fmt.Fprintf(&s, "<BlocksCount> %d </BlocksCount>\n<MappedBlocksCount> %d </MappedBlocksCount>\n<BlockMap>\n", (size+4095)/4096, blocks)
	for _, e := range extents {
		fmt.Fprintf(&s, "<Range> %d-%d </Range>\n", e.Off/4096, (e.End()-1)/4096)
	}
	s.WriteString("</BlockMap>\n</bmap>\n")
	return s.String()
}

// outside returns the writes of which a part lies in none of the extents.
func (c *card) outside(extents []block.Extent) []devicetest.Record {
	return slices.DeleteFunc(c.Log(), func(r devicetest.Record) bool {
		w, inside := block.Extent{Off: r.Off, Len: int64(r.Len)}, int64(0)
		for _, e := range extents {
			inside += w.Intersect(e).Len
		}
		return r.Kind != devicetest.Write || inside == w.Len
	})
}

// Nothing is written past the end of an image, nor where its map says that nothing is
// used, not even to look whether the card holds what it says. An old partition table
// at the end of the card is the one exception.
func TestNothingIsWrittenButWhatIsUsed(t *testing.T) {
	t.Parallel()
	const size, cardSize = 12*mib + 4096 + 100, 16 * mib
	m := newMaster(t, size)
	extents := []block.Extent{{Off: 0, Len: 8192}, {Off: 300 << 10, Len: 4096}, {Off: 1536 << 10, Len: 2 * mib}, {Off: 9 * mib, Len: 12288}, {Off: 12 * mib, Len: 4096 + 100}}
	sectors := slices.Clone(extents)
	sectors[4].Len = 4096 + 512
	if err := os.WriteFile(m.path+".bmap", []byte(bmapOf(size, extents)), 0o644); err != nil {
		t.Fatal(err)
	}
	c, gpt := newCard(t, cardSize), newCard(t, cardSize)
	if _, err := gpt.Cells().WriteAt([]byte("EFI PART"), cardSize-512); err != nil {
		t.Fatal(err)
	}
	job{image: m.path}.run(t, c, gpt).want(station.ExitGood, "good", "good")
	want := c.before(0)
	for _, e := range extents {
		copy(want[e.Off:e.End()], m.data[e.Off:])
	}
	if at := differs(c.Bytes(), want); at >= 0 {
		t.Errorf("byte %d is not what it should be", at)
	}
	clear(want[cardSize-512:])
	if at := differs(gpt.Bytes(), want); at >= 0 {
		t.Errorf("on the card with an old table byte %d is not what it should be", at)
	}
	if out := c.outside(sectors); len(out) > 0 {
		t.Errorf("was written outside of what is used: %+v", out)
	}
	if n := len(probes(c)); n < 3 {
		t.Errorf("the card was probed in %d places only", n)
	}
	if out := gpt.outside(append(sectors, block.Extent{Off: cardSize - 512, Len: 512})); len(out) > 0 {
		t.Errorf("the card with an old table was written outside of what is used: %+v", out)
	}
	// The control: without the map everything is written, and nothing beyond.
	all := newCard(t, cardSize)
	job{image: m.path, open: image.Options{BMap: "none"}}.run(t, all).want(station.ExitGood, "good")
	if len(all.outside(sectors)) == 0 {
		t.Error("without the map nothing else was written")
	}
	if out := all.outside([]block.Extent{{Len: (size + 511) / 512 * 512}}); len(out) > 0 {
		t.Errorf("was written past the end: %+v", out)
	}
}

// probes returns the writes of one page that come before the image.
func probes(c *card) []devicetest.Record {
	log := c.Log()
	first := slices.IndexFunc(log, func(r devicetest.Record) bool { return r.Kind == devicetest.Write && r.Off >= mib && r.Len > 4096 })
	return slices.DeleteFunc(log[:first], func(r devicetest.Record) bool { return r.Kind != devicetest.Write || r.Off < mib })
}

// packAs packs data in a format.
func packAs(t *testing.T, f codec.Format, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	// The formats' own tools are quick where the race detector is not.
	if tool, ok := map[codec.Format]string{codec.Bzip2: "bzip2", codec.XZ: "xz"}[f]; ok {
		cmd := exec.Command(tool, "-c")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(data), &b
		if err := cmd.Run(); err == nil {
			return b.Bytes()
		}
		b.Reset() // it is not there
	}
	if f == codec.Zip {
		z := zip.NewWriter(&b)
		w, err := z.Create("master.img")
		if err == nil {
			_, err = w.Write(data)
		}
		if err = errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	w, err := codec.NewWriter(&b, f, codec.WriteOptions{})
	if err == nil {
		_, err = w.Write(data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// damages are what can be wrong with a packed image.
var damages = []struct {
	name string
	do   func(packed []byte) []byte
}{
	{"cut after 40 bytes", func(p []byte) []byte { return p[:40] }},
	{"cut in the middle", func(p []byte) []byte { return p[:len(p)/2] }},
	{"cut 700 bytes from the end", func(p []byte) []byte { return p[:len(p)-700] }},
	{"the last byte missing", func(p []byte) []byte { return p[:len(p)-1] }},
	{"a bit turned over", func(p []byte) []byte { p = bytes.Clone(p); p[len(p)*2/3] ^= 4; return p }},
	{"something behind it", func(p []byte) []byte { return append(bytes.Clone(p), "something behind it"...) }},
}

// With an image that is cut short, damaged or followed by something no card is good,
// none looks whole, and it is said where the damage is.
func TestWithABadImageNoCardIsGood(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	clear(m.data[mib/2 : 5*mib/2]) // quick to unpack, but much of it comes out before the damage
	for _, f := range []codec.Format{codec.Bzip2, codec.Gzip, codec.XZ, codec.Zstd, codec.LZ4, codec.Zip} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			packed := packAs(t, f, m.data)
			cards := newCards(t, 2, 4*mib)
			for _, d := range damages {
				t.Run(d.name, func(t *testing.T) {
					wantBadImage(t, writeFile(t, "master.img."+string(f), d.do(packed)), cards)
				})
			}
			if cards[0].Counts().Writes == 0 {
				t.Error("every damage was noticed before a card was touched")
			}
			// The controls: it is sound; and there are two of its kind in one file.
			job{image: writeFile(t, "master", packed)}.run(t, cards...).want(station.ExitGood, "good", "good")
			if f != codec.Zip {
				half := len(m.data) / 2
				both := append(packAs(t, f, m.data[:half]), packAs(t, f, m.data[half:])...)
				job{image: writeFile(t, "both", both)}.run(t, cards...).want(station.ExitGood, "good", "good")
			}
			for _, c := range cards {
				c.wantHolds(m.data)
			}
		})
	}
}

// wantBadImage checks that a run of an image fails because of the image.
func wantBadImage(t *testing.T, path string, cards []*card) {
	t.Helper()
	said := ""
	im, err := image.Open(t.Context(), path, image.Options{})
	if err != nil { // it is noticed before any card is touched
		if _, bad := errors.AsType[*image.Error](err); !bad {
			t.Errorf("not said to be bad: %v", err)
		}
		said = err.Error()
	} else {
		im.Close()
		res := job{image: path}.run(t, cards...)
		res.want(station.ExitImage, "image-decode|image-digest", "image-decode|image-digest")
		said = res.Image.Err
		for _, l := range res.Lanes {
			if !strings.Contains(l.Message, "byte ") {
				t.Errorf("lane %d does not say where: %q", l.Index, l.Message)
			}
		}
	}
	if !strings.Contains(said, "byte ") || !strings.Contains(said, path) {
		t.Errorf("no word of where the damage is: %q", said)
	}
	for _, c := range cards {
		c.wantDead()
	}
}

// The program says so, too, and with which status.
func TestTheProgramTellsABadImage(t *testing.T) {
	t.Parallel()
	packed := packAs(t, codec.Gzip, newMaster(t, 3*mib).data)
	for _, c := range []struct {
		name   string
		packed []byte
		exit   int
	}{
		{"cut", packed[:len(packed)-9], station.ExitImage},
		{"nothing", nil, station.ExitImage},
		{"sound", packed, station.ExitGood},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := newCard(t, 4*mib)
			out := startWrite(t, writeFile(t, "master.img.gz", c.packed), []*card{target}).end()
			if out.exit != c.exit {
				t.Errorf("exit status %d, want %d", out.exit, c.exit)
			}
			if c.exit == station.ExitGood {
				return
			}
			target.wantDead()
			if !out.ended {
				t.Error("there is no last event")
			}
			if said := out.last.Image.Error + out.last.Error; !strings.Contains(said, "master.img.gz") {
				t.Errorf("the last event does not say what is wrong: %q", said)
			}
		})
	}
}

// An image made to have no end is stopped where the largest card ends.
func TestABombIsStopped(t *testing.T) {
	t.Parallel()
	const size = 24 * mib
	bomb := pack(t, make([]byte, size))
	small, larger := newCard(t, 3*mib), newCard(t, 6*mib)
	res := job{image: bomb}.run(t, small, larger)
	if res.Exit != station.ExitImage {
		t.Errorf("exit status %d, want %d", res.Exit, station.ExitImage)
	}
	if read := res.Image.Read; read > 7*mib {
		t.Errorf("%d bytes were unpacked", read)
	}
	small.wantDead()
	larger.wantDead()
	big := newCard(t, size) // the control
	job{image: bomb, engine: duplicate.Options{NoProof: true}}.run(t, big).want(station.ExitUnverified, "unverified")
}

// An image that is overwritten while it is being read fails all cards: what was read
// of it may be half old and half new.
func TestAnImageOverwrittenMeanwhileFailsAllCards(t *testing.T) {
	t.Parallel()
	const size = 32 * mib // more than is kept of it
	for _, c := range []struct {
		name string
		off  int64 // where it is overwritten; -1: nowhere
		late bool  // when the other card is good already
		exit int
		want [2]string
	}{
		{"what is yet to be read", size - 4096, false, station.ExitImage, [2]string{"image-digest", "image-digest"}},
		{"what was read", 2 * mib, false, station.ExitImage, [2]string{"image-digest", "image-digest"}},
		{"what a card that is behind needs", size - 4096, true, station.ExitImage, [2]string{"image-digest", "good"}},
		{"nothing", -1, false, station.ExitGood, [2]string{"good", "good"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			head := newMaster(t, mib)
			if err := os.Truncate(head.path, size); err != nil {
				t.Fatal(err)
			}
			held, other := newBlankCard(t, size), newBlankCard(t, size)
			held.Inject(devicetest.HangAt(devicetest.Write, hangAt, 1))
			if !c.late {
				other.Inject(devicetest.HangAt(devicetest.Write, hangAt, 1))
			}
			r := job{image: head.path}.start(t, held, other)
			held.awaitWrite(hangAt)
			if c.late {
				r.untilPhase(1, station.Good)
			} else {
				other.awaitWrite(hangAt)
			}
			if c.off >= 0 {
				overwrite(t, head.path, c.off)
			}
			held.Heal()
			other.Heal()
			r.end().want(c.exit, c.want[0], c.want[1])
			if c.want[0] != "good" {
				held.wantDead()
			}
		})
	}
}

func overwrite(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{'x'}, 4096), off)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
