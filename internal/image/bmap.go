package image

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"multidd/internal/block"
)

// A map says which blocks of an image are used, in the format of bmaptool:
//
//	<bmap version="2.0">
//	    <ImageSize> 3145728 </ImageSize>
//	    <BlockSize> 4096 </BlockSize>
//	    <BlocksCount> 768 </BlocksCount>
//	    <MappedBlocksCount> 3 </MappedBlocksCount>
//	    <ChecksumType> sha256 </ChecksumType>
//	    <BmapFileChecksum> … </BmapFileChecksum>
//	    <BlockMap>
//	        <Range chksum="…"> 0-1 </Range>
//	        <Range chksum="…"> 488 </Range>
//	    </BlockMap>
//	</bmap>
//
// BmapFileChecksum is the checksum of the map itself with that value replaced by
// as many digits 0. Versions 1.4 and 2.0 are the same; in 1.3 the checksums are
// SHA-1 and called BmapFileSHA1 and sha1; before that, a map need not have any.
// (bmaptools/BmapCreate.py and BmapCopy.py in bmap-tools 3.6.)
//
// A map comes from whoever made the image and may be made to do harm: what is read
// of it is limited before anything is allocated for it, and what does not add up
// is refused.
const (
	maxBMap      = 16 << 20 // bytes
	maxRanges    = 1 << 18
	maxToken     = 64 << 10 // bytes of one tag, text or comment
	maxBlockSize = 1 << 30  // bytes
)

// A bmap is what a map says.
type bmap struct {
	block.Map
	blockSize int64
	ranges    []mapped // as in the file; Map has neighbours joined
	newHash   func() hash.Hash
}

// A mapped range of an image.
type mapped struct {
	block.Extent
	sum []byte // checksum by newHash; nil: none
}

// checked tells whether there are checksums of the ranges.
func (m *bmap) checked() bool { return m.ranges[0].sum != nil }

// A mapError says what is wrong with a map, and where.
type mapError struct {
	line   int // from 1; 0: nowhere in particular
	err    error
	digest bool // the map is not what its own checksum says
}

func (e *mapError) Error() string {
	if e.line == 0 {
		return e.err.Error()
	}
	return fmt.Sprintf("line %d: %v", e.line, e.err)
}

// parseBMap reads a map. The error is a *mapError.
func parseBMap(raw []byte) (*bmap, error) {
	if len(raw) > maxBMap {
		return nil, &mapError{err: fmt.Errorf("is longer than %d MiB, which no map is", maxBMap>>20)}
	}
	p := &bmapParser{in: &tokenReader{b: raw}, fields: map[string]field{}, m: &bmap{}}
	p.d = xml.NewDecoder(p.in)
	if err := p.document(); err != nil {
		line, _ := p.d.InputPos()
		e := &mapError{line: line, err: err}
		if at, ok := errors.AsType[*lineError](err); ok {
			e.line, e.err = at.line, at.err
		}
		return nil, e
	}
	if err := p.checkFile(raw); err != nil {
		return nil, &mapError{line: p.fields[p.fileSum].line, err: err, digest: true}
	}
	return p.m, nil
}

// A tokenReader feeds the XML decoder byte by byte, and only so many for each
// token.
type tokenReader struct {
	b    []byte
	left int
}

func (r *tokenReader) ReadByte() (byte, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	if r.left == 0 {
		return 0, fmt.Errorf("a tag, text or comment is longer than %d KiB", maxToken>>10)
	}
	c := r.b[0]
	r.b, r.left = r.b[1:], r.left-1
	return c, nil
}

func (r *tokenReader) Read(p []byte) (int, error) {
	for i := range p {
		c, err := r.ReadByte()
		if err != nil {
			return i, err
		}
		p[i] = c
	}
	return len(p), nil
}

// A lineError is an error on a line before the one that was read last.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return e.err.Error() }

// A field is an element that holds nothing but text.
type field struct {
	text string
	line int
}

type bmapParser struct {
	in      *tokenReader
	d       *xml.Decoder
	m       *bmap
	fields  map[string]field
	fileSum string // name of the field with the file's checksum
	sumAttr string // name of the attribute with a range's checksum
	early   bool   // a version that need not have checksums
	blocks  int64
	used    int64 // blocks in the ranges so far
	next    int64 // the first block the next range may begin with
	sawMap  bool
}

// token returns the next token that matters: a start, an end or text that is
// not white space.
func (p *bmapParser) token() (xml.Token, error) {
	for {
		p.in.left = maxToken
		t, err := p.d.Token()
		if err != nil {
			if s, ok := errors.AsType[*xml.SyntaxError](err); ok {
				return nil, &lineError{s.Line, fmt.Errorf("not XML: %s", s.Msg)}
			}
			return nil, err
		}
		switch t := t.(type) {
		case xml.Directive:
			return nil, errors.New("a document type declaration has no place in a map")
		case xml.CharData:
			if s := bytes.TrimSpace(t); len(s) > 0 {
				return xml.CharData(s), nil
			}
		case xml.StartElement, xml.EndElement:
			return t, nil
		}
	}
}

