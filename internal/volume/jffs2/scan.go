package jffs2

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// Kinds of nodes. The upper bits say what is to be done by who does not know the kind;
// accurate is taken away from a node that no longer counts.
const (
	accurate    = 0x2000
	incompat    = 0xc000 // a file system with such a node must not be read by who does not know it
	kindDirent  = 0xe001
	kindInode   = 0xe002
	kindClean   = 0x2003
	kindPadding = 0x2004
	kindSummary = 0x2006
	kindXattr   = 0xe008
	kindXref    = 0xe009
)

// Lengths of nodes without what is behind them, in bytes.
const (
	headerLen = 12
	direntLen = 40
	inodeLen  = 68
	xattrLen  = 32
	xrefLen   = 28
)

// maxNode is the length of the longest node there can be: the kernel makes none with more
// than a page.
const maxNode = 1 << 20

// checksum is the CRC-32 of the kernel's crc32(0, …): without inversion.
func checksum(p []byte) uint32 { return ^crc32.Update(^uint32(0), crc32.IEEETable, p) }

// An entry is what a name stands for. inode 0: it was deleted.
type entry struct{ version, inode uint32 }

// An inode is what the newest node of a file says, and the pieces of its content.
type inode struct {
	version  uint32
	mode     uint32
	uid, gid uint16
	size     uint32
	mtime    uint32
	pieces   []piece
}

// A piece is a part of a file's content: to bytes that belong at off, and are packed in
// the from bytes at at.
type piece struct {
	version, off, from, to uint32
	at                     int64
	packing                uint8
}

// end returns where in the file the piece ends.
func (p piece) end() int64 { return int64(p.off) + int64(p.to) }

// An xattr is an attribute that several files may share.
type xattr struct {
	version     uint32
	name, value string
}

// scanner reads all nodes.
type scanner struct {
	r      io.ReaderAt
	size   int64
	order  binary.ByteOrder
	inodes map[uint32]*inode
	names  map[uint32]map[string]entry // by directory and name
	xattrs map[uint32]xattr            // by number
	refs   map[[2]uint32]uint32        // the newest sequence number by file and attribute; odd: deleted
}

// scan reads the file system from end to end.
func (s *scanner) scan() error {
	in := bufio.NewReaderSize(io.NewSectionReader(s.r, 0, s.size), 256<<10)
	head, err := in.Peek(256 << 10)
	if err != nil && err != io.EOF {
		return err
	}
	if s.order = orderOf(head); s.order == nil {
		return ErrNotJFFS2
	}
	for at := int64(0); ; {
		n, err := s.next(in, at)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		n = min((n+3)&^3, s.size-at)
		for left := n; left > 0; {
			k, err := in.Discard(int(min(left, 1<<30)))
			if left -= int64(k); err != nil {
				return err
			}
		}
		at += n
	}
}

// isFiller tells whether flash is erased or was filled up.
func isFiller(word []byte) bool {
	return [4]byte(word) == [4]byte{0xff, 0xff, 0xff, 0xff} || [4]byte(word) == [4]byte{}
}

// next takes in what stands at a place, and returns its length.
func (s *scanner) next(in *bufio.Reader, at int64) (int64, error) {
	head, err := in.Peek(headerLen)
	if err != nil && err != io.EOF {
		return 0, err
	}
	switch {
	case len(head) == 0:
		return 0, io.EOF
	case len(head) < 4 || isFiller(head[:4]):
		return fillers(in), nil
	case len(head) < headerLen:
		return 0, fmt.Errorf("the node at byte %d is cut short", at)
	case s.order.Uint16(head) != magic:
		return 0, fmt.Errorf("at byte %d is no node and no erased flash", at)
	}
	kind, length := s.order.Uint16(head[2:]), s.order.Uint32(head[4:])
	said := s.order.Uint32(head[8:])
	summed := [8]byte(head)
	s.order.PutUint16(summed[2:], kind|accurate)
	switch {
	case checksum(head[:8]) != said && checksum(summed[:]) != said:
		if said == 0xffffffff {
			return headerLen, nil // its header was not written to the end
		}
		return 0, fmt.Errorf("the header of the node at byte %d is damaged: its checksum is wrong", at)
	case length < headerLen || int64(length) > s.size-at:
		return 0, fmt.Errorf("the node at byte %d has %d bytes, and the file system ends at %d", at, length, s.size)
	case kind&accurate == 0:
		return int64(length), nil // it no longer counts
	}
	return int64(length), s.take(kind, at, length)
}

