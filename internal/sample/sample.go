// Package sample makes a card image like those that people write to cards: a
// partition table, a root file system with a real tree, a scratch file system,
// and free space. Only tests, the demo and the benchmarks import it. It uses
// e2fsprogs and needs no root. It also says what becomes of a test where a program
// that it needs is missing.
package sample

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	sector  = 512
	rootOff = 4 << 20 // where the root file system begins, as card makers align it
)

// An Image says what to make.
type Image struct {
	Path string // of the file
	Size int64  // in bytes, at least 16 MiB
	Fill int64  // about how many bytes of files the root file system gets
	// From is where the files come from; empty: the running system's programs
	// and libraries.
	From []string
	Name string // the revision that its /etc/image-revision tells; empty: "sample"
}

// Make makes the image. The root file system takes three quarters of it.
func Make(im Image) error {
	if im.Size < 16<<20 {
		return fmt.Errorf("make a card image: %d bytes are too few", im.Size)
	}
	if len(im.From) == 0 {
		im.From = []string{"/usr/bin", "/usr/lib", "/usr/share"}
	}
	if im.Name == "" {
		im.Name = "sample"
	}
	tree, err := os.MkdirTemp(filepath.Dir(im.Path), "tree-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := plant(tree, im); err != nil {
		return fmt.Errorf("make a tree for the card image: %w", err)
	}
	f, err := os.Create(im.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(im.Size); err != nil {
		return err
	}
	rootLen := (im.Size - rootOff) * 3 / 4 >> 20 << 20
	scratchOff := rootOff + rootLen
	scratchLen := (im.Size - scratchOff) >> 20 << 20
	if _, err := f.WriteAt(mbr(rootLen, scratchOff, scratchLen), 0); err != nil {
		return err
	}
	if err := mke2fs(im.Path, "root-fs", tree, rootOff, rootLen); err != nil {
		return err
	}
	if err := mke2fs(im.Path, "scratch", "", scratchOff, scratchLen); err != nil {
		return err
	}
	return f.Sync()
}

// mbr returns a master boot record with two Linux partitions.
func mbr(rootLen, scratchOff, scratchLen int64) []byte {
	b := make([]byte, sector)
	copy(b, "\xfa\xeb\xfe multidd sample boot code")
	binary.LittleEndian.PutUint32(b[440:], 0x6d646421)
	entry := func(i int, boot byte, off, n int64) {
		e := b[446+16*i:]
		e[0], e[4] = boot, 0x83
		copy(e[1:], "\xfe\xff\xff")
		copy(e[5:], "\xfe\xff\xff")
		binary.LittleEndian.PutUint32(e[8:], uint32(off/sector))
		binary.LittleEndian.PutUint32(e[12:], uint32(n/sector))
	}
	entry(0, 0x80, rootOff, rootLen)
	entry(1, 0, scratchOff, scratchLen)
	b[510], b[511] = 0x55, 0xaa
	return b
}

func mke2fs(path, label, tree string, off, n int64) error {
	args := []string{"-q", "-F", "-t", "ext2", "-L", label, "-E", fmt.Sprintf("offset=%d", off)}
	if tree != "" {
		args = append(args, "-d", tree)
	}
	cmd := exec.Command("mke2fs", append(args, path, fmt.Sprintf("%dk", n>>10))...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs (package e2fsprogs): %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// plant makes a small root file system: a few files of its own and as many of the
// running system's as asked for.
func plant(tree string, im Image) error {
	for _, dir := range []string{"etc", "boot", "dev", "home/user", "proc", "tmp", "usr/bin", "usr/lib", "usr/share", "var/log"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/hostname":       "unnamed\n",
		"etc/hosts":          "127.0.0.1 localhost\n127.0.1.1 unnamed\n",
		"etc/fstab":          "/dev/mmcblk0p1 / ext2 defaults,noatime 0 1\n",
		"etc/image-revision": im.Name + "\n",
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	left := im.Fill
	for i, from := range im.From {
		if err := copySome(tree, from, left/int64(len(im.From)-i), &left); err != nil {
			return err
		}
	}
	return nil
}

// mostPerDir is how many files are taken from one directory: mke2fs takes time
// quadratic in that.
const mostPerDir = 400

// copySome copies files below from, share bytes of them, and takes what it
// copied off left. Files that cannot be read are passed over.
func copySome(tree, from string, share int64, left *int64) error {
	taken := map[string]int{}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if share <= 0 {
			return filepath.SkipAll
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > share || taken[filepath.Dir(path)] >= mostPerDir {
			return nil
		}
		to := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if !copyFile(to, path, info) {
			return nil
		}
		taken[filepath.Dir(path)]++
		share -= info.Size()
		*left -= info.Size()
		return nil
	})
}

func copyFile(to, from string, info fs.FileInfo) bool {
	in, err := os.Open(from)
	if err != nil {
		return false
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return false
	}
	_, err = io.Copy(out, in)
	return err == nil && out.Close() == nil
}
