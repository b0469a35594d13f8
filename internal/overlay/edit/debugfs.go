package edit

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// debugfs lets debugfs write files into a copy, in the place of those that are there. Its
// standard error has a line for every command that did not succeed, and it ends with 0 in any
// case.
func (x *extPart) debugfs(ctx context.Context, f *os.File, results []*result) error {
	files := []*os.File{f}
	defer func() {
		for _, in := range files[1:] {
			wipe(in)
		}
	}()
	give := func(content []byte) (string, error) {
		in, err := nameless(x.e.dir(int64(len(content))))
		if err != nil {
			return "", err
		}
		files = append(files, in)
		_, err = in.Write(content)
		return fdName(len(files) - 1), err
	}
	var script strings.Builder
	for _, r := range results {
		if err := x.command(&script, r, give); err != nil {
			return err
		}
	}
	_, complaint, status, err := x.e.program(ctx, files, script.String(), "debugfs", "-w", "-f", "-", fdName(0))
	if err != nil {
		return err
	}
	if what := said(complaint); what != "" || status != 0 {
		if strings.Contains(what, "Could not allocate") || strings.Contains(what, "No free space") || strings.Contains(what, "o space left") {
			return refuse("%s has no room for what is to be written (debugfs: %s)", nameOf(x.p), what)
		}
		return fmt.Errorf("debugfs cannot change %s: %s", nameOf(x.p), what)
	}
	return nil
}

// command adds what debugfs is to do for one file. It is named within its directory, which is
// named by its inode, so that debugfs follows no path.
func (x *extPart) command(script *strings.Builder, r *result, give func([]byte) (string, error)) error {
	name := `"./` + r.Name + `"`
	from, err := give(r.now)
	if err != nil {
		return err
	}
	attributes, err := attributesOf(x, r)
	if err != nil {
		return err
	}
	fmt.Fprintf(script, "cd <%d>\n", r.Dir)
	if r.Ino != 0 {
		fmt.Fprintf(script, "rm %s\n", name)
	}
	fmt.Fprintf(script, "write %s %s\n", from, name)
	fmt.Fprintf(script, "sif %s mode 0%o\nsif %s uid %d\nsif %s gid %d\n", name, 0o100000|r.mode, name, r.uid, name, r.gid)
	// In a file system with inline_data it forgets zeros at the end.
	fmt.Fprintf(script, "sif %s size %d\n", name, len(r.now))
	for _, field := range []string{"mtime", "ctime", "atime"} {
		fmt.Fprintf(script, "sif %s %s @%d\n", name, field, x.e.now())
	}
	for _, attr := range attributes {
		from, err := give([]byte(r.Node.Xattrs[attr]))
		if err != nil {
			return err
		}
		fmt.Fprintf(script, "ea_set -f %s %s \"%s\"\n", from, name, attr)
	}
	return nil
}

// leaks tells whether debugfs will forget a block of a file that it takes out: the one that extended
// attributes have to themselves.
func (x *extPart) leaks(results []*result) (bool, error) {
	for _, r := range results {
		if r.Ino == 0 || r.Links > 1 {
			continue
		}
		if at, err := x.fs.AttributeBlock(r.Ino); err != nil {
			return false, refuse("%s in %s cannot be edited: %v", r.path, nameOf(x.p), err)
		} else if at != 0 {
			return true, nil
		}
	}
	return false, nil
}

// repair lets e2fsck put counts in order in a copy.
func (x *extPart) repair(ctx context.Context, f *os.File) error {
	// The exit status 1 is errors corrected, e2fsck(8).
	out, complaint, status, err := x.e.program(ctx, []*os.File{f}, "", "e2fsck", "-f", "-p", fdName(0))
	if err == nil && status > 1 {
		err = fmt.Errorf("what debugfs made of %s is not clean (%s)", nameOf(x.p), said(out+complaint))
	}
	return err
}

// attributesOf returns the names of the extended attributes of a file that is there.
func attributesOf(x *extPart, r *result) ([]string, error) {
	if r.Node == nil {
		return nil, nil
	}
	names := slices.Sorted(maps.Keys(r.Node.Xattrs))
	for _, attr := range names {
		if strings.ContainsFunc(attr, func(c rune) bool { return c <= ' ' || c == '"' || c >= 0x7f }) {
			return nil, refuse("%s in %s cannot be edited: it has an attribute with a name that is not plain (%q)", r.path, nameOf(x.p), attr)
		}
	}
	return names, nil
}

// wipe closes a file that may hold a key, without it.
func wipe(f *os.File) {
	if st, err := f.Stat(); err == nil {
		_, _ = f.WriteAt(make([]byte, st.Size()), 0)
	}
	_ = f.Close()
}
