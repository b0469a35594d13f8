package dd

import (
	"context"
	"sync"
	"sync/atomic"

	"multidd/internal/block"
)

// A sink takes what is copied. What goes wrong in it has been said when the
// error comes back, and a sink that has failed is only closed.
type sink interface {
	begin() error // before the first byte
	// take takes the records in data, all rec bytes long but the last, which may
	// be shorter.
	take(data []byte, rec int) error
	finish() error // after the last byte
	close() error
}

// A fan gives the same chunks to several sinks, each at its own speed as far as
// the buffers go, and in a goroutine of its own. A sink that fails does not
// disturb the others.
type fan struct {
	pool     *block.Pool // its buffers are all that a fan has in memory
	branches []*branch
	outputs  atomic.Int32 // how many sinks that are no sums have not failed
	work     sync.WaitGroup
}

// A branch is the way to one sink.
type branch struct {
	sink  sink
	taken *counts     // counts the input's records that the sink has seen; nil: nobody wants to know
	queue chan *chunk // holds all buffers there are
	dead  atomic.Bool // the sink has failed
	err   error       // set by the branch's goroutine
}

// A chunk is some records, shared by the branches.
type chunk struct {
	pool *block.Pool
	buf  []byte
	data []byte // of buf
	rec  int    // length of each record but the last
	read int    // how much of data was read, the rest being what conv=sync puts there
	left atomic.Int32
}

// done is called by each who had the chunk.
func (c *chunk) done() {
	if c.left.Add(-1) == 0 {
		c.pool.Put(c.buf)
	}
}

// newFan returns a fan to sinks, which belong to it from start until wait returns.
// size is how long a chunk may be, in bytes, and n how many there are at a time.
func newFan(sinks []sink, size int64, n int) *fan {
	f := &fan{pool: block.NewPool(n, int(roundUp(size, block.Align)))}
	for _, s := range sinks {
		b := &branch{sink: s, queue: make(chan *chunk, n)}
		if _, ok := s.(*sum); !ok {
			f.outputs.Add(1)
		}
		f.branches = append(f.branches, b)
	}
	return f
}

// start begins the work of the sinks.
func (f *fan) start() {
	for _, b := range f.branches {
		f.work.Go(func() { f.run(b) })
	}
}

// buffers returns how many chunks of a length a fan to several sinks gets.
func buffers(size int64) int {
	const memory, most = 32 << 20, 6
	return int(min(max(memory/size, 2), most))
}

func (f *fan) run(b *branch) {
	b.err = b.sink.begin()
	f.note(b)
	for c := range b.queue {
		if b.err == nil {
			b.count(c)
			b.err = b.sink.take(c.data, c.rec)
			f.note(b)
		}
		c.done()
	}
	if b.err == nil {
		b.err = b.sink.finish()
		f.note(b)
	}
	if err := b.sink.close(); err != nil {
		b.err = err
	}
}

// count counts the records of a chunk.
func (b *branch) count(c *chunk) {
	if b.taken == nil {
		return
	}
	b.taken.gather(c.read)
	b.taken.end() // a short record is the last of its chunk
}

// note remembers that a sink has failed, if it has.
func (f *fan) note(b *branch) {
	if b.err == nil || b.dead.Swap(true) {
		return
	}
	if _, ok := b.sink.(*sum); !ok {
		f.outputs.Add(-1)
	}
}

// chunk waits for a free buffer. It is given on by send, or back by drop.
func (f *fan) chunk(ctx context.Context) (*chunk, error) {
	buf, err := f.pool.Get(ctx)
	return &chunk{pool: f.pool, buf: buf}, err
}

// send gives a chunk to all sinks that have not failed. The error is errWrite if
// there is no output left.
func (f *fan) send(c *chunk) error {
	c.left.Store(int32(len(f.branches)) + 1)
	for _, b := range f.branches {
		if b.dead.Load() {
			c.done()
			continue
		}
		b.queue <- c
	}
	c.done()
	if f.outputs.Load() == 0 {
		return errWrite
	}
	return nil
}

// drop gives a chunk back that was not sent.
func (f *fan) drop(c *chunk) { f.pool.Put(c.buf) }

// copy sends a copy of p, in which records are rec bytes long.
func (f *fan) copy(ctx context.Context, p []byte, rec int) error {
	for len(p) > 0 {
		c, err := f.chunk(ctx)
		if err != nil {
			return err
		}
		n := copy(c.buf, p)
		c.data, c.rec = c.buf[:n], rec
		if err := f.send(c); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// wait lets the sinks finish and closes them. It returns errWrite if one has
// failed.
func (f *fan) wait() (err error) {
	for _, b := range f.branches {
		close(b.queue)
	}
	f.work.Wait()
	f.pool.Close()
	for _, b := range f.branches {
		if b.err != nil {
			err = errWrite
		}
	}
	return err
}
