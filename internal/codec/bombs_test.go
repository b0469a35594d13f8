package codec

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"strings"
	"testing"
)

// A zeros is a source of so many of them.
type zeros int64

func (z *zeros) Read(p []byte) (int, error) {
	if *z == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), int64(*z))
	clear(p[:n])
	*z -= zeros(n)
	return int(n), nil
}

// gzipOfZeros is the gz stream of n times 1 MiB of zeros, made without packing
// them: a deflate block of 1 MiB that ends at a byte, again and again.
func gzipOfZeros(n int) []byte {
	var block bytes.Buffer
	z, _ := flate.NewWriter(&block, 9)
	mib := make([]byte, 1<<20)
	z.Write(mib)
	z.Flush()
	s := newGzipShape(WriteOptions{})
	b := s.begin()
	for range n {
		b = append(b, block.Bytes()...)
		s.packed(mib, nil)
	}
	return append(b, s.end()...)
}

func TestAStreamThatNeedsTooMuchMemoryIsRefusedAndSaysHowMuch(t *testing.T) {
	xzOf := func(dict byte) []byte {
		b := appendXZHeader(nil, xzCRC32)
		h := []byte{2, 0, xzLZMA2, 1, dict, 0, 0, 0}
		h = le.AppendUint32(h, crc32.ChecksumIEEE(h))
		return append(b, h...)
	}
	for _, c := range []struct {
		name   string
		format Format
		stream []byte
		memory int64
		says   string
	}{
		{"zstd, a window of 2 GiB", Zstd, []byte(zstdMagic + "\x00\xa8\x01\x00\x00"), 0, "2048 MiB"},
		{"zstd, a window of 3 TiB", Zstd, []byte(zstdMagic + "\x00\xff\x01\x00\x00"), 0, "3840 GiB"},
		{"zstd, one segment of 8 EiB", Zstd, []byte(zstdMagic + "\xe0\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00"), 0, "8589934591 GiB"},
		{"xz, a dictionary of 1.5 GiB", XZ, xzOf(37), 0, "1536 MiB"},
		{"xz, a dictionary of 4 GiB", XZ, xzOf(40), 1 << 30, "1024 MiB"},
		{"lz4, legacy", LZ4, []byte(lz4LegacyMagic + "\x01\x00\x00\x00\x00"), 1 << 20, "16 MiB"},
		{"lz4, blocks of 4 MiB", LZ4, []byte(lz4Magic + "\x64\x70\xb9\x00\x00\x00\x00"), 1 << 20, "8384 KiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := unpack(c.stream, c.format, ReadOptions{Memory: c.memory})
			if _, is := errors.AsType[*Error](err); !is || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is: %v", err)
			}
			// What is wrong with it is only the memory.
			if c.memory > 0 && c.format != XZ {
				if _, err := unpack(c.stream, c.format, ReadOptions{}); errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("with more memory: %v", err)
				}
			}
		})
	}
}

func TestABombIsStreamed(t *testing.T) {
	size := some(128 << 20)
	for _, f := range []Format{Bzip2, Gzip, XZ, Zstd, LZ4, Zip} {
		t.Run(string(f), func(t *testing.T) {
			var packed []byte
			z := zeros(int64(size))
			switch f {
			case Gzip:
				packed = gzipOfZeros(size >> 20)
			case Zip:
				var b bytes.Buffer
				w := zip.NewWriter(&b)
				e, _ := w.Create("x.img")
				io.Copy(e, &z)
				w.Close()
				packed = b.Bytes()
			case XZ: // many blocks, so that they are unpacked ahead
				var one bytes.Buffer
				w, _ := NewWriter(&one, f, WriteOptions{Level: 2})
				eighth := zeros(size / 8)
				io.Copy(w, &eighth)
				w.Close()
				packed = bytes.Repeat(one.Bytes(), 8)
			default:
				var b bytes.Buffer
				w, _ := NewWriter(&b, f, WriteOptions{})
				io.Copy(w, &z)
				w.Close()
				packed = b.Bytes()
			}
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := NewReader(bytes.NewReader(packed), f, ReadOptions{Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			most, total := uint64(0), int64(0)
			buf := make([]byte, 1<<20)
			for err == nil {
				var n int
				n, err = io.ReadFull(r, buf)
				if total += int64(n); total&(8<<20-1) == 0 {
					runtime.GC() // what is left is in use
					runtime.ReadMemStats(&now)
					most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
				}
			}
			if total != int64(size) || err != io.EOF {
				t.Errorf("%d bytes come out, and %v", total, err)
			}
			if most > uint64(r.Memory())+2<<20 {
				t.Errorf("%d KiB are in use; Memory says %d KiB", most>>10, r.Memory()>>10)
			}
			if most > 52<<20 {
				t.Errorf("%d KiB are in use", most>>10)
			}
		})
	}
}

func TestALengthBeyondFourGiBIsComparedModuloFourGiB(t *testing.T) {
	if raceOn || testing.Short() {
		t.Skip("it unpacks 4 GiB, on one goroutine")
	}
	packed := gzipOfZeros(4097)
	count := func(packed []byte) (int64, error) {
		r, err := NewReader(bytes.NewReader(packed), Gzip, ReadOptions{})
		if err != nil {
			return 0, err
		}
		return io.Copy(io.Discard, struct{ io.Reader }{r})
	}
	if n, err := count(packed); n != 4097<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	small := gzipOfZeros(3)
	small[len(small)-1] ^= 1
	if _, err := count(small); err == nil {
		t.Error("a wrong length is not noticed")
	}
}

func TestAnArchiveInAnArchiveIsUnpackedOnce(t *testing.T) {
	inner := sample(1, 1000)
	for range 5 {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		e, err := w.Create("again.zip")
		if err != nil {
			t.Fatal(err)
		}
		e.Write(inner)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := unpack(b.Bytes(), Zip, ReadOptions{})
		if err != nil || !bytes.Equal(got, inner) {
			t.Fatalf("%d bytes of %d come out: %v", len(got), len(inner), err)
		}
		inner = b.Bytes()
	}
}
