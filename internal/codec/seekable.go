package codec

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// A seekable zst file is frames that do not need one another, and at its end a
// table of their lengths in a frame that plain decoders skip (contrib/
// seekable_format/zstd_seekable_compression_format.md of facebook/zstd). All
// numbers are little-endian:
//
//	5e 2a 4d 18, length of the rest    the head of a frame to be skipped
//	packed length, length[, checksum]  for each frame, 4 bytes each; the checksum
//	                                   is the low half of the XXH64 of what the
//	                                   frame unpacks to
//	number of frames, flags            4 bytes and 1; flag 80: with checksums
//	b1 ea 92 8f
const (
	seekTableMagic = "\x5e\x2a\x4d\x18"
	seekTableEnd   = "\xb1\xea\x92\x8f"
	seekTableFoot  = 9 // bytes: the number of frames, flags, seekTableEnd

	seekTableSums     = 0x80 // flag: there are checksums
	seekTableReserved = 0x7c // flags that must not be set

	// maxSeekFrames bounds what a table may make us remember: 12 MiB.
	maxSeekFrames = 1 << 19
)

// ErrNotSeekable is returned by OpenSeekable for a file in which nothing can be
// found without unpacking what is before it: it is in another format, was made
// without a table, or its frames are too long to be held in memory.
var ErrNotSeekable = errors.New("it has no table of its frames")

// A Seekable is a zst file that can be unpacked from any place: its ReadAt
// unpacks the frames that are asked for, and keeps the last few. Its methods may
// be called from any goroutine.
//
// The table at the end of the file is believed only as far as it proves right.
// What it says of the frames' lengths must be what their own headers say, and
// whoever unpacks a frame proves that. A file in which both lie alike has no
// right places at all: a Reader finds that out, and once it has come to its end,
// all that ReadAt gave was right.
type Seekable struct {
	r      io.ReaderAt
	o      ReadOptions
	frames []seekFrame // and one more, which begins where the table and the disk end
	sums   bool        // the table has checksums
	table  []byte      // the last frame as it is in the file

	maxPacked, maxUnpacked int64 // of a frame, in bytes

	cache *seekCache
}

// A seekFrame is what the table says of a frame, offsets in bytes.
type seekFrame struct {
	start int64 // in the file
	off   int64 // of what it unpacks to
	sum   uint32
}

// OpenSeekable reads the table at the end of a packed file of size bytes, and the
// headers of all frames. The error is ErrNotSeekable if there is no table to be
// used, and an *Error if there is one that does not fit the file. Either way the
// file may be a good image: a plain Reader does not look at the table.
//
// Half of o.Ahead is for ReadAt, the other half for a Reader.
func OpenSeekable(r io.ReaderAt, size int64, o ReadOptions) (*Seekable, error) {
	s := &Seekable{r: r, o: o.withDefaults()}
	if err := s.readTable(size); err != nil {
		return nil, err
	}
	var ok bool
	if s.cache, ok = newSeekCache(s); !ok || s.readers() < 1 {
		return nil, ErrNotSeekable
	}
	for i := range s.count() {
		if err := s.checkHeader(i); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// checkHeader compares what a frame says of its length with the table. A frame
// that says nothing could lie anywhere on the disk.
func (s *Seekable) checkHeader(i int) error {
	from, to := s.frames[i], s.frames[i+1]
	b := make([]byte, min(zstdHeaderMost, to.start-from.start))
	if err := readFullAt(s.r, b, from.start); err != nil {
		return err
	}
	size := int64(0)
	if len(b) < skippableLen || !isSkippable(b) {
		h, err := frameHeader(b)
		if err != nil {
			return &Error{Zstd, from.start, err}
		}
		size = h.size
	}
	switch {
	case size < 0:
		return ErrNotSeekable
	case size != to.off-from.off:
		return &Error{Zstd, from.start, fmt.Errorf("the table of its frames says that this one unpacks to %d bytes, but it has %d", to.off-from.off, size)}
	}
	return nil
}

// readTable reads the table and compares its sums with the file.
func (s *Seekable) readTable(size int64) error {
	foot := make([]byte, seekTableFoot)
	if size < skippableLen+seekTableFoot {
		return ErrNotSeekable
	}
	if err := readFullAt(s.r, foot, size-seekTableFoot); err != nil {
		return err
	}
	if string(foot[5:]) != seekTableEnd {
		return ErrNotSeekable
	}
	bad := func(off int64, format string, args ...any) error {
		return &Error{Zstd, off, fmt.Errorf("the table of its frames "+format, args...)}
	}
	n, flags := int64(le.Uint32(foot)), foot[4]
	entry := int64(8)
	if s.sums = flags&seekTableSums != 0; s.sums {
		entry += 4
	}
	length := skippableLen + n*entry + seekTableFoot
	switch {
	case flags&seekTableReserved != 0:
		return ErrNotSeekable // a later kind of table
	case n > maxSeekFrames:
		return bad(size-seekTableFoot, "lists %d of them; no image has so many", n)
	case length > size:
		return bad(size-seekTableFoot, "would be longer than the file")
	}
	s.table = make([]byte, length)
	if err := readFullAt(s.r, s.table, size-length); err != nil {
		return err
	}
	if string(s.table[:4]) != seekTableMagic || int64(le.Uint32(s.table[4:])) != length-skippableLen {
		return bad(size-length, "does not begin where its end says")
	}
	s.frames = make([]seekFrame, 0, n+1)
	var at seekFrame
	for e := s.table[skippableLen : length-seekTableFoot]; len(e) > 0; e = e[entry:] {
		packed, unpacked := int64(le.Uint32(e)), int64(le.Uint32(e[4:]))
		if s.sums {
			at.sum = le.Uint32(e[8:])
		}
		s.frames = append(s.frames, at)
		at.start, at.off = at.start+packed, at.off+unpacked
		s.maxPacked, s.maxUnpacked = max(s.maxPacked, packed), max(s.maxUnpacked, unpacked)
	}
	if at.start != size-length {
		return bad(size-length, "says that they have %d bytes, but they have %d", at.start, size-length)
	}
	s.frames = append(s.frames, at)
	return nil
}

// readFullAt fills p from a file that has these bytes, or has been cut since.
func readFullAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return &Error{Zstd, off + int64(n), io.ErrUnexpectedEOF}
	}
	return err
}

