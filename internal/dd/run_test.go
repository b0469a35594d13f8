package dd

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
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

// run runs a job in the test's process. DIR in args stands for dir.
func run(t *testing.T, dir, args string) (status int, stderr string) {
	t.Helper()
	job, err := Parse(strings.Fields(strings.ReplaceAll(args, "DIR", dir)))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	status = NewRun(job, &b).Copy(context.Background())
	return status, strings.ReplaceAll(normal(b.String()), dir, "DIR")
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// image returns some bytes that look like a card: noise, text, zeros.
func image() []byte {
	var text bytes.Buffer
	for i := range 20000 {
		fmt.Fprintln(&text, i)
	}
	return slices.Concat(noise(50000), make([]byte, 300000), text.Bytes(), noise(1))
}

func TestEveryOutputGetsTheSame(t *testing.T) {
	for _, args := range []string{"", "bs=7", "bs=4k", "ibs=1000 obs=333", "bs=1M", "bs=3M", "obs=2M", "bs=4k oflag=direct", "bs=1M iflag=direct",
		"bs=1000 conv=sync", "bs=1k count=100", "bs=1k seek=3 skip=5 count=10", "conv=sparse bs=64k", "count=0", "bs=100k conv=fsync,noerror,sync"} {
		t.Run(args, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in", image())
			one, alone := run(t, dir, "if=DIR/in of=DIR/one "+args)
			several, said := run(t, dir, "if=DIR/in of=DIR/a of=DIR/b of=DIR/c "+args)
			if one != 0 || several != 0 || said != alone {
				t.Errorf("%d, %d, one output:\n%sthree outputs:\n%s", one, several, alone, said)
			}
			for _, name := range []string{"a", "b", "c"} {
				if !bytes.Equal(read(t, dir, name), read(t, dir, "one")) {
					t.Errorf("%s differs", name)
				}
			}
		})
	}
}

func TestShortReadsReachEveryOutputAsTheyAre(t *testing.T) {
	lengths := []int{100, 1, 99, 100, 50}
	dir := t.TempDir()
	var records [][]byte
	for _, in := range []string{"of=DIR/a of=DIR/b bs=100", "of=DIR/a of=DIR/b ibs=100"} {
		cmd := exec.Command(os.Args[0], strings.Fields(strings.ReplaceAll(in, "DIR", dir))...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		cmd.Stdin = packetPipe(t, packets(lengths...))
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		want := "2+3 records in\n2+3 records out\n350 bytes copied\n"
		if strings.Contains(in, "ibs") {
			want = "2+3 records in\n0+1 records out\n350 bytes copied\n"
		}
		if normal(string(said)) != want {
			t.Errorf("%s: %s", in, said)
		}
		records = append(records, read(t, dir, "a"), read(t, dir, "b"))
	}
	for _, r := range records {
		if !bytes.Equal(r, slices.Concat(packets(lengths...)...)) {
			t.Error("an output differs")
		}
	}
}

func TestOneBadOutputDoesNotStopTheOthers(t *testing.T) {
	dir, data := t.TempDir(), image()
	write(t, dir, "in", data)
	status, said := run(t, dir, "if=DIR/in of=/dev/full of=DIR/a of=DIR/missing/b of=DIR/c.gz bs=64k hash=sha256")
	if status != 1 {
		t.Errorf("status %d", status)
	}
	full, partial := len(data)/65536, 1
	want := fmt.Sprintf(`multidd: failed to open 'DIR/missing/b': No such file or directory
multidd: error writing '/dev/full': No space left on device
%[1]d+%[2]d records in
%[1]d+%[2]d records out
%[3]s copied
sha256 %[4]x
`, full, partial, amount(int64(len(data))), sha256.Sum256(data))
	if said = strings.ReplaceAll(said, "dd: ", "multidd: "); said != want {
		t.Errorf("said\n%swant\n%s", said, want)
	}
	if !bytes.Equal(read(t, dir, "a"), data) {
		t.Error("the good output differs")
	}
	if !bytes.Equal(unpacked(t, dir, "c.gz"), data) {
		t.Error("the packed output differs")
	}
	// A bad output alone does stop the copy.
	if status, said := run(t, dir, "if=DIR/in of=/dev/full of=/dev/full bs=64k hash=sha256"); status != 1 || strings.Contains(said, "sha256") {
		t.Errorf("status %d, said %s", status, said)
	}
	if status, _ := run(t, dir, "if=DIR/in of=DIR/missing/b of=DIR/missing/c"); status != 1 {
		t.Errorf("status %d", status)
	}
}

func TestAReaderThatLeavesHarmsOnlyItsPipe(t *testing.T) {
	dir, data := t.TempDir(), image()
	write(t, dir, "in", data)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		if f, err := os.Open(fifo); err == nil {
			_ = f.Close()
		}
	}()
	status, said := run(t, dir, "if=DIR/in of=DIR/fifo of=DIR/a bs=64k")
	if status != 1 || !strings.Contains(said, "error writing 'DIR/fifo': Broken pipe\n") || !bytes.Equal(read(t, dir, "a"), data) {
		t.Errorf("status %d, %s", status, said)
	}
}

