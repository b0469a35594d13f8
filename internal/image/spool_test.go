package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"multidd/internal/codec"
)

func TestAStoreThatIsTooSmallIsGivenUpAndTheRunGoesOn(t *testing.T) {
	data := bytes.Repeat([]byte("not zero"), 3<<20/8)
	path := place(t, "x.img", pack(t, codec.Gzip, data))
	dir := t.TempDir()
	im := open(t, path, Options{Store: NewStore(dir, 1<<20)})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	if !r.CanReread() {
		t.Fatal("it was given up at once")
	}
	if got := readAll(t, r, 0); got.err != io.EOF || !bytes.Equal(got.data, data) {
		t.Fatalf("the disk is not right: %v", got.err)
	}
	p := make([]byte, bufSize)
	if _, err := r.ReadAt(p, 2<<20); !errors.Is(err, ErrNotKept) {
		t.Errorf("beyond the limit: %v", err)
	}
	if r.CanReread() {
		t.Error("CanReread still promises everything")
	}
	// What was there before stays, for lanes that are on their way.
	if _, err := r.ReadAt(p, 4*bufSize); err != nil || !bytes.Equal(p, data[:bufSize]) {
		t.Errorf("before the limit: %v", err)
	}
	if w := im.Warnings(); len(w) != 1 || !strings.Contains(w[0], "may have 1048576 bytes, and they are all in use") {
		t.Errorf("warnings are %q", w)
	}
	wantStore(t, dir)
	r.Close()
	wantStore(t, dir)
	// If it is known that there is no room, it is not even begun.
	data, used := holey(2 << 20)
	path = place(t, "y.img.gz", pack(t, codec.Gzip, data))
	write(t, path+".bmap", []byte(aMap{used: used}.text(data)))
	im = open(t, path, Options{Store: NewStore(dir, 1<<19)})
	if r := im.Reader(newPool(t, buffers, bufSize), 0); r.CanReread() {
		t.Error("it was begun")
	}
}

// faultyFile fails its n-th operation and all after it.
type faultyFile struct {
	file
	left *atomic.Int64
}

func (f faultyFile) fail() error {
	if f.left.Add(-1) < 0 {
		return syscall.ENOSPC
	}
	return nil
}

func (f faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fail(); err != nil {
		n, _ := f.file.WriteAt(p[:len(p)/2], off) // a part still fits
		return n, err
	}
	return f.file.WriteAt(p, off)
}

func (f faultyFile) Truncate(n int64) error {
	return errors.Join(f.fail(), f.file.Truncate(n))
}

func (f faultyFile) Sync() error {
	return errors.Join(f.fail(), f.file.Sync())
}

func TestWhateverFailsInTheStoreTheRunGoesOn(t *testing.T) {
	data := disk(60, 1<<20)
	packed := pack(t, codec.Zstd, data)
	path := place(t, "x.img", packed)
	for n := int64(0); ; n++ {
		dir := t.TempDir()
		st := NewStore(dir, 0)
		left := &atomic.Int64{}
		left.Store(n)
		st.wrap = func(f file) file { return faultyFile{f, left} }
		im := open(t, path, Options{Store: st})
		readTo(t, im, data)
		if left.Load() >= 0 {
			wantStore(t, dir, sha(packed))
			if w := im.Warnings(); len(w) > 0 {
				t.Errorf("nothing failed, and yet: %q", w)
			}
			if n < 4 {
				t.Errorf("only %d operations", n)
			}
			return
		}
		wantStore(t, dir)
		if w := im.Warnings(); len(w) != 1 || !strings.Contains(w[0], "no space left on device") {
			t.Errorf("operation %d failed: warnings are %q", n, w)
		}
	}
}

