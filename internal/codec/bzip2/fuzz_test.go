package bzip2

import (
	"bytes"
	stdlib "compress/bzip2"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// FuzzReader compares with compress/bzip2. What one accepts the other must
// unpack to the same bytes, but that
//   - the standard library refuses randomised blocks, codes with words too many
//     (even unused ones) and zeros after the last stream, reads codes with words
//     too few unlike bzip2, and
//   - it accepts, and bzip2 itself refuses, blocks too big for their level and
//     blocks that end inside a run.
//
// Of what both refuse they must return the same bytes before the error, as far
// as both return any: this package returns none of a bad block.
func FuzzReader(f *testing.F) {
	text := pack([]byte("some text"), bytes.Repeat([]byte{'a'}, 300))
	f.Add(text)
	f.Add(text[:len(text)-3])
	f.Add(newStream(1).end().b)
	f.Add(append(pack(noise(1, 300)), text...))
	f.Add(append(bytes.Clone(text), 0, 0))
	random := sorted(words(1, 700))
	random.random = true
	s := newStream(2)
	s.block(random)
	f.Add(s.end().b)
	f.Fuzz(func(t *testing.T, packed []byte) {
		want, wantErr := io.ReadAll(stdlib.NewReader(bytes.NewReader(packed)))
		got, err := unpack(t, bytes.NewReader(packed), 2)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("%v is not an Error", err)
		}
		stricter := wantErr != nil && (strings.Contains(wantErr.Error(), "randomized") ||
			strings.Contains(wantErr.Error(), "Huffman tree") || bytes.HasSuffix(packed, []byte{0}))
		switch {
		case err == nil && wantErr == nil:
			if !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes, the standard library %d others", len(got), len(want))
			}
		case err == nil:
			if !stricter {
				t.Fatalf("accepted, but the standard library says: %v", wantErr)
			}
		case wantErr == nil:
			if !strings.Contains(e.Reason, "of level") && !strings.Contains(e.Reason, "inside a run") {
				t.Fatalf("%v, but the standard library accepts it", err)
			}
		default:
			if !bytes.HasPrefix(want, got) && !bytes.HasPrefix(got, want) {
				t.Fatalf("%d bytes before %v, %d others before %v", len(got), err, len(want), wantErr)
			}
		}
	})
}

// FuzzColumn packs a last column with codes and a first row of any kind, and
// compares with the simplest decoder there is.
func FuzzColumn(f *testing.F) {
	f.Add([]byte("annb"), uint16(3), uint64(0))
	f.Add(bytes.Repeat([]byte{1, 2, 3, 3, 3, 3, 9}, 300), uint16(77), uint64(5))
	f.Add(noise(1, 12_000), uint16(5000), uint64(6))
	f.Fuzz(func(t *testing.T, column []byte, orig uint16, seed uint64) {
		if len(column) == 0 || len(column) > 100_000 {
			return
		}
		p := spec{column: column, orig: int(orig) % len(column), random: seed%2 == 1}
		if seed > 0 {
			p.codes = rand.New(rand.NewPCG(seed, 0))
		}
		s := newStream(1)
		s.block(p)
		got, err := unpack(t, bytes.NewReader(s.end().b), 1)
		if err == nil && !bytes.Equal(got, s.text) {
			t.Fatalf("got %d bytes, want %d others", len(got), len(s.text))
		}
		if err != nil && !strings.Contains(err.Error(), "inside a run") {
			t.Fatal(err)
		}
	})
}

// FuzzWriter packs anything, some of it several times, and unpacks it again; the
// standard library must agree, and many goroutines make what one makes.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("banana"), uint16(1), uint8(0))
	f.Add([]byte{0}, uint16(60_000), uint8(3))
	f.Add([]byte{5, 5, 5, 5, 251}, uint16(9_000), uint8(100))
	f.Add(words(1, 3000), uint16(40), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, times uint16, noisy uint8) {
		if len(data) > 100_000 {
			return
		}
		data = bytes.Repeat(data, 1+min(int(times), 300_000/(len(data)+1)))
		for i := range noise(uint64(noisy), int(noisy)) {
			if len(data) > 0 {
				data[(i+1)*7919%len(data)] ^= noisy
			}
		}
		p := packed(t, data, 1, 1, 1<<20)
		if again := packed(t, data, 1, 3, 1+int(times)); !bytes.Equal(p, again) {
			t.Errorf("one goroutine makes %d bytes, three %d others", len(p), len(again))
		}
		if got, err := unpack(t, bytes.NewReader(p), 2); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes come out of %d: %v", len(got), len(data), err)
		}
		if got, err := io.ReadAll(stdlib.NewReader(bytes.NewReader(p))); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the standard library makes %d bytes of %d: %v", len(got), len(data), err)
		}
	})
}

// FuzzSort compares with the simplest way to sort rotations.
func FuzzSort(f *testing.F) {
	f.Add([]byte("abracadabra"), uint8(2))
	f.Add(bytes.Repeat([]byte{1, 0}, 60), uint8(0))
	f.Add([]byte("\x00\x00\x00\x00\xfb\x00\x00\x00\x00\xfb\x01"), uint8(9))
	f.Fuzz(func(t *testing.T, text []byte, times uint8) {
		text = bytes.Repeat(text, 1+int(times)%10)
		if len(text) == 0 || len(text) > 3000 {
			return
		}
		for _, s := range sorters() {
			mustSort(t, s, text)
		}
	})
}
