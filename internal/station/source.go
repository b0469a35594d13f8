package station

import (
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/image"
)

// An ImageSource is an image as the source of a run.
type ImageSource struct {
	*image.Reader
	// End is where the image's last block ends, in bytes, if it is not to be written
	// to its own end: what lies behind is for each card's patch. 0: at its end.
	End int64
	// Notes returns what a person should know of the image's content, each a
	// sentence; nil: nothing.
	Notes func() []string

	im     *image.Image
	sector atomic.Int32 // see TableSector
}

// NewSource returns an image as the source of a run. Its blocks are made in the
// pool's buffers; limit is the size of the largest card, 0 if there is no limit.
func NewSource(im *image.Image, pool *block.Pool, limit int64) *ImageSource {
	return &ImageSource{Reader: im.Reader(pool, limit), im: im}
}

// ImageOf says what is known of an image before it is read.
func ImageOf(im *image.Image) ImageState {
	return ImageState{Name: Clean(im.Name()), Format: string(im.Format()), Size: im.Size(), Used: im.Used()}
}

// EndOf returns just past the last byte of the image that is written; -1: that is
// not known before it has been read.
func EndOf(im *image.Image) int64 {
	if m, ok := im.Map(); ok {
		return m.End()
	}
	return im.Size()
}

// MapOf returns what of a card will be written, if that is known before.
func MapOf(im *image.Image) block.Map {
	if m, ok := im.Map(); ok {
		return m
	}
	if n := im.Size(); n > 0 {
		return block.Whole(n)
	}
	return block.Map{}
}

// State returns what is known of the image by now.
func (s *ImageSource) State() ImageState {
	st := ImageOf(s.im)
	if m := MapOf(s.im); s.End > 0 && st.Used >= 0 {
		st.Used -= m.Bytes() - CutMap(m, s.End).Bytes()
	}
	st.SHA256 = s.Digest()
	return st
}

// CutMap returns the part of a map before byte end.
func CutMap(m block.Map, end int64) block.Map {
	cut := block.Map{Size: min(m.Size, end)}
	for _, e := range m.Used {
		if e = e.Intersect(block.Extent{Len: end}); e.Len > 0 {
			cut.Used = append(cut.Used, e)
		}
	}
	return cut
}

// Waits returns how long reading the image's file and decoding it have taken.
func (s *ImageSource) Waits() (reading, decoding time.Duration) {
	st := s.Stats()
	if !s.im.Packed() {
		return st.Waited, 0
	}
	return st.Source, max(0, st.Waited-st.Source)
}

// Warnings returns what a person should know.
func (s *ImageSource) Warnings() []string {
	said := s.im.Warnings()
	if s.Notes != nil {
		said = append(said, s.Notes()...)
	}
	var w []string
	for _, t := range said {
		w = append(w, Clean(t))
	}
	return w
}
