package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"multidd/internal/codec"
)

// Finish completes the image of a disk of size bytes, as Close does, but leaves it
// under its temporary name, which it returns, so that it can be proved before it
// is seen. Open it without a map and digests: there are none yet. Then Close, with
// the same size, gives everything its name, and Abort removes it. The name is ""
// for standard output.
func (w *Writer) Finish(size int64) (name string, err error) {
	if err := w.finish(size); err != nil || w.file == nil {
		return "", err
	}
	return w.file.name, nil
}

// Close completes the image of a disk of size bytes: what is behind the last
// byte written is free. When it returns, the image, its map and its digests are
// on the disk under their names; after an error nothing new is there, unless the
// error says so, and the old image is, if there was one.
func (w *Writer) Close(size int64) (Made, error) {
	defer w.Abort()
	if err := w.finish(size); err != nil {
		return Made{}, err
	}
	m := Made{Path: w.path, Size: size, Used: w.used, Packed: w.packed.Load()}
	if w.whole != nil {
		m.Image = w.whole.end()
	}
	if w.digest != nil {
		m.SHA256 = w.digest.sum()
	} else {
		m.SHA256, m.Packed = m.Image, size
	}
	if w.file == nil {
		return m, nil
	}
	var err error
	m.Beside, err = w.commit(m)
	return m, err
}

// finish writes what is missing of the image itself.
func (w *Writer) finish(size int64) error {
	switch {
	case w.err != nil:
		return w.err
	case w.ended:
		return ErrClosed
	case w.finished && size == w.at:
		return nil
	case size < 1:
		return fmt.Errorf("make %s: a disk of %d bytes makes no image", w.shownName(), size)
	case size < w.at:
		return fmt.Errorf("make %s: a disk of %d bytes, but byte %d of it has been written", w.shownName(), size, w.at-1)
	}
	if err := w.advance(size); err != nil {
		return err
	}
	w.finished = true
	w.err = w.explain(w.complete(size))
	return w.err
}

// complete ends the packed stream or the file, and waits until it is on the disk.
func (w *Writer) complete(size int64) error {
	if p := w.packer; p != nil {
		w.packer = nil
		if err := p.Close(); err != nil {
			return err
		}
	}
	if w.file == nil {
		return nil
	}
	if w.o.Format == codec.Raw {
		if err := w.file.Truncate(size); err != nil {
			return err
		}
	}
	return w.file.finish()
}

// Abort ends the Writer and removes what it has made so far. After Close it does
// nothing.
func (w *Writer) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	if w.packer != nil {
		if w.digest != nil {
			w.digest.stop() // what is still being packed is for nobody
		}
		_ = w.packer.Close()
	}
	if w.whole != nil {
		w.whole.stop()
	}
	if w.file != nil {
		w.file.remove()
	}
}

// commit gives the image its name, and lays its map and its digests beside it.
//
// A crash may come at any moment, and afterwards there must not be an image
// beside the map or the digests of another. So whatever belongs to the old image
// goes first: that is then an image without a map, of which everything is
// written. The new one takes its place in one step, and is such an image, too.
// Only then does what belongs to it appear. Each step is on the disk before the
// next one begins.
func (w *Writer) commit(m Made) (beside []string, err error) {
	text := w.ranges.text(m.Size)
	side := []struct {
		name, content string
	}{
		{w.names.file, m.SHA256 + "  " + filepath.Base(w.names.image) + "\n"},
	}
	if !w.o.NoMap {
		side = slices.Insert(side, 0, struct{ name, content string }{w.names.bmap, text})
	}
	if m.Image != "" && w.names.whole != "" {
		side = append(side, struct{ name, content string }{w.names.whole, m.Image + "  " + filepath.Base(w.names.plain) + "\n"})
	}
	var temps []*temp
	defer func() {
		for _, t := range temps {
			t.remove()
		}
	}()
	for _, s := range side {
		t, err := newTemp(s.name)
		if err == nil {
			temps = append(temps, t)
			_, err = t.Write([]byte(s.content))
		}
		if err == nil {
			err = t.finish()
		}
		if err != nil {
			return nil, w.explain(err)
		}
	}
	if err := w.clear(); err != nil {
		return nil, w.explain(err)
	}
	if err := w.place(w.file, w.names.image); err != nil {
		return nil, err
	}
	for i, s := range side {
		if err := w.do("name "+s.name, func() error { return temps[i].rename(s.name) }); err != nil {
			return beside, fmt.Errorf("%s is complete, but not what belongs beside it: %w", w.path, w.explain(err))
		}
		beside = append(beside, s.name)
	}
	return beside, w.explain(w.do("sync", func() error { return syncNames(w.path) }))
}

// do does one step.
func (w *Writer) do(name string, f func() error) error {
	if w.step != nil {
		if err := w.step(name); err != nil {
			return err
		}
	}
	return f()
}

// clear removes what belongs to the old image.
func (w *Writer) clear() error {
	if !w.o.Force {
		return nil
	}
	for _, name := range w.names.beside() {
		err := w.do("remove "+name, func() error { return os.Remove(name) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return w.do("sync", func() error { return syncNames(w.path) })
}

// place gives the image its name.
func (w *Writer) place(t *temp, name string) error {
	err := w.do("name "+name, func() error {
		if w.o.Force {
			return t.rename(name)
		}
		return t.link(name)
	})
	if errors.Is(err, fs.ErrExist) {
		return &createError{fmt.Sprintf("%s has come to be there meanwhile, and is left alone: choose another name", name), fs.ErrExist}
	}
	if err != nil {
		return w.explain(err)
	}
	return w.explain(w.do("sync", func() error { return syncNames(name) }))
}

// syncNames waits until the names in a file's directory are on the disk, where
// the file system can be told to.
func syncNames(path string) error {
	err := syncDir(filepath.Dir(path))
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}
