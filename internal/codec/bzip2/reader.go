package bzip2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	blocksPerWorker = 2       // one being decoded, one waiting for its turn
	chunksPerWorker = 8       // 1 MiB, about one block that cannot be packed
	writeSize       = 1 << 17 // bytes WriteTo writes at once
)

var errClosed = errors.New("bzip2: the reader is closed")

// An Error says that the packed input is damaged, or not bzip2 at all.
type Error struct {
	// Offset is the byte of the packed input where what is damaged begins: the
	// block, the end mark or header of a stream, or what follows the last one.
	Offset int64
	Reason string
	Err    error // io.ErrUnexpectedEOF if the input was cut off, else nil
}

func (e *Error) Error() string {
	return fmt.Sprintf("bzip2 data is bad at byte %d: %s", e.Offset, e.Reason)
}

func (e *Error) Unwrap() error { return e.Err }

// A Reader reads what the bzip2 streams of an io.Reader hold. It is not for use
// by several goroutines at once, but for Close and InputOffset.
type Reader struct {
	workers int
	in      *input
	start   sync.Once
	shut    sync.Once
	closed  atomic.Bool
	stop    chan struct{} // closed by shut
	running sync.WaitGroup
	offset  atomic.Int64

	free  chan *block // nobody's
	jobs  chan *block // to be decoded
	order chan *block // in the order of the input, decoded or not

	bits  bitReader // for what is between blocks
	at    int64     // where in the input a block or a mark must begin, in bits
	level int       // of the stream; 0 between streams
	crc   uint32    // of the stream's blocks so far
	block *block    // whose bytes are being returned
	text  expander  // of these
	buf   []byte    // for WriteTo
	err   error     // sticks
}

// NewReader returns a Reader of the streams in src that decodes with as many
// goroutines as workers says, or runtime.GOMAXPROCS if that is not positive.
//
// The goroutines begin with the first read. They end by themselves at the end
// of the input and after an error; otherwise Close ends them. One of them reads
// src, ahead of what is returned.
func NewReader(src io.Reader, workers int) *Reader {
	workers = count(workers)
	in := newInput(src, maxPacked/chunkSize+3+workers*chunksPerWorker)
	blocks := blocksPerWorker*workers + 1
	return &Reader{
		workers: workers,
		in:      in,
		stop:    make(chan struct{}),
		free:    make(chan *block, blocks),
		jobs:    make(chan *block),
		order:   make(chan *block, blocks),
		bits:    bitReader{in: in},
	}
}

func count(workers int) int {
	if workers <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return workers
}

// Memory returns how many bytes of buffers a Reader with so many workers makes
// at most.
func Memory(workers int) int64 {
	const (
		tables    = 192 << 10 // a decoder, but for its two big buffers
		perWorker = 4*(maxBlock+1) + columnSize + tables + blocksPerWorker*maxBlock + chunksPerWorker*chunkSize
		shared    = maxPacked + 3*chunkSize + maxBlock + writeSize + 64<<10
	)
	return shared + int64(count(workers))*perWorker
}

// Read reads bytes of the unpacked streams. The end of the last stream is
// io.EOF; zeros that follow it to the end of the input are padding. Any other
// damage is an *Error, after all bytes of the blocks before it, and an input
// that is cut off is io.ErrUnexpectedEOF as well. Errors of the source are
// wrapped. All of them stick.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if r.closed.Load() {
			return 0, errClosed
		}
		if n := r.text.expand(p); n > 0 {
			return n, nil
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
}

