package codec

import (
	"archive/zip"
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/pierrec/lz4/v4"
)

// fuzzMost is how much is read of what a stream unpacks to, in bytes.
const fuzzMost = 8 << 20

// fuzz gives a reader anything. It must come to an end without a panic, say where
// it is wrong if it is, and give the same however many workers there are. What it
// takes, an independent reader takes too, and makes the same of it; that one
// may stumble over zeros at the end.
func fuzz(f *testing.F, format Format, seeds [][]byte, other func([]byte) ([]byte, error)) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(append(s[:len(s):len(s)], 0, 0, 0, 0))
		f.Add(append(s[:len(s):len(s)], s...))
		f.Add(s[:len(s)/2])
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		read := func(workers int) ([]byte, error) {
			r, err := NewReader(bytes.NewReader(packed), format, ReadOptions{Workers: workers, Memory: 20 << 20, Ahead: 20 << 20})
			if err != nil {
				return nil, err
			}
			defer r.Close()
			if r.Memory() > 42<<20 {
				t.Errorf("it takes %d bytes", r.Memory())
			}
			return io.ReadAll(io.LimitReader(r, fuzzMost))
		}
		got, err := read(1)
		if e, is := errors.AsType[*Error](err); err != nil && (!is || e.Offset < 0 || e.Offset > int64(len(packed))) {
			t.Errorf("the error is %v", err)
		}
		again, err2 := read(4)
		if !bytes.Equal(got, again) && err == nil || (err == nil) != (err2 == nil) {
			t.Errorf("one worker: %d bytes, %v; four: %d bytes, %v", len(got), err, len(again), err2)
		}
		if err != nil || len(got) == fuzzMost || other == nil {
			return
		}
		theirs, err := other(packed)
		if err != nil && packed[len(packed)-1] == 0 {
			return
		}
		if err != nil || !bytes.Equal(got, theirs) {
			t.Errorf("%d bytes are taken; another reader makes %d of it: %v", len(got), len(theirs), err)
		}
	})
}

// seeds are small streams as they are made here.
func seeds(f Format) [][]byte {
	var all [][]byte
	for _, n := range []int{0, 5, 3000} {
		b, err := pack(sample(9, n), f, WriteOptions{Workers: 1, Level: 1}, n)
		if err != nil {
			panic(err)
		}
		all = append(all, b)
	}
	return all
}

func FuzzReadBzip2(f *testing.F) { fuzz(f, Bzip2, seeds(Bzip2), nil) }

func FuzzReadGzip(f *testing.F) {
	fuzz(f, Gzip, seeds(Gzip), func(b []byte) ([]byte, error) {
		r, err := stdgzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	})
}

func FuzzReadXZ(f *testing.F) {
	fuzz(f, XZ, append(seeds(XZ), storedBlocks(-1)[:70_000], storedBlocks(-1)), func(b []byte) ([]byte, error) {
		r, err := xz.NewReader(bytes.NewReader(b), 20<<20)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	})
}

func FuzzReadZstd(f *testing.F) {
	fuzz(f, Zstd, append(seeds(Zstd), []byte(zstdMagic+"\x00\x58\x03\x02\x00\x07")), func(b []byte) ([]byte, error) {
		r, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(20<<20))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	})
}

func FuzzReadLZ4(f *testing.F) {
	fuzz(f, LZ4, append(seeds(LZ4), []byte(lz4LegacyMagic+"\x06\x00\x00\x00\x50hello"+lz4LegacyMagic)), func(b []byte) ([]byte, error) {
		return io.ReadAll(lz4.NewReader(bytes.NewReader(b)))
	})
}

func FuzzReadZip(f *testing.F) {
	seeds := [][]byte{archive(f, zip.Deflate, "hi", "a/", "a/x=some data, some data"), wideArchive("ab", true, true, true, true), wideArchive("ab", false, false, false, false)}
	fuzz(f, Zip, seeds, func(b []byte) ([]byte, error) {
		r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return nil, err
		}
		for _, e := range r.File {
			// The name tells a folder, as for every unzip; archive/zip goes by the
			// attributes too, which only the directory at the end has.
			if strings.HasSuffix(e.Name, "/") {
				continue
			}
			c, err := e.Open()
			if err != nil {
				return nil, err
			}
			return io.ReadAll(c)
		}
		return nil, errNoFile
	})
}

func FuzzRecognise(f *testing.F) {
	for _, format := range []Format{Bzip2, Gzip, XZ, Zstd, LZ4} {
		for _, s := range seeds(format) {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		format := Recognise(head)
		if len(head) > HeadLen && Recognise(head[:HeadLen]) != format {
			t.Error("more than the head is looked at")
		}
		if format == Raw {
			return
		}
		// Whatever it is, it is no trouble to open it.
		if r, err := NewReader(bytes.NewReader(head), format, ReadOptions{Workers: 1, Memory: 20 << 20}); err == nil {
			r.Close()
		}
	})
}
