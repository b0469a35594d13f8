package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"multidd/internal/codec"
)

// CreateOptions say how an image is to be made. The zero value goes by the name.
type CreateOptions struct {
	// Format is how to pack; "": what FormatFor says of the name.
	Format codec.Format
	// Pack says what may be spent on packing.
	Pack codec.WriteOptions
	// Digest asks for the SHA-256 of the unpacked image, too. It goes over every
	// byte of the disk, zeros included. A raw image always has it.
	Digest bool
	// NoMap leaves out the map: of what is not written to cards.
	NoMap bool
	// Force allows an image of that name, its map and its digests to be replaced.
	Force bool
	// Stdout is what the name "-" stands for; nil: standard output.
	Stdout io.Writer
}

// FormatFor returns how an image of that name is to be packed: as its ending
// says, not at all if it is .img, .raw, .bin, .dd or .iso, and else as seekable
// zst.
func FormatFor(name string) codec.Format {
	switch f := codec.ByName(name); {
	case f != codec.Raw:
		return f
	case name == "-":
		return codec.Zstd
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".img", ".raw", ".bin", ".dd", ".iso":
		return codec.Raw
	}
	return codec.Zstd
}

// Create begins to make an image, and with it its map (x.img.zst: x.img.bmap) and
// its digests (x.img.zst.sha256, and x.img.sha256 if the unpacked image's is
// asked for). All of them have temporary names beside their own until Close.
// For the name "-" only the image is written, and in order.
//
// Where an image of that name is already, or anything that would be taken for
// its map or its digests, the error satisfies errors.Is(err, fs.ErrExist).
func Create(path string, o CreateOptions) (*Writer, error) {
	if o.Format == "" {
		o.Format = FormatFor(path)
	}
	w := &Writer{path: path, o: o, sum: o.Digest}
	if path == "-" {
		w.to = o.Stdout
		if w.to == nil {
			w.to = os.Stdout
		}
	} else if err := w.createFile(); err != nil {
		return nil, err
	}
	if err := w.begin(); err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

// createFile makes the temporary file.
func (w *Writer) createFile() error {
	w.names = namesFor(w.path)
	if err := w.names.allow(w.o.Force); err != nil {
		return err
	}
	sweep(w.path)
	var err error
	if w.file, err = newTemp(w.path); err != nil {
		return w.explain(err)
	}
	w.sum = w.sum || w.o.Format == codec.Raw
	w.to = w.file
	return nil
}

// names are what an image is called, and what lies beside it.
type names struct {
	image string
	plain string // the image, unpacked
	bmap  string
	file  string // digest of the image's file
	whole string // digest of what it unpacks to; "": file is that
}

func namesFor(path string) names {
	n := names{image: path, plain: unpackedName(path), file: path + ".sha256"}
	n.bmap = n.plain + ".bmap"
	if n.plain != path {
		n.whole = n.plain + ".sha256"
	}
	return n
}

// beside returns all that Open takes for something about the image.
func (n names) beside() []string {
	all := []string{n.image + ".bmap", n.file}
	if n.plain != n.image {
		all = append(all, n.bmap, n.whole)
	}
	return all
}

// A createError is a sentence with a cause that is not said twice.
type createError struct {
	text  string
	cause error
}

func (e *createError) Error() string { return e.text }
func (e *createError) Unwrap() error { return e.cause }

// allow looks whether the image may be made under these names.
func (n names) allow(force bool) error {
	dir, err := filepath.Abs(filepath.Dir(n.image))
	if err != nil {
		return fmt.Errorf("make %s: %w", n.image, err)
	}
	if in := dir + "/"; strings.HasPrefix(in, "/dev/") && !strings.HasPrefix(in, "/dev/shm/") {
		return fmt.Errorf("%s is no place for an image: files in /dev stand for devices", n.image)
	}
	fi, err := os.Lstat(n.image)
	switch {
	case err == nil && fi.IsDir():
		return fmt.Errorf("%s is a directory; give the image a name in it", n.image)
	case err == nil && fi.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0:
		return fmt.Errorf("%s is not a plain file; to write into a pipe or a device, give - and redirect the output there", n.image)
	}
	// They would share the map and the digests, which are true of one only.
	siblings := []string{n.plain}
	for _, f := range []codec.Format{codec.Bzip2, codec.Gzip, codec.XZ, codec.Zstd, codec.LZ4, codec.Zip} {
		siblings = append(siblings, n.plain+"."+string(f))
	}
	for _, name := range siblings {
		if name != n.image && exists(name) {
			return &createError{fmt.Sprintf("%s is there already, and what lies beside %s would be taken for its own: choose another name, or move it away", name, n.image), fs.ErrExist}
		}
	}
	if force {
		return nil
	}
	for _, name := range append([]string{n.image}, n.beside()...) {
		if exists(name) {
			return &createError{fmt.Sprintf("%s is there already: choose another name, or allow it to be replaced (--force)", name), fs.ErrExist}
		}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
