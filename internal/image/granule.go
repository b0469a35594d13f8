package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"multidd/internal/block"
)

// A copy in the store has a checksum for every granule of it, so that one that
// has rotted on its disk is noticed before its bytes are handed on. They guard
// against accidents; that the copy is what the image unpacks to, the SHA-256 of
// the whole proves at its end.
const granule = 64 << 10 // bytes

// errDamaged is the error of a copy that is not what was written to it.
var errDamaged = errors.New("not what was written there")

// granules are the checksums of a copy that is being written.
type granules struct {
	crc  []uint32 // CRC-32 (IEEE) of each whole granule
	part uint32   // of the one that has begun
	n    int64    // bytes so far
}

func (g *granules) add(p []byte) {
	for len(p) > 0 {
		k := min(int64(len(p)), granule-g.n%granule)
		g.part = crc32.Update(g.part, crc32.IEEETable, p[:k])
		if g.n += k; g.n%granule == 0 {
			g.finish()
		}
		p = p[k:]
	}
}

// finish ends the granule that has begun.
func (g *granules) finish() { g.crc, g.part = append(g.crc, g.part), 0 }

// end adds the last granule, which may be short.
func (g *granules) end() {
	if g.n%granule != 0 {
		g.finish()
	}
}

// packSums returns checksums as they are kept: four bytes each, big-endian.
func packSums(crc []uint32) []byte {
	b := make([]byte, 0, 4*len(crc))
	for _, c := range crc {
		b = binary.BigEndian.AppendUint32(b, c)
	}
	return b
}

// unpackSums returns the checksums of a copy of size bytes.
func unpackSums(b []byte, size int64) ([]uint32, error) {
	if int64(len(b)) != 4*((size+granule-1)/granule) {
		return nil, fmt.Errorf("%d bytes of checksums are not those of %d bytes", len(b), size)
	}
	crc := make([]uint32, len(b)/4)
	for i := range crc {
		crc[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return crc, nil
}

// readChecked reads p, which lies within the size bytes of a copy, and compares
// the checksums of all granules it touches, those that crc has. What the file
// is too short for was zeros.
func readChecked(f io.ReaderAt, crc []uint32, size int64, p []byte, off int64) (int, error) {
	if err := readPadded(f, p, off); err != nil {
		return 0, err
	}
	want := block.Extent{Off: off, Len: int64(len(p))}
	var scratch []byte
	for i := off / granule; i*granule < want.End() && i < int64(len(crc)); i++ {
		g := block.Extent{Off: i * granule, Len: min(granule, size-i*granule)}
		in := g.Intersect(want)
		b := p[in.Off-off : in.End()-off]
		if in != g {
			if scratch == nil {
				scratch = make([]byte, granule)
			}
			if err := readPadded(f, scratch[:g.Len], g.Off); err != nil {
				return 0, err
			}
			copy(b, scratch[in.Off-g.Off:])
			b = scratch[:g.Len]
		}
		if crc32.ChecksumIEEE(b) != crc[i] {
			return 0, fmt.Errorf("%v of the copy: %w", g, errDamaged)
		}
	}
	return len(p), nil
}

// readPadded fills p, with zeros beyond the end of the file.
func readPadded(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return err
	}
	clear(p[n:])
	return nil
}
