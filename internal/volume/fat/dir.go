package fat

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf16"
)

// maxDir is the most that a directory may take, in bytes: 65,536 entries.
const maxDir = 65536 * entryLen

// A dir is a directory in memory.
type dir struct {
	first    uint32   // cluster; 0: the root directory of FAT12 or FAT16
	clusters []uint32 // nil: the same
	b        []byte   // its entries
}

// A file is an entry of a directory.
type file struct {
	name     string
	at       int // of its first entry, which may be one of a long name
	short    int // of its own
	e        []byte
	attr     byte
	first    uint32
	size     int64
	modified time.Time
}

func (f *FileSystem) openDir(first uint32) (*dir, error) {
	d := &dir{first: first}
	if first == 0 && f.bits == 32 {
		d.first = f.rootCluster
	}
	if d.first == 0 {
		d.b = make([]byte, f.rootLen)
		_, err := f.r.ReadAt(d.b, f.rootAt)
		return d, noEOF(err)
	}
	var err error
	if d.clusters, err = f.chain(d.first, max(maxDir, f.cluster)); err != nil {
		return nil, err
	}
	if len(d.clusters) == 0 {
		return nil, errChain
	}
	d.b = make([]byte, int64(len(d.clusters))*f.cluster)
	for i, c := range d.clusters {
		if _, err := f.r.ReadAt(d.b[int64(i)*f.cluster:int64(i+1)*f.cluster], f.at(c)); err != nil {
			return nil, noEOF(err)
		}
	}
	return d, nil
}

// files returns what is in a directory, without "." and ".." and the volume's label.
func (f *FileSystem) files(d *dir) []file {
	var all []file
	var long longName
	for at := 0; at+entryLen <= len(d.b) && d.b[at] != 0; at += entryLen {
		e := d.b[at : at+entryLen]
		if e[0] == free {
			long = longName{}
			continue
		}
		if e[11]&0x3f == attrLong {
			long.add(e, at)
			continue
		}
		x := file{name: shortName(e), at: at, short: at, e: e, attr: e[11], size: int64(le.Uint32(e[28:])), modified: timeOf(le.Uint16(e[24:]), le.Uint16(e[22:]))}
		x.first = uint32(le.Uint16(e[26:]))
		if f.bits == 32 {
			x.first |= uint32(le.Uint16(e[20:])) << 16
		}
		if name, ok := long.name(e); ok {
			x.name, x.at = name, long.at
		}
		long = longName{}
		if e[11]&attrVolume == 0 && e[0] != '.' {
			all = append(all, x)
		}
	}
	return all
}

// A longName is gathered from the entries before the one it belongs to.
type longName struct {
	at    int
	left  int // parts
	sum   byte
	chars []uint16
}

func (l *longName) add(e []byte, at int) {
	n := int(e[0] & 0x3f)
	if e[0]&0x40 != 0 {
		*l = longName{at: at, left: n, sum: e[13], chars: make([]uint16, n*longPart)}
	} else if n != l.left-1 || e[13] != l.sum {
		*l = longName{}
		return
	} else {
		l.left = n
	}
	if n == 0 || n*longPart > len(l.chars) {
		*l = longName{}
		return
	}
	for k := range longPart {
		l.chars[(n-1)*longPart+k] = le.Uint16(e[longAt(k):])
	}
}

// name returns the name if it is whole and belongs to that short one.
func (l *longName) name(short []byte) (string, bool) {
	if l.left != 1 || shortSum(short) != l.sum {
		return "", false
	}
	chars := l.chars
	for i, c := range chars {
		if c == 0 {
			chars = chars[:i]
			break
		}
	}
	s := string(utf16.Decode(chars))
	if checkName(s) != nil {
		return "", false
	}
	return s, true
}

// timeOf returns the time that two fields stand for.
func timeOf(date, clock uint16) time.Time {
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31), int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}

// stamp is the reverse of timeOf. What lies outside is moved to the nearest.
func stamp(t time.Time) (date, clock uint16) {
	t = t.UTC()
	switch y := t.Year(); {
	case y < 1980:
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	case y > 2107:
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	return uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day()), uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}

// find returns the file of that name in a directory. FAT does not tell small letters from
// capitals.
func (f *FileSystem) find(d *dir, name string) (file, bool) {
	for _, x := range f.files(d) {
		if strings.EqualFold(x.name, name) || strings.EqualFold(shortName(x.e), name) {
			return x, true
		}
	}
	return file{}, false
}

// lookup returns the directory that a path lies in, and the last part of the path.
func (f *FileSystem) lookup(p string) (*dir, string, error) {
	names := strings.Split(strings.Trim(p, "/"), "/")
	d, err := f.openDir(0)
	if err != nil {
		return nil, "", err
	}
	for _, name := range names[:len(names)-1] {
		x, ok := f.find(d, name)
		if !ok {
			return nil, "", fmt.Errorf("%s: there is no directory %s: %w", p, name, fs.ErrNotExist)
		}
		if x.attr&attrDir == 0 {
			return nil, "", fmt.Errorf("%s: %s is not a directory", p, name)
		}
		if d, err = f.openDir(x.first); err != nil {
			return nil, "", fmt.Errorf("%s: %w", p, err)
		}
	}
	return d, names[len(names)-1], nil
}

// save writes what has changed in a directory since it was opened.
func (f *FileSystem) save(d *dir, before []byte) error {
	const piece = 512
	for at := 0; at < len(d.b); at += piece {
		b := d.b[at:min(at+piece, len(d.b))]
		if at+len(b) <= len(before) && bytes.Equal(b, before[at:at+len(b)]) {
			continue
		}
		to := f.rootAt + int64(at)
		if d.clusters != nil {
			to = f.at(d.clusters[int64(at)/f.cluster]) + int64(at)%f.cluster
		}
		if _, err := f.w.WriteAt(b, to); err != nil {
			return err
		}
	}
	return nil
}

// add makes room for entries in a directory and puts them there.
func (f *FileSystem) add(d *dir, entries []byte) (at int, err error) {
	run, end := 0, 0
	for ; end < len(d.b); end += entryLen {
		if c := d.b[end]; c == 0 {
			break
		} else if c != free {
			run = 0
			continue
		}
		if run += entryLen; run == len(entries) {
			at = end + entryLen - run
			copy(d.b[at:], entries)
			return at, nil
		}
	}
	at = end - run // free ones at the end are as good as those never used
	if at+len(entries) > maxDir {
		return 0, fmt.Errorf("%w: the directory has %d entries, which is the most", ErrFull, at/entryLen)
	}
	if need := int64(at + len(entries)); need > int64(len(d.b)) {
		if d.clusters == nil {
			return 0, fmt.Errorf("%w: the root directory has room for %d entries, long names take several", ErrFull, len(d.b)/entryLen)
		}
		if d.clusters, err = f.allocate(d.clusters, int((need+f.cluster-1)/f.cluster)); err != nil {
			return 0, err
		}
		d.b = append(d.b, make([]byte, int64(len(d.clusters))*f.cluster-int64(len(d.b)))...)
	}
	copy(d.b[at:], entries)
	return at, nil
}
