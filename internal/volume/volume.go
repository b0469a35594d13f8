// Package volume understands what lies inside a disk: its partition table, its
// file systems, and which of its bytes they need. It works on any io.ReaderAt
// (Look) or on a disk that passes by once (Watcher).
//
// What it is not sure of is used. A byte is free only if a file system says so
// that is understood, was cleanly unmounted and agrees with itself, or if it
// lies behind the last partition. docs/used.md has the whole of it.
//
// Content may be hostile: everything read from a disk is bounded before memory
// is taken for it, and no content makes a function fail or panic. An error is
// always trouble with reading.
package volume

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"multidd/internal/block"
)

// tailSize is how much of the end of a disk is always used, in bytes: backup
// tables and boot environments live there.
const tailSize = 1 << 20

// A Disk is what is known about a disk. Text in it comes from the disk and may
// hold anything but NUL; who shows it makes it fit to be shown.
type Disk struct {
	Size     int64       // bytes
	Sector   int         // what its table counts in: 512 or 4096 bytes
	Table    string      // "mbr", "gpt", or "" if it has none
	ID       string      // of the table: 8 hexadecimal digits (mbr), a GUID (gpt)
	Parts    []Part      // by offset; logical partitions are in it, the extended one around them is not
	FS       *FileSystem // of a disk without a table; nil: none that is known
	Warnings []string    // sentences about what is strange, and what follows

	used []block.Extent // nil: not known, all is used
}

// A Part is a partition.
type Part struct {
	Number int // as the kernel counts them: sdX1 is 1, the first logical one is 5
	block.Extent
	Type    string // two hexadecimal digits (mbr), a GUID (gpt)
	Name    string // gpt only
	UUID    string // as in /dev/disk/by-partuuid
	Boot    bool   // marked as active (mbr) or legacy-bootable (gpt)
	Logical bool
	FS      *FileSystem // nil: not known, all of it counts as used
}

// A FileSystem is what is known about a file system.
type FileSystem struct {
	Kind        string // as blkid says it: "ext4", "swap"; of FAT with its width: "fat32"
	Label, UUID string
	BlockSize   int   // bytes
	Size        int64 // bytes; what lies behind them in the partition is used
	Used        int64 // bytes in use; of one that is not Clean what it claims, though all of it counts
	State       State
	Why         string // why it is not Clean: a clause, "its journal has to be replayed"
}

// State says how far the word of a file system can be taken.
type State int

const (
	Clean   State = iota // what it says is free is free
	Dirty                // a journal to be replayed, not cleanly unmounted, damaged: all of it counts as used
	Unknown              // it uses a feature that is not understood: all of it counts as used
)

func (s State) String() string {
	switch s {
	case Clean:
		return "clean"
	case Dirty:
		return "dirty"
	default:
		return "unknown"
	}
}

// Map returns which bytes of the disk are used. It shares memory with later
// results and is not to be changed.
func (d *Disk) Map() block.Map {
	if d.used == nil {
		return block.Whole(d.Size)
	}
	return block.Map{Size: d.Size, Used: d.used}
}

// Dirty returns the partitions whose file system has to be repaired, or its
// journal replayed, before what it says can be taken. A disk without a table
// counts as one partition, of number 0.
func (d *Disk) Dirty() []Part {
	var dirty []Part
	if d.FS != nil && d.FS.State == Dirty {
		dirty = append(dirty, Part{Extent: block.Extent{Len: d.Size}, FS: d.FS})
	}
	for _, p := range d.Parts {
		if p.FS != nil && p.FS.State == Dirty {
			dirty = append(dirty, p)
		}
	}
	return dirty
}

func (d *Disk) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(d.Warnings, w) {
		d.Warnings = append(d.Warnings, w)
	}
}

// A fileSystem reads the tables of one file system. Offsets are relative to
// its first byte.
type fileSystem interface {
	// info returns what is known from what was read when it was opened.
	info() FileSystem
	// used calls yield with the extents in use, in ascending order. An extent of
	// length 0 says only that all before its offset has been told, and after the
	// last one everything has. It reads its tables in ascending order of their
	// offsets where the format allows, and none earlier than it needs it.
	//
	// If yield returns false it returns at once, with any error. If the file
	// system contradicts itself it returns a damage; everything else is trouble
	// with reading.
	used(yield func(block.Extent) bool) error
}

// An opener returns errNotMine if there is no file system of its kind. One
// that is there but cannot be understood is returned with the State Unknown.
type opener func(r io.ReaderAt, size int64) (fileSystem, error)

// openers is one table of all the file systems that are known.
func openers() []opener {
	return []opener{openExt, openFAT, openExFAT, openSwap, openF2FS, openBtrfs}
}

// errNotMine comes from an opener that does not see its kind of file system.
var errNotMine = errors.New("no file system of this kind")

// damage is an error that says why the word of a file system cannot be taken: a
// clause, "the bitmap of group 3 has a wrong checksum".
type damage string

func (d damage) Error() string { return string(d) }

// Look reads the table and the file systems of a disk of size bytes. The error
// is trouble with reading; strange content is none, and counts as used.
func Look(r io.ReaderAt, size int64) (*Disk, error) {
	s := &scan{r: located{r}, size: size, disk: &Disk{Size: size, Sector: 512}}
	if err := s.run(); err != nil {
		return nil, err
	}
	s.disk.used = s.told.used
	return s.disk, nil
}
