package codec

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strings"

	"github.com/klauspost/compress/flate"
)

// What the records of an archive begin with.
const (
	zipEntry       = "PK\x03\x04"
	zipDescriptor  = "PK\x07\x08"
	zipDirectory   = "PK\x01\x02"
	zipEnd64       = "PK\x06\x06"
	zipEnd64Locate = "PK\x06\x07"
	zipEnd         = "PK\x05\x06"
)

const (
	zipEntryLen     = 30 // of the fixed part of each record, in bytes
	zipDirectoryLen = 46
	zipEnd64Len     = 56
	zipLocateLen    = 20
	zipEndLen       = 22
)

const zipMemory = 64 << 10

// zipEntries is how many entries are put up with, all but one of them folders.
const zipEntries = 1000

// zipParts are a zip archive, which is one part with one file, and at the same time
// what that file unpacks to. The archive is read from the front, as from a pipe: an
// entry is what its own header says, and the directory at the end must agree with it.
type zipParts struct {
	in      *input
	begun   bool
	file    string // the name of the file; empty: not yet met
	size    int64  // of the file, if its header said so; else -1
	entries []*zipHeader
	entry   *zipReader // that is being read; nil: between two
}

// A zipHeader is what is known of an entry.
type zipHeader struct {
	name         string
	start        int64  // of its header in the archive
	flags        uint16 // see zipEncrypted …
	method       uint16
	crc          uint32
	packed, size int64 // in bytes
	wide         bool  // the sizes are given in 64 bits
}

const (
	zipEncrypted = 1<<0 | 1<<6 | 1<<13
	zipStreamed  = 1 << 3 // the sizes and the checksum follow the data
)

const (
	zipStored   = 0
	zipDeflated = 8
)

func (z *zipParts) next() (io.Reader, error) {
	head, err := z.in.peek(4)
	switch {
	case z.begun || !like(head, zipEntry) && !like(head, zipEnd):
		return nil, errMagic
	case err != nil:
		return nil, err
	case string(head) == zipEnd:
		return nil, errNoFile
	}
	z.begun = true
	return z, z.begin()
}

var errNoFile = errors.New("there is no file in it")

func (z *zipParts) Read(p []byte) (int, error) {
	for z.entry == nil {
		head, err := z.in.peek(4)
		switch {
		case err != nil:
			return 0, cut(err)
		case string(head) == zipEntry:
			err = z.begin()
		case z.file == "":
			err = errNoFile
		default:
			if err = z.directory(); err == nil {
				err = io.EOF
			}
		}
		if err != nil {
			return 0, err
		}
	}
	n, err := z.entry.Read(p)
	if err == io.EOF {
		z.entry, err = nil, nil
	}
	return n, err
}

// begin begins the entry that stands next.
func (z *zipParts) begin() error {
	h, err := z.header()
	if err != nil {
		return err
	}
	if len(z.entries) == zipEntries {
		return fmt.Errorf("there are more than %d entries in it", zipEntries)
	}
	z.entries = append(z.entries, h)
	switch {
	case h.folder():
	case z.file != "":
		return fmt.Errorf("there is more than one file in it: %q and %q", z.file, h.name)
	default:
		z.file, z.size = h.name, -1
		if h.flags&zipStreamed == 0 {
			z.size = h.size
		}
	}
	z.entry = &zipReader{in: z.in, h: h, start: z.in.offset()}
	switch h.method {
	case zipStored:
		z.entry.r = io.LimitReader(z.in.Reader, h.packed)
	case zipDeflated:
		z.entry.r = flate.NewReader(z.in.Reader)
	}
	return nil
}

func (h *zipHeader) folder() bool { return strings.HasSuffix(h.name, "/") }

// header reads the header of an entry.
func (z *zipParts) header() (*zipHeader, error) {
	start := z.in.offset()
	b, err := z.in.peek(zipEntryLen)
	if err != nil {
		return nil, cut(err)
	}
	h := &zipHeader{start: start, flags: le.Uint16(b[6:]), method: le.Uint16(b[8:]), crc: le.Uint32(b[14:]),
		packed: int64(le.Uint32(b[18:])), size: int64(le.Uint32(b[22:]))}
	names := int(le.Uint16(b[26:]))
	extras := int(le.Uint16(b[28:]))
	if err := z.in.skip(zipEntryLen); err != nil {
		return nil, err
	}
	rest := make([]byte, names+extras)
	if _, err := io.ReadFull(z.in, rest); err != nil {
		return nil, cut(err)
	}
	h.name = string(rest[:names])
	if err := h.widen(rest[names:], &h.size, &h.packed); err != nil {
		return nil, err
	}
	return h, h.check()
}

