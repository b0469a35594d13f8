package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"

	"multidd/internal/block"
	"multidd/internal/duplicate"
	"multidd/internal/image"
	"multidd/internal/overlay"
	"multidd/internal/resize"
	"multidd/internal/station"
	"multidd/internal/volume"
)

// An image may be larger than a card and fit all the same: what is used of it ends
// earlier, but for the backup of its partition table, which can be moved. A fit is
// what such an image needs; see fitFor.
type fit struct {
	base io.ReaderAt
	disk *volume.Disk
	// least is the size of the smallest card that holds the image, and why says
	// what ends there; "": the image.
	least int64
	why   string
	// cut is where the image is cut off: what comes then is different on each card.
	// 0: it is not cut.
	cut  int64
	tail []block.Extent // what is used behind the cut
	// larger is how the last partition grows; nil: it does not.
	larger *expansion
}

// notes returns what people should know of what is left out, in sentences.
func (f *fit) notes() []string {
	if f.larger == nil {
		return nil
	}
	return f.larger.notes
}

// gptBackup is what the backup of a GUID partition table takes at the end of a
// disk with sectors of that size: entries of 16 KiB, and a header (UEFI
// Specification, 5.3).
func gptBackup(sector int) int64 { return 16<<10 + int64(sector) }

// fitFor finds out how large a card an image needs. smallest is the size of the
// smallest card there is; one that holds all of the image as it is asks for no
// more. An image of which all is written (whole) needs room for all of it. The error
// is trouble with reading the image.
func fitFor(im *image.Image, c *contents, smallest int64, whole bool) (*fit, error) {
	if whole {
		return &fit{least: im.Size()}, nil
	}
	f := &fit{least: station.EndOf(im)}
	m := station.MapOf(im)
	base, ok := im.ReaderAt()
	if !ok || f.least <= smallest {
		return f, nil
	}
	f.base, f.disk = base, c.seen()
	if f.disk == nil { // a bmap says what is used
		var err error
		if f.disk, err = volume.Look(base, im.Size()); err != nil {
			return nil, err
		}
	}
	end, why := endOf(f.disk)
	if end == 0 || end >= f.least {
		return f, nil
	}
	tail := behind(m, end)
	lost, err := f.lost(tail)
	if err != nil {
		return nil, err
	}
	if lost.Len > 0 {
		f.why = fmt.Sprintf("%v are in no partition, and not zero", lost)
		return f, nil
	}
	least := end
	if f.disk.Table == "gpt" {
		least += gptBackup(f.disk.Sector)
	}
	if least < f.least {
		f.least, f.why, f.cut, f.tail = least, why, end, tail
	}
	return f, nil
}

// endOf returns where the last partition of a disk and its file system end, and what
// that is; 0: it cannot be told.
func endOf(d *volume.Disk) (end int64, why string) {
	if d.Table == "" {
		if d.FS == nil || d.FS.State == volume.Unknown {
			return 0, ""
		}
		return d.FS.Size, "the file system ends there"
	}
	for i, p := range d.Parts {
		if i > 0 && d.Parts[i-1].End() > p.Off {
			return 0, "" // they overlap: nobody knows what is right
		}
		at := p.End()
		if p.FS != nil {
			at = max(at, p.Off+p.FS.Size)
		}
		if at >= end {
			end, why = at, fmt.Sprintf("partition %d ends there", p.Number)
		}
	}
	return end, why
}

// behind returns what is used of a disk from byte off on.
func behind(m block.Map, off int64) []block.Extent {
	var tail []block.Extent
	for _, e := range m.Used {
		if e = e.Intersect(block.Extent{Off: off, Len: m.Size - off}); e.Len > 0 {
			tail = append(tail, e)
		}
	}
	return tail
}

// lost returns the first place that is not zero in what would be cut off, but for
// the backup of the partition table; its Len is 0 if there is none.
func (f *fit) lost(tail []block.Extent) (block.Extent, error) {
	buf := make([]byte, 1<<20)
	end := f.disk.Size
	if f.disk.Table == "gpt" {
		end -= gptBackup(f.disk.Sector)
	}
	for _, e := range tail {
		e = e.Intersect(block.Extent{Len: end})
		for at := e.Off; at < e.End(); at += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), e.End()-at)]
			if n, err := f.base.ReadAt(p, at); n < len(p) {
				return block.Extent{}, fmt.Errorf("look at what lies behind the partitions of the image: %w", err)
			}
			if rest := bytes.TrimLeft(p, "\x00"); len(rest) > 0 {
				return block.Extent{Off: at + int64(len(p)-len(rest)), Len: int64(len(bytes.TrimRight(rest, "\x00")))}, nil
			}
		}
	}
	return block.Extent{}, nil
}

// patch returns what comes behind the cut on a card of size bytes: on one that is
// as large as the image, what the image has there, on a smaller one zeros and the
// backup of its partition table, with what of the table changes for it; and on one that
// the last partition grows on, all that differs then. nil: nothing.
func (f *fit) patch(size int64) (duplicate.Patch, error) {
	if p, err := f.larger.patch(size); p != nil || err != nil {
		return p, err
	}
	if f.cut == 0 {
		return nil, nil
	}
	pieces, err := f.pieces(size)
	if err != nil || len(pieces) == 0 {
		return nil, err
	}
	return overlay.New(pieces)
}

// pieces returns what a card of size bytes gets instead of what is cut off.
func (f *fit) pieces(size int64) ([]block.Block, error) {
	if size == 0 || size >= f.disk.Size {
		return overlay.Take(f.base, f.tail)
	}
	var table []block.Block
	if f.disk.Table == "gpt" {
		var err error
		size -= size % int64(f.disk.Sector)
		if table, err = resize.Refit(f.base, f.disk, size, f.disk.Parts[len(f.disk.Parts)-1].End()); err != nil {
			return nil, err
		}
	}
	// The rest of what is cut off are zeros (see lost). On the card they are not.
	end := size // of the zeros: the table's backup is at the end of the card
	for _, p := range table {
		if p.Off >= f.cut {
			end = min(end, p.Off)
		}
	}
	pieces, zeros := table, make([]byte, 1<<20)
	for _, e := range before(f.tail, end) {
		for ; e.Len > 0; e = (block.Extent{Off: e.Off + int64(len(zeros)), Len: e.Len - int64(len(zeros))}) {
			pieces = append(pieces, block.New(e.Off, zeros[:min(e.Len, int64(len(zeros)))], nil))
		}
	}
	slices.SortFunc(pieces, func(a, b block.Block) int { return cmp.Compare(a.Off, b.Off) })
	return pieces, nil
}

// before returns what of some extents lies before byte end.
func before(extents []block.Extent, end int64) []block.Extent {
	return station.CutMap(block.Map{Used: extents}, end).Used
}
