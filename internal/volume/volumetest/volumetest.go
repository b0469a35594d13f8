// Package volumetest makes disks for tests: partition tables and file systems
// made by the programs that everybody makes them with, filled with a real tree
// and then aged. It reads them back, asks the fsck of each kind about them, and
// proves a map of used bytes in the hardest way: it fills all that the map calls
// free with noise, after which nothing may have changed.
//
// It needs Linux and root, since file systems are aged by mounting them. Only
// tests import it.
package volumetest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multidd/internal/block"
)

const mib = 1 << 20

// A Spec says what disk to make.
type Spec struct {
	Table string // "mbr", "gpt", or "": one part without a table
	Parts []Part
	Slack int64  // bytes between the last part and the end of the disk, of which a table takes a MiB more
	Seed  uint64 // of the content
}

// A Part says what file system to make.
type Part struct {
	Kind    string   // see Kinds
	Size    int64    // in bytes, a multiple of 1 MiB
	Args    []string // for its mkfs, beside what its kind needs
	Logical bool     // an MBR partition in an extended one
	Empty   bool     // as mkfs leaves it, not filled and not aged
}

// Kinds returns what a Part may be. "noise" is a part that nobody understands.
func Kinds() []string {
	return []string{"ext2", "ext3", "ext4", "fat12", "fat16", "fat32", "exfat", "f2fs", "btrfs", "swap", "noise"}
}

// An Image is a disk that has been made, or a copy of one.
type Image struct {
	Path  string // of the file or device that holds it
	Size  int64  // in bytes
	Parts []Made
}

// Made is a part and where it lies.
type Made struct {
	Part
	block.Extent
}

// Make makes a disk in a file of its own. The test is skipped where it lacks what
// this needs, except in CI: there it fails.
func Make(tb testing.TB, spec Spec) Image {
	tb.Helper()
	needRoot(tb)
	dir := scratch(tb)
	im := layOut(spec, filepath.Join(dir, "disk.img"))
	f, err := os.Create(im.Path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(im.Size); err != nil {
		tb.Fatal(err)
	}
	writeTable(tb, spec, im)
	for i, p := range im.Parts {
		path := filepath.Join(dir, fmt.Sprintf("part%d", i+1))
		rng := rand.New(rand.NewPCG(spec.Seed, uint64(i)))
		makeFS(tb, path, p.Part, rng)
		if err := copyOver(f, p.Off, path); err != nil {
			tb.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
	}
	return im
}

// layOut places the parts: the first at 1 MiB, logical ones a MiB apart for the
// tables between them, and a MiB at the end for the backup of a GPT.
func layOut(spec Spec, path string) Image {
	im := Image{Path: path}
	at := int64(mib)
	if spec.Table == "" {
		at = 0
	}
	for _, p := range spec.Parts {
		if p.Logical {
			at += mib
		}
		im.Parts = append(im.Parts, Made{p, block.Extent{Off: at, Len: p.Size}})
		at += p.Size
	}
	if spec.Table != "" {
		at += mib
	}
	im.Size = at + spec.Slack
	return im
}

// writeTable lets sfdisk write the partition table.
func writeTable(tb testing.TB, spec Spec, im Image) {
	tb.Helper()
	if spec.Table == "" {
		return
	}
	var s strings.Builder
	fmt.Fprintf(&s, "label: %s\n", map[string]string{"mbr": "dos", "gpt": "gpt"}[spec.Table])
	number, extended := 0, false
	for _, p := range im.Parts {
		number++
		if p.Logical && !extended {
			extended = true
			fmt.Fprintf(&s, "%d : start=%d, size=%d, type=5\n", number, (p.Off-mib)/512, (im.Size-p.Off)/512)
			number = 5
		}
		fmt.Fprintf(&s, "%d : start=%d, size=%d", number, p.Off/512, p.Len/512)
		if spec.Table == "mbr" {
			fmt.Fprintf(&s, ", type=%s", mbrType(p.Kind))
		}
		s.WriteByte('\n')
	}
	cmd := command(tb, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", im.Path)
	cmd.Stdin = strings.NewReader(s.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("sfdisk: %v\n%s\n%s", err, out, s.String())
	}
}

func mbrType(kind string) string {
	switch kind {
	case "fat12", "fat16", "fat32":
		return "c"
	case "exfat":
		return "7"
	case "swap":
		return "82"
	}
	return "83"
}

// At returns the same disk as it lies in another file or device, such as a card
// that the image has been written to.
func (im Image) At(path string) Image {
	im.Path = path
	return im
}

// Copy returns a copy of the disk in a file of its own, holes kept.
func (im Image) Copy(tb testing.TB) Image {
	tb.Helper()
	path := filepath.Join(scratch(tb), "copy.img")
	im.extract(tb, block.Extent{Len: im.Size}, path)
	return im.At(path)
}

// Scramble writes noise over everything that the map calls free, in place. What is
// wrong with the map then shows in Fsck and in Diff.
func (im Image) Scramble(tb testing.TB, m block.Map, seed uint64) {
	tb.Helper()
	if err := m.Check(); err != nil {
		tb.Fatalf("the map of %s: %v", im.Path, err)
	}
	f, err := os.OpenFile(im.Path, os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	at := int64(0)
	for _, e := range append(m.Used, block.Extent{Off: im.Size}) {
		if err := fillWithNoise(f, noise, block.Extent{Off: at, Len: e.Off - at}); err != nil {
			tb.Fatal(err)
		}
		at = e.End()
	}
}

func fillWithNoise(w io.WriterAt, noise *rand.ChaCha8, e block.Extent) error {
	buf := make([]byte, mib)
	for off := e.Off; off < e.End(); {
		b := buf[:min(int64(len(buf)), e.End()-off)]
		_, _ = noise.Read(b) // it never fails
		if _, err := w.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// extract copies some bytes of the disk to a file, zeros as holes.
func (im Image) extract(tb testing.TB, e block.Extent, path string) {
	tb.Helper()
	f, err := os.Open(im.Path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	w, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	if err := w.Truncate(e.Len); err != nil {
		tb.Fatal(err)
	}
	if err := copyWithHoles(w, 0, io.NewSectionReader(f, e.Off, e.Len)); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
}

// copyOver writes a file over fresh holes of another.
func copyOver(w io.WriterAt, off int64, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyWithHoles(w, off, f)
}

func copyWithHoles(w io.WriterAt, off int64, r io.Reader) error {
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := w.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// scratch returns a folder for the test, in memory if it can be: the programs that
// make and check file systems flush them to the disk again and again.
func scratch(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "volumetest-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// lacking skips the test, or fails it in CI, where nothing may be lacking.
func lacking(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		lacking(tb, "file systems are aged by mounting them, which needs root")
	}
}

// command returns a command that speaks English, if its program is there.
func command(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if p := filepath.Join(dir, name); path == "" && exists(p) {
				path = p
			}
		}
	}
	if path == "" {
		lacking(tb, name+" is not installed; docs/testing.md names the packages that the tests need")
	}
	cmd := exec.CommandContext(tb.Context(), path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLS_SKIP_CHECK=1")
	return cmd
}

// run runs a program that has to succeed and returns what it printed.
func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := command(tb, name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