// fillers returns how much of what is buffered is erased or filled up.
func fillers(in *bufio.Reader) int64 {
	p, _ := in.Peek(max(4, in.Buffered()))
	n := 0
	for n+4 <= len(p) && isFiller(p[n:n+4]) {
		n += 4
	}
	if n == 0 {
		n = len(p) // the odd bytes at the end
	}
	return int64(n)
}

// take takes in a node.
func (s *scanner) take(kind uint16, at int64, length uint32) error {
	read := map[uint16]func([]byte, int64) error{kindDirent: s.dirent, kindInode: s.inode, kindXattr: s.xattr, kindXref: s.xref}[kind]
	switch {
	case read == nil && kind&incompat == incompat:
		return fmt.Errorf("the node at byte %d is of a kind (%#04x) that is not known here", at, kind)
	case read == nil: // a clean marker, padding, a summary of what is read anyway
		return nil
	case length > maxNode:
		return fmt.Errorf("the node at byte %d has %d bytes, and %d is the most", at, length, maxNode)
	}
	p := make([]byte, length)
	if _, err := s.r.ReadAt(p, at); err != nil && err != io.EOF {
		return err
	}
	err := read(p, at)
	if errors.Is(err, errDamaged) && [4]byte(p[len(p)-4:]) == [4]byte{0xff, 0xff, 0xff, 0xff} {
		return nil // not written to the end
	}
	if err != nil {
		return fmt.Errorf("the node at byte %d: %w", at, err)
	}
	return nil
}

var errDamaged = errors.New("it is damaged")

// check compares a checksum that stands at a place with that of some bytes.
func (s *scanner) check(p []byte, sumAt int, of []byte) error {
	if got, want := checksum(of), s.order.Uint32(p[sumAt:]); got != want {
		return fmt.Errorf("%w: its checksum is %08x, not %08x", errDamaged, got, want)
	}
	return nil
}

func tooShort(p []byte) error {
	return fmt.Errorf("%w: it has only %d bytes", errDamaged, len(p))
}

// dirent takes in a name.
func (s *scanner) dirent(p []byte, _ int64) error {
	if len(p) < direntLen || len(p) < direntLen+int(p[28]) {
		return tooShort(p)
	}
	name := p[direntLen : direntLen+int(p[28])]
	if err := cmp.Or(s.check(p, 32, p[:32]), s.check(p, 36, name)); err != nil {
		return err
	}
	dir, version, number := s.order.Uint32(p[12:]), s.order.Uint32(p[16:]), s.order.Uint32(p[20:])
	if s.names[dir] == nil {
		s.names[dir] = map[string]entry{}
	}
	if old, ok := s.names[dir][string(name)]; !ok || version >= old.version {
		s.names[dir][string(name)] = entry{version, number}
	}
	return nil
}

// inode takes in what a node says of a file.
func (s *scanner) inode(p []byte, at int64) error {
	if len(p) < inodeLen {
		return tooShort(p)
	}
	if err := s.check(p, 64, p[:60]); err != nil {
		return err
	}
	u := func(off int) uint32 { return s.order.Uint32(p[off:]) }
	x := piece{version: u(16), off: u(44), from: u(48), to: u(52), at: at + inodeLen, packing: p[56]}
	if int64(x.from) > int64(len(p)-inodeLen) {
		return tooShort(p)
	}
	if err := s.check(p, 60, p[inodeLen:inodeLen+x.from]); err != nil {
		return err
	}
	in := s.inodes[u(12)]
	if in == nil {
		in = &inode{}
		s.inodes[u(12)] = in
	}
	in.pieces = append(in.pieces, x)
	if x.version >= in.version {
		in.version, in.mode, in.size, in.mtime = x.version, u(20), u(28), u(36)
		in.uid, in.gid = s.order.Uint16(p[24:]), s.order.Uint16(p[26:])
	}
	return nil
}

