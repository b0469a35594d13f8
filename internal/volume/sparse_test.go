package volume

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
)

// A sparseDisk is a disk in memory of which few blocks are not zero. Among the test
// data such disks are kept packed by gzip: of each block of 4 KiB its offset (8 bytes,
// lowest first) and its content.
type sparseDisk struct {
	size   int64
	blocks map[int64][]byte // by offset
}

const sparseBlock = 4096

// readSparse reads a disk of some size from the test data.
func readSparse(tb testing.TB, name string, size int64) *sparseDisk {
	tb.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	d := &sparseDisk{size, map[int64][]byte{}}
	for {
		b := make([]byte, 8+sparseBlock)
		if _, err := io.ReadFull(z, b); errors.Is(err, io.EOF) {
			return d
		} else if err != nil {
			tb.Fatal(err)
		}
		d.blocks[int64(binary.LittleEndian.Uint64(b))] = b[8:]
	}
}

func (d *sparseDisk) clone() *sparseDisk {
	c := &sparseDisk{d.size, map[int64][]byte{}}
	for at, b := range d.blocks {
		c.blocks[at] = append([]byte(nil), b...)
	}
	return c
}

// at returns the bytes from an offset to the end of its block, to be read or changed.
func (d *sparseDisk) at(off int64) []byte {
	start := off &^ (sparseBlock - 1)
	if d.blocks[start] == nil {
		d.blocks[start] = make([]byte, sparseBlock)
	}
	return d.blocks[start][off-start:]
}

// ReadAt does not change the disk, so that several may read it.
func (d *sparseDisk) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < d.size {
		start := off &^ (sparseBlock - 1)
		piece := p[n:min(int64(len(p)), int64(n)+min(start+sparseBlock, d.size)-off)]
		if b := d.blocks[start]; b != nil {
			copy(piece, b[off-start:])
		} else {
			clear(piece)
		}
		n += len(piece)
		off += int64(len(piece))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// writeFile writes the disk to a file, with holes.
func (d *sparseDisk) writeFile(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for at, b := range d.blocks {
		if _, err := f.WriteAt(b, at); err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.Truncate(d.size); err != nil {
		tb.Fatal(err)
	}
}
