package codec

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sample returns n bytes that look a little like a disk: text, code-like bytes
// that repeat far apart, noise and long runs of zeros.
func sample(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 0, n+8192)
	for len(b) < n {
		switch r.IntN(5) {
		case 0:
			b = append(b, make([]byte, r.IntN(8192))...)
		case 1:
			for range r.IntN(4096) {
				b = append(b, byte(r.Uint32()))
			}
		case 2:
			for range r.IntN(200) {
				b = append(b, "# the quick brown fox jumps over /usr/share/doc\n"[r.IntN(30):]...)
			}
		default:
			if len(b) > 0 {
				from := r.IntN(len(b))
				b = append(b, b[from:min(len(b), from+r.IntN(4096))]...)
			}
		}
	}
	return b[:n]
}

// some returns n, and a fraction of it under the race detector, which makes everything
// here some ten times slower and needs little data to find what it looks for.
func some(n int) int {
	if raceOn {
		return n / 8
	}
	return n
}

// tool runs another program and returns its output. Where it is not installed
// the test is skipped, but not in CI.
func tool(t testing.TB, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, &stderr)
	}
	return out
}

// A maker makes a packed stream with a tool that is not ours.
type maker struct {
	name   string
	format Format
	make   func(t testing.TB, data []byte) []byte
	traits
}

// traits are what cannot be expected of a stream.
type traits struct {
	unchecked bool // it holds no checksum of its content
	endless   bool // where it ends is not said in it
}

// command is a maker of a program that packs its standard input.
func command(f Format, name string, args ...string) maker {
	return maker{name: strings.Join(append([]string{name}, args...), " "), format: f,
		make: func(t testing.TB, data []byte) []byte { return tool(t, data, name, args...) }}
}

func (m maker) with(t traits) maker {
	m.traits = t
	return m
}

// makers are all the ways in which an image may have been packed.
var makers = []maker{
	command(Bzip2, "bzip2", "-c"),
	command(Bzip2, "bzip2", "-1c"),
	command(Bzip2, "lbzip2", "-c", "-n2"),
	command(Bzip2, "pbzip2", "-c", "-p2", "-b1"),
	command(Gzip, "gzip", "-c"),
	command(Gzip, "gzip", "-1c"),
	command(Gzip, "pigz", "-c", "-p2", "-b128"),
	command(XZ, "xz", "-c", "-T1"),
	command(XZ, "xz", "-c", "-0", "-T2", "--block-size=128KiB"),
	command(XZ, "xz", "-c", "-1", "-T2", "--block-size=1MiB", "--check=sha256"),
	command(XZ, "xz", "-c", "-0", "-T1", "--block-size=100KiB", "--check=crc32"),
	command(XZ, "xz", "-c", "-1e", "--check=none").with(traits{unchecked: true}),
	command(XZ, "xz", "-c", "-T2", "--block-size=100KiB", "--x86", "--lzma2=dict=64KiB"),
	command(XZ, "xz", "-c", "-T1", "--delta=dist=4", "--lzma2=preset=1,lc=0,lp=2,pb=0"),
	command(Zstd, "zstd", "-c"),
	command(Zstd, "zstd", "-c", "-T2", "-1", "-B524288"),
	command(Zstd, "zstd", "-c", "-19", "--long=27"),
	command(Zstd, "zstd", "-c", "--no-check").with(traits{unchecked: true}),
	command(Zstd, "pzstd", "-c", "-p2", "-1"),
	command(LZ4, "lz4", "-c"),
	command(LZ4, "lz4", "-c", "-B4", "-BD"),
	command(LZ4, "lz4", "-c", "-9", "-B5", "-BX"),
	command(LZ4, "lz4", "-c", "--no-frame-crc").with(traits{unchecked: true}),
	command(LZ4, "lz4", "-c", "-l").with(traits{unchecked: true, endless: true}),
	command(Zip, "zip", "-q", "-", "-"),
	command(Zip, "zip", "-q", "-fz-", "-", "-"),
	{name: "zip file", format: Zip, make: zipFile()},
	{name: "zip -0 file", format: Zip, make: zipFile("-0")},
	{name: "zip -fz file", format: Zip, make: zipFile("-fz")},
	{name: "lz4 --content-size file", format: LZ4, make: fromFile("lz4", "-c", "--content-size")},
	{name: "zstd file", format: Zstd, make: fromFile("zstd", "-c")},
}

// zipFile is a maker of an archive of a file in a folder.
func zipFile(args ...string) func(testing.TB, []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "card"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "card", "x.img"), data, 0o666); err != nil {
			t.Fatal(err)
		}
		tool(t, nil, "sh", append([]string{"-c", `cd "$0" && zip -qr "$@" out.zip card`, dir}, args...)...)
		b, err := os.ReadFile(filepath.Join(dir, "out.zip"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// fromFile is a maker of a program that is given a file by name, so that it knows
// the length.
func fromFile(name string, args ...string) func(testing.TB, []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		path := filepath.Join(t.TempDir(), "x.img")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		return tool(t, nil, name, append(args, path)...)
	}
}

// unpack reads a whole stream.
func unpack(packed []byte, f Format, o ReadOptions) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(packed), f, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
