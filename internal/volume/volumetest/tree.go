package volumetest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A gardener plants files in a folder, which may be a mounted file system, and lets
// them age. The same rng gives the same files.
type gardener struct {
	dir   string
	rng   *rand.Rand
	unix  bool // owners, modes, links, devices and attributes, too
	xattr bool
	files []string // that may be deleted and rewritten
	made  int
}

// epoch is about when the files say they were last changed. Even, since FAT counts
// in steps of two seconds.
var epoch = time.Date(2009, 4, 1, 12, 30, 0, 0, time.UTC)

// sizes are where file systems change how they keep a file: inline, one block, a
// part of the last one, indirect blocks.
var sizes = []int{0, 1, 59, 60, 61, 150, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 12288, 12289, 50_001, 65_536}

// plant makes files of about so many bytes.
func (g *gardener) plant(budget int64) error {
	for budget > 0 {
		size := sizes[g.made%len(sizes)]
		switch {
		case g.made%37 == 36:
			size = 250_000 + g.rng.IntN(500_000)
		case g.made >= len(sizes):
			size = g.rng.IntN(30_000)
		}
		size = int(min(int64(size), budget))
		if err := g.plantOne(size); err != nil {
			return err
		}
		budget -= max(int64(size), 1024)
	}
	return nil
}

func (g *gardener) plantOne(size int) error {
	dir := filepath.Join(g.dir, []string{"etc", "usr/share/long folder name", "var/lib/a/b/c/d", "home"}[g.made%4])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := fmt.Sprintf("file-%d.conf", g.made)
	if g.made%5 == 4 {
		name = fmt.Sprintf("%s é %d.bin", strings.Repeat("long name ", 1+g.made%15), g.made)
	}
	g.made++
	path := filepath.Join(dir, name)
	if err := g.write(path, size); err != nil {
		return err
	}
	g.files = append(g.files, path)
	return nil
}

// write writes a file anew, with times and a mode of its own.
func (g *gardener) write(path string, size int) error {
	data := make([]byte, size)
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], g.rng.Uint64())
	_, _ = rand.NewChaCha8(seed).Read(data) // it never fails
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	if g.unix {
		mode := []os.FileMode{0o644, 0o600, 0o755, 0o755 | os.ModeSetuid, 0o2755&0o777 | os.ModeSetgid, 0o444}[g.rng.IntN(6)]
		if err := os.Lchown(path, g.rng.IntN(3)*1000, g.rng.IntN(3)*70_000); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	if g.xattr && g.rng.IntN(4) == 0 {
		value := make([]byte, []int{8, 90, 700}[g.rng.IntN(3)])
		for i := range value {
			value[i] = byte('a' + g.rng.IntN(26))
		}
		if err := syscall.Setxattr(path, "user.origin", value, 0); err != nil {
			return fmt.Errorf("set an attribute of %s: %w", path, err)
		}
	}
	when := epoch.Add(time.Duration(g.rng.IntN(100_000)) * 2 * time.Second)
	return os.Chtimes(path, when, when)
}

// age deletes a third of the files, rewrites a quarter of the others with another
// length and lets some grow, so that what is free lies in pieces.
func (g *gardener) age() error {
	var kept []string
	for _, path := range g.files {
		var err error
		switch n := g.rng.IntN(12); {
		case n < 4:
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		case n < 6:
			err = g.write(path, g.rng.IntN(60_000))
		case n < 7:
			err = g.grow(path)
		}
		if err != nil {
			return err
		}
		kept = append(kept, path)
	}
	g.files = kept
	return nil
}

func (g *gardener) grow(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write([]byte(strings.Repeat("a line more\n", g.rng.IntN(3000)))); err != nil {
		return err
	}
	return f.Close()
}

// plantOddities makes one of everything that is not a plain file.
func (g *gardener) plantOddities() error {
	dir := filepath.Join(g.dir, "odd")
	at := func(name string) string { return filepath.Join(dir, name) }
	crowd := at("crowd")
	steps := []func() error{
		func() error { return os.MkdirAll(crowd, 0o1777) },
		func() error { return g.write(at("target"), 5000) },
		func() error { return os.Link(at("target"), at("hard link")) },
		func() error { return os.Symlink("target", at("link")) },
		func() error { return os.Symlink(strings.Repeat("far/", 60)+"away", at("long link")) },
		func() error { return syscall.Mknod(at("null"), syscall.S_IFCHR|0o666, 1<<8|3) },
		func() error { return syscall.Mknod(at("disk"), syscall.S_IFBLK|0o660, 8<<8) },
		func() error { return syscall.Mkfifo(at("pipe"), 0o640) },
		func() error { return sparse(at("sparse")) },
		func() error { return preallocated(at("preallocated")) },
		func() error { return os.Chmod(crowd, 0o777|os.ModeSticky|os.ModeSetgid) },
	}
	for i := range 250 {
		steps = append(steps, func() error {
			return os.WriteFile(filepath.Join(crowd, fmt.Sprintf("one-of-very-many-files-%03d", i)), nil, 0o644)
		})
	}
	if g.xattr {
		// A capability and an access list, as their kernel headers lay them out.
		steps = append(steps, func() error {
			return syscall.Setxattr(at("target"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
		})
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("plant: %w", err)
		}
	}
	return nil
}

// sparse makes a file with data far apart.
func sparse(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, off := range []int64{40_000, 700_000, 2_000_000} {
		if _, err := f.WriteAt([]byte("here is something"), off); err != nil {
			return err
		}
	}
	if err := f.Truncate(3_000_000); err != nil {
		return err
	}
	return f.Close()
}

// preallocated makes a file with blocks that were never written, where the file
// system has such.
func preallocated(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, 200_000); err != nil && err != syscall.EOPNOTSUPP {
		return err
	}
	if _, err := f.WriteAt([]byte("only this was written"), 100_000); err != nil {
		return err
	}
	return f.Close()
}
