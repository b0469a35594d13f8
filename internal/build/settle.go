package build

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"multidd/internal/tree"
)

// Nodes of a JFFS2 and where their fields are, as in the kernel's
// include/uapi/linux/jffs2.h.
const (
	jffs2Magic  = 0x1985
	jffs2Dirent = 0xe001
	jffs2Inode  = 0xe002
)

// settleJFFS2 gives devices and pipes, which mkfs.jffs2 makes of the device table with the
// time of the clock, the times they have in the tree.
func settleJFFS2(name string, bigEndian bool, t *tree.Tree) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if bigEndian {
		order = binary.BigEndian
	}
	type entry struct {
		dir  uint32
		name string
	}
	entries := map[uint32]entry{} // by inode; a device has one name
	eachJFFS2(b, order, func(kind uint16, node []byte) {
		if kind == jffs2Dirent {
			entries[order.Uint32(node[20:])] = entry{order.Uint32(node[12:]), string(node[40 : 40+int(node[28])])}
		}
	})
	time := func(inode uint32) (uint32, bool) { // of a device; false: it is none
		p := ""
		for e, ok := entries[inode]; ok; e, ok = entries[e.dir] {
			p = path.Join(e.name, p)
		}
		n := t.Lookup(p)
		if n == nil || n.Mode&(fs.ModeDevice|fs.ModeNamedPipe) == 0 {
			return 0, false
		}
		return uint32(n.ModTime.Unix()), true
	}
	sum := func(p []byte) uint32 { return ^crc32.Update(^uint32(0), crc32.IEEETable, p) }
	eachJFFS2(b, order, func(kind uint16, node []byte) {
		switch kind {
		case jffs2Inode:
			if at, ok := time(order.Uint32(node[12:])); ok {
				for _, field := range []int{32, 36, 40} { // read, changed, anything changed
					order.PutUint32(node[field:], at)
				}
				order.PutUint32(node[64:], sum(node[:60]))
			}
		case jffs2Dirent:
			if at, ok := time(order.Uint32(node[20:])); ok {
				order.PutUint32(node[24:], at)
				order.PutUint32(node[32:], sum(node[:32]))
			}
		}
	})
	return os.WriteFile(name, b, 0o600)
}

// eachJFFS2 calls fn for every name and inode of a JFFS2.
func eachJFFS2(b []byte, order binary.ByteOrder, fn func(kind uint16, node []byte)) {
	for off := 0; off+12 <= len(b); {
		n := int(order.Uint32(b[off+4:]))
		if order.Uint16(b[off:]) != jffs2Magic || n < 12 || n > len(b)-off {
			off += 4
			continue
		}
		node := b[off : off+n]
		kind := order.Uint16(node[2:])
		if kind == jffs2Dirent && n >= 40 && n >= 40+int(node[28]) || kind == jffs2Inode && n >= 68 {
			fn(kind, node)
		}
		off += (n + 3) &^ 3
	}
}

// settleUBIFS takes out of a UBIFS what is different each time mkfs.ubifs makes it: the UUID
// becomes the one that is given, and the times at which files were read and changed
// become those of their content. Nodes and their checksums are described by the kernel's
// fs/ubifs/ubifs-media.h.
func settleUBIFS(name, uuid string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	const (
		nodeMagic  = 0x06101831
		headerLen  = 24
		inode      = 0
		superblock = 6
	)
	le := binary.LittleEndian
	sum := func(node []byte) uint32 { return ^crc32.ChecksumIEEE(node[8:]) }
	id, err := parseUUID(uuid)
	if err != nil {
		return err
	}
	found := false
	for at := 0; at+headerLen <= len(b); {
		n := int(le.Uint32(b[at+16:]))
		if le.Uint32(b[at:]) != nodeMagic || n < headerLen || n > len(b)-at || sum(b[at:at+n]) != le.Uint32(b[at+4:]) {
			at += 8
			continue
		}
		node := b[at : at+n]
		switch kind := node[20]; {
		case kind == superblock && n >= 124:
			copy(node[108:], id[:])
			found = true
		case kind == inode && n >= 92:
			copy(node[56:64], node[72:80]) // seconds of reading, as of the content
			copy(node[64:72], node[72:80]) // and of any change
			copy(node[80:84], node[88:92])
			copy(node[84:88], node[88:92])
		}
		le.PutUint32(node[4:], sum(node))
		at += (n + 7) &^ 7
	}
	if !found {
		return errors.New("what mkfs.ubifs made is not as expected: it has no superblock")
	}
	return os.WriteFile(name, b, 0o600)
}

// parseUUID returns the bytes of a UUID in the usual form.
func parseUUID(text string) (id [16]byte, err error) {
	digits := strings.ReplaceAll(text, "-", "")
	for i := range id {
		v, err := strconv.ParseUint(digits[min(2*i, len(digits)):min(2*i+2, len(digits))], 16, 8)
		if err != nil {
			return id, fmt.Errorf("%q is no UUID", text)
		}
		id[i] = byte(v)
	}
	return id, nil
}
