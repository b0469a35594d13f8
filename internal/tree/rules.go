package tree

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Change gives the node of that path other attributes, for all of its names: fn
// gets a copy to change, which must stay of its kind.
func (t *Tree) Change(p string, fn func(*Node)) error {
	old := t.Lookup(p)
	if old == nil {
		return fmt.Errorf("%s: %w", p, fs.ErrNotExist)
	}
	t.replace(map[*Node]*Node{old: changed(old, fn)})
	return nil
}

// ChangeAll does the same to all that a pattern chooses, and returns how many
// files that were.
func (t *Tree) ChangeAll(pattern Pattern, fn func(*Node)) int {
	return t.changeIf(func(p string, n *Node) bool { return pattern.Match(p, n) }, fn)
}

func (t *Tree) changeIf(choose func(string, *Node) bool, fn func(*Node)) int {
	with := map[*Node]*Node{}
	_ = t.Walk(func(p string, n *Node) error {
		if with[n] == nil && choose(p, n) {
			with[n] = changed(n, fn)
		}
		return nil
	})
	t.replace(with)
	return len(with)
}

func changed(n *Node, fn func(*Node)) *Node {
	c := *n
	c.Xattrs = maps.Clone(n.Xattrs)
	fn(&c)
	c.children = n.children
	c.Mode = c.Mode&^fs.ModeType | n.Mode.Type()
	return &c
}

// replace puts other nodes in the place of some, under all of their names. Nodes may
// be shared with other trees, so they are never changed themselves.
func (t *Tree) replace(with map[*Node]*Node) {
	if len(with) == 0 {
		return
	}
	var swap func(n *Node) *Node
	swap = func(n *Node) *Node {
		if r := with[n]; r != nil {
			n = r
		}
		for name, child := range n.children {
			if r := swap(child); r != child {
				n.children[name] = r
			}
		}
		return n
	}
	t.root = swap(t.root)
}

// maxTableNames is how many names a line of a device table may make.
const maxTableNames = 100_000

// ApplyTable gives owners, permissions and devices as a device table says: the
// format of genext2fs, mkfs.jffs2 and Buildroot's makedevs. A line is
//
//	name type mode uid gid [major minor [start inc count]]
//
// with the type f (file), d (directory), r (directory with all that is in it),
// l (symbolic link, only its owner counts), c, b (devices), p (pipe); "-" stands for
// what is not given, and "#" begins a comment. Directories, devices and pipes
// that are missing are made, a file that is missing is an error. modTime is the
// time of what is made. The error names the line.
func (t *Tree) ApplyTable(r io.Reader, modTime time.Time) error {
	lines := bufio.NewScanner(r)
	for line := 1; lines.Scan(); line++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if err := t.applyLine(fields, modTime); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
	return lines.Err()
}

// numbers are those of a line of a device table.
type numbers struct {
	mode                           fs.FileMode
	uid, gid                       int
	major, minor, start, inc, more uint32
}

func parseNumbers(fields []string) (v numbers, err error) {
	values := [8]uint64{}
	for i, f := range fields {
		if f == "-" {
			continue
		}
		base := 10
		if i == 0 {
			base = 8
		}
		if values[i], err = strconv.ParseUint(f, base, 32); err != nil {
			return v, fmt.Errorf("%q is not a number in base %d", f, base)
		}
	}
	if values[0] > 0o7777 {
		return v, fmt.Errorf("there is no mode %s", fields[0])
	}
	return numbers{
		mode: fileMode(uint32(values[0])) &^ fs.ModeIrregular, uid: int(values[1]), gid: int(values[2]), major: uint32(values[3]), minor: uint32(values[4]),
		start: uint32(values[5]), inc: uint32(values[6]), more: uint32(values[7]),
	}, nil
}

func (t *Tree) applyLine(fields []string, modTime time.Time) error {
	if len(fields) < 5 || len(fields) > 10 {
		return fmt.Errorf("it has %d fields, and should have 5 to 10: name type mode uid gid major minor start inc count", len(fields))
	}
	name, kind := strings.Trim(fields[0], "/"), fields[1]
	v, err := parseNumbers(fields[2:])
	if err != nil {
		return err
	}
	own := func(n *Node) {
		n.UID, n.GID = v.uid, v.gid
		if fields[2] != "-" && n.Mode.Type() != fs.ModeSymlink {
			n.Mode = n.Mode.Type() | v.mode
		}
	}
	node := &Node{Mode: v.mode, UID: v.uid, GID: v.gid, ModTime: modTime, Major: v.major, Minor: v.minor}
	switch kind {
	case "f", "l":
		if n := t.Lookup(name); n == nil || n.Mode.IsDir() {
			return fmt.Errorf("there is no file /%s in the tree", name)
		}
		return t.Change(name, own)
	case "d":
		if n := t.Lookup(name); n != nil && n.Mode.IsDir() {
			return t.Change(name, own)
		}
		node.Mode |= fs.ModeDir
		return t.Put(name, node)
	case "r":
		if t.Lookup(name) == nil {
			return fmt.Errorf("there is no directory /%s in the tree", name)
		}
		t.changeIf(func(p string, _ *Node) bool { return name == "" || p == name || strings.HasPrefix(p, name+"/") }, own)
		return nil
	case "c":
		node.Mode |= fs.ModeDevice | fs.ModeCharDevice
	case "b":
		node.Mode |= fs.ModeDevice
	case "p":
		node.Mode |= fs.ModeNamedPipe
	default:
		return fmt.Errorf("there is no type %q, only f, d, r, l, c, b and p", kind)
	}
	if v.more == 0 {
		return t.Put(name, node)
	}
	if v.more > maxTableNames {
		return fmt.Errorf("it makes %d names, and %d is the most", v.more, maxTableNames)
	}
	for i := range v.more {
		n := *node
		n.Minor += i * v.inc
		if err := t.Put(fmt.Sprintf("%s%d", name, v.start+i), &n); err != nil {
			return err
		}
	}
	return nil
}

// Digest returns the SHA-256, in hexadecimal, of all that the tree holds: names,
// attributes and content. Which files share their content by hard links counts,
// holes do not.
func (t *Tree) Digest() (string, error) {
	h := sha256.New()
	number := map[*Node]int{}
	err := t.Walk(func(p string, n *Node) error {
		fmt.Fprintf(h, "%q %o %d %d %d %d %q %d %d\n", p, n.UnixMode(), n.UID, n.GID, n.ModTime.UnixNano(), n.Size, n.Target, n.Major, n.Minor)
		if first, ok := number[n]; ok {
			fmt.Fprintf(h, "same %d\n", first)
			return nil
		}
		number[n] = len(number)
		for _, k := range slices.Sorted(maps.Keys(n.Xattrs)) {
			fmt.Fprintf(h, "%q %q\n", k, n.Xattrs[k])
		}
		if !n.Mode.IsRegular() {
			return nil
		}
		return n.copyTo(h, p)
	})
	if err != nil {
		return "", fmt.Errorf("work out the digest of the tree: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ReadFile returns the content of a file of at most limit bytes. Symbolic links are
// followed inside the tree.
func (t *Tree) ReadFile(p string, limit int64) ([]byte, error) {
	at, n, err := t.Resolve(p)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, fmt.Errorf("%s: %w", p, fs.ErrNotExist)
	case !n.Mode.IsRegular():
		return nil, fmt.Errorf("%s is a %s", at, n.Kind())
	case n.Size > limit:
		return nil, fmt.Errorf("%s has %d bytes, and %d is the most", at, n.Size, limit)
	}
	var b bytes.Buffer
	err = n.copyTo(&b, at)
	return b.Bytes(), err
}
