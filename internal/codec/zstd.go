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

// The flags of a header.
const (
	zstdChecksum = 0x04 // a checksum follows the last block
	zstdSingle   = 0x20 // the window is as long as what the frame unpacks to
)

// zstdHeaderMost is the longest that a header can be, in bytes.
const zstdHeaderMost = 18

// zstdHeaderLen returns how long a header with such flags is, in bytes.
func zstdHeaderLen(flags byte) int {
	n := 5 + zstdDictLen(flags) + zstdSizeLen(flags)
	if flags&zstdSingle == 0 {
		n++
	}
	return n
}

func zstdDictLen(flags byte) int { return [4]int{0, 1, 2, 4}[flags&3] }

func zstdSizeLen(flags byte) int {
	if flags&zstdSingle != 0 && flags>>6 == 0 {
		return 1
	}
	return [4]int{0, 2, 4, 8}[flags>>6]
}

// readZstdHeader looks at the header that stands next, and leaves it there.
func readZstdHeader(in *input) (zstdHeader, error) {
	b, err := in.peek(5)
	if err != nil {
		return zstdHeader{}, cut(err)
	}
	if b, err = in.peek(zstdHeaderLen(b[4])); err != nil {
		return zstdHeader{}, cut(err)
	}
	return parseZstdHeader(b)
}

// parseZstdHeader reads the header at the front of b, which is all there.
func parseZstdHeader(b []byte) (zstdHeader, error) {
	flags := b[4]
	h := zstdHeader{len: zstdHeaderLen(flags), size: -1, checksum: flags&zstdChecksum != 0}
	b = b[5:]
	if flags&zstdSingle == 0 {
		base := int64(1) << (10 + b[0]>>3)
		h.window = base + base/8*int64(b[0]&7)
		b = b[1:]
	}
	dictLen := zstdDictLen(flags)
	for _, d := range b[:dictLen] {
		if d != 0 {
			return zstdHeader{}, unsupported("it was packed with a dictionary, which is not here; unpack it with zstd -D and pipe it in")
		}
	}
	b = b[dictLen:]
	switch zstdSizeLen(flags) {
	case 1:
		h.size = int64(b[0])
	case 2:
		h.size = int64(le.Uint16(b)) + 256
	case 4:
		h.size = int64(le.Uint32(b))
	case 8:
		h.size = int64(min(le.Uint64(b), math.MaxInt64))
	}
	if flags&zstdSingle != 0 {
		h.window = h.size
	}
	return h, nil
}

// zstdBlock reads a block's header, three bytes, and returns how long it and the
// block are.
func zstdBlock(b []byte) (n int64, last bool, err error) {
	head := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	n = 3 + int64(head>>3)
	switch head >> 1 & 3 {
	case 1: // one byte, repeated
		n = 3 + 1
	case 3:
		err = errors.New("a block is of a kind that does not exist")
	}
	return n, head&1 != 0, err
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
		if f.left, f.last, err = zstdBlock(b); err != nil {
			return 0, err
		}
		if f.last && f.checksum {
			f.left += 4
		}
	}
	n, err := f.in.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, cut(err)
}
