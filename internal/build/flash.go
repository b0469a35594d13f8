package build

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"multidd/internal/tree"
)

// directory writes the tree into a directory for tools that want one, with a device table
// of what this user cannot make there: devices and, without root, owners. The tools are
// given what directory returns as args.
func (j *job) directory() (args []string, err error) {
	dir, table := filepath.Join(j.dir, "root"), filepath.Join(j.dir, "devices")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	f := flashTree{root: os.Geteuid() == 0, plain: tree.New(), as: map[*tree.Node]*tree.Node{}}
	if err := j.tree.Walk(f.add); err != nil {
		return nil, err
	}
	if _, err := f.plain.WriteDir(dir); err != nil {
		return nil, err
	}
	if f.xattrs {
		if err := f.checkXattrs(dir); err != nil {
			return nil, err
		}
	}
	args = []string{"-r", dir}
	if !f.root {
		args = append(args, "-U") // what is not in the table belongs to root
	}
	if f.table.Len() == 0 {
		return args, nil
	}
	return append(args, "-D", table), os.WriteFile(table, []byte(f.table.String()), 0o600)
}

// A flashTree is a tree as it can be written into a directory, and the rest of it as a
// device table.
type flashTree struct {
	root   bool // whether this is root
	plain  *tree.Tree
	table  strings.Builder
	as     map[*tree.Node]*tree.Node
	xattrs bool
}

func (f *flashTree) add(p string, n *tree.Node) error {
	letter := map[string]string{"file": "f", "directory": "d", "character device": "c", "block device": "b", "pipe": "p"}[n.Kind()]
	isDevice := letter == "c" || letter == "b" || letter == "p"
	f.xattrs = f.xattrs || len(n.Xattrs) > 0
	switch {
	case n.Kind() == "socket":
		return fmt.Errorf("/%s is a socket, which the tools for flash file systems do not keep", p)
	case isDevice && len(n.Xattrs) > 0:
		return fmt.Errorf("/%s is a %s with extended attributes, which the tools for flash file systems do not keep", p, n.Kind())
	case f.root && !isDevice:
		if n.Mode.IsDir() {
			n = n.Bare()
		}
		return f.plain.Put(p, n)
	case letter == "" || p == ".":
		if n.UID != 0 || n.GID != 0 {
			return fmt.Errorf("/%s is a %s of %d:%d, and without root the tools for flash file systems give it to 0:0: build as root, or give it to 0:0", strings.TrimPrefix(p, "."), n.Kind(), n.UID, n.GID)
		}
		return f.put(p, n)
	case strings.ContainsAny(p, " \t\r\n\v\f#\\"):
		return fmt.Errorf("/%q: a name with spaces, # or \\ cannot stand in the device table that is needed for it: build as root, or give it another name", p)
	}
	fmt.Fprintf(&f.table, "/%s %s %o %d %d %d %d - - -\n", p, letter, n.UnixMode()&0o7777, n.UID, n.GID, n.Major, n.Minor)
	if isDevice {
		return nil
	}
	return f.put(p, n)
}

// put adds a file such that this user can read it back. A file with several names stays
// one.
func (f *flashTree) put(p string, n *tree.Node) error {
	if f.as[n] == nil {
		c := n.Bare()
		if n.Mode.IsDir() {
			c.Mode |= 0o700
		} else {
			c.Mode |= 0o400
		}
		f.as[n] = c
	}
	return f.plain.Put(p, f.as[n])
}

// checkXattrs makes sure that the directory has kept all attributes.
func (f *flashTree) checkXattrs(dir string) error {
	made, err := tree.FromDir(dir)
	if err != nil {
		return err
	}
	return f.plain.Walk(func(p string, n *tree.Node) error {
		got := made.Lookup(p)
		if got != nil && maps.Equal(n.Xattrs, got.Xattrs) {
			return nil
		}
		return fmt.Errorf("the extended attributes of /%s cannot be set in the scratch directory: build as root, and choose another scratch directory", p)
	})
}