// unpacked returns what another program makes of a packed file, if it is
// installed, and checks that this one agrees.
func unpacked(t *testing.T, dir, name string) []byte {
	t.Helper()
	f := codec.ByName(name)
	r, err := codec.NewReader(bytes.NewReader(read(t, dir, name)), f, codec.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	own, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range tools[f] {
		t.Run(tool, func(t *testing.T) {
			sample.Need(t, tool)
			out, err := exec.Command(tool, "-dc", filepath.Join(dir, name)).Output()
			if err != nil || !bytes.Equal(out, own) {
				t.Errorf("%s -dc %s: %v, %d bytes; we have %d", tool, name, err, len(out), len(own))
			}
		})
	}
	return own
}

// tools are other people's programs for a format; all of them pack with -c and unpack with -dc.
var tools = map[codec.Format][]string{
	codec.Bzip2: {"bzip2", "lbzip2", "pbzip2"}, codec.Gzip: {"gzip", "pigz"}, codec.XZ: {"xz"}, codec.Zstd: {"zstd"}, codec.LZ4: {"lz4"},
}

func TestPackedOutputsAreUnpackedByTheirOwnTools(t *testing.T) {
	for what, data := range map[string][]byte{"nothing": {}, "a byte": {7}, "an image": image()} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in", data)
			args := "if=DIR/in bs=64k of=DIR/plain of=DIR/again.bz2"
			for f := range tools {
				args += " of=DIR/out." + string(f)
			}
			if status, said := run(t, dir, args); status != 0 {
				t.Fatalf("status %d: %s", status, said)
			}
			for f := range tools {
				if !bytes.Equal(unpacked(t, dir, "out."+string(f)), data) {
					t.Errorf("%s differs", f)
				}
			}
			if !bytes.Equal(read(t, dir, "plain"), data) {
				t.Error("the plain output differs")
			}
			if !bytes.Equal(read(t, dir, "again.bz2"), read(t, dir, "out.bz2")) {
				t.Error("two outputs of one format differ")
			}
		})
	}
}

func TestOutputsOfOneFormatShareThePacking(t *testing.T) {
	dir := t.TempDir()
	job, err := Parse(strings.Fields(strings.ReplaceAll("of=DIR/a.gz of=DIR/b of=DIR/c.gz of=DIR/d.bz2 of=DIR/e.gz hash=md5", "DIR", dir)))
	if err != nil {
		t.Fatal(err)
	}
	r := NewRun(job, io.Discard)
	outs, failed := r.openOutputs(job.Outputs)
	if failed {
		t.Fatal("an output could not be opened")
	}
	var shares []int
	for _, s := range r.sinks(outs) {
		if p, ok := s.(*packer); ok {
			shares = append(shares, len(p.outs))
		}
	}
	if !slices.Equal(shares, []int{3, 1}) {
		t.Errorf("%v outputs for each packing", shares)
	}
}

func TestOneBadOutputDoesNotStopThoseWithItsPacking(t *testing.T) {
	dir, data := t.TempDir(), image()
	write(t, dir, "in", data)
	if err := os.Symlink("/dev/full", filepath.Join(dir, "full.gz")); err != nil {
		t.Fatal(err)
	}
	status, said := run(t, dir, "if=DIR/in of=DIR/full.gz of=DIR/a.gz of=DIR/b.gz")
	if status != 1 || strings.Count(said, "No space left on device") != 1 {
		t.Errorf("status %d, %s", status, said)
	}
	for _, name := range []string{"a.gz", "b.gz"} {
		if !bytes.Equal(unpacked(t, dir, name), data) {
			t.Errorf("%s differs", name)
		}
	}
	if status, said := run(t, dir, "if=DIR/in of=DIR/full.gz"); status != 1 || strings.Count(said, "No space left on device") != 1 {
		t.Errorf("status %d, %s", status, said)
	}
}

