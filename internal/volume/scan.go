package volume

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"multidd/internal/block"
)

// A scan goes through a disk once, in ascending order, and tells what is used.
type scan struct {
	r      io.ReaderAt
	size   int64 // bytes; endless if the disk passes by and nobody knows its end
	stream bool  // it passes by: nothing may be read ahead of its turn
	disk   *Disk
	told   told
}

// endless stands for the size of a disk whose end is not known.
const endless = 1 << 60

// errGone comes from the reader of a disk that passes by for bytes that have
// passed and are remembered no more.
var errGone = errors.New("these bytes have passed")

// errShort says that a disk ends before the bytes that were to be read.
var errShort = errors.New("the disk ends there")

// readAt fills p. It returns errShort if there are fewer bytes than that.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return errShort
	}
	return err
}

// A located reader says in its errors where on the disk they were met.
type located struct{ io.ReaderAt }

func (l located) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.ReaderAt.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read %d bytes of the disk at offset %d: %w", len(p), off, err)
	}
	return n, err
}

// isContent tells whether err is about what the disk holds rather than about
// trouble with reading it.
func isContent(err error) bool {
	var d damage
	return errors.Is(err, errNotMine) || errors.Is(err, errShort) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &d)
}

func (s *scan) run() error {
	t, err := readTable(s.r, s.size, s.disk)
	if err != nil {
		return err
	}
	var whole fileSystem
	if t == nil || t.kind == "mbr" {
		if whole, err = s.identify("the disk", block.Extent{Len: s.size}); err != nil {
			return err
		}
	}
	if t != nil && t.trouble == "" {
		t.check(s.size)
	}
	if t != nil && t.trouble != "" && whole != nil {
		t = nil // code or text in a boot sector that looked like a table
	}
	switch {
	case t == nil && whole == nil:
		s.told.useTo(s.size)
		return nil
	case t == nil:
		info := whole.info()
		s.disk.FS = &info
		return s.walk("the disk", whole, block.Extent{Len: s.size}, &info)
	}
	return s.parts(t, whole != nil)
}

// parts goes through a disk with a table. Ambiguous says that the whole disk
// could be taken for a file system, too.
func (s *scan) parts(t *table, ambiguous bool) error {
	d := s.disk
	d.Table, d.ID, d.Sector = t.kind, t.id, t.sector
	if !s.stream && t.trouble == "" {
		if err := t.readAhead(s.r, s.size, d); err != nil {
			return err
		}
	}
	d.Parts = slices.Clone(t.parts)
	if t.trouble != "" {
		d.warn("%s: all of the disk counts as used", t.trouble)
	}
	if t.trouble != "" || t.end() == 0 {
		s.told.useTo(s.size)
		return nil
	}
	if ambiguous {
		d.warn("the disk has a partition table and also the marks of a file system without one: the table is believed, and all outside of its partitions counts as used")
	}
	for _, p := range t.inOrder(s.stream) {
		s.told.useTo(p.Off)
		err := error(nil)
		if p.Number == 0 {
			err = s.logicals(t)
		} else {
			err = s.part(p)
		}
		if err != nil {
			return err
		}
	}
	return s.behind(t, ambiguous)
}

// logicals goes through the logical partitions of a disk that passes by. Once
// their chain does not lead forward any more, the rest is used.
func (s *scan) logicals(t *table) error {
	for p, err := range t.chain(s.r) {
		if err == nil && (p.Off < s.told.to || p.End() > t.extended.End()) {
			err = damage("the logical partitions overlap or are not in the order of their numbers")
		}
		if err != nil && (isContent(err) || errors.Is(err, errGone)) {
			s.disk.warn("%v: from there on all of the disk counts as used", err)
			s.told.useTo(s.size)
			return nil
		}
		if err != nil {
			return err
		}
		i, _ := slices.BinarySearchFunc(s.disk.Parts, p, byOffset)
		s.disk.Parts = slices.Insert(s.disk.Parts, i, p)
		s.told.useTo(p.Off)
		if err := s.part(p); err != nil {
			return err
		}
	}
	s.told.useTo(t.extended.End())
	return nil
}

