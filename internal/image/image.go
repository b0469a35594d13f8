// Package image is an image as a file: raw or packed, with the map and the
// digests that lie beside it, and the store of unpacked copies. Its Reader gives
// an image's blocks in order and, from a raw image or a copy, at any offset.
//
// An image is opened once, and everything is read through that one descriptor.
// What it is, its content says, never its name. Whatever can be proved about it
// is proved on the way: the checksums of its packed form, those of its map, the
// digests beside it, and that nobody changed it meanwhile. A Reader's io.EOF
// means that all of that was right.
//
// Images, maps and digests are somebody else's work: they are taken to be
// mistaken or malicious until proved.
package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"multidd/internal/block"
	"multidd/internal/codec"
)

// Options say how an image is to be understood and what is to be proved of it.
// The zero value finds out everything by itself, and keeps no copy.
type Options struct {
	// Stdin is what the name "-" stands for; nil: standard input. If it is a
	// plain file at its beginning, it is as good as its name.
	Stdin io.Reader
	// Format is how the image is packed; "": its content tells.
	Format codec.Format
	// Unpack says what may be spent on unpacking.
	Unpack codec.ReadOptions
	// BMap is the path of the map; "": look beside the image (for x.img.bz2:
	// x.img.bz2.bmap, x.img.bmap, x.bmap); "none": there is none.
	BMap string
	// All is set if every byte is wanted, whatever a map says.
	All bool
	// Sums is the path of a file with SHA-256 digests; "": look beside the image
	// (for x.img.bz2: x.img.bz2.sha256, x.img.sha256, SHA256SUMS); "none":
	// there is none.
	Sums string
	// SHA256 is the digest, in hexadecimal, that the image's file or what it
	// unpacks to must have; "": not known.
	SHA256 string
	// Digest asks for the SHA-256 of what the image unpacks to. It costs nothing
	// but processor time, except that of a raw image with a map only the
	// used ranges are read, which gives none.
	Digest bool
	// Mapper finds out what is used where no map says so; nil: all of it is.
	// Neither is asked if All is set.
	Mapper Mapper
	// Free says what becomes of what is free: FreeKeep or FreeZero; "": FreeKeep.
	Free string
	// Store keeps unpacked copies; nil: no copies are kept.
	Store *Store
}

// What Options.Free may be.
const (
	FreeKeep = "keep" // it gives no blocks
	FreeZero = "zero" // it comes as blocks of zeros, whatever the image has there
)

// An Image is an image that has been opened. Its methods may be called from any
// goroutine.
type Image struct {
	name   string
	o      Options
	in     *input
	meter  *meter // counts what is read of in
	format codec.Format
	size   int64 // of the disk it makes, in bytes; -1: not known
	bmap   *bmap // nil: none
	expect []expectation
	dec    codec.Reader    // nil: raw, or copied is used
	copied *stored         // what the image unpacks to, from the store; nil: not there
	seek   *codec.Seekable // the packed file, if it can be unpacked from any place; nil: it cannot
	packed string          // digest of the packed file, if it is known already
	found  *block.Map      // what the Mapper found; nil: it was not asked

	declared int64 // how many bytes a packed file says it has; -1: it does not

	mu       sync.Mutex
	reader   *Reader
	warnings []string
}

// Open opens the image of that name, finds its map and digests, and begins to
// unpack it, if it is packed and the store has no copy of it. An *Error means
// that the image is bad. ctx bounds the opening only.
func Open(ctx context.Context, name string, o Options) (*Image, error) {
	switch o.Free {
	case "", FreeKeep, FreeZero:
	default:
		return nil, fmt.Errorf("what is free may be kept (%s) or written as zeros (%s), not %.20q", FreeKeep, FreeZero, o.Free)
	}
	in, err := openInput(name, o.Stdin)
	if err != nil {
		return nil, err
	}
	im := &Image{name: name, o: o, in: in, size: -1, declared: -1}
	if err := im.open(ctx); err != nil {
		_ = im.Close()
		return nil, err
	}
	return im, nil
}

func (im *Image) open(ctx context.Context) error {
	head, r, err := im.in.peek(ctx, codec.HeadLen)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return im.bad(reasonDecode, 0, err)
	case len(head) == 0:
		return im.bad(reasonDecode, 0, errors.New("it is empty"))
	}
	im.meter = &meter{r: r}
	switch {
	case im.o.Format != "":
		im.format = im.o.Format
	case im.in.isDevice():
		im.format = codec.Raw
	default:
		im.format = codec.Recognise(head)
	}
	if !im.isPacked() {
		im.size = im.in.size
	}
	if err := im.findMap(); err != nil {
		return err
	}
	if err := im.findSums(); err != nil {
		return err
	}
	if im.isPacked() {
		if err := im.openPacked(ctx); err != nil {
			return err
		}
	}
	return im.findUsed()
}

