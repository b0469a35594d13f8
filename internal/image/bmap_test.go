package image

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/codec"
	"multidd/internal/sample"
)

// holey returns a disk of which only some blocks of 4 KiB are used, and which.
func holey(size int) ([]byte, []block.Extent) {
	data := make([]byte, size)
	used := []block.Extent{{Off: 0, Len: 8192}, {Off: 300 << 10, Len: 4096}, {Off: 512 << 10, Len: 700 << 10}}
	last := int64(size-1) &^ 4095
	used = append(used, block.Extent{Off: last, Len: int64(size) - last})
	for _, e := range used {
		copy(data[e.Off:e.End()], disk(byte(e.Off>>12), int(e.Len)))
		data[e.Off] = 1
	}
	return data, used
}

// aMap is a map that a test makes.
type aMap struct {
	version string // "": 2.0
	kind    string // type of the checksums; "": sha256
	size    int64  // of the image
	block   int64  // 0: 4096
	noSums  bool
	used    []block.Extent
}

// text returns the map of data.
func (m aMap) text(data []byte) string {
	if m.version == "" {
		m.version = "2.0"
	}
	if m.block == 0 {
		m.block = 4096
	}
	newHash := map[string]func() hash.Hash{
		"": sha256.New, "sha1": sha1.New, "sha224": sha256.New224, "sha384": sha512.New384, "sha512": sha512.New, "md5": md5.New,
	}[m.kind]
	if m.size == 0 {
		m.size = int64(len(data))
	}
	element, name := "BmapFileChecksum", "chksum"
	if m.version < "1.4" {
		element, name = "BmapFileSHA1", "sha1"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "<?xml version=\"1.0\" ?>\n<!-- made by a test: <MappedBlocksCount> -->\n<bmap version=%q>\n", m.version)
	fmt.Fprintf(&s, "    <ImageSize> %d </ImageSize>\n    <BlockSize> %d </BlockSize>\n    <BlocksCount> %d </BlocksCount>\n", m.size, m.block, (m.size+m.block-1)/m.block)
	var blocks int64
	for _, e := range m.used {
		blocks += (e.Len + m.block - 1) / m.block
	}
	fmt.Fprintf(&s, "    <MappedBlocksCount> %d </MappedBlocksCount>\n", blocks)
	if m.version >= "1.4" {
		fmt.Fprintf(&s, "    <ChecksumType> %s </ChecksumType>\n", cmp.Or(m.kind, "sha256"))
	}
	if m.version >= "1.3" {
		fmt.Fprintf(&s, "    <%s> %s </%s>\n", element, zeroSum(newHash()), element)
	}
	s.WriteString("    <BlockMap>\n")
	for _, e := range m.used {
		sum := ""
		if !m.noSums {
			h := newHash()
			h.Write(data[e.Off:e.End()])
			sum = fmt.Sprintf(" %s=\"%x\"", name, h.Sum(nil))
		}
		first, last := e.Off/m.block, (e.End()-1)/m.block
		if first == last {
			fmt.Fprintf(&s, "        <Range%s> %d </Range>\n", sum, first)
		} else {
			fmt.Fprintf(&s, "        <Range%s> %d-%d </Range>\n", sum, first, last)
		}
	}
	s.WriteString("    </BlockMap>\n</bmap>\n")
	return sealMap(s.String(), newHash())
}

func zeroSum(h hash.Hash) string { return strings.Repeat("0", 2*h.Size()) }

// sealMap puts the map's own checksum into it.
func sealMap(text string, h hash.Hash) string {
	io.WriteString(h, text)
	return strings.Replace(text, zeroSum(h), hex.EncodeToString(h.Sum(nil)), 1)
}

