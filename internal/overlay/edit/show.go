package edit

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"multidd/internal/identity"
	"multidd/internal/volume"
	"multidd/internal/volume/ext"
	"multidd/internal/volume/fat"
)

// Shown is what a disk says of who it is. All of it comes from the disk, may hold anything, and is
// made fit to be shown by who shows it.
type Shown struct {
	Hostname  string // "": it says nothing
	MachineID string
	Revision  string
	Files     []ShownFile // that templates are about, in their order
}

// A ShownFile is the content of one file; Err says why there is none.
type ShownFile struct {
	identity.Place
	Text string
	Err  error
}

// maxShown is how much of a file is shown, in bytes.
const maxShown = 64 << 10

// Files in which a system says who it is.
const (
	hostnameFile  = "/etc/hostname"
	machineIDFile = "/etc/machine-id"
	revisionFile  = "/etc/image-revision"
)

// Show reads back what a disk says of who it is, and the files of templates, if any are given. It
// changes nothing, and content of any kind is no error.
func Show(r io.ReaderAt, disk *volume.Disk, set *identity.Set) Shown {
	e := &Editor{base: r, disk: disk}
	var s Shown
	for _, p := range e.parts() {
		for name, to := range map[string]*string{hostnameFile: &s.Hostname, machineIDFile: &s.MachineID, revisionFile: &s.Revision} {
			if *to != "" || !isExt(p.FS) {
				continue
			}
			if b, err := readFile(r, p, name, maxShown); err == nil {
				*to = strings.TrimSpace(string(b))
			}
		}
	}
	if set == nil {
		return s
	}
	for _, place := range set.Places() {
		f := ShownFile{Place: place}
		p, err := e.find(place.Partition)
		var b []byte
		if err == nil || p.FS != nil { // one that cannot be changed can be read
			b, err = readFile(r, p, place.Path, maxShown)
		}
		f.Text, f.Err = string(b), err
		s.Files = append(s.Files, f)
	}
	return s
}

// readFile reads a file of a partition.
func readFile(r io.ReaderAt, p volume.Part, path string, limit int64) ([]byte, error) {
	in := io.NewSectionReader(r, p.Off, p.Len)
	switch {
	case isExt(p.FS):
		f, err := ext.Open(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", nameOf(p), err)
		}
		return f.ReadFile(path, limit)
	case isFAT(p.FS):
		f, err := fat.Open(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", nameOf(p), err)
		}
		return f.ReadFile(path, limit)
	}
	return nil, errors.New("there is no file system that can be read")
}
