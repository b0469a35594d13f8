package bzip2

import "math/bits"

const (
	blockMagic = 0x314159265359 // begins a block
	endMagic   = 0x177245385090 // ends the blocks of a stream
	magicBits  = 48
	magicBytes = magicBits / 8
)

// A finder looks for blockMagic at any bit of an input.
//
// Wherever the magic begins, bytes 1 to 5 after that place lie wholly inside
// it. Of the four pairs of neighbours among them one begins at a multiple of
// four, so it is enough to look at every fourth pair. Bit 4*s+k of first[b] and
// second[b] says that b may be byte k+1, or byte k+2, of a magic that begins
// at bit s of a byte.
type finder struct {
	in            *input
	first, second [256]uint32
}

func newFinder(in *input) *finder {
	f := &finder{in: in}
	for s := range 8 {
		w := uint64(blockMagic) << 16 >> s
		for k := range 4 {
			f.first[byte(w>>(48-8*k))] |= 1 << (4*s + k)
			f.second[byte(w>>(40-8*k))] |= 1 << (4*s + k)
		}
	}
	return f
}

// next returns where the first magic at or after the bit from begins. What the
// input wants no more is skipped. An error is the end of the input.
func (f *finder) next(from int64) (int64, error) {
	var seam [2 * magicBytes]byte // the end of one chunk and the begin of the next
	for {
		base := from / 8 / chunkSize * chunkSize
		p, err := f.in.pin(base)
		if err == errStale {
			if from = f.in.wanted() * 8; from < 0 {
				return 0, errClosed
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		at := f.find(p, int(from-base*8))
		n := copy(seam[:], p[max(0, len(p)-magicBytes):])
		f.in.unpin(base)
		if at >= 0 {
			return base*8 + int64(at), nil
		}
		end := base + int64(len(p))
		from = max(from, (end-int64(n))*8+1) // the whole seam was searched from bit 0
		if p, err = f.in.pin(end); err == errStale {
			continue
		} else if err != nil {
			return 0, err
		}
		n += copy(seam[n:], p[:min(len(p), magicBytes)])
		f.in.unpin(end)
		base = end - magicBytes
		if at = f.find(seam[:n], int(from-base*8)); at >= 0 && at < magicBits {
			return base*8 + int64(at), nil
		}
		from = max(from, end*8)
	}
}

// find returns the first bit of p, not before from, where the magic begins, or
// -1 if it does not lie in p.
func (f *finder) find(p []byte, from int) int {
	for j := (from/8 + 4) / 4 * 4; j+1 < len(p); j += 4 {
		if m := f.first[p[j]] & f.second[p[j+1]]; m != 0 {
			if at := match(p, j, m, from); at >= 0 {
				return at
			}
		}
	}
	return -1
}

// match returns the first of the places in m, relative to byte j of p, that is
// not before from and has the whole magic, or -1.
func match(p []byte, j int, m uint32, from int) int {
	best := -1
	for ; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		at := (j-1-i%4)*8 + i/4
		if at >= from && (best < 0 || at < best) && hasMagic(p, at) {
			best = at
		}
	}
	return best
}

func hasMagic(p []byte, at int) bool {
	if at < 0 || at+magicBits > 8*len(p) {
		return false
	}
	v := uint64(0)
	for _, b := range p[at/8 : (at+magicBits+7)/8] {
		v = v<<8 | uint64(b)
	}
	spare := (8 - (at+magicBits)%8) % 8
	return v>>spare&(1<<magicBits-1) == blockMagic
}
