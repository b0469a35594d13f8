// Package capture makes an image of a card: it reads the bytes that are used, in
// ascending order and several requests at a time, and hands them to whoever packs
// them. It knows neither formats nor hardware nor people: it sees the small
// interfaces Card and Sink.
//
// # A card that can be read
//
// One goroutine owns the card and reads it. The one that called Run takes what was
// read, makes a digest of it, and hands it to the Sink, which packs on other
// processors. A fixed number of buffers goes round between the two, so that memory
// is bounded, and the card is kept busy while there is one.
//
// # A card that cannot
//
// What cannot be read as a large piece is left for later, and with it what comes
// after, farther with each failure in a row; so all that is easy to read has been
// read before the card is bothered with the rest. Then what was left out is read;
// then what failed, in pieces of 64 KiB; then those that failed, sector by sector
// from both ends; and then all of that once more, as often as Options.Retries says.
//
// A packed stream cannot have anything put in later. So from the first bad place on,
// what is read goes into a raw sparse file (the partial), and when the reading is
// over the Sink is given the rest from there. The partial is kept, with a map file as
// GNU ddrescue writes it, when there are bytes in the end that could not be read.
// Another run goes on from it.
//
// What could not be read is zeros in the image, which is only made if the user says
// so: Options.AllowBad.
package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// A Sink takes the image.
type Sink interface {
	// Write takes the next used bytes, in ascending order, and releases the block.
	// What lies between two blocks is free. It may be slow: the card waits then.
	Write(b block.Block) error
}

// Options say how a card is captured.
type Options struct {
	Map    block.Map // which bytes are used
	Sector int       // of the card, in bytes; 0: 512

	// Retries is how often all that cannot be read is tried again.
	Retries int
	// AllowBad has an image made in which bytes that cannot be read are zeros.
	AllowBad bool

	// Partial is where the raw file goes that is needed if there are bad places, and
	// MapFile where its map file goes.
	Partial, MapFile string
	// Keep has both written from the beginning, so that a run that is cut short can be
	// gone on with.
	Keep bool
	// Resume is the map file of an earlier run, to be gone on with; nil: there is none.
	Resume *Mapfile
	// Telling are extents by which the card is known again when an earlier run is gone on
	// with, beside the first MiB: they change when a file system is mounted.
	Telling []block.Extent
	// Comments go into the map file.
	Comments []string

	// Rework changes the raw file after all was read and before anything is packed, and
	// returns its new map; nil: nothing is changed. All that is read goes through the
	// raw file then.
	Rework func(ctx context.Context, path string) (block.Map, error)

	// StallLimit is how long the card may go without an answer; 0: 5 minutes.
	StallLimit time.Duration
	// Buffers is how many buffers of 1 MiB there are; 0: 16.
	Buffers int
}

// A Phase is what a capture is doing.
type Phase int32

const (
	Reading   Phase = iota // for the first time
	Rescuing               // what could not be read at first
	Reworking              // Options.Rework
	Packing                // what was read before
	Finishing              // for the caller to set: the image is completed
	Proving                // the image is read back
	Rereading              // the card is read once more
)

func (p Phase) String() string {
	return [...]string{"read", "rescue", "rework", "pack", "finish", "verify", "reread"}[p]
}

// A BadError says that some of a card could not be read.
type BadError struct {
	Extents []block.Extent
}

func (e *BadError) Error() string {
	n := total(e.Extents)
	if len(e.Extents) == 1 {
		return fmt.Sprintf("%d bytes cannot be read: %v", n, e.Extents[0])
	}
	return fmt.Sprintf("%d bytes in %d places cannot be read, the first at byte %d", n, len(e.Extents), e.Extents[0].Off)
}

// Reason returns read-eio.
func (e *BadError) Reason() string { return string(verify.ReadEIO) }

// A StallError says that a card stopped answering.
type StallError struct {
	For time.Duration
}

func (e *StallError) Error() string {
	return fmt.Sprintf("the card has not answered for %v", e.For.Round(time.Second))
}

// Reason returns stalled.
func (e *StallError) Reason() string { return string(verify.Stalled) }

// A Capture is one card being captured, once. Run comes first; then ProveImage and
// ProveCard may. State may be called at any time and from any goroutine.
type Capture struct {
	card Card
	sink Sink
	o    Options
	pool *block.Pool
	read *reader
	now  atomic.Pointer[reader] // the one at work, or the last one

	grid    []piece                  // what is to be handed on, in order
	next    int                      // the first of grid that has not been
	entries []entry                  // the digests of what was handed on
	early   map[int64][]block.Digest // of pieces that came before their turn, by offset
	partial *partial
	changed bool           // the partial is not what was read any more
	bad     []block.Extent // what is zeros in the image

	phase       atomic.Int32
	done, total atomic.Int64 // bytes, in this phase
	handed      atomic.Int64 // time spent in handing on, in ns
	meter       meter
	lost        atomic.Int64 // bytes that cannot be read as it stands
	counted     time.Time    // when lost was worked out
}