func TestTheMapsOfEveryVersionAreRead(t *testing.T) {
	data, used := holey(2<<20 + 1000)
	for _, c := range []struct {
		m       aMap
		checked bool
	}{
		{aMap{version: "1.0", noSums: true}, false},
		{aMap{version: "1.1", noSums: true}, false},
		{aMap{version: "1.2", kind: "sha1"}, true},
		{aMap{version: "1.2", noSums: true}, false},
		{aMap{version: "1.3", kind: "sha1"}, true},
		{aMap{version: "1.4"}, true},
		{aMap{version: "2.0"}, true},
		{aMap{version: "2.0", kind: "sha1"}, true},
		{aMap{version: "2.0", kind: "sha224"}, true},
		{aMap{version: "2.0", kind: "sha384"}, true},
		{aMap{version: "2.0", kind: "sha512"}, true},
		{aMap{version: "2.0", kind: "md5"}, true},
		{aMap{version: "2.0", noSums: true}, false},
		{aMap{version: "2.7"}, true},
	} {
		c.m.used = used
		got, err := parseBMap([]byte(c.m.text(data)))
		if err != nil {
			t.Errorf("%+v: %v", c.m, err)
			continue
		}
		if !slices.Equal(got.Used, used) || got.Size != int64(len(data)) || got.checked() != c.checked {
			t.Errorf("%+v: got %v of %d bytes, checked %v", c.m, got.Used, got.Size, got.checked())
		}
	}
}

