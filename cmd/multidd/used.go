package main

import (
	"fmt"
	"io"
	"sync"

	"multidd/internal/block"
	"multidd/internal/image"
	"multidd/internal/volume"
)

// A contents finds out what of an image is used, as an image.Mapper, and remembers
// what it saw on the way.
type contents struct {
	mu      sync.Mutex
	disk    *volume.Disk    // guarded by mu; nil: the image was not looked at
	watcher *volume.Watcher // guarded by mu; nil: the image does not pass by
}

// Map looks at a disk that can be read at any place.
func (c *contents) Map(r io.ReaderAt, size int64) (block.Map, error) {
	d, err := volume.Look(r, size)
	if err != nil {
		return block.Map{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disk = d
	return d.Map(), nil
}

// Watch looks at a disk that passes by.
func (c *contents) Watch() image.Watch {
	w := volume.NewWatcher()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watcher = w
	return passing{w}
}

// A passing disk is a volume.Watcher as an image.Watch.
type passing struct{ *volume.Watcher }

// Estimate guesses how many bytes will turn out to be used.
func (w passing) Estimate() int64 {
	if n, ok := w.Used(); ok {
		return n
	}
	return -1
}

// seen returns what is known of the disk by now; nil: nothing.
func (c *contents) seen() *volume.Disk {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.disk == nil && c.watcher != nil {
		return c.watcher.Disk()
	}
	return c.disk
}

// notes returns what people should know of the image's content: why some of it is
// written that may be free. They are what is known by now; each stays what it is.
func (c *contents) notes() []string {
	d := c.seen()
	if d == nil {
		return nil
	}
	var notes []string
	for _, p := range d.Dirty() {
		notes = append(notes, fmt.Sprintf("All of %s of the image is written, what is free of it, too: %s.", partName(p), p.FS.Why))
	}
	return append(notes, d.Warnings...)
}

// partName is what a partition is called: `partition 2 (ext4 "root")`, or the file
// system of a disk without a table.
func partName(p volume.Part) string {
	name := "the file system"
	if p.Number > 0 {
		name = fmt.Sprintf("partition %d", p.Number)
	}
	if p.FS == nil {
		return name
	}
	if p.FS.Label != "" {
		return fmt.Sprintf("%s (%s %q)", name, p.FS.Kind, p.FS.Label)
	}
	return fmt.Sprintf("%s (%s)", name, p.FS.Kind)
}
