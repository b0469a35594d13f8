package codec

import (
	"bytes"
	"io"
	"sync"
)

// Blocks that are unpacked ahead of the reader do it in pieces of this size, and
// of so many at most; the last ones are kept for the block being read.
const (
	xzPieceSize = 512 << 10
	xzPieces    = 24
	xzReserved  = 2

	xzPiecesSize = (xzPieces + xzReserved) * xzPieceSize
)

// An xzAhead unpacks blocks on goroutines of their own, before they are read. Each
// takes a bench; what comes out is in pieces that they share. A block that finds
// no piece free waits until it is its turn to be read. The methods are called by
// one goroutine at a time.
type xzAhead struct {
	workers int
	budget  int64 // in bytes
	benches *xzBenches
	used    bool // a block has been unpacked ahead
	queue   []*xzJob
	free    chan []byte // pieces anyone may take; nil: not yet made
	kept    chan []byte // pieces for the block being read
	stop    chan struct{}
	running sync.WaitGroup
}

func newXZAhead(o ReadOptions, benches *xzBenches) *xzAhead {
	a := &xzAhead{
		workers: o.Workers,
		budget:  o.Ahead - xzPiecesSize,
		benches: benches,
		free:    make(chan []byte, xzPieces),
		kept:    make(chan []byte, xzReserved),
		stop:    make(chan struct{}),
	}
	for range xzPieces {
		a.free <- nil
	}
	for range xzReserved {
		a.kept <- nil
	}
	return a
}

// stream returns the length of a block as a stream of its own, in bytes.
func (b *xzBlock) stream() int64 {
	const index = 40 // at most, of one block, with the footer
	return xzHeaderLen + int64(len(b.header)) + b.rest() + index
}

// room tells whether a block can be unpacked ahead, now.
func (a *xzAhead) room(b *xzBlock) bool {
	if len(a.queue) >= a.workers || a.workers < 2 || b.packed < 0 || b.unpacked < 0 || b.packed > a.budget {
		return false
	}
	more := a.benches.more(b.dict, b.stream())
	return a.benches.held+more <= a.budget
}

// start reads a block and begins to unpack it.
func (a *xzAhead) start(in *input, b *xzBlock) error {
	a.used = true
	bench := a.benches.take(b.dict, b.stream())
	stream := append(appendXZHeader(bench.buf[:0], b.check), b.header...)
	n := len(stream)
	stream = stream[:n+int(b.rest())]
	if _, err := io.ReadFull(in, stream[n:]); err != nil {
		return cut(err)
	}
	stream = appendXZIndex(stream, b.check, b.record(b.packed, b.unpacked))

	j := &xzJob{a: a, block: b, bench: bench, turn: make(chan struct{}), out: make(chan xzPiece, xzPieces+xzReserved)}
	a.queue = append(a.queue, j)
	a.running.Go(func() { j.run(stream) })
	return nil
}

// take returns the oldest block under way, which is then read; nil if there is none.
func (a *xzAhead) take() xzUnpacking {
	if len(a.queue) == 0 {
		return nil
	}
	j := a.queue[0]
	a.queue = a.queue[1:]
	close(j.turn)
	return j
}

func (a *xzAhead) close() {
	select {
	case <-a.stop:
	default:
		close(a.stop)
	}
	a.running.Wait()
}

// An xzJob is a block that is unpacked ahead.
type xzJob struct {
	a     *xzAhead
	block *xzBlock
	bench *xzBench
	turn  chan struct{} // closed when the block is the one being read
	out   chan xzPiece  // never full; closed at the end
	err   error         // to be looked at when out is closed
	piece xzPiece       // being read
	rest  []byte        // of the piece
	read  int64         // bytes, of what the block unpacks to
}

// An xzPiece is some of what a block unpacks to.
type xzPiece struct {
	data []byte
	home chan []byte // where its buffer belongs
}

// run unpacks the block.
func (j *xzJob) run(stream []byte) {
	defer close(j.out)
	if j.err = j.bench.open(bytes.NewReader(stream), j.a.benches.memory); j.err != nil {
		return
	}
	for {
		p, ok := j.buffer()
		if !ok {
			return
		}
		n := 0
		for n < len(p.data) && j.err == nil {
			var k int
			k, j.err = j.bench.z.Read(p.data[n:])
			n += k
		}
		p.data = p.data[:n]
		j.out <- p
		if j.err != nil {
			return
		}
	}
}

// buffer waits for a piece to unpack into.
func (j *xzJob) buffer() (p xzPiece, ok bool) {
	select {
	case p.data = <-j.a.free:
		p.home = j.a.free
	case <-j.a.stop:
		return p, false
	case <-j.turn:
		select {
		case p.data = <-j.a.free:
			p.home = j.a.free
		case p.data = <-j.a.kept:
			p.home = j.a.kept
		case <-j.a.stop:
			return p, false
		}
	}
	if p.data == nil {
		p.data = make([]byte, xzPieceSize)
	}
	return p, true
}

func (j *xzJob) Read(p []byte) (int, error) {
	for len(j.rest) == 0 {
		if j.piece.home != nil {
			j.piece.home <- j.piece.data[:xzPieceSize]
			j.piece = xzPiece{}
		}
		var ok bool
		if j.piece, ok = <-j.out; !ok {
			if j.err == io.EOF {
				j.a.benches.put(j.bench)
			}
			return 0, j.err
		}
		j.rest = j.piece.data
	}
	n := copy(p, j.rest)
	j.rest = j.rest[n:]
	j.read += int64(n)
	return n, nil
}

func (j *xzJob) record() xzRecord { return j.block.record(j.block.packed, j.block.unpacked) }

// offset says how far the block has come, as nearly as can be known.
func (j *xzJob) offset() int64 {
	return j.block.start + int64(float64(j.block.rest())*float64(j.read)/float64(max(1, j.block.unpacked)))
}