// Fault 40.
func TestAMapThatDoesNotAddUpIsRefusedWithItsLine(t *testing.T) {
	data, used := holey(2 << 20)
	good := aMap{used: used, noSums: true}.text(data)
	if _, err := parseBMap([]byte(good)); err != nil {
		t.Fatal(err)
	}
	sums := aMap{used: used}.text(data)
	for _, c := range []struct {
		name     string
		from     string
		old, new string
		want     string
	}{
		{"not XML", good, "</BlockMap>", "<", "line 15: not XML"},
		{"cut short", good, "</bmap>\n", "", "not XML: unexpected EOF"},
		{"empty file", good, good, "", "line 1: is empty"},
		{"another document", good, good, "<html></html>", "line 1: is not a map"},
		{"two documents", good, "</bmap>\n", "</bmap><bmap/>", "goes on after </bmap>"},
		{"a document type", good, "<bmap ", "<!DOCTYPE bmap [<!ENTITY a \"b\">]><bmap ", "line 3: a document type declaration"},
		{"an entity", good, " 0-1 ", " &a; ", "line 11: not XML: invalid character entity &a;"},
		{"no version", good, "version=\"2.0\"", "", "line 3: \"\" is not a version"},
		{"a later version", good, "\"2.0\"", "\"3.0\"", "line 3: version 3.0 of the format is not known"},
		{"an odd version", good, "\"2.0\"", "\"two\"", "is not a version"},
		{"no size", good, "<ImageSize> 2097152 </ImageSize>", "", "has no <ImageSize>"},
		{"size of nothing", good, "2097152", "0", "line 4: the image has no bytes"},
		{"negative size", good, "2097152", "-2097152", "line 4: ImageSize is \"-2097152\""},
		{"size beyond all bounds", good, "2097152", "9223372036854775808", "line 4: ImageSize is"},
		{"size twice", good, "<BlockSize>", "<ImageSize>1</ImageSize><BlockSize>", "line 5: there is a second <ImageSize>"},
		{"blocks of nothing", good, "<BlockSize> 4096", "<BlockSize> 0", "line 5: a block of 0 bytes"},
		{"odd blocks", good, "<BlockSize> 4096", "<BlockSize> 4095", "line 5: a block of 4095 bytes"},
		{"wrong number of blocks", good, "512 </BlocksCount>", "513 </BlocksCount>", "line 6: 2097152 bytes are 512 blocks"},
		{"wrong number of mapped blocks", good, "<MappedBlocksCount> 179 <", "<MappedBlocksCount> 178 <", "line 7: MappedBlocksCount is 178, but the ranges have 179"},
		{"unknown checksums", good, " sha256 ", " crc7 ", "line 8: checksums of type \"crc7\""},
		{"no kind of checksums", good, "<ChecksumType> sha256 </ChecksumType>", "", "has no <ChecksumType>"},
		{"no checksum of itself", good, "BmapFileChecksum", "Bmap", "has no <BmapFileChecksum>"},
		{"edited", good, "<!-- made by", "<!-- maid by", "line 9: the map is damaged or was edited"},
		{"no ranges", good, "<BlockMap>", "<BlockMap></BlockMap><Old>", "has no ranges"},
		{"no map", good, "BlockMap>", "Map>", "has no place in <Map>"},
		{"two maps", good, "</bmap>", "<BlockMap/></bmap>", "there is a second <BlockMap>"},
		{"backwards", good, " 0-1 ", " 1-0 ", "line 11: range 1-0 ends before it begins"},
		{"overlapping", good, " 75 ", " 1 ", "line 12: range 1 overlaps the one before it or is out of order"},
		{"past the end", good, " 511 ", " 511-512 ", "line 14: range 511-512 goes past the end of the image"},
		{"negative", good, " 0-1 ", " -1 ", "line 11: \"-1\" is not a range of blocks"},
		{"overflowing", good, " 75 ", " 75-9223372036854775807 ", "goes past the end"},
		{"not numbers", good, " 75 ", " 0x4b ", "line 12: \"0x4b\" is not a range of blocks"},
		{"text between ranges", good, "<BlockMap>", "<BlockMap> 7 ", "text \"7\" between the ranges"},
		{"nested", good, " 75 ", "<a>75</a>", "<a> has no place in <Range>"},
		{"a strange element among the ranges", good, "<Range> 75 </Range>", "<Skip/>", "<Skip> has no place in <BlockMap>"},
		{"one range without a checksum", sums, regexp.MustCompile(` chksum="[0-9a-f]*"> 75 `).FindString(sums), "> 75 ", "line 12: range 75 must have a checksum"},
		{"a short checksum", sums, "<Range chksum=\"", "<Range chksum=\"00", "line 11: range 0-1 has the checksum"},
	} {
		bad := strings.Replace(c.from, c.old, c.new, 1)
		if c.old == "BlockMap>" || c.old == "BmapFileChecksum" {
			bad = strings.ReplaceAll(c.from, c.old, c.new)
		}
		if bad == c.from {
			t.Errorf("%s: the map was not changed", c.name)
		}
		_, err := parseBMap([]byte(bad))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestAMapMadeToEatMemoryIsRefused(t *testing.T) {
	head := "<bmap version=\"2.0\"><ImageSize>4611686018427387904</ImageSize><BlockSize>4096</BlockSize>" +
		"<BlocksCount>1125899906842624</BlocksCount><ChecksumType>sha256</ChecksumType><BlockMap>"
	var many strings.Builder
	many.WriteString(head)
	for i := range maxRanges + 1 {
		fmt.Fprintf(&many, "<Range>%d</Range>", i)
	}
	for name, c := range map[string]struct{ text, want string }{
		"long":       {strings.Repeat(" ", maxBMap+1), "is longer than 16 MiB"},
		"ranges":     {many.String(), "has more than 262144 ranges"},
		"attributes": {"<bmap version=\"2.0\"" + strings.Repeat(" a=\"\"", 1<<20), "is longer than 64 KiB"},
		"comment":    {"<!--" + strings.Repeat(" ", 1<<20), "is longer than 64 KiB"},
		"text":       {"<bmap version=\"2.0\"><ImageSize>" + strings.Repeat("1", 1<<20), "is longer than 64 KiB"},
		"depth":      {"<bmap version=\"2.0\">" + strings.Repeat("<a>", 1<<20), "line 1: <a> has no place in <a>"},
	} {
		if _, err := parseBMap([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %.200v, want %s", name, err, c.want)
		}
	}
}

func FuzzBMap(f *testing.F) {
	data, used := holey(2 << 20)
	for _, v := range []string{"1.0", "1.2", "1.3", "1.4", "2.0"} {
		kind := ""
		if v < "1.4" {
			kind = "sha1"
		}
		f.Add([]byte(aMap{version: v, kind: kind, used: used}.text(data)))
		f.Add([]byte(aMap{version: v, kind: kind, used: used, noSums: true}.text(data)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseBMap(b)
		if err != nil {
			return
		}
		if err := m.Check(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
		var n int64
		for i, r := range m.ranges {
			n += r.Len
			if (r.sum != nil) != m.checked() || r.Off%m.blockSize != 0 {
				t.Errorf("range %d is %v with checksum %x", i, r.Extent, r.sum)
			}
		}
		if n != m.Bytes() {
			t.Errorf("the ranges have %d bytes, the map %d", n, m.Bytes())
		}
	})
}

// bmaptool is the judge of what a map means.
func TestTheMapsOfBmaptoolAreReadAsItMeansThem(t *testing.T) {
	sample.Need(t, "bmaptool")
	data, used := holey(2<<20 + 1000)
	dir := t.TempDir()
	path := filepath.Join(dir, "x.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		t.Fatal(err)
	}
	for _, e := range used {
		if _, err := f.WriteAt(data[e.Off:e.End()], e.Off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"--no-checksum"}} {
		out, err := exec.Command("bmaptool", append([]string{"create", "-o", path + ".bmap", path}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("bmaptool create: %v\n%s", err, out)
		}
		raw, err := os.ReadFile(path + ".bmap")
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseBMap(raw)
		if err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
		if want := plainRanges(t, raw, m.blockSize, int64(len(data))); !slices.Equal(m.Used, want) {
			t.Errorf("used is %v, bmaptool says %v", m.Used, want)
		}
		if len(args) == 0 != m.checked() {
			t.Errorf("with %q the map has checksums: %v", args, m.checked())
		}
		// All the checksums must be found right, raw and packed.
		got, _ := read(t, path, Options{}, 0)
		if got.err != io.EOF || !bytes.Equal(got.data, data) {
			t.Errorf("raw: %v", got.err)
		}
		write(t, filepath.Join(dir, "x.img.gz"), pack(t, codec.Gzip, data))
		got, _ = read(t, filepath.Join(dir, "x.img.gz"), Options{}, 0)
		if got.err != io.EOF || !bytes.Equal(got.data, data) || len(got.blocks) < 4 {
			t.Errorf("packed: %v in %v", got.err, got.blocks)
		}
	}
}

// plainRanges finds the ranges of a map in the plainest way.
func plainRanges(t *testing.T, raw []byte, bs, size int64) []block.Extent {
	var all []block.Extent
	for _, m := range regexp.MustCompile(`<Range[^>]*> (\d+)(?:-(\d+))? </Range>`).FindAllSubmatch(raw, -1) {
		first, err := strconv.ParseInt(string(m[1]), 10, 64)
		last := first
		if err == nil && m[2] != nil {
			last, err = strconv.ParseInt(string(m[2]), 10, 64)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, block.Extent{Off: first * bs, Len: min((last+1)*bs, size) - first*bs})
	}
	return all
}

// What is between the used extents may be anything: it is not handed on.
func TestOnlyWhatTheMapSaysIsHandedOn(t *testing.T) {
	data, used := holey(2<<20 + 1000)
	dirty := bytes.Clone(data)
	for i := range dirty {
		if !slices.ContainsFunc(used, func(e block.Extent) bool { return int64(i) >= e.Off && int64(i) < e.End() }) {
			dirty[i] = 0xee
		}
	}
	text := aMap{used: used}.text(data)
	for _, f := range []codec.Format{codec.Raw, codec.Gzip} {
		content := dirty
		if f != codec.Raw {
			content = pack(t, f, dirty)
		}
		path := place(t, "x.img", content)
		write(t, path+".bmap", []byte(text))
		im := open(t, path, Options{})
		m, ok := im.Map()
		if !ok || !slices.Equal(m.Used, used) || im.Size() != int64(len(data)) || im.Used() != m.Bytes() {
			t.Errorf("%s: the map is %v, the size %d, used %d", f, m, im.Size(), im.Used())
		}
		got, _ := read(t, path, Options{Digest: true}, 0)
		if got.err != io.EOF || !bytes.Equal(got.data, data) {
			t.Errorf("%s: %v", f, got.err)
		}
		for _, e := range got.blocks {
			if e.Off/bufSize != (e.End()-1)/bufSize {
				t.Errorf("%s: %v crosses a multiple of the block size", f, e)
			}
		}
		for _, o := range []Options{{All: true}, {BMap: "none"}} {
			if got, _ := read(t, path, o, 0); got.err != io.EOF || !bytes.Equal(got.data, dirty) {
				t.Errorf("%s: with %+v not everything was handed on: %v", f, o, got.err)
			}
		}
	}
}

func TestTheChecksumsOfAMapAreVerified(t *testing.T) {
	data, used := holey(2 << 20)
	for _, f := range []codec.Format{codec.Raw, codec.Gzip} {
		for _, at := range []int64{0, 300 << 10, 900 << 10, 2<<20 - 1} {
			bad := bytes.Clone(data)
			bad[at] ^= 1
			content := bad
			if f != codec.Raw {
				content = pack(t, f, bad)
			}
			path := place(t, "x.img", content)
			write(t, path+".bmap", []byte(aMap{used: used}.text(data)))
			i := slices.IndexFunc(used, func(e block.Extent) bool { return at >= e.Off && at < e.End() })
			got, _ := read(t, path, Options{}, 0)
			wantBad(t, got.err, "image-digest", used[i].String())
			// Negative control: a map without checksums notices nothing.
			write(t, path+".bmap", []byte(aMap{used: used, noSums: true}.text(data)))
			if got, _ := read(t, path, Options{}, 0); got.err != io.EOF {
				t.Error(got.err)
			}
		}
	}
}

func TestAMapOfAnotherImageIsRefused(t *testing.T) {
	data, used := holey(2 << 20)
	text := []byte(aMap{used: used}.text(data))
	longer := append(bytes.Clone(data), 1)
	shorter := data[:len(data)-4096]
	for name, other := range map[string][]byte{"longer": longer, "shorter": shorter} {
		raw := place(t, "x.img", other)
		write(t, raw+".bmap", text)
		_, err := Open(t.Context(), raw, Options{})
		wantBad(t, err, "image-digest", fmt.Sprintf("its map is for an image of %d bytes, but it has %d", len(data), len(other)))

		packed := place(t, "x.img.gz", pack(t, codec.Gzip, other))
		write(t, packed[:len(packed)-3]+".bmap", text)
		got, _ := read(t, packed, Options{}, 0)
		wantBad(t, got.err, "image-digest", "map")
		if got, _ := read(t, packed, Options{BMap: "none"}, 0); got.err != io.EOF {
			t.Errorf("%s: without the map: %v", name, got.err)
		}
	}
	path := place(t, "y.img", data)
	write(t, path+".bmap", []byte("rubbish"))
	_, err := Open(t.Context(), path, Options{})
	wantBad(t, err, "image-decode", "y.img.bmap: line 1: is not a map")
	wantBad(t, err, "image-decode", "(--bmap=none)")
	write(t, path+".bmap", bytes.Replace(text, []byte("made by"), []byte("maid by"), 1))
	_, err = Open(t.Context(), path, Options{})
	wantBad(t, err, "image-digest", "the map is damaged or was edited")
	if _, err := Open(t.Context(), path, Options{BMap: path + ".none"}); err == nil {
		t.Error("a map that was named need not be there")
	}
}

func TestAMapIsFoundBesideItsImage(t *testing.T) {
	for name, want := range map[string][]string{
		"/a/x.img":     {"/a/x.img.bmap", "/a/x.bmap"},
		"/a/x.img.bz2": {"/a/x.img.bz2.bmap", "/a/x.img.bmap", "/a/x.bmap"},
		"x.zst":        {"x.zst.bmap", "x.bmap"},
		"x":            {"x.bmap"},
		".img":         {".img.bmap"},
		"v1.2/x":       {"v1.2/x.bmap"},
	} {
		if got := mapNames(name); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// What is used must fit; the rest of the image needs no room.
func TestWithAMapOnlyWhatIsUsedMustFit(t *testing.T) {
	data, used := holey(2 << 20)
	used = used[:len(used)-1]
	end := used[len(used)-1].End()
	packed := place(t, "x.img.gz", pack(t, codec.Gzip, data))
	write(t, packed+".bmap", []byte(aMap{used: used}.text(data)))
	if got, _ := read(t, packed, Options{}, end); got.err != io.EOF {
		t.Error(got.err)
	}
	got, _ := read(t, packed, Options{}, end-1)
	wantBad(t, got.err, "image-decode", "bigger than the largest card")
}
