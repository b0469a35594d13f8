package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"multidd/internal/codec"
	"multidd/internal/sample"
)

func TestEveryFormatGivesTheDisk(t *testing.T) {
	data := disk(1, 1<<20+777)
	for _, f := range append([]codec.Format{codec.Raw}, packedFormats...) {
		t.Run(string(f), func(t *testing.T) {
			packed := data
			if f != codec.Raw {
				packed = pack(t, f, data)
			}
			// The name says nothing about the content.
			path := place(t, "disk.dat", packed)
			t.Run("file", func(t *testing.T) { checkWhole(t, open(t, path, Options{Digest: true}), f, data) })
			t.Run("pipe", func(t *testing.T) {
				in := struct{ io.Reader }{bytes.NewReader(packed)}
				checkWhole(t, open(t, "-", Options{Digest: true, Stdin: in}), f, data)
			})
			t.Run("file as standard input", func(t *testing.T) {
				in, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				im := open(t, "-", Options{Digest: true, Stdin: in})
				if im.Info() == nil || f == codec.Raw && im.Size() != int64(len(data)) {
					t.Errorf("a file as standard input is not known to be one: size %d", im.Size())
				}
				checkWhole(t, im, f, data)
			})
		})
	}
}

// checkWhole reads an image without a map, which must make the disk data.
func checkWhole(t *testing.T, im *Image, f codec.Format, data []byte) {
	t.Helper()
	if im.Format() != f {
		t.Errorf("format is %s, want %s", im.Format(), f)
	}
	r := im.Reader(newPool(t, buffers, bufSize), int64(len(data)))
	defer r.Close()
	got := readAll(t, r, 0)
	if got.err != io.EOF {
		t.Fatal(got.err)
	}
	if !bytes.Equal(got.data, data) {
		t.Error("the disk is not the one that was packed")
	}
	for i, e := range got.blocks {
		if e.Off != int64(i)*bufSize || e.Len != bufSize && i < len(got.blocks)-1 {
			t.Errorf("block %d is %v", i, e)
		}
	}
	if r.Digest() != sha(data) {
		t.Errorf("digest is %s, want %s", r.Digest(), sha(data))
	}
	if s := r.Stats(); s.Decoded != int64(len(data)) || s.Input == 0 || s.Waited == 0 || s.Source == 0 {
		t.Errorf("counters are %+v", s)
	}
}

func TestANamedPipeIsRead(t *testing.T) {
	data := disk(2, 400<<10)
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, _ = f.Write(data)
			_ = f.Close()
		}
	}()
	checkWhole(t, open(t, path, Options{Digest: true}), codec.Raw, data)
}

