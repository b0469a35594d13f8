package capture

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// A MismatchError says that the image, unpacked, is not what was read of the card.
type MismatchError struct {
	Off  int64  // of the first byte of the place that differs
	What string // a clause
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the image is not what was read of the card: at byte %d %s; the disk that it is on, or the memory, is faulty", e.Off, e.What)
}

// ProveImage compares the image, unpacked, with what was handed to the sink: every
// byte, and zeros between. The error is a *MismatchError if they differ.
func (c *Capture) ProveImage(ctx context.Context, image io.Reader) error {
	c.begin(Proving, c.o.Map.Size)
	buf, err := c.pool.Get(ctx)
	if err != nil {
		return err
	}
	defer c.pool.Put(buf)
	at := int64(0)
	next := func(n int64) ([]byte, error) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p := buf[:n]
		k, err := io.ReadFull(image, p)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &MismatchError{at + int64(k), "it ends"}
		}
		if err != nil {
			return nil, fmt.Errorf("read the image back: %w", err)
		}
		at += n
		c.done.Store(at)
		return p, nil
	}
	zeros := func(until int64) error {
		for at < until {
			p, err := next(min(until-at, int64(len(buf))))
			if err != nil {
				return err
			}
			if i := firstNonzero(p); i >= 0 {
				return &MismatchError{at - int64(len(p)) + int64(i), "there is something where nothing was used"}
			}
		}
		return nil
	}
	for _, e := range c.entries {
		if err := zeros(e.Off); err != nil {
			return err
		}
		p, err := next(e.Len)
		if err != nil {
			return err
		}
		if verify.Sum(p) != e.Sum {
			return &MismatchError{e.Off, "it holds something else"}
		}
	}
	if err := zeros(c.o.Map.Size); err != nil {
		return err
	}
	if n, err := io.ReadFull(image, buf[:1]); n > 0 {
		return &MismatchError{at, "it goes on"}
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the image back: %w", err)
	}
	return nil
}

// firstNonzero returns the index of the first byte that is not zero, or -1.
func firstNonzero(p []byte) int {
	for i, b := range p {
		if b != 0 {
			return i
		}
	}
	return -1
}

// ProveCard reads what was handed on once more off the card and compares. A place that
// reads differently is a *verify.UnstableError: one that a card gives only now and
// then is not stored on it, and nobody knows which of the two was right.
func (c *Capture) ProveCard(ctx context.Context) error {
	if c.o.Rework != nil {
		return errors.New("a card cannot be compared with an image that was changed")
	}
	c.begin(Rereading, c.o.Map.Bytes())
	var used []block.Extent
	for _, e := range c.entries {
		if !e.bad {
			used = append(used, e.Extent)
		}
	}
	r := &reader{card: c.card, used: used, chart: NewChart(c.o.Map.Size), pool: c.pool, sector: int64(c.o.Sector), retries: c.o.Retries}
	c.now.Store(r)
	if err := c.take(ctx, r, c.compare); err != nil {
		return err
	}
	if left := r.left(); len(left) > 0 {
		return &verify.UnstableError{Extent: left[0]}
	}
	return nil
}

// compare compares what was read once more with what was read first.
func (c *Capture) compare(d delivery) error {
	if d.data == nil {
		return nil // it comes in smaller pieces, or is missing at the end
	}
	defer c.pool.Put(d.data)
	for _, e := range d.used {
		same, err := c.same(e, d.bytes(e))
		if err != nil {
			return err
		}
		if !same {
			return &verify.UnstableError{Extent: e}
		}
		c.done.Add(e.Len)
	}
	return nil
}

// same tells whether some bytes are those that were handed on. What was read in
// smaller pieces than that is in the partial.
func (c *Capture) same(e block.Extent, p []byte) (bool, error) {
	i, ok := slices.BinarySearchFunc(c.entries, e.Off, func(e entry, off int64) int { return cmp.Compare(e.Off, off) })
	if ok && c.entries[i].Extent == e {
		return c.entries[i].Sum == verify.Sum(p), nil
	}
	if c.partial == nil {
		return false, nil // it could be read at once before
	}
	first := make([]byte, len(p))
	if _, err := c.partial.file.ReadAt(first, e.Off); err != nil {
		return false, fmt.Errorf("read again what was read: %w", err)
	}
	return bytes.Equal(first, p), nil
}
