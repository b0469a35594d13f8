package codec

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"hash/crc64"
	"math/bits"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
)

// A gzipShape is one member, in which each piece ends at a byte and may refer to
// the one before it, as of pigz.
type gzipShape struct {
	level int
	crc   uint32
	size  uint32 // modulo 4 GiB
}

func newGzipShape(o WriteOptions) *gzipShape { return &gzipShape{level: o.level(6)} }

func (s *gzipShape) cuts() (piece, before int) { return 1 << 20, 32 << 10 }
func (s *gzipShape) cost() int64               { return 2 << 20 }

// begin: no name, no time, unknown system.
func (s *gzipShape) begin() []byte { return []byte(gzipMagic + "\x00\x00\x00\x00\x00\x00\xff") }

func (s *gzipShape) packed(piece, _ []byte) {
	s.crc = crc32.Update(s.crc, crc32.IEEETable, piece)
	s.size += uint32(len(piece))
}

// end: an empty last block, the checksum, the length.
func (s *gzipShape) end() []byte {
	return le.AppendUint32(le.AppendUint32([]byte{3, 0}, s.crc), s.size)
}

func (s *gzipShape) engine() (engine, error) {
	z, err := flate.NewWriter(nil, s.level)
	return func(dst, before, piece []byte) ([]byte, error) {
		out := bytes.NewBuffer(dst)
		z.ResetDict(out, before)
		if _, err := z.Write(piece); err != nil {
			return nil, err
		}
		err := z.Flush()
		return out.Bytes(), err
	}, err
}

// A zstdShape is frames of 4 MiB, and at the end a table of their lengths in a
// frame that is skipped when unpacking, with which a reader can begin at any of
// them: the seekable format, see Seekable.
type zstdShape struct {
	level int
	table []byte
}

func newZstdShape(o WriteOptions) *zstdShape { return &zstdShape{level: o.level(3)} }

func (s *zstdShape) cuts() (piece, before int) { return 4 << 20, 0 }
func (s *zstdShape) cost() int64               { return 24 << 20 }
func (s *zstdShape) begin() []byte             { return nil }

// packed lists a frame, whose last four bytes are its checksum.
func (s *zstdShape) packed(piece, out []byte) {
	s.table = le.AppendUint32(le.AppendUint32(s.table, uint32(len(out))), uint32(len(piece)))
	s.table = append(s.table, out[len(out)-4:]...)
}

// zstdEmpty is a frame of nothing: flags, its length, an empty last block, the
// checksum.
const zstdEmpty = zstdMagic + "\x24\x00" + "\x01\x00\x00" + "\x99\xe9\xd8\x51"

func (s *zstdShape) end() []byte {
	var b []byte
	if len(s.table) == 0 {
		b = []byte(zstdEmpty)
		s.packed(nil, b)
	}
	b = le.AppendUint32(append(b, seekTableMagic...), uint32(len(s.table)+seekTableFoot))
	b = append(b, s.table...)
	b = le.AppendUint32(b, uint32(len(s.table)/12))
	return append(append(b, seekTableSums), seekTableEnd...)
}

func (s *zstdShape) engine() (engine, error) {
	// As a single segment, each frame says how long it is, however short.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithLowerEncoderMem(true), zstd.WithSingleSegment(true),
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(s.level)))
	return func(dst, _, piece []byte) ([]byte, error) {
		return z.EncodeAll(piece, dst), nil
	}, err
}

// An xzShape is one stream of blocks whose headers say how long they are, as of
// xz -T, so that they can be unpacked several at a time.
type xzShape struct {
	dict    int // in bytes, a power of two
	records []xzRecord
}

// newXZShape: the level is the size of the dictionary, from 1 to 8 MiB; with a larger
// one package lzma takes much longer and gains next to nothing.
func newXZShape(o WriteOptions) *xzShape { return &xzShape{dict: 1 << 20 << ((o.level(6) + 1) / 3)} }

func (s *xzShape) cuts() (piece, before int) { return s.dict / 2 * 3, 0 }
func (s *xzShape) cost() int64               { return 12 * int64(s.dict) }
func (s *xzShape) begin() []byte             { return appendXZHeader(nil, xzCRC64) }
func (s *xzShape) end() []byte               { return appendXZIndex(nil, xzCRC64, s.records...) }

func (s *xzShape) packed(piece, out []byte) {
	packed, _, _ := xzNumber(out[2:])
	b := xzBlock{header: out[:xzMadeHeader], check: xzCRC64}
	s.records = append(s.records, b.record(packed, int64(len(piece))))
}

// xzMadeHeader is the length of the blocks' headers, in bytes. It has room for
// numbers of four bytes, and is padded if they are shorter.
const xzMadeHeader = 20

func (s *xzShape) engine() (engine, error) {
	table := crc64.MakeTable(crc64.ECMA)
	return func(dst, _, piece []byte) ([]byte, error) {
		out := bytes.NewBuffer(append(dst, make([]byte, xzMadeHeader)...))
		z, err := lzma.Writer2Config{DictCap: s.dict}.NewWriter2(out)
		if err != nil {
			return nil, err
		}
		if _, err := z.Write(piece); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		packed := out.Len() - xzMadeHeader
		s.header(out.Bytes()[:0], packed, len(piece))
		out.Write(make([]byte, int(padded(int64(packed)))-packed))
		return le.AppendUint64(out.Bytes(), crc64.Checksum(piece, table)), nil
	}, nil
}

// header writes a block's header: its length, that both sizes follow, the sizes,
// one filter with one byte that gives the size of the dictionary, padding, a
// checksum.
func (s *xzShape) header(dst []byte, packed, unpacked int) {
	dst = append(dst, xzMadeHeader/4-1, 0xc0)
	dst = binary.AppendUvarint(dst, uint64(packed))
	dst = binary.AppendUvarint(dst, uint64(unpacked))
	dst = append(dst, xzLZMA2, 1, byte(2*(bits.TrailingZeros(uint(s.dict))-12)))
	dst = dst[:xzMadeHeader-4]
	_ = le.AppendUint32(dst, crc32.ChecksumIEEE(dst))
}
