package duplicate

import (
	"cmp"
	"context"
	"slices"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// proofs are what is read back, and how many bytes that is.
type proofs interface {
	verify.Proofs
	Bytes() int64
}

// claims are what a lane has to prove: the blocks that all lanes share, of which a
// few may have digests of its own, and behind them its own pieces. Only the lane's
// goroutine uses them.
type claims struct {
	shared *verify.Record
	own    map[int]block.Digest // of shared blocks over which the lane's patch lies
	extra  []verify.Entry       // in places where the source gave nothing
}

func (c *claims) Len() int { return c.shared.Len() + len(c.extra) }

func (c *claims) At(i int) verify.Entry {
	if n := c.shared.Len(); i >= n {
		return c.extra[i-n]
	}
	e := c.shared.At(i)
	if sum, ok := c.own[i]; ok {
		e.Sum = sum
	}
	return e
}

func (c *claims) Bytes() int64 { return c.shared.Bytes() + bytesOf(c.extra) }

// find returns which block or piece has the byte at off.
func (c *claims) find(off int64) (i int, ok bool) {
	if i, ok = c.shared.Find(off); ok {
		return i, true
	}
	for i, e := range c.extra {
		if e.Off <= off && off < e.End() {
			return c.shared.Len() + i, true
		}
	}
	return 0, false
}

// setSum notes the digest of block or piece i.
func (c *claims) setSum(i int, sum block.Digest) {
	if n := c.shared.Len(); i >= n {
		c.extra[i-n].Sum = sum
		return
	}
	if c.own == nil {
		c.own = make(map[int]block.Digest)
	}
	c.own[i] = sum
}

func bytesOf(entries []verify.Entry) int64 {
	var n int64
	for _, e := range entries {
		n += e.Len
	}
	return n
}

// takeHead finds out what belongs into the first MiB of this card.
func (l *lane) takeHead() {
	l.head = l.r.head
	if !l.plain {
		l.more.Add(-l.headBytes())
	}
	if l.patch == nil {
		return
	}
	l.head = make([]block.Block, len(l.r.head))
	for i, h := range l.r.head {
		l.head[i] = l.patch.Apply(block.New(h.Off, h.Data, nil))
	}
	for _, e := range outside(l.pieces, extentsOf(l.r.head)) {
		if e = e.Intersect(block.Extent{Len: block.HeadSize}); e.Len > 0 {
			b := block.New(e.Off, make([]byte, e.Len), nil)
			l.head = append(l.head, l.patch.Apply(b))
		}
	}
	slices.SortFunc(l.head, func(a, b block.Block) int { return cmp.Compare(a.Off, b.Off) })
}

// headBytes returns how much is withheld.
func (l *lane) headBytes() int64 {
	var n int64
	for _, h := range l.head {
		n += int64(len(h.Data))
	}
	return n
}

func extentsOf(blocks []block.Block) []block.Extent {
	extents := make([]block.Extent, len(blocks))
	for i, b := range blocks {
		extents[i] = b.Extent()
	}
	return extents
}

// extents returns where the blocks and pieces are, in ascending order.
func (c *claims) extents() []block.Extent {
	extents := make([]block.Extent, c.Len())
	for i := range extents {
		extents[i] = c.At(i).Extent
	}
	sortExtents(extents)
	return extents
}

func sortExtents(extents []block.Extent) {
	slices.SortFunc(extents, func(a, b block.Extent) int { return cmp.Compare(a.Off, b.Off) })
}

// outside returns the parts of want that lie in none of have. Both are in ascending
// order, and those of have do not overlap.
func outside(want, have []block.Extent) []block.Extent {
	var out []block.Extent
	for _, e := range want {
		for len(have) > 0 && have[0].End() <= e.Off {
			have = have[1:]
		}
		for _, h := range have {
			if h.Off >= e.End() {
				break
			}
			if h.Off > e.Off {
				out = append(out, block.Extent{Off: e.Off, Len: h.Off - e.Off})
			}
			e = block.Extent{Off: h.End(), Len: e.End() - h.End()}
		}
		if e.Len > 0 {
			out = append(out, e)
		}
	}
	return out
}

// beyond returns the parts of some extents that lie at off and after it.
func beyond(extents []block.Extent, off int64) []block.Extent {
	return outside(extents, []block.Extent{{Len: off}})
}

// patched returns the piece with the lane's patch laid over it. The piece is the
// lane's own then, in a buffer of the pool.
func (l *lane) patched(ctx context.Context, p piece) (piece, error) {
	e := block.Extent{Off: p.off, Len: int64(len(p.data))}
	i, _ := slices.BinarySearchFunc(l.pieces, p.off, func(piece block.Extent, off int64) int { return cmp.Compare(piece.End(), off+1) })
	if i == len(l.pieces) || l.pieces[i].Intersect(e).Len == 0 {
		return p, nil
	}
	b := l.patch.Apply(block.New(p.off, p.data, p.release))
	l.claims.setSum(p.entry, verify.Sum(b.Data))
	// Of one that is only looked at, or that nothing differs in, no copy is needed;
	// for the latter the lane would hold two buffers meanwhile.
	if l.delta || &b.Data[0] == &p.data[0] {
		return piece{data: b.Data, off: b.Off, release: b.Release, entry: p.entry}, nil
	}
	defer b.Release()
	buf, err := l.r.pool.Get(ctx)
	if err != nil {
		return piece{}, err
	}
	return piece{data: buf[:copy(buf, b.Data)], off: b.Off, release: func() { l.r.pool.Put(buf) }, entry: p.entry}, nil
}

// lay lays the lane's patch over bytes that are its own.
func (l *lane) lay(p []byte, off int64) {
	if l.patch == nil || len(p) == 0 {
		return
	}
	b := l.patch.Apply(block.New(off, p, nil))
	if &b.Data[0] != &p[0] {
		copy(p, b.Data)
	}
	b.Release()
}

// fetch gets the bytes of one of the lane's blocks or pieces once more, or those of
// a part of one.
func (l *lane) fetch(p []byte, e verify.Entry) error {
	if _, shared := l.r.record.Find(e.Off); shared {
		return l.r.fetch(p, e, l.lay)
	}
	clear(p)
	l.lay(p, e.Off)
	return nil
}

// endSource finds out what the lane has to write where the source gave nothing, now
// that it has given all.
func (l *lane) endSource() {
	if l.sourced {
		return
	}
	l.sourced = true
	have := make([]block.Extent, l.r.record.Len())
	for i := range have {
		have[i] = l.r.record.At(i).Extent
	}
	pieces := outside(beyond(l.pieces, block.HeadSize), have)
	if l.delta {
		// An old table that was left where it is until now: see spoil.
		tables := outside(outside(beyond(l.blank, block.HeadSize), have), l.pieces)
		pieces = append(pieces, tables...)
		sortExtents(pieces)
	}
	l.claims.extra = l.cut(pieces)
	l.more.Add(bytesOf(l.claims.extra))
}

// cut returns extents as pieces that fit into a buffer.
func (l *lane) cut(extents []block.Extent) []verify.Entry {
	var pieces []verify.Entry
	most := int64(l.r.pool.BufferSize())
	for _, e := range extents {
		for e.Len > 0 {
			n := min(e.Len, most-e.Off%most)
			pieces = append(pieces, verify.Entry{Extent: block.Extent{Off: e.Off, Len: n}})
			e = block.Extent{Off: e.Off + n, Len: e.Len - n}
		}
	}
	return pieces
}

// nextExtra returns the next of the lane's own pieces.
func (l *lane) nextExtra(ctx context.Context) (p piece, ok bool, err error) {
	l.endSource()
	if l.extra == len(l.claims.extra) {
		return piece{}, false, nil
	}
	e := l.claims.extra[l.extra]
	if err := l.fits(e.Extent); err != nil {
		return piece{}, false, err
	}
	buf, release, err := l.room(ctx)
	if err != nil {
		return piece{}, false, err
	}
	p = piece{data: buf[:e.Len], off: e.Off, release: release, entry: l.r.record.Len() + l.extra}
	clear(p.data)
	l.lay(p.data, p.off)
	l.claims.setSum(p.entry, verify.Sum(p.data))
	l.extra++
	return p, true, nil
}
