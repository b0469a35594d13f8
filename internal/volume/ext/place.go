package ext

import (
	"fmt"
	"strings"

	"multidd/internal/tree"
)

// A Place is where a path leads when all symbolic links are followed, inside the file
// system.
type Place struct {
	Path string     // without links
	Dir  int64      // the inode of the directory it is in; of the root itself: 0
	Name string     // in that directory
	Ino  int64      // its inode; 0: there is no such file
	Node *tree.Node // what it is; nil: there is no such file
	// Links is how many names it has.
	Links int
}

// Find returns where a path leads. The last part of it need not be there; anything else
// that is missing is fs.ErrNotExist.
func (f *FileSystem) Find(name string) (Place, error) {
	at, missing, err := f.resolve(name)
	if err != nil {
		return Place{}, err
	}
	var p Place
	for _, s := range at[1:] {
		p.Path += "/" + s.name
	}
	if missing != "" {
		if !tree.ModeOf(at[len(at)-1].mode()).IsDir() {
			return Place{}, fmt.Errorf("%s: a part of it is not a directory", name)
		}
		p.Path, p.Dir, p.Name = p.Path+"/"+missing, at[len(at)-1].ino, missing
		return p, nil
	}
	last := at[len(at)-1]
	if p.Node, err = f.node(last.inode); err != nil {
		return Place{}, fmt.Errorf("%s (inode %d): %w", name, last.ino, err)
	}
	p.Name, p.Ino, p.Links = last.name, last.ino, int(le.Uint16(last.b[0x1a:]))
	if len(at) > 1 {
		p.Dir = at[len(at)-2].ino
	}
	if strings.Trim(p.Path, "/") == "" {
		p.Path = "/"
	}
	return p, nil
}

// Flags of an inode and fields of the superblock that say which files are no plain ones.
const (
	flagAttributes  = 0x200000 // it holds an attribute of another
	superFirstInode = 0x54
	superProjects   = 0x26c // the quota of projects
	superOrphans    = 0x280 // the file of orphans
)

// Content calls yield with where the content of plain files lies: n bytes at byte off of the
// file system, of the inode ino. What the file system itself needs, such as its journal, is not
// among them.
func (f *FileSystem) Content(yield func(ino, off, n int64) error) error {
	first := int64(11)
	if f.u32(0x4c) > 0 {
		first = f.u32(superFirstInode)
	}
	for g := range f.groups {
		unused := f.groups[g].unusedIn
		if !f.groupSums() {
			unused = 0
		}
		if f.groups[g].flags&inodeUninit != 0 || unused >= f.inodesPerGroup {
			continue
		}
		bitmap, err := f.block(f.groups[g].inodeBitmap)
		if err != nil {
			return err
		}
		for i := range f.inodesPerGroup - unused {
			ino := int64(g)*f.inodesPerGroup + i + 1
			if bitmap[i/8]&(1<<(i%8)) == 0 || ino < first || ino == f.u32(superProjects) || ino == f.u32(superOrphans) {
				continue
			}
			if err := f.ContentOf(ino, yield); err != nil {
				return fmt.Errorf("inode %d: %w", ino, err)
			}
		}
	}
	return nil
}

// ContentOf does the same for one inode. What is no plain file has none.
func (f *FileSystem) ContentOf(ino int64, yield func(ino, off, n int64) error) error {
	n, err := f.inode(ino)
	if err != nil || !tree.ModeOf(n.mode()).IsRegular() || n.flags()&flagAttributes != 0 {
		return err
	}
	runs, err := f.runs(n)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if err := yield(ino, r.at*f.bs, r.n*f.bs); err != nil {
			return err
		}
	}
	return nil
}

// AttributeBlock returns the block of its own in which an inode keeps extended attributes; 0:
// there is none.
func (f *FileSystem) AttributeBlock(ino int64) (int64, error) {
	n, err := f.inode(ino)
	if err != nil {
		return 0, err
	}
	at := int64(le.Uint32(n.b[0x68:]))
	if f.incompat&incompat64Bit != 0 {
		at |= int64(le.Uint16(n.b[0x76:])) << 32
	}
	return at, nil
}
