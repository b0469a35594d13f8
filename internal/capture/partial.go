package capture

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"multidd/internal/block"
)

// A partial is what was read of a card, as a raw sparse file, with a map file that
// says which of it that is. It is what an image is made of whose card could not be
// read from end to end, and what another try goes on from: what is packed already
// cannot be added to.
//
// The map file is only replaced after the bytes that it tells of are on the disk.
// Whatever is cut short, it never says more than is true.
type partial struct {
	file    *os.File
	path    string
	mapPath string
	m       Mapfile
	news    bool // since the map file was written
	saved   time.Time
}

// saveEvery is how often the map file is brought up to date.
const saveEvery = 10 * time.Second

// createPartial makes a new file for a disk of which nothing has been read.
func createPartial(path, mapPath string, size int64, comments []string) (*partial, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, fmt.Errorf("make the file for what can be read: %w", err)
	}
	if err := file.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("give %s the size of the card: %w", path, err), file.Close(), os.Remove(path))
	}
	return &partial{file: file, path: path, mapPath: mapPath, m: Mapfile{comments, byte(Untried), 0, NewChart(size)}, saved: time.Now()}, nil
}

// openPartial opens the file of an earlier try, of which m is the map file.
func openPartial(path, mapPath string, size int64, m *Mapfile) (*partial, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open what was read before: %w", err)
	}
	fi, err := file.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = fmt.Errorf("%s is not a plain file", path)
	case fi.Size() != size:
		err = fmt.Errorf("%s has %d bytes and the card %d: it was read from another card", path, fi.Size(), size)
	case m.Chart.Size() != size:
		err = fmt.Errorf("the map file is of a disk of %d bytes and the card has %d: it is of another card", m.Chart.Size(), size)
	default:
		return &partial{file: file, path: path, mapPath: mapPath, m: *m, saved: time.Now()}, nil
	}
	file.Close()
	return nil, err
}

// write keeps bytes that were read.
func (p *partial) write(data []byte, off int64) error {
	if _, err := p.file.WriteAt(data, off); err != nil {
		return fmt.Errorf("keep what was read: %w", err)
	}
	p.m.Chart.Set(block.Extent{Off: off, Len: int64(len(data))}, Finished)
	p.m.Pos, p.news = off, true
	return nil
}

// lose notes that bytes could not be read.
func (p *partial) lose(e block.Extent, s Status) {
	p.m.Chart.Set(e, s)
	p.m.Pos, p.news = e.Off, true
}

// save makes the file durable, and the map file tell of it, if it is time; or at
// once.
func (p *partial) save(now bool) error {
	if !p.news || !now && time.Since(p.saved) < saveEvery {
		return nil
	}
	if err := p.file.Sync(); err != nil {
		return fmt.Errorf("keep what was read: %w", err)
	}
	if err := replace(p.mapPath, &p.m); err != nil {
		return fmt.Errorf("write the map file: %w", err)
	}
	p.news, p.saved = false, time.Now()
	return nil
}

// replace writes a file under another name, and then gives it its own.
func replace(path string, content io.WriterTo) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = content.WriteTo(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (p *partial) close() error { return p.file.Close() }

// remove deletes the file, and the map file unless keepMap is set.
func (p *partial) remove(keepMap bool) error {
	errs := []error{p.file.Close(), os.Remove(p.path)}
	if !keepMap {
		if err := os.Remove(p.mapPath); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
