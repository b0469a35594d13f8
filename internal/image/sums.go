package image

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"multidd/internal/codec"
)

// maxSums is the most that is read of a file with digests, in bytes.
const maxSums = 1 << 20

// A subject is what a digest is of.
type subject int

const (
	ofFile   subject = iota // the file as it is
	ofImage                 // what it unpacks to
	ofEither                // whoever gave it did not say
)

// An expectation is a digest that an image must have.
type expectation struct {
	sum  string // SHA-256 in lower-case hexadecimal
	of   subject
	from string // who says so
}

// A sumLine is a line of a file with digests.
type sumLine struct {
	sum  string
	name string // base name of the file; "": the line has only a digest
}

// parseSums reads the SHA-256 digests in a file as sha256sum writes it
// ("digest  name", "digest *name"), as BSD's tools do ("SHA256 (name) =
// digest"), or with a digest and nothing else. Other lines, such as those of a
// signature, are passed over.
func parseSums(b []byte) []sumLine {
	var lines []sumLine
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxSums+1)
	for s.Scan() {
		text := strings.TrimRight(s.Text(), "\r")
		if rest, ok := strings.CutPrefix(text, "SHA256 ("); ok {
			if i := strings.LastIndex(rest, ") = "); i >= 0 && isSHA256(rest[i+4:]) {
				lines = append(lines, sumLine{strings.ToLower(rest[i+4:]), filepath.Base(rest[:i])})
			}
			continue
		}
		sum, name, _ := strings.Cut(strings.TrimSpace(text), " ")
		if !isSHA256(sum) {
			continue
		}
		if name = strings.TrimPrefix(strings.TrimPrefix(name, " "), "*"); name != "" {
			name = filepath.Base(name)
		}
		lines = append(lines, sumLine{strings.ToLower(sum), name})
	}
	return lines
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

// unpackedName returns the name without the ending that says how it is packed.
func unpackedName(name string) string {
	if codec.ByName(name) == codec.Raw {
		return name
	}
	return strings.TrimSuffix(name, filepath.Ext(name))
}

// findSums looks for digests of the image: in the file that the options name, or
// in those that lie beside the image.
func (im *Image) findSums() error {
	if s := im.o.SHA256; s != "" {
		if !isSHA256(s) {
			return fmt.Errorf("%.80q is not a SHA-256 digest, which has 64 hexadecimal digits", s)
		}
		im.expect = append(im.expect, expectation{strings.ToLower(s), ofEither, "you said"})
	}
	switch {
	case im.o.Sums == "none":
		return nil
	case im.o.Sums != "":
		return im.takeSums(im.o.Sums, ofEither, true)
	case im.in.file == nil || im.in.isDevice() || im.name == "-":
		return nil
	}
	plain := unpackedName(im.name)
	if err := im.takeSums(im.name+".sha256", ofFile, false); err != nil {
		return err
	}
	if plain != im.name {
		if err := im.takeSums(plain+".sha256", ofImage, false); err != nil {
			return err
		}
	}
	return im.takeSums(filepath.Join(filepath.Dir(im.name), "SHA256SUMS"), ofEither, false)
}

// takeSums takes the digests of the image from a file. A line that has no name,
// or the only one there is, is a digest of what the file itself is named for. If
// the file is demanded, it must have one.
func (im *Image) takeSums(path string, named subject, demanded bool) error {
	b, err := readSmall(path, maxSums)
	if errors.Is(err, fs.ErrNotExist) && !demanded {
		return nil
	}
	switch {
	case err != nil && demanded:
		return fmt.Errorf("read the digests of the image: %w", err)
	case err != nil:
		im.warn("the digests in %s were not checked: %v", path, err)
		return nil
	}
	lines := parseSums(b)
	base := filepath.Base(im.name)
	list := named == ofEither && !demanded // it is about many files
	found := false
	for _, l := range lines {
		of := named
		switch {
		case l.name == base:
			of = ofFile
		case l.name == filepath.Base(unpackedName(base)):
			of = ofImage
		case list || l.name != "" && len(lines) > 1:
			continue
		}
		found = true
		im.expect = append(im.expect, expectation{l.sum, of, path + " says"})
	}
	switch {
	case found || list:
		return nil
	case demanded:
		return fmt.Errorf("%s has no SHA-256 digest of %s", path, base)
	}
	im.warn("%s has no SHA-256 digest of %s: it was not checked", path, base)
	return nil
}

// judge compares the digests that are known ("": is not) with those expected.
func (im *Image) judge(file, image string) error {
	for _, e := range im.expect {
		var got, what string
		switch {
		case e.of == ofFile && file != "" && file != e.sum:
			got, what = file, "it has"
		case e.of == ofImage && image != "" && image != e.sum:
			got, what = image, "what it unpacks to has"
		case e.of == ofEither && file != "" && image != "" && file != e.sum && image != e.sum:
			got, what = file, "it has"
			if file != image {
				got, what = file+", and "+image+" when unpacked", "it has"
			}
		default:
			continue
		}
		return im.bad(reasonDigest, -1, fmt.Errorf("%s the SHA-256 %s, but %s %s: get the image again, or correct the digest", what, got, e.from, e.sum))
	}
	return nil
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	// Whoever waits for a writer at a named pipe would wait for ever.
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a plain file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than %d MiB", path, limit>>20)
	}
	return b, err
}