// Size returns how many bytes the file unpacks to.
func (s *Seekable) Size() int64 { return s.end().off }

// end returns where the frames end.
func (s *Seekable) end() seekFrame { return s.frames[s.count()] }

// count returns the number of frames.
func (s *Seekable) count() int { return len(s.frames) - 1 }

// Memory returns how much ReadAt may take, in bytes.
func (s *Seekable) Memory() int64 { return s.cache.memory() + int64(24*len(s.frames)+len(s.table)) }

// frameCost is what unpacking takes beside the bytes of a frame, packed and
// unpacked, in bytes.
const frameCost = 1 << 20

// cost returns what a Reader takes for each frame under way, in bytes.
func (s *Seekable) cost() int64 { return s.maxPacked + s.maxUnpacked + frameCost }

// readers returns how many frames a Reader may have under way: one more than
// processors, since one is being read.
func (s *Seekable) readers() int { return int(min(int64(s.o.Workers)+1, s.o.Ahead/2/s.cost())) }

// at returns the frame that has byte off of the disk, which is before the end.
// Of frames that unpack to nothing it is never one.
func (s *Seekable) at(off int64) int {
	return sort.Search(s.count(), func(i int) bool { return s.frames[i+1].off > off })
}

// A frameBench is what it takes to unpack a frame.
type frameBench struct {
	packed []byte
	z      *zstd.Decoder
}

// room returns a buffer for n packed bytes.
func (b *frameBench) room(n int64) []byte {
	if int64(cap(b.packed)) < n+4 { // for a checksum
		b.packed = make([]byte, n+4)
	}
	return b.packed[:n]
}

func (b *frameBench) close() {
	if b.z != nil {
		b.z.Close()
	}
}

// unpack unpacks frame i, which is in packed, and appends it to dst, which has
// room for it. Whatever the table says of the frame must be so.
func (s *Seekable) unpack(i int, b *frameBench, packed, dst []byte) ([]byte, error) {
	want := s.frames[i+1].off - s.frames[i].off
	bad := func(err error) ([]byte, error) {
		if e, ok := errors.AsType[*Error](err); ok {
			return nil, e
		}
		return nil, &Error{Zstd, s.frames[i].start, err}
	}
	if isSkippable(packed) && len(packed) >= skippableLen {
		if want != 0 || int64(len(packed)) != skippableLen+int64(le.Uint32(packed[4:])) {
			return bad(errors.New("a frame to be skipped is not what the table of its frames says"))
		}
		return dst, nil
	}
	h, err := wholeFrame(packed)
	switch {
	case err != nil:
		return bad(err)
	case h.window > s.o.Memory:
		return bad(tooBig(h.window, s.o.Memory))
	}
	if s.sums {
		// The table's checksum is the one that the frame has itself, or could have.
		end := len(packed)
		if h.checksum {
			end -= 4
		}
		if h.checksum && le.Uint32(packed[end:]) != s.frames[i].sum {
			return bad(errors.New("the table of its frames has another checksum than the frame"))
		}
		packed[4] |= zstdChecksum
		packed = le.AppendUint32(packed[:end], s.frames[i].sum)
	}
	if b.z == nil {
		b.z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxWindow(uint64(min(max(s.o.Memory, zstd.MinWindowSize), 1<<40))))
		if err != nil {
			return bad(err)
		}
	}
	had := len(dst)
	dst, err = b.z.DecodeAll(packed, dst)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded) || err == nil && int64(len(dst)-had) != want:
		return bad(fmt.Errorf("the table of its frames says that this one unpacks to %d bytes, but it does not", want))
	case err != nil:
		return bad(err)
	}
	return dst, nil
}

// errNoFrame is the error of a table with something else where it says a frame is.
var errNoFrame = errors.New("the table of its frames says that one begins and ends here, but none does")

// frameHeader reads the header of a frame at the front of b.
func frameHeader(b []byte) (zstdHeader, error) {
	if len(b) < 5 || string(b[:4]) != zstdMagic || len(b) < zstdHeaderLen(b[4]) {
		return zstdHeader{}, errNoFrame
	}
	return parseZstdHeader(b)
}

// wholeFrame looks whether b is one frame, whole, and nothing else.
func wholeFrame(b []byte) (zstdHeader, error) {
	h, err := frameHeader(b)
	if err != nil {
		return h, err
	}
	for rest, last := b[h.len:], false; ; {
		switch {
		case last && h.checksum && len(rest) == 4, last && !h.checksum && len(rest) == 0:
			return h, nil
		case last || len(rest) < 3:
			return h, errNoFrame
		}
		var n int64
		if n, last, err = zstdBlock(rest); err != nil {
			return h, err
		}
		if n > int64(len(rest)) {
			return h, errNoFrame
		}
		rest = rest[n:]
	}
}
