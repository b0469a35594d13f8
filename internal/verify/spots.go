package verify

import (
	"sort"
	"sync"

	"github.com/zeebo/xxh3"
)

// Grain is how far the spots of a block are apart, in bytes.
const Grain = 64 << 10

// Spots are digests of one page in every Grain bytes of the blocks of a run: that
// at each multiple of Grain. By them a sample of a card can be looked at without
// reading whole blocks, or the image again. They are short, 8 bytes each, 128
// bytes for a block of 1 MiB, and no proof of their own. One goroutine adds, any
// number look.
type Spots struct {
	mu    sync.RWMutex
	first []int // of each block: the number of the first spot in it, or after it
	offs  []int64
	sums  []uint64
}

// spotsIn returns the offset of the first spot in a block and how many there are.
func spotsIn(off, length int64) (first int64, n int) {
	first = (off + Grain - 1) / Grain * Grain
	for at := first; at+Page <= off+length; at += Grain {
		n++
	}
	return first, n
}

// Add takes the spots of the next block, whose bytes p belong at off.
func (s *Spots) Add(off int64, p []byte) {
	first, n := spotsIn(off, int64(len(p)))
	sums := make([]uint64, n)
	for k := range sums {
		sums[k] = spotSum(p[first-off+int64(k)*Grain:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first, s.offs = append(s.first, len(s.sums)), append(s.offs, first)
	s.sums = append(s.sums, sums...)
}

func spotSum(p []byte) uint64 { return xxh3.Hash(p[:Page]) }

// Len returns how many spots there are.
func (s *Spots) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.sums)
}

// At returns the offset of spot i.
func (s *Spots) At(i int) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := sort.SearchInts(s.first, i+1) - 1 // the last block that begins with i or before
	return s.offs[b] + int64(i-s.first[b])*Grain
}

// Find returns the spot at off, a multiple of Grain; ok is false if there is none.
func (s *Spots) Find(off int64) (i int, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := sort.Search(len(s.offs), func(b int) bool { return s.offs[b] > off }) - 1
	for ; b >= 0 && s.last(b) == s.first[b]; b-- { // blocks too short to have any
	}
	if b < 0 {
		return 0, false
	}
	i = s.first[b] + int((off-s.offs[b])/Grain)
	return i, i < s.last(b) && off%Grain == 0
}

// last returns the number just past the last spot of block b; s.mu is held.
func (s *Spots) last(b int) int {
	if b+1 < len(s.first) {
		return s.first[b+1]
	}
	return len(s.sums)
}

// Holds tells whether a page is what belongs at spot i.
func (s *Spots) Holds(i int, page []byte) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return spotSum(page) == s.sums[i]
}
