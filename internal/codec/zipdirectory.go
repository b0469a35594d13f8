package codec

import (
	"bytes"
	"errors"
	"io"
	"math"
)

// errDirectory is the error of an archive whose directory says something else
// than its entries. Which of them is right nobody can know.
var errDirectory = errors.New("the directory does not agree with what is in the archive")

// directory reads what stands behind the entries, up to the end of the archive:
// the directory and its end record, in 32 and perhaps in 64 bits.
func (z *zipParts) directory() error {
	start := z.in.offset()
	left := make(map[int64]*zipHeader, len(z.entries))
	for _, h := range z.entries {
		left[h.start] = h
	}
	for len(left) > 0 {
		l, err := readListed(z.in)
		if err != nil {
			return err
		}
		if !l.agrees(left[l.start]) {
			return errDirectory
		}
		delete(left, l.start)
	}
	return z.end(start, z.in.offset()-start)
}

// readRecord takes the fixed part of a record.
func readRecord(in *input, magic string, n int) ([]byte, error) {
	b, err := in.peek(n)
	switch {
	case !like(b, magic):
		return nil, errDirectory
	case err != nil:
		return nil, cut(err)
	}
	b = bytes.Clone(b)
	return b, in.skip(int64(n))
}

// readListed takes one entry of the directory.
func readListed(in *input) (*zipHeader, error) {
	b, err := readRecord(in, zipDirectory, zipDirectoryLen)
	if err != nil {
		return nil, err
	}
	names, extras, comment := int(le.Uint16(b[28:])), int(le.Uint16(b[30:])), int64(le.Uint16(b[32:]))
	rest := make([]byte, names+extras)
	if _, err := io.ReadFull(in, rest); err != nil {
		return nil, cut(err)
	}
	l := &zipHeader{name: string(rest[:names]), start: int64(le.Uint32(b[42:])), method: le.Uint16(b[10:]), crc: le.Uint32(b[16:]),
		packed: int64(le.Uint32(b[20:])), size: int64(le.Uint32(b[24:]))}
	if err := l.widen(rest[names:], &l.size, &l.packed, &l.start); err != nil {
		return nil, err
	}
	return l, in.skip(comment)
}

// agrees compares what the directory says of an entry with the entry, if there is one.
func (h *zipHeader) agrees(e *zipHeader) bool {
	return e != nil && e.name == h.name && e.crc == h.crc && e.method == h.method &&
		sameSize(e.packed, h.packed, h.wide) && sameSize(e.size, h.size, h.wide)
}

// sameSize compares a size with one that the directory gives, which may have been
// cut off to 32 bits (see descriptor).
func sameSize(is, said int64, wide bool) bool {
	return is == said || !wide && uint32(is) == uint32(said)
}

// end reads the end records and compares them with where the directory stood.
func (z *zipParts) end(start, length int64) error {
	records := uint64(len(z.entries))
	b, err := z.in.peek(4)
	if err != nil {
		return cut(err)
	}
	if string(b) == zipEnd64 {
		at := z.in.offset()
		b, err := readRecord(z.in, zipEnd64, zipEnd64Len)
		if err != nil {
			return err
		}
		more := le.Uint64(b[4:]) - (zipEnd64Len - 12) // room for extensions
		if more > math.MaxUint16 || le.Uint64(b[16:]) != 0 || le.Uint64(b[24:]) != records || le.Uint64(b[32:]) != records ||
			le.Uint64(b[40:]) != uint64(length) || le.Uint64(b[48:]) != uint64(start) {
			return errDirectory
		}
		if err := z.in.skip(int64(more)); err != nil {
			return err
		}
		if b, err = readRecord(z.in, zipEnd64Locate, zipLocateLen); err != nil {
			return err
		}
		if le.Uint64(b[8:]) != uint64(at) {
			return errDirectory
		}
	}
	if b, err = readRecord(z.in, zipEnd, zipEndLen); err != nil {
		return err
	}
	// What does not fit is all ones; from macOS, cut off.
	if le.Uint32(b[4:]) != 0 ||
		!endField(uint64(le.Uint16(b[8:])), records, math.MaxUint16) || !endField(uint64(le.Uint16(b[10:])), records, math.MaxUint16) ||
		!endField(uint64(le.Uint32(b[12:])), uint64(length), math.MaxUint32) || !endField(uint64(le.Uint32(b[16:])), uint64(start), math.MaxUint32) {
		return errDirectory
	}
	return z.in.skip(int64(le.Uint16(b[20:]))) // a comment
}

// endField tells whether an end record's field can stand for a value.
func endField(said, is, ones uint64) bool { return said == ones || said == is&ones }
