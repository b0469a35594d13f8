package codec

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"
)

// settle waits until no more goroutines run than before, and tells whether so.
func settle(before int) bool {
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

func TestNothingRunsOnAfterClose(t *testing.T) {
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			packed := m.make(t, sample(2, 400_000))
			before := runtime.NumGoroutine()
			for _, n := range []int64{0, 1, 200_000, 1 << 40} {
				r, err := NewReader(bytes.NewReader(packed), m.format, ReadOptions{Workers: 4})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, r, n); err != nil && n < 1<<40 {
					t.Fatal(err)
				}
				for range 2 {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				}
				if n < 1<<40 {
					if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
						t.Errorf("a closed reader reads %d, %v", n, err)
					}
				}
			}
			if !settle(before) {
				t.Errorf("%d goroutines were there before, %d are now", before, runtime.NumGoroutine())
			}
		})
	}
}

// A full takes n bytes and then fails.
type full struct{ n int }

var errFull = errors.New("no space left")

func (f *full) Write(p []byte) (int, error) {
	if f.n < len(p) {
		n := f.n
		f.n = 0
		return n, errFull
	}
	f.n -= len(p)
	return len(p), nil
}

func TestAnErrorInWritingComesBackAndNothingRunsOn(t *testing.T) {
	data := sample(5, some(3_000_000)/10_000*10_000)
	for f := range unpackers {
		t.Run(string(f), func(t *testing.T) {
			before := runtime.NumGoroutine()
			for _, room := range []int{0, 5, 1000, 50_000} {
				w, err := NewWriter(&full{room}, f, WriteOptions{Workers: 3, Level: 1})
				for i := 0; err == nil && i < len(data); i += 10_000 {
					_, err = w.Write(data[i : i+10_000])
				}
				if closing := w.Close(); err == nil {
					err = closing
				}
				if !errors.Is(err, errFull) {
					t.Errorf("room for %d bytes: %v", room, err)
				}
				if again := w.Close(); f != Raw && !errors.Is(again, errFull) {
					t.Errorf("room for %d bytes, closed again: %v", room, again)
				}
			}
			if !settle(before) {
				t.Errorf("%d goroutines were there before, %d are now", before, runtime.NumGoroutine())
			}
		})
	}
}

// TestAFullDiskIsNoticedLongBeforeTheEnd: nobody wants to pack for an hour into nothing.
func TestAFullDiskIsNoticedLongBeforeTheEnd(t *testing.T) {
	data := sample(6, some(1<<20))
	for f := range unpackers {
		w, err := NewWriter(&full{100}, f, WriteOptions{Workers: 2, Level: 1})
		written := 0
		for ; err == nil && written < 100<<20; written += len(data) {
			_, err = w.Write(data)
		}
		if !errors.Is(err, errFull) {
			t.Errorf("%s: %d MiB were taken: %v", f, written>>20, err)
		}
		w.Close()
	}
}

func TestAClosedWriterTakesNothing(t *testing.T) {
	for f := range unpackers {
		if f == Raw {
			continue
		}
		var b bytes.Buffer
		w, err := NewWriter(&b, f, WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), w.Close()); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		n := b.Len()
		if _, err := w.Write([]byte("more")); err == nil || b.Len() != n {
			t.Errorf("%s: a closed writer writes: %v", f, err)
		}
	}
	if _, err := NewWriter(io.Discard, Zip, WriteOptions{}); err == nil {
		t.Error("zip is made")
	}
	if _, err := NewWriter(io.Discard, "rar", WriteOptions{}); err == nil {
		t.Error("rar is made")
	}
	if _, err := NewReader(bytes.NewReader(nil), "rar", ReadOptions{}); err == nil {
		t.Error("rar is read")
	}
}
