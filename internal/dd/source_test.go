package dd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"multidd/internal/block"
	"multidd/internal/codec"
)

const poolSize = 64 << 10

// A card is what a source's blocks make.
type card struct {
	begin  int64
	data   []byte
	blocks []block.Extent
}

// source begins a run with cards. DIR in args stands for dir.
func source(t *testing.T, dir, args string, plain ...string) (*Run, *Source, *bytes.Buffer, error) {
	t.Helper()
	job, err := Parse(strings.Fields(strings.ReplaceAll(args, "DIR", dir)))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range plain {
		plain[i] = strings.ReplaceAll(name, "DIR", dir)
	}
	stderr := &bytes.Buffer{}
	run := NewRun(job, stderr)
	pool := block.NewPool(3, poolSize)
	t.Cleanup(pool.Close)
	src, err := run.Source(pool, plain...)
	return run, src, stderr, err
}

// fill takes all blocks of a source. The error is nil after io.EOF.
func fill(t *testing.T, src *Source) (c card, err error) {
	t.Helper()
	next := int64(-1)
	for {
		b, err := src.Next(t.Context())
		if err == io.EOF {
			return c, nil
		}
		if err != nil {
			return c, err
		}
		if next < 0 {
			c.begin, next = b.Off, b.Off
		}
		if b.Off != next || len(b.Data) == 0 || len(b.Data) > poolSize {
			t.Errorf("%v comes where byte %d belongs", b.Extent(), next)
		}
		odd := src.r.job.DirectIn && c.begin%512 != 0 // direct reading goes before aligned writing
		if len(c.blocks) > 0 && b.Off%poolSize != 0 && !odd {
			t.Errorf("%v is not aligned", b.Extent())
		}
		c.data, c.blocks = append(c.data, b.Data...), append(c.blocks, b.Extent())
		next += int64(len(b.Data))
		b.Release()
	}
}

// sourceTrials are lines of operands that lead to a card.
var sourceTrials = []string{
	"", "bs=1", "bs=512", "bs=4k", "bs=1M", "bs=64k", "bs=65537", "ibs=7 obs=100k", "ibs=100k obs=7", "bs=3M iflag=fullblock",
	"bs=4k count=3", "bs=4k count=1000", "bs=4k count=5000B", "ibs=100 obs=1k count=77", "count=0",
	"bs=4k skip=3", "bs=1k skip=300B", "bs=4k skip=1000", "skip=1M iflag=skip_bytes",
	"bs=4k seek=3", "seek=5", "bs=1M seek=1", "bs=1k seek=100B", "bs=64k seek=1 skip=1 count=2", "obs=100 seek=777",
	"bs=4k conv=sync", "bs=100k conv=sync", "ibs=300k conv=sync count=200001B", "bs=1M conv=sync",
	"bs=4k conv=noerror", "bs=1000 conv=noerror,sync", "bs=300k conv=noerror,sync",
	"bs=4k iflag=direct", "bs=1M iflag=direct", "bs=64k iflag=direct seek=3", "bs=4k iflag=direct skip=2 count=20 seek=1B",
}

func TestACardGetsWhatAFileWouldHave(t *testing.T) {
	dir := t.TempDir()
	data := image()[:300001]
	write(t, dir, "in", data)
	write(t, dir, "empty", nil)
	var packed bytes.Buffer
	w, err := codec.NewWriter(&packed, codec.Gzip, codec.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "in.gz", packed.Bytes())
	for _, name := range []string{"in", "empty", "in.gz"} {
		for _, args := range sourceTrials {
			args = "if=DIR/" + name + " hash=sha256 " + args
			run1, src, said, err := source(t, dir, args)
			if err != nil {
				t.Fatalf("%s: %v", args, err)
			}
			card, err := fill(t, src)
			if err != nil {
				t.Errorf("%s: %v", args, err)
			}
			if total := src.Total(); total >= 0 && total != int64(len(card.data)) {
				t.Errorf("%s: %d bytes were announced, %d came", args, total, len(card.data))
			}
			status := run1.Finish()

			_ = os.Remove(filepath.Join(dir, "out"))
			want, wantSaid := run(t, dir, args+" of=DIR/out")
			out := read(t, dir, "out")
			if off := src.r.job.Offset(); len(card.blocks) > 0 && card.begin != off || !bytes.Equal(out[min(off, int64(len(out))):], card.data) {
				t.Errorf("%s: the card differs from the file: %d bytes at %d, %d bytes", args, len(card.data), card.begin, len(out))
			}
			if got := strings.ReplaceAll(normal(said.String()), dir, "DIR"); status != want || got != wantSaid {
				t.Errorf("%s: status %d and\n%swith a file %d and\n%s", args, status, got, want, wantSaid)
			}
		}
	}
}

