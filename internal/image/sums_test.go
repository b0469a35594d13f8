package image

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multidd/internal/codec"
)

func TestDigestsBesideAnImageAreVerified(t *testing.T) {
	data := disk(20, 300<<10)
	packed := pack(t, codec.Gzip, data)
	file, image, wrong := sha(packed), sha(data), strings.Repeat("0a", 32)
	for _, c := range []struct {
		name string // of the file with the digests
		text string
		good bool
	}{
		{"x.img.gz.sha256", file + "  x.img.gz\n", true},
		{"x.img.gz.sha256", strings.ToUpper(file) + " *some/where/x.img.gz\r\n", true},
		{"x.img.gz.sha256", file + "\n", true},
		{"x.img.gz.sha256", file + "  renamed.gz\n", true},
		{"x.img.gz.sha256", "SHA256 (x.img.gz) = " + file + "\n", true},
		{"x.img.gz.sha256", image + "  x.img\n", true},
		{"x.img.gz.sha256", wrong + "  x.img.gz\n", false},

		{"x.img.gz.sha256", wrong + "\n", false},
		{"x.img.gz.sha256", image + "  x.img.gz\n", false},
		{"x.img.sha256", image + "  x.img\n", true},
		{"x.img.sha256", image + "\n", true},
		{"x.img.sha256", wrong + "\n", false},
		{"SHA256SUMS", wrong + "  other.img\n" + file + " *x.img.gz\n", true},
		{"SHA256SUMS", wrong + "  other.img\n", true},
		{"SHA256SUMS", "-----BEGIN PGP SIGNED MESSAGE-----\n\n" + wrong + "  x.img.gz\n", false},
		{"SHA256SUMS", file + "  x.img.gz\n" + wrong + "  x.img\n", false},
	} {
		path := place(t, "x.img.gz", packed)
		write(t, filepath.Join(filepath.Dir(path), c.name), []byte(c.text))
		got, _ := read(t, path, Options{}, 0)
		if c.good {
			if got.err != io.EOF {
				t.Errorf("%s %q: %v", c.name, c.text, got.err)
			}
			continue
		}
		wantBad(t, got.err, "image-digest", c.name+" says ")
		if got, _ := read(t, path, Options{Sums: "none"}, 0); got.err != io.EOF {
			t.Errorf("%s %q: without the digests: %v", c.name, c.text, got.err)
		}
	}
}

func TestTheDigestThatWasAskedForIsVerified(t *testing.T) {
	data, used := holey(2 << 20)
	packed := pack(t, codec.Gzip, data)
	other := disk(21, 1<<10)
	for name, content := range map[string][]byte{"x.img.gz": packed, "x.img": data} {
		path := place(t, name, content)
		// With a map not everything would be read, but this demands it.
		write(t, path+".bmap", []byte(aMap{used: used}.text(data)))
		for _, sum := range []string{sha(content), strings.ToUpper(sha(data))} {
			got, digest := read(t, path, Options{SHA256: sum}, 0)
			if got.err != io.EOF || digest != sha(data) {
				t.Errorf("%s: %v, digest %s", name, got.err, digest)
			}
		}
		got, _ := read(t, path, Options{SHA256: sha(other)}, 0)
		wantBad(t, got.err, "image-digest", "but you said "+sha(other))
		if _, err := Open(t.Context(), path, Options{SHA256: "abc"}); err == nil {
			t.Error("abc is taken for a digest")
		}
	}
	// Where there is a copy, it shows before anything is written.
	path, store := place(t, "x.img.gz", packed), NewStore(t.TempDir(), 0)
	readTo(t, open(t, path, Options{Store: store}), data)
	_, err := Open(t.Context(), path, Options{Store: store, SHA256: sha(other)})
	wantBad(t, err, "image-digest", "but you said "+sha(other))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, path, Options{Store: store}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	in := strings.NewReader(string(packed))
	im := open(t, "-", Options{Stdin: in, SHA256: sha(other)})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	wantBad(t, readAll(t, r, 0).err, "image-digest", "standard input: it has")
}

func TestAFileOfDigestsThatSaysNothingIsMentioned(t *testing.T) {
	path := place(t, "x.img", disk(22, 5000))
	write(t, path+".sha256", nil)
	im := open(t, path, Options{})
	if w := im.Warnings(); len(w) != 1 || !strings.Contains(w[0], "has no SHA-256 digest of x.img: it was not checked") {
		t.Errorf("warnings are %q", w)
	}
	if _, err := Open(t.Context(), path, Options{Sums: path + ".sha256"}); err == nil {
		t.Error("a file of digests that was named need not have one")
	}
}

func TestLinesOfDigestsAreRead(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	got := parseSums([]byte("# comment\n" + a + "  one two.img\n" + b[:40] + "  sha1.img\nSHA256 (x) y.img) = " + b + "\n" + a))
	want := []sumLine{{a, "one two.img"}, {b, "x) y.img"}, {a, ""}}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
