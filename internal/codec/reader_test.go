package codec

import (
	"bytes"
	"testing"
)

func TestWhatOtherToolsPackedComesOut(t *testing.T) {
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			for _, n := range []int{0, 1, 3, 100_000, some(1_000_000)} {
				if n == 0 && m.format == Zip {
					continue // zip packs no empty standard input
				}
				want := sample(uint64(n), n)
				packed := m.make(t, want)
				if f := Recognise(packed[:min(len(packed), HeadLen)]); f != m.format {
					t.Errorf("%d bytes are recognised as %s, not %s", n, f, m.format)
				}
				for _, workers := range []int{1, 4} {
					got, err := unpack(packed, m.format, ReadOptions{Workers: workers})
					if err != nil {
						t.Errorf("%d bytes, %d workers: %v", n, workers, err)
					} else if !bytes.Equal(got, want) {
						t.Errorf("%d bytes, %d workers: something else comes out", n, workers)
					}
				}
			}
		})
	}
}
