package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// maxFile is the most that a file may hold, in bytes.
const maxFile = 1<<32 - 1

// ReadFile returns the content of a file of at most limit bytes.
func (f *FileSystem) ReadFile(p string, limit int64) ([]byte, error) {
	d, name, err := f.lookup(p)
	if err != nil {
		return nil, err
	}
	x, ok := f.find(d, name)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: %w", p, fs.ErrNotExist)
	case x.attr&attrDir != 0:
		return nil, fmt.Errorf("%s is a directory", p)
	case x.size > limit:
		return nil, fmt.Errorf("%s has %d bytes, and %d is the most", p, x.size, limit)
	}
	r, err := f.open(x)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	b := make([]byte, x.size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	return b, nil
}

// open opens the content of a file.
func (f *FileSystem) open(x file) (io.Reader, error) {
	if x.size == 0 {
		return bytes.NewReader(nil), nil
	}
	list, err := f.chain(x.first, x.size)
	if err != nil {
		return nil, err
	}
	if int64(len(list))*f.cluster < x.size {
		return nil, errChain
	}
	return &content{f: f, list: list, left: x.size}, nil
}

// A content reads a file from its first byte to its last.
type content struct {
	f    *FileSystem
	list []uint32
	in   int64 // the first cluster, in bytes
	left int64
}

func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	at := c.f.at(c.list[0]) + c.in
	p = p[:min(int64(len(p)), c.left, c.f.cluster-c.in)]
	n, err := c.f.r.ReadAt(p, at)
	if n < len(p) {
		return n, fmt.Errorf("read at byte %d: %w", at, noEOF(err))
	}
	c.left -= int64(n)
	if c.in += int64(n); c.in == c.f.cluster {
		c.list, c.in = c.list[1:], 0
	}
	return n, nil
}

// WriteFile makes a file of that content, in the place of one that has its name. The
// directory that it lies in must be there.
func (f *FileSystem) WriteFile(p string, r io.Reader, size int64, modified time.Time) error {
	if err := f.writeFile(p, r, size, modified); err != nil {
		return fmt.Errorf("write /%s: %w", strings.Trim(p, "/"), err)
	}
	return nil
}

func (f *FileSystem) writeFile(p string, r io.Reader, size int64, modified time.Time) error {
	if size > maxFile {
		return fmt.Errorf("it has %d bytes, and %d is the most a file may have on FAT", size, int64(maxFile))
	}
	d, name, err := f.lookup(p)
	if err != nil {
		return err
	}
	before := bytes.Clone(d.b)
	var list []uint32
	x, old := f.find(d, name)
	if old {
		if x.attr&attrDir != 0 {
			return errors.New("it is a directory")
		}
		if x.first != 0 {
			if list, err = f.chain(x.first, x.size); err != nil {
				return err
			}
		}
	} else if x.short, err = f.newEntry(d, name); err != nil {
		return err
	}
	if list, err = f.allocate(list, int((size+f.cluster-1)/f.cluster)); err != nil {
		return err
	}
	if err := f.write(list, r, size); err != nil {
		return err
	}
	e := d.b[x.short:]
	if !old {
		e[11] = attrArchive
	}
	f.describe(e, list, modified)
	le.PutUint32(e[28:], uint32(size))
	return f.save(d, before)
}

// newEntry makes the entries of a new file in a directory and returns where its own
// is.
func (f *FileSystem) newEntry(d *dir, name string) (int, error) {
	short := map[string]bool{}
	for _, x := range f.files(d) {
		short[string(x.e[:11])] = true
	}
	entries, err := entriesFor(name, func(s []byte) bool { return short[string(s)] })
	if err != nil {
		return 0, err
	}
	at, err := f.add(d, entries)
	return at + len(entries) - entryLen, err
}

// describe fills in where a file begins and when it was changed.
func (f *FileSystem) describe(e []byte, list []uint32, modified time.Time) {
	var first uint32
	if len(list) > 0 {
		first = list[0]
	}
	le.PutUint16(e[26:], uint16(first))
	if f.bits == 32 {
		le.PutUint16(e[20:], uint16(first>>16))
	}
	date, clock := stamp(modified)
	le.PutUint16(e[22:], clock)
	le.PutUint16(e[24:], date)
	le.PutUint16(e[18:], date) // read
	if le.Uint16(e[16:]) == 0 {
		le.PutUint16(e[14:], clock) // made
		le.PutUint16(e[16:], date)
	}
}

