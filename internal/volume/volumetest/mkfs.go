package volumetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// makeFS makes one file system in a new file, fills it and ages it.
func makeFS(tb testing.TB, path string, p Part, rng *rand.Rand) {
	tb.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(path, p.Size); err != nil {
		tb.Fatal(err)
	}
	name, args := mkfs(p.Kind)
	if name != "" {
		run(tb, name, append(append(args, p.Args...), path)...)
	}
	// A third of the size, but no more than a test has time for.
	budget := min(p.Size/3, 6*mib)
	switch {
	case p.Kind == "noise":
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			tb.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Write(make([]byte, 1000)); err != nil { // and nothing that looks like a file system
			tb.Fatal(err)
		}
		if _, err := w.WriteAt([]byte(strings.Repeat("noise ", int(p.Size/6)-1000)), 1000); err != nil {
			tb.Fatal(err)
		}
	case p.Empty || p.Kind == "swap":
	case strings.HasPrefix(p.Kind, "fat"):
		ageFAT(tb, path, rng, budget)
	case p.Kind == "f2fs":
		fillF2FS(tb, path, rng, budget)
	default:
		ageMounted(tb, path, p.Kind, rng, budget)
	}
}

// mkfs returns the program that makes a kind of file system and how it is told to.
func mkfs(kind string) (name string, args []string) {
	switch kind {
	case "ext2", "ext3", "ext4":
		return "mke2fs", []string{"-q", "-F", "-t", kind, "-L", "root " + kind, "-U", "11111111-2222-3333-4444-555555555555"}
	case "fat12", "fat16", "fat32":
		return "mkfs.fat", []string{"-F", kind[3:], "-n", "BOOT", "-i", "1234ABCD"}
	case "exfat":
		return "mkfs.exfat", []string{"-L", "Ünicode"}
	case "f2fs":
		return "mkfs.f2fs", []string{"-q", "-f", "-l", "flash"}
	case "btrfs":
		return "mkfs.btrfs", []string{"-q", "-f", "-L", "butter"}
	case "swap":
		return "mkswap", []string{"-L", "spare"}
	}
	return "", nil
}

// ageMounted fills and ages a file system that can be mounted.
func ageMounted(tb testing.TB, path, kind string, rng *rand.Rand, budget int64) {
	tb.Helper()
	unix := kind != "exfat"
	var failed error
	err := mounted(tb, path, kind, "rw", func(dir string) {
		g := &gardener{dir: dir, rng: rng, unix: unix, xattr: unix}
		steps := []func() error{
			func() error { return g.plant(budget) },
			g.age,
			func() error { return g.plant(budget / 3) },
			g.age,
		}
		if unix {
			steps = append(steps, g.plantOddities)
		}
		for _, step := range steps {
			if failed = step(); failed != nil {
				return
			}
		}
	})
	if err = cmp.Or(err, failed); err != nil {
		tb.Fatal(err)
	}
}

// mounted mounts the file system in a file while do runs. The error is what mount
// said.
func mounted(tb testing.TB, path, kind, mode string, do func(dir string)) error {
	tb.Helper()
	dir, err := os.MkdirTemp("", "volumetest-")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = os.Remove(dir) }()
	var cmd *exec.Cmd
	if kind == "exfat" {
		// Many kernels have no exfat; on a loop device, unlike on a file, umount
		// waits until the FUSE server is done.
		dev := strings.TrimSpace(run(tb, "losetup", "--find", "--show", path))
		defer run(tb, "losetup", "--detach", dev)
		cmd = command(tb, "mount.exfat-fuse", "-o", mode, dev, dir)
	} else {
		options := mode + ",loop"
		if strings.HasPrefix(kind, "ext") && mode == "ro" {
			options += ",noload"
		}
		fs := kind
		if fs == "ext2" || fs == "ext3" {
			fs = "ext4" // whose driver knows all features mke2fs is told to use
		}
		cmd = command(tb, "mount", "-t", fs, "-o", options, path, dir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mount %s: %w\n%s", path, err, out)
	}
	defer run(tb, "umount", dir)
	do(dir)
	return nil
}

// ageFAT fills and ages a FAT by mtools, since many kernels have no vfat.
func ageFAT(tb testing.TB, path string, rng *rand.Rand, budget int64) {
	tb.Helper()
	tree := filepath.Join(scratch(tb), "tree")
	g := &gardener{dir: tree, rng: rng}
	check := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	check(g.plant(budget))
	copyIn := func(dir string) {
		tb.Helper()
		entries, err := os.ReadDir(dir)
		check(err)
		args := []string{"-i", path, "-s", "-m", "-o", "-Q"}
		for _, e := range entries {
			args = append(args, filepath.Join(dir, e.Name()))
		}
		run(tb, "mcopy", append(args, "::/")...)
	}
	copyIn(tree)
	for range 2 {
		before := g.files
		check(g.age())
		del := []string{"-i", path}
		for _, f := range before {
			if !exists(f) {
				del = append(del, "::"+strings.TrimPrefix(f, tree))
			}
		}
		run(tb, "mdel", del...)
		copyIn(tree)
		check(g.plant(budget / 5))
		copyIn(tree)
	}
	run(tb, "mattrib", "-i", path, "+r", "+h", "::"+strings.TrimPrefix(g.files[0], tree))
}

// fillF2FS fills an F2FS by f2fs-tools, since many kernels have no f2fs. It cannot
// be aged by them.
func fillF2FS(tb testing.TB, path string, rng *rand.Rand, budget int64) {
	tb.Helper()
	tree := filepath.Join(scratch(tb), "tree")
	g := &gardener{dir: tree, rng: rng, unix: true}
	if err := g.plant(min(budget, 400<<10)); err != nil {
		tb.Fatal(err)
	}
	run(tb, "sload.f2fs", "-P", "-f", tree, path)
}