func TestShortReadsFillTheBlocks(t *testing.T) {
	lengths := []int{4096, 1, 100, 4096, 4095}
	for _, c := range []struct{ args, said string }{
		{"bs=4096", "2+3 records in\n2+3 records out\n12388 bytes (12 kB, 12 KiB) copied\n"},
		{"ibs=4096 obs=1k", "2+3 records in\n12+1 records out\n12388 bytes (12 kB, 12 KiB) copied\n"},
		{"bs=4096 conv=sync", "2+3 records in\n5+0 records out\n20480 bytes (20 kB, 20 KiB) copied\n"},
		{"bs=4096 count=4096B", "1+0 records in\n1+0 records out\n4096 bytes (4.1 kB, 4.0 KiB) copied\n"},
	} {
		path := filepath.Join(t.TempDir(), "fifo")
		if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", packetPipe(t, packets(lengths...)).Fd()), path); err != nil {
			t.Fatal(err)
		}
		run, src, said, err := source(t, "", "if="+path+" "+c.args)
		if err != nil {
			t.Fatal(err)
		}
		card, err := fill(t, src)
		if err != nil || len(card.blocks) != 1 || src.CanReread() || src.Total() != -1 {
			t.Errorf("%s: %v, %v", c.args, err, card.blocks)
		}
		want := packets(lengths...)
		if strings.Contains(c.args, "sync") {
			for i, p := range want {
				want[i] = append(bytes.Clone(p), make([]byte, 4096-len(p))...)
			}
		}
		if all := bytes.Join(want, nil); !bytes.Equal(card.data, all[:len(card.data)]) {
			t.Errorf("%s: the card differs", c.args)
		}
		if status := run.Finish(); status != 0 || !strings.HasSuffix(normal(said.String()), c.said) {
			t.Errorf("%s: status %d, said %s", c.args, status, normal(said.String()))
		}
	}
}

func TestWhatWasGivenCanBeHadAgain(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "in", image()[:300001])
	for _, args := range sourceTrials {
		run, src, _, err := source(t, dir, "if=DIR/in "+args)
		if err != nil {
			t.Fatal(err)
		}
		if once := strings.Contains(args, "sync") || strings.Contains(args, "noerror"); src.CanReread() == once {
			t.Errorf("%s: can be read again: %v", args, !once)
		}
		card, err := fill(t, src)
		if err != nil {
			t.Fatal(err)
		}
		if src.CanReread() {
			for _, e := range append(card.blocks, block.Extent{Off: card.begin + 1, Len: int64(len(card.data)) - 1}) {
				if e.Len <= 0 {
					continue
				}
				p := make([]byte, e.Len)
				if n, err := src.ReadAt(p, e.Off); n != len(p) || err != nil || !bytes.Equal(p, card.data[e.Off-card.begin:][:e.Len]) {
					t.Errorf("%s: %v: %d bytes, %v", args, e, n, err)
				}
			}
			end := card.begin + int64(len(card.data))
			if n, err := src.ReadAt(make([]byte, 10), end); len(card.data) > 0 && (n != 0 || err != io.EOF) {
				t.Errorf("%s: behind the end there are %d bytes, %v", args, n, err)
			}
		} else if _, err := src.ReadAt(make([]byte, 1), card.begin); err == nil {
			t.Errorf("%s: was read again", args)
		}
		run.Finish()
	}
	if _, src, _, err := source(t, dir, "if=DIR/in seek=3"); err != nil {
		t.Fatal(err)
	} else if _, err := src.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("read before the beginning")
	}
}

