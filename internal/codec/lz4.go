package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

const (
	lz4Magic       = "\x04\x22\x4d\x18"
	lz4LegacyMagic = "\x02\x21\x4c\x18"
)

// lz4LegacySize is the size of a block of a legacy frame, in bytes.
const lz4LegacySize = 8 << 20

// lz4LegacyBlock tells whether a legacy block can be packed into n bytes.
func lz4LegacyBlock(n uint32) bool {
	return n > 0 && n <= lz4LegacySize+lz4LegacySize/255+16
}

// lz4Parts are the frames of an lz4 stream.
type lz4Parts struct {
	in     *input
	limit  int64
	need   int64 // of the largest frame so far
	size   int64 // what the first frame says, until there is a second; else -1
	frames int
	z      *lz4.Reader
}

func newLZ4Parts(in *input, o ReadOptions) *lz4Parts {
	return &lz4Parts{in: in, limit: o.Memory, size: -1}
}

func (l *lz4Parts) next() (io.Reader, error) {
	head, err := l.in.peek(4)
	var frame io.Reader
	var need int64
	size := int64(-1)
	switch {
	case isSkippable(head):
		l.frames++
		l.size = -1
		return nil, skipFrame(l.in)
	case !like(head, lz4Magic) && !like(head, lz4LegacyMagic) && !likeSkippable(head):
		return nil, errMagic
	case err != nil:
		return nil, err
	case head[0] == lz4Magic[0]:
		h, err := readLZ4Header(l.in)
		if err != nil {
			return nil, err
		}
		// A block as it is packed and as it is unpacked, and what the next may refer to.
		need, size = 2*h.block+192<<10, h.size
		frame = &lz4Frame{in: l.in, left: int64(h.len), h: h}
	default:
		need = 2*lz4LegacySize + 64<<10
		frame = &lz4LegacyFrame{in: l.in, left: 4}
	}
	if need > l.limit {
		return nil, tooBig(need, l.limit)
	}
	l.need = max(l.need, need)
	l.size = -1
	if l.frames == 0 {
		l.size = size
	}
	l.frames++
	if l.z == nil {
		l.z = lz4.NewReader(frame)
	} else {
		l.z.Reset(frame)
	}
	return l.z, nil
}

func (l *lz4Parts) offset() int64   { return l.in.offset() }
func (l *lz4Parts) memory() int64   { return l.need }
func (l *lz4Parts) sizeHint() int64 { return l.size }
func (l *lz4Parts) close()          {}

// An lz4Header is the head of a frame.
type lz4Header struct {
	len           int   // with its magic, in bytes
	block         int64 // the most that a block unpacks to, in bytes
	size          int64 // of what the frame unpacks to; -1: not said
	blockChecksum bool
	checksum      bool // of all that the frame unpacks to
}

// readLZ4Header looks at the header that stands next, and leaves it there. The
// decoder checks it against its checksum.
func readLZ4Header(in *input) (lz4Header, error) {
	b, err := in.peek(6)
	if err != nil {
		return lz4Header{}, cut(err)
	}
	flags, bd := b[4], b[5]
	switch {
	case flags>>6 != 1 || flags&0x02 != 0 || bd&0x8f != 0 || bd < 0x40:
		return lz4Header{}, errors.New("the head of a frame makes no sense")
	case flags&0x01 != 0:
		return lz4Header{}, unsupported("it was packed with a dictionary, which is not here; unpack it with lz4 -D and pipe it in")
	}
	h := lz4Header{len: 7, block: 1 << (8 + 2*(bd>>4)), size: -1, blockChecksum: flags&0x10 != 0, checksum: flags&0x04 != 0}
	if flags&0x08 != 0 {
		h.len += 8
		if b, err = in.peek(h.len); err != nil {
			return lz4Header{}, cut(err)
		}
		h.size = int64(le.Uint64(b[6:]) & (1<<63 - 1))
	}
	return h, nil
}

// An lz4Frame is the bytes of one frame and no more: it walks along the blocks.
type lz4Frame struct {
	in   *input
	left int64 // bytes up to the next block's length, or to the end after the last
	last bool  // the end mark has been seen
	h    lz4Header
}

func (f *lz4Frame) Read(p []byte) (int, error) {
	if f.left == 0 {
		if f.last {
			return 0, io.EOF
		}
		b, err := f.in.peek(4)
		if err != nil {
			return 0, cut(err)
		}
		n := int64(le.Uint32(b) &^ (1 << 31)) // the top bit: stored as it is
		switch {
		case n > f.h.block:
			return 0, fmt.Errorf("a block of %d bytes in a frame of blocks of %d", n, f.h.block)
		case le.Uint32(b) == 0:
			f.last = true
			if f.h.checksum {
				n += 4
			}
		case f.h.blockChecksum:
			n += 4
		}
		f.left = 4 + n
	}
	n, err := f.in.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, cut(err)
}

// An lz4LegacyFrame is the bytes of one legacy frame and no more. Such a frame
// has no mark at its end and no checksum: it ends where another begins, or with
// the stream, and one that was cut between two blocks looks whole.
type lz4LegacyFrame struct {
	in   *input
	left int64 // bytes up to the next block's length
	end  bool
}

func (f *lz4LegacyFrame) Read(p []byte) (int, error) {
	if f.left == 0 {
		b, err := f.in.peek(4)
		if f.end || err != nil && len(bytes.Trim(b, "\x00")) == 0 && (err == io.EOF || err == io.ErrUnexpectedEOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		if !lz4LegacyBlock(le.Uint32(b)) {
			f.end = true // what it is, is for others to judge
			return 0, io.EOF
		}
		f.left = 4 + int64(le.Uint32(b))
	}
	n, err := f.in.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, cut(err)
}
