package ext

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"multidd/internal/tree"
)

// limits of what is read as a tree.
const (
	maxEntries  = 5_000_000
	maxDirBytes = 1 << 30
	maxDepth    = 1000
)

// Read reads the whole file system as a tree. r begins with its first byte, and must
// stay as it is for as long as the tree's files are read. lost+found is left out
// if it is empty. What a journal has not yet carried out is not seen.
func Read(r io.ReaderAt) (*tree.Tree, error) {
	f, err := Open(r)
	if err != nil {
		return nil, err
	}
	return f.Tree()
}

// Tree reads the files of the file system.
func (f *FileSystem) Tree() (*tree.Tree, error) {
	t := tree.New()
	w := &treeReader{f: f, t: t, links: map[int64]*tree.Node{}}
	if err := w.dir(".", rootIno, 0); err != nil {
		return nil, err
	}
	if n := t.Lookup("lost+found"); n != nil && n.Mode.IsDir() && !w.filled["lost+found"] {
		t.Remove("lost+found")
	}
	return t, nil
}

type treeReader struct {
	f      *FileSystem
	t      *tree.Tree
	links  map[int64]*tree.Node
	count  int
	filled map[string]bool // directories with something in them
}

func (w *treeReader) dir(p string, ino int64, depth int) error {
	fail := func(err error) error { return fmt.Errorf("/%s (inode %d): %w", p, ino, err) }
	if depth > maxDepth {
		return fail(fmt.Errorf("it lies more than %d directories deep", maxDepth))
	}
	n, err := w.f.inode(ino)
	if err != nil {
		return fail(err)
	}
	node, err := w.f.node(n)
	if err != nil {
		return fail(err)
	}
	if !node.Mode.IsDir() {
		return fail(errors.New("it is not a directory"))
	}
	if w.links[ino] != nil {
		return fail(errors.New("the directory has a second name"))
	}
	w.links[ino] = node
	if err := w.t.Put(p, node); err != nil {
		return fail(err)
	}
	entries, err := w.f.entries(n)
	if err != nil {
		return fail(err)
	}
	if len(entries) > 0 {
		if w.filled == nil {
			w.filled = map[string]bool{}
		}
		w.filled[p] = true
	}
	slices.SortFunc(entries, func(a, b entry) int { return int(a.ino - b.ino) })
	for _, e := range entries {
		sub := e.name
		if p != "." {
			sub = p + "/" + e.name
		}
		if err := w.entry(sub, e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeReader) entry(p string, e entry, depth int) error {
	if w.count++; w.count > maxEntries {
		return fmt.Errorf("there are more than %d files", maxEntries)
	}
	if known := w.links[e.ino]; known != nil && !known.Mode.IsDir() {
		return w.t.Put(p, known)
	}
	n, err := w.f.inode(e.ino)
	if err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	if tree.ModeOf(n.mode()).IsDir() {
		return w.dir(p, e.ino, depth+1)
	}
	node, err := w.f.node(n)
	if err != nil {
		return fmt.Errorf("/%s (inode %d): %w", p, e.ino, err)
	}
	w.links[e.ino] = node
	return w.t.Put(p, node)
}

// An entry is one of a directory.
type entry struct {
	name string
	ino  int64
}

var errDir = errors.New("the directory is damaged")

// entries reads a directory, without "." and "..". One with an index is read like
// any other: the index is made to look as if it had no entries.
func (f *FileSystem) entries(n inode) ([]entry, error) {
	var list []entry
	if n.flags()&flagInline != 0 {
		b, err := n.inline()
		if err != nil {
			return nil, err
		}
		if list, err = addEntries(list, b[4:60], f.inodes); err != nil { // the parent's number comes first
			return nil, err
		}
		return addEntries(list, b[60:], f.inodes)
	}
	if n.size() < 0 || n.size() > maxDirBytes {
		return nil, errDir
	}
	r, err := f.open(n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, f.bs)
	for range n.size() / f.bs {
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		if list, err = addEntries(list, b, f.inodes); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func addEntries(list []entry, b []byte, inodes int64) ([]entry, error) {
	for len(b) >= 8 {
		ino, n, name := int64(le.Uint32(b)), int(le.Uint16(b[4:])), int(b[6])
		if n == 0 || n == 0xffff {
			n = 65536 // a block of 64 KiB, of which that is the only entry
		}
		if n < 8 || n > len(b) || 8+name > n && ino != 0 || ino > inodes {
			return nil, errDir
		}
		if ino != 0 {
			if s := string(b[8 : 8+name]); s != "." && s != ".." {
				list = append(list, entry{s, ino})
			}
		}
		b = b[n:]
		if len(list) > maxEntries {
			return nil, fmt.Errorf("there are more than %d names in one directory", maxEntries)
		}
	}
	return list, nil
}

// ReadFile returns the content of one file of at most limit bytes, without reading
// more than the directories on the way. Symbolic links are followed, inside the
// file system.
func (f *FileSystem) ReadFile(name string, limit int64) ([]byte, error) {
	n, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if !tree.ModeOf(n.mode()).IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	if n.size() < 0 || n.size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, and %d is the most", name, n.size(), limit)
	}
	r, err := f.open(n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n.size())
	_, err = io.ReadFull(r, b)
	return b, err
}

// find returns the inode that a path leads to.
func (f *FileSystem) find(name string) (inode, error) {
	at, missing, err := f.resolve(name)
	if err == nil && missing != "" {
		err = fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return inode{}, err
	}
	return at[len(at)-1].inode, nil
}

// A step is an inode on the way to a file, and its name in the one before it.
type step struct {
	inode
	name string
}

// resolve follows a path, and symbolic links in it, inside the file system. It returns
// the way from the root. If the last part of the path is missing, and nothing else,
// the way ends at the directory where it would be.
func (f *FileSystem) resolve(name string) (at []step, missing string, err error) {
	const maxLinks = 40
	root, err := f.inode(rootIno)
	if err != nil {
		return nil, "", err
	}
	at = []step{{inode: root}}
	todo := splitPath(name)
	for links := 0; len(todo) > 0; {
		word := todo[0]
		todo = todo[1:]
		here := at[len(at)-1]
		if word == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		if !tree.ModeOf(here.mode()).IsDir() {
			return nil, "", fmt.Errorf("%s: a part of it is not a directory", name)
		}
		entries, err := f.entries(here.inode)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", name, err)
		}
		i := slices.IndexFunc(entries, func(e entry) bool { return e.name == word })
		switch {
		case i < 0 && len(todo) == 0:
			return at, word, nil
		case i < 0:
			return nil, "", fmt.Errorf("%s: there is no directory %s: %w", name, word, fs.ErrNotExist)
		}
		next, err := f.inode(entries[i].ino)
		if err != nil {
			return nil, "", err
		}
		if tree.ModeOf(next.mode()).Type() != fs.ModeSymlink {
			at = append(at, step{next, word})
			continue
		}
		if links++; links > maxLinks {
			return nil, "", fmt.Errorf("%s: more than %d symbolic links", name, maxLinks)
		}
		target, err := f.target(next)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", name, err)
		}
		if target[0] == '/' {
			at = at[:1]
		}
		todo = append(splitPath(target), todo...)
	}
	return at, "", nil
}

// splitPath returns the parts of a path that lead anywhere.
func splitPath(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}