// document reads the whole file.
func (p *bmapParser) document() error {
	t, err := p.token()
	if err == io.EOF {
		return errors.New("is empty")
	}
	if err != nil {
		return err
	}
	root, ok := t.(xml.StartElement)
	if !ok || root.Name.Local != "bmap" {
		return errors.New("is not a map: it does not begin with <bmap>")
	}
	if err := p.version(root); err != nil {
		return err
	}
	if err := p.children(); err != nil {
		return err
	}
	if !p.sawMap {
		return errors.New("has no <BlockMap>")
	}
	if want, err := p.number("MappedBlocksCount"); err != nil {
		return err
	} else if want != p.used {
		return p.at("MappedBlocksCount", fmt.Errorf("MappedBlocksCount is %d, but the ranges have %d blocks", want, p.used))
	}
	switch _, err := p.token(); err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("goes on after </bmap>")
	default:
		return err
	}
}

// at places an error on the line of a field.
func (p *bmapParser) at(name string, err error) error { return &lineError{p.fields[name].line, err} }

// version looks at the version and chooses the names that go with it.
func (p *bmapParser) version(root xml.StartElement) error {
	v := attr(root, "version")
	majorText, minorText, _ := strings.Cut(v, ".")
	major, err := strconv.Atoi(majorText)
	minor, err2 := strconv.Atoi(minorText)
	if err != nil || err2 != nil || major < 1 || minor < 0 {
		return fmt.Errorf("%.20q is not a version of the format", v)
	}
	switch {
	case major > 2:
		return fmt.Errorf("version %.20s of the format is not known here, only 1.0 to 2.x", v)
	case major == 2 || minor >= 4:
		p.fileSum, p.sumAttr = "BmapFileChecksum", "chksum"
	default:
		p.fileSum, p.sumAttr = "BmapFileSHA1", "sha1"
		p.m.newHash = sha1.New
		p.early = minor < 3
	}
	return nil
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// children reads what stands between <bmap> and </bmap>.
func (p *bmapParser) children() error {
	for {
		t, err := p.token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.EndElement:
			return nil
		case xml.CharData:
			return fmt.Errorf("text %.20q outside of any element", t)
		case xml.StartElement:
			if t.Name.Local == "BlockMap" {
				err = p.blockMap()
			} else {
				err = p.field(t.Name.Local)
			}
			if err != nil {
				return err
			}
		}
	}
}

// text reads the text of an element and its end.
func (p *bmapParser) text(name string) (string, error) {
	var s string
	for {
		t, err := p.token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.EndElement:
			return s, nil
		case xml.StartElement:
			return "", fmt.Errorf("<%.20s> has no place in <%.20s>", t.Name.Local, name)
		case xml.CharData:
			if s != "" {
				return "", fmt.Errorf("the text of <%.20s> is in several parts", name)
			}
			s = string(t)
		}
	}
}

// field reads an element with text. Of those that are not known here, which a
// later minor version may have, nothing is kept.
func (p *bmapParser) field(name string) error {
	line, _ := p.d.InputPos()
	s, err := p.text(name)
	if err != nil {
		return err
	}
	switch name {
	case "ImageSize", "BlockSize", "BlocksCount", "MappedBlocksCount", "ChecksumType", "BmapFileChecksum", "BmapFileSHA1":
		if p.fields[name].line != 0 {
			return fmt.Errorf("there is a second <%s>", name)
		}
		p.fields[name] = field{s, line}
	}
	return nil
}

// number returns the value of a field that is a number, not negative.
func (p *bmapParser) number(name string) (int64, error) {
	f := p.fields[name]
	if f.line == 0 {
		return 0, fmt.Errorf("has no <%s>, or has it too late", name)
	}
	n, err := strconv.ParseUint(f.text, 10, 63)
	if err != nil {
		return 0, p.at(name, fmt.Errorf("%s is %.30q, which is not a size", name, f.text))
	}
	return int64(n), nil
}

// geometry takes over the sizes, which must stand before the ranges.
func (p *bmapParser) geometry() error {
	size, err := p.number("ImageSize")
	if err != nil {
		return err
	}
	bs, err := p.number("BlockSize")
	if err != nil {
		return err
	}
	if p.blocks, err = p.number("BlocksCount"); err != nil {
		return err
	}
	switch {
	case size == 0:
		return p.at("ImageSize", errors.New("the image has no bytes"))
	case bs < 512 || bs > maxBlockSize || bs&(bs-1) != 0:
		return p.at("BlockSize", fmt.Errorf("a block of %d bytes; it must be a power of two from 512 to %d", bs, maxBlockSize))
	case p.blocks != (size-1)/bs+1:
		return p.at("BlocksCount", fmt.Errorf("%d bytes are %d blocks of %d bytes, not %d", size, (size-1)/bs+1, bs, p.blocks))
	}
	p.m.Size, p.m.blockSize = size, bs
	if p.sumAttr != "chksum" {
		return nil
	}
	switch kind := strings.ToLower(p.fields["ChecksumType"].text); kind {
	case "sha256":
		p.m.newHash = sha256.New
	case "sha512":
		p.m.newHash = sha512.New
	case "sha384":
		p.m.newHash = sha512.New384
	case "sha224":
		p.m.newHash = sha256.New224
	case "sha1":
		p.m.newHash = sha1.New
	case "md5":
		p.m.newHash = md5.New
	case "":
		return errors.New("has no <ChecksumType>, or has it too late")
	default:
		return p.at("ChecksumType", fmt.Errorf("checksums of type %.20q are not known here", kind))
	}
	return nil
}

