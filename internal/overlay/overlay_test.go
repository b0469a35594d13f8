package overlay

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"multidd/internal/block"
)

// scattered returns pieces over a disk of size bytes, made of numbers: gaps and
// lengths in turn.
func scattered(numbers []byte, size int) []block.Block {
	var pieces []block.Block
	for at := 0; len(numbers) >= 2; numbers = numbers[2:] {
		at += int(numbers[0])
		n := int(numbers[1])
		if n == 0 || at+n > size {
			break
		}
		data := bytes.Repeat([]byte{0xa0 ^ byte(len(numbers))}, n)
		pieces = append(pieces, block.New(int64(at), data, nil))
		at += n
	}
	return pieces
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return b[:n]
}

// model lays pieces over a disk in the plainest way.
func model(disk []byte, pieces []block.Block) []byte {
	out := bytes.Clone(disk)
	for _, p := range pieces {
		copy(out[p.Off:], p.Data)
	}
	return out
}

func FuzzApply(f *testing.F) {
	f.Add([]byte{0, 10, 5, 7, 0, 200}, uint16(64))
	f.Add([]byte{63, 1, 0, 1, 0, 255, 255, 255}, uint16(1))
	f.Add([]byte{}, uint16(300))
	f.Fuzz(func(t *testing.T, numbers []byte, step uint16) {
		const size = 4000
		disk := noise(7, size)
		pieces := scattered(numbers, size)
		o, err := New(pieces)
		if err != nil {
			t.Fatal(err)
		}
		want := model(disk, pieces)
		var got []byte
		for at := 0; at < size; at += int(step) + 1 {
			part := disk[at:min(at+int(step)+1, size)]
			released := 0
			b := o.Apply(block.New(int64(at), part, func() { released++ }))
			if b.Off != int64(at) || len(b.Data) != len(part) {
				t.Fatalf("a block of %d bytes at %d became %d at %d", len(part), at, len(b.Data), b.Off)
			}
			if copied := &b.Data[0] != &part[0]; copied == bytes.Equal(part, want[at:at+len(part)]) {
				t.Fatalf("the block at %d: copied is %v", at, copied)
			}
			got = append(got, b.Data...)
			b.Release()
			if released != 1 {
				t.Fatalf("the block at %d was released %d times", at, released)
			}
		}
		if !bytes.Equal(got, want) || !bytes.Equal(disk, noise(7, size)) {
			t.Error("what comes out is wrong, or the image's own bytes were changed")
		}
		checkFill(t, o, disk, want, int(step))
		var sum int64
		for _, e := range o.Extents() {
			sum += e.Len
		}
		if sum != o.Bytes() || (block.Map{Size: size, Used: o.Extents()}).Check() != nil {
			t.Errorf("%d bytes in %v", o.Bytes(), o.Extents())
		}
	})
}

// checkFill fills parts of the disk and looks that it says where it did so.
func checkFill(t *testing.T, o *Overlay, disk, want []byte, step int) {
	for at := 0; at < len(disk); at += step + 1 {
		p := bytes.Clone(disk[at:min(at+step+1, len(disk))])
		done := o.Fill(p, int64(at))
		if !bytes.Equal(p, want[at:at+len(p)]) {
			t.Fatalf("Fill at %d is wrong", at)
		}
		whole := block.Extent{Off: int64(at), Len: int64(len(p))}
		var should []block.Extent
		for _, e := range o.Extents() {
			if in := e.Intersect(whole); in.Len > 0 {
				should = append(should, in)
			}
		}
		if !slices.Equal(done, should) {
			t.Fatalf("Fill at %d says %v, want %v", at, done, should)
		}
	}
}

