package overlay

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"multidd/internal/block"
)

// Whatever differs is found, in whole units, and nothing else.
func FuzzDiff(f *testing.F) {
	f.Add(uint64(1), uint16(512), uint16(100))
	f.Add(uint64(2), uint16(4096), uint16(8000))
	f.Add(uint64(3), uint16(1), uint16(0))
	f.Fuzz(func(t *testing.T, seed uint64, unitOf, cut uint16) {
		unit := int(unitOf) + 1
		r := rand.New(rand.NewPCG(seed, 2))
		const size = 3<<20 + 700
		base := noise(seed, size)
		edited := bytes.Clone(base)
		for range r.IntN(6) {
			at := r.IntN(size)
			n := min(r.IntN(5000), size-at)
			if r.IntN(2) == 0 {
				clear(edited[at : at+n])
			} else {
				copy(edited[at:], noise(seed+1, n))
			}
		}
		base = base[:size-int(cut)] // what base does not have differs
		where := []block.Extent{{Off: 0, Len: 1000}, {Off: 1000, Len: 2 << 20}, {Off: 2<<20 + 5000, Len: size - 2<<20 - 5000}}
		pieces, err := Diff(bytes.NewReader(base), bytes.NewReader(edited), where, unit)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(pieces); err != nil {
			t.Fatal(err)
		}
		want := append(bytes.Clone(base), make([]byte, cut)...)
		for _, e := range where {
			copy(want[e.Off:e.End()], edited[e.Off:e.End()])
		}
		if !bytes.Equal(model(append(bytes.Clone(base), make([]byte, cut)...), pieces), want) {
			t.Errorf("seed %d, units of %d: base with the pieces is not the edited copy", seed, unit)
		}
		for _, p := range pieces {
			if unit <= len(p.Data) && p.Extent().End() <= int64(len(base)) && bytes.Equal(p.Data, base[p.Off:p.Extent().End()]) {
				t.Errorf("seed %d: %v does not differ", seed, p.Extent())
			}
			if len(p.Data) > pieceSize || p.Off/pieceSize != (p.Extent().End()-1)/pieceSize {
				t.Errorf("%v crosses a multiple of %d", p.Extent(), pieceSize)
			}
		}
	})
}

// flat is a disk of one byte over and over.
type flat byte

func (f flat) ReadAt(p []byte, off int64) (int, error) {
	copy(p, bytes.Repeat([]byte{byte(f)}, len(p)))
	return len(p), nil
}

// dotted is a disk of zeros with a byte in every MiB.
type dotted struct{}

func (*dotted) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at := (off + 1<<20 - 1) &^ (1<<20 - 1); at < off+int64(len(p)); at += 1 << 20 {
		p[at-off] = 1
	}
	return len(p), nil
}

// A file system that grows has hundreds of MiB of empty inode tables.
func TestZerosTakeNoMemory(t *testing.T) {
	where := []block.Extent{{Off: 5, Len: 4 * MaxBytes}}
	for name, take := range map[string]func() ([]block.Block, error){
		"Take": func() ([]block.Block, error) { return Take(flat(0), where) },
		"Diff": func() ([]block.Block, error) { return Diff(flat(1), flat(0), where, 4096) },
	} {
		pieces, err := take()
		if err != nil {
			t.Fatal(err)
		}
		o, err := New(pieces)
		if err != nil {
			t.Fatal(err)
		}
		if e := o.Extents(); len(e) != 1 || e[0] != where[0] {
			t.Errorf("%s: %v", name, e)
		}
		for _, p := range pieces {
			if &p.Data[0] != &pieces[0].Data[0] {
				t.Fatalf("%s: zeros at %d have memory of their own", name, p.Off)
			}
		}
	}
	// A few other bytes among them take little.
	pieces, err := Take(&dotted{}, []block.Extent{{Off: 0, Len: 2 * MaxBytes}})
	if err != nil || len(pieces) < 256 {
		t.Errorf("%d pieces: %v", len(pieces), err)
	}
	// Negative control: of anything else there may not be that much.
	if _, err := Take(flat(1), where); err == nil || !strings.Contains(err.Error(), "more than 64 MiB") {
		t.Errorf("Take of other bytes: %v", err)
	}
	if _, err := Diff(flat(0), flat(1), where, 4096); err == nil {
		t.Error("Diff holds any amount of bytes")
	}
}

// What cannot be read is told with its place.
func TestAnEditedCopyThatEndsEarlyIsAnError(t *testing.T) {
	short := bytes.NewReader(make([]byte, 1000))
	where := []block.Extent{{Off: 0, Len: 2000}}
	_, err := Diff(flat(0), short, where, 512)
	_, err2 := Take(short, where)
	for _, err := range []error{err, err2} {
		if err == nil || !strings.Contains(err.Error(), "at byte 1000") || !strings.Contains(err.Error(), io.ErrUnexpectedEOF.Error()) {
			t.Errorf("got %v", err)
		}
	}
}