// blockMap reads the ranges.
func (p *bmapParser) blockMap() error {
	if p.sawMap {
		return errors.New("there is a second <BlockMap>")
	}
	p.sawMap = true
	if err := p.geometry(); err != nil {
		return err
	}
	for {
		t, err := p.token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.CharData:
			return fmt.Errorf("text %.20q between the ranges", t)
		case xml.StartElement:
			if t.Name.Local != "Range" {
				return fmt.Errorf("<%.20s> has no place in <BlockMap>", t.Name.Local)
			}
			if err := p.addRange(t); err != nil {
				return err
			}
		case xml.EndElement:
			if len(p.m.ranges) == 0 {
				return errors.New("has no ranges: nothing of the image would be written")
			}
			return nil
		}
	}
}

// addRange reads a range, "first-last" or one block.
func (p *bmapParser) addRange(e xml.StartElement) error {
	if len(p.m.ranges) == maxRanges {
		return fmt.Errorf("has more than %d ranges", maxRanges)
	}
	text, err := p.text("Range")
	if err != nil {
		return err
	}
	a, b, isRange := strings.Cut(text, "-")
	if !isRange {
		b = a
	}
	first, err := strconv.ParseUint(strings.TrimSpace(a), 10, 63)
	last, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 63)
	switch {
	case err != nil || err2 != nil:
		return fmt.Errorf("%.40q is not a range of blocks", text)
	case first > last:
		return fmt.Errorf("range %s ends before it begins", text)
	case int64(last) >= p.blocks:
		return fmt.Errorf("range %s goes past the end of the image, which has %d blocks", text, p.blocks)
	case int64(first) < p.next:
		return fmt.Errorf("range %s overlaps the one before it or is out of order", text)
	}
	sum, err := p.rangeSum(e)
	if err != nil {
		return fmt.Errorf("range %s %w", text, err)
	}
	bs := p.m.blockSize
	off := int64(first) * bs
	// The last block may be cut short by the end of the image.
	end := p.m.Size
	if int64(last)+1 < p.blocks {
		end = (int64(last) + 1) * bs
	}
	x := block.Extent{Off: off, Len: end - off}
	p.m.ranges = append(p.m.ranges, mapped{x, sum})
	if n := len(p.m.Used); n > 0 && p.m.Used[n-1].End() == off {
		p.m.Used[n-1].Len += x.Len
	} else {
		p.m.Used = append(p.m.Used, x)
	}
	p.used += int64(last) - int64(first) + 1
	p.next = int64(last) + 1
	return nil
}

// rangeSum returns the checksum of a range. Either all have one or none has.
func (p *bmapParser) rangeSum(e xml.StartElement) ([]byte, error) {
	text := attr(e, p.sumAttr)
	if n := len(p.m.ranges); n > 0 && (text != "") != p.m.checked() {
		return nil, errors.New("must have a checksum if the others have one, and none if not")
	}
	if text == "" {
		return nil, nil
	}
	return parseSum(text, p.m.newHash().Size())
}

// parseSum reads a checksum of n bytes in hexadecimal.
func parseSum(text string, n int) ([]byte, error) {
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) != n {
		return nil, fmt.Errorf("has the checksum %.80q, which is not %d hexadecimal digits", text, 2*n)
	}
	return sum, nil
}

// checkFile compares the map's checksum of itself.
func (p *bmapParser) checkFile(raw []byte) error {
	f := p.fields[p.fileSum]
	switch {
	case f.line == 0 && p.early:
		return nil
	case f.line == 0:
		return fmt.Errorf("has no <%s>", p.fileSum)
	}
	h := p.m.newHash()
	want, err := parseSum(f.text, h.Size())
	if err != nil {
		return fmt.Errorf("%s %w", p.fileSum, err)
	}
	// The value is the first that reads so, as it is to bmaptool.
	before, after, _ := bytes.Cut(raw, []byte(f.text))
	h.Write(before)
	h.Write(bytes.Repeat([]byte{'0'}, len(f.text)))
	h.Write(after)
	if got := h.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("the map is damaged or was edited: its checksum is %x, and it says %x", got, want)
	}
	return nil
}
