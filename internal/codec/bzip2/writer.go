package bzip2

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
)

// A Writer packs what is written to it into one bzip2 stream, on many cores. What
// it makes does not depend on how many they are.
type Writer struct {
	w     io.Writer
	level int

	piece *piece      // being filled; nil: none is
	runs  shortener   // fills it
	free  chan *piece // all others that are not under way
	work  chan *piece
	order chan *piece
	done  sync.WaitGroup

	closed bool

	mu  sync.Mutex
	err error // the first one
}

// A piece is a block of the stream, and what comes of it.
type piece struct {
	text  []byte // the block, with the runs short, from text[1] on
	n     int    // its length
	out   []byte
	bits  int // of out
	crc   uint32
	ready chan struct{} // has room for one: out is there
}

var errWriterClosed = errors.New("bzip2: the writer is closed")

// NewWriter returns a Writer that packs into w, with blocks of level times 100,000
// bytes, from 1 to 9, with as many goroutines as workers says, or
// runtime.GOMAXPROCS if that is not positive. Close ends them.
func NewWriter(w io.Writer, level, workers int) (*Writer, error) {
	if level < 1 || level > 9 {
		return nil, fmt.Errorf("bzip2: there is no level %d, only 1 to 9", level)
	}
	workers = count(workers)
	z := &Writer{
		w:     w,
		level: level,
		free:  make(chan *piece, workers+2),
		work:  make(chan *piece, workers+2),
		order: make(chan *piece, workers+2),
	}
	for range workers + 2 { // one is being filled, one written
		z.free <- &piece{ready: make(chan struct{}, 1)}
	}
	for range workers {
		z.done.Go(z.encode)
	}
	z.done.Go(z.join)
	return z, nil
}

// WriterMemory returns how many bytes of buffers a Writer of that level with so many
// workers makes at most.
func WriterMemory(level, workers int) int64 {
	const (
		row, symbol      = 4, 2      // bytes for each byte of a block
		star, group, key = 4, 8, 16  // for every second one
		tables           = 640 << 10 // of an encoder, but for its big buffers
	)
	n := int64(level * levelSize)
	encoder := n*(row+symbol) + n/2*(star+group+key) + tables
	packed := int64(packedRoom(level * levelSize))
	workers = count(workers)
	return int64(workers)*encoder + int64(workers+2)*(n+packed) + packed
}

// Write packs p. An error of the underlying writer comes back from a later call,
// at the latest from Close, and sticks.
func (z *Writer) Write(p []byte) (n int, err error) {
	if z.closed {
		return 0, errWriterClosed
	}
	for len(p) > 0 {
		if err := z.failed(); err != nil {
			return n, err
		}
		if z.piece == nil {
			z.begin()
		}
		k := z.runs.add(p)
		n, p = n+k, p[k:]
		if z.runs.full() {
			z.send()
		}
	}
	return n, nil
}

func (z *Writer) begin() {
	z.piece = <-z.free
	if z.piece.text == nil {
		z.piece.text = make([]byte, 1, 1+z.level*levelSize+around)
		z.piece.out = make([]byte, 0, packedRoom(z.level*levelSize))
	}
	z.runs.reset(z.piece.text[:1], z.level)
}

func (z *Writer) send() {
	z.runs.end()
	c := z.piece
	z.piece = nil
	c.text, c.n = z.runs.dst, len(z.runs.dst)-1
	z.order <- c
	z.work <- c
}

// Close packs what is left, completes the stream and ends the goroutines. It leaves
// the underlying writer open. It must be called, even after an error.
func (z *Writer) Close() error {
	if z.closed {
		return z.err
	}
	z.closed = true
	if z.piece != nil && z.failed() == nil {
		z.send()
	}
	close(z.work)
	close(z.order)
	z.done.Wait()
	return z.err
}

// encode encodes pieces.
func (z *Writer) encode() {
	var e *encoder
	for c := range z.work {
		if e == nil {
			e = newEncoder()
		}
		c.out, c.bits, c.crc = e.encode(c.out, c.text, c.n)
		c.ready <- struct{}{}
	}
}

// join writes what was encoded, in order, as one stream.
func (z *Writer) join() {
	w := bitWriter{p: make([]byte, 0, packedRoom(z.level*levelSize))}
	w.put(uint64('B')<<24|'Z'<<16|'h'<<8|uint64('0'+z.level), 32)
	crc := uint32(0)
	var err error
	for c := range z.order {
		<-c.ready
		if err == nil {
			crc = bits.RotateLeft32(crc, 1) ^ c.crc
			w.join(c.out, c.bits)
			_, err = z.w.Write(w.p)
			w.p = w.p[:0]
			z.fail(err)
		}
		z.free <- c
	}
	if err == nil {
		w.put(endMagic, magicBits)
		w.put(uint64(crc), 32)
		w.put(0, (8-w.n)%8)
		_, err = z.w.Write(w.p)
		z.fail(err)
	}
}

func (z *Writer) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.err == nil {
		z.err = err
	}
}

func (z *Writer) failed() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.err
}