func TestABlockThatDoesNotChangeIsReturnedAsItIs(t *testing.T) {
	disk := noise(3, 100)
	o, err := New([]block.Block{block.New(10, disk[10:20], nil), block.New(50, []byte{disk[50] ^ 1}, nil)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off, n int
		same   bool
	}{{0, 10, true}, {0, 50, true}, {51, 49, true}, {0, 51, false}, {50, 1, false}} {
		b := block.New(int64(c.off), disk[c.off:c.off+c.n], func() {
			if c.same {
				t.Errorf("%d bytes at %d: it was released", c.n, c.off)
			}
		})
		if got := o.Apply(b); (&got.Data[0] == &b.Data[0]) != c.same {
			t.Errorf("%d bytes at %d: returned as it is: %v", c.n, c.off, !c.same)
		}
	}
}

// O_DIRECT wants the address to be as even as the offset.
func TestCopiesAreAlignedAsTheirOffsets(t *testing.T) {
	for _, off := range []int64{0, 512, 4096, 4096 + 1024, 1<<20 - 512} {
		o, err := New([]block.Block{block.New(off, []byte{1}, nil)})
		if err != nil {
			t.Fatal(err)
		}
		b := o.Apply(block.New(off, make([]byte, 8192), nil))
		if got, want := int64(uintptr(unsafe.Pointer(&b.Data[0]))%block.Align), off%block.Align; got != want {
			t.Errorf("at %d: the address is %d past a multiple of %d, want %d", off, got, block.Align, want)
		}
		b.Release()
		o.Close()
	}
}

func TestPiecesMustBeInOrder(t *testing.T) {
	piece := func(off int64, n int) block.Block { return block.New(off, make([]byte, n), nil) }
	for _, c := range []struct {
		name   string
		pieces []block.Block
		ok     bool
	}{
		{"none", nil, true},
		{"touching", []block.Block{piece(0, 4), piece(4, 4)}, true},
		{"overlapping", []block.Block{piece(0, 5), piece(4, 4)}, false},
		{"backwards", []block.Block{piece(8, 4), piece(0, 4)}, false},
		{"empty", []block.Block{piece(8, 0)}, false},
		{"negative", []block.Block{piece(-4, 8)}, false},
		{"past all disks", []block.Block{piece(1<<63-2, 8)}, false},
	} {
		if _, err := New(c.pieces); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// However many blocks pass, only as much memory is held as blocks are out at once.
func TestBuffersAreBounded(t *testing.T) {
	released := 0
	o, err := New([]block.Block{block.New(0, bytes.Repeat([]byte{1}, 1<<20), func() { released++ })})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[*byte]bool{}
	for round := range 200 {
		var out []block.Block
		for range 3 {
			b := o.Apply(block.New(0, make([]byte, 4096<<(round%3)), nil))
			seen[&b.Data[0]] = true
			out = append(out, b)
		}
		for _, b := range out {
			b.Release()
		}
	}
	if len(o.spare) > maxSpare || len(seen) > 3*maxSpare {
		t.Errorf("%d buffers are kept, %d were made", len(o.spare), len(seen))
	}
	late := o.Apply(block.New(0, make([]byte, 4096), nil))
	o.Close()
	o.Close()
	if released != 1 || late.Data[0] != 1 {
		t.Errorf("the piece was released %d times; a block that is still out reads %d", released, late.Data[0])
	}
	late.Release()
	if len(o.spare) != 0 {
		t.Error("a buffer is kept after Close")
	}
}

// Cards that differ in the same way share an overlay.
func TestLanesMayShareAnOverlay(t *testing.T) {
	pieces := scattered([]byte{3, 100, 90, 100, 200, 10}, 4000)
	o, err := New(pieces)
	if err != nil {
		t.Fatal(err)
	}
	disk := noise(5, 4000)
	want := model(disk, pieces)
	var released atomic.Int32
	var lanes sync.WaitGroup
	for range 4 {
		lanes.Go(func() {
			for i := range 200 {
				at := i * 7 % 3000
				b := o.Apply(block.New(int64(at), disk[at:at+900], func() { released.Add(1) }))
				if !bytes.Equal(b.Data, want[at:at+900]) {
					t.Errorf("the block at %d is wrong", at)
				}
				b.Release()
			}
		})
	}
	lanes.Wait()
	o.Close()
	if released.Load() != 4*200 {
		t.Errorf("%d releases of %d blocks", released.Load(), 4*200)
	}
}
