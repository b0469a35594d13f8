package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"

	"multidd/internal/block"
)

// A chunk is a pool's buffer with the bytes of one place of the disk. Several
// hold it: the blocks that were cut from it and those who prove or keep it. The
// last to release it gives the buffer back.
type chunk struct {
	off   int64
	data  []byte
	parts []block.Extent // what is used of it; only that much need have been read
	pool  *block.Pool    // nil: data is from block.Aligned
	refs  atomic.Int32
}

func (c *chunk) end() int64 { return c.off + int64(len(c.data)) }

// part returns the bytes of an extent that lies in the chunk.
func (c *chunk) part(e block.Extent) []byte {
	a, b := e.Off-c.off, e.End()-c.off
	return c.data[a:b:b]
}

func (c *chunk) hold() { c.refs.Add(1) }

func (c *chunk) release() {
	switch {
	case c.refs.Add(-1) > 0:
	case c.pool == nil:
		block.Free(c.data)
	default:
		c.pool.Put(c.data[:c.pool.BufferSize()])
	}
}

// sinkDepth is how many chunks may wait for each of those who prove and keep
// them. Together with the one that is being worked on, the one that waits for
// room in the queue and none besides, that makes Held.
const sinkDepth = 4

// Held is the most buffers that a Reader holds besides those of the blocks that
// Next has returned and that have not been released. Blocks of zeros are in none
// of them: all share one buffer, as large as the pool's.
const Held = sinkDepth + 2

// A sink looks at every chunk, in order, in a goroutine of its own.
type sink struct {
	in chan *chunk
}

// newSink starts a sink. It ends when in is closed; after an error from take,
// which goes to fail, it only releases what comes.
func newSink(work *sync.WaitGroup, take func(*chunk) error, fail func(error)) *sink {
	s := &sink{make(chan *chunk, sinkDepth)}
	work.Go(func() {
		var err error
		for c := range s.in {
			if err == nil {
				if err = take(c); err != nil {
					fail(err)
				}
			}
			c.release()
		}
	})
	return s
}

// give hands a chunk to the sink, which holds it from then on.
func (s *sink) give(ctx context.Context, c *chunk) error {
	c.hold()
	select {
	case s.in <- c:
		return nil
	case <-ctx.Done():
		c.release()
		return context.Cause(ctx)
	}
}

// A digester gathers the SHA-256 of all chunks together.
type digester struct{ h hash.Hash }

func newDigester() *digester { return &digester{sha256.New()} }

func (d *digester) take(c *chunk) error {
	d.h.Write(c.data)
	return nil
}

func (d *digester) sum() string { return hex.EncodeToString(d.h.Sum(nil)) }

// A rangeChecker compares the checksums of a map's ranges, which may each be much
// longer than a chunk.
type rangeChecker struct {
	ranges []mapped // still to come; the first may have begun
	h      hash.Hash
}

func newRangeChecker(m *bmap) *rangeChecker { return &rangeChecker{m.ranges, m.newHash()} }

func (r *rangeChecker) take(c *chunk) error {
	for len(r.ranges) > 0 {
		m := r.ranges[0]
		in := m.Intersect(block.Extent{Off: c.off, Len: int64(len(c.data))})
		if in.Len == 0 {
			return nil
		}
		r.h.Write(c.part(in))
		if in.End() < m.End() {
			return nil
		}
		if got := r.h.Sum(nil); string(got) != string(m.sum) {
			return &rangeError{m.Extent, fmt.Errorf("it is not what its map says: %v have the checksum %x, but the map says %x; get both again", m.Extent, got, m.sum)}
		}
		r.h.Reset()
		r.ranges = r.ranges[1:]
	}
	return nil
}

// A rangeError is the error of a range whose checksum is wrong.
type rangeError struct {
	block.Extent
	error
}
