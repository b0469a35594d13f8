package bzip2

import (
	"bytes"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// sortedBy returns what a sorter makes of text: the last column, and which row the
// text is.
func sortedBy(s *sorter, text []byte) spec {
	buf := make([]byte, 1+len(text)+around)
	copy(buf[1:], text)
	s.made = 0
	s.sort(buf, len(text))
	p := spec{column: make([]byte, len(s.rows)), orig: firstRow(s.rows)}
	for i, row := range s.rows {
		p.column[i] = byte(row >> 24)
	}
	return p
}

// mustSort fails unless s sorts text as the simplest method there is does. Of
// equal rows any may be the text.
func mustSort(t *testing.T, s *sorter, text []byte) {
	t.Helper()
	got, want := sortedBy(s, text), sorted(text)
	if !bytes.Equal(got.column, want.column) || !bytes.Equal(naiveText(got.column, got.orig), text) {
		t.Fatalf("%d bytes are sorted wrongly, far %d: %q", len(text), s.far, text)
	}
	places := map[uint32]bool{}
	for _, row := range s.rows {
		places[row&rowPlace] = true
	}
	if len(places) != len(text) {
		t.Fatalf("%d bytes have %d rotations", len(text), len(places))
	}
}

// sorters compare by ranks as soon as can be, as usual, and hardly ever.
func sorters() []*sorter {
	return []*sorter{{far: 0}, newSorter(), {far: 100}}
}

func TestAllShortTextsAreSorted(t *testing.T) {
	for _, s := range sorters() {
		for n := 1; n <= 6+some(8)/2; n++ {
			text := make([]byte, n)
			for v := range 1 << n {
				for i := range text {
					text[i] = byte(v >> i & 1)
				}
				mustSort(t, s, text)
			}
		}
	}
}

func TestTextsOfManyKindsAreSorted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	all := sorters()
	for round := range some(4000) {
		text := make([]byte, 1+r.IntN(250))
		letters := 1 + r.IntN(4)
		for i := range text {
			switch round % 4 {
			case 0: // hills and valleys
				text[i] = byte(i / letters % 90)
			case 1:
				text[i] = byte(r.IntN(256))
			default:
				text[i] = byte(r.IntN(letters))
			}
		}
		if round%3 == 0 { // some of it again and again
			period, from := 1+r.IntN(len(text)), r.IntN(len(text))
			for i := from; i+period < len(text); i++ {
				text[i+period] = text[i]
			}
		}
		if round%5 == 0 {
			text[r.IntN(len(text))] ^= 1
		}
		mustSort(t, all[round%len(all)], text)
	}
}

// mostKeys is how many keys may be made to sort m stars: some for the text, and for
// ranks as often as spans can double.
func mostKeys(m int) int { return m * (4 + bits.Len(uint(m))) }

// Whatever repeats, how much is compared grows hardly faster than the text. Without
// ranks it would with the square of it.
func TestRepeatsDoNotMakeSortingSlow(t *testing.T) {
	s, byText := newSorter(), &sorter{far: 4000}
	slow := 0
	all := repeats(8_000)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text := short(all[name])
		text = text[:min(len(text), 8_000)]
		p := sortedBy(s, text)
		if most := mostKeys(len(s.stars)); s.made > most {
			t.Errorf("%s: %d keys were made to sort %d stars, more than %d", name, s.made, len(s.stars), most)
		}
		if !bytes.Equal(naiveText(p.column, p.orig), text) {
			t.Errorf("%s: sorted wrongly", name)
		}
		if sortedBy(byText, text); byText.made > 10*mostKeys(len(s.stars)) {
			slow++
		}
	}
	if slow < 5 {
		t.Errorf("without ranks %d texts of %d are slow to sort, so this test proves nothing", slow, len(all))
	}
}

// Keys that make partitioning slow are sorted all the same.
func TestKeysAreSortedWhateverTheirOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for n := range 300 {
		keys := make([]key, n)
		for i := range keys {
			keys[i] = key{uint64(r.IntN(1 + n/3)), uint64(i)}
		}
		r.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		want := slices.Clone(keys)
		slices.SortFunc(want, compareKeys)
		for _, most := range []int{0, 1, 2, 30} { // after so many partitions it is left to the other method
			got := slices.Clone(keys)
			partitionKeys(got, most)
			if !slices.Equal(got, want) {
				t.Fatalf("%d keys are sorted wrongly", n)
			}
		}
		if sortKeys(keys); !slices.Equal(keys, want) {
			t.Fatalf("%d keys are sorted wrongly", n)
		}
	}
}

func TestMovesAreWhatAPlainListSays(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for round := range 60 {
		n := 1 + r.IntN(20_000)
		column := make([]byte, n)
		letters := 1 + r.IntN(256)
		for i := range column {
			column[i] = byte(r.IntN(letters) * 255 / letters)
			if i > 0 && r.IntN(60) >= round {
				column[i] = column[i-1]
			}
		}
		want, used := encodeColumn(column)
		rows := make([]uint32, n)
		for i, b := range column {
			rows[i] = uint32(b)<<24 | uint32(i+1)
		}
		var m mover
		m.short.make()
		m.move(rows, used)
		if !slices.EqualFunc(m.symbols, want, func(a uint16, b int) bool { return int(a) == b }) {
			t.Fatalf("round %d: %d bytes, %d of them different, become other symbols", round, n, len(used))
		}
	}
}

func TestCodesAreCompleteAndNotTooLong(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	var c coder
	for round := range 300 {
		counts := make([]uint32, 3+r.IntN(maxAlpha-2))
		a, b := uint32(1), uint32(1)
		for i := range counts {
			switch round % 3 {
			case 0: // as deep as can be
				counts[i] = a
				if a, b = b, a+b; b > 900_000 {
					a, b = 1, 1
				}
			case 1:
				counts[i] = r.Uint32N(1 << r.IntN(20))
			}
		}
		lengths := make([]uint8, len(counts))
		c.fit(lengths, counts)
		sum := 0
		for _, l := range lengths {
			if l < 1 || l > longestCode {
				t.Fatalf("round %d: a code of %d bits", round, l)
			}
			sum += 1 << (longestCode - l)
		}
		if sum != 1<<longestCode {
			t.Errorf("round %d: the code is not complete", round)
		}
		for i := range counts {
			for j := range counts {
				if counts[i] > max(counts[j], 1) && lengths[i] > lengths[j] {
					t.Fatalf("round %d: what is used %d times has %d bits, what is used %d times has %d", round, counts[i], lengths[i], counts[j], lengths[j])
				}
			}
		}
	}
}