// write copies content into clusters. What is behind its end is zero.
func (f *FileSystem) write(list []uint32, r io.Reader, size int64) error {
	const most = 1 << 20
	var buf []byte
	for i := 0; i < len(list); {
		n := 1 // clusters that lie together
		for i+n < len(list) && list[i+n] == list[i]+uint32(n) && int64(n+1)*f.cluster <= most {
			n++
		}
		if need := int64(n) * f.cluster; int64(len(buf)) < need {
			buf = make([]byte, need)
		}
		b := buf[:int64(n)*f.cluster]
		k := min(int64(len(b)), size)
		if _, err := io.ReadFull(r, b[:k]); err != nil {
			return noEOF(err)
		}
		clear(b[k:])
		if _, err := f.w.WriteAt(b, f.at(list[i])); err != nil {
			return err
		}
		size -= k
		i += n
	}
	return nil
}

// Mkdir makes a directory, and those on its way; one that is there already is as
// good.
func (f *FileSystem) Mkdir(p string, modified time.Time) error {
	p = strings.Trim(p, "/")
	if p == "" || p == "." {
		return nil
	}
	if err := f.Mkdir(path.Dir(p), modified); err != nil {
		return err
	}
	if err := f.mkdir(p, modified); err != nil {
		return fmt.Errorf("make the directory /%s: %w", p, err)
	}
	return nil
}

func (f *FileSystem) mkdir(p string, modified time.Time) error {
	d, name, err := f.lookup(p)
	if err != nil {
		return err
	}
	if x, ok := f.find(d, name); ok {
		if x.attr&attrDir == 0 {
			return errors.New("there is a file of that name")
		}
		return nil
	}
	before := bytes.Clone(d.b)
	at, err := f.newEntry(d, name)
	if err != nil {
		return err
	}
	list, err := f.allocate(nil, 1)
	if err != nil {
		return err
	}
	e := d.b[at : at+entryLen]
	e[11] = attrDir
	f.describe(e, list, modified)
	b := make([]byte, f.cluster)
	copy(b, ".          ")
	copy(b[11:entryLen], e[11:])
	up := b[entryLen : 2*entryLen]
	copy(up, "..         ")
	copy(up[11:], e[11:])
	parent := d.clusters
	if d.first == f.rootCluster || d.first == 0 {
		parent = nil // the root directory, whatever it is
	}
	f.describe(up, parent, modified)
	if _, err := f.w.WriteAt(b, f.at(list[0])); err != nil {
		return err
	}
	return f.save(d, before)
}

// Remove takes a file out, or a directory with all that is in it.
func (f *FileSystem) Remove(p string) error {
	d, name, err := f.lookup(p)
	if err != nil {
		return err
	}
	x, ok := f.find(d, name)
	if !ok {
		return fmt.Errorf("remove %s: %w", p, fs.ErrNotExist)
	}
	before := bytes.Clone(d.b)
	if err := f.release(x, 0); err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	for at := x.at; at <= x.short; at += entryLen {
		d.b[at] = free
	}
	return f.save(d, before)
}

// maxDepth is how deep directories may lie.
const maxDepth = 100

func (f *FileSystem) release(x file, depth int) error {
	size := x.size
	if x.attr&attrDir != 0 {
		d, err := f.openDir(x.first)
		if err != nil {
			return err
		}
		if depth > maxDepth || d.first == f.rootCluster || d.first == 0 {
			return errChain
		}
		size = int64(len(d.b))
		for _, y := range f.files(d) {
			if err := f.release(y, depth+1); err != nil {
				return err
			}
		}
	}
	if x.first == 0 {
		return nil
	}
	list, err := f.chain(x.first, size)
	if err != nil {
		return err
	}
	_, err = f.allocate(list, 0)
	return err
}

// SetSerial gives the file system another serial number, which is shown as its UUID:
// 1234-ABCD is 0x1234ABCD.
func (f *FileSystem) SetSerial(serial uint32) error {
	at := int64(0x27)
	if f.bits == 32 {
		at = 0x43
	}
	b := le.AppendUint32(nil, serial)
	if f.bits == 32 {
		if n := int64(le.Uint16(f.boot[0x32:])); n > 0 && n < int64(le.Uint16(f.boot[0x0e:])) { // a copy of the boot sector
			if _, err := f.w.WriteAt(b, n*int64(le.Uint16(f.boot[0x0b:]))+at); err != nil {
				return err
			}
		}
	}
	copy(f.boot[at:], b)
	_, err := f.w.WriteAt(b, at)
	return err
}