// behind tells about the space behind the last partition.
func (s *scan) behind(t *table, ambiguous bool) error {
	s.told.useTo(t.end())
	// A table without a checksum could count in other sectors than it is thought to.
	proved := t.kind == "gpt" || slices.ContainsFunc(s.disk.Parts, func(p Part) bool { return p.FS != nil })
	if !proved || ambiguous {
		s.told.useTo(s.size)
		return nil
	}
	if t.tail.Len > 0 {
		s.told.freeTo(min(t.tail.Off, s.size))
		if s.stream { // the disk may end anywhere from here
			return t.checkBackup(s.r, endless, s.disk)
		}
		s.told.useTo(min(t.tail.End(), s.size))
	}
	if !s.stream && s.size > t.tail.End() {
		s.told.freeTo(s.size - tailSize)
		s.told.useTo(s.size)
	}
	if !s.stream {
		s.told.freeTo(s.size)
	}
	return nil
}

// part goes through one partition.
func (s *scan) part(p Part) error {
	name := fmt.Sprintf("partition %d", p.Number)
	fs, err := s.identify(name, p.Extent)
	if err != nil {
		return err
	}
	if fs == nil {
		s.told.useTo(p.End())
		return nil
	}
	info := fs.info()
	for i := range s.disk.Parts {
		if s.disk.Parts[i].Number == p.Number {
			s.disk.Parts[i].FS = &info
		}
	}
	return s.walk(name, fs, p.Extent, &info)
}

// walk tells what a file system that fills e, or the beginning of it, uses.
func (s *scan) walk(name string, fs fileSystem, e block.Extent, info *FileSystem) error {
	if info.Size < 0 || info.Size > e.Len {
		info.State, info.Why = Unknown, "it is larger than what it lies in"
	}
	if info.State != Clean {
		s.told.useTo(e.End())
		return nil
	}
	var used, at int64
	var disorder error
	err := fs.used(func(u block.Extent) bool {
		if u.Off < at || u.Len < 0 || u.Off > info.Size-u.Len {
			disorder = damage("its tables contradict each other")
			return false
		}
		at = u.End()
		used += u.Len
		s.told.freeTo(e.Off + u.Off)
		s.told.use(block.Extent{Off: e.Off + u.Off, Len: u.Len})
		return true
	})
	if disorder != nil {
		err = disorder
	}
	switch {
	case err == nil:
		info.Used = used
		s.told.freeTo(e.Off + info.Size)
		s.told.useTo(e.End())
		return nil
	case errors.Is(err, errGone): // nothing is wrong with it, except that it cannot be read in order
		s.told.cover(e)
		return nil
	case !isContent(err):
		return fmt.Errorf("%s: %w", name, err)
	}
	info.State, info.Why = Dirty, err.Error()
	if s.stream {
		s.disk.warn("%s is damaged: %v; that was found when a part of it had passed, which was judged by tables without a fault; the rest counts as used", name, err)
	}
	s.told.cover(e)
	return nil
}

// headSize covers the marks by which file systems and other formats are known.
const headSize = 72 << 10

// identify finds the file system in e. It returns nil if there is none, or if
// there are marks of something else, too: what was there before cannot be told
// from what is there now.
func (s *scan) identify(name string, e block.Extent) (fileSystem, error) {
	section := io.NewSectionReader(s.r, e.Off, e.Len)
	head := make([]byte, min(headSize, e.Len))
	if err := readAt(section, head, 0); err != nil {
		if isContent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r := &headReader{section, head}
	var found fileSystem
	var marks []string
	for _, open := range openers() {
		fs, err := open(r, e.Len)
		switch {
		case err == nil:
			found = fs
			marks = append(marks, fs.info().Kind)
		case errors.Is(err, errGone):
			return nil, nil
		case !isContent(err):
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, fs := range foreign(head, e.Len) {
		found = whole(fs)
		marks = append(marks, fs.Kind)
	}
	if len(marks) > 1 {
		s.disk.warn("%s has the marks of %s: all of it counts as used", name, strings.Join(marks, " and of "))
		return nil, nil
	}
	return found, nil
}

// A headReader keeps the first bytes of what it reads.
type headReader struct {
	io.ReaderAt
	head []byte
}

func (r *headReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off <= int64(len(r.head)-len(p)) {
		return copy(p, r.head[off:]), nil
	}
	return r.ReaderAt.ReadAt(p, off)
}