// openPacked finds a way to the bytes of a packed image: a file that can be
// unpacked from any place, a copy in the store, or from its beginning to its end.
func (im *Image) openPacked(ctx context.Context) error {
	if im.openSeekable(); im.seek != nil {
		if err := im.checkSize(im.size); err != nil {
			return err
		}
	} else if im.o.Store != nil && im.in.file != nil {
		var err error
		im.copied, im.packed, err = im.o.Store.find(ctx, im.in)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return im.bad(reasonDecode, -1, err)
		}
	}
	if im.copied == nil {
		return im.beginUnpacking()
	}
	if err := im.judge(im.packed, im.copied.SHA256); err != nil {
		return err
	}
	im.size = im.copied.Size
	return im.checkSize(im.size)
}

// openSeekable looks whether a packed file can be unpacked from any place. Then
// it needs no copy.
func (im *Image) openSeekable() {
	if im.in.file == nil || im.format != codec.Zstd {
		return
	}
	s, err := codec.OpenSeekable(im.in.file, im.in.size, im.o.Unpack)
	switch {
	case err == nil:
		im.seek, im.size = s, s.Size()
	case errors.Is(err, codec.ErrNotSeekable):
	default:
		im.warn("it cannot be unpacked from any place, only from its beginning: %v", err)
	}
}

// beginUnpacking begins to unpack the image for its Reader.
func (im *Image) beginUnpacking() error {
	if err := im.judge(im.packed, ""); err != nil {
		return err
	}
	if im.in.file != nil && im.size < 0 {
		im.declared = codec.DeclaredSize(im.in.file, im.in.size, im.format)
	}
	var err error
	im.dec, err = im.openDecoder()
	return err
}

// openDecoder begins to unpack the image, from the beginning.
func (im *Image) openDecoder() (codec.Reader, error) {
	if im.wantsFileDigest() {
		im.meter.sum = sha256.New()
	}
	if im.seek != nil {
		return im.seek.Reader(im.meter), nil
	}
	dec, err := codec.NewReader(im.meter, im.format, im.o.Unpack)
	if err != nil {
		return nil, im.decodeError(err, 0)
	}
	return dec, nil
}

// wantsFileDigest tells whether the digest of the packed bytes is needed: to be
// compared, or as the name of the copy.
func (im *Image) wantsFileDigest() bool {
	for _, e := range im.expect {
		if e.of != ofImage {
			return true
		}
	}
	return im.o.Store != nil && im.seek == nil
}

func (im *Image) isPacked() bool { return im.format != codec.Raw }

// bad returns an error that says what is wrong with the image.
func (im *Image) bad(reason string, off int64, err error) error {
	return &Error{im.shownName(), off, err, reason}
}

func (im *Image) shownName() string {
	if im.name == "-" {
		return "standard input"
	}
	return im.name
}

// decodeError returns the error of unpacking that came up at byte off of the disk.
func (im *Image) decodeError(err error, off int64) error {
	if _, ok := errors.AsType[*codec.Error](err); !ok {
		return im.unreadable(err, im.meter.bytes.Load(), off)
	}
	// A file that is being written to is likely to look damaged.
	if err := im.in.changed(); err != nil {
		return im.bad(reasonDigest, off, err)
	}
	return im.bad(reasonDecode, off, err)
}

// unreadable returns the error of reading the file at byte at, which is byte off
// of the disk.
func (im *Image) unreadable(err error, at, off int64) error {
	if err := im.in.changed(); err != nil {
		return im.bad(reasonDigest, off, err)
	}
	return im.bad(reasonDecode, off, fmt.Errorf("it cannot be read at byte %d: %w", at, err))
}

// checkSize compares the size of the disk with what the map says.
func (im *Image) checkSize(size int64) error {
	if im.bmap == nil || im.bmap.Size == size {
		return nil
	}
	return im.bad(reasonDigest, -1, fmt.Errorf("its map is for an image of %d bytes, but it has %d: take the map that belongs to it, or none (--bmap=none)", im.bmap.Size, size))
}

// findMap looks for the map and reads it.
func (im *Image) findMap() error {
	if im.o.All || im.o.BMap == "none" {
		return nil
	}
	paths := []string{im.o.BMap}
	if im.o.BMap == "" {
		if im.in.file == nil || im.in.isDevice() || im.name == "-" {
			return nil
		}
		paths = mapNames(im.name)
	}
	for _, path := range paths {
		raw, err := readSmall(path, maxBMap)
		if errors.Is(err, fs.ErrNotExist) && im.o.BMap == "" {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the image's map: %w", err)
		}
		if im.bmap, err = parseBMap(raw); err != nil {
			return mapTrouble(path, err)
		}
		if im.size < 0 {
			return nil
		}
		return im.checkSize(im.size)
	}
	return nil
}

// mapTrouble returns the error of a map that was refused.
func mapTrouble(path string, err error) error {
	reason := reasonDecode
	if e, ok := errors.AsType[*mapError](err); ok && e.digest {
		reason = reasonDigest
	}
	return &Error{path, -1, fmt.Errorf("%w; make the map again, or do without it (--bmap=none)", err), reason}
}

