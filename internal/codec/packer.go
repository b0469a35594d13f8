package codec

import (
	"io"
	"sync"
)

// A shape is how a format is made of pieces that are packed on their own.
type shape interface {
	// cuts returns how long a piece is, and how much of what is before it its
	// engine may look at, in bytes.
	cuts() (piece, before int)
	// cost returns about how much memory an engine takes, in bytes.
	cost() int64
	// engine returns something that packs pieces; each goroutine has its own.
	engine() (engine, error)
	// begin returns what stands before the first piece, end what stands after the
	// last. In between, packed is told of each piece and what came of it, in order.
	begin() []byte
	packed(piece, out []byte)
	end() []byte
}

// An engine packs one piece and appends the result to dst.
type engine func(dst, before, piece []byte) ([]byte, error)

// A packer cuts what is written to it into pieces, packs them on several
// goroutines and writes the results in order. The number of pieces in being is
// fixed, and with it the memory; whoever writes faster than they are packed, or
// than the result can be written, waits.
type packer struct {
	w     io.Writer
	shape shape

	piece *piece      // being filled
	zeros *zeroPiece  // what a piece of nothing but zeros packs to
	blank bool        // the piece before the one being filled was such a one
	free  chan *piece // all others that are not under way
	work  chan *piece
	order chan *piece
	done  sync.WaitGroup

	closed bool

	mu  sync.Mutex
	err error // the first one
}

// A piece is some of what was written, and what comes of it.
type piece struct {
	buf    []byte // what is before the piece, and the piece
	before int    // length of the former
	out    []byte
	zero   bool // it is nothing but zeros, and so is what is before it: see zeroPiece
	err    error
	ready  chan struct{} // has room for one: out and err are there
}

// A zeroPiece is a whole piece of zeros, which is packed once however many of them
// there are.
type zeroPiece struct {
	once sync.Once
	buf  []byte // what is before the piece, and the piece
	out  []byte
	err  error
}

func newPacker(w io.Writer, s shape, o WriteOptions) *packer {
	size, before := s.cuts()
	each := int64(2*size + before) // of the pieces, of which there are two more than workers
	workers := int(max(1, min(int64(o.Workers), (o.Memory-2*each)/(s.cost()+each))))
	p := &packer{
		w:     w,
		shape: s,
		free:  make(chan *piece, workers+2),
		work:  make(chan *piece, workers+2),
		order: make(chan *piece, workers+2),
		zeros: &zeroPiece{},
	}
	for range workers + 2 { // one is being filled, one written
		p.free <- &piece{ready: make(chan struct{}, 1)}
	}
	for range workers {
		p.done.Go(p.pack)
	}
	p.done.Go(p.write)
	return p
}

func (p *packer) Write(b []byte) (n int, err error) {
	if p.closed {
		return 0, errClosed
	}
	size, before := p.shape.cuts()
	for len(b) > 0 {
		if err := p.failed(); err != nil {
			return n, err
		}
		c := p.filling()
		if cap(c.buf) == 0 {
			c.buf = make([]byte, 0, before+size)
		}
		k := min(len(b), c.before+size-len(c.buf))
		c.buf = append(c.buf, b[:k]...)
		n, b = n+k, b[k:]
		if len(c.buf) == c.before+size {
			p.blank = false
			p.send(before)
		}
	}
	return n, nil
}

// filling returns the piece that is being filled, or begins one.
func (p *packer) filling() *piece {
	if p.piece == nil {
		p.piece = <-p.free
		p.piece.buf, p.piece.before, p.piece.zero = p.piece.buf[:0], 0, false
	}
	return p.piece
}

// WriteZeros writes n zeros.
func (p *packer) WriteZeros(n int64) error {
	if p.closed {
		return errClosed
	}
	size, before := p.shape.cuts()
	for n > 0 {
		c := p.filling()
		whole := len(c.buf) == c.before && n >= int64(size)
		if whole && (before == 0 || p.blank) {
			if err := p.failed(); err != nil {
				return err
			}
			c.zero = true
			p.send(before)
			n -= int64(size)
			continue
		}
		k := min(n, int64(c.before+size-len(c.buf)))
		if err := writeZeros(p, k); err != nil {
			return err
		}
		p.blank = whole
		n -= k
	}
	return nil
}

// send lets the filled piece be packed, and begins the next with its end.
func (p *packer) send(before int) {
	c := p.piece
	p.piece = nil
	if before > 0 {
		next := <-p.free
		if cap(next.buf) == 0 {
			next.buf = make([]byte, 0, cap(c.buf))
		}
		next.zero = false
		next.buf = append(next.buf[:0], c.buf[max(0, len(c.buf)-before):]...)
		next.before = len(next.buf)
		p.piece = next
	}
	p.order <- c
	p.work <- c
}

// Close packs what is left and completes the stream.
func (p *packer) Close() error {
	if p.closed {
		return p.err
	}
	p.closed = true
	if c := p.piece; c != nil && len(c.buf) > c.before && p.failed() == nil {
		p.send(0)
	}
	close(p.work)
	close(p.order)
	p.done.Wait()
	if p.err != nil {
		return p.err
	}
	if _, err := p.w.Write(p.shape.end()); err != nil {
		p.err = err
	}
	return p.err
}

// pack packs pieces.
func (p *packer) pack() {
	engine, err := p.shape.engine()
	for c := range p.work {
		c.err = err
		switch {
		case err != nil:
		case c.zero:
			c.err = p.zeros.pack(engine, p.shape)
		default:
			c.out, c.err = engine(c.out[:0], c.buf[:c.before], c.buf[c.before:])
		}
		c.ready <- struct{}{}
	}
}

// pack packs a piece of zeros behind zeros, the first time.
func (z *zeroPiece) pack(engine engine, s shape) error {
	z.once.Do(func() {
		size, before := s.cuts()
		z.buf = make([]byte, before+size)
		z.out, z.err = engine(nil, z.buf[:before], z.buf[before:])
	})
	return z.err
}

// write writes what has been packed, in order.
func (p *packer) write() {
	_, err := p.w.Write(p.shape.begin())
	for c := range p.order {
		<-c.ready
		if err == nil {
			err = c.err
		}
		if err == nil {
			in, out := c.buf[c.before:], c.out
			if c.zero {
				_, before := p.shape.cuts()
				in, out = p.zeros.buf[before:], p.zeros.out
			}
			_, err = p.w.Write(out)
			p.shape.packed(in, out)
		}
		p.fail(err)
		p.free <- c
	}
	p.fail(err)
}

func (p *packer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *packer) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
