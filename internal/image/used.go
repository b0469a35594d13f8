package image

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"multidd/internal/block"
	"multidd/internal/codec"
)

// A Mapper finds out from a disk itself which of its bytes are used, where nobody
// has made a map. It knows partition tables and file systems, which this package
// does not. Whatever it does not understand, it must call used.
type Mapper interface {
	// Map returns what is used of a disk of size bytes, which can be read at any
	// place. The error is that of reading.
	Map(r io.ReaderAt, size int64) (block.Map, error)
	// Watch begins to watch a disk that passes by.
	Watch() Watch
}

// A Watch sees a disk pass by once, in order and without gaps, and says of each
// piece at once what of it is used. It may also have a method Estimate() int64,
// which returns how many bytes will have been used at the end, as far as that can
// be guessed, and -1 if not.
type Watch interface {
	// See returns the extents of the disk within [off, off+len(p)) that are used or
	// not known to be free, in ascending order, not overlapping. p is not changed,
	// nor kept.
	See(off int64, p []byte) []block.Extent
	// Close ends the watch. It is called once, whether the disk has passed or not.
	Close()
}

// findUsed asks the Mapper, if it is to be asked and can be answered now.
func (im *Image) findUsed() error {
	if im.o.Mapper == nil || im.o.All || im.bmap != nil || im.size <= 0 {
		return nil
	}
	r, ok := im.ReaderAt()
	if !ok {
		return nil
	}
	m, err := im.o.Mapper.Map(r, im.size)
	if im.copied != nil && errors.Is(err, errDamaged) {
		im.warn("the copy in the store was damaged and has been removed; the image is unpacked again: %v", err)
		_ = im.copied.close()
		im.copied, im.size = nil, -1
		return im.beginUnpacking()
	}
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return e
		}
		return im.bad(reasonDecode, -1, fmt.Errorf("find out what of it is used: %w", err))
	}
	if err := checkFound(m, im.size); err != nil {
		im.warn("what of it is used could not be found out, so all of it is written: %v", err)
		m = block.Whole(im.size)
	}
	im.found = &m
	return nil
}

// checkFound checks what a Mapper has found.
func checkFound(m block.Map, size int64) error {
	switch {
	case m.Size != size:
		return fmt.Errorf("a map of %d bytes for %d", m.Size, size)
	case len(m.Used) == 0:
		return errors.New("a map of nothing")
	}
	return m.Check()
}

// ReaderAt returns the bytes of the disk at any place, whether the Reader has got
// there or not; ok is false if the image comes in a stream, or has to be unpacked
// from its beginning. It may be used until Close, from any goroutine. An error is
// an *Error, or that of a damaged copy in the store, which is then gone.
func (im *Image) ReaderAt() (r io.ReaderAt, ok bool) {
	if im.copied != nil || im.seek != nil || !im.isPacked() && im.in.file != nil {
		return anywhere{im}, true
	}
	return nil, false
}

// anywhere is an image that can be read at any place.
type anywhere struct{ im *Image }

func (a anywhere) ReadAt(p []byte, off int64) (n int, err error) {
	im := a.im
	switch {
	case im.copied != nil:
		n, err = im.copied.ReadAt(p, off)
		if errors.Is(err, errDamaged) {
			im.o.Store.remove(im.copied.Packed)
		}
		return n, err
	case im.seek != nil:
		n, err = im.seek.ReadAt(p, off)
	default:
		n, err = im.in.file.ReadAt(p, off)
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	at := off + int64(n)
	if _, ok := errors.AsType[*codec.Error](err); ok {
		return n, im.decodeError(err, at)
	}
	if im.seek == nil {
		return n, im.unreadable(err, at, at)
	}
	if err := im.in.changed(); err != nil {
		return n, im.bad(reasonDigest, at, err)
	}
	return n, im.bad(reasonDecode, at, fmt.Errorf("it cannot be read: %w", err))
}

// maxUsed bounds what is remembered of a disk that passes by, in extents: 4 MiB.
const maxUsed = 1 << 18

// A passed is what has been seen to be used of a disk that passes by.
type passed struct {
	watch Watch
	bytes int64          // used so far
	used  []block.Extent // in ascending order, neighbours joined; kept only if it will be asked for
	keep  bool
	full  bool // no more can be remembered: from here on all is used
	whole bool // the watch does not keep its promises: from here on all is used
}

// see returns what is used of e, whose bytes are p.
func (s *passed) see(e block.Extent, p []byte) []block.Extent {
	parts := s.watch.See(e.Off, p)
	at := e.Off
	for _, x := range parts {
		if x.Off < at || x.Len <= 0 || x.Len > e.End()-x.Off {
			s.whole = true
			break
		}
		at = x.End()
	}
	s.full = s.full || s.keep && len(s.used)+len(parts) > maxUsed
	if s.full || s.whole {
		parts = []block.Extent{e}
	}
	for _, x := range parts {
		s.bytes += x.Len
		switch n := len(s.used); {
		case !s.keep:
		case n > 0 && s.used[n-1].End() == x.Off:
			s.used[n-1].Len += x.Len
		default:
			s.used = append(s.used, x)
		}
	}
	return parts
}

// blank makes zeros of what is free of p, which belongs at byte off.
func blank(used []block.Extent, p []byte, off int64) {
	end := off + int64(len(p))
	i := sort.Search(len(used), func(i int) bool { return used[i].End() > off })
	for at := off; at < end; i++ {
		next := block.Extent{Off: end}
		if i < len(used) && used[i].Off < end {
			next = used[i]
		}
		if next.Off > at {
			clear(p[at-off : next.Off-off])
		}
		at = max(at, next.End())
	}
}
