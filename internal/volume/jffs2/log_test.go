package jffs2_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

var le = binary.LittleEndian

// A log is a JFFS2 written node by node.
type log struct {
	t testing.TB
	b bytes.Buffer
}

func sum(p []byte) uint32 { return ^crc32.Update(^uint32(0), crc32.IEEETable, p) }

// node writes a node that holds body behind its header.
func (l *log) node(kind uint16, body []byte) {
	h := le.AppendUint16(le.AppendUint16(nil, 0x1985), kind)
	h = le.AppendUint32(h, uint32(12+len(body)))
	summed := slices.Clone(h)
	le.PutUint16(summed[2:], kind|0x2000)
	l.b.Write(le.AppendUint32(h, sum(summed)))
	l.b.Write(body)
	for l.b.Len()%4 != 0 {
		l.b.WriteByte(0xff)
	}
}

func (l *log) dirent(dir, version, ino uint32, name string) {
	body := make([]byte, 28)
	for i, v := range []uint32{dir, version, ino, 1246710614} {
		le.PutUint32(body[4*i:], v)
	}
	body[16], body[17] = byte(len(name)), 8
	l.seal(0xe001, append(body, name...), 20, 24)
}

type node struct {
	ino, version, mode, size, off uint32
	data                          string
	zeros                         uint32
}

func (l *log) inode(n node) {
	body := make([]byte, 56)
	for at, v := range map[int]uint32{0: n.ino, 4: n.version, 8: n.mode, 16: n.size, 24: 1246710614, 32: n.off, 36: uint32(len(n.data)), 40: uint32(len(n.data))} {
		le.PutUint32(body[at:], v)
	}
	if n.zeros > 0 {
		le.PutUint32(body[40:], n.zeros)
		body[44] = 1
	}
	l.seal(0xe002, append(body, n.data...), 52, 48)
}

// seal writes a node with two checksums in it: of its own fields, and of the data behind.
func (l *log) seal(kind uint16, body []byte, own, data int) {
	before := l.b.Len()
	l.node(kind, body)
	p := l.b.Bytes()[before:]
	mend(p, own+12, data+12, len(body)+12)
}

func mend(p []byte, own, data, length int) {
	fixed := max(own, data) + 4
	le.PutUint32(p[data:], sum(p[fixed:length]))
	le.PutUint32(p[own:], sum(p[:min(own, data)]))
}

// mend gives the nodes of some bytes the checksums they should have.
func (l *log) mend(b []byte) []byte {
	b = slices.Clone(b)
	for at := 0; at+12 <= len(b); {
		kind, n := le.Uint16(b[at+2:]), int(le.Uint32(b[at+4:]))
		if le.Uint16(b[at:]) != 0x1985 || n < 12 || n > len(b)-at {
			at += 4
			continue
		}
		p := b[at : at+n]
		le.PutUint32(p[8:], sum(p[:8]))
		switch {
		case kind == 0xe001 && n >= 40 && 40+int(p[28]) <= n:
			mend(p, 32, 36, 40+int(p[28]))
		case kind == 0xe002 && n >= 68 && le.Uint32(p[48:]) <= uint32(n-68):
			mend(p, 64, 60, 68+int(le.Uint32(p[48:])))
		}
		at += (n + 3) &^ 3
	}
	return b
}

// xattr writes an attribute: prefix is its kind, 1 for "user.".
func (l *log) xattr(number, version uint32, prefix byte, name, value string) {
	body := make([]byte, 20)
	le.PutUint32(body, number)
	le.PutUint32(body[4:], version)
	body[8], body[9] = prefix, byte(len(name))
	le.PutUint16(body[10:], uint16(len(value)))
	data := append([]byte(name+"\x00"), value...)
	le.PutUint32(body[12:], sum(data))
	before := l.b.Len()
	l.node(0xe008, append(body, data...))
	p := l.b.Bytes()[before:]
	le.PutUint32(p[28:], sum(p[:28]))
}

// xref gives a file an attribute; an odd seq takes it away.
func (l *log) xref(ino, number, seq uint32) {
	body := make([]byte, 16)
	le.PutUint32(body, ino)
	le.PutUint32(body[4:], number)
	le.PutUint32(body[8:], seq)
	before := l.b.Len()
	l.node(0xe009, body)
	p := l.b.Bytes()[before:]
	le.PutUint32(p[24:], sum(p[:24]))
}
