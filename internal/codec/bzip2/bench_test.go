package bzip2

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// BenchmarkReader unpacks something like a card image: text, what was packed
// before, and empty space, in streams of full blocks.
func BenchmarkReader(b *testing.B) {
	var image []byte
	for i := uint64(0); len(image) < 4_000_000; i++ {
		image = append(image, words(i, 150_000)...)
		image = append(image, noise(i, 50_000)...)
		image = append(image, bytes.Repeat(words(i, 900), 40)...)
		image = append(image, make([]byte, 100_000)...)
	}
	text := short(image)
	s := newStream(9)
	for text := text[:len(text)/maxBlock*maxBlock]; len(text) > 0; text = text[maxBlock:] {
		s.block(sorted(text[:maxBlock]))
	}
	packed := bytes.Repeat(s.end().b, 6)
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.SetBytes(6 * int64(len(s.text)))
			for b.Loop() {
				r := NewReader(bytes.NewReader(packed), workers)
				if n, err := r.WriteTo(io.Discard); err != nil || n != 6*int64(len(s.text)) {
					b.Fatal(n, err)
				}
				r.Close()
			}
		})
	}
}
