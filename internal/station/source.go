package station

import (
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/image"
)

// An imageSource is an image as the source of a run.
type imageSource struct {
	*image.Reader
	im     *image.Image
	sector atomic.Int32 // see TableSector
}

// NewSource returns an image as the source of a run. Its blocks are made in the
// pool's buffers; limit is the size of the largest card, 0 if there is no limit.
func NewSource(im *image.Image, pool *block.Pool, limit int64) Source {
	return &imageSource{Reader: im.Reader(pool, limit), im: im}
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

func (s *imageSource) State() ImageState {
	st := ImageOf(s.im)
	st.SHA256 = s.Digest()
	return st
}

func (s *imageSource) Waits() (reading, decoding time.Duration) {
	st := s.Stats()
	if !s.im.Packed() {
		return st.Waited, 0
	}
	return st.Source, max(0, st.Waited-st.Source)
}

func (s *imageSource) Warnings() []string {
	var w []string
	for _, t := range s.im.Warnings() {
		w = append(w, Clean(t))
	}
	return w
}
