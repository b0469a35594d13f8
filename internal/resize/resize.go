// Package resize makes the last partition of a disk, and the ext2, ext3 or ext4
// file system in it, smaller or larger: on files, never on cards. Shrink works on
// a raw image that is on its way to become a small one; a Grower finds out in which
// pieces the same disk on a larger card differs from the image, so that they can
// be laid over it while it is written.
//
// The file systems are changed by e2fsck and resize2fs, which know every feature
// that there is, and looked at by e2fsck afterwards. They work on a nameless file
// that holds the partition and nothing else, as a user without rights: an image
// made to do harm gets hold of nothing.
//
// # Growing without the data
//
// A Grower does not copy the files of a file system, only what describes them, a
// few MiB. That is enough as long as no file's blocks are moved, which resize2fs
// does only if the table of groups has no room to grow in. So which blocks each file
// has is compared before and after; if they were moved after all, it is done
// again with everything that is used. See docs/resize.md.
package resize

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"multidd/internal/block"
	"multidd/internal/volume"
)

// Align is what the end of a partition that was resized is a multiple of, in bytes.
const Align = 1 << 20

// A Refusal says why a disk cannot be resized, and nothing is wrong with it.
type Refusal struct{ why string }

func (e *Refusal) Error() string { return e.why }

func refuse(format string, args ...any) error { return &Refusal{fmt.Sprintf(format, args...)} }

// A Damage says what is wrong with a file system that should be resized.
type Damage struct{ why string }

func (e *Damage) Error() string { return e.why }

// A Missing says which program is not installed.
type Missing struct{ Program, Package string }

func (e *Missing) Error() string {
	return fmt.Sprintf("%s is needed, and not installed; on Debian it is in the package %s", e.Program, e.Package)
}

// A part is what is to be resized: the last partition, or a disk that is one file
// system without a table.
type part struct {
	block.Extent
	number int // 0: there is no table
	fs     *volume.FileSystem
}

func (p part) String() string {
	if p.number == 0 {
		return "the file system"
	}
	return fmt.Sprintf("partition %d", p.number)
}

// lastPart returns the partition that can be resized. The verb is "grown" or
// "shrunk".
func lastPart(d *volume.Disk, verb string) (part, error) {
	p := part{Extent: block.Extent{Len: d.Size}, fs: d.FS}
	if d.Table != "" {
		if len(d.Parts) == 0 {
			return part{}, refuse("the partition table is empty: there is nothing that can be %s", verb)
		}
		last := d.Parts[len(d.Parts)-1]
		p = part{last.Extent, last.Number, last.FS}
		for _, other := range d.Parts[:len(d.Parts)-1] {
			if other.End() > last.Off {
				return part{}, refuse("partitions %d and %d overlap: the disk cannot be %s", other.Number, last.Number, verb)
			}
		}
	}
	switch {
	case p.fs == nil && p.number == 0:
		return part{}, refuse("the disk has no partition table and no file system that is known: it cannot be %s", verb)
	case p.fs == nil:
		return part{}, refuse("%v, the last one, of %d bytes, has no file system that is known: only ext2, ext3 and ext4 can be %s", p, p.Len, verb)
	case !isExt(p.fs.Kind):
		return part{}, refuse("%v, of %d bytes, is %s: only ext2, ext3 and ext4 can be %s", p, p.Len, p.fs.Kind, verb)
	case p.fs.State == volume.Unknown:
		return part{}, refuse("%v cannot be %s: %s", p, verb, p.fs.Why)
	case p.fs.Size > p.Len || p.fs.BlockSize < 1024:
		return part{}, &Damage{fmt.Sprintf("the file system in %v says it has %d bytes, and the partition has %d", p, p.fs.Size, p.Len)}
	}
	return p, nil
}

func isExt(kind string) bool { return kind == "ext2" || kind == "ext3" || kind == "ext4" }

// clean makes a message fit to be shown on a line: it may quote what was read from
// a disk.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("at byte %d: %w", off+int64(n), err)
}

// alignDown returns the highest multiple of Align that is not above n.
func alignDown(n int64) int64 { return n / Align * Align }

func alignUp(n int64) int64 { return alignDown(n + Align - 1) }
