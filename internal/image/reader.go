package image

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/codec"
)

// A Reader gives an image's blocks in order, and what it has given once more. It
// reads and unpacks a little ahead in a goroutine of its own; those who prove
// and keep what passes have theirs.
//
// It is a duplicate.Source and a duplicate.Rereader.
type Reader struct {
	im    *Image
	pool  *block.Pool
	limit int64
	zero  bool // what is free comes as zeros

	ctx    context.Context
	cancel context.CancelCauseFunc
	begin  sync.Once
	out    chan block.Block // closed when the image has ended, well or not
	err    error            // how it ended; set before out is closed
	done   chan struct{}    // closed when nothing more is read

	// Owned by the goroutine that reads.
	dec    codec.Reader
	next   int // the first of the map's extents that may not have been passed
	sinks  []*sink
	work   sync.WaitGroup
	digest *digester // nil: not wanted
	watch  *passed   // finds out what is used; nil: that is known
	zeros  *chunk    // what blocks of zeros are cut from; nil: not yet made
	owed   bool      // the copy is to have the chunk that is being handed on
	total  int64     // bytes of the disk so far

	mu    sync.Mutex  // guards what follows, and watch.used
	back  io.ReaderAt // what ReadAt reads; nil: nothing
	spool *spool      // the same, if it is being written; nil: it is not

	sum          atomic.Pointer[string]
	hint, memory atomic.Int64
	usedHint     atomic.Int64
	given        atomic.Int64 // bytes, in all; -1 before the end
	decoded      atomic.Int64
	waited       atomic.Int64 // ns
	read         atomic.Int64 // bytes read of a raw file or a copy
	reading      atomic.Int64 // ns spent on that
}

// Stats are a Reader's counters, which only grow.
type Stats struct {
	Input   int64 // bytes read of the image's file
	Decoded int64 // bytes of the disk read or unpacked
	// Waited is how long the bytes of the disk had to be waited for. The rest of
	// the time those who take the blocks were waited for.
	Waited time.Duration
	// Source is how long the image's file or stream had to be waited for. If
	// that is most of Waited, the source is what holds the run up, else it is the
	// decoder.
	Source time.Duration
}

