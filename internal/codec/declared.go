package codec

import (
	"io"
	"math"
)

// DeclaredSize returns how long what is packed in a file of size bytes claims to
// be, in bytes, from what its format keeps at the front or at the end; -1 if that
// is not to be had. It reads little, and not the packed data. It is a hint, for
// showing progress: nobody has checked it.
func DeclaredSize(r io.ReaderAt, size int64, f Format) int64 {
	n := int64(-1)
	switch f {
	case Raw:
		n = size
	case XZ:
		n = declaredXZ(r, size)
	case Zip:
		n = declaredZip(r, size)
	case Zstd:
		s := &Seekable{r: r}
		if s.readTable(size) == nil {
			return s.Size()
		}
		fallthrough
	case LZ4:
		if s, err := NewReader(io.NewSectionReader(r, 0, size), f, ReadOptions{Workers: 1, Memory: math.MaxInt64}); err == nil {
			n = s.SizeHint()
			_ = s.Close()
		}
	}
	return n
}

// section returns n bytes at off of a file, nil if it does not have them.
func section(r io.ReaderAt, off, n int64) []byte {
	if off < 0 {
		return nil
	}
	b := make([]byte, n)
	if k, _ := r.ReadAt(b, off); int64(k) < n {
		return nil
	}
	return b
}

// declaredXZ goes from stream to stream, backwards, and adds up what their indexes say.
func declaredXZ(r io.ReaderAt, end int64) (total int64) {
	const most = 10_000 // streams, and padding, to be looked at
	sound := true
	for range most {
		b := section(r, end-xzHeaderLen, xzHeaderLen)
		switch {
		case end == 0 && total > 0:
			return total
		case b == nil:
			return -1
		case string(b[8:]) == "\x00\x00\x00\x00":
			end -= 4
			continue
		case string(b[10:]) != xzFooter:
			return -1
		}
		index := (int64(le.Uint32(b[4:])) + 1) * 4
		end -= xzHeaderLen + index
		if end < xzHeaderLen {
			return -1
		}
		in := newInput(io.NewSectionReader(r, end, index))
		_, err := readXZIndex(in, func(b xzRecord) {
			if b.unpadded <= 0 || b.unpadded > end || total > math.MaxInt64-b.unpacked {
				sound = false
				return
			}
			end -= padded(b.unpadded)
			total += b.unpacked
		})
		if err != nil || !sound || end < xzHeaderLen {
			return -1
		}
		end -= xzHeaderLen
	}
	return -1
}

func declaredZip(r io.ReaderAt, size int64) int64 {
	tail := section(r, max(0, size-zipEndLen-math.MaxUint16), min(size, zipEndLen+math.MaxUint16))
	for i := len(tail) - zipEndLen; i >= 0; i-- {
		if string(tail[i:i+4]) != zipEnd || i+zipEndLen+int(le.Uint16(tail[i+20:])) != len(tail) {
			continue
		}
		start := int64(le.Uint32(tail[i+16:]))
		if start == math.MaxUint32 {
			if i < zipLocateLen || string(tail[i-zipLocateLen:][:4]) != zipEnd64Locate {
				return -1
			}
			end := section(r, int64(le.Uint64(tail[i-zipLocateLen+8:])), zipEnd64Len)
			if end == nil || string(end[:4]) != zipEnd64 {
				return -1
			}
			start = int64(le.Uint64(end[48:]))
		}
		if start < 0 || start > size {
			return -1
		}
		return listedFile(newInput(io.NewSectionReader(r, start, size-start)))
	}
	return -1
}

// listedFile returns the length of the only file that a directory lists, else -1.
func listedFile(in *input) int64 {
	found := int64(-1)
	for range zipEntries {
		if b, err := in.peek(4); err != nil || string(b) != zipDirectory {
			return found
		}
		h, err := readListed(in)
		switch {
		case err != nil:
			return -1
		case h.folder():
		case found >= 0:
			return -1
		default:
			found = h.size
		}
	}
	return -1
}
