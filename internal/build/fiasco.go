package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A fiasco is a flashable root packed for a Nokia flasher, which has no name yet.
type fiasco struct {
	out   string
	temp  string // beside out
	force bool
}

// checkFiasco finds out whether there is anything to pack, and where to.
func (r *Recipe) checkFiasco(out string, force bool) error {
	switch _, err := os.Lstat(out); {
	case r.Table != "none" || r.Partitions[0].FS != "jffs2":
		return errors.New("a Nokia flasher takes a root of JFFS2: one partition with fs = \"jffs2\", and no table")
	case err == nil && !force:
		return fmt.Errorf("%s is there already: choose another name, or allow it to be replaced (--force): %w", out, fs.ErrExist)
	}
	_, err := find("0xFFFF")
	return err
}

// packFiasco has 0xFFFF pack a root, and makes sure that it can unpack it again.
func (b *builder) packFiasco(ctx context.Context, out string, force bool) (*fiasco, error) {
	dir := filepath.Join(b.scratch, "fiasco")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	// In the tool's words ":" and "%" mean something, so names with them never reach it. It
	// takes a small root for an initfs unless it is told not to look (-n).
	t := b.tool
	t.dir = dir
	if err := os.Symlink(b.disk, filepath.Join(dir, "root")); err != nil {
		return nil, err
	}
	to := "packed"
	if v := fiascoVersion(b.r); v != "" {
		to += "%" + v
	}
	if _, err := t.run(ctx, "0xFFFF", []string{"-n", "-m", "rootfs:root", "-g", to}); err != nil {
		return nil, err
	}
	unpacked := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(unpacked, 0o700); err != nil {
		return nil, err
	}
	if _, err := t.run(ctx, "0xFFFF", []string{"-n", "-M", "packed", "-u", "unpacked"}); err != nil {
		return nil, err
	}
	if err := beginsWith(filepath.Join(unpacked, "rootfs"), b.disk); err != nil {
		return nil, fmt.Errorf("what 0xFFFF packed is not what it was given: %w", err)
	}
	return newFiasco(filepath.Join(dir, "packed"), out, force)
}

// fiascoVersion is what a flasher shows as the version.
func fiascoVersion(r *Recipe) string {
	words := strings.Fields(r.Name + " " + r.Revision)
	return strings.Map(func(c rune) rune {
		if c < '!' || c > '~' || c == '%' || c == '/' {
			return '_'
		}
		return c
	}, strings.Join(words, "_"))
}

// beginsWith compares a file with the beginning of another.
func beginsWith(name, beginning string) error {
	a, err := os.Open(name)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(beginning)
	if err != nil {
		return err
	}
	defer b.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := 0; ; {
		n, err := io.ReadFull(b, q)
		if _, err := io.ReadFull(a, p[:n]); err != nil || !bytes.Equal(p[:n], q[:n]) {
			return fmt.Errorf("it differs within 1 MiB of byte %d", at)
		}
		if at += n; err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// newFiasco puts a packed root beside the name it is to have.
func newFiasco(packed, out string, force bool) (*fiasco, error) {
	from, err := os.Open(packed)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".multidd-")
	if err != nil {
		return nil, err
	}
	f := &fiasco{out: out, temp: to.Name(), force: force}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Chmod(0o644)
	}
	if err == nil {
		err = to.Sync()
	}
	if cerr := to.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		f.abort()
		return nil, fmt.Errorf("write %s: %w", out, err)
	}
	return f, nil
}

// commit gives it its name.
func (f *fiasco) commit() error {
	if f == nil {
		return nil
	}
	if f.force {
		return os.Rename(f.temp, f.out)
	}
	if err := os.Link(f.temp, f.out); err != nil {
		return err
	}
	return os.Remove(f.temp)
}

// abort leaves nothing. After commit it does nothing.
func (f *fiasco) abort() {
	if f != nil {
		_ = os.Remove(f.temp)
	}
}