// WriteTo writes the rest of the unpacked streams to w.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	if r.buf == nil {
		r.buf = make([]byte, writeSize)
	}
	total := int64(0)
	for {
		n, err := r.Read(r.buf)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err = w.Write(r.buf[:n])
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// InputOffset returns how many bytes of the packed input were needed for what
// has been returned so far: up to the end of the block it ends in. It may be
// called at any time.
func (r *Reader) InputOffset() int64 { return r.offset.Load() }

// Close stops the goroutines and waits for them; a Read that is under way
// returns an error. It does not interrupt a Read of the source: whoever may wait
// for long there closes the source first.
func (r *Reader) Close() error {
	r.closed.Store(true)
	r.start.Do(func() {}) // they begin no more
	r.end()
	r.running.Wait()
	return nil
}

// end tells the goroutines to end.
func (r *Reader) end() {
	r.shut.Do(func() {
		close(r.stop)
		r.in.close()
	})
}

// run starts the goroutines: one reads the source, one finds candidates, the
// others decode these.
func (r *Reader) run() {
	for range cap(r.free) {
		r.free <- newBlock()
	}
	r.running.Go(r.in.fill)
	r.running.Go(r.find)
	for range r.workers {
		r.running.Go(r.work)
	}
}

// find gives every candidate to the workers, and to the reader in order.
func (r *Reader) find() {
	defer close(r.order)
	defer close(r.jobs)
	f := newFinder(r.in)
	for from := int64(0); ; {
		select {
		case b := <-r.free:
			at, err := f.next(from)
			if err != nil {
				return
			}
			b.start, from = at, at+1
			r.order <- b // never waits: it holds all blocks there are
			select {
			case r.jobs <- b:
			case <-r.stop:
				return
			}
		case <-r.stop:
			return
		}
	}
}

// work decodes candidates.
func (r *Reader) work() {
	var d *decoder
	for b := range r.jobs {
		if d == nil {
			d = newDecoder(r.in)
		}
		d.decode(b)
		b.done <- struct{}{}
	}
}

// next makes the bytes of the next block those to return.
func (r *Reader) next() error {
	if r.err != nil {
		return r.err
	}
	r.start.Do(r.run)
	if r.block != nil {
		r.free <- r.block
		r.block = nil
	}
	if r.err = r.advance(); r.err != nil {
		r.end()
	}
	return r.err
}

// advance goes through what is between two blocks and takes the second.
func (r *Reader) advance() error {
	defer r.bits.release()
	for {
		if r.level == 0 {
			if err := r.header(); err != nil {
				return err
			}
		}
		r.bits.seek(r.at, unlimited)
		magic := r.bits.bits(magicBits)
		switch {
		case r.bits.short(0):
			return r.cut("the input ends before the stream does")
		case magic == blockMagic:
			return r.take()
		case magic != endMagic:
			return r.bad("neither a block nor the end of the stream begins here")
		}
		crc := uint32(r.bits.bits(32))
		if r.bits.short(0) {
			return r.cut("the input ends before the stream does")
		}
		if crc != r.crc {
			return r.bad("the stream's checksum does not match its blocks")
		}
		r.level, r.crc = 0, 0
		r.goTo((r.bits.off() + 7) / 8 * 8)
	}
}

// take takes the block that begins where r is, and drops the candidates before it.
func (r *Reader) take() error {
	for {
		var b *block
		select {
		case b = <-r.order:
		case <-r.stop:
		}
		if b == nil {
			return errClosed // the finder has found all blocks unless it was stopped
		}
		select {
		case <-b.done:
		case <-r.stop:
			return errClosed
		}
		if b.start < r.at {
			r.free <- b
			continue
		}
		r.block = b
		return r.accept(b)
	}
}

func (r *Reader) accept(b *block) error {
	var d damage
	switch {
	case b.err == io.ErrUnexpectedEOF:
		return &Error{r.at / 8, "the input ends inside the block", b.err}
	case errors.As(b.err, &d):
		return r.bad(string(d))
	case b.err != nil:
		return sourceError(b.err)
	case len(b.bytes) > r.level*levelSize:
		return r.bad(fmt.Sprintf("a block of a stream of level %d holds %d bytes", r.level, len(b.bytes)))
	}
	r.crc = bits.RotateLeft32(r.crc, 1) ^ b.crc
	r.text = expander{src: b.bytes}
	r.goTo(b.end)
	return nil
}

// header reads the header of a stream. If there is none, that is the end of the
// input or an error.
func (r *Reader) header() error {
	const magic = "BZh"
	r.bits.seek(r.at, unlimited)
	r.bits.fill()
	var p []byte
	for len(p) < 4 && !r.bits.short(8) {
		p = append(p, byte(r.bits.bits(8)))
	}
	switch {
	case len(p) == 4 && string(p[:3]) == magic && '1' <= p[3] && p[3] <= '9':
		r.level = int(p[3] - '0')
		r.goTo(r.bits.off())
		return nil
	case len(p) == 0 && r.at == 0:
		return r.cut("the input is empty")
	case len(p) < 4 && r.bits.err != io.EOF:
		return sourceError(r.bits.err)
	case len(p) == 0:
		return io.EOF
	case len(p) < 4 && bytes.HasPrefix([]byte(magic), p):
		return r.cut("the input ends inside the header of a stream")
	case r.at == 0:
		return r.bad("this is not the beginning of a bzip2 stream")
	}
	return r.padding()
}

// padding reads zeros to the end of the input.
func (r *Reader) padding() error {
	r.bits.seek(r.at, unlimited)
	for {
		r.bits.fill()
		switch {
		case r.bits.short(8) && r.bits.err != io.EOF:
			return sourceError(r.bits.err)
		case r.bits.short(8):
			r.goTo(r.bits.off())
			return io.EOF
		case r.bits.bits(8) != 0:
			return r.bad("something that is not a bzip2 stream follows the last one")
		}
		if off := r.bits.off() / 8; off%chunkSize == 0 {
			r.in.want(off)
		}
	}
}

// goTo says that all before the bit at of the input is dealt with.
func (r *Reader) goTo(at int64) {
	r.at = at
	r.in.want(at / 8)
	r.offset.Store((at + 7) / 8)
}

// bad returns an Error about what begins where r is.
func (r *Reader) bad(reason string) error { return &Error{Offset: r.at / 8, Reason: reason} }

// cut returns the error for an input that ended where r is.
func (r *Reader) cut(reason string) error {
	if r.bits.err != io.EOF {
		return sourceError(r.bits.err)
	}
	return &Error{r.at / 8, reason, io.ErrUnexpectedEOF}
}

// sourceError returns the error for an input that could not be read.
func sourceError(err error) error {
	if err == errStale {
		return errClosed
	}
	return fmt.Errorf("read bzip2 data: %w", err)
}
