package codec

import (
	"bytes"
	"strings"
	"testing"
)

func TestTheDeclaredSizeIsFoundWhereAFormatKeepsOne(t *testing.T) {
	size := int64(max(some(5_000_000), 1_000_000))
	want := sample(1, int(size))
	of := func(m maker) []byte { return m.make(t, want) }
	ours := func(f Format) []byte {
		b, err := pack(want, f, WriteOptions{Level: 1}, int(size))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	xz := of(command(XZ, "xz", "-c", "-0", "-T2", "--block-size=200KiB"))
	for _, c := range []struct {
		name   string
		format Format
		packed []byte
		want   int64
	}{
		{"raw", Raw, want, size},
		{"xz", XZ, xz, size},
		{"two streams of xz with padding", XZ, append(append(bytes.Clone(xz), make([]byte, 400)...), append(xz, 0, 0, 0, 0)...), 2 * size},
		{"xz, cut", XZ, xz[:len(xz)-4], -1},
		{"xz made here", XZ, ours(XZ), size},
		{"zst made here", Zstd, ours(Zstd), size},
		{"zstd of a file", Zstd, of(maker{make: fromFile("zstd", "-1c")}), size},
		{"zstd of a pipe", Zstd, of(command(Zstd, "zstd", "-1c")), -1},
		{"pzstd", Zstd, of(command(Zstd, "pzstd", "-1", "-c")), -1},
		{"lz4 --content-size", LZ4, of(maker{make: fromFile("lz4", "-c", "--content-size")}), size},
		{"lz4", LZ4, of(command(LZ4, "lz4", "-c")), -1},
		{"gzip", Gzip, of(command(Gzip, "gzip", "-1c")), -1},
		{"bzip2", Bzip2, ours(Bzip2), -1},
		{"zip of a pipe", Zip, of(command(Zip, "zip", "-q1", "-", "-")), size},
		{"zip of a file", Zip, of(maker{make: zipFile("-1")}), size},
		{"zip in 64 bits", Zip, wideArchive("12345", true, false, false, false), 5},
		{"zip with a comment", Zip, archive(t, 8, strings.Repeat("PK\x05\x06", 99), "a/", "x=12345"), 5},
		{"zip of two files", Zip, archive(t, 8, "", "a=1", "x=12345"), -1},
		{"nothing", XZ, nil, -1},
		{"nothing", Zip, nil, -1},
		{"nothing", Zstd, nil, -1},
	} {
		if got := DeclaredSize(bytes.NewReader(c.packed), int64(len(c.packed)), c.format); got != c.want {
			t.Errorf("%s: %d, not %d", c.name, got, c.want)
		}
	}
}

func FuzzDeclaredSize(f *testing.F) {
	for i, format := range []Format{XZ, Zstd, LZ4, Zip} {
		f.Add(byte(i), wideArchive("12345", true, false, false, false))
		if format == Zip {
			continue
		}
		for _, s := range seeds(format) {
			f.Add(byte(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, i byte, packed []byte) {
		format := []Format{XZ, Zstd, LZ4, Zip}[i&3]
		if n := DeclaredSize(bytes.NewReader(packed), int64(len(packed)), format); n < -1 {
			t.Errorf("%s: %d bytes", format, n)
		}
	})
}