func TestPackedInputsAreUnpacked(t *testing.T) {
	data := image()
	for f, names := range tools {
		for _, tool := range names {
			t.Run(tool, func(t *testing.T) {
				sample.Need(t, tool)
				dir := t.TempDir()
				write(t, dir, "in", data)
				name := "in." + string(f)
				packed, err := exec.Command(tool, "-c", filepath.Join(dir, "in")).Output()
				if err != nil {
					t.Fatal(err)
				}
				write(t, dir, name, packed)
				for _, c := range []struct {
					args string
					want []byte
				}{
					{"of=DIR/out", data},
					{"of=DIR/out bs=1M", data},
					{"of=DIR/out bs=1M of=DIR/other hash=sha256", data},
					{"of=DIR/out bs=64k iflag=direct oflag=direct", data},
					{"of=DIR/out bs=1000 skip=5 count=7", data[5000:12000]},
					{"of=DIR/out bs=1000 skip=300B iflag=fullblock", data[300:]},
					{"of=DIR/out iflag=raw", packed},
					{"of=DIR/copy." + string(f), packed},
				} {
					for _, out := range []string{"out", "copy." + string(f)} {
						_ = os.Remove(filepath.Join(dir, out))
					}
					status, said := run(t, dir, "if=DIR/"+name+" "+c.args)
					if status != 0 || strings.Contains(said, "dd: ") {
						t.Errorf("%s: status %d, %s", c.args, status, said)
					}
					out := "out"
					if strings.Contains(c.args, "copy") {
						out = "copy." + string(f)
					}
					if !bytes.Equal(read(t, dir, out), c.want) {
						t.Errorf("%s: the output differs", c.args)
					}
				}
				// One format into another, and back beside a plain copy.
				status, said := run(t, dir, "if=DIR/"+name+" of=DIR/other.zst of=DIR/other."+string(f)+" of=DIR/plain bs=1M")
				if status != 0 || !bytes.Equal(unpacked(t, dir, "other.zst"), data) || !bytes.Equal(unpacked(t, dir, "other."+string(f)), data) {
					t.Errorf("status %d, %s", status, said)
				}
			})
		}
	}
}

func TestRecordsOfUnpackedBytesAreFull(t *testing.T) {
	dir, data := t.TempDir(), image()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	write(t, dir, "in.gz", b.Bytes())
	for _, args := range []string{"of=/dev/null bs=1M", "of=DIR/out bs=1M", "of=DIR/out bs=1M oflag=direct", "of=DIR/a of=DIR/b bs=1M"} {
		want := fmt.Sprintf("%d+1 records in\n%[1]d+1 records out\n%v copied\n", len(data)>>20, amount(int64(len(data))))
		if status, said := run(t, dir, "if=DIR/in.gz "+args); status != 0 || said != want {
			t.Errorf("%s: status %d, %s", args, status, said)
		}
	}
}

func TestOnlyWhatIsPackedInsideIsUnpacked(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "in.gz", []byte("this is not packed, whatever its name is"))
	status, said := run(t, dir, "if=DIR/in.gz of=DIR/out status=noxfer")
	if want := "dd: DIR/in.gz: its content is not in the format gz; the bytes are copied as they are\n0+1 records in\n0+1 records out\n"; status != 0 || said != want {
		t.Errorf("status %d, %s", status, said)
	}
	if !bytes.Equal(read(t, dir, "out"), read(t, dir, "in.gz")) {
		t.Error("the output differs")
	}
	if _, said := run(t, dir, "if=DIR/in.gz of=DIR/out status=none"); said != "" {
		t.Error(said)
	}
	if err := os.Rename(filepath.Join(dir, "in.gz"), filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	if _, said := run(t, dir, "if=DIR/in of=DIR/out status=noxfer"); said != "0+1 records in\n0+1 records out\n" {
		t.Error(said)
	}
}

func TestADamagedInputIsAFailure(t *testing.T) {
	dir, data := t.TempDir(), image()
	write(t, dir, "in", data)
	for f := range tools {
		if status, said := run(t, dir, "if=DIR/in of=DIR/x."+string(f)); status != 0 {
			t.Fatal(said)
		}
		packed := read(t, dir, "x."+string(f))
		write(t, dir, "cut."+string(f), packed[:len(packed)/2])
		write(t, dir, "more."+string(f), append(packed, "garbage"...))
		for _, args := range []string{"if=DIR/cut." + string(f), "if=DIR/more." + string(f)} {
			for _, how := range []string{" of=DIR/out bs=64k", " of=DIR/out of=DIR/out2", " of=/dev/null conv=noerror,sync", " of=DIR/out bs=64k oflag=direct"} {
				status, said := run(t, dir, args+how)
				if status != 1 || !strings.Contains(said, "error reading 'DIR/") || !strings.Contains(said, " byte ") {
					t.Errorf("%s: status %d, %s", args+how, status, said)
				}
			}
		}
	}
}

func TestARecordTooLongForTheMemoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, bs := range []string{"1E", "9223372036854775806"} {
		for _, args := range []string{"of=/dev/null", "of=/dev/null of=DIR/a.gz", "of=DIR/a.gz of=DIR/b.gz of=DIR/c", "of=DIR/a oflag=direct"} {
			status, said := run(t, dir, "if=/proc/self/exe "+args+" bs="+bs)
			if status != 1 || !strings.HasPrefix(said, "dd: memory exhausted by input buffer of size ") || strings.Count(said, "\n") != 1 {
				t.Errorf("%s bs=%s: status %d, %s", args, bs, status, said)
			}
		}
	}
}

func TestHashIsOfTheBytesOutput(t *testing.T) {
	dir, data := t.TempDir(), image()
	write(t, dir, "in", data)
	sum := func(p []byte) string { return fmt.Sprintf("sha256 %x\n", sha256.Sum256(p)) }
	for args, want := range map[string]string{
		"of=DIR/a":                               sum(data),
		"of=DIR/a of=DIR/b.xz bs=4k":             sum(data),
		"of=DIR/a bs=1000 skip=3 count=5 seek=2": sum(data[3000:8000]),
		"of=DIR/a bs=1M conv=sync count=1000B":   sum(append(bytes.Clone(data[:1000]), make([]byte, 1<<20-1000)...)),
		"of=DIR/a count=0":                       sum(nil),
	} {
		status, said := run(t, dir, "if=DIR/in status=none hash=sha256 "+args)
		if status != 0 || said != want {
			t.Errorf("%s: status %d, %s, want %s", args, status, said, want)
		}
	}
	_, said := run(t, dir, "if=/dev/null of=DIR/a status=none hash=md5,sha1,sha224,sha256,sha384,sha512,md5")
	if lines := strings.Split(said, "\n"); len(lines) != 7 || lines[0] != "md5 d41d8cd98f00b204e9800998ecf8427e" || lines[1] != "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709" {
		t.Errorf("%s", said)
	}
}

func TestNothingAmongTheDevicesIsMade(t *testing.T) {
	const name = "/dev/no-such-device"
	for _, conv := range []string{"", " conv=excl", " conv=notrunc"} {
		status, said := run(t, t.TempDir(), "if=/dev/zero count=1 of="+name+conv)
		if _, err := os.Lstat(name); status != 1 || !errors.Is(err, os.ErrNotExist) || !strings.Contains(said, "failed to open '"+name+"': No such file or directory") {
			_ = os.Remove(name)
			t.Errorf("%s: status %d, %v, %s", conv, status, err, said)
		}
	}
}

func TestNoBlockDeviceIsWrittenWithoutTheGuards(t *testing.T) {
	const name = "/dev/loop0"
	if f, err := os.OpenFile(name, os.O_WRONLY, 0); err != nil {
		t.Skipf("there is no block device to try: %v", err)
	} else {
		_ = f.Close()
	}
	status, said := run(t, t.TempDir(), "if=/dev/zero count=0 of="+name)
	if status != 1 || !strings.Contains(said, "not writing '/dev/loop0': it is a block device") {
		t.Errorf("status %d, %s", status, said)
	}
}

func TestReadingBackIsForCards(t *testing.T) {
	dir := t.TempDir()
	if status, said := run(t, dir, "if=/dev/null of=DIR/a verify=readback"); status != 1 || !strings.Contains(said, "only cards are read back") {
		t.Errorf("status %d, %s", status, said)
	}
	if status, said := run(t, dir, "if=/dev/null of=DIR/a verify=none"); status != 0 {
		t.Errorf("status %d, %s", status, said)
	}
}

func TestACopyEndsWhenItIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, args := range []string{"of=/dev/null", "of=/dev/null of=/dev/null", "of=/dev/null hash=md5 bs=1M"} {
		job, err := Parse(strings.Fields("if=/dev/zero status=none " + args))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if status := NewRun(job, &b).Copy(ctx); status != 1 || strings.Contains(b.String(), program) {
			t.Errorf("%s: status %d, %s", args, status, &b)
		}
	}
}
