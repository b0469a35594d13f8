package bzip2

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"multidd/internal/sample"
)

// askBzip2 returns what the program bzip2 makes of packed.
func askBzip2(t *testing.T, packed []byte) ([]byte, error) {
	t.Helper()
	sample.Need(t, "bzip2")
	name := filepath.Join(t.TempDir(), "f.bz2")
	if err := os.WriteFile(name, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.Command("bzip2", "-dc", name).Output()
}

func TestRandomisedBlocksAreUnpacked(t *testing.T) {
	for name, text := range map[string][]byte{
		"too short for a flip": words(1, 617),
		"one flip":             words(1, 618),
		"some flips":           words(1, 5_000),
		"more than the table":  words(1, 300_000),
		"flips in runs":        bytes.Repeat([]byte{5, 5, 5, 5, 200, 4, 4, 4, 4, 100}, 300),
	} {
		flipped := bytes.Clone(text)
		naiveFlip(flipped)
		p := sorted(flipped)
		p.random = true
		s := newStream(9)
		s.block(p)
		packed := s.end().b
		if !bytes.Equal(s.text, naiveLong(text)) {
			t.Fatalf("%s: the test's own decoder differs", name)
		}
		mustUnpack(t, name, packed, s.text)
		if theirs, err := askBzip2(t, packed); err != nil || !bytes.Equal(theirs, s.text) {
			t.Errorf("%s: bzip2 says %v, equal: %v", name, err, bytes.Equal(theirs, s.text))
		}
		// Without the flips undone the checksum does not match.
		p.random = false
		s = newStream(9)
		s.block(p)
		packed = s.end().b
		packed[14] |= 0x80 // the randomised bit
		if _, err := unpack(t, bytes.NewReader(packed), 1); (err == nil) != (len(text) < 618) {
			t.Errorf("%s: flips that were never made are undone: %v", name, err)
		}
	}
}

// magicBlock returns a stream of one block whose packed form holds inner, many
// times, at some bit. With 254 bytes in use there are 256 symbols, so their
// codes are all the strings of 8 bits and a block can spell anything but 0xff,
// which ends it.
func magicBlock(inner []byte, spare int) *stream {
	used := make([]byte, 254)
	for i := range used {
		used[i] = byte(i)
	}
	symbols := []int{100, 101, 102}
	for i := range 40 {
		for _, b := range inner {
			symbols = append(symbols, int(b))
		}
		symbols = append(symbols, 2+i, 200-i)
	}
	s := newStream(9)
	column := decodeSymbols(symbols, used)
	s.raw(append(symbols, 255), used, spec{column: column, spare: spare})
	return s
}

// Bits that look like the begin of a block, or are one from its magic to its
// last bit, do not make one; nor does what looks like the end of a stream.
func TestMagicsInsideABlockAreNotBlocks(t *testing.T) {
	magic := []byte{0x31, 0x41, 0x59, 0x26, 0x53, 0x59}
	end := []byte{0x17, 0x72, 0x45, 0x38, 0x50, 0x90}
	whole := newStream(1)
	whole.block(spec{column: []byte("false"), codes: rand.New(rand.NewPCG(11, 0))})
	if whole.put(0, 7); bytes.IndexByte(whole.b, 0xff) >= 0 {
		t.Fatal("a block that holds 0xff cannot be spelled")
	}
	for name, inner := range map[string][]byte{
		"magic":         magic,
		"end":           append(append(end, 0, 0, 0, 0), magic...),
		"a whole block": whole.b[4:],
	} {
		shifts := map[int64]bool{}
		for spare := range 8 { // each selector is two bits: the block's bytes shift
			s := magicBlock(inner, spare)
			s.block(sorted([]byte("the block after it")))
			packed := s.end().b
			found := candidates(packed)
			for _, at := range found {
				shifts[at%8] = true
			}
			if len(found) < 40 {
				t.Errorf("%s: %d candidates, so this test proves nothing", name, len(found))
			}
			mustUnpack(t, name, packed, s.text)
			if theirs, err := askBzip2(t, packed); err != nil || !bytes.Equal(theirs, s.text) {
				t.Errorf("%s: bzip2 says %v", name, err)
			}
		}
		if len(shifts) < 4 {
			t.Errorf("%s: the candidates are at %d bits of a byte only", name, len(shifts))
		}
	}
	// The false block is a good one where blocks may begin.
	alone := newStream(1)
	alone.block(spec{column: []byte("false"), codes: rand.New(rand.NewPCG(11, 0))})
	mustUnpack(t, "the false block", alone.end().b, alone.text)
}

// candidates returns every place in packed that has the magic.
func candidates(packed []byte) []int64 {
	in := newInput(bytes.NewReader(packed), len(packed)/chunkSize+1)
	in.fill()
	f := newFinder(in)
	var found []int64
	for from := int64(0); ; {
		at, err := f.next(from)
		if err != nil {
			return found
		}
		found = append(found, at)
		from = at + 1
	}
}

// A block far larger than a chunk, full of false candidates, with hardly a free
// buffer: whoever waits for whom, it goes on.
func TestManyFalseCandidatesDoNotBlockTheReader(t *testing.T) {
	used := make([]byte, 254)
	for i := range used {
		used[i] = byte(i)
	}
	r := rand.New(rand.NewPCG(5, 5))
	var symbols []int
	for len(symbols) < 500_000 {
		symbols = append(symbols, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59)
		for range r.IntN(60) {
			symbols = append(symbols, 2+r.IntN(253))
		}
	}
	column := decodeSymbols(symbols, used)
	s := newStream(9)
	s.raw(append(symbols, 255), used, spec{column: column})
	one := s.end().b
	packed := bytes.Repeat(one, 3)
	if found := len(candidates(packed)); found < 30_000 {
		t.Fatalf("%d candidates, so this test proves nothing", found)
	}
	packed = append(packed, make([]byte, 2*maxPacked)...) // the candidates are far behind here
	mustUnpack(t, "false candidates", packed, bytes.Repeat(s.text, 3))
}

func TestTheMagicIsFoundAtEveryBit(t *testing.T) {
	for _, near := range []int{0, 9, 300, chunkSize - 7, chunkSize - 6, chunkSize - 3, chunkSize - 1, chunkSize, 2*chunkSize - 4} {
		for bit := range 8 {
			for _, tail := range []int{0, 1, 20} {
				at := int64(near*8 + bit)
				p := bytes.Repeat([]byte{0x55}, (near*8+bit+48+7)/8+tail)
				w := &stream{}
				w.put(0, uint(8+bit))
				w.put(blockMagic, 48)
				for i, b := range w.b[1:] {
					p[near+i] = b
				}
				if found := candidates(p); len(found) != 1 || found[0] != at {
					t.Errorf("at bit %d, %d bytes behind it: found %v", at, tail, found)
				}
				p[near+3] ^= 0x10
				if found := candidates(p); len(found) != 0 {
					t.Errorf("at bit %d a wrong magic was found: %v", at, found)
				}
			}
		}
	}
}

func TestBackToBackMagicsAreAllFound(t *testing.T) {
	w := &stream{}
	w.put(0, 3)
	var want []int64
	for i := range uint(60_000) {
		want = append(want, int64(w.at()))
		w.put(blockMagic, 48)
		w.put(0, i%5)
	}
	if got := candidates(w.b); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("found %d magics, want %d", len(got), len(want))
	}
}

