package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
)

// unpackers are the formats' own tools, which unpack standard input.
var unpackers = map[Format][][]string{
	Bzip2: {{"bzip2", "-dc"}, {"lbzip2", "-dc"}},
	Gzip:  {{"gzip", "-dc"}, {"pigz", "-dc"}},
	XZ:    {{"xz", "-dc", "-T2"}, {"xz", "-dc", "-T1"}},
	Zstd:  {{"zstd", "-dc"}, {"pzstd", "-dc"}},
	LZ4:   {{"lz4", "-dc"}},
	Raw:   {{"cat"}},
}

// pack packs data, written in bits of up to chunk bytes.
func pack(data []byte, f Format, o WriteOptions, chunk int) ([]byte, error) {
	var b bytes.Buffer
	w, err := NewWriter(&b, f, o)
	if err != nil {
		return nil, err
	}
	for len(data) > 0 && err == nil {
		n := min(chunk, len(data))
		_, err = w.Write(data[:n])
		data = data[n:]
	}
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

func TestOtherToolsUnpackWhatWasPacked(t *testing.T) {
	for f, commands := range unpackers {
		for _, size := range []int{0, 1, 70_000, max(some(5_000_001), 1_200_000)} {
			t.Run(fmt.Sprintf("%s of %d bytes", f, size), func(t *testing.T) {
				want := sample(7, size)
				o := WriteOptions{Workers: 3}
				if f == XZ {
					o.Level = 1 // smaller pieces, and more of them
				}
				packed, err := pack(want, f, o, 100_001)
				if err != nil {
					t.Fatal(err)
				}
				if got := Recognise(packed[:min(len(packed), HeadLen)]); got != f {
					t.Errorf("it is recognised as %s", got)
				}
				for _, c := range commands {
					if got := tool(t, packed, c[0], c[1:]...); !bytes.Equal(got, want) {
						t.Errorf("%s makes something else of it", c[0])
					}
				}
				if got, err := unpack(packed, f, ReadOptions{}); err != nil || !bytes.Equal(got, want) {
					t.Errorf("it does not come out again: %v", err)
				}
			})
		}
	}
}

func TestEveryLevelPacksWhatComesOutAgain(t *testing.T) {
	want := sample(8, some(300_000))
	for f := range unpackers {
		for level := range 10 {
			packed, err := pack(want, f, WriteOptions{Level: level, Workers: 2}, len(want))
			if err != nil {
				t.Errorf("%s, level %d: %v", f, level, err)
				continue
			}
			if got, err := unpack(packed, f, ReadOptions{}); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, level %d: it does not come out again: %v", f, level, err)
			}
		}
		if _, err := NewWriter(io.Discard, f, WriteOptions{Level: 99}); err == nil {
			t.Errorf("%s: level 99 is taken", f)
		}
	}
}
