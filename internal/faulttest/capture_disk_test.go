package faulttest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
	"multidd/internal/station"
	"multidd/internal/volume/volumetest"
)

// mounted mounts a file system until the end of the test.
func mounted(t *testing.T, args ...string) string {
	t.Helper()
	sample.Need(t, "mount", "umount")
	dir := t.TempDir()
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		sample.Lack(t, "mount: ", string(out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	return dir
}

// A disk that spoils what is written to it makes no image: what was written is read from
// it again, past the page cache.
func TestAnImageThatItsDiskSpoilsIsNoImage(t *testing.T) {
	t.Parallel()
	sample.Need(t, "mke2fs")
	for _, spoils := range []bool{true, false} {
		for _, format := range []string{"raw", "bz2", "zst"} {
			disk := newBlankCard(t, 32*mib)
			if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext2", "-m", "0", disk.path).CombinedOutput(); err != nil {
				t.Fatalf("mke2fs: %v\n%s", err, out)
			}
			dir := mounted(t, disk.path)
			if spoils {
				var bits []int64
				for off := int64(4 * mib); off < 28*mib; off += mib + 12345 {
					bits = append(bits, off)
				}
				disk.Inject(devicetest.Flip(bits...))
			}
			p := startCapture(t, newCard(t, 14*mib), dir, "--format="+format)
			if spoils {
				p.wantEnd(station.ExitImage, "")
				p.wantNoImage()
				if !strings.Contains(p.text(), "not what was read of the card") {
					t.Error("no word of what is wrong")
				}
				continue
			}
			p.wantEnd(station.ExitGood, "")
		}
	}
}

// A disk that is full makes no image, and is as empty afterwards as before.
func TestAFullDiskMakesNoImage(t *testing.T) {
	t.Parallel()
	c := newCard(t, 8*mib)
	for _, flags := range [][]string{{"--format=raw"}, {"--format=zst"}, {"--format=zst", "--map=MAP"}} {
		dir := mounted(t, "-t", "tmpfs", "-o", "size=4m", "none")
		keep := strings.HasPrefix(flags[len(flags)-1], "--map")
		if keep {
			flags[1] = "--map=" + filepath.Join(t.TempDir(), "map")
		}
		p := startCapture(t, c, dir, flags...)
		o := p.end()
		if o.exit != station.ExitError || !strings.Contains(o.text, "room") {
			t.Errorf("%q: exit status %d", flags, o.exit)
		}
		p.wantNoImage()
		p.wantFiles()
	}
	// The control: a bigger one does.
	startCapture(t, c, mounted(t, "-t", "tmpfs", "-o", "size=16m", "none")).wantEnd(station.ExitGood, "")
}

// SIGUSR1 prints how far it is.
func TestACaptureSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	c := newCard(t, 8*mib, devicetest.Rate(0, 4*mib))
	p := startCapture(t, c, "")
	p.worker()
	c.await(func(r devicetest.Record) bool { return r.Kind == devicetest.Read && r.Off >= 4*mib })
	p.signal(syscall.SIGUSR1)
	p.untilPrinted(" of " + c.path + ", ")
	p.wantEnd(station.ExitGood, "")
}

// Cards with real file systems are captured, written to cards full of noise, and hold
// then what they held.
func TestFileSystemsSurviveACapture(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		spec volumetest.Spec
	}{
		{"mbr", volumetest.Spec{Table: "mbr", Seed: 1, Parts: []volumetest.Part{
			{Kind: "fat16", Size: 16 * mib}, {Kind: "ext4", Size: 32 * mib}, {Kind: "swap", Size: 8 * mib}, {Kind: "ext3", Size: 24 * mib, Logical: true},
		}}},
		{"gpt", volumetest.Spec{Table: "gpt", Seed: 2, Parts: []volumetest.Part{
			{Kind: "ext2", Size: 16 * mib, Args: []string{"-b", "1024"}}, {Kind: "exfat", Size: 16 * mib}, {Kind: "fat32", Size: 40 * mib}, {Kind: "noise", Size: 2 * mib},
		}}},
		{"features", volumetest.Spec{Table: "mbr", Seed: 4, Parts: []volumetest.Part{
			{Kind: "ext4", Size: 24 * mib, Args: []string{"-b", "1024", "-O", "meta_bg,^resize_inode"}},
			{Kind: "ext4", Size: 24 * mib, Args: []string{"-b", "4096", "-O", "64bit,flex_bg,inline_data", "-I", "256"}},
			{Kind: "fat12", Size: 4 * mib},
			{Kind: "ext4", Size: 24 * mib, Args: []string{"-O", "sparse_super2,^resize_inode"}, Logical: true},
			{Kind: "ext4", Size: 24 * mib, Args: []string{"-O", "^metadata_csum,uninit_bg,^64bit"}, Logical: true},
		}}},
		{"no table", volumetest.Spec{Seed: 3, Parts: []volumetest.Part{{Kind: "ext4", Size: 32 * mib, Args: []string{"-O", "bigalloc"}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			master := volumetest.Make(t, c.spec)
			dir := t.TempDir()
			image, target := filepath.Join(dir, "x.img.zst"), filepath.Join(dir, "target")
			start(t, "capture", "--json", master.Path, image).end().want(station.ExitGood)
			before, err := os.ReadFile(master.Path)
			if err != nil {
				t.Fatal(err)
			}
			noise := make([]byte, len(before))
			_, _ = rand.NewChaCha8([32]byte{9}).Read(noise)
			if err := os.WriteFile(target, noise, 0o644); err != nil {
				t.Fatal(err)
			}
			start(t, "write", "--yes", "--json", image, target).end().want(station.ExitGood, "good")
			after, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(after, before) {
				t.Error("what is free was written, too") // the control: else nothing was left out
			}
			written := master.At(target)
			if bad := written.Fsck(t); len(bad) > 0 {
				t.Errorf("fsck: %v", bad)
			}
			if diff := volumetest.Diff(t, master, written); len(diff) > 0 {
				t.Errorf("files differ: %q", slices.Compact(diff)[:min(len(diff), 10)])
			}
		})
	}
}

// However a card is packed, it takes no more memory than the help text tells.
func TestACaptureKeepsToItsMemory(t *testing.T) {
	c := newCard(t, 24*mib)
	for _, format := range []string{"zst", "bz2", "xz"} {
		p := startCapture(t, c, "", "--format="+format)
		if most := p.mostMemory(p.worker()); most == 0 || most > 128*mib {
			t.Errorf("%s: %d MiB", format, most>>20)
		}
		p.wantEnd(station.ExitGood, "")
	}
}