func TestWhatIsNoImageIsRefusedInOneSentence(t *testing.T) {
	dir := t.TempDir()
	empty := place(t, "empty.img", nil)
	_, err := Open(t.Context(), dir, Options{})
	if want := dir + " is a directory; give the image file in it"; err == nil || err.Error() != want {
		t.Errorf("a directory: got %v, want %s", err, want)
	}
	_, err = Open(t.Context(), filepath.Join(dir, "none.img"), Options{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: got %v", err)
	}
	_, err = Open(t.Context(), empty, Options{})
	wantBad(t, err, "image-decode", "it is empty")
	_, err = Open(t.Context(), "-", Options{Stdin: strings.NewReader("")})
	wantBad(t, err, "image-decode", "standard input: it is empty")
}

// A damaged image must never end like a good one. A raw image has nothing to
// tell by, which is the negative control.
func TestADamagedImageNeverEndsWell(t *testing.T) {
	data := disk(3, 200<<10)
	for _, f := range packedFormats {
		t.Run(string(f), func(t *testing.T) {
			good := pack(t, f, data)
			dir := t.TempDir()
			try := func(what string, b []byte) {
				path := filepath.Join(dir, "x.img")
				write(t, path, b)
				im, err := Open(t.Context(), path, Options{})
				if err == nil {
					r := im.Reader(newPool(t, buffers, bufSize), 0)
					err = readAll(t, r, 0).err
					_ = im.Close()
				}
				if err == io.EOF && codec.Recognise(b) != codec.Raw {
					t.Errorf("%s ends well", what)
				} else if err != io.EOF {
					wantBad(t, err, "image-decode", "x.img: ")
				}
			}
			for _, cut := range []int{len(good) - 1, len(good) - 4, len(good) - 13, len(good) / 2, 100, 7, 3} {
				try(fmt.Sprintf("cut at %d of %d bytes", cut, len(good)), good[:cut])
			}
			try("with garbage behind it", append(slices.Clone(good), "garbage"...))
			flipped := slices.Clone(good)
			flipped[len(good)/2] ^= 0x10
			try("with a bit flipped", flipped)
		})
	}
	cut := place(t, "raw.img", data[:len(data)/2])
	if got, _ := read(t, cut, Options{}, 0); got.err != io.EOF {
		t.Errorf("a raw image that was cut: got %v; nothing told so", got.err)
	}
}

// Fault 36.
func TestAnImageWithoutEndIsStoppedAtTheLargestCard(t *testing.T) {
	const size, limit = 16 << 20, 5<<20 + 512
	bomb := pack(t, codec.Zstd, make([]byte, size))
	path := place(t, "bomb.img.zst", bomb)
	im := open(t, path, Options{})
	r := im.Reader(newPool(t, buffers, bufSize), limit)
	defer r.Close()
	got := readAll(t, r, 0)
	wantBad(t, got.err, "image-decode", fmt.Sprintf("it is bigger than the largest card, which has %d bytes", limit))
	if n := r.Stats().Decoded; n > limit+bufSize {
		t.Errorf("%d bytes were unpacked, the limit is %d", n, limit)
	}
	for _, b := range got.blocks {
		if b.End() > limit {
			t.Errorf("%v was handed on", b)
		}
	}
	// Negative controls: without a limit, and with room for it.
	for _, limit := range []int64{0, size} {
		if got, _ := read(t, path, Options{}, limit); got.err != io.EOF {
			t.Errorf("limit %d: %v", limit, got.err)
		}
	}
	raw := place(t, "big.img", disk(4, 1<<20))
	got, _ = read(t, raw, Options{}, 1<<20-1)
	wantBad(t, got.err, "image-decode", "bigger than the largest card")
	if len(got.blocks) > 0 {
		t.Errorf("of a raw image known to be too big %v was handed on", got.blocks)
	}
	endless := struct{ io.Reader }{zeros{}}
	im = open(t, "-", Options{Stdin: endless})
	r = im.Reader(newPool(t, buffers, bufSize), limit)
	wantBad(t, readAll(t, r, 0).err, "image-decode", "bigger than the largest card")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Fault 38.
func TestAnImageOverwrittenWhileItIsReadIsBad(t *testing.T) {
	data := disk(5, 3<<20)
	for _, f := range []codec.Format{codec.Raw, codec.Zstd} {
		for _, how := range []string{"not at all", "in place", "longer", "shorter", "replaced", "unnoticed"} {
			t.Run(fmt.Sprintf("%s %s", f, how), func(t *testing.T) {
				content := data
				if f != codec.Raw {
					content = pack(t, f, data)
				}
				path := place(t, "x.img", content)
				im := open(t, path, Options{})
				r := im.Reader(newPool(t, buffers, bufSize), 0)
				b, err := r.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				b.Release()
				overwrite(t, path, how)
				if how == "unnoticed" {
					// The negative control: nothing is known of how it was.
					if im.in.info, err = os.Stat(path); err != nil {
						t.Fatal(err)
					}
				}
				got := readAll(t, r, 0)
				switch {
				case how == "unnoticed" && f == codec.Raw:
					if got.err != io.EOF || bytes.Equal(got.data[bufSize:], data[bufSize:]) {
						t.Errorf("a changed image ended with %v", got.err)
					}
					return
				case how == "unnoticed":
					return // its own checksums may notice
				case how == "not at all", how == "replaced":
					if got.err != io.EOF {
						t.Error(got.err)
					}
					return
				}
				wantBad(t, got.err, "image-digest", "while it was being read")
				if err := im.Check(); err == nil {
					t.Error("Check does not notice")
				}
			})
		}
	}
}

// overwrite changes a file in some way.
func overwrite(t *testing.T, path, how string) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	switch how {
	case "in place", "unnoticed":
		// The time of modification is set back, as some tools do. The system's
		// clock for such times moves only every few milliseconds.
		for now := fi; err == nil && !touched(fi, now); now, _ = os.Stat(path) {
			err = writeInto(path, 0, os.O_WRONLY, fi.Size()-1)
			err = errors.Join(err, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
		}
	case "longer":
		err = writeInto(path, 0, os.O_WRONLY|os.O_APPEND, -1)
	case "shorter":
		err = os.Truncate(path, fi.Size()/2)
	case "replaced":
		next := path + ".new"
		write(t, next, []byte("another image"))
		err = os.Rename(next, path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func writeInto(path string, b byte, flag int, off int64) error {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	if off >= 0 {
		_, err = f.WriteAt([]byte{b}, off)
	} else {
		_, err = f.Write([]byte{b})
	}
	return errors.Join(err, f.Close())
}

func TestBytesCanBeHadAgainFromARawFile(t *testing.T) {
	data := disk(6, 1<<20)
	im := open(t, place(t, "x.img", data), Options{})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	if !r.CanReread() {
		t.Fatal("a raw file cannot be read again")
	}
	if got := readAll(t, r, 0); got.err != io.EOF {
		t.Fatal(got.err)
	}
	p := make([]byte, 1000)
	if n, err := r.ReadAt(p, 12345); n != len(p) || err != nil || !bytes.Equal(p, data[12345:13345]) {
		t.Errorf("got %d bytes, %v", n, err)
	}
	r.Close()
	if _, err := r.ReadAt(p, 0); err == nil {
		t.Error("ReadAt works after Close")
	}
}

func TestWithoutAStoreAPackedImageCannotBeHadAgain(t *testing.T) {
	data := disk(7, 1<<20)
	im := open(t, place(t, "x.img", pack(t, codec.Gzip, data)), Options{})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	if r.CanReread() {
		t.Error("CanReread promises too much")
	}
	if _, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrNotKept) {
		t.Errorf("got %v", err)
	}
}

// Held is a promise to those who share the pool.
func TestAReaderHoldsNoMoreBuffersThanItSays(t *testing.T) {
	data := disk(8, 6<<20)
	dir := t.TempDir()
	pool := newPool(t, Held+1, bufSize)
	im := open(t, place(t, "x.img", pack(t, codec.Zstd, data)), Options{Digest: true, Store: NewStore(dir, 0)})
	gate := make(chan struct{})
	im.o.Store.wrap = func(f file) file { return &slowFile{file: f, gate: gate} }
	im.o.Store.patience = 1 << 40
	r := im.Reader(pool, 0)
	// The disk hangs: the Reader gets as far as it can.
	for range Held {
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	// One more buffer is always left for others.
	if b, err := pool.Get(t.Context()); err != nil {
		t.Fatal(err)
	} else {
		pool.Put(b)
	}
	close(gate)
	if got := readAll(t, r, 0); got.err != io.EOF {
		t.Fatal(got.err)
	}
}

// slowFile is a file that is written to when something comes through its gate,
// and freely once that is closed.
type slowFile struct {
	file
	gate chan struct{}
}

func (f *slowFile) WriteAt(p []byte, off int64) (int, error) {
	<-f.gate
	return f.file.WriteAt(p, off)
}

func TestCloseEndsEverythingAtAnyTime(t *testing.T) {
	data := disk(9, 4<<20)
	packed := pack(t, codec.Zstd, data)
	path := place(t, "x.img", packed)
	for n := range 8 {
		pool := newPool(t, buffers, bufSize)
		im := open(t, path, Options{Digest: true, Store: NewStore(t.TempDir(), 0)})
		r := im.Reader(pool, 0)
		for range n {
			b, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
		r.Close()
		r.Close()
		if _, err := r.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close Next returns %v", err)
		}
	}
}

func TestAStreamThatGivesNothingDoesNotKeepCloseWaiting(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() { _, _ = pw.Write(disk(10, bufSize)) }()
	im := open(t, "-", Options{Stdin: pr})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	b, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.Close()
	pr2, pw2 := io.Pipe()
	defer pw2.Close()
	if _, err := Open(ctx, "-", Options{Stdin: pr2}); !errors.Is(err, context.Canceled) {
		t.Errorf("opening a silent stream: got %v", err)
	}
}

func TestABlockDeviceIsARawImage(t *testing.T) {
	if os.Geteuid() != 0 {
		sample.Lack(t, "only root can make a block device")
	}
	// What is in it looks packed, but a disk is a disk.
	data := append(pack(t, codec.Gzip, disk(11, 1000)), disk(12, 1<<20)...)[:1<<20]
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", place(t, "disk", data)).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v\n%s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v\n%s", err, out)
		}
	})
	im := open(t, dev, Options{Digest: true})
	if im.Size() != int64(len(data)) || im.Info().Mode()&os.ModeDevice == 0 {
		t.Errorf("size %d, %v", im.Size(), im.Info().Mode())
	}
	checkWhole(t, im, codec.Raw, data)
}

// brokenReader gives some bytes and then only its error.
type brokenReader struct {
	r   io.Reader
	err error
}

func (b brokenReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

func TestASourceThatCannotBeReadIsNotTheEndOfTheImage(t *testing.T) {
	broken := errors.New("the stick was pulled")
	data := disk(13, 1<<20)
	for _, f := range []codec.Format{codec.Raw, codec.Zstd} {
		content := data
		if f != codec.Raw {
			content = pack(t, f, data)
		}
		half := content[:len(content)/2]
		im := open(t, "-", Options{Stdin: brokenReader{bytes.NewReader(half), broken}})
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		err := readAll(t, r, 0).err
		wantBad(t, err, "image-decode", fmt.Sprintf("standard input: it cannot be read at byte %d: the stick was pulled", len(half)))
		if !errors.Is(err, broken) {
			t.Errorf("the cause is lost: %v", err)
		}
	}
	_, err := Open(t.Context(), "-", Options{Stdin: brokenReader{bytes.NewReader(nil), broken}})
	wantBad(t, err, "image-decode", "the stick was pulled")
}

func TestWhatIsKnownBeforehandIsSaid(t *testing.T) {
	data := disk(14, 300<<10)
	path := place(t, "x.img", data)
	im := open(t, path, Options{})
	if im.Name() != path || im.Size() != 300<<10 || im.Hint() != 300<<10 || im.Used() != 300<<10 || im.Memory() != 0 {
		t.Errorf("raw: size %d, hint %d, used %d, memory %d", im.Size(), im.Hint(), im.Used(), im.Memory())
	}
	if _, ok := im.Map(); ok {
		t.Error("there is a map")
	}
	im = open(t, place(t, "x.zst", pack(t, codec.Zstd, data)), Options{})
	if im.Size() != -1 || im.Used() != -1 || im.Memory() <= 0 {
		t.Errorf("packed: size %d, used %d, memory %d", im.Size(), im.Used(), im.Memory())
	}
	before := im.Hint()
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	if im.Hint() != before || im.Memory() <= 0 {
		t.Errorf("packed, with a Reader: hint %d after %d, memory %d", im.Hint(), before, im.Memory())
	}
	if got := readAll(t, r, 0); got.err != io.EOF {
		t.Error(got.err)
	}
	if err := im.Check(); err != nil {
		t.Error(err)
	}
}
