package capture

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// A Card is what is captured: a disk, or a file that stands for one. An error may
// have a method Reason() string that names one of the reasons of package verify.
// One with another reason than read-eio ends the capture; all others are bad places.
type Card interface {
	// ReadAt reads from the medium, past every cache of this computer.
	io.ReaderAt
	// StartRead begins to read and returns without waiting for it. p must be left
	// alone until Wait has returned for it. Requests are waited for in the order in
	// which they were started. One goroutine at a time calls these two.
	StartRead(p []byte, off int64) error
	Wait() error
	// Check returns an error if it is another card now than it was, or if somebody
	// wrote to it.
	Check() error
}

const (
	pieceSize = 1 << 20  // how much is read at once, in bytes
	smallSize = 64 << 10 // how much is read at once where that failed
	depth     = 4        // requests in flight
	// maxGap is how much free space between used bytes is read along, in bytes, since
	// that costs less than one more request.
	maxGap = 16 << 10
	// firstSkip and maxSkip are how far a bad place is kept clear of at first, in bytes:
	// every failed reading takes seconds, and may be what the card dies of. The distance
	// doubles with each failure in a row.
	firstSkip = 1 << 20
	maxSkip   = 64 << 20
	// giveUp is how many sectors in a row may fail before the rest of a small piece is
	// left alone, from this side.
	giveUp = 8
)

// A piece is what is read with one request.
type piece struct {
	block.Extent
	used []block.Extent // of its bytes
}

// pieces cuts ascending extents into what is read at once: at most a multiple of
// pieceSize each.
func pieces(used []block.Extent) []piece {
	var list []piece
	for _, e := range used {
		for e.Len > 0 {
			n := min(e.Len, pieceSize-e.Off%pieceSize)
			part := block.Extent{Off: e.Off, Len: n}
			if last := len(list) - 1; last >= 0 && list[last].Off/pieceSize == e.Off/pieceSize && e.Off-list[last].End() <= maxGap {
				list[last].Len = part.End() - list[last].Off
				list[last].used = append(list[last].used, part)
			} else {
				list = append(list, piece{part, []block.Extent{part}})
			}
			e.Off, e.Len = e.Off+n, e.Len-n
		}
	}
	return list
}

// A delivery is what the reader has to say: bytes, or where there are none.
type delivery struct {
	piece
	data   []byte // of a buffer of the pool, which goes back there; nil: it cannot be read
	status Status // of what cannot be read
}

// A reader reads a card. Its goroutine owns the card.
type reader struct {
	card    Card
	used    []block.Extent
	chart   *Chart // its own; ends up as what became of every byte
	pool    *block.Pool
	out     chan<- delivery
	sector  int64
	retries int
	first   func(context.Context) error // what is done before anything is read; nil: nothing

	// asked is since when the card owes an answer, in ns since the epoch; 0: it owes
	// none.
	asked atomic.Int64
	// starved is for how long nothing could be read, since there was no buffer or nobody
	// took what was read, in ns; hungry is since when that is so, in ns since the epoch;
	// 0: it is not.
	starved, hungry atomic.Int64
	rescuing        atomic.Bool  // the first pass is over, and not all was read
	reread          atomic.Int64 // places that could be read in the end
}

// run reads all that is not finished on the chart. What could not be read is no
// error but a delivery, and stays on the chart.
func (r *reader) run(ctx context.Context) error {
	if r.first != nil {
		if err := r.first(ctx); err != nil {
			return err
		}
	}
	for _, skip := range []bool{true, false} {
		if err := r.copy(ctx, skip); err != nil {
			return err
		}
	}
	for round := 0; round <= r.retries && len(r.left()) > 0; round++ {
		r.rescuing.Store(true)
		steps := []func(context.Context) error{r.trim, r.scrape}
		if round > 0 {
			steps = []func(context.Context) error{r.again, r.trim, r.scrape}
		}
		for _, step := range steps {
			if err := step(ctx); err != nil {
				return err
			}
		}
	}
	return r.card.Check()
}

// left returns what is still to be read.
func (r *reader) left() []block.Extent {
	return r.chart.Within(r.used, Untried, Untrimmed, Unscraped, Bad)
}

// A flight is a request under way.
type flight struct {
	piece
	buf []byte
}

