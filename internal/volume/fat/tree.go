package fat

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"multidd/internal/tree"
)

// maxFiles is how many files a file system may have to be read.
const maxFiles = 2_000_000

// Read reads the whole file system as a tree. r begins with its first byte, and must
// stay as it is for as long as the tree's files are read. All belongs to root;
// what is marked read-only has no permission to be written.
func Read(r io.ReaderAt) (*tree.Tree, error) {
	f, err := Open(r)
	if err != nil {
		return nil, err
	}
	w := &treeReader{f: f, t: tree.New(), seen: map[uint32]bool{}}
	return w.t, w.dir("", 0, 0)
}

type treeReader struct {
	f     *FileSystem
	t     *tree.Tree
	seen  map[uint32]bool // first clusters of directories
	count int
}

func (w *treeReader) dir(p string, first uint32, depth int) error {
	d, err := w.f.openDir(first)
	if err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	if w.seen[d.first] || depth > maxDepth {
		return fmt.Errorf("/%s: %w", p, errors.New("directories lie inside themselves"))
	}
	w.seen[d.first] = true
	for _, x := range w.f.files(d) {
		if w.count++; w.count > maxFiles {
			return fmt.Errorf("there are more than %d files", maxFiles)
		}
		sub := strings.TrimPrefix(p+"/"+x.name, "/")
		n := &tree.Node{Mode: 0o644, ModTime: x.modified, Size: x.size}
		if x.attr&attrReadOnly != 0 {
			n.Mode = 0o444
		}
		if x.attr&attrDir != 0 {
			n.Mode, n.Size = fs.ModeDir|0o755, 0
		} else {
			n.Content = func() (io.ReadCloser, error) {
				r, err := w.f.open(x)
				return io.NopCloser(r), err
			}
		}
		if err := w.t.Put(sub, n); err != nil {
			return err
		}
		if n.Mode.IsDir() {
			if err := w.dir(sub, x.first, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// Fill puts a tree into an empty file system, as mkfs.vfat leaves it. FAT keeps names,
// content and the time to two seconds, and nothing else: owners, permissions and
// attributes are lost, each name of a file gets content of its own. What is
// neither a file nor a directory is an error, and so are two names that differ in
// small and capital letters only.
func Fill(d Device, t *tree.Tree) error {
	f, err := Edit(d)
	if err != nil {
		return err
	}
	root, err := f.openDir(0)
	if err != nil {
		return err
	}
	if len(f.files(root)) > 0 {
		return errors.New("it is not empty")
	}
	err = t.Walk(func(p string, n *tree.Node) error {
		switch {
		case p == ".":
			return nil
		case !n.Mode.IsDir() && !n.Mode.IsRegular():
			return fmt.Errorf("/%s is a %s, which FAT cannot keep", p, n.Kind())
		}
		dir, name, err := f.lookup(p)
		if err != nil {
			return err
		}
		if x, ok := f.find(dir, name); ok {
			return fmt.Errorf("/%s cannot be on FAT beside %s: they differ in small and capital letters only", p, x.name)
		}
		if n.Mode.IsDir() {
			return f.Mkdir(p, n.ModTime)
		}
		r, err := n.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		return f.WriteFile(p, r, n.Size, n.ModTime)
	})
	if err != nil {
		return err
	}
	return f.Flush()
}
