package build

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"multidd/internal/block"
	"multidd/internal/tree"
	"multidd/internal/volume"
	"multidd/internal/volume/ext"
	"multidd/internal/volume/fat"
	"multidd/internal/volume/jffs2"
)

// Files are the files of a partition, with where they were found.
type Files struct {
	Tree *tree.Tree
	Part volume.Part // number 0: the disk is one file system
}

// ReadFiles reads the files of a partition of a disk of size bytes as a tree, which reads
// from r when its files are opened. which is the partition's number, its file system's
// label or its name in a GPT; "": the only one with files. The file systems are ext2, ext3,
// ext4, FAT and JFFS2; one that was not cleanly unmounted is an error.
func ReadFiles(r io.ReaderAt, size int64, which string) (Files, error) {
	disk, err := volume.Look(r, size)
	if err != nil {
		return Files{}, err
	}
	parts := disk.Parts
	if disk.Table == "" {
		parts = []volume.Part{{Extent: block.Extent{Len: size}, FS: disk.FS}}
	}
	var found, all []volume.Part
	for _, p := range parts {
		if p.FS, err = recognise(r, p); err != nil {
			return Files{}, err
		}
		if hasFiles(p.FS) {
			all = append(all, p)
		}
		if which == "" && hasFiles(p.FS) || which != "" && isCalled(p, which) {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 1:
		t, err := readPart(r, found[0])
		return Files{Tree: t, Part: found[0]}, err
	case len(all) == 0 && which == "" && disk.Table == "":
		_, err := readPart(r, parts[0])
		return Files{}, err
	case len(all) == 0:
		return Files{}, errors.New("there is no partition with files that can be read here: ext2, ext3, ext4, FAT or JFFS2")
	case which == "" || len(found) > 1:
		return Files{}, fmt.Errorf("there are several partitions with files: %s; say which by its number", list(all))
	}
	return Files{}, fmt.Errorf("there is no partition %s; those with files are %s", which, list(all))
}

// recognise returns the file system of a partition; that of flash is not known to package
// volume in all its forms.
func recognise(r io.ReaderAt, p volume.Part) (*volume.FileSystem, error) {
	if hasFiles(p.FS) {
		return p.FS, nil
	}
	head := make([]byte, min(p.Len, 64<<10))
	if _, err := r.ReadAt(head, p.Off); err != nil && err != io.EOF {
		return nil, err
	}
	if jffs2.Recognise(head) {
		return &volume.FileSystem{Kind: "jffs2", Size: p.Len, Used: p.Len}, nil
	}
	return p.FS, nil
}

func hasFiles(f *volume.FileSystem) bool {
	return f != nil && (strings.HasPrefix(f.Kind, "ext") || strings.HasPrefix(f.Kind, "fat") || f.Kind == "jffs2")
}

func isCalled(p volume.Part, which string) bool {
	return strconv.Itoa(p.Number) == which || p.Name == which || p.FS != nil && p.FS.Label == which
}

// list names partitions: `1 (fat16 "BOOT"), 2 (ext4)`.
func list(parts []volume.Part) string {
	var names []string
	for _, p := range parts {
		name := fmt.Sprintf("%d (%s)", p.Number, p.FS.Kind)
		if p.FS.Label != "" {
			name = fmt.Sprintf("%d (%s %q)", p.Number, p.FS.Kind, p.FS.Label)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func readPart(r io.ReaderAt, p volume.Part) (*tree.Tree, error) {
	f := p.FS
	if f == nil {
		return nil, errors.New("no file system is recognised there")
	}
	if f.State == volume.Dirty {
		return nil, fmt.Errorf("its file system (%s) is not to be read: %s", f.Kind, f.Why)
	}
	part := io.NewSectionReader(r, p.Off, p.Len)
	switch {
	case f.Kind == "ext2" || f.Kind == "ext3" || f.Kind == "ext4":
		return ext.Read(part)
	case strings.HasPrefix(f.Kind, "fat"):
		return fat.Read(part)
	case f.Kind == "jffs2":
		return jffs2.Read(part, p.Len)
	}
	return nil, fmt.Errorf("files of a file system of kind %s are not read here", f.Kind)
}
