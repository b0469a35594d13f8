package ext

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"multidd/internal/tree"
)

// Flags of an inode.
const (
	flagHuge    = 0x40000 // its number of blocks counts blocks, not sectors
	flagExtents = 0x80000
	flagInline  = 0x10000000
	flagEncrypt = 0x800
	flagIndex   = 0x1000
)

// An inode is one as it lies on the disk.
type inode struct {
	ino int64
	b   []byte
}

func (f *FileSystem) inode(ino int64) (inode, error) {
	if ino < 1 || ino > f.inodes {
		return inode{}, fmt.Errorf("there is no inode %d", ino)
	}
	b := make([]byte, f.inodeSize)
	if _, err := f.r.ReadAt(b, f.inodeAt(ino)); err != nil {
		return inode{}, fmt.Errorf("read inode %d at byte %d: %w", ino, f.inodeAt(ino), noEOF(err))
	}
	return inode{ino, b}, nil
}

func (n inode) mode() uint32       { return uint32(le.Uint16(n.b)) }
func (n inode) flags() uint32      { return le.Uint32(n.b[0x20:]) }
func (n inode) generation() uint32 { return le.Uint32(n.b[0x64:]) }
func (n inode) size() int64 {
	return int64(le.Uint32(n.b[4:])) | int64(le.Uint32(n.b[0x6c:]))<<32
}

// extra returns how many bytes behind the first 128 are fields; behind them are
// attributes.
func (n inode) extra() int {
	if len(n.b) <= 128 {
		return 0
	}
	return int(le.Uint16(n.b[0x80:]))
}

func (n inode) modTime() time.Time {
	sec, nsec := int64(int32(le.Uint32(n.b[0x10:]))), int64(0)
	if n.extra() >= 0x8c-0x80 {
		x := le.Uint32(n.b[0x88:])
		sec += int64(x&3) << 32
		nsec = int64(x >> 2)
	}
	return time.Unix(sec, nsec)
}

// node returns what a tree says of the inode, but for what is in it.
func (f *FileSystem) node(n inode) (*tree.Node, error) {
	if n.flags()&flagEncrypt != 0 {
		return nil, errors.New("it is encrypted")
	}
	t := &tree.Node{
		Mode:    tree.ModeOf(n.mode()),
		UID:     int(le.Uint16(n.b[2:])) | int(le.Uint16(n.b[0x78:]))<<16,
		GID:     int(le.Uint16(n.b[0x18:])) | int(le.Uint16(n.b[0x7a:]))<<16,
		ModTime: n.modTime(),
	}
	var err error
	if t.Xattrs, err = f.xattrs(n); err != nil {
		return nil, err
	}
	switch t.Mode.Type() {
	case 0:
		t.Size = n.size()
		if t.Size < 0 {
			return nil, errors.New("its size makes no sense")
		}
		var held int64
		runs, err := f.runs(n)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			held += r.n * f.bs
		}
		t.Holes = held < t.Size && n.flags()&flagInline == 0
		t.Content = func() (io.ReadCloser, error) { return f.open(n) }
	case fs.ModeDir:
	case fs.ModeSymlink:
		if t.Target, err = f.target(n); err != nil {
			return nil, err
		}
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		t.Major, t.Minor = device(le.Uint32(n.b[0x28:]), le.Uint32(n.b[0x2c:]))
	case fs.ModeIrregular:
		return nil, fmt.Errorf("its mode %#o makes no sense", n.mode())
	}
	return t, nil
}

// device takes the numbers of a device apart, which are kept in 16 or 32 bits.
func device(old, new uint32) (major, minor uint32) {
	if old != 0 {
		return old >> 8 & 0xff, old & 0xff
	}
	return new >> 8 & 0xfff, new&0xff | new>>12&0xfff00
}

// target returns what a symbolic link leads to.
func (f *FileSystem) target(n inode) (string, error) {
	size := n.size()
	if size <= 0 || size > 4096 || size > f.bs {
		return "", errors.New("its length makes no sense")
	}
	if size < 60 && n.flags()&(flagExtents|flagInline) == 0 {
		return string(n.b[0x28 : 0x28+size]), nil
	}
	r, err := f.open(n)
	if err != nil {
		return "", err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(r, b)
	return string(b), err
}

// xattrs reads all attributes of an inode.
func (f *FileSystem) xattrs(n inode) (map[string]string, error) {
	all := map[string]string{}
	if at := 128 + n.extra(); n.extra() > 0 && at+4 <= len(n.b) && le.Uint32(n.b[at:]) == xattrMagic {
		if err := readXattrs(n.b, at+4, at+4, all); err != nil {
			return nil, err
		}
	}
	if at := int64(le.Uint32(n.b[0x68:])) | int64(le.Uint16(n.b[0x76:]))<<32; at != 0 {
		b, err := f.block(at)
		if err != nil {
			return nil, err
		}
		if le.Uint32(b) != xattrMagic {
			return nil, errors.New("its extended attributes are damaged")
		}
		if err := readXattrs(b, 0, 32, all); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// inline returns the content that is kept in the inode itself: 60 bytes in the place of
// the list of blocks, the rest in an attribute.
func (n inode) inline() ([]byte, error) {
	b := append([]byte(nil), n.b[0x28:0x64]...)
	if at := 128 + n.extra(); n.extra() > 0 && at+4 <= len(n.b) && le.Uint32(n.b[at:]) == xattrMagic {
		from := at + 4
		for e := n.b[from:]; len(e) >= 16 && le.Uint32(e) != 0; {
			name, off, size := int(e[0]), int(le.Uint16(e[2:])), int(le.Uint32(e[8:]))
			if 16+name > len(e) {
				break
			}
			if e[1] == 7 && string(e[16:16+name]) == "data" {
				if size < 0 || size > len(n.b) || from+off > len(n.b)-size {
					break
				}
				return append(b, n.b[from+off:from+off+size]...), nil
			}
			e = e[min(len(e), (16+name+3)&^3):]
		}
	}
	return b, nil
}

// block reads one block.
func (f *FileSystem) block(at int64) ([]byte, error) {
	if at < f.first || at >= f.blocks {
		return nil, fmt.Errorf("block %d lies outside of the file system", at)
	}
	b := make([]byte, f.bs)
	if _, err := f.r.ReadAt(b, at*f.bs); err != nil {
		return nil, fmt.Errorf("read block %d at byte %d: %w", at, at*f.bs, noEOF(err))
	}
	return b, nil
}
