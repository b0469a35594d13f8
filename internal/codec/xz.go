package codec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

const (
	xzMagic     = "\xfd7zXZ\x00"
	xzFooter    = "YZ"
	xzHeaderLen = 12 // of a stream's header, and of its footer
)

// xzMemory is what unpacking a block takes beside its dictionary, in bytes.
const xzMemory = 64 << 10

// The checks of a block's content that are defined and known here.
const (
	xzNone   = 0
	xzCRC32  = 1
	xzCRC64  = 4
	xzSHA256 = 10
)

// xzCheckLen returns how long a check is, in bytes; -1 if it is not known here.
func xzCheckLen(check byte) int64 {
	switch check {
	case xzNone:
		return 0
	case xzCRC32:
		return 4
	case xzCRC64:
		return 8
	case xzSHA256:
		return 32
	}
	return -1
}

// xzParts are the streams of an xz file, and at the same time what the current
// one unpacks to.
//
// A stream is a header, blocks, an index of them and a footer. It is taken apart
// here; what is in a block is left to package xz, which is given each block as a
// stream of its own. So blocks whose header says how long they are (xz -T makes
// such) can be unpacked several at a time.
type xzParts struct {
	in      *input
	o       ReadOptions
	need    int64 // for the most demanding dictionary so far, in bytes
	check   byte  // how blocks are checked in this stream
	seen    xzIndex
	block   xzUnpacking // that is being read; nil: between two
	ahead   *xzAhead
	benches *xzBenches
	held    *xzBlock // its header has been read, and there was no room for it ahead
	err     error    // met while reading ahead; to be told when all before it has been read
}

// An xzUnpacking is a block that is being unpacked. Its Read returns io.EOF once
// the block has been proved; then it knows what the index must say of it.
type xzUnpacking interface {
	io.Reader
	record() xzRecord
	offset() int64
}

func newXZParts(in *input, o ReadOptions) *xzParts {
	benches := &xzBenches{memory: o.Memory}
	return &xzParts{in: in, o: o, benches: benches, ahead: newXZAhead(o, benches)}
}

func (x *xzParts) next() (io.Reader, error) {
	head, err := x.in.peek(xzHeaderLen)
	switch {
	case !like(head, xzMagic):
		return nil, errMagic
	case err != nil:
		return nil, err
	case crc32.ChecksumIEEE(head[6:8]) != le.Uint32(head[8:]):
		return nil, errors.New("the checksum of the stream's header is wrong")
	}
	if head[6] != 0 || xzCheckLen(head[7]) < 0 {
		return nil, unsupported(fmt.Sprintf("its blocks are checked in a way not known here (%#x)", head[6:8]))
	}
	x.check = head[7]
	x.seen = xzIndex{}
	if err := x.in.skip(xzHeaderLen); err != nil {
		return nil, err
	}
	return x, x.look()
}

// look reads the first block's header, so that what the block needs is known.
func (x *xzParts) look() error {
	block, err := readXZBlock(x.in, x.check)
	if err != nil {
		if err == io.EOF {
			return nil // the index: a stream of no blocks
		}
		return err
	}
	x.held = block
	return x.allow(block)
}

// allow checks that a block may be unpacked at all.
func (x *xzParts) allow(b *xzBlock) error {
	if b.dict > x.o.Memory {
		return tooBig(b.dict, x.o.Memory)
	}
	x.need = max(x.need, b.dict)
	return nil
}