// copy reads what was not tried yet in large pieces, several at a time. With skip
// it keeps clear of bad places.
func (r *reader) copy(ctx context.Context, skip bool) (err error) {
	var flights []flight
	defer func() {
		for _, f := range flights { // the memory is the kernel's until then
			_ = r.card.Wait()
			r.pool.Put(f.buf)
		}
	}()
	var jump, until int64
	todo := pieces(r.chart.Within(r.used, Untried))
	for len(todo) > 0 || len(flights) > 0 {
		for len(todo) > 0 && len(flights) < depth {
			p := todo[0]
			todo = todo[1:]
			if p.Off < until {
				continue // the second time
			}
			buf, err := r.buffer(ctx)
			if err != nil {
				return err
			}
			if err := r.start(buf[:p.Len], p.Off); err != nil {
				r.pool.Put(buf)
				return err
			}
			flights = append(flights, flight{p, buf})
		}
		if len(flights) == 0 {
			break // what was left was skipped
		}
		f := flights[0]
		err := r.wait()
		flights = flights[1:]
		if err != nil && skip {
			_, err = r.read(f.buf[:f.Len], f.Off) // a bad contact is not a bad place
			if err == nil {
				r.reread.Add(1)
			}
		}
		if err == nil {
			if f.Off >= until {
				jump = 0
			}
			err = r.deliver(ctx, f.piece, f.buf)
		} else if err = r.lose(ctx, f, err, Untrimmed); skip {
			jump = min(max(2*jump, firstSkip), maxSkip)
			until = max(until, f.End()+jump)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// trim reads in small pieces what could not be read in large ones.
func (r *reader) trim(ctx context.Context) error {
	for _, e := range r.chart.Within(r.used, Untrimmed) {
		for p := range cut(e, smallSize) {
			if _, err := r.once(ctx, p, Unscraped); err != nil {
				return err
			}
		}
	}
	return nil
}

// scrape reads sector by sector what could not be read in small pieces: from both
// ends of each piece, until too many have failed.
func (r *reader) scrape(ctx context.Context) error {
	for _, e := range r.chart.Within(r.used, Unscraped) {
		for p := range cut(e, smallSize) {
			sectors := slices.Collect(cut(p, r.sector))
			n, err := r.side(ctx, slices.Values(sectors))
			if err != nil {
				return err
			}
			slices.Reverse(sectors)
			if _, err = r.side(ctx, slices.Values(sectors[:len(sectors)-n])); err != nil {
				return err
			}
		}
	}
	return nil
}

// side reads sectors until too many in a row have failed, and returns how many it
// has tried.
func (r *reader) side(ctx context.Context, sectors func(func(block.Extent) bool)) (n int, err error) {
	failed := 0
	for s := range sectors {
		ok, err := r.once(ctx, s, Bad)
		n++
		switch failed++; {
		case err != nil:
			return n, err
		case ok:
			failed = 0
		case failed == giveUp:
			return n, nil
		}
	}
	return n, nil
}

// again reads every bad sector once more.
func (r *reader) again(ctx context.Context) error {
	for _, e := range r.chart.Within(r.used, Bad) {
		for s := range cut(e, r.sector) {
			if _, err := r.once(ctx, s, Bad); err != nil {
				return err
			}
		}
	}
	return nil
}

// cut returns the parts of an extent between multiples of n.
func cut(e block.Extent, n int64) func(func(block.Extent) bool) {
	return func(yield func(block.Extent) bool) {
		for e.Len > 0 {
			k := min(e.Len, n-e.Off%n)
			if !yield(block.Extent{Off: e.Off, Len: k}) {
				return
			}
			e.Off, e.Len = e.Off+k, e.Len-k
		}
	}
}

// once reads some bytes, and tells whether it could; if not, they have that status.
func (r *reader) once(ctx context.Context, e block.Extent, otherwise Status) (bool, error) {
	buf, err := r.buffer(ctx)
	if err != nil {
		return false, err
	}
	p := piece{e, []block.Extent{e}}
	if _, err := r.read(buf[:e.Len], e.Off); err != nil {
		return false, r.lose(ctx, flight{p, buf}, err, otherwise)
	}
	r.reread.Add(1)
	return true, r.deliver(ctx, p, buf)
}

// deliver hands on what was read.
func (r *reader) deliver(ctx context.Context, p piece, buf []byte) error {
	for _, e := range p.used {
		r.chart.Set(e, Finished)
	}
	return r.send(ctx, delivery{piece: p, data: buf[:p.Len]})
}

// lose notes that a piece could not be read because of err, unless that is no
// matter of a bad place.
func (r *reader) lose(ctx context.Context, f flight, err error, s Status) error {
	r.pool.Put(f.buf)
	if !isBadPlace(err) {
		return err
	}
	if err := r.card.Check(); err != nil {
		return err
	}
	for _, e := range f.used {
		r.chart.Set(e, s)
	}
	return r.send(ctx, delivery{piece: f.piece, status: s})
}

// isBadPlace tells whether an error concerns only the bytes that were asked for.
func isBadPlace(err error) bool {
	reason := Reason(err)
	return reason == "" || reason == verify.ReadEIO
}

// Reason returns why something failed, "" if the error does not say.
func Reason(err error) verify.Reason {
	var e interface{ Reason() string }
	if errors.As(err, &e) {
		return verify.Reason(e.Reason())
	}
	return ""
}

func (r *reader) send(ctx context.Context, d delivery) error {
	defer r.starve()()
	select {
	case r.out <- d:
		return nil
	case <-ctx.Done():
		if d.data != nil {
			r.pool.Put(d.data)
		}
		return context.Cause(ctx)
	}
}

// buffer waits for a buffer.
func (r *reader) buffer(ctx context.Context) ([]byte, error) {
	defer r.starve()()
	return r.pool.Get(ctx)
}

// starve notes that nothing can be read, until the function that it returns is called.
func (r *reader) starve() func() {
	r.hungry.Store(time.Now().UnixNano())
	return func() { r.starved.Add(time.Now().UnixNano() - r.hungry.Swap(0)) }
}

// waited returns for how long nothing could be read, until now.
func (r *reader) waited() time.Duration {
	n := r.starved.Load()
	if hungry := r.hungry.Load(); hungry != 0 {
		n += time.Now().UnixNano() - hungry
	}
	return time.Duration(n)
}

func (r *reader) start(p []byte, off int64) error {
	defer r.ask()()
	return r.card.StartRead(p, off)
}

func (r *reader) wait() error {
	defer r.ask()()
	return r.card.Wait()
}

func (r *reader) read(p []byte, off int64) (int, error) {
	defer r.ask()()
	n, err := r.card.ReadAt(p, off)
	if n == len(p) {
		err = nil // the end of a file
	}
	return n, err
}

// ask notes that the card owes an answer, until the function that it returns is
// called.
func (r *reader) ask() func() {
	r.asked.Store(time.Now().UnixNano())
	return func() { r.asked.Store(0) }
}

// silent returns for how long the card has owed an answer.
func (r *reader) silent() time.Duration {
	asked := r.asked.Load()
	if asked == 0 {
		return 0
	}
	return time.Since(time.Unix(0, asked))
}