// Reader returns the image's Reader, which must be closed before the pool. There
// is one for each image; the second call is an error of the program. Blocks are
// made in p's buffers, of which it holds up to Held besides those that Next
// has returned. limit is the size of the largest card, in bytes: an image that
// goes on beyond it is an error, so that one made to unpack without end is
// stopped; 0: no limit.
//
// Every block begins and ends at a multiple of the buffers' size, or where a used
// extent begins or ends. If what is free is to be written as zeros, a card that is
// smaller than the image may be given zeros beyond its end.
func (im *Image) Reader(p *block.Pool, limit int64) *Reader {
	r := &Reader{im: im, pool: p, limit: limit, zero: im.o.Free == FreeZero, dec: im.dec, out: make(chan block.Block, 1), done: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.hint.Store(-1)
	r.usedHint.Store(-1)
	r.given.Store(-1)
	r.observe()
	if im.o.Mapper != nil && !im.o.All && im.usedMap() == nil && im.size < 0 {
		r.watch = &passed{watch: im.o.Mapper.Watch(), keep: r.zero}
	}
	im.mu.Lock()
	second := im.reader != nil
	im.reader = r
	im.mu.Unlock()
	if second {
		panic("image: a second Reader")
	}
	r.prepare()
	return r
}

// prepare decides what the bytes pass through on their way, and where they can
// be had again.
func (r *Reader) prepare() {
	im := r.im
	sequential := im.dec != nil || im.in.file == nil
	wanted := im.o.Digest && (sequential || im.usedMap() == nil) || len(im.expect) > 0 || im.copied != nil
	at, ok := im.ReaderAt()
	switch {
	case ok:
		r.back = at
	case im.o.Store != nil:
		wanted = true
		r.keep()
	}
	if wanted {
		r.digest = newDigester()
	}
}

// keep begins a copy in the store.
func (r *Reader) keep() {
	need := int64(-1)
	if m := r.im.usedMap(); m != nil {
		need = m.Bytes() // and whatever else is not zero
	}
	s, err := r.im.o.Store.begin(need, r.im.warn)
	if err != nil {
		r.im.warn("no copy of the image is kept, so that a card that falls behind holds up the others: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.back, r.spool = nil, s
	if s != nil {
		r.back = s
	}
}

// Next returns the next block. After the last it returns io.EOF, and only if the
// image was there to its end, its checksums and digests are right and nobody
// changed it meanwhile; if not, the error is an *Error. Both are final.
func (r *Reader) Next(ctx context.Context) (block.Block, error) {
	r.begin.Do(r.start)
	select {
	case b, ok := <-r.out:
		if !ok {
			return block.Block{}, r.err
		}
		return b, nil
	case <-ctx.Done():
		return block.Block{}, context.Cause(ctx)
	}
}

// CanReread tells whether ReadAt works: always for a raw image in a file and for a
// packed one that can be unpacked from any place, for any other as long as the
// store keeps a copy. Once it has said no, what the
// copy has of the image can still be read, and no more.
func (r *Reader) CanReread() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.back != nil && (r.spool == nil || r.spool.sound())
}

// ReadAt reads what Next has returned once more. It waits until the copy has got
// there.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	back := r.back
	r.mu.Unlock()
	if back == nil {
		return 0, ErrNotKept
	}
	n, err := back.ReadAt(p, off)
	if r.zero {
		r.blank(p[:n], off)
	}
	return n, err
}

// blank makes zeros of what is free of p, as Next did.
func (r *Reader) blank(p []byte, off int64) {
	m := r.im.usedMap()
	switch {
	case m != nil:
		blank(m.Used, p, off)
	case r.watch != nil:
		r.mu.Lock()
		defer r.mu.Unlock()
		blank(r.watch.used, p, off)
	}
}

// Digest returns the SHA-256 of all that the image unpacks to, in hexadecimal;
// "" before Next has returned io.EOF, and if it was not wanted.
func (r *Reader) Digest() string {
	if s := r.sum.Load(); s != nil {
		return *s
	}
	return ""
}

// Stats returns the counters.
func (r *Reader) Stats() Stats {
	reading := r.reading.Load()
	return Stats{
		Input:   r.im.meter.bytes.Load() + r.read.Load(),
		Decoded: r.decoded.Load(),
		Waited:  time.Duration(r.waited.Load() + reading),
		Source:  time.Duration(r.im.meter.nanos.Load() + reading),
	}
}

// Close ends the Reader and waits until it has ended; after io.EOF this includes
// that the copy is safe in the store. Blocks that Next has returned stay good
// until they are released.
func (r *Reader) Close() {
	r.cancel(ErrClosed)
	r.im.meter.stopped.Store(true)
	r.im.in.stop()
	r.begin.Do(func() { r.end(ErrClosed) })
	<-r.done
	for b := range r.out {
		b.Release()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spool != nil {
		r.spool.close()
	}
	r.back, r.spool = nil, nil
}

// start begins to read.
func (r *Reader) start() {
	fail := func(err error) { r.cancel(err) }
	if r.digest != nil {
		r.sinks = append(r.sinks, newSink(&r.work, r.digest.take, fail))
	}
	if m := r.im.bmap; m != nil && m.checked() {
		r.sinks = append(r.sinks, newSink(&r.work, newRangeChecker(m).take, fail))
	}
	go func() { r.end(r.run()) }()
}

// run reads the whole image and returns nil if all of it was right.
func (r *Reader) run() error {
	err := r.produce()
	for _, s := range r.sinks {
		close(s.in)
	}
	r.work.Wait()
	if r.dec != nil {
		_ = r.dec.Close() // after this nobody uses the meter but ourselves
	}
	if err == nil {
		err = context.Cause(r.ctx) // a sink that failed at the end
	}
	if bad, ok := errors.AsType[*rangeError](err); ok {
		err = r.im.bad(reasonDigest, bad.Off, bad.error)
	}
	return err
}

// end proves what can be proved only at the end, decides what becomes of the
// copy, and lets Next see the result.
func (r *Reader) end(err error) {
	var e *entry
	if err == nil {
		e, err = r.verdict()
	}
	r.endWatch(err == nil)
	if r.err = err; err == nil {
		r.err = io.EOF
	}
	close(r.out)
	if s := r.spool; s != nil {
		s.finish(e)
	}
	close(r.done)
}

// endWatch ends the watch, and what was made for blocks of zeros.
func (r *Reader) endWatch(good bool) {
	if r.zeros != nil {
		r.zeros.release()
	}
	w := r.watch
	if w == nil {
		return
	}
	w.watch.Close()
	if w.whole {
		r.im.warn("what of it is used could not be found out to its end: from there on all of it was written")
	}
	if n := w.bytes; good && !r.zero {
		r.given.Store(n)
	} else if good {
		r.given.Store(r.total)
	}
}

// verdict judges the image once all of it has been read. It returns what the
// store is to know about the copy, nil if it is not to stay there.
func (r *Reader) verdict() (*entry, error) {
	im := r.im
	file := im.packed
	if r.dec != nil {
		var err error
		if file, err = im.meter.drain(); err != nil {
			return nil, im.decodeError(err, r.total)
		}
	}
	if err := im.in.changed(); err != nil {
		return nil, im.bad(reasonDigest, -1, err)
	}
	if err := im.checkSize(r.total); err != nil {
		return nil, err
	}
	var image string
	if r.digest != nil {
		image = r.digest.sum()
	}
	if !im.isPacked() {
		file = image
	}
	if c := im.copied; c != nil && image != c.SHA256 {
		im.o.Store.remove(c.Packed)
		return nil, im.bad(reasonDigest, -1, errors.New("its copy in the store was damaged, and has been removed; run again"))
	}
	if err := im.judge(file, image); err != nil {
		return nil, err
	}
	r.sum.Store(&image)
	if r.spool == nil || !im.isPacked() {
		return nil, nil
	}
	return &entry{Name: im.name, Format: string(im.format), Packed: file, PackedSize: im.meter.bytes.Load(), Size: r.total, SHA256: image}, nil
}
