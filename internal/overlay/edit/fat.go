package edit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"multidd/internal/block"
	"multidd/internal/volume"
	"multidd/internal/volume/fat"
)

// pageSize is how much of a disk is kept for a byte that is written, in bytes: a sector, so
// that two partitions never share one.
const pageSize = 512

// A layer keeps in memory what is written over a disk.
type layer struct {
	base  io.ReaderAt
	size  int64
	pages map[int64][]byte // by number
}

// ReadAt is as in io.ReaderAt.
func (l *layer) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.base.ReadAt(p, off)
	for at := off; at < off+int64(n); {
		in := at % pageSize
		k := min(pageSize-in, off+int64(n)-at)
		if page := l.pages[at/pageSize]; page != nil {
			copy(p[at-off:][:k], page[in:])
		}
		at += k
	}
	return n, err
}

// WriteAt is as in io.WriterAt.
func (l *layer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > l.size-int64(len(p)) {
		return 0, fmt.Errorf("write at byte %d: that is outside of the partition", off)
	}
	for at := off; at < off+int64(len(p)); {
		number, in := at/pageSize, at%pageSize
		page := l.pages[number]
		if page == nil {
			page = make([]byte, min(pageSize, l.size-number*pageSize))
			if err := readFull(l.base, page, number*pageSize); err != nil {
				return int(at - off), err
			}
			l.pages[number] = page
		}
		at += int64(copy(page[in:], p[at-off:]))
	}
	return len(p), nil
}

// pieces returns all that was written, whether it differs or not: of what was free nobody knows
// what a card has there.
func (l *layer) pieces(off int64) []block.Block {
	var all []block.Block
	var run []byte
	begin := int64(-1)
	flush := func() {
		if len(run) > 0 {
			all = append(all, block.New(off+begin*pageSize, run, nil))
		}
		run = nil
	}
	last := int64(-1)
	for _, number := range slices.Sorted(maps.Keys(l.pages)) {
		if begin < 0 || number != last+1 {
			flush()
			begin = number
		}
		run = append(run, l.pages[number]...)
		last = number
	}
	flush()
	return all
}

// editFAT returns the pieces in which the disk differs after edits in a FAT, and the paths of
// the files that do.
func (e *Editor) editFAT(w *work) ([]block.Block, []string, error) {
	l := &layer{io.NewSectionReader(e.base, w.Off, w.Len), w.Len, map[int64][]byte{}}
	f, err := fat.Edit(l)
	if err != nil {
		return nil, nil, refuse("%s (%s) cannot be changed: %v", nameOf(w.Part), w.FS.Kind, err)
	}
	written := map[string][]byte{}
	for _, d := range w.files {
		now, err := e.editFATFile(f, w.Part, d)
		if err != nil {
			return nil, nil, err
		}
		if now != nil {
			written[d.path] = now
		}
	}
	if w.uuid != nil {
		if err := f.SetSerial(serialOf(*w.uuid)); err != nil {
			return nil, nil, err
		}
	}
	if err := f.Flush(); err != nil {
		return nil, nil, fmt.Errorf("change %s: %w", nameOf(w.Part), err)
	}
	changed := slices.Sorted(maps.Keys(written))
	pieces := l.pieces(w.Off)
	r, err := Patched(e.base, &Patch{Pieces: pieces})
	if err != nil {
		return nil, nil, err
	}
	return pieces, changed, fatBack(io.NewSectionReader(r, w.Off, w.Len), w.Part, written)
}

// editFATFile changes one file. It returns nil if that stays as it is.
func (e *Editor) editFATFile(f *fat.FileSystem, p volume.Part, d fileEdit) ([]byte, error) {
	old, err := f.ReadFile(d.path, maxFile)
	absent := errors.Is(err, fs.ErrNotExist)
	switch {
	case absent && d.existing:
		return nil, nil
	case absent:
		old = nil
	case err != nil:
		return nil, refuse("%s in %s cannot be edited: %s", d.path, nameOf(p), clean(err.Error()))
	}
	now, err := d.apply(old)
	if err != nil {
		return nil, refuse("%s in %s cannot be edited: %v", d.path, nameOf(p), err)
	}
	if !absent && bytes.Equal(old, now) {
		return nil, nil
	}
	if len(now) > maxFile {
		return nil, refuse("%s in %s would have %d bytes, and %d is the most", d.path, nameOf(p), len(now), maxFile)
	}
	err = f.WriteFile(d.path, bytes.NewReader(now), int64(len(now)), e.o.Now)
	switch {
	case errors.Is(err, fat.ErrFull):
		return nil, refuse("%s has no room for %s: %v", nameOf(p), d.path, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, refuse("%s in %s cannot be edited: there is no directory %s", d.path, nameOf(p), path.Dir("/"+strings.Trim(d.path, "/")))
	case err != nil:
		return nil, refuse("%s in %s cannot be edited: %s", d.path, nameOf(p), clean(err.Error()))
	}
	if now == nil {
		now = []byte{}
	}
	return now, nil
}

// fatBack reads what was written.
func fatBack(r io.ReaderAt, p volume.Part, written map[string][]byte) error {
	f, err := fat.Open(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errBack, err)
	}
	for name, want := range written {
		b, err := f.ReadFile(name, maxFile)
		if err == nil && !bytes.Equal(b, want) {
			err = errors.New("its content differs")
		}
		if err != nil {
			return fmt.Errorf("%w: %s in %s: %w", errBack, name, nameOf(p), err)
		}
	}
	return nil
}

// serialOf returns the 32 bits of a UUID that a FAT takes.
func serialOf(u [16]byte) uint32 { return binary.BigEndian.Uint32(u[:4]) }
