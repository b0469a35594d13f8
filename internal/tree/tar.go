package tree

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
)

// xattrRecord is what a PAX record with an extended attribute begins with, as GNU
// tar, bsdtar and star have it.
const xattrRecord = "SCHILY.xattr."

// FromTar reads the tree that a tar of size bytes holds (POSIX.1-2001 pax, ustar or
// GNU). The tar must stay open and as it is for as long as the tree's files are
// read. Of several entries with one name the last counts.
func FromTar(r io.ReaderAt, size int64) (*Tree, error) {
	t := New()
	at := int64(0) // where the header of the next entry begins
	for count := 0; ; count++ {
		in := io.NewSectionReader(r, at, size-at)
		tr := tar.NewReader(in)
		h, err := tr.Next()
		switch {
		case err == io.EOF && count == 0:
			return nil, errors.New("read the tar: there is nothing in it")
		case err == io.EOF && !endsAt(r, at):
			return nil, fmt.Errorf("read the tar: it is cut short after %d bytes", size)
		case err == io.EOF:
			return t, nil
		case err != nil:
			return nil, fmt.Errorf("read the tar at byte %d: %w", at, err)
		}
		start := at
		if at, err = end(in, h, start); err != nil {
			return nil, fmt.Errorf("read the tar at byte %d, %.200q: %w", start, h.Name, err)
		}
		if err := t.addEntry(h, io.NewSectionReader(r, start, size-start)); err != nil {
			return nil, fmt.Errorf("read the tar at byte %d, %.200q: %w", start, h.Name, err)
		}
	}
}

// endsAt tells whether the block of zeros stands there that ends a tar.
func endsAt(r io.ReaderAt, at int64) bool {
	var b [512]byte
	n, _ := r.ReadAt(b[:], at)
	return n == len(b) && isZero(b[:])
}

// end returns where the entry ends whose content comes next.
func end(in *io.SectionReader, h *tar.Header, start int64) (int64, error) {
	if isSparse(h) {
		return sparseEnd(in, start)
	}
	pos, err := in.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if h.Size < 0 || h.Size > in.Size()-pos {
		return 0, io.ErrUnexpectedEOF
	}
	return start + (pos+h.Size+511)/512*512, nil
}

// sparseEnd returns where a file with holes ends. How long it is in the tar only the
// reader knows, so it is asked to go on: the first whole block that it reads is
// the next header.
func sparseEnd(in *io.SectionReader, start int64) (int64, error) {
	pos, err := in.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	next := &firstBlock{SectionReader: in, at: -1}
	again := tar.NewReader(next)
	if _, err := next.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if _, err := again.Next(); err != nil {
		return 0, err
	}
	next.from, next.at = pos, -1
	if _, err := again.Next(); next.at < 0 {
		return 0, cmp.Or(err, io.ErrUnexpectedEOF)
	}
	return start + next.at, nil
}

// firstBlock remembers where the first block was read from a place on.
type firstBlock struct {
	*io.SectionReader
	from, at int64
}

func (f *firstBlock) Read(p []byte) (int, error) {
	pos, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if f.at < 0 && len(p) == 512 && pos >= f.from {
		f.at = pos
	}
	return f.SectionReader.Read(p)
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// addEntry puts what an entry says into the tree. entry is the tar from that entry
// on.
func (t *Tree) addEntry(h *tar.Header, entry *io.SectionReader) error {
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	n := &Node{
		Mode: h.FileInfo().Mode(), UID: h.Uid, GID: h.Gid, ModTime: h.ModTime,
	}
	for k, v := range h.PAXRecords {
		if x, ok := strings.CutPrefix(k, xattrRecord); ok {
			if n.Xattrs == nil {
				n.Xattrs = map[string]string{}
			}
			n.Xattrs[x] = v
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.Size, n.Holes = h.Size, isSparse(h)
		n.Content = func() (io.ReadCloser, error) {
			tr := tar.NewReader(io.NewSectionReader(entry, 0, entry.Size()))
			_, err := tr.Next()
			return io.NopCloser(tr), err
		}
	case tar.TypeSymlink:
		n.Target = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
			return fmt.Errorf("there is no device %d:%d", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeLink:
		to := strings.TrimPrefix(h.Linkname, "./")
		if n = t.Lookup(to); n == nil || n.Mode.IsDir() {
			return fmt.Errorf("it is a hard link to %.200q, which is no file before it", h.Linkname)
		}
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("an entry of type %q is not known here", h.Typeflag)
	}
	return t.Put(name, n)
}

// WriteTar writes the tree as a tar in pax format, which keeps all that a tree
// holds but holes. The same tree gives the same bytes.
func (t *Tree) WriteTar(w io.Writer) error {
	tw := tar.NewWriter(w)
	names := map[*Node]string{}
	err := t.Walk(func(p string, n *Node) error {
		h, err := header(p, n)
		if err != nil {
			return err
		}
		if first, ok := names[n]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s to the tar: %w", p, err)
		}
		if !n.Mode.IsDir() {
			names[n] = p
		}
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		return n.copyTo(tw, p)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// copyTo writes the content of a file.
func (n *Node) copyTo(w io.Writer, p string) error {
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	k, err := io.Copy(w, io.LimitReader(r, n.Size))
	if err == nil && k < n.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("copy %s at byte %d of %d: %w", p, k, n.Size, err)
	}
	return nil
}

func header(p string, n *Node) (*tar.Header, error) {
	h := &tar.Header{
		Name: p, Mode: int64(n.UnixMode() & 0o7777), Uid: n.UID, Gid: n.GID, ModTime: n.ModTime, Format: tar.FormatPAX,
	}
	switch t := n.Mode.Type(); {
	case t == 0:
		h.Typeflag, h.Size = tar.TypeReg, n.Size
	case t == fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, p+"/"
	case t == fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
	case t&fs.ModeCharDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(n.Major), int64(n.Minor)
	case t&fs.ModeDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(n.Major), int64(n.Minor)
	case t == fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("write %s to the tar: a tar cannot hold a %s", p, n.Kind())
	}
	for _, k := range slices.Sorted(maps.Keys(n.Xattrs)) {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+k] = n.Xattrs[k]
	}
	return h, nil
}
