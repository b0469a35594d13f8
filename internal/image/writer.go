package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"multidd/internal/block"
	"multidd/internal/codec"
)

// A Writer makes an image. Its methods are called by one goroutine at a time,
// except Packed.
type Writer struct {
	path  string
	o     CreateOptions
	names names
	file  *temp     // nil: standard output
	to    io.Writer // the packed bytes
	sum   bool      // the digest of the unpacked image is wanted

	packer io.WriteCloser // nil: a raw file, which is not written in order
	digest *fileSum       // of the packed bytes
	whole  *imageSum      // nil: not wanted
	ranges rangeMaker
	at     int64 // how far the disk has come
	used   int64 // bytes
	packed atomic.Int64
	err    error // the final one

	finished bool // nothing more can be written
	ended    bool

	step func(name string) error // for tests: looks at each step of completing; nil: nobody does
}

// Made is what a Writer has made.
type Made struct {
	Path   string   // of the image; "-": standard output
	Beside []string // paths of the map and the digests
	Size   int64    // of the disk, in bytes
	Used   int64    // of that, in bytes; the rest is zeros
	Packed int64    // length of the image's file, in bytes
	SHA256 string   // of the image's file, in hexadecimal
	Image  string   // SHA-256 of what it unpacks to; "": not asked for
}

// begin sets going what the bytes pass through.
func (w *Writer) begin() error {
	w.ranges.h = sha256.New()
	if w.sum {
		w.whole = newImageSum()
	}
	if w.file != nil && w.o.Format == codec.Raw {
		return nil
	}
	w.digest = &fileSum{w: w.to, n: &w.packed, h: sha256.New()}
	var err error
	w.packer, err = codec.NewWriter(w.digest, w.o.Format, w.o.Pack)
	return err
}

// Packed returns how many bytes of the image have been written so far.
func (w *Writer) Packed() int64 {
	if w.file != nil {
		return w.file.n.Load()
	}
	return w.packed.Load()
}

// WriteAt writes what is used of the disk, in ascending order of off. What is
// left out between is free: it reads as zeros, and is not in the map. p is not
// kept. An error is final.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if err := w.advance(off); err != nil || len(p) == 0 {
		return 0, err
	}
	w.ranges.write(p, off)
	if w.whole != nil {
		w.whole.write(p)
	}
	var n int
	var err error
	if w.packer == nil {
		n, err = w.file.WriteAt(p, off)
	} else {
		n, err = w.packer.Write(p)
	}
	w.at, w.used = off+int64(n), w.used+int64(n)
	if err != nil {
		w.err = w.explain(err)
	}
	return n, w.err
}

// Hole says that what has not been written up to the end of e never will be, so
// that it need not be packed only when something follows.
func (w *Writer) Hole(e block.Extent) error { return w.advance(e.End()) }

// advance leaves out what is before byte off of the disk.
func (w *Writer) advance(off int64) error {
	switch {
	case w.err != nil:
		return w.err
	case w.ended, w.finished:
		return ErrClosed
	case off < w.at:
		return fmt.Errorf("make %s: byte %d comes after byte %d: it is written in ascending order", w.shownName(), off, w.at)
	}
	n := off - w.at
	if n == 0 {
		return nil
	}
	if w.whole != nil {
		w.whole.zeros(n)
	}
	if w.packer != nil {
		if err := codec.WriteZeros(w.packer, n); err != nil {
			w.err = w.explain(err)
			return w.err
		}
	}
	w.at = off
	return nil
}

// explain makes of an error in writing what the people are to see.
func (w *Writer) explain(err error) error {
	var at int64
	if w.file != nil {
		at = w.file.n.Load()
	}
	say := func(format string, args ...any) error {
		return &createError{fmt.Sprintf("write %s: ", w.shownName()) + fmt.Sprintf(format, args...), err}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return say("there is no room left in %s after %d bytes; make room there, or choose another place", filepath.Dir(w.path), at)
	case errors.Is(err, syscall.EFBIG):
		return say("the file system of %s takes no file of more than %d bytes; choose another place, or pack the image", filepath.Dir(w.path), at)
	case errors.Is(err, syscall.EPIPE):
		return say("whoever was to read it has gone after %d bytes", w.packed.Load())
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return say("%s: %v", e.Op, e.Err) // not under its temporary name
	}
	return say("%v", err)
}

func (w *Writer) shownName() string {
	if w.path == "-" {
		return "to standard output"
	}
	return w.path
}
