package codec

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
)

// ReadOptions say what may be spent on unpacking.
type ReadOptions struct {
	// Workers is how many processors may be used. 0: all of them.
	Workers int
	// Memory is the most that a stream may need to be unpacked, in bytes: its
	// window or dictionary and the like. A stream that needs more is refused.
	// 0: 128 MiB, which is enough for xz -9 and zstd --long.
	Memory int64
	// Ahead is the most that unpacking several blocks at a time may take, in
	// bytes, in all. Where that is too little, fewer are, down to one after
	// another. 0: 48 MiB.
	Ahead int64
}

func (o ReadOptions) withDefaults() ReadOptions {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Memory <= 0 {
		o.Memory = 128 << 20
	}
	if o.Ahead <= 0 {
		o.Ahead = 48 << 20
	}
	return o
}

// A Reader gives the bytes that a stream was made from. Read returns io.EOF
// only if the stream was whole and nothing followed it; any error is final.
// InputOffset may be called at any time from any goroutine, the other methods
// from one at a time.
type Reader interface {
	io.Reader
	// Close ends what the Reader has running. It does not close the stream, and
	// does not interrupt a read of it: whoever may wait there for long closes the
	// stream first.
	Close() error
	// InputOffset returns how many bytes of the stream have been used.
	InputOffset() int64
	// Memory returns how much unpacking takes, in bytes, as far as that has been
	// seen: a later part of the stream may need more, within ReadOptions.
	Memory() int64
	// SizeHint returns how long the unpacked stream claims to be, in bytes; -1
	// if it does not say, or has gone on beyond what it said.
	SizeHint() int64
}

// NewReader begins to unpack a stream in format f. It reads the stream's first
// header, so that one that is not in the format, or needs too much memory, is
// refused here.
func NewReader(r io.Reader, f Format, o ReadOptions) (Reader, error) {
	o = o.withDefaults()
	s := &stream{format: f, in: newInput(r)}
	switch f {
	case Raw:
		return &rawReader{r: r}, nil
	case Bzip2:
		s.parts = newBzip2Parts(s.in, o)
	case Gzip:
		s.parts = &gzipParts{in: s.in}
	case XZ:
		s.parts = newXZParts(s.in, o)
	case Zstd:
		s.parts = newZstdParts(s.in, o)
	case LZ4:
		s.parts = newLZ4Parts(s.in, o)
	case Zip:
		s.parts = &zipParts{in: s.in, size: -1}
	default:
		return nil, fmt.Errorf("unpack: there is no format %q", f)
	}
	if err := s.next(); err != nil {
		_ = s.Close()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // not even the beginning of one
		}
		return nil, s.explain(err)
	}
	return s, nil
}

// parts are what may follow one another in a stream of one format: members,
// frames, streams.
type parts interface {
	// next begins the part that stands next in the input. It returns what the
	// part unpacks to, which ends with io.EOF once everything about the part has
	// been proved, leaving the input just behind it; nil if it is to be skipped.
	next() (io.Reader, error)
	offset() int64 // of what is being unpacked
	memory() int64
	sizeHint() int64
	close()
}

// A stream is a Reader of the parts of a packed stream.
type stream struct {
	format Format
	in     *input
	parts  parts
	part   io.Reader // that is being unpacked; nil: between two
	begun  bool      // there was a part that holds data, or could
	err    error     // the final one
	at     atomic.Int64
}

func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil || len(p) == 0 {
		return 0, s.err
	}
	n, err := s.read(p)
	s.at.Store(s.parts.offset())
	if err != nil {
		s.err = s.explain(err)
	}
	return n, s.err
}

func (s *stream) read(p []byte) (int, error) {
	for {
		if err := s.next(); err != nil {
			return 0, err
		}
		n, err := s.part.Read(p)
		if err == io.EOF {
			s.part, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next sees to it that there is a part being unpacked; io.EOF: there is none left.
func (s *stream) next() error {
	for s.part == nil {
		b, err := s.in.peek(1)
		if err != nil {
			return err
		}
		if b[0] == 0 && s.begun {
			if err := s.padding(); err != nil {
				return err
			}
			continue
		}
		s.part, err = s.parts.next()
		switch {
		case err == errMagic && s.begun:
			return errTrailing
		case err != nil:
			return cut(err)
		}
		s.begun = s.begun || s.part != nil
	}
	return nil
}

// padding takes the zeros behind a part. Only in xz may anything follow them,
// and there they come in fours.
func (s *stream) padding() error {
	start := s.in.offset()
	for {
		b, err := s.in.peek(1)
		if err == nil && b[0] == 0 {
			b, _ = s.in.Peek(s.in.Buffered())
			zeros := 0
			for zeros < len(b) && b[zeros] == 0 {
				zeros++
			}
			_ = s.in.skip(int64(zeros))
			continue
		}
		if s.format == XZ && (s.in.offset()-start)%4 != 0 && (err == nil || err == io.EOF) {
			return errors.New("the zeros behind an xz stream are not a multiple of four")
		}
		if err == nil && s.format != XZ {
			return errTrailing
		}
		return err
	}
}

// explain makes of an error of unpacking what the caller is to see.
func (s *stream) explain(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrNoProgress) {
		return err
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if failed := s.in.src.err; failed != nil && (s.in.Buffered() == 0 || errors.Is(err, failed)) {
		return failed
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{s.format, s.in.src.n, io.ErrUnexpectedEOF}
	}
	return &Error{s.format, s.parts.offset(), err}
}

func (s *stream) InputOffset() int64 { return s.at.Load() }
func (s *stream) Memory() int64      { return inputSize + s.parts.memory() }
func (s *stream) SizeHint() int64    { return s.parts.sizeHint() }

func (s *stream) Close() error {
	s.parts.close()
	if s.err == nil {
		s.err = errors.New("the packed stream has been closed")
	}
	return nil
}

// A rawReader is the Reader of a stream that is not packed.
type rawReader struct {
	r io.Reader
	n atomic.Int64
}

func (r *rawReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n.Add(int64(n))
	return n, err
}

func (r *rawReader) Close() error       { return nil }
func (r *rawReader) InputOffset() int64 { return r.n.Load() }
func (r *rawReader) Memory() int64      { return 0 }
func (r *rawReader) SizeHint() int64    { return -1 }
