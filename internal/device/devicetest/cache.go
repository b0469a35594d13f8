package devicetest

import (
	"container/list"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

// sheetSize is the size of the pieces that the caches hold and lose, in bytes.
const sheetSize = 4096

// sheets are parts of a disk laid over what is further inside, by number.
type sheets map[int64][]byte

// read reads what is inside and lays the sheets over it. touched is called with
// the number of each sheet that was used.
func (s sheets) read(op Op, next Next, touched func(int64)) (int, error) {
	n, err := next(op)
	eachPage(op.Data, op.Off, sheetSize, func(sheet, at int64, part []byte) {
		if b := s[sheet]; b != nil {
			copy(part, b[at:])
			touched(sheet)
		}
	})
	return n, err
}

// write puts op's bytes on sheets. A part of a sheet is completed with what is
// inside.
func (s sheets) write(op Op, next Next, touched func(int64)) (int, error) {
	var failed error
	eachPage(op.Data, op.Off, sheetSize, func(sheet, at int64, part []byte) {
		if failed != nil {
			return
		}
		b := s[sheet]
		if b == nil {
			b = make([]byte, min(sheetSize, op.size-sheet*sheetSize))
			if len(part) < len(b) {
				inner := Op{N: op.N, Kind: Read, Off: sheet * sheetSize, Data: b, power: op.power}
				if _, failed = next(inner); failed != nil {
					return
				}
			}
			s[sheet] = b
		}
		copy(b[at:], part)
		touched(sheet)
	})
	if failed != nil {
		return 0, failed
	}
	return len(op.Data), nil
}

// Cache is a card that keeps nothing but has a cache: the last n bytes written to
// it, in pieces of 4 KiB, are read back right until the power goes, the rest is
// lost.
func Cache(n int64) Fault {
	return &cache{most: int(n / sheetSize), held: make(sheets), where: make(map[int64]*list.Element)}
}

type cache struct {
	most int // number of sheets held

	mu    sync.Mutex
	held  sheets
	used  list.List // of int64, numbers of sheets; the one used last is at the front
	where map[int64]*list.Element
}

func (c *cache) Do(op Op, next Next) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := op.power.err(); err != nil {
		return 0, err
	}
	switch op.Kind {
	case Read:
		return c.held.read(op, next, c.touch)
	case Write:
		return c.held.write(op, next, c.touch)
	}
	return next(op)
}

// touch makes sheet the one used last, and forgets the one not used for longest if
// there are too many.
func (c *cache) touch(sheet int64) {
	if e := c.where[sheet]; e != nil {
		c.used.MoveToFront(e)
		return
	}
	c.where[sheet] = c.used.PushFront(sheet)
	if c.used.Len() > c.most {
		oldest := c.used.Remove(c.used.Back()).(int64)
		delete(c.where, oldest)
		delete(c.held, oldest)
	}
}

// cut forgets everything.
func (c *cache) cut(Next) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.held)
	clear(c.where)
	c.used.Init()
}

// Volatile is an honest card with a cache: what is written stays in it until a
// Sync. When the power goes, each piece of 4 KiB that was not flushed is lost or
// kept by the toss of a coin; which ones depends on the seed, on the piece's place
// and on how many cuts there were before, not on the order of writes.
func Volatile(seed uint64) Fault {
	return &volatileCache{seed: seed, dirty: make(sheets)}
}

type volatileCache struct {
	seed uint64

	mu    sync.Mutex
	dirty sheets
	cuts  uint64
}

func (c *volatileCache) Do(op Op, next Next) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := op.power.err(); err != nil {
		return 0, err
	}
	switch op.Kind {
	case Read:
		return c.dirty.read(op, next, func(int64) {})
	case Write:
		return c.dirty.write(op, next, func(int64) {})
	}
	if err := c.flushLocked(op, next, func(int64) bool { return true }); err != nil {
		return 0, err
	}
	return next(op)
}

// flushLocked writes what is dirty, in ascending order, as far as keep says so.
func (c *volatileCache) flushLocked(op Op, next Next, keep func(sheet int64) bool) error {
	for _, sheet := range slices.Sorted(maps.Keys(c.dirty)) {
		if keep(sheet) {
			w := Op{N: op.N, Kind: Write, Off: sheet * sheetSize, Data: c.dirty[sheet], power: op.power}
			if _, err := next(w); err != nil {
				return err
			}
		}
		delete(c.dirty, sheet)
	}
	return nil
}

func (c *volatileCache) cut(next Next) {
	c.mu.Lock()
	defer c.mu.Unlock()
	toss := func(sheet int64) bool {
		rng := rand.NewPCG(c.seed+c.cuts, uint64(sheet))
		return rng.Uint64()&1 == 0
	}
	// A write that fails inside is lost like any other.
	_ = c.flushLocked(Op{}, next, toss)
	clear(c.dirty)
	c.cuts++
}