// A vector that needs no other program: made by bzip2 1.0.8.
func TestAVectorIsUnpacked(t *testing.T) {
	packed, err := hex.DecodeString("425a68393141592653594eece83600000251800010400006449080200031064c4101a7a9a580bb9431f8bb9229c28482776741b0")
	if err != nil {
		t.Fatal(err)
	}
	mustUnpack(t, "hello world", packed, []byte("hello world\n"))
}

func TestEveryCompleteCodeIsRead(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		column := noise(seed, 1+r.IntN(3000))
		most := 1 + r.IntN(256)
		for i := range column {
			column[i] = byte(int(column[i]) * most >> 8)
			if i > 0 && r.IntN(4) > 0 {
				column[i] = column[i-1]
			}
		}
		s := newStream(9)
		s.block(spec{column: column, orig: r.IntN(len(column)), codes: r, spare: r.IntN(3)})
		got, err := unpack(t, bytes.NewReader(s.end().b), 1)
		if err != nil && !bytes.Contains([]byte(err.Error()), []byte("inside a run")) || err == nil && !bytes.Equal(got, s.text) {
			t.Errorf("seed %d: %v, equal: %v", seed, err, bytes.Equal(got, s.text))
		}
	}
}

// Codes that no good encoder makes mean what they mean to bzip2.
func TestStrangeCodesAreReadAsBzip2ReadsThem(t *testing.T) {
	for name, p := range map[string]spec{
		"words too few":            {column: []byte("ba"), code: []int{3, 5, 20, 12}},
		"one word of each length":  {column: []byte("ccbbaaddcc"), code: []int{19, 2, 18, 5, 10, 11}},
		"words too many":           {column: []byte("a"), code: []int{1, 2, 1}},
		"many words too many":      {column: []byte("a"), code: []int{1, 20, 1}},
		"words too many, all used": {column: []byte("aaa"), code: []int{1, 1, 1}},
	} {
		s := newStream(1)
		s.block(p)
		packed := s.end().b
		theirs, theirErr := askBzip2(t, packed)
		got, err := unpack(t, bytes.NewReader(packed), 1)
		if (err == nil) != (theirErr == nil) || err == nil && !bytes.Equal(got, theirs) {
			t.Errorf("%s: got %q, %v; bzip2 says %q, %v", name, got, err, theirs, theirErr)
		}
		if name != "words too many, all used" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBitsThatAreNoCodeAreRefused(t *testing.T) {
	var tab table
	tab.build([]uint8{3, 5, 5, 20, 12})
	if _, n := tab.search(^uint64(0)); n != 0 {
		t.Error("bits that are no code were read as one")
	}
	b := &bitReader{data: bytes.Repeat([]byte{0xff}, 16)}
	if _, _, ok := b.group(&tab, new([groupSize]entry)); ok {
		t.Error("bits that are no code were read as a group")
	}
}

func TestTheFrontIsAList(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 9))
		list := noise(seed, 256)
		var f front
		f.list(list)
		var es [groupSize]entry
		var got [groupSize]byte
		most := 1 + r.IntN(256)
		for step := range 200 {
			n := r.IntN(groupSize + 1)
			for i := range n {
				es[i] = moveEntry(r.IntN(most), 1)
			}
			f.move(es[:n], &got)
			for i, e := range es[:n] {
				b := list[e.back()]
				copy(list[1:], list[:e.back()])
				list[0] = b
				if got[i] != b {
					t.Fatalf("seed %d, step %d: move %d brought %d to the front, want %d", seed, step, i, got[i], b)
				}
			}
		}
	}
}

