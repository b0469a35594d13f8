// Package fat reads and changes the files of a FAT12, FAT16 or FAT32 file system, and
// fills an empty one with a tree. It works on any io.ReaderAt and io.WriterAt:
// nothing is mounted. It changes as little as it can, so that what differs afterwards
// is a small patch.
//
// The format is described in Microsoft's "FAT: General Overview of On-Disk Format"
// (fatgen103) and, for long names, in "Long Filename Specification". Times on a FAT
// have no zone; they are taken and given as UTC. What is read may be hostile: everything
// is bounded before memory is taken for it.
package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var le = binary.LittleEndian

// A Device is what a file system lies in, from byte 0 on.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// ErrNotFAT is the error of something that is no FAT file system.
var ErrNotFAT = errors.New("it is no FAT file system")

// ErrFull is the error of a file system that has not enough room.
var ErrFull = errors.New("the file system is full")

// maxTable is the most that one copy of the table of clusters may take, in bytes.
const maxTable = 64 << 20

// A FileSystem is one that has been opened. Changes to its files reach the device at
// once, those to the table of clusters with Flush; only then is it whole again.
type FileSystem struct {
	r    io.ReaderAt
	w    io.WriterAt // nil: it is only read
	boot []byte      // the first sector

	bits         int   // 12, 16 or 32
	cluster      int64 // bytes
	clusters     int   // numbered from 2
	tables       int   // copies of the table
	active       int   // the one that counts, if they are not the same; -1: all do
	tableAt      int64 // bytes
	tableLen     int64
	rootAt       int64 // of FAT12 and FAT16, in bytes
	rootLen      int64
	rootCluster  uint32 // of FAT32
	dataAt       int64  // of cluster 2
	infoAt       int64  // of FAT32's count of free clusters; 0: there is none
	table, saved []byte // as it is, and as it is on the device
	next         int    // no cluster before this is free
}

// Open reads the boot sector and the table of clusters of the file system that begins
// at byte 0 of r.
func Open(r io.ReaderAt) (*FileSystem, error) {
	f := &FileSystem{r: r, boot: make([]byte, 512)}
	if _, err := r.ReadAt(f.boot, 0); err != nil {
		if err == io.EOF {
			return nil, ErrNotFAT
		}
		return nil, fmt.Errorf("read the boot sector: %w", err)
	}
	if err := f.geometry(); err != nil {
		return nil, err
	}
	f.table = make([]byte, f.tableLen)
	at := f.tableAt + int64(max(0, f.active))*f.tableLen
	if _, err := r.ReadAt(f.table, at); err != nil {
		return nil, fmt.Errorf("read the table of clusters at byte %d: %w", at, noEOF(err))
	}
	f.saved = bytes.Clone(f.table)
	f.next = 2
	return f, nil
}

// Edit opens a file system to change it. One that was not cleanly unmounted is refused.
func Edit(d Device) (*FileSystem, error) {
	f, err := Open(d)
	if err != nil {
		return nil, err
	}
	if f.dirty() {
		return nil, errors.New("it was not cleanly unmounted; repair it with fsck.vfat first")
	}
	f.w = d
	return f, nil
}

func (f *FileSystem) geometry() error {
	b := f.boot
	sector, per := int64(le.Uint16(b[0x0b:])), int64(b[0x0d])
	reserved, tables, rootEntries := int64(le.Uint16(b[0x0e:])), int64(b[0x10]), int64(le.Uint16(b[0x11:]))
	sectors := int64(le.Uint16(b[0x13:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[0x20:]))
	}
	tableSectors := int64(le.Uint16(b[0x16:]))
	wide := tableSectors == 0
	if wide {
		tableSectors = int64(le.Uint32(b[0x24:]))
	}
	if b[0] != 0xeb && b[0] != 0xe9 || le.Uint16(b[510:]) != 0xaa55 ||
		sector < 512 || sector > 4096 || sector&(sector-1) != 0 || per == 0 || per&(per-1) != 0 ||
		reserved == 0 || tables == 0 || tables > 4 || tableSectors == 0 || tableSectors*sector > maxTable {
		return ErrNotFAT
	}
	f.cluster = sector * per
	f.tables, f.active = int(tables), -1
	f.tableAt, f.tableLen = reserved*sector, tableSectors*sector
	f.rootAt = f.tableAt + tables*f.tableLen
	f.rootLen = rootEntries * 32
	f.dataAt = f.rootAt + (f.rootLen+sector-1)/sector*sector
	n := (sectors*sector - f.dataAt) / f.cluster
	switch {
	case n < 1 || n > 0x0ffffff5:
		return ErrNotFAT
	case wide:
		f.bits = 32
	case n < 4085:
		f.bits = 12
	default:
		f.bits = 16
	}
	f.clusters = int(min(n, f.tableLen*8/int64(f.bits)-2))
	if wide {
		f.rootLen, f.rootCluster = 0, le.Uint32(b[0x2c:])
		if x := le.Uint16(b[0x28:]); x&0x80 != 0 {
			f.active = int(x & 0xf)
		}
		if s := int64(le.Uint16(b[0x30:])); s > 0 && s < reserved {
			f.infoAt = s * sector
		}
		if f.rootCluster < 2 || f.active >= f.tables {
			return ErrNotFAT
		}
	} else if rootEntries == 0 {
		return ErrNotFAT
	}
	return nil
}

