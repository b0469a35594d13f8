package volume

import (
	"io"
	"os"
	"slices"
	"testing"

	"multidd/internal/block"
)

// watch feeds a file to a Watcher in blocks of the sizes that size returns, and returns
// the union of what it says.
func watch(t testing.TB, path string, size func() int) (block.Map, *Watcher) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWatcher()
	t.Cleanup(w.Close)
	var u told
	off := int64(0)
	for {
		p := make([]byte, size())
		n, err := io.ReadFull(f, p)
		for _, e := range w.See(off, p[:n]) {
			if e.Off < off || e.End() > off+int64(n) {
				t.Fatalf("%v is not in the %d bytes at %d", e, n, off)
			}
			u.use(e)
		}
		clear(p) // it is not to be kept
		off += int64(n)
		if err != nil {
			break
		}
	}
	return block.Map{Size: off, Used: u.used}, w
}

// missing returns the first extent of b that is not in a.
func missing(a, b block.Map) (block.Extent, bool) {
	for _, e := range b.Used {
		i, _ := slices.BinarySearchFunc(a.Used, e, func(x, y block.Extent) int {
			if x.End() <= y.Off {
				return -1
			}
			return 1
		})
		if i == len(a.Used) || a.Used[i].Intersect(e) != e {
			return e, true
		}
	}
	return block.Extent{}, false
}

// streamed compares what a Watcher says with what was found by looking.
func streamed(t *testing.T, path string, d *Disk) {
	t.Helper()
	want := d.Map()
	for _, size := range []int{1 << 20, 65536, 300_001} {
		got, w := watch(t, path, func() int { return size })
		if e, ok := missing(got, want); ok {
			t.Errorf("in blocks of %d: %v are called free", size, e)
		}
		if extra := got.Bytes() - want.Bytes(); extra > 0 {
			t.Logf("in blocks of %d: %d bytes too many: %v", size, extra, difference(got, want))
		}
		if disk := w.Disk(); !slices.Equal(disk.Map().Used, got.Used) {
			t.Errorf("in blocks of %d: its Disk has another map", size)
		}
	}
}