func TestTheTextIsSpelledWhateverTheRows(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 4))
		n := 1 + r.IntN([]int{10, 1000, chains * spacing, 60_000, 200_000}[seed%5])
		column := noise(seed, n)
		switch seed % 4 {
		case 1:
			for i := range column {
				column[i] &= 3
			}
		case 2: // many short cycles
			for i := range column {
				column[i] = byte(i * 7 / n)
			}
		case 3:
			for i := range column {
				column[i] = byte((n - 1 - i) * 200 / n)
			}
		}
		c := newTestColumn(column)
		u := newTestUnsorter(n)
		orig := r.IntN(n)
		u.link(c)
		got := make([]byte, n)
		u.spell(got, c.bytes, uint32(orig))
		if !bytes.Equal(got, naiveText(column, orig)) {
			t.Errorf("seed %d: %d rows from %d are spelled wrongly", seed, n, orig)
		}
	}
}

func newTestUnsorter(n int) *unsorter {
	return &unsorter{rows: make([]uint32, 0, n+1), strands: make([]strand, maxBlock/spacing+2)}
}

func newTestColumn(p []byte) *column {
	c := &column{bytes: make([]byte, columnSize+8)}
	c.reset([]byte{0})
	for i, b := range p {
		c.bytes[i] = b
		c.count[b]++
		if c.n++; c.n%cutEvery == 0 {
			c.mark()
		}
	}
	c.mark()
	return c
}

// Rows where the marked ones are all neighbours leave one strand as long as the
// block, which no chains can share.
func TestOneEndlessStrandIsSpelled(t *testing.T) {
	const n = maxBlock
	u := newTestUnsorter(n)
	u.rows = u.rows[:n]
	var order []int
	for i := 0; i < n; i += spacing {
		order = append(order, i)
	}
	for i := range n {
		if i%spacing != 0 {
			order = append(order, i)
		}
	}
	want := noise(1, n)
	for i, row := range order {
		u.rows[row] = uint32(order[(i+1)%n])<<8 | uint32(want[i])
	}
	spare := make([]byte, columnSize)
	if u.follow(spare) {
		t.Error("there was room for the strands, so this test proves nothing")
	}
	got := make([]byte, n)
	u.spell(got, spare, 0)
	if !bytes.Equal(got, want) {
		t.Error("the text is spelled wrongly")
	}
}

func TestTheChecksumIsTheOneOfBzip2(t *testing.T) {
	p := noise(1, 300)
	for n := range p {
		if got, want := ^crc().update(^uint32(0), p[:n]), naiveCRC(p[:n]); got != want {
			t.Fatalf("%d bytes: %08x, want %08x", n, got, want)
		}
	}
	if got := ^crc().update(^uint32(0), []byte("123456789")); got != 0xfc891918 {
		t.Errorf("the CRC-32/BZIP2 of 123456789 is %08x", got)
	}
}

// Blocks come as they are decoded: one does not wait for the end of the input.
func TestABlockIsReturnedBeforeTheInputEnds(t *testing.T) {
	packed := pack(noise(1, 400_000))
	pr, pw := io.Pipe()
	r := NewReader(pr, 1)
	go pw.Write(append(packed, packed[:chunkSize]...)) // and then it says nothing
	done := make(chan error)
	go func() {
		_, err := io.ReadFull(r, make([]byte, 400_000))
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the block is held back")
	}
	pw.Close()
	r.Close()
}
