package jffs2

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Ways in which a piece can be packed.
const (
	packNone  = 0
	packZero  = 1 // all zeros: a hole
	packRtime = 2
	packZlib  = 6
	packLZO   = 7
)

// maxPiece is the most that a piece can hold, in bytes: a page, of which Linux has none
// that are larger.
const maxPiece = 64 << 10

// A part is what of a file a piece is there for: the bytes from off to end.
type part struct {
	off, end int64
	piece    piece
}

// resolve lays the pieces of a file over one another, in the order of their versions, and
// returns what is left of them in the order of their places. All of the file must be
// there. holes tells whether some of it is one. Hostile pieces cost no more than the
// sorting of them.
func resolve(pieces []piece, size int64) (parts []part, holes bool, err error) {
	pieces = slices.Clone(pieces)
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	var over newest // the pieces that are there for byte at, and some that have ended
	for at := int64(0); at < size; {
		for len(pieces) > 0 && int64(pieces[0].off) <= at {
			heap.Push(&over, pieces[0])
			pieces = pieces[1:]
		}
		for len(over) > 0 && over[0].end() <= at {
			heap.Pop(&over)
		}
		next := size
		if len(pieces) > 0 {
			next = min(next, int64(pieces[0].off))
		}
		if len(over) == 0 {
			return nil, false, fmt.Errorf("its bytes %d to %d are missing", at, next)
		}
		top := over[0]
		next = min(next, top.end())
		if n := len(parts); n > 0 && parts[n-1].piece == top {
			parts[n-1].end = next
		} else {
			parts = append(parts, part{at, next, top})
		}
		holes = holes || top.packing == packZero
		at = next
	}
	return parts, holes, nil
}

// newest is a heap of pieces with the newest on top: of one version, that which comes
// last in the log.
type newest []piece

func (h newest) Len() int { return len(h) }
func (h newest) Less(i, j int) bool {
	return h[i].version > h[j].version || h[i].version == h[j].version && h[i].at > h[j].at
}
func (h newest) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *newest) Push(x any)   { *h = append(*h, x.(piece)) }
func (h *newest) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// A reader reads the content of a file.
type reader struct {
	s     *scanner
	parts []part
	have  []byte // what comes next, unpacked
}

func (r *reader) Read(p []byte) (int, error) {
	if len(r.have) == 0 {
		if len(r.parts) == 0 {
			return 0, io.EOF
		}
		x := &r.parts[0]
		if x.piece.packing == packZero {
			n := int(min(int64(len(p)), x.end-x.off))
			clear(p[:n])
			if x.off += int64(n); x.off == x.end {
				r.parts = r.parts[1:]
			}
			return n, nil
		}
		data, err := r.s.unpack(x.piece)
		if err != nil {
			return 0, err
		}
		r.have, r.parts = data[x.off-int64(x.piece.off):x.end-int64(x.piece.off)], r.parts[1:]
	}
	n := copy(p, r.have)
	r.have = r.have[n:]
	return n, nil
}

// unpack returns the bytes of a piece: exactly as many as it says.
func (s *scanner) unpack(p piece) ([]byte, error) {
	if p.to > maxPiece {
		return nil, fmt.Errorf("the node at byte %d holds %d bytes, and %d is the most", p.at-inodeLen, p.to, maxPiece)
	}
	packed := make([]byte, p.from)
	if _, err := s.r.ReadAt(packed, p.at); err != nil && err != io.EOF {
		return nil, err
	}
	data, err := unpack(p.packing, packed, int(p.to))
	if err != nil {
		return nil, fmt.Errorf("unpack the node at byte %d: %w", p.at-inodeLen, err)
	}
	return data, nil
}

var errPacking = errors.New("its packing is damaged")

func unpack(packing uint8, p []byte, n int) ([]byte, error) {
	switch packing {
	case packNone:
		if len(p) != n {
			return nil, errPacking
		}
		return p, nil
	case packZero:
		return make([]byte, n), nil
	case packRtime:
		return unpackRtime(p, n)
	case packLZO:
		return unpackLZO(p, n)
	case packZlib:
		z, err := zlib.NewReader(bytes.NewReader(p))
		if err != nil {
			return nil, errPacking
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(z, data); err != nil {
			return nil, errPacking
		}
		return data, nil
	}
	return nil, fmt.Errorf("it is packed in a way (%d) that is not known here", packing)
}

// unpackRtime: each byte is followed by how many bytes come again that followed it
// the last time.
func unpackRtime(p []byte, n int) ([]byte, error) {
	var last [256]int // behind the last place of each byte
	out := make([]byte, 0, n)
	for len(out) < n {
		if len(p) < 2 {
			return nil, errPacking
		}
		value, again := p[0], int(p[1])
		p = p[2:]
		from := last[value]
		out = append(out, value)
		last[value] = len(out)
		if len(out)+again > n {
			return nil, errPacking
		}
		for i := range again { // they may overlap
			out = append(out, out[from+i])
		}
	}
	return out, nil
}
