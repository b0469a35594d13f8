package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/iotest"
)

// faultSize is the length of the images that are damaged here, in bytes: enough
// for several blocks, frames or streams where a tool was told to make such.
const faultSize = 250_000

// eachMaker runs a test on a stream of every kind.
func eachMaker(t *testing.T, test func(t *testing.T, m maker, want, packed []byte)) {
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			want := sample(3, max(some(faultSize), 120_000))
			test(t, m, want, m.make(t, want))
		})
	}
}

// places returns some places in n, with the first and the last ones.
func places(n, first, between, last int) []int {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	var at []int
	for i := range n {
		if i < first || i >= n-last || r.IntN(n) < between {
			at = append(at, i)
		}
	}
	return at
}

func TestACutStreamIsAnErrorWhereverItIsCut(t *testing.T) {
	whole := 0
	cut := func(t *testing.T, m maker, size, first, between, last int) {
		want := sample(3, size)
		packed := m.make(t, want)
		for _, at := range places(len(packed), first, between, last) {
			got, err := unpack(packed[:at], m.format, ReadOptions{Workers: 2})
			_, isError := errors.AsType[*Error](err)
			switch {
			case err == nil && (m.endless || Recognise(packed[at:]) == m.format):
				// What is missing is complete in itself: nobody can know that it was there.
				if m.endless {
					whole++
				}
				if !bytes.HasPrefix(want, got) {
					t.Errorf("cut at %d: something else comes out", at)
				}
			case !isError || !errors.Is(err, io.ErrUnexpectedEOF):
				t.Errorf("cut at %d of %d: %v", at, len(packed), err)
			}
		}
	}
	seen := make(map[Format]bool)
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			last := 1024
			if seen[m.format] {
				last = 150 // the ends are alike
			}
			seen[m.format] = true
			cut(t, m, 20_000, some(40), some(20), some(last))
			cut(t, m, faultSize, 0, some(8), some(16))
		})
	}
	if whole == 0 {
		t.Error("streams that do not say where they end were never taken for whole: this test would see nothing")
	}
}

func TestABitThatFlippedIsNeverTakenForTheImage(t *testing.T) {
	silent := 0
	eachMaker(t, func(t *testing.T, m maker, want, packed []byte) {
		r := rand.New(rand.NewPCG(4, uint64(len(packed))))
		for range some(40) {
			at, bit := r.IntN(len(packed)), r.IntN(8)
			bad := bytes.Clone(packed)
			bad[at] ^= 1 << bit
			got, err := unpack(bad, m.format, ReadOptions{Workers: 2})
			if err != nil || bytes.Equal(got, want) {
				continue // found, or of no consequence, such as in a file's name
			}
			if m.unchecked {
				silent++
				continue
			}
			t.Errorf("bit %d of byte %d flipped: other bytes come out, and no error", bit, at)
		}
	})
	if silent == 0 && !raceOn {
		t.Error("streams without checksums never came out wrong either: this test would see nothing")
	}
}

func TestWhatFollowsTheEndIsAnErrorUnlessItIsZeros(t *testing.T) {
	zeros := make([]byte, 4096)
	eachMaker(t, func(t *testing.T, m maker, want, packed []byte) {
		for _, c := range []struct {
			name string
			tail []byte
			bad  int // where in the tail it is wrong; -1: nowhere
		}{
			{"nothing", nil, -1},
			{"a sector of zeros", zeros[:512], -1},
			{"many zeros", zeros, -1},
			{"a letter", []byte("x"), 0},
			{"text", []byte("this is not an image\n"), 0},
			{"text after zeros", append(zeros[:512:512], "x"...), 512},
			{"half a magic number", packed[:2], -2},
			{"two zeros", zeros[:2], map[bool]int{true: -2, false: -1}[m.format == XZ]},
		} {
			got, err := unpack(append(packed[:len(packed):len(packed)], c.tail...), m.format, ReadOptions{Workers: 2})
			e, _ := errors.AsType[*Error](err)
			switch {
			case c.bad == -1 && (err != nil || !bytes.Equal(got, want)):
				t.Errorf("%s: %v", c.name, err)
			case c.bad != -1 && e == nil:
				t.Errorf("%s: %v", c.name, err)
			case c.bad >= 0 && !m.endless && e.Offset != int64(len(packed)+c.bad) && !(m.format == Bzip2 && e.Offset == int64(len(packed))):
				t.Errorf("%s: the error is said to be at %d, not %d: %v", c.name, e.Offset, len(packed)+c.bad, err)
			}
		}
	})
}

func TestStreamsOneAfterAnotherAreOneImage(t *testing.T) {
	for f, commands := range unpackers {
		if f == Raw {
			continue
		}
		t.Run(string(f), func(t *testing.T) {
			var want, packed []byte
			for i, m := range makers {
				if m.format != f {
					continue
				}
				data := sample(uint64(i), 50_000)
				want = append(want, data...)
				packed = append(packed, m.make(t, data)...)
				switch f {
				case XZ:
					packed = append(packed, make([]byte, 4*i)...)
				case Zstd, LZ4:
					packed = append(packed, "\x53\x2a\x4d\x18\x05\x00\x00\x00skip!"...)
				}
			}
			got, err := unpack(packed, f, ReadOptions{Workers: 2})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("they come out as %d bytes, not %d: %v", len(got), len(want), err)
			}
			if theirs := tool(t, packed, commands[0][0], commands[0][1:]...); !bytes.Equal(theirs, got) {
				t.Errorf("%s makes something else of them", commands[0][0])
			}
		})
	}
}

func TestTroubleWithReadingIsPassedOnAsItIs(t *testing.T) {
	eachMaker(t, func(t *testing.T, m maker, _, packed []byte) {
		for _, at := range []int{0, 1, 11, 100, len(packed) / 2, len(packed) - 1, len(packed)} {
			src := io.MultiReader(bytes.NewReader(packed[:at]), iotest.ErrReader(fmt.Errorf("read x: %w", syscall.EIO)))
			r, err := NewReader(src, m.format, ReadOptions{Workers: 2})
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
			if _, is := errors.AsType[*Error](err); is || !errors.Is(err, syscall.EIO) {
				t.Errorf("after %d bytes of %d: %v", at, len(packed), err)
			}
		}
	})
}

func TestBytesComeInWhateverPiecesTheSourceGives(t *testing.T) {
	eachMaker(t, func(t *testing.T, m maker, want, packed []byte) {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"half": iotest.HalfReader, "one": iotest.OneByteReader, "data and error": iotest.DataErrReader,
		} {
			r, err := NewReader(wrap(bytes.NewReader(packed)), m.format, ReadOptions{Workers: 2})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var got bytes.Buffer
			buf := make([]byte, 4096) // blocks end with it, too
			last := int64(0)
			for err == nil {
				var n int
				n, err = r.Read(buf)
				got.Write(buf[:n])
				if at := r.InputOffset(); at < last || at > int64(len(packed)) {
					t.Fatalf("%s: the offset goes from %d to %d of %d", name, last, at, len(packed))
				} else {
					last = at
				}
			}
			if err != io.EOF || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s: something else comes out: %v", name, err)
			}
			if last != int64(len(packed)) {
				t.Errorf("%s: %d bytes of %d have been used at the end", name, last, len(packed))
			}
			if n, err := r.Read(buf); n != 0 || err != io.EOF {
				t.Errorf("%s: after the end, Read returns %d, %v", name, n, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