// mapNames returns where the map of an image may lie, the closest name first.
func mapNames(name string) []string {
	names := []string{name + ".bmap"}
	plain := unpackedName(name)
	if plain != name {
		names = append(names, plain+".bmap")
	}
	if ext := filepath.Ext(plain); ext != "" && ext != filepath.Base(plain) {
		names = append(names, strings.TrimSuffix(plain, ext)+".bmap")
	}
	return names
}

func (im *Image) warn(format string, args ...any) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.warnings = append(im.warnings, fmt.Sprintf(format, args...))
}

// Warnings returns what the people should know although the image is not bad,
// each a sentence: a store that had to be given up, digests that were not
// checked. More may come while the image is read.
func (im *Image) Warnings() []string {
	im.mu.Lock()
	defer im.mu.Unlock()
	return append([]string(nil), im.warnings...)
}

// Name returns the name as given to Open.
func (im *Image) Name() string { return im.name }

// Format returns how the image is packed.
func (im *Image) Format() codec.Format { return im.format }

// Info returns what the system said about the open file or device; nil: the
// image comes from a stream of which it says nothing.
func (im *Image) Info() fs.FileInfo { return im.in.info }

// Size returns the size of the disk that the image makes, in bytes; -1: that
// is known only at its end. For a packed image it is what the map says, and
// proved only then.
func (im *Image) Size() int64 {
	if im.size < 0 && im.bmap != nil {
		return im.bmap.Size
	}
	return im.size
}

// Hint returns how large the disk probably is, in bytes; -1: nobody knows. It
// is good for progress and nothing else: what a packed image says of itself
// may be wrong.
func (im *Image) Hint() int64 {
	n := im.Size()
	if n >= 0 || im.dec == nil {
		return n
	}
	r := im.theReader()
	if r == nil {
		return max(im.dec.SizeHint(), im.declared)
	}
	if n = max(r.hint.Load(), im.declared); n < r.decoded.Load() {
		return -1 // it has gone on beyond what it said
	}
	return n
}

// usedMap returns what of the disk is used, nil if that is not known: then all of
// it is, or the Reader finds out on the way.
func (im *Image) usedMap() *block.Map {
	if im.bmap != nil {
		return &im.bmap.Map
	}
	return im.found
}

// Map returns which extents of the disk are used, if a map says so or the Mapper
// has found out. Of an image that is unpacked in order it finds out on the way,
// and ok is false.
func (im *Image) Map() (m block.Map, ok bool) {
	if m := im.usedMap(); m != nil {
		return *m, true
	}
	return block.Map{}, false
}

// Used returns how many bytes the Reader will give; -1: that is known only at
// its end.
func (im *Image) Used() int64 {
	if m := im.usedMap(); m != nil && im.o.Free != FreeZero {
		return m.Bytes()
	}
	if r := im.theReader(); r != nil && r.watch != nil {
		return r.given.Load()
	}
	return im.Size()
}

// UsedHint returns how many bytes the Reader will probably give; -1: nobody
// knows. Like Hint it is for progress only.
func (im *Image) UsedHint() int64 {
	if n := im.Used(); n >= 0 {
		return n
	}
	if r := im.theReader(); r != nil && im.o.Free != FreeZero {
		if n := r.usedHint.Load(); n >= 0 {
			return n
		}
	}
	return im.Hint()
}

// Packed tells whether the image has to be unpacked: it is not raw, and there is
// no copy of it in the store.
func (im *Image) Packed() bool { return im.isPacked() && im.copied == nil }

// Stored tells whether the image comes from a copy in the store.
func (im *Image) Stored() bool { return im.copied != nil }

// Memory returns how much unpacking takes, in bytes, as far as that is known.
func (im *Image) Memory() int64 {
	var n int64
	if im.seek != nil {
		n = im.seek.Memory()
	}
	if im.dec == nil {
		return n
	}
	if r := im.theReader(); r != nil {
		return n + r.memory.Load()
	}
	return n + im.dec.Memory()
}

func (im *Image) theReader() *Reader {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.reader
}

// Check returns an *Error if the image's file has been changed since it was
// opened. A Reader looks by itself before it returns io.EOF; what ReadAt gives
// afterwards, from the file itself, is the reason to look once more at the end.
func (im *Image) Check() error {
	if im.copied != nil {
		return nil // the copy is what is read
	}
	if err := im.in.changed(); err != nil {
		return im.bad(reasonDigest, -1, err)
	}
	return nil
}

// Close ends the Reader and closes the image.
func (im *Image) Close() error {
	if r := im.theReader(); r != nil {
		r.Close()
	}
	im.in.stop()
	if im.dec != nil {
		_ = im.dec.Close()
	}
	if im.copied != nil {
		_ = im.copied.close()
	}
	return im.in.close()
}