// An entry is the digest of some bytes of the image.
type entry struct {
	verify.Entry
	bad bool // some of it could not be read, and is zeros
}

// page is what used extents are widened to, in bytes: file systems count in smaller
// units, O_DIRECT and maps of images do not.
const page = 4096

// New returns a capture of a card.
func New(card Card, o Options) *Capture {
	if o.Sector == 0 {
		o.Sector = 512
	}
	if o.StallLimit == 0 {
		o.StallLimit = 5 * time.Minute
	}
	if o.Buffers == 0 {
		o.Buffers = 16
	}
	o.Map = widen(o.Map)
	c := &Capture{card: card, o: o, grid: pieces(o.Map.Used), early: map[int64][]block.Digest{}}
	c.pool = block.NewPool(max(o.Buffers, depth+2), pieceSize)
	c.read = &reader{card: card, used: o.Map.Used, chart: NewChart(o.Map.Size), pool: c.pool, sector: int64(o.Sector), retries: o.Retries}
	c.now.Store(c.read)
	if o.Resume != nil {
		c.read.chart = o.Resume.Chart.Clone()
	}
	c.total.Store(o.Map.Bytes())
	return c
}

// widen returns a map of whole pages.
func widen(m block.Map) block.Map {
	w := block.Map{Size: m.Size}
	for _, e := range m.Used {
		off, end := e.Off/page*page, min((e.End()+page-1)/page*page, m.Size)
		if last := len(w.Used) - 1; last >= 0 && w.Used[last].End() >= off {
			w.Used[last].Len = max(end, w.Used[last].End()) - w.Used[last].Off
		} else {
			w.Used = append(w.Used, block.Extent{Off: off, Len: end - off})
		}
	}
	return w
}

// Map returns which bytes are used, in whole pages: what the sink is given. After
// Rework it is that of the reworked image.
func (c *Capture) Map() block.Map { return c.o.Map }

// Bad returns the extents that are zeros in the image because they could not be
// read.
func (c *Capture) Bad() []block.Extent { return c.bad }

// Reread returns how many places could only be read at a further try.
func (c *Capture) Reread() int64 { return c.read.reread.Load() }

// Run reads the card and hands it to the sink, until the end or an error. A
// *BadError says that there are bad places and Options.AllowBad is not set; then the
// image is not complete. ctx's cause is returned when ctx ends.
func (c *Capture) Run(ctx context.Context, sink Sink) error {
	c.sink = sink
	if err := c.open(); err != nil {
		return err
	}
	if err := c.take(ctx, c.read, c.arrived); err != nil {
		return err
	}
	c.bad = c.read.left()
	c.lost.Store(total(c.bad))
	if len(c.bad) > 0 && !c.o.AllowBad {
		return &BadError{c.bad}
	}
	if err := c.rework(ctx); err != nil {
		return err
	}
	return c.rest(ctx)
}

// Close ends the capture, with what became of it and of the image: nil if all is well.
// If it can be gone on with, the partial and its map file are kept, and kept is true;
// else they are deleted. The memory is given back, but for buffers that the card
// still has.
func (c *Capture) Close(outcome error) (kept bool, err error) {
	defer c.pool.Close()
	p := c.partial
	if p == nil {
		return false, nil
	}
	var bad *BadError
	switch {
	case c.changed:
	case errors.As(outcome, &bad), outcome != nil && (c.o.Keep || c.o.Resume != nil):
		return true, errors.Join(p.save(true), p.close())
	case outcome == nil && len(c.bad) > 0:
		// The image has all that there is; where there is nothing is worth knowing.
		return false, errors.Join(p.save(true), p.remove(true))
	}
	return false, p.remove(false)
}

// lastAnswer is how long the answer to the last requests is waited for when a capture
// is cut short.
const lastAnswer = time.Second

