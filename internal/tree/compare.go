package tree

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"strings"
	"time"
)

// A Change is a name under which two trees differ.
type Change struct {
	Path string
	// What differs: "missing" (only in the first tree), "extra" (only in the
	// second), or one or more of "kind", "content", "target", "device", "mode",
	// "owner", "time", "links" and "attributes".
	What []string
}

func (c Change) String() string { return c.Path + ": " + strings.Join(c.What, ", ") }

// CompareOptions say what may differ.
type CompareOptions struct {
	Owners bool // ignored
	Times  bool // ignored
	// Coarse is how far two times may lie apart: a second for ext2 and ext3 with
	// small inodes, two for FAT. 0: not at all.
	Coarse time.Duration
	// Permissions ignores modes, owners, links and attributes: FAT has none.
	Permissions bool
}

// Compare tells in what the second tree differs from the first, in the order of
// Walk. Content is compared byte by byte. What is below a directory that is
// missing or extra is left out. A size and times of directories are not compared:
// they are the file system's own affair.
func Compare(a, b *Tree, o CompareOptions) ([]Change, error) {
	c := &comparison{o: o, linked: map[*Node]*Node{}, back: map[*Node]*Node{}}
	err := c.nodes(".", a.root, b.root)
	return c.changes, err
}

type comparison struct {
	o       CompareOptions
	changes []Change
	// Which file of the second tree is which of the first, and back.
	linked, back map[*Node]*Node
}

func (c *comparison) add(p string, what ...string) {
	c.changes = append(c.changes, Change{p, what})
}

func (c *comparison) nodes(p string, a, b *Node) error {
	what, err := c.differences(p, a, b)
	if err != nil {
		return err
	}
	if len(what) > 0 {
		c.add(p, what...)
	}
	if !a.Mode.IsDir() || !b.Mode.IsDir() {
		return nil
	}
	both := maps.Clone(a.children)
	maps.Copy(both, b.children)
	for _, name := range sortedNames(both) {
		sub := join(p, name)
		x, y := a.children[name], b.children[name]
		switch {
		case x == nil:
			c.add(sub, "extra")
		case y == nil:
			c.add(sub, "missing")
		default:
			if err := c.nodes(sub, x, y); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *comparison) differences(p string, a, b *Node) (what []string, err error) {
	if a.Mode.Type() != b.Mode.Type() {
		return []string{"kind"}, nil
	}
	note := func(differs bool, word string) {
		if differs {
			what = append(what, word)
		}
	}
	switch a.Mode.Type() {
	case 0:
		same, err := sameContent(p, a, b)
		if err != nil {
			return nil, err
		}
		note(!same, "content")
	case fs.ModeSymlink:
		note(a.Target != b.Target, "target")
	default:
		note(a.Major != b.Major || a.Minor != b.Minor, "device")
	}
	if !a.Mode.IsDir() {
		d := a.ModTime.Sub(b.ModTime).Abs()
		note(!c.o.Times && d > c.o.Coarse, "time")
	}
	if c.o.Permissions {
		return what, nil
	}
	note(a.Mode != b.Mode && a.Mode.Type() != fs.ModeSymlink, "mode")
	note(!c.o.Owners && (a.UID != b.UID || a.GID != b.GID), "owner")
	note(!maps.Equal(a.Xattrs, b.Xattrs), "attributes")
	if !a.Mode.IsDir() {
		seenA, seenB := c.linked[a], c.back[b]
		note(seenA != nil && seenA != b || seenB != nil && seenB != a, "links")
		c.linked[a], c.back[b] = b, a
	}
	return what, nil
}

// sameContent compares two files.
func sameContent(p string, a, b *Node) (bool, error) {
	if a.Size != b.Size {
		return false, nil
	}
	x, err := a.Open()
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := b.Open()
	if err != nil {
		return false, err
	}
	defer y.Close()
	const piece = 64 << 10
	bufX, bufY := make([]byte, piece), make([]byte, piece)
	for left := a.Size; left > 0; {
		n := min(left, piece)
		if _, err := io.ReadFull(x, bufX[:n]); err != nil {
			return false, fmt.Errorf("compare %s: %w", p, err)
		}
		if _, err := io.ReadFull(y, bufY[:n]); err != nil {
			return false, fmt.Errorf("compare %s: %w", p, err)
		}
		if !bytes.Equal(bufX[:n], bufY[:n]) {
			return false, nil
		}
		left -= n
	}
	return true, nil
}

// A Pattern chooses names, as in rsync's filter rules: with a slash at its beginning
// it counts from the top of the tree, else it may begin at any name; "*" and "?" stop at
// slashes and "**" does not; a slash at its end means directories only.
type Pattern struct {
	text          string
	anchored, dir bool
	parts         []string
}

// ParsePattern reads a pattern.
func ParsePattern(text string) (Pattern, error) {
	p := Pattern{text: text, anchored: strings.HasPrefix(text, "/"), dir: strings.HasSuffix(text, "/")}
	body := strings.Trim(text, "/")
	if body == "" {
		return p, fmt.Errorf("the pattern %q chooses nothing", text)
	}
	p.parts = strings.Split(body, "/")
	for _, part := range p.parts {
		if part == "" || part == "." || part == ".." {
			return p, fmt.Errorf("the pattern %q has a part %q", text, part)
		}
		if _, err := path.Match(part, ""); err != nil {
			return p, fmt.Errorf("the pattern %q: %v", text, err)
		}
	}
	return p, nil
}

func (p Pattern) String() string { return p.text }

// Match tells whether the pattern chooses the node of that path.
func (p Pattern) Match(name string, n *Node) bool {
	if p.dir && !n.Mode.IsDir() || name == "." {
		return false
	}
	names := strings.Split(name, "/")
	if p.anchored {
		return match(p.parts, names)
	}
	for i := range names {
		if match(p.parts, names[i:]) {
			return true
		}
	}
	return false
}

// match compares parts of a pattern with names, all of both.
func match(parts, names []string) bool {
	if len(parts) == 0 {
		return len(names) == 0
	}
	if parts[0] == "**" {
		for i := range names {
			if match(parts[1:], names[i+1:]) {
				return true
			}
		}
		return false
	}
	if len(names) == 0 {
		return false
	}
	ok, _ := path.Match(parts[0], names[0]) // checked by ParsePattern
	return ok && match(parts[1:], names[1:])
}

// Exclude takes out what a pattern chooses, with all that is below it, and returns
// how many names it chose.
func (t *Tree) Exclude(p Pattern) int {
	var found []string
	_ = t.Walk(func(name string, n *Node) error {
		if p.Match(name, n) {
			found = append(found, name)
			return skip(n)
		}
		return nil
	})
	for _, name := range found {
		t.Remove(name)
	}
	return len(found)
}

// skip returns SkipDir for a directory.
func skip(n *Node) error {
	if n.Mode.IsDir() {
		return SkipDir
	}
	return nil
}
