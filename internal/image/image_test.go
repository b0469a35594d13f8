package image

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/codec"
	"multidd/internal/duplicate"
)

var (
	_ duplicate.Source   = (*Reader)(nil)
	_ duplicate.Rereader = (*Reader)(nil)
)

// disk returns the bytes of a disk: noise and zeros in turn, from a fixed seed.
func disk(seed byte, size int) []byte {
	noise := rand.NewChaCha8([32]byte{seed})
	r := rand.New(noise)
	b := make([]byte, size)
	for at := 0; at < size; {
		n := min(1+r.IntN(200<<10), size-at)
		if at == 0 || r.IntN(3) > 0 {
			_, _ = noise.Read(b[at : at+n])
		}
		at += n
	}
	return b
}

// pack packs data. What it makes can be unpacked only in order.
func pack(t testing.TB, f codec.Format, data []byte) []byte {
	t.Helper()
	b := packSeekable(t, f, data)
	if f == codec.Zstd { // without the table at its end, it is a plain file
		n := binary.LittleEndian.Uint32(b[len(b)-9:])
		b = b[:len(b)-int(17+12*n)]
	}
	return b
}

// packSeekable packs data as codec does.
func packSeekable(t testing.TB, f codec.Format, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch f {
	case codec.Gzip:
		w = gzip.NewWriter(&out)
	case codec.Zip:
		z := zip.NewWriter(&out)
		e, err2 := z.Create("disk.img")
		if err2 != nil {
			t.Fatal(err2)
		}
		w = struct {
			io.Writer
			io.Closer
		}{e, z}
	default:
		w, err = codec.NewWriter(&out, f, codec.WriteOptions{Workers: 1})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// place writes a file into a new directory and returns its path.
func place(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	write(t, path, data)
	return path
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func sha(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// open opens an image that is to be closed at the end of the test.
func open(t testing.TB, name string, o Options) *Image {
	t.Helper()
	im, err := Open(t.Context(), name, o)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	t.Cleanup(func() { _ = im.Close() })
	return im
}

// newPool returns a pool that the test gives back, and at whose end every buffer
// must be there again.
func newPool(t testing.TB, n, size int) *block.Pool {
	p := block.NewPool(n, size)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var all [][]byte
		for range p.Len() {
			b, err := p.Get(ctx)
			if err != nil {
				t.Error("a buffer was not given back")
				return
			}
			all = append(all, b)
		}
		for _, b := range all {
			p.Put(b)
		}
		p.Close()
	})
	return p
}

const (
	bufSize = 128 << 10
	buffers = Held + 2
)

// result is what a Reader gave.
type result struct {
	data   []byte // as a disk of zeros that the blocks were written to
	blocks []block.Extent
	err    error // that ended it
}

// readAll takes all blocks of r.
func readAll(t testing.TB, r *Reader, size int) result {
	t.Helper()
	res := result{data: make([]byte, size)}
	for {
		b, err := r.Next(t.Context())
		if err != nil {
			res.err = err
			if _, again := r.Next(t.Context()); again != err {
				t.Errorf("after the error %v came %v", err, again)
			}
			return res
		}
		e := b.Extent()
		res.blocks = append(res.blocks, e)
		if n := int(e.End()); n > len(res.data) {
			res.data = append(res.data, make([]byte, n-len(res.data))...)
		}
		copy(res.data[e.Off:], b.Data)
		b.Release()
	}
}

// read opens an image, reads all of it and closes it.
func read(t testing.TB, name string, o Options, limit int64) (result, string) {
	t.Helper()
	im := open(t, name, o)
	r := im.Reader(newPool(t, buffers, bufSize), limit)
	defer r.Close()
	return readAll(t, r, 0), r.Digest()
}

// wantBad checks that err says that the image is bad, and why.
func wantBad(t testing.TB, err error, reason, text string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		t.Errorf("got %v, want an *Error", err)
	case e.Reason() != reason:
		t.Errorf("reason is %s, want %s: %v", e.Reason(), reason, err)
	case !bytes.Contains([]byte(err.Error()), []byte(text)):
		t.Errorf("got %q, want it to say %q", err, text)
	}
}

var packedFormats = []codec.Format{codec.Bzip2, codec.Gzip, codec.XZ, codec.Zstd, codec.LZ4, codec.Zip}