func TestPlainOutputsGetWhatTheCardsGet(t *testing.T) {
	dir, data := t.TempDir(), image()
	write(t, dir, "in", data)
	run, src, said, err := source(t, dir, "if=DIR/in bs=100k hash=sha256", "DIR/a", "/dev/full", "DIR/b.gz", "DIR/missing/c")
	if err != nil {
		t.Fatal(err)
	}
	card, err := fill(t, src)
	if err != nil || !bytes.Equal(card.data, data) {
		t.Errorf("the card differs; %v", err)
	}
	if status := run.Finish(); status != 1 {
		t.Errorf("status %d in spite of two bad outputs", status)
	}
	if !bytes.Equal(read(t, dir, "a"), data) || !bytes.Equal(unpacked(t, dir, "b.gz"), data) {
		t.Error("a plain output differs")
	}
	for _, want := range []string{"failed to open", "No space left on device", fmt.Sprintf("sha256 %x\n", sha256.Sum256(data)), fmt.Sprintf("\n%d+1 records out\n", len(data)/102400)} {
		if strings.Count(said.String(), want) != 1 {
			t.Errorf("%q is not said once in\n%s", want, said)
		}
	}
	// Without a plain output that works the cards go on all the same.
	run, src, _, err = source(t, dir, "if=DIR/in", "/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	if card, err := fill(t, src); err != nil || !bytes.Equal(card.data, data) {
		t.Errorf("the card differs; %v", err)
	}
	if status := run.Finish(); status != 1 {
		t.Errorf("status %d", status)
	}
}

func TestABadInputNeverEndsWell(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "in", image())
	if status, said := run(t, dir, "if=DIR/in of=DIR/in.bz2"); status != 0 {
		t.Fatal(said)
	}
	packed := read(t, dir, "in.bz2")
	write(t, dir, "cut.bz2", packed[:len(packed)-20])
	for args, want := range map[string]string{
		"if=DIR/missing":                      "failed to open 'DIR/missing': No such file or directory",
		"if=DIR":                              "error reading 'DIR': Is a directory",
		"if=/proc/self/mem bs=1M":             "error reading '/proc/self/mem': Input/output error",
		"if=DIR/cut.bz2":                      "error reading 'DIR/cut.bz2': bz2 image is cut short",
		"if=DIR/cut.bz2 conv=noerror bs=100k": "error reading 'DIR/cut.bz2': bz2 image is cut short",
		"if=DIR/in conv=sparse":               "conv=sparse is for files",
		"if=DIR/in seek=4E":                   "no card is as large",
		"if=DIR/in skip=4E":                   "DIR/in: cannot skip: Value too large for defined data type",
	} {
		run, src, said, err := source(t, dir, args+" hash=md5")
		if err == nil {
			_, err = fill(t, src)
			if again, _ := src.Next(t.Context()); err != nil && again.Data != nil {
				t.Errorf("%s: goes on after %v", args, err)
			}
			if status := run.Finish(); status != 1 || strings.Contains(said.String(), "md5") {
				t.Errorf("%s: status %d, said %s", args, status, said)
			}
		}
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), dir, "DIR"), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
		if strings.Contains(said.String(), "dd: error") {
			t.Errorf("%s: what is in the error was said too: %s", args, said)
		}
	}
	_, src, _, err := source(t, dir, "if=DIR/cut.bz2")
	if err != nil {
		t.Fatal(err)
	}
	_, err = fill(t, src)
	if damage := (*codec.Error)(nil); !errors.As(err, &damage) {
		t.Errorf("%v does not tell that the image is bad", err)
	}
	_, src, _, err = source(t, dir, "if=/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = fill(t, src); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v does not tell why", err)
	}
}

func TestASourceEndsWhenItIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	for _, args := range []string{"if=/dev/zero", "if=/dev/zero bs=3M", "if=/dev/zero hash=md5"} {
		_, src, _, err := source(t, "", args)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 { // the pool may still give a buffer or two
			if _, err = src.Next(ctx); err != nil {
				break
			}
		}
		if err != io.ErrClosedPipe {
			t.Errorf("%s: %v", args, err)
		}
	}
}
