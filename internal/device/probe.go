package device

import (
	"context"
	"encoding/binary"
	"os"
	"strings"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Probe reads from each disk which partition table and file systems are on it, and
// their labels, and returns the disks with that filled in. It only reads, past the
// page cache, all disks at once. What cannot be read stays empty, as does a disk
// that has not answered when ctx is over: a broken card may take minutes. A medium
// that was put in without the kernel noticing is noticed now, and described anew.
func (s System) Probe(ctx context.Context, disks []Disk) []Disk {
	type answer struct {
		i int
		d Disk
	}
	answers := make(chan answer, len(disks)) // room for all: a late one is not stuck
	for i, d := range disks {
		d.Parts = append([]Part(nil), d.Parts...)
		go func() { // ends when the disk has answered, or the kernel given up on it
			s.probe(&d)
			answers <- answer{i, d}
		}()
	}
	probed := append([]Disk(nil), disks...)
	for range disks {
		select {
		case a := <-answers:
			probed[a.i] = a.d
		case <-ctx.Done():
			return probed
		}
	}
	return probed
}

func (s System) probe(d *Disk) {
	r, err := openMedium(d.Path)
	if err != nil {
		return
	}
	defer r.file.Close()
	if size, err := ioctlUint64(r.file, unix.BLKGETSIZE64); err == nil && (int64(size) != d.Size || int64(d.DiskSeq) != attrInt(s.sys("class/block", d.Name), "diskseq")) {
		// The kernel has only now seen that there is another medium.
		if now, err := s.disk(d.Name); err == nil {
			*d = now
		}
	}
	if d.Size <= 0 {
		return
	}
	if d.FS, d.Label = identifyFS(r.window(0, d.Size)); d.FS == "" {
		d.Table = tableOf(r.window(0, d.Size), d.Sector)
	}
	for i := range d.Parts {
		p := &d.Parts[i]
		p.FS, p.Label = identifyFS(r.window(p.Off, p.Size))
	}
}

// A medium is a disk opened for looking at a few places.
type medium struct {
	file *os.File
	buf  []byte // of probePage bytes, within memory of twice that: aligned
}

const probePage = 4096

func openMedium(path string) (*medium, error) {
	const flags = os.O_RDONLY | unix.O_NONBLOCK
	file, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if err != nil {
		if file, err = os.OpenFile(path, flags, 0); err != nil {
			return nil, err
		}
	}
	buf := make([]byte, 2*probePage)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(buf))) % probePage
	return &medium{file, buf[skip:][:probePage]}, nil
}

// A window gives n bytes at an offset of a part of a disk, or fewer, or none, if
// they cannot be read. They are good until the next call.
type window func(off, n int64) []byte

// window returns the part of the disk at base. A read is of pages, and from page
// boundaries of the disk.
func (m *medium) window(base, size int64) window {
	at := int64(-1) // the offset that buf holds
	return func(off, n int64) []byte {
		if off < 0 || n < 0 || off > size-n {
			return nil
		}
		off += base
		start := off / probePage * probePage
		if start != at {
			k, _ := m.file.ReadAt(m.buf, start)
			if at = start; k == 0 {
				at = -1
				return nil
			}
			clear(m.buf[k:])
		}
		return m.buf[off-start : min(off-start+n, probePage)]
	}
}

// at returns whether a text is found at an offset.
func (w window) at(off int64, text string) bool { return string(w(off, int64(len(text)))) == text }

// text returns a text of at most n bytes that ends at the first zero.
func (w window) text(off, n int64) string {
	s, _, _ := strings.Cut(string(w(off, n)), "\x00")
	return cleanName(strings.TrimSpace(s))
}

// le returns a number of n bytes, the lowest first; 0 if it cannot be read.
func (w window) le(off, n int64) (v uint64) {
	b := w(off, n)
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

// utf16 returns a text of at most n units of 16 bits.
func (w window) utf16(off, n int64) string {
	b := w(off, 2*n)
	var units []uint16
	for ; len(b) >= 2 && (b[0] != 0 || b[1] != 0); b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return cleanName(string(utf16.Decode(units)))
}

// tableOf tells which kind of partition table a disk has.
func tableOf(w window, sector int) string {
	if !w.at(510, "\x55\xaa") {
		return ""
	}
	found := ""
	for i := int64(0); i < 4; i++ {
		e := w(446+16*i, 16)
		if len(e) < 16 || e[0]&0x7f != 0 {
			return "" // code, not a table
		}
		switch kind := e[4]; {
		case kind == 0xee && (w.at(int64(max(sector, 512)), "EFI PART") || w.at(512, "EFI PART")):
			return "gpt"
		case kind != 0:
			found = "mbr"
		}
	}
	return found
}
