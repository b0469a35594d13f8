package codec

import (
	"bufio"
	"encoding/binary"
	"io"
)

// inputSize is how many packed bytes are read at a time.
const inputSize = 128 << 10

// An input is a packed stream that is being read: it knows how far, and keeps
// apart the trouble with reading from the trouble with what is read.
type input struct {
	*bufio.Reader
	src *source
}

func newInput(r io.Reader) *input {
	src := &source{r: r}
	return &input{bufio.NewReaderSize(src, inputSize), src}
}

// offset returns the position of the next byte in the stream.
func (in *input) offset() int64 { return in.src.n - int64(in.Buffered()) }

// peek returns the next n bytes without taking them. The error of a stream that
// ends before them is io.ErrUnexpectedEOF, and io.EOF if it ends just here.
func (in *input) peek(n int) ([]byte, error) {
	b, err := in.Peek(n)
	if err == io.EOF && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// skip takes n bytes that are of no interest.
func (in *input) skip(n int64) error {
	_, err := io.CopyN(io.Discard, in.Reader, n)
	return cut(err)
}

// A source remembers how much was read and how reading ended.
type source struct {
	r   io.Reader
	n   int64 // bytes read so far
	end error // nothing is read after the first error
	err error // the error, if it was one and not the end
}

func (s *source) Read(p []byte) (int, error) {
	if s.end != nil {
		return 0, s.end
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if err != nil {
		s.end = err
		if err != io.EOF {
			s.err = err
		}
	}
	return n, err
}

// The formats' numbers are little-endian.
var le = binary.LittleEndian
