package codec

import (
	"errors"
	"io"

	"multidd/internal/codec/bzip2"
)

// bzip2Parts are the streams of a bz2 file and the zeros behind them, which package
// bzip2 takes as one. It reads the input on a goroutine of its own, until its Read
// returns an error.
type bzip2Parts struct {
	in      *input
	workers int
	z       *bzip2.Reader
}

// newBzip2Parts uses as many workers as the memory for it allows.
func newBzip2Parts(in *input, o ReadOptions) *bzip2Parts {
	n := o.Workers
	for n > 1 && bzip2.Memory(n) > o.Ahead {
		n--
	}
	return &bzip2Parts{in: in, workers: n}
}

func (b *bzip2Parts) next() (io.Reader, error) {
	head, err := b.in.peek(4)
	switch {
	case !like(head, "BZh"):
		return nil, errMagic
	case err != nil:
		return nil, err
	}
	b.z = bzip2.NewReader(b.in.Reader, b.workers)
	return b, nil
}

func (b *bzip2Parts) Read(p []byte) (int, error) {
	n, err := b.z.Read(p)
	if e, ok := errors.AsType[*bzip2.Error](err); ok {
		if e.Err == io.ErrUnexpectedEOF {
			return n, e.Err
		}
		err = &Error{Bzip2, e.Offset, errors.New(e.Reason)}
	}
	return n, err
}

func (b *bzip2Parts) offset() int64 {
	if b.z == nil {
		return b.in.offset()
	}
	return b.z.InputOffset()
}

func (b *bzip2Parts) memory() int64   { return bzip2.Memory(b.workers) }
func (b *bzip2Parts) sizeHint() int64 { return -1 }

func (b *bzip2Parts) close() {
	if b.z != nil {
		_ = b.z.Close()
	}
}

// newBzip2Writer uses as many workers as the memory for it allows, at least one.
func newBzip2Writer(w io.Writer, o WriteOptions) (io.WriteCloser, error) {
	level, n := o.level(9), o.Workers
	for n > 1 && bzip2.WriterMemory(level, n) > o.Memory {
		n--
	}
	return bzip2.NewWriter(w, level, n)
}
