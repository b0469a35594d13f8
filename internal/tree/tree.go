// Package tree is a tree of files as `rsync -a` would keep it, with hard links,
// extended attributes and holes besides: what a file system is made from, what
// is taken out of one, and what two of them are compared by.
//
// A tree comes from a directory, a tar or a file system inside an image; several
// can be laid over one another. It holds names and attributes in memory, and only
// knows where the content of files can be had.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// A Node is a file of any kind with all of its attributes, but not its name: a
// file with several names (hard links) is one Node.
type Node struct {
	Mode     fs.FileMode // kind and permissions, with setuid, setgid and sticky
	UID, GID int
	ModTime  time.Time
	Xattrs   map[string]string // by full name: "user.comment"

	Size         int64  // of a file, in bytes
	Target       string // of a symbolic link, as it is written in it
	Major, Minor uint32 // of a device
	// Holes says that the file has some: where a whole block of it is zero, none
	// need be allocated.
	Holes bool
	// Content opens what is in a file: Size bytes. nil: Size zeros.
	Content func() (io.ReadCloser, error)

	children map[string]*Node // of a directory
}

// Kind returns what the node is, in a word.
func (n *Node) Kind() string {
	switch t := n.Mode.Type(); {
	case t == 0:
		return "file"
	case t == fs.ModeDir:
		return "directory"
	case t == fs.ModeSymlink:
		return "symbolic link"
	case t&fs.ModeCharDevice != 0:
		return "character device"
	case t&fs.ModeDevice != 0:
		return "block device"
	case t == fs.ModeNamedPipe:
		return "pipe"
	case t == fs.ModeSocket:
		return "socket"
	}
	return "unknown"
}

// Permissions are the bits of a mode that are no kind.
const Permissions = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// Bare returns the node without what is in it, if it is a directory.
func (n *Node) Bare() *Node {
	c := *n
	c.children = nil
	return &c
}

// Open opens the content of a file.
func (n *Node) Open() (io.ReadCloser, error) {
	if n.Content == nil {
		return io.NopCloser(io.LimitReader(zeros{}, n.Size)), nil
	}
	return n.Content()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// File returns a node for a file with that content, which belongs to root.
func File(content []byte, perm fs.FileMode, modTime time.Time) *Node {
	return &Node{Mode: perm, ModTime: modTime, Size: int64(len(content)), Content: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

// A Tree is a directory and all that is below it. Paths in it are relative to that
// directory, with slashes: "etc/hostname"; "." is the directory itself. A
// leading slash makes no difference. Names are bytes: they need not be UTF-8.
//
// A Tree is not safe for use by several goroutines while it is being changed.
type Tree struct {
	root *Node
}

// New returns a tree with nothing in it but its own directory, which belongs to
// root, is open to all for reading, and has the time 1970-01-01.
func New() *Tree { return &Tree{root: newDir(time.Unix(0, 0))} }

func newDir(modTime time.Time) *Node {
	return &Node{Mode: fs.ModeDir | 0o755, ModTime: modTime, children: map[string]*Node{}}
}

// Root returns the node of the tree's own directory.
func (t *Tree) Root() *Node { return t.root }

// ErrPath is the error of a path that cannot be one inside a tree: it leads out of
// it, or a part of it is too long.
var ErrPath = errors.New("no path inside a tree")

const (
	maxName = 255 // bytes in a name, on every file system that is made here
	maxPath = 4095
)

// split returns the names a path is made of.
func split(p string) ([]string, error) {
	p = strings.TrimPrefix(p, "/")
	if p == "" || p == "." {
		return nil, nil
	}
	if len(p) > maxPath {
		return nil, fmt.Errorf("%w: it has %d bytes, and %d is the most", ErrPath, len(p), maxPath)
	}
	names := strings.Split(p, "/")
	for _, name := range names {
		switch {
		case name == "" || name == "." || name == ".." || strings.ContainsRune(name, 0):
			return nil, fmt.Errorf("%w: %q", ErrPath, p)
		case len(name) > maxName:
			return nil, fmt.Errorf("%w: the name %.20q… has %d bytes, and %d is the most", ErrPath, name, len(name), maxName)
		}
	}
	return names, nil
}

// Lookup returns the node with that path, or nil. Symbolic links are not followed.
func (t *Tree) Lookup(p string) *Node {
	names, err := split(p)
	if err != nil {
		return nil
	}
	n := t.root
	for _, name := range names {
		if n = n.children[name]; n == nil {
			return nil
		}
	}
	return n
}

// maxLinks is how many symbolic links are followed on the way to one file, as in
// Linux.
const maxLinks = 40

// Resolve follows all symbolic links of a path, as a process would for which the
// tree is the root directory: an absolute link and ".." never lead out of it. It
// returns the path of what is there; the last part of it need not exist: then
// the node is nil. Anything else that is missing is fs.ErrNotExist.
func (t *Tree) Resolve(p string) (string, *Node, error) {
	links := 0
	var at []string // the directories gone through, resolved
	todo := strings.Split(p, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(0, len(at)-1)]
			continue
		}
		dir := t.Lookup(strings.Join(at, "/"))
		if !dir.Mode.IsDir() {
			return "", nil, fmt.Errorf("%s: /%s is a %s, not a directory", p, strings.Join(at, "/"), dir.Kind())
		}
		n := dir.children[name]
		switch {
		case n == nil && len(todo) > 0:
			return "", nil, fmt.Errorf("%s: there is no directory /%s: %w", p, path.Join(append(at, name)...), fs.ErrNotExist)
		case n == nil:
			full := strings.Join(append(at, name), "/")
			if _, err := split(full); err != nil {
				return "", nil, err
			}
			return full, nil, nil
		case n.Mode.Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return "", nil, fmt.Errorf("%s: more than %d symbolic links", p, maxLinks)
			}
			if strings.HasPrefix(n.Target, "/") {
				at = nil
			}
			todo = append(strings.Split(n.Target, "/"), todo...)
		default:
			at = append(at[:len(at):len(at)], name)
		}
	}
	full := strings.Join(at, "/")
	if full == "" {
		full = "."
	}
	return full, t.Lookup(full), nil
}

