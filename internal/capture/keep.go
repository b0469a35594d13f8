package capture

import (
	"bytes"
	"context"
	"fmt"

	"multidd/internal/block"
)

// open opens or makes the partial, if there is to be one from the beginning.
func (c *Capture) open() (err error) {
	switch {
	case c.o.Resume != nil:
		c.partial, err = openPartial(c.o.Partial, c.o.MapFile, c.o.Map.Size, c.o.Resume)
		c.done.Store(total(c.read.chart.Within(c.o.Map.Used, Finished)))
		c.read.first = c.known
	case c.o.Keep || c.o.Rework != nil:
		if err = c.spill(); err == nil && c.o.Keep {
			c.partial.news = true // should it be cut short before anything is read
			err = c.partial.save(true)
		}
	}
	return err
}

// known returns an error if what was read before is not what the card holds now.
func (c *Capture) known(ctx context.Context) error {
	buf, err := c.pool.Get(ctx)
	if err != nil {
		return err
	}
	defer c.pool.Put(buf)
	before := make([]byte, smallSize)
	for _, e := range append([]block.Extent{{Len: block.HeadSize}}, c.o.Telling...) {
		e = e.Intersect(block.Extent{Len: c.o.Map.Size})
		for _, done := range c.read.chart.Of(e, Finished) {
			for p := range cut(done, smallSize) {
				if _, err := c.partial.file.ReadAt(before[:p.Len], p.Off); err != nil {
					return fmt.Errorf("read again what was read: %w", err)
				}
				switch _, err := c.read.read(buf[:p.Len], p.Off); {
				case err != nil && !isBadPlace(err):
					return err
				case err == nil && !bytes.Equal(before[:p.Len], buf[:p.Len]):
					return fmt.Errorf("the card is not what %s was read from: it differs at byte %d; it is another card, or it was written to since", c.o.Partial, p.Off)
				}
			}
		}
	}
	return nil
}

// spill makes the partial.
func (c *Capture) spill() (err error) {
	if c.partial == nil {
		c.partial, err = createPartial(c.o.Partial, c.o.MapFile, c.o.Map.Size, c.o.Comments)
	}
	return err
}

// keep puts what was read into the partial, if there is one.
func (c *Capture) keep(d delivery) error {
	if c.partial == nil {
		return nil
	}
	for _, e := range d.used {
		if err := c.partial.write(d.bytes(e), e.Off); err != nil {
			return err
		}
	}
	if c.o.Keep || c.o.Resume != nil {
		return c.partial.save(false)
	}
	return nil
}