func makeJFFS2(ctx context.Context, j *job) error {
	args, err := j.directory()
	if err != nil {
		return err
	}
	x := j.p.JFFS2
	block := fmt.Sprint(cmp.Or(int64(x.EraseBlock), 128<<10))
	common := []string{"-o", j.file, "-e", block, "-l"}
	if x.BigEndian {
		common[4] = "-b"
	}
	if x.CleanMarkers != nil && !*x.CleanMarkers {
		common = append(common, "-n")
	}
	args = append(append(args, common...), "--with-xattr")
	if x.Page > 0 {
		args = append(args, "-s", fmt.Sprint(int64(x.Page)))
	}
	if x.Compression != "" {
		args = append(args, "-m", x.Compression)
	}
	if x.PadTo > 0 {
		args = append(args, "--pad="+fmt.Sprint(int64(x.PadTo)))
	} else if x.Pad {
		args = append(args, "--pad")
	}
	if _, err := j.tool.run(ctx, "mkfs.jffs2", args); err != nil {
		return err
	}
	if err := settleJFFS2(j.file, x.BigEndian, j.tree); err != nil {
		return err
	}
	if x.Summary {
		plain := j.file + ".plain"
		if err := os.Rename(j.file, plain); err != nil {
			return err
		}
		args := append([]string{"-i", plain}, common...)
		if x.Pad || x.PadTo > 0 {
			args = append(args, "-p")
		}
		if _, err := j.tool.run(ctx, "sumtool", args); err != nil {
			return err
		}
	}
	if x.PadTo > 0 { // which sumtool does not know
		if err := padFlash(j.file, int64(x.PadTo), "pad-to is"); err != nil {
			return err
		}
	}
	return j.checkFlash()
}

// checkFlash is as checkSize, for memory that is ones where nothing is written.
func (j *job) checkFlash() error {
	if Size(j.size) == Fit {
		return nil
	}
	return padFlash(j.file, j.size, "the partition has")
}

// padFlash fills a file up to a size; what says whose size that is.
func padFlash(name string, size int64, what string) error {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	if st.Size() > size {
		return fmt.Errorf("what was made has %d bytes, and %s %d: make it larger or leave something out", st.Size(), what, size)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	ones := strings.Repeat("\xff", 64<<10)
	for left := size - st.Size(); left > 0 && err == nil; left -= int64(len(ones)) {
		_, err = f.WriteString(ones[:min(left, int64(len(ones)))])
	}
	return cmp.Or(err, f.Close())
}

func makeUBI(ctx context.Context, j *job) error {
	args, err := j.directory()
	if err != nil {
		return err
	}
	x := j.p.UBI
	page, block := cmp.Or(int64(x.MinIO), 2048), cmp.Or(int64(x.EraseBlock), 128<<10)
	sub := cmp.Or(int64(x.SubPage), page)
	// Two headers, each in a sub-page, go before the data, which begins with a page.
	logical := block - (2*max(sub, 64)+page-1)/page*page
	ubifs := j.file
	if !x.Only {
		ubifs = filepath.Join(j.dir, "ubifs")
	}
	args = append(args, "-o", ubifs, "-m", fmt.Sprint(page), "-e", fmt.Sprint(logical), "-c", fmt.Sprint(cmp.Or(x.MaxBlocks, 2047)))
	if x.Compression != "" {
		args = append(args, "-x", x.Compression)
	}
	if _, err := j.tool.run(ctx, "mkfs.ubifs", args); err != nil {
		return err
	}
	if err := settleUBIFS(ubifs, j.uuid); err != nil {
		return err
	}
	if x.Only {
		return j.checkFlash()
	}
	config := filepath.Join(j.dir, "ubi.ini")
	text := fmt.Sprintf("[v]\nmode=ubi\nimage=%s\nvol_id=0\nvol_type=dynamic\nvol_name=%s\nvol_flags=autoresize\n", ubifs, cmp.Or(x.Volume, "rootfs"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	number, err := strconv.ParseUint(j.uuid[:8], 16, 32)
	if err != nil {
		return err
	}
	args = []string{"-o", j.file, "-p", fmt.Sprint(block), "-m", fmt.Sprint(page), "-s", fmt.Sprint(sub), "-Q", fmt.Sprint(number), config}
	if _, err := j.tool.run(ctx, "ubinize", args); err != nil {
		return err
	}
	return j.checkFlash()
}
