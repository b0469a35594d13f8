package codec

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/mikelolasagasti/xz"
)

// The filters of package xz, by their numbers: what may stand before LZMA2, and
// LZMA2, which must be the last.
const (
	xzDelta = 0x03
	xzX86   = 0x04 // and five other machines' code up to
	xzSPARC = 0x09
	xzLZMA2 = 0x21
)

// An xzBlock is what a block's header says.
type xzBlock struct {
	start    int64  // of the block in the file, in bytes
	header   []byte // as it stands there
	packed   int64  // length of the packed data in bytes; -1: not said
	unpacked int64  // length of what that makes; -1: not said
	dict     int64  // size of the dictionary in bytes
	check    byte
}

// readXZBlock reads the header of the next block; io.EOF: there is none, the index follows.
func readXZBlock(in *input, check byte) (*xzBlock, error) {
	b, err := in.peek(1)
	if err != nil {
		return nil, cut(err)
	}
	if b[0] == 0 {
		return nil, io.EOF
	}
	n := (int(b[0]) + 1) * 4
	if b, err = in.peek(n); err != nil {
		return nil, cut(err)
	}
	block := &xzBlock{start: in.offset(), header: bytes.Clone(b), packed: -1, unpacked: -1, check: check}
	if err := block.parse(); err != nil {
		return nil, err
	}
	return block, in.skip(int64(n))
}

var errXZHeader = errors.New("the header of a block makes no sense")

func (b *xzBlock) parse() error {
	end := len(b.header) - 4
	if crc32.ChecksumIEEE(b.header[:end]) != le.Uint32(b.header[end:]) {
		return errors.New("the checksum of a block's header is wrong")
	}
	flags, rest, ok := b.header[1], b.header[2:end], true
	if flags&0x3c != 0 {
		return unsupported("it uses a part of the format that is not known here")
	}
	if flags&0x40 != 0 {
		// The block and its padding must not be longer than can be counted.
		if b.packed, rest, ok = xzNumber(rest); !ok || b.packed == 0 || b.packed > math.MaxInt64-2048 {
			return errXZHeader
		}
	}
	if flags&0x80 != 0 {
		if b.unpacked, rest, ok = xzNumber(rest); !ok {
			return errXZHeader
		}
	}
	for last := int(flags & 3); last >= 0; last-- {
		var err error
		if rest, err = b.filter(rest, last == 0); err != nil {
			return err
		}
	}
	if len(bytes.Trim(rest, "\x00")) > 0 {
		return errXZHeader
	}
	return nil
}

// filter takes one filter's description from the front of b.
func (b *xzBlock) filter(from []byte, last bool) (rest []byte, err error) {
	id, rest, ok := xzNumber(from)
	if !ok {
		return nil, errXZHeader
	}
	n, rest, ok := xzNumber(rest)
	if !ok || n > int64(len(rest)) {
		return nil, errXZHeader
	}
	switch {
	case last && id == xzLZMA2:
		if n != 1 || rest[0] > 40 {
			return nil, errXZHeader
		}
		b.dict = xzDict(rest[0])
	case last || id < xzDelta || id > xzSPARC:
		return nil, unsupported(fmt.Sprintf("it uses a filter not known here (%#x); unpack it with xz -dc and pipe it in", id))
	}
	return rest[n:], nil
}

// xzDict returns the size of a dictionary, in bytes, from how a header says it.
func xzDict(code byte) int64 {
	if code == 40 {
		return math.MaxUint32
	}
	return int64(2|code&1) << (code/2 + 11)
}

// rest returns how many bytes of the block follow its header.
func (b *xzBlock) rest() int64 { return padded(b.packed) + xzCheckLen(b.check) }

func padded(n int64) int64 { return (n + 3) &^ 3 }

// record returns what the index must say of the block.
func (b *xzBlock) record(packed, unpacked int64) xzRecord {
	return xzRecord{int64(len(b.header)) + packed + xzCheckLen(b.check), unpacked}
}

// An xzBench is what unpacking a block takes: its dictionary, and, if the block is
// unpacked ahead, its packed data.
type xzBench struct {
	z    *xz.Reader
	dict int64
	buf  []byte
}

func (b *xzBench) memory() int64 { return xzMemory + b.dict + int64(cap(b.buf)) }

// open begins to unpack a stream on the bench.
func (b *xzBench) open(stream io.Reader, memory int64) (err error) {
	if b.z != nil {
		return b.z.Reset(stream)
	}
	b.z, err = xz.NewReader(stream, uint32(min(memory, math.MaxUint32)))
	return err
}