func (x *xzParts) Read(p []byte) (int, error) {
	for {
		if x.block == nil {
			if err := x.nextBlock(); err != nil {
				return 0, err
			}
		}
		n, err := x.block.Read(p)
		if err == io.EOF {
			x.seen.add(x.block.record())
			x.block, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// nextBlock goes on to the next block. At the end of the stream it returns io.EOF
// if the index is right.
func (x *xzParts) nextBlock() error {
	x.readAhead()
	if x.block = x.ahead.take(); x.block != nil {
		return nil
	}
	block, err := x.held, x.err
	x.held, x.err = nil, nil
	switch {
	case err == io.EOF:
		return x.finish()
	case err != nil:
		return err
	}
	s := &xzSerial{in: x.in, block: block, benches: x.benches}
	x.block = s
	return s.begin()
}

// readAhead sets as many blocks going as there is room for.
func (x *xzParts) readAhead() {
	for x.err == nil {
		if x.held == nil {
			if x.held, x.err = readXZBlock(x.in, x.check); x.err != nil {
				return
			}
			if x.err = x.allow(x.held); x.err != nil {
				return
			}
		}
		if !x.ahead.room(x.held) {
			return
		}
		x.err = x.ahead.start(x.in, x.held)
		x.held = nil
	}
}

// finish reads what stands behind the last block.
func (x *xzParts) finish() error {
	var listed xzIndex
	length, err := readXZIndex(x.in, listed.add)
	if err != nil {
		return err
	}
	if !x.seen.equal(listed) {
		return errors.New("the index does not agree with the blocks")
	}
	b, err := x.in.peek(xzHeaderLen)
	if err != nil {
		return cut(err)
	}
	want := appendXZFooter(nil, length, x.check)
	if !bytes.Equal(b, want) {
		return errors.New("the stream's footer is wrong")
	}
	if err := x.in.skip(xzHeaderLen); err != nil {
		return err
	}
	return io.EOF
}

func (x *xzParts) offset() int64 {
	switch {
	case x.block != nil:
		return x.block.offset()
	case len(x.ahead.queue) > 0:
		return x.ahead.queue[0].block.start
	case x.held != nil:
		return x.held.start
	}
	return x.in.offset()
}

func (x *xzParts) memory() int64 {
	if x.ahead.used || x.held != nil && x.ahead.room(x.held) {
		return max(x.need+xzMemory+xzPiecesSize, x.o.Ahead)
	}
	return x.need + xzMemory
}

func (x *xzParts) sizeHint() int64 { return -1 } // it stands in the index, at the end

func (x *xzParts) close() { x.ahead.close() }

// An xzIndex is what is remembered of a stream's blocks to compare it with the
// index: a digest, so that many blocks take no memory.
type xzIndex struct {
	blocks int64
	sum    hash.Hash
}

func (i *xzIndex) add(r xzRecord) {
	if i.sum == nil {
		i.sum = sha256.New()
	}
	i.blocks++
	var b [16]byte
	le.PutUint64(b[:], uint64(r.unpadded))
	le.PutUint64(b[8:], uint64(r.unpacked))
	i.sum.Write(b[:])
}

func (i *xzIndex) equal(j xzIndex) bool {
	if i.blocks != j.blocks || i.blocks == 0 {
		return i.blocks == j.blocks
	}
	return bytes.Equal(i.sum.Sum(nil), j.sum.Sum(nil))
}

// readXZIndex reads an index, tells each of its records, and returns its length in bytes.
func readXZIndex(in *input, tell func(xzRecord)) (length int64, err error) {
	r := &xzIndexReader{in: in}
	r.byte() // the 0 by which it was known
	for left := r.number(); left > 0 && r.err == nil; left-- {
		tell(xzRecord{r.number(), r.number()})
	}
	for r.n%4 != 0 && r.err == nil {
		if r.byte() != 0 {
			r.fail("the padding of the index is not zero")
		}
	}
	sum := r.sum
	var b [4]byte
	for i := range b {
		b[i] = r.byte()
	}
	if r.err == nil && le.Uint32(b[:]) != sum {
		r.fail("the checksum of the index is wrong")
	}
	return r.n, r.err
}

// An xzIndexReader reads an index byte by byte. After an error it reads zeros.
type xzIndexReader struct {
	in  *input
	n   int64
	sum uint32
	err error
}

func (r *xzIndexReader) fail(what string) { r.err = errors.New(what) }

func (r *xzIndexReader) byte() byte {
	if r.err != nil {
		return 0
	}
	b, err := r.in.ReadByte()
	if err != nil {
		r.err = cut(err)
		return 0
	}
	r.n++
	r.sum = crc32.Update(r.sum, crc32.IEEETable, []byte{b})
	return b
}

// number reads a number in groups of seven bits, the lowest first, of at most 63 bits.
func (r *xzIndexReader) number() int64 {
	var buf [9]byte
	b := buf[:0]
	for len(b) < cap(b) {
		b = append(b, r.byte())
		if b[len(b)-1] < 0x80 {
			break
		}
	}
	v, _, ok := xzNumber(b)
	if !ok && r.err == nil {
		r.fail("a number in the index is written wrongly")
	}
	return v
}

// xzNumber takes such a number from the front of b.
func xzNumber(b []byte) (v int64, rest []byte, ok bool) {
	u, n := binary.Uvarint(b[:min(len(b), 9)])
	if n <= 0 || n > 1 && b[n-1] == 0 { // not written in the fewest bytes
		return 0, nil, false
	}
	return int64(u), b[n:], true
}

// appendXZHeader appends the header of a stream.
func appendXZHeader(dst []byte, check byte) []byte {
	dst = append(dst, xzMagic...)
	dst = append(dst, 0, check)
	return le.AppendUint32(dst, crc32.ChecksumIEEE(dst[len(dst)-2:]))
}

// appendXZIndex appends the index of blocks and the footer of their stream.
func appendXZIndex(dst []byte, check byte, blocks ...xzRecord) []byte {
	start := len(dst)
	dst = append(dst, 0)
	dst = binary.AppendUvarint(dst, uint64(len(blocks)))
	for _, b := range blocks {
		dst = binary.AppendUvarint(dst, uint64(b.unpadded))
		dst = binary.AppendUvarint(dst, uint64(b.unpacked))
	}
	for (len(dst)-start)%4 != 0 {
		dst = append(dst, 0)
	}
	dst = le.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:]))
	return appendXZFooter(dst, int64(len(dst)-start), check)
}

// An xzRecord is what an index says of a block, in bytes.
type xzRecord struct{ unpadded, unpacked int64 }

// appendXZFooter appends the footer of a stream whose index has the given length.
func appendXZFooter(dst []byte, index int64, check byte) []byte {
	b := le.AppendUint32(nil, uint32(index/4-1))
	b = append(b, 0, check)
	dst = le.AppendUint32(dst, crc32.ChecksumIEEE(b))
	return append(append(dst, b...), xzFooter...)
}
