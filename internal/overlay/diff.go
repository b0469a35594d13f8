package overlay

import (
	"bytes"
	"fmt"
	"io"

	"multidd/internal/block"
)

const (
	// pieceSize is the most bytes of a piece that Diff and Take make.
	pieceSize = 1 << 20
	// MaxBytes is the most that the pieces of one Diff or Take may take of memory, in
	// bytes. Zeros take none.
	MaxBytes = 64 << 20
)

// Diff returns what of edited is not as in base, as the pieces that make the one
// of the other: of the extents named, in ascending order, each unit (a multiple of
// so many bytes, and as long, cut where an extent begins or ends) that differs in
// any byte. A reader that ends too early differs from there on, if it is base;
// edited must have all. The pieces are ready for New, and of at most MaxBytes.
func Diff(base, edited io.ReaderAt, where []block.Extent, unit int) ([]block.Block, error) {
	var c collector
	old, now := make([]byte, pieceSize), make([]byte, pieceSize)
	for _, e := range where {
		for at := e.Off; at < e.End(); {
			// Pieces end at multiples of their size, so that units are not cut.
			n := min(e.End(), at-at%pieceSize+pieceSize) - at
			if err := readFull(edited, now[:n], at); err != nil {
				return nil, fmt.Errorf("read the edited copy: %w", err)
			}
			have, err := base.ReadAt(old[:n], at)
			if err != nil && err != io.EOF {
				return nil, fmt.Errorf("read the disk at byte %d: %w", at, err)
			}
			if err := c.compare(at, old[:have], now[:n], unit); err != nil {
				return nil, err
			}
			at += n
		}
	}
	return c.pieces, nil
}

// Take returns the extents of a disk, in ascending order, as pieces, whatever was
// there before. They are ready for New, and of at most MaxBytes.
func Take(r io.ReaderAt, where []block.Extent) ([]block.Block, error) {
	var c collector
	buf := make([]byte, pieceSize)
	for _, e := range where {
		for at := e.Off; at < e.End(); {
			n := min(e.End(), at-at%pieceSize+pieceSize) - at
			if err := readFull(r, buf[:n], at); err != nil {
				return nil, fmt.Errorf("read the edited copy: %w", err)
			}
			if err := c.add(at, buf[:n]); err != nil {
				return nil, err
			}
			at += n
		}
	}
	return c.pieces, nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("at byte %d: %w", off+int64(n), err)
}

// A collector gathers pieces.
type collector struct {
	pieces []block.Block
	bytes  int64  // that the pieces take of memory
	zeros  []byte // the memory that all pieces of zeros share
}

// compare adds the units of now that are not as in old, which may be shorter.
func (c *collector) compare(at int64, old, now []byte, unit int) error {
	begin := -1 // of the run of units that differ; -1: there is none
	for i := 0; i < len(now); {
		end := min(len(now), i+unit-int((at+int64(i))%int64(unit)))
		same := end <= len(old) && bytes.Equal(old[i:end], now[i:end])
		switch {
		case !same && begin < 0:
			begin = i
		case same && begin >= 0:
			if err := c.add(at+int64(begin), now[begin:i]); err != nil {
				return err
			}
			begin = -1
		}
		i = end
	}
	if begin < 0 {
		return nil
	}
	return c.add(at+int64(begin), now[begin:])
}

// grain is the least run of zeros that is a piece of its own, in bytes.
const grain = 16 << 10

// add adds a copy of the data, as pieces of zeros and of other bytes.
func (c *collector) add(off int64, data []byte) error {
	if c.zeros == nil {
		c.zeros = make([]byte, pieceSize)
	}
	for len(data) > 0 {
		zero := c.isZero(off, data)
		n := 0
		for n < len(data) && c.isZero(off+int64(n), data[n:]) == zero {
			n += c.grain(off+int64(n), data[n:])
		}
		piece := c.zeros[:n:n]
		if !zero {
			if c.bytes += int64(n); c.bytes > MaxBytes {
				return fmt.Errorf("more than %d MiB of the disk would differ from one card to the next", MaxBytes>>20)
			}
			piece = bytes.Clone(data[:n])
		}
		c.pieces = append(c.pieces, block.New(off, piece, nil))
		off, data = off+int64(n), data[n:]
	}
	return nil
}

// grain returns how many of the bytes are in the grain that the first is in.
func (c *collector) grain(off int64, data []byte) int { return min(len(data), int(grain-off%grain)) }

// isZero tells whether the grain that the data begins with is zeros.
func (c *collector) isZero(off int64, data []byte) bool {
	n := c.grain(off, data)
	return bytes.Equal(data[:n], c.zeros[:n])
}
