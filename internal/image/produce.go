package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"multidd/internal/block"
)

// produce reads the image and hands its chunks on.
func (r *Reader) produce() error {
	im := r.im
	switch {
	case im.copied != nil:
		err := r.fromFile(im.copied, im.copied.Size)
		if !errors.Is(err, errDamaged) {
			return err
		}
		return r.mend(err)
	case r.dec != nil:
		return r.fromStream(r.dec, 0)
	case im.in.file == nil:
		return r.fromStream(im.meter, 0)
	}
	return r.fromFile(im.in.file, im.in.size)
}

// mend goes on after a copy turned out to be damaged: the image is unpacked
// after all, and what has been handed on already, which was right, is left out.
func (r *Reader) mend(cause error) error {
	im := r.im
	im.warn("the copy in the store was damaged and has been removed; the image is unpacked again: %v", cause)
	im.o.Store.remove(im.copied.Packed)
	dec, err := im.openDecoder()
	if err != nil {
		return err
	}
	r.dec, r.next = dec, 0
	r.keep()
	return r.fromStream(dec, r.total)
}

// fromFile reads a file whose size is known. Unless the digest of the whole is
// wanted, only what is used is read.
func (r *Reader) fromFile(f io.ReaderAt, size int64) error {
	if r.im.usedMap() == nil && r.limit > 0 && size > r.limit {
		return r.tooBig()
	}
	step := int64(r.pool.BufferSize())
	for ; r.total < size; r.total = min(size, r.total+step) {
		e := block.Extent{Off: r.total, Len: min(step, size-r.total)}
		parts := r.used(e)
		read := parts
		switch {
		case r.digest != nil:
			read = []block.Extent{e}
		case len(parts) == 0:
			r.owed = false
			if err := r.handZeros(nil, e); err != nil {
				return err
			}
			continue
		}
		c, err := r.newChunk(e.Off, parts)
		if err != nil {
			return err
		}
		c.data = c.data[:e.Len]
		for _, x := range read {
			if err := r.readAt(f, c.part(x), x.Off); err != nil {
				c.release()
				return err
			}
		}
		if err := r.hand(c); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) readAt(f io.ReaderAt, p []byte, off int64) error {
	begin := time.Now()
	n, err := f.ReadAt(p, off)
	r.reading.Add(int64(time.Since(begin)))
	r.read.Add(int64(n))
	switch {
	case n == len(p):
		r.decoded.Add(int64(n))
		return nil
	case errors.Is(err, errDamaged):
		return err
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return r.im.unreadable(err, off+int64(n), off+int64(n))
}

// fromStream reads what comes in order to its end. What lies before skip is only
// kept, not handed on.
func (r *Reader) fromStream(from io.Reader, skip int64) error {
	for r.total = 0; ; {
		c, err := r.newChunk(r.total, nil)
		if err != nil {
			return err
		}
		n, err := r.fill(from, c.data)
		c.data = c.data[:n]
		if c.end() > skip {
			r.decoded.Add(int64(n))
		}
		r.observe()
		if n == 0 || err != nil && err != io.EOF {
			c.release()
			if err == io.EOF {
				return nil
			}
			if r.ctx.Err() != nil {
				return context.Cause(r.ctx)
			}
			return r.im.decodeError(err, c.end())
		}
		if err := r.bound(c); err != nil {
			c.release()
			return err
		}
		r.total = c.end()
		if r.total <= skip {
			err = r.store(c)
			c.release()
		} else {
			c.parts = r.seen(c)
			err = r.hand(c)
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until p is full. Unlike that of io.ReadFull, its error is the
// reader's own.
func (r *Reader) fill(from io.Reader, p []byte) (n int, err error) {
	begin := time.Now()
	defer func() { r.waited.Add(int64(time.Since(begin))) }()
	for n < len(p) && err == nil {
		var m int
		m, err = from.Read(p[n:])
		n += m
	}
	if n > 0 && err == io.EOF {
		err = nil // it comes again
	}
	return n, err
}

// observe notes what the decoder says about itself, which only this goroutine
// may ask.
func (r *Reader) observe() {
	if r.dec != nil {
		r.hint.Store(r.dec.SizeHint())
		r.memory.Store(r.dec.Memory())
	}
	if r.watch != nil {
		if e, ok := r.watch.watch.(interface{ Estimate() int64 }); ok {
			r.usedHint.Store(e.Estimate())
		}
	}
}

// bound stops an image that goes on beyond what there is room for. With a map
// that is what the map says, since what is not used needs no room. One that is
// found out about on the way may be longer by a quarter, if that much is free.
func (r *Reader) bound(c *chunk) error {
	most := r.limit
	if r.watch != nil {
		most += most / 4
	}
	switch m := r.im.bmap; {
	case r.im.usedMap() == nil && r.limit > 0 && c.end() > most:
		return r.tooBig()
	case m != nil && c.end() > m.Size:
		return r.im.bad(reasonDigest, m.Size, fmt.Errorf("it goes on beyond the %d bytes that its map is for: take the map that belongs to it, or none (--bmap=none)", m.Size))
	}
	return nil
}

func (r *Reader) tooBig() error {
	return r.im.bad(reasonDecode, r.limit, fmt.Errorf("it is bigger than the largest card, which has %d bytes; it may be damaged, or made to have no end", r.limit))
}

// used returns what is used of e. It must be called with ascending extents.
func (r *Reader) used(e block.Extent) []block.Extent {
	m := r.im.usedMap()
	if m == nil {
		return []block.Extent{e}
	}
	var parts []block.Extent
	used := m.Used
	for ; r.next < len(used); r.next++ {
		if in := used[r.next].Intersect(e); in.Len > 0 {
			parts = append(parts, in)
		}
		if used[r.next].End() > e.End() {
			break
		}
	}
	return parts
}

// seen returns what is used of a chunk that comes in order.
func (r *Reader) seen(c *chunk) []block.Extent {
	e := block.Extent{Off: c.off, Len: int64(len(c.data))}
	if r.watch == nil {
		return r.used(e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watch.see(e, c.data)
}

// newChunk waits for a buffer.
func (r *Reader) newChunk(off int64, parts []block.Extent) (*chunk, error) {
	b, err := r.pool.Get(r.ctx)
	if err != nil {
		return nil, err
	}
	c := &chunk{off: off, data: b, parts: parts, pool: r.pool}
	c.hold()
	return c, nil
}

// hand gives a chunk to all who want it, and lets go of it.
func (r *Reader) hand(c *chunk) error {
	defer c.release()
	r.owed = r.spool != nil && r.spool.sound()
	at := c.off
	for _, e := range c.parts {
		if err := r.handZeros(c, block.Extent{Off: at, Len: e.Off - at}); err != nil {
			return err
		}
		if r.limit > 0 && e.End() > r.limit {
			return r.tooBig()
		}
		if err := r.handBlock(c, c, e, e.Off-c.off); err != nil {
			return err
		}
		at = e.End()
	}
	if err := r.handZeros(c, block.Extent{Off: at, Len: c.end() - at}); err != nil {
		return err
	}
	for _, s := range r.sinks {
		if err := s.give(r.ctx, c); err != nil {
			return err
		}
	}
	if !r.owed {
		return nil
	}
	return r.store(c)
}

// handBlock gives the lanes a block of chunk c for e, whose bytes begin at byte
// from of the chunk "of". While they have no room for it, the copy may have c if
// it has, so that what they have been given of it can be read again meanwhile.
func (r *Reader) handBlock(c, of *chunk, e block.Extent, from int64) error {
	to := from + e.Len
	of.hold()
	b := block.New(e.Off, of.data[from:to:to], of.release)
	for {
		var spool chan *chunk
		if r.owed {
			spool = r.spool.in
			c.hold()
		}
		sent := false
		select {
		case r.out <- b:
			sent = true
		case spool <- c:
			r.owed = false
			continue
		case <-r.ctx.Done():
		}
		if r.owed {
			c.release()
		}
		if !sent {
			b.Release()
			return context.Cause(r.ctx)
		}
		return nil
	}
}

// handZeros gives the lanes a block of zeros for e, which is free in c, if they
// are to have one. The largest card may end before it.
func (r *Reader) handZeros(c *chunk, e block.Extent) error {
	if r.limit > 0 {
		e.Len = min(e.Len, r.limit-e.Off)
	}
	if !r.zero || e.Len <= 0 {
		return nil
	}
	if r.zeros == nil {
		b, err := block.Aligned(r.pool.BufferSize())
		if err != nil {
			return err
		}
		r.zeros = &chunk{data: b}
		r.zeros.hold()
	}
	// At the place in it that they would have in a buffer, so that it is as well
	// aligned.
	return r.handBlock(c, r.zeros, e, e.Off%int64(len(r.zeros.data)))
}

// store gives a chunk to the copy, if there is one being written.
func (r *Reader) store(c *chunk) error {
	if r.spool == nil {
		return nil
	}
	return r.spool.give(r.ctx, c, func() bool { return len(r.out) == 0 })
}