// Fault 13 the other way round: the disk is the slow one.
func TestADiskThatWouldHoldTheCardsUpIsGivenUp(t *testing.T) {
	data := disk(61, 4<<20)
	path := place(t, "x.img", pack(t, codec.Zstd, data))
	gate := make(chan struct{})
	st := NewStore(t.TempDir(), 0)
	st.patience = time.Millisecond
	st.wrap = func(f file) file { return &slowFile{f, gate} }
	im := open(t, path, Options{Store: st})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	got := readAll(t, r, 0) // although the disk does nothing at all
	if got.err != io.EOF || !bytes.Equal(got.data, data) {
		t.Errorf("the disk is not right: %v", got.err)
	}
	if r.CanReread() {
		t.Error("the copy was not given up")
	}
	if w := im.Warnings(); len(w) != 1 || !strings.Contains(w[0], errSlow.Error()) {
		t.Errorf("warnings are %q", w)
	}
	close(gate)
	r.Close()
}

func TestADiskThatALaneReliesOnIsWaitedFor(t *testing.T) {
	data := disk(62, 4<<20)
	path := place(t, "x.img", pack(t, codec.Zstd, data))
	gate := make(chan struct{})
	st := NewStore(t.TempDir(), 0)
	st.patience = time.Millisecond
	st.wrap = func(f file) file { return &slowFile{f, gate} }
	im := open(t, path, Options{Store: st})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	b, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	lane := make(chan error)
	go func() {
		p := make([]byte, bufSize)
		_, err := r.ReadAt(p, 0)
		if err == nil && !bytes.Equal(p, data[:bufSize]) {
			err = errors.New("wrong bytes")
		}
		lane <- err
	}()
	for !r.spool.isAsked() {
		time.Sleep(time.Millisecond)
	}
	go func() {
		for range 200 { // as slow as it may be
			gate <- struct{}{}
		}
		close(gate)
	}()
	got := readAll(t, r, 0)
	if got.err != io.EOF || !r.CanReread() {
		t.Errorf("the copy was given up: %v, %q", got.err, im.Warnings())
	}
	if err := <-lane; err != nil {
		t.Error(err)
	}
}

func TestGranulesTellWhereACopyIsDamaged(t *testing.T) {
	const size = 3*granule + 100
	data := disk(63, size)
	var g granules
	for at := 0; at < size; at += 1000 {
		g.add(data[at:min(at+1000, size)])
	}
	g.end()
	if len(g.crc) != 4 {
		t.Fatalf("%d checksums", len(g.crc))
	}
	back, err := unpackSums(packSums(g.crc), size)
	if err != nil || fmt.Sprint(back) != fmt.Sprint(g.crc) {
		t.Errorf("%v, %v", back, err)
	}
	bad := bytes.Clone(data)
	bad[granule+5] ^= 1
	for _, c := range []struct {
		off, n int64
		ok     bool
	}{
		{0, granule, true}, {0, granule + 1, false}, {granule - 1, 2, false}, {2*granule - 1, 1, false},
		{2 * granule, granule + 100, true}, {size - 1, 1, true}, {0, size, false},
	} {
		p := make([]byte, c.n)
		if _, err := readChecked(bytes.NewReader(data), g.crc, size, p, c.off); err != nil || !bytes.Equal(p, data[c.off:c.off+c.n]) {
			t.Errorf("%d bytes at %d: %v", c.n, c.off, err)
		}
		_, err := readChecked(bytes.NewReader(bad), g.crc, size, p, c.off)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, errDamaged) {
			t.Errorf("%d bytes at %d of the damaged copy: %v", c.n, c.off, err)
		}
	}
}

func TestTheStoreIsInTheUsersCacheDirectory(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/some/where")
	if dir, err := DefaultStoreDir(); dir != "/some/where/multidd/store" || err != nil {
		t.Errorf("got %s, %v", dir, err)
	}
	st := NewStore(t.TempDir(), 0)
	var s syscall.Statfs_t
	if err := syscall.Statfs(st.dir, &s); err != nil {
		t.Fatal(err)
	}
	if limit := st.limitLocked(); limit <= 0 || limit > maxStore {
		t.Errorf("the limit is %d", limit)
	}
	if _, err := os.Stat(st.dir); err != nil {
		t.Error(err)
	}
}