// take has a reader read, and calls arrived with all that it delivers.
func (c *Capture) take(ctx context.Context, r *reader, arrived func(delivery) error) error {
	ctx, cancel := context.WithCancel(ctx)
	out, ended, gone := make(chan delivery, depth), make(chan error, 1), make(chan struct{})
	r.out = out
	go func() {
		defer close(gone)
		ended <- r.run(ctx)
	}()
	defer func() {
		cancel()
		select {
		case <-gone:
		case <-time.After(lastAnswer): // the card keeps it, and it is left behind
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case d := <-out:
			if err := arrived(d); err != nil {
				return err
			}
		case err := <-ended:
			for len(out) > 0 && err == nil {
				err = arrived(<-out)
			}
			return err
		case <-tick.C:
			if s := r.silent(); s >= c.o.StallLimit {
				return &StallError{s}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// arrived deals with what the reader delivers.
func (c *Capture) arrived(d delivery) error {
	if c.read.rescuing.Load() {
		c.phase.Store(int32(Rescuing))
	}
	if d.data == nil {
		if err := c.spill(); err != nil {
			return err
		}
		for _, e := range d.used {
			c.partial.lose(e, d.status)
		}
		c.count()
		return nil
	}
	due := c.next < len(c.grid) && d.Extent == c.grid[c.next].Extent && c.o.Rework == nil && c.o.Resume == nil
	if c.partial == nil && !due {
		if err := c.spill(); err != nil {
			return err
		}
	}
	if err := c.keep(d); err != nil {
		c.pool.Put(d.data)
		return err
	}
	for _, e := range d.used {
		c.done.Add(e.Len)
	}
	c.count()
	if due {
		c.next++
		return c.hand(d.piece, d.data, false)
	}
	if i := c.find(d.Off); i < len(c.grid) && c.grid[i].Extent == d.Extent { // it will be handed on like this
		for _, e := range d.used {
			c.early[d.Off] = append(c.early[d.Off], verify.Sum(d.bytes(e)))
		}
	}
	c.pool.Put(d.data)
	return nil
}

// find returns the piece that begins at an offset, or where it would be.
func (c *Capture) find(off int64) int {
	i, _ := slices.BinarySearchFunc(c.grid, off, func(p piece, off int64) int { return cmp.Compare(p.Off, off) })
	return i
}

// bytes returns those of a part of a delivery.
func (d *delivery) bytes(e block.Extent) []byte { return d.data[e.Off-d.Off:][:e.Len] }

// count brings up to date how many bytes cannot be read as it stands.
func (c *Capture) count() {
	if c.partial != nil && time.Since(c.counted) > 100*time.Millisecond {
		c.lost.Store(total(c.partial.m.Chart.Within(c.o.Map.Used, Untrimmed, Unscraped, Bad)))
		c.counted = time.Now()
	}
}

// hand hands a piece to the sink, which gives the buffer back.
func (c *Capture) hand(p piece, data []byte, bad bool) error {
	begin := time.Now()
	defer func() { c.handed.Add(int64(time.Since(begin))) }()
	var left atomic.Int32 // of the parts
	left.Store(int32(len(p.used)))
	release := func() {
		if left.Add(-1) == 0 {
			c.pool.Put(data)
		}
	}
	for i, e := range p.used {
		part := data[e.Off-p.Off:][:e.Len]
		c.entries = append(c.entries, entry{verify.Entry{Extent: e, Sum: verify.Sum(part)}, bad})
		if err := c.sink.Write(block.New(e.Off, part, release)); err != nil {
			for range p.used[i+1:] {
				release()
			}
			return err
		}
	}
	return nil
}

// rework has the raw file changed, and makes the plan for the rest anew.
func (c *Capture) rework(ctx context.Context) error {
	if c.o.Rework == nil {
		return nil
	}
	c.begin(Reworking, 0)
	if err := c.partial.save(true); err != nil {
		return err
	}
	c.changed = true
	m, err := c.o.Rework(ctx, c.o.Partial)
	if err != nil {
		return err
	}
	c.o.Map = widen(m)
	c.grid, c.next = pieces(c.o.Map.Used), 0
	clear(c.early)
	return nil
}

// begin begins a phase that has so many bytes to do.
func (c *Capture) begin(p Phase, total int64) {
	c.done.Store(0)
	c.total.Store(total)
	c.phase.Store(int32(p))
	c.meter.reset()
}

// rest hands on what has not been yet, from the partial.
func (c *Capture) rest(ctx context.Context) error {
	rest := c.grid[c.next:]
	if len(rest) == 0 {
		return nil
	}
	var n int64
	for _, p := range rest {
		n += total(p.used)
	}
	c.begin(Packing, n)
	for _, p := range rest {
		if err := c.again(ctx, p); err != nil {
			return err
		}
		c.done.Add(total(p.used))
	}
	return nil
}

// again hands on a piece from the partial.
func (c *Capture) again(ctx context.Context, p piece) error {
	buf, err := c.pool.Get(ctx)
	if err != nil {
		return err
	}
	if _, err := c.partial.file.ReadAt(buf[:p.Len], p.Off); err != nil {
		c.pool.Put(buf)
		return fmt.Errorf("read again what was read: %w", err)
	}
	bad := false
	for i, e := range p.used {
		if c.o.Rework == nil { // else it may be anywhere
			for _, x := range c.read.chart.Of(e, Untried, Untrimmed, Unscraped, Bad) {
				clear(buf[x.Off-p.Off:][:x.Len])
				bad = true
			}
		}
		if sums := c.early[p.Off]; i < len(sums) && sums[i] != verify.Sum(buf[e.Off-p.Off:][:e.Len]) {
			c.pool.Put(buf)
			return fmt.Errorf("%s has been changed at byte %d since it was written: its disk is faulty, or another program wrote to it", c.o.Partial, e.Off)
		}
	}
	return c.hand(p, buf[:p.Len], bad)
}
