package device

import "strings"

// Just enough of each format to say what a medium holds and what it is called.
// The layouts are those of the kernel's headers, or of the specification named.

// identifyFS returns the file system, or other content that takes a whole medium,
// and its label. Both are "" for what is not known.
func identifyFS(w window) (fs, label string) {
	for _, known := range []func(window) (string, string){
		// What encrypts or combines disks first: its content may lie open too.
		containerFS, extFS, fatFS, exfatFS, diskFS, flashFS, swapFS,
	} {
		if fs, label = known(w); fs != "" {
			return fs, label
		}
	}
	return "", ""
}

func containerFS(w window) (string, string) {
	for sector := int64(0); sector < 4; sector++ {
		if w.at(512*sector, "LABELONE") && w.at(512*sector+24, "LVM2 001") {
			return "LVM", ""
		}
	}
	switch {
	case w.at(0, "LUKS\xba\xbe"):
		if w.le(6, 2) == 0x0200 { // version 2, highest byte first
			return "LUKS", w.text(24, 48)
		}
		return "LUKS", ""
	case w.le(4096, 4) == mdMagic: // format 1.2
		return "RAID", w.text(4096+32, 32)
	case w.le(0, 4) == mdMagic: // 1.1
		return "RAID", w.text(32, 32)
	}
	return "", ""
}

const mdMagic = 0xa92b4efc

// extFS knows ext2, 3 and 4 by the features that only the later ones have
// (Documentation/filesystems/ext4/super.rst).
func extFS(w window) (string, string) {
	const (
		journal    = 0x4    // compatible
		ext3In     = 0x16   // incompatible: file types, recovery, meta_bg
		ext3RO     = 0x7    // compatible for reading: sparse, large files, btree
		journalDev = 0x8    // incompatible
		super      = 1024   // offset
		magic      = 0xef53 // at 0x38
	)
	if w.le(super+0x38, 2) != magic {
		return "", ""
	}
	fs := "ext2"
	compat, incompat, ro := w.le(super+0x5c, 4), w.le(super+0x60, 4), w.le(super+0x64, 4)
	switch {
	case incompat&journalDev != 0:
		fs = "ext journal"
	case incompat&^ext3In != 0 || ro&^ext3RO != 0:
		fs = "ext4"
	case compat&journal != 0:
		fs = "ext3"
	}
	return fs, w.text(super+0x78, 16)
}

// fatFS knows FAT12, 16 and 32 by their parameter block, since the text that says
// "FAT" means nothing (Microsoft, FAT: General Overview of On-Disk Format, 1.03).
func fatFS(w window) (string, string) {
	sector, cluster := w.le(11, 2), w.le(13, 1)
	reserved, fats, media := w.le(14, 2), w.le(16, 1), w.le(21, 1)
	jump := w.le(0, 1)
	if !w.at(510, "\x55\xaa") || jump != 0xeb && jump != 0xe9 || sector < 512 || sector > 4096 || sector&(sector-1) != 0 ||
		cluster == 0 || cluster&(cluster-1) != 0 || reserved == 0 || fats < 1 || fats > 2 || media != 0xf0 && media < 0xf8 {
		return "", ""
	}
	var root, rootLen int64 // the root directory, in bytes
	boot := int64(43)       // the label in the boot sector
	if size := w.le(22, 2); size != 0 {
		root = int64((reserved + fats*size) * sector)
		rootLen = int64(w.le(17, 2) * 32)
	} else {
		boot = 71
		root = int64((reserved + fats*w.le(36, 4) + (w.le(44, 4)-2)*cluster) * sector)
		rootLen = int64(cluster * sector)
	}
	for off := int64(0); off < min(rootLen, 64<<10); off += 32 {
		e := string(w(root+off, 32))
		if len(e) < 32 || e[0] == 0 {
			break
		}
		const volume, longName = 0x08, 0x0f
		if e[0] != 0xe5 && e[11]&volume != 0 && e[11]&longName != longName {
			return "vfat", cleanName(strings.TrimSpace(e[:11]))
		}
	}
	label := w.text(boot, 11)
	if label == "NO NAME" {
		label = ""
	}
	return "vfat", label
}

// exfatFS follows Microsoft's exFAT file system specification, 3.1 and 7.3.
func exfatFS(w window) (string, string) {
	if !w.at(3, "EXFAT   ") {
		return "", ""
	}
	sectorShift, clusterShift := w.le(108, 1), w.le(109, 1)
	if sectorShift < 9 || sectorShift > 12 || clusterShift > 25-sectorShift {
		return "exfat", ""
	}
	heap, root := w.le(88, 4), w.le(96, 4)
	start := int64((heap + (root-2)<<clusterShift) << sectorShift)
	for off := int64(0); off < min(int64(1)<<(sectorShift+clusterShift), 64<<10); off += 32 {
		switch kind := w.le(start+off, 1); kind {
		case 0:
			return "exfat", ""
		case 0x83:
			return "exfat", w.utf16(start+off+2, int64(min(w.le(start+off+1, 1), 11)))
		}
	}
	return "exfat", ""
}

func diskFS(w window) (string, string) {
	switch {
	case w.at(3, "NTFS    "):
		return "ntfs", ""
	case w.at(3, "-FVE-FS-"):
		return "BitLocker", ""
	case w.at(0, "XFSB"):
		return "xfs", w.text(108, 12)
	case w.at(0x10040, "_BHRfS_M"):
		return "btrfs", w.text(0x1012b, 256)
	case w.at(32769, "CD001"):
		return "iso9660", w.text(32808, 32)
	}
	return "", ""
}

func flashFS(w window) (string, string) {
	switch {
	case w.le(1024, 4) == 0xf2f52010:
		return "f2fs", w.utf16(1024+124, 512)
	case w.le(1024, 4) == 0xe0f5e1e2:
		return "erofs", w.text(1024+64, 16)
	case w.at(0, "hsqs"):
		return "squashfs", ""
	case w.at(0, "UBI#"):
		return "UBI", ""
	case w.at(0, "\x85\x19") && (w.at(2, "\x03\x20") || w.at(2, "\x01\xe0") || w.at(2, "\x02\xe0")): // clean marker, name, inode
		return "jffs2", ""
	}
	return "", ""
}

// swapFS knows swap by its signature at the end of the first page, which is of
// different size on different machines (include/linux/swap.h).
func swapFS(w window) (string, string) {
	for _, page := range []int64{4096, 8192, 16384, 65536} {
		if w.at(page-10, "SWAPSPACE2") {
			return "swap", w.text(1024+28, 16)
		}
	}
	return "", ""
}
