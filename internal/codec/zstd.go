package codec

import (
	"errors"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

const zstdMagic = "\x28\xb5\x2f\xfd"

// zstdMemory is what unpacking takes beside the window, in bytes.
const zstdMemory = 1 << 20

// zstdParts are the frames of a zst stream.
type zstdParts struct {
	in     *input
	limit  int64
	window int64 // the largest so far
	size   int64 // what the first frame says, until there is a second; else -1
	frames int
	d      *zstd.Decoder
}

func newZstdParts(in *input, o ReadOptions) *zstdParts {
	return &zstdParts{in: in, limit: o.Memory, size: -1}
}

func (z *zstdParts) next() (io.Reader, error) {
	head, err := z.in.peek(4)
	switch {
	case isSkippable(head):
		z.frames++
		z.size = -1 // made of many frames
		return nil, skipFrame(z.in)
	case !like(head, zstdMagic) && !likeSkippable(head):
		return nil, errMagic
	case err != nil:
		return nil, err
	}
	h, err := readZstdHeader(z.in)
	if err != nil {
		return nil, err
	}
	if h.window > z.limit {
		return nil, tooBig(h.window, z.limit)
	}
	z.window = max(z.window, h.window)
	z.size = -1
	if z.frames == 0 {
		z.size = h.size
	}
	z.frames++
	frame := &zstdFrame{in: z.in, left: int64(h.len), checksum: h.checksum}
	if z.d == nil {
		z.d, err = zstd.NewReader(frame, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(min(max(z.limit, zstd.MinWindowSize), 1<<40))))
	} else {
		err = z.d.Reset(frame)
	}
	return z.d, err
}

func (z *zstdParts) offset() int64   { return z.in.offset() }
func (z *zstdParts) memory() int64   { return zstdMemory + z.window }
func (z *zstdParts) sizeHint() int64 { return z.size }

func (z *zstdParts) close() {
	if z.d != nil {
		z.d.Close()
	}
}

// skipFrame takes a frame that holds nothing of the image.
func skipFrame(in *input) error {
	head, err := in.peek(skippableLen)
	if err != nil {
		return cut(err)
	}
	return in.skip(skippableLen + int64(le.Uint32(head[4:])))
}

// A zstdHeader is the head of a frame, RFC 8878, 3.1.1.1.
type zstdHeader struct {
	len      int // of the header with its magic, in bytes
	window   int64
	size     int64 // of what the frame unpacks to; -1: not said
	checksum bool
}

// readZstdHeader looks at the header that stands next, and leaves it there.
func readZstdHeader(in *input) (zstdHeader, error) {
	b, err := in.peek(5)
	if err != nil {
		return zstdHeader{}, cut(err)
	}
	flags := b[4]
	single := flags&0x20 != 0
	dictLen := [4]int{0, 1, 2, 4}[flags&3]
	sizeLen := [4]int{0, 2, 4, 8}[flags>>6]
	if single && sizeLen == 0 {
		sizeLen = 1
	}
	h := zstdHeader{len: 5 + dictLen + sizeLen, size: -1, checksum: flags&0x04 != 0}
	if !single {
		h.len++
	}
	if b, err = in.peek(h.len); err != nil {
		return zstdHeader{}, cut(err)
	}
	b = b[5:]
	if !single {
		base := int64(1) << (10 + b[0]>>3)
		h.window = base + base/8*int64(b[0]&7)
		b = b[1:]
	}
	for _, d := range b[:dictLen] {
		if d != 0 {
			return zstdHeader{}, unsupported("it was packed with a dictionary, which is not here; unpack it with zstd -D and pipe it in")
		}
	}
	b = b[dictLen:]
	switch sizeLen {
	case 1:
		h.size = int64(b[0])
	case 2:
		h.size = int64(le.Uint16(b)) + 256
	case 4:
		h.size = int64(le.Uint32(b))
	case 8:
		h.size = int64(min(le.Uint64(b), math.MaxInt64))
	}
	if single {
		h.window = h.size
	}
	return h, nil
}

// A zstdFrame is the bytes of one frame and no more: it walks along the blocks.
type zstdFrame struct {
	in       *input
	left     int64 // bytes up to the next block header, or to the end after the last
	last     bool  // the last block's header has been seen
	checksum bool  // four bytes follow the last block
}

func (f *zstdFrame) Read(p []byte) (int, error) {
	if f.left == 0 {
		if f.last {
			return 0, io.EOF
		}
		b, err := f.in.peek(3)
		if err != nil {
			return 0, cut(err)
		}
		head := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		f.last = head&1 != 0
		f.left = 3 + int64(head>>3)
		switch head >> 1 & 3 {
		case 1: // one byte, repeated
			f.left = 3 + 1
		case 3:
			return 0, errors.New("a block is of a kind that does not exist")
		}
		if f.last && f.checksum {
			f.left += 4
		}
	}
	n, err := f.in.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, cut(err)
}
