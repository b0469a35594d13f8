package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A mark is the sign of a format that is known by name only.
type mark struct {
	kind  string // as blkid says it
	magic string
	at    []int  // the offsets where it can stand
	label [2]int // from the magic: offset and length of its name, in bytes
	uuid  [2]int // the same; 16 bytes are a UUID, 8 a number, others text
}

// marks returns what may be in a partition besides the file systems that have an
// opener. The offsets are those of libblkid and of the kernel's headers.
func marks() []mark {
	return []mark{
		{kind: "crypto_LUKS", magic: "LUKS\xba\xbe\x00\x02", at: []int{0}, label: [2]int{24, 48}, uuid: [2]int{168, 40}},
		{kind: "crypto_LUKS", magic: "LUKS\xba\xbe", at: []int{0}, uuid: [2]int{168, 40}},
		{kind: "LVM2_member", magic: "LABELONE", at: []int{0, 512, 1024, 1536}},
		{kind: "linux_raid_member", magic: "\xfc\x4e\x2b\xa9", at: []int{0, 4096}, label: [2]int{32, 32}, uuid: [2]int{16, 16}},
		{kind: "bcache", magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", at: []int{4096 + 24}},
		{kind: "vdo", magic: "dmvdo001", at: []int{0}},
		{kind: "DM_integrity", magic: "integrt\x00", at: []int{0}},
		{kind: "DM_verity_hash", magic: "verity\x00\x00", at: []int{0}},
		{kind: "BitLocker", magic: "-FVE-FS-", at: []int{3}},
		{kind: "ntfs", magic: "NTFS    ", at: []int{3}, uuid: [2]int{0x48 - 3, 8}},
		{kind: "xfs", magic: "XFSB", at: []int{0}, label: [2]int{108, 12}, uuid: [2]int{32, 16}},
		{kind: "squashfs", magic: "hsqs", at: []int{0}},
		{kind: "erofs", magic: "\xe2\xe1\xf5\xe0", at: []int{1024}, label: [2]int{64, 16}, uuid: [2]int{48, 16}},
		{kind: "cramfs", magic: "\x45\x3d\xcd\x28", at: []int{0}},
		{kind: "romfs", magic: "-rom1fs-", at: []int{0}},
		{kind: "ubi", magic: "UBI#", at: []int{0}},
		{kind: "ubifs", magic: "\x31\x18\x10\x06", at: []int{0}},
		{kind: "jffs2", magic: "\x85\x19\x03\x20", at: []int{0}}, // a cleanmarker, which begins each block
		{kind: "jffs2", magic: "\x85\x19\x01\xe0", at: []int{0}}, // or a name
		{kind: "jffs2", magic: "\x85\x19\x02\xe0", at: []int{0}}, // or an inode
		{kind: "apfs", magic: "NXSB", at: []int{32}},
		{kind: "hfsplus", magic: "H+\x00\x04", at: []int{1024}},
		{kind: "hfsplus", magic: "HX\x00\x05", at: []int{1024}},
		{kind: "jfs", magic: "JFS1", at: []int{32768}},
		{kind: "iso9660", magic: "CD001", at: []int{32768 + 1}, label: [2]int{39, 32}},
		{kind: "reiserfs", magic: "ReIsEr", at: []int{8192 + 52, 65536 + 52}},
	}
}

// foreign returns what else the first bytes of a partition of size bytes could belong
// to. Making one of these does not always wipe out the superblock of a file system
// that was there before.
func foreign(head []byte, size int64) []FileSystem {
	var found []FileSystem
	for _, m := range marks() {
		for _, at := range m.at {
			if at > len(head) || !bytes.HasPrefix(head[at:], []byte(m.magic)) {
				continue
			}
			if n := len(found); n > 0 && found[n-1].Kind == m.kind {
				break
			}
			found = append(found, FileSystem{
				Kind: m.kind, Size: size, Used: size,
				Label: string(bytes.TrimRight(field(head, at, m.label), " \x00")),
				UUID:  markUUID(field(head, at, m.uuid)),
				State: Unknown, Why: "what is in use of it is not read here",
			})
			break
		}
	}
	return found
}

// field returns some bytes behind a magic; none if they are not there.
func field(head []byte, at int, f [2]int) []byte {
	if at += f[0]; at+f[1] > len(head) {
		return nil
	}
	return head[at : at+f[1]]
}

func markUUID(b []byte) string {
	switch len(b) {
	case 8:
		return fmt.Sprintf("%016X", binary.LittleEndian.Uint64(b))
	case 16:
		return formatUUID(b)
	}
	return string(bytes.TrimRight(b, "\x00"))
}