// Kind returns "fat12", "fat16" or "fat32".
func (f *FileSystem) Kind() string { return fmt.Sprintf("fat%d", f.bits) }

// dirty tells whether the file system says that it was not unmounted, or met an error.
func (f *FileSystem) dirty() bool {
	state := f.boot[0x25]
	if f.bits == 32 {
		state = f.boot[0x41]
	}
	clean := map[int]uint32{12: 0, 16: 0xc000, 32: 0x0c000000}[f.bits]
	return state&3 != 0 || f.raw(1)&clean != clean
}

// raw returns an entry of the table as it is.
func (f *FileSystem) raw(c uint32) uint32 {
	switch i := int(c); f.bits {
	case 12:
		v := uint32(le.Uint16(f.table[i+i/2:]))
		if i%2 != 0 {
			return v >> 4
		}
		return v & 0xfff
	case 16:
		return uint32(le.Uint16(f.table[2*i:]))
	default:
		return le.Uint32(f.table[4*i:]) & 0x0fffffff
	}
}

func (f *FileSystem) set(c, v uint32) {
	switch i := int(c); f.bits {
	case 12:
		old := le.Uint16(f.table[i+i/2:])
		if i%2 != 0 {
			le.PutUint16(f.table[i+i/2:], old&0xf|uint16(v)<<4)
		} else {
			le.PutUint16(f.table[i+i/2:], old&0xf000|uint16(v)&0xfff)
		}
	case 16:
		le.PutUint16(f.table[2*i:], uint16(v))
	default:
		old := le.Uint32(f.table[4*i:])
		le.PutUint32(f.table[4*i:], old&0xf0000000|v)
	}
	if v == 0 {
		f.next = min(f.next, int(c))
	}
}

const endOfChain = 0x0fffffff // cut off to the width of the table

// errChain is the error of a file whose clusters are not what they should be.
var errChain = errors.New("its chain of clusters is damaged")

// chain returns the clusters of a file that begins with c and has that many bytes at
// most.
func (f *FileSystem) chain(c uint32, bytes int64) ([]uint32, error) {
	var list []uint32
	most := int(min((bytes+f.cluster-1)/f.cluster, int64(f.clusters)))
	end := uint32(1)<<min(f.bits, 28) - 8
	for ; c < end; c = f.raw(c) {
		if c < 2 || int(c) >= f.clusters+2 || len(list) >= most {
			return nil, errChain
		}
		list = append(list, c)
	}
	return list, nil
}

// allocate makes a chain n clusters long: it takes more or gives some back.
func (f *FileSystem) allocate(list []uint32, n int) ([]uint32, error) {
	had := len(list)
	for _, c := range list[min(n, had):] {
		f.set(c, 0)
	}
	list = list[:min(n, had):min(n, had)]
	for len(list) < n {
		for f.next < f.clusters+2 && f.raw(uint32(f.next)) != 0 {
			f.next++
		}
		if f.next >= f.clusters+2 {
			for _, c := range list[had:] {
				f.set(c, 0)
			}
			return nil, fmt.Errorf("%w: all %d clusters of %d bytes are in use", ErrFull, f.clusters, f.cluster)
		}
		list = append(list, uint32(f.next))
		f.set(uint32(f.next), endOfChain) // taken
	}
	for i, c := range list {
		if i+1 < len(list) {
			f.set(c, list[i+1])
		} else {
			f.set(c, endOfChain)
		}
	}
	return list, nil
}

// at returns where a cluster is, in bytes.
func (f *FileSystem) at(c uint32) int64 { return f.dataAt + int64(c-2)*f.cluster }

// Flush writes what has changed in the table of clusters, to all of its copies.
func (f *FileSystem) Flush() error {
	const piece = 512
	free := 0
	for c := 2; c < f.clusters+2; c++ {
		if f.raw(uint32(c)) == 0 {
			free++
		}
	}
	for at := int64(0); at < f.tableLen; at += piece {
		b := f.table[at:min(at+piece, f.tableLen)]
		if bytes.Equal(b, f.saved[at:at+int64(len(b))]) {
			continue
		}
		for i := range f.tables {
			if f.active >= 0 && i != f.active {
				continue
			}
			if _, err := f.w.WriteAt(b, f.tableAt+int64(i)*f.tableLen+at); err != nil {
				return err
			}
		}
		copy(f.saved[at:], b)
	}
	return f.info(free)
}

// info keeps FAT32's count of free clusters right.
func (f *FileSystem) info(free int) error {
	if f.infoAt == 0 {
		return nil
	}
	b := make([]byte, 512)
	if _, err := f.r.ReadAt(b, f.infoAt); err != nil {
		return noEOF(err)
	}
	if string(b[:4]) != "RRaA" || string(b[0x1e4:0x1e8]) != "rrAa" || le.Uint32(b[0x1e8:]) == uint32(free) {
		return nil
	}
	le.PutUint32(b[0x1e8:], uint32(free))
	_, err := f.w.WriteAt(b, f.infoAt)
	return err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