// xattr takes in an attribute.
func (s *scanner) xattr(p []byte, _ int64) error {
	if len(p) < xattrLen {
		return tooShort(p)
	}
	name, value := int(p[21]), int(s.order.Uint16(p[22:]))
	if len(p) < xattrLen+name+1+value {
		return tooShort(p)
	}
	data := p[xattrLen : xattrLen+name+1+value]
	if err := cmp.Or(s.check(p, 28, p[:28]), s.check(p, 24, data)); err != nil {
		return err
	}
	number, version := s.order.Uint32(p[12:]), s.order.Uint32(p[16:])
	x := xattr{version: version, value: string(data[name+1:])}
	switch rest := string(data[:name]); p[20] {
	case 1:
		x.name = "user." + rest
	case 2:
		x.name = "security." + rest
	case 3:
		x.name = "system.posix_acl_access"
	case 4:
		x.name = "system.posix_acl_default"
	case 5:
		x.name = "trusted." + rest
	default:
		return fmt.Errorf("there is no kind of attribute with number %d", p[20])
	}
	if old, ok := s.xattrs[number]; !ok || version >= old.version {
		s.xattrs[number] = x
	}
	return nil
}

// xref takes in which file has which attribute.
func (s *scanner) xref(p []byte, _ int64) error {
	if len(p) < xrefLen {
		return tooShort(p)
	}
	if err := s.check(p, 24, p[:24]); err != nil {
		return err
	}
	key, seq := [2]uint32{s.order.Uint32(p[12:]), s.order.Uint32(p[16:])}, s.order.Uint32(p[20:])
	if old, ok := s.refs[key]; !ok || seq >= old {
		s.refs[key] = seq
	}
	return nil
}

// attributes returns the attributes of files by their numbers.
func (s *scanner) attributes() (map[uint32]map[string]string, error) {
	const deleted = 0xffffffff // as a version
	all := map[uint32]map[string]string{}
	newest := map[uint32]map[string]uint32{}
	for key, seq := range s.refs {
		x, ok := s.xattrs[key[1]]
		if seq&1 != 0 || !ok || x.version == deleted {
			continue
		}
		if all[key[0]] == nil {
			all[key[0]], newest[key[0]] = map[string]string{}, map[string]uint32{}
		}
		if old, ok := newest[key[0]][x.name]; ok && old > seq {
			continue
		}
		value := x.value
		if strings.HasPrefix(x.name, "system.") {
			acl, err := s.acl([]byte(value))
			if err != nil {
				return nil, fmt.Errorf("the attribute %s of inode %d: %w", x.name, key[0], err)
			}
			value = string(acl)
		}
		all[key[0]][x.name], newest[key[0]][x.name] = value, seq
	}
	return all, nil
}

// acl turns an access control list from what JFFS2 keeps (version 1, entries of four
// bytes, or eight with a user or group) into what the kernel shows (version 2, eight bytes
// an entry, little-endian).
func (s *scanner) acl(kept []byte) ([]byte, error) {
	const user, group = 0x02, 0x08
	errACL := errors.New("it is no access control list")
	if len(kept) < 4 || s.order.Uint32(kept) != 1 {
		return nil, errACL
	}
	le := binary.LittleEndian
	shown := le.AppendUint32(nil, 2)
	for kept = kept[4:]; len(kept) > 0; {
		if len(kept) < 4 {
			return nil, errACL
		}
		tag, id := s.order.Uint16(kept), uint32(0xffffffff)
		shown = le.AppendUint16(le.AppendUint16(shown, tag), s.order.Uint16(kept[2:]))
		kept = kept[4:]
		if tag == user || tag == group {
			if len(kept) < 4 {
				return nil, errACL
			}
			id, kept = s.order.Uint32(kept), kept[4:]
		}
		shown = le.AppendUint32(shown, id)
	}
	return shown, nil
}
