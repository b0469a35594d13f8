// Package verify is the proof: digests gathered while a card is written, what a
// read-back that differs means, the card's real capacity, and the reasons of a
// verdict. It does not know who asked, or why.
//
// Digests are XXH3 with 128 bits (https://github.com/Cyan4973/xxHash, "XXH3"):
// a card that garbles data does not forge it, and every card's read-back is
// digested, so the digest must cost next to nothing. The identity of an image is
// a cryptographic digest and belongs to package image.
package verify

import (
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/zeebo/xxh3"

	"multidd/internal/block"
)

// Page is how finely a bad range is told, in bytes.
const Page = 4096

// Sum returns the digest of p.
func Sum(p []byte) block.Digest { return xxh3.Hash128(p).Bytes() }

// An Entry is the proof of one block.
type Entry struct {
	block.Extent
	Sum block.Digest
}

// A Record holds the proof of every block of a run, in ascending order of their
// offsets. It takes 32 bytes a block. One goroutine adds, any number look.
type Record struct {
	mu      sync.RWMutex
	entries []Entry
	bytes   int64
}

// Add appends the proof of the next block.
func (r *Record) Add(e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
	r.bytes += e.Len
}

// At returns the proof of block i.
func (r *Record) At(i int) Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.entries[i]
}

// Len returns how many blocks there are.
func (r *Record) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.entries)
}

// Bytes returns how many bytes the blocks hold together.
func (r *Record) Bytes() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.bytes
}

// Find returns which block, in a record of ascending ones, has the byte at off;
// ok is false if none has.
func (r *Record) Find(off int64) (i int, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	i = sort.Search(len(r.entries), func(i int) bool { return r.entries[i].End() > off })
	return i, i < len(r.entries) && r.entries[i].Off <= off
}

// Proofs are what is to be proved of one card: a Record, or one with a few blocks
// of the card's own.
type Proofs interface {
	Len() int
	At(i int) Entry
}

// owners returns for each digest that a bad block gave the offset of the block that
// it belongs to; several is set if there are more than one.
func owners(p Proofs, bad []Bad) map[block.Digest]owner {
	found := make(map[block.Digest]owner, len(bad))
	for _, b := range bad {
		found[b.Got] = owner{off: -1}
	}
	for i := range p.Len() {
		e := p.At(i)
		if o, ok := found[e.Sum]; ok {
			found[e.Sum] = owner{e.Off, o.off >= 0}
		}
	}
	return found
}

type owner struct {
	off     int64 // -1: none
	several bool
}

// A Bad is a block that did not read back as it was written.
type Bad struct {
	Index int // in the Proofs; -1: it is not in there
	Entry
	Got block.Digest // of what was read
	// First and Last are the offsets of the first and just past the last bad
	// byte, where the block's bytes could be had again to compare with;
	// otherwise the bounds of the block.
	First, Last int64
}

func (b Bad) String() string {
	return fmt.Sprintf("bytes %d to %d (block at %d: expected %v, got %v)", b.First, b.Last-1, b.Off, b.Sum, b.Got)
}

// An UnstableError says that a place reads differently each time.
type UnstableError struct{ Extent block.Extent }

func (e *UnstableError) Error() string {
	return fmt.Sprintf("%v read differently each time", e.Extent)
}

// Reason returns UnstableRead.
func (e *UnstableError) Reason() string { return string(UnstableRead) }

// rereads is how often a block is read again before it is called bad.
const rereads = 3

// Reexamine reads a block again that has just read back as got instead of as its
// entry says. If it reads the same each time it is Bad. If it does not, even if
// it comes out right in the end, the error is an *UnstableError: what a card
// gives only now and then is not stored on it. buf holds at least the block.
func Reexamine(card io.ReaderAt, i int, e Entry, got block.Digest, buf []byte) (Bad, error) {
	for range rereads {
		if _, err := card.ReadAt(buf[:e.Len], e.Off); err != nil {
			return Bad{}, err
		}
		if Sum(buf[:e.Len]) != got {
			return Bad{}, &UnstableError{e.Extent}
		}
	}
	return Bad{Index: i, Entry: e, Got: got, First: e.Off, Last: e.End()}, nil
}

// Narrow sets First and Last by comparing what the card gave with what it was
// given. Both are the block's length.
func (b *Bad) Narrow(want, got []byte) {
	first := 0
	for first < len(want) && want[first] == got[first] {
		first++
	}
	last := len(want)
	for last > first && want[last-1] == got[last-1] {
		last--
	}
	if first < last {
		b.First, b.Last = b.Off+int64(first), b.Off+int64(last)
	}
}

// A CapacityError says that a card holds less than it claims.
type CapacityError struct {
	Real int64 // about how many bytes it holds; -1 if that is not known
	Wrap bool  // writes beyond come out at the beginning again
}

func (e *CapacityError) Error() string {
	how := "what is written beyond vanishes"
	if e.Wrap {
		how = "what is written beyond overwrites the beginning"
	}
	if e.Real < 0 {
		return "the card holds less than it says: " + how
	}
	return fmt.Sprintf("the card really holds about %d MB: %s", e.Real/1e6, how)
}

// Reason returns FakeCapacity.
func (e *CapacityError) Reason() string { return string(FakeCapacity) }

// Offset returns about where the card really ends, in bytes; -1 if that is not
// known.
func (e *CapacityError) Offset() int64 { return e.Real }

// Diagnose looks for a pattern in what read back wrong after the whole card was
// written. It returns a *CapacityError if the card seems to hold less than it
// says, and nil if the bad blocks are just bad.
func Diagnose(p Proofs, bad []Bad) error {
	if len(bad) == 0 {
		return nil
	}
	// A block that holds what belongs to just one other, later place: the
	// address wrapped around in between, once or several times.
	owners, wrap := owners(p, bad), int64(0)
	for _, b := range bad {
		if o := owners[b.Got]; o.off > b.Off && !o.several && (wrap == 0 || o.off-b.Off < wrap) {
			wrap = o.off - b.Off
		}
	}
	if wrap > 0 {
		return &CapacityError{Real: wrap, Wrap: true}
	}
	// Good up to one block and bad from there to the end: limbo. Equal blocks,
	// such as those of zeros, may look right in limbo by chance.
	const few = 8
	n := p.Len()
	first := bad[0].Index
	if first <= 0 || len(bad) < few || bad[len(bad)-1].Index < n-few {
		return nil
	}
	if 4*len(bad) < 3*(n-first) {
		return nil
	}
	return &CapacityError{Real: bad[0].First}
}