// xzBenches are the benches of a file. Those that are idle are kept as long as
// the blocks ask for the same dictionary.
type xzBenches struct {
	memory int64 // the most that a dictionary may take, in bytes
	idle   []*xzBench
	held   int64 // by all benches, in bytes
}

// fit lets go of the idle benches that are of no use for a dictionary of this size.
func (b *xzBenches) fit(dict int64) {
	if len(b.idle) > 0 && b.idle[0].dict != dict {
		for _, bench := range b.idle {
			b.held -= bench.memory()
		}
		b.idle = nil
	}
}

// more returns how much more memory a block would take that needs this
// dictionary, and a buffer of so many bytes.
func (b *xzBenches) more(dict, buf int64) int64 {
	b.fit(dict)
	if n := len(b.idle); n > 0 {
		if had := int64(cap(b.idle[n-1].buf)); had < buf {
			return roomy(buf) - had
		}
		return 0
	}
	return xzMemory + dict + roomy(buf)
}

// roomy returns how long a buffer is made, so that the next block, which may be a
// little longer, finds room in it too.
func roomy(n int64) int64 { return n + n/8 }

// take returns a bench with this dictionary and a buffer of at least so many bytes.
func (b *xzBenches) take(dict, buf int64) *xzBench {
	b.held += b.more(dict, buf)
	bench := &xzBench{dict: dict}
	if n := len(b.idle); n > 0 {
		bench, b.idle = b.idle[n-1], b.idle[:n-1]
	}
	if int64(cap(bench.buf)) < buf {
		bench.buf = make([]byte, 0, roomy(buf))
	}
	return bench
}

// put takes a bench back.
func (b *xzBenches) put(bench *xzBench) {
	b.fit(bench.dict)
	b.idle = append(b.idle, bench)
}

// An xzSerial unpacks a block that stands next in the input, as it is read. It is
// the stream that package xz sees: a header, the block and an index made to fit.
// The block may not say how long it is, so its chunks are walked along.
type xzSerial struct {
	in       *input
	block    *xzBlock
	benches  *xzBenches
	bench    *xzBench
	made     []byte // of the stream around the block, not yet read
	left     int64  // bytes of the block up to the next chunk, or to its end after the last
	last     bool   // the end of the chunks has been seen
	done     bool   // the index has been made
	packed   int64
	unpacked int64
}

func (s *xzSerial) begin() error {
	s.made = append(appendXZHeader(nil, s.block.check), s.block.header...)
	s.bench = s.benches.take(s.block.dict, 0)
	return s.bench.open((*xzSerialInput)(s), s.benches.memory)
}

func (s *xzSerial) Read(p []byte) (int, error) {
	n, err := s.bench.z.Read(p)
	if err == io.EOF {
		s.benches.put(s.bench)
	}
	return n, err
}

func (s *xzSerial) record() xzRecord { return s.block.record(s.packed, s.unpacked) }

func (s *xzSerial) offset() int64 { return s.in.offset() }

// An xzSerialInput is what an xzSerial gives package xz to read.
type xzSerialInput xzSerial

func (s *xzSerialInput) Read(p []byte) (int, error) {
	if len(s.made) == 0 && s.left == 0 && !s.done {
		if err := s.chunk(); err != nil {
			return 0, err
		}
	}
	if len(s.made) > 0 {
		n := copy(p, s.made)
		s.made = s.made[n:]
		return n, nil
	}
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.in.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, cut(err)
}

// chunk goes on to the next chunk of LZMA2: a control byte, lengths less one,
// data. The control byte 0 is the end; then padding, the check and the index.
func (s *xzSerialInput) chunk() error {
	if s.last {
		s.done = true
		s.made = appendXZIndex(nil, s.block.check, s.block.record(s.packed, s.unpacked))
		return nil
	}
	b, err := s.in.peek(1)
	if err != nil {
		return cut(err)
	}
	head := 3
	switch control := b[0]; {
	case control == 0:
		s.packed++
		s.last, s.left = true, 1+padded(s.packed)-s.packed+xzCheckLen(s.block.check)
		return nil
	case control >= 0xc0:
		head = 6
	case control >= 0x80:
		head = 5
	case control > 2:
		return errors.New("a chunk is of a kind that does not exist")
	}
	if b, err = s.in.peek(head); err != nil {
		return cut(err)
	}
	size := int64(b[1])<<8 + int64(b[2]) + 1
	packed := size
	if head > 3 {
		size += int64(b[0]&0x1f) << 16
		packed = int64(b[3])<<8 + int64(b[4]) + 1
	}
	s.left = int64(head) + packed
	s.packed += s.left
	s.unpacked += size
	return nil
}
