package codec

import (
	"bytes"
	"io"
	"testing"
)

func TestRawDisksAreNotTakenForPackedStreams(t *testing.T) {
	sector := func(start string) []byte {
		b := make([]byte, HeadLen)
		copy(b, start)
		b[510], b[511] = 0x55, 0xaa
		return b
	}
	for name, head := range map[string][]byte{
		"nothing":                         {},
		"one byte":                        {'B'},
		"zeros":                           make([]byte, HeadLen),
		"erased flash":                    bytes.Repeat([]byte{0xff}, HeadLen),
		"boot code of GRUB":               sector("\xeb\x63\x90\x10\x8e\xd0\xbc\x00\xb0"),
		"boot code of Windows":            sector("\x33\xc0\x8e\xd0\xbc\x00\x7c"),
		"a FAT boot sector":               sector("\xeb\x58\x90mkfs.fat"),
		"text that begins as bz2 does":    sector("BZh9 is how bzip2 files begin"),
		"BZh0":                            sector("BZh01AY&SY"),
		"gzip with flags not defined":     sector("\x1f\x8b\x08\xff"),
		"xz with a wrong checksum":        sector("\xfd7zXZ\x00\x00\x04\x00\x00\x00\x00"),
		"zstd with a reserved bit":        sector("\x28\xb5\x2f\xfd\x08"),
		"lz4 of another version":          sector("\x04\x22\x4d\x18\x84\x70"),
		"lz4 with blocks of no size":      sector("\x04\x22\x4d\x18\x64\x00"),
		"lz4 legacy, an impossible block": sector("\x02\x21\x4c\x18\xff\xff\xff\xff"),
		"PK":                              sector("PK"),
		"zip of version 25.5":             sector("PK\x03\x04\xff\x00"),
		"a frame to skip, then a disk":    sector("\x50\x2a\x4d\x18\x04\x00\x00\x00skip\xeb\x63\x90"),
	} {
		if f := Recognise(head); f != Raw {
			t.Errorf("%s: taken for %s", name, f)
		}
	}
}

func TestACutBeginningIsStillRecognised(t *testing.T) {
	for _, m := range makers {
		packed := m.make(t, sample(1, 5000))
		for n := 2; n <= len(packed); n++ {
			if f := Recognise(packed[:n]); f != m.format && !(n < 4 && f == Raw && packed[0]&0xf0 == 0x50 && m.format == Zstd) {
				t.Errorf("%s, %d bytes: taken for %s", m.name, n, f)
			}
		}
	}
}

func TestFramesToSkipDoNotHideTheFormat(t *testing.T) {
	skip := "\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"
	for head, want := range map[string]Format{
		skip + zstdMagic + "\x00":               Zstd,
		skip + skip + lz4Magic + "\x64\x70\xb9": LZ4,
		skip:                                    Zstd,
		"\x50\x2a\x4d\x18\x00\x10\x00\x00 beyond": Zstd,
	} {
		if f := Recognise([]byte(head)); f != want {
			t.Errorf("%q: %s, not %s", head, f, want)
		}
	}
}

func TestFormatsAreNamedByEndings(t *testing.T) {
	for name, want := range map[string]Format{
		"x.img": Raw, "x": Raw, "": Raw, "bz2": Raw, "x.bz2.img": Raw, "dir.gz/x": Raw, "x.raw": Raw,
		"x.img.bz2": Bzip2, "X.IMG.BZ2": Bzip2, "x.gz": Gzip, "a.b/x.xz": XZ, "x.zst": Zstd, "x.lz4": LZ4, "x.zip": Zip,
	} {
		if f := ByName(name); f != want {
			t.Errorf("%q is %s, not %s", name, f, want)
		}
	}
}

func TestARawStreamIsPassedOn(t *testing.T) {
	want := sample(1, 1000)
	r, err := NewReader(bytes.NewReader(want), Raw, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) || r.InputOffset() != 1000 || r.SizeHint() != -1 || r.Memory() != 0 || r.Close() != nil {
		t.Errorf("%d bytes, %v, offset %d", len(got), err, r.InputOffset())
	}
}
