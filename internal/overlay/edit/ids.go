package edit

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"multidd/internal/block"
	"multidd/internal/identity"
	"multidd/internal/volume"
	"multidd/internal/volume/ext"
)

// A change is that of an identifier: what stands for it in a text, and what will.
type change struct {
	old *regexp.Regexp
	now string // in small letters
}

// newChange returns the change of a word into another, in small or capital letters, where it
// stands alone, or before what the expression behind asks for.
func newChange(old, now, behind string) change {
	return change{regexp.MustCompile(`(?i)\b` + regexp.QuoteMeta(old) + behind), now}
}

// in returns a text with the identifier changed. The new one has as many letters as the old.
func (c change) in(b []byte) []byte {
	return c.old.ReplaceAllFunc(b, func(have []byte) []byte {
		now := c.now
		if old := string(have[:len(now)]); old == strings.ToUpper(old) && old != strings.ToLower(old) {
			now = strings.ToUpper(now)
		}
		return append([]byte(now), have[len(now):]...)
	})
}

// uuidText returns a new UUID as blkid shows it for such a file system.
func uuidText(p volume.Part, u [16]byte) string {
	h := hex.EncodeToString(u[:])
	if isFAT(p.FS) {
		return strings.ToUpper(h[:4] + "-" + h[4:8])
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func uuidChange(p volume.Part, u [16]byte) change {
	return newChange(p.FS.UUID, strings.ToLower(uuidText(p, u)), `\b`)
}

// diskSignature is where an MBR has its own, in bytes.
const diskSignature = 440

// diskID returns the first sector with another signature, and how that changes the names of
// partitions.
func (e *Editor) diskID(id [4]byte) (block.Block, change, error) {
	if e.disk.Table != "mbr" || len(e.disk.ID) != 8 {
		return block.Block{}, change{}, refuse("disk-id: only an MBR has a signature that can be changed")
	}
	b := make([]byte, 512)
	if err := readFull(e.base, b, 0); err != nil {
		return block.Block{}, change{}, fmt.Errorf("read the partition table: %w", err)
	}
	copy(b[diskSignature:], id[:])
	now := fmt.Sprintf("%08x", binary.LittleEndian.Uint32(id[:]))
	return block.New(0, b, nil), newChange(e.disk.ID, now, `-[0-9a-f]{2}\b`), nil
}

// planReferences adds the edits of all files that may name an identifier that changes.
func (e *Editor) planReferences(c *identity.Card, changes []change, of func(volume.Part) *work) error {
	apply := func(b []byte) ([]byte, error) {
		now := b
		for _, x := range changes {
			now = x.in(now)
		}
		if !bytes.Equal(now, b) && bytes.IndexByte(b, 0) >= 0 {
			return nil, errors.New("it names an identifier that changes, and is no text")
		}
		return now, nil
	}
	for _, p := range e.parts() {
		if editable(p) != nil {
			continue
		}
		for _, path := range identity.WellKnown() {
			w := of(p)
			w.files = append(w.files, fileEdit{path: path, existing: true, apply: apply})
		}
	}
	for _, r := range c.References {
		p, err := e.find(r.Partition)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Path, err)
		}
		w := of(p)
		if !slices.ContainsFunc(w.files, func(f fileEdit) bool { return f.path == r.Path }) && !e.exists(p, r.Path) {
			return refuse("%s is to be searched for identifiers, and is not in %s", r.Path, nameOf(p))
		}
		w.files = append(w.files, fileEdit{path: r.Path, existing: true, apply: apply})
	}
	return nil
}

// exists tells whether there is a file.
func (e *Editor) exists(p volume.Part, path string) bool {
	_, err := readFile(e.base, p, path, maxFile)
	return err == nil
}

// setUUID gives a copy another UUID. tune2fs computes all checksums anew where they depend on it,
// for which e2fsck must just have been there.
func (x *extPart) setUUID(ctx context.Context, f *os.File, u [16]byte) error {
	want := uuidText(x.p, u)
	out, complaint, status, err := x.e.program(ctx, []*os.File{f}, "y\n", "tune2fs", "-U", want, fdName(0))
	if err == nil && status != 0 {
		err = refuse("the UUID of %s cannot be changed: %s", nameOf(x.p), said(complaint+out))
	}
	if err != nil {
		return err
	}
	var have [16]byte
	if err := readFull(f, have[:], 1024+0x68); err != nil {
		return err
	}
	if have != u {
		return fmt.Errorf("tune2fs has not changed the UUID of %s", nameOf(x.p))
	}
	_, err = ext.Open(io.NewSectionReader(f, 0, x.p.Len))
	return err
}