// widen takes those of the sizes that did not fit from the extra fields, where
// they stand in this order.
func (h *zipHeader) widen(extra []byte, sizes ...*int64) error {
	for len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		extra = extra[4:]
		if n > len(extra) {
			break // other archivers' sloppiness
		}
		field := extra[:n]
		extra = extra[n:]
		if id != 1 {
			continue
		}
		h.wide = true
		for _, size := range sizes {
			if *size != math.MaxUint32 {
				continue
			}
			if len(field) < 8 || le.Uint64(field) > math.MaxInt64 {
				return errors.New("the sizes of an entry make no sense")
			}
			*size, field = int64(le.Uint64(field)), field[8:]
		}
		return nil
	}
	return nil
}

// check refuses what cannot be unpacked.
func (h *zipHeader) check() error {
	const instead = "; unpack it with unzip -p and pipe it in"
	switch {
	case h.name == "":
		return errors.New("an entry has no name")
	case h.flags&zipEncrypted != 0:
		return unsupported("it is encrypted" + instead)
	case h.method != zipStored && h.method != zipDeflated:
		return unsupported(fmt.Sprintf("it is packed by method %d, which is not known here%s", h.method, instead))
	case h.method == zipStored && h.flags&zipStreamed != 0 && (h.packed > 0 || !h.folder()):
		return unsupported("it does not say where its file ends before the end" + instead)
	case h.method == zipStored && h.size != h.packed:
		return errors.New("the sizes of an entry make no sense")
	}
	return nil
}

// A zipReader unpacks one entry and proves it.
type zipReader struct {
	in    *input
	h     *zipHeader
	r     io.Reader
	start int64 // of the packed data in the archive
	size  int64 // unpacked so far
	crc   uint32
}

func (e *zipReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.size += int64(n)
	e.crc = crc32.Update(e.crc, crc32.IEEETable, p[:n])
	if n > 0 && e.h.folder() {
		return 0, errors.New("a folder holds data")
	}
	if err == io.EOF {
		err = e.prove()
	}
	return n, err
}

// prove compares what was unpacked with what was said of it; io.EOF: it is right.
func (e *zipReader) prove() error {
	packed := e.in.offset() - e.start
	h := e.h
	if h.method == zipStored && packed < h.packed {
		return io.ErrUnexpectedEOF
	}
	if h.flags&zipStreamed != 0 {
		h.crc, h.packed, h.size = e.crc, packed, e.size
		if err := e.descriptor(); err != nil {
			return err
		}
		return io.EOF
	}
	switch {
	case h.crc != e.crc:
		return errors.New("the checksum of the file is wrong")
	case h.packed != packed || h.size != e.size:
		return errors.New("the file is not as long as the archive says")
	}
	return io.EOF
}

// descriptor reads what stands behind the data of an entry whose header did not
// know it: perhaps a magic number, the checksum, and the sizes in 32 or 64 bits.
// Which it is, is not said; so each is tried against what was unpacked.
func (e *zipReader) descriptor() error {
	crc := le.AppendUint32(nil, e.crc)
	wide := le.AppendUint64(le.AppendUint64(bytes.Clone(crc), uint64(e.h.packed)), uint64(e.h.size))
	// Some archivers write sizes from 4 GiB on in 32 bits, cut off.
	narrow := le.AppendUint32(le.AppendUint32(bytes.Clone(crc), uint32(e.h.packed)), uint32(e.h.size))
	b, err := e.in.peek(len(zipDescriptor) + len(wide)) // a whole archive goes on for longer
	if err != nil {
		return cut(err)
	}
	for _, want := range [...]string{zipDescriptor + string(wide), zipDescriptor + string(narrow), string(wide), string(narrow)} {
		if strings.HasPrefix(string(b), want) {
			return e.in.skip(int64(len(want)))
		}
	}
	return errors.New("the checksum or the length of the file is wrong")
}

func (z *zipParts) offset() int64   { return z.in.offset() }
func (z *zipParts) memory() int64   { return zipMemory }
func (z *zipParts) sizeHint() int64 { return z.size }
func (z *zipParts) close()          {}