// Put gives a node a name, in the place of what had it before. A directory that
// is put where there is one only brings its attributes. Directories that are
// missing on the way are made, as New makes them, with the node's time; what is
// on the way and is no directory is an error.
func (t *Tree) Put(p string, n *Node) error {
	names, err := split(p)
	if err != nil {
		return err
	}
	if n.Mode.IsDir() && n.children == nil {
		n.children = map[string]*Node{}
	}
	if len(names) == 0 {
		if !n.Mode.IsDir() {
			return fmt.Errorf("%w: the tree's own directory cannot be a %s", ErrPath, n.Kind())
		}
		t.root = withChildren(n, t.root.children)
		return nil
	}
	dir := t.root
	for i, name := range names[:len(names)-1] {
		next := dir.children[name]
		if next == nil {
			next = newDir(n.ModTime)
			dir.children[name] = next
		}
		if !next.Mode.IsDir() {
			return fmt.Errorf("put %s: /%s is a %s, not a directory", p, strings.Join(names[:i+1], "/"), next.Kind())
		}
		dir = next
	}
	last := names[len(names)-1]
	if old := dir.children[last]; old != nil && old.Mode.IsDir() && n.Mode.IsDir() {
		n = withChildren(n, old.children)
	}
	dir.children[last] = n
	return nil
}

// withChildren returns the directory n with further children, which win.
func withChildren(n *Node, children map[string]*Node) *Node {
	c := *n
	c.children = maps.Clone(n.children)
	maps.Copy(c.children, children)
	return &c
}

// Remove takes a name out, with all that is below it. It returns false if there
// is none of that name.
func (t *Tree) Remove(p string) bool {
	names, err := split(p)
	if err != nil || len(names) == 0 {
		return false
	}
	dir := t.Lookup(strings.Join(names[:len(names)-1], "/"))
	last := names[len(names)-1]
	if dir == nil || dir.children[last] == nil {
		return false
	}
	delete(dir.children, last)
	return true
}

// SkipDir as the error of Walk's function leaves out what is below a directory.
var SkipDir = fs.SkipDir

// Walk calls fn for every name in the tree, a directory before what is in it, and
// within a directory in the order of the bytes of the names. The first is ".".
func (t *Tree) Walk(fn func(p string, n *Node) error) error {
	err := walk(".", t.root, fn)
	if err == SkipDir {
		return nil
	}
	return err
}

func walk(p string, n *Node, fn func(string, *Node) error) error {
	if err := fn(p, n); err != nil || n.children == nil {
		return err
	}
	for _, name := range sortedNames(n.children) {
		if err := walk(join(p, name), n.children[name], fn); err != nil && err != SkipDir {
			return err
		}
	}
	return nil
}

func sortedNames(children map[string]*Node) []string { return slices.Sorted(maps.Keys(children)) }

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// Lay lays another tree over this one, which wins where both have a name. A
// directory adds to the one below it and brings its own attributes; a directory
// over a symbolic link that leads to a directory adds to that one, so that a
// lower /lib -> usr/lib stays what it is. Everything else replaces what was there.
// The upper tree is not changed, and shares its files with this one.
func (t *Tree) Lay(upper *Tree) error {
	return upper.Walk(func(p string, n *Node) error {
		dir, base := path.Split(p)
		at, parent, err := t.Resolve(dir)
		if err != nil || parent == nil || !parent.Mode.IsDir() {
			// What is in the way of a directory of the upper tree has been replaced by it.
			return fmt.Errorf("lay %s over the tree below: %v", p, err)
		}
		if base == "." {
			at = "."
		} else {
			at = join(at, base)
		}
		if !n.Mode.IsDir() {
			t.Remove(at) // a directory with all that is in it
			return t.Put(at, n)
		}
		if old := t.Lookup(at); old != nil && old.Mode.Type() == fs.ModeSymlink {
			if _, to, err := t.Resolve(at); err == nil && to != nil && to.Mode.IsDir() {
				return nil
			}
		}
		c := *n
		c.children = map[string]*Node{}
		return t.Put(at, &c)
	})
}

// Totals are what a tree amounts to.
type Totals struct {
	Names, Files int   // a file with two names is one file
	Bytes        int64 // in files
}

// Totals counts.
func (t *Tree) Totals() Totals {
	var s Totals
	seen := map[*Node]bool{}
	_ = t.Walk(func(_ string, n *Node) error {
		s.Names++
		if n.Mode.IsRegular() && !seen[n] {
			seen[n] = true
			s.Files++
			s.Bytes += n.Size
		}
		return nil
	})
	return s
}
