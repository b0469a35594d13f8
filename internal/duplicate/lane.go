package duplicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// A lane is one card's way through the run. Its goroutine owns the target; all
// others only look at the atomics and, under mu, at the verdict.
type lane struct {
	r      *Run
	index  int
	t      Async
	size   int64
	blank  []block.Extent
	plain  bool
	delta  bool
	patch  Patch          // nil: none
	pieces []block.Extent // where the patch's pieces are
	cursor *cursor

	// What follows belongs to the lane's goroutine.
	head      []block.Block // what belongs into the first MiB of this card, and is withheld
	claims    claims
	extra     int            // how many pieces of its own the lane has taken
	sourced   bool           // the source has ended: claims are complete
	spoilt    bool           // the first MiB has been blanked
	changed   *verify.Record // what was written because it differed
	doubt     []int          // of claims: blocks found equal in which something was written and put back
	whole     bool           // everything is to be read back, whatever was found equal
	odd       *block.Extent  // why that is, if it is because of a place
	illegible []int64        // where it could not be read while it was compared

	phase   atomic.Int32
	done    atomic.Int64 // bytes done in this phase
	total   atomic.Int64 // bytes to do in this phase; -1: not known
	moved   atomic.Int64 // when something last moved, in ns since the epoch
	idle    atomic.Bool  // waits for the source, not for the card
	syncing atomic.Bool  // the card empties its cache: no progress to show
	retries atomic.Int32
	rewrote atomic.Int32

	began, wrote, proved atomic.Int64 // ns since the epoch; 0: not yet
	written              atomic.Int64 // bytes, over all phases
	compared, differed   atomic.Int64 // bytes
	more                 atomic.Int64 // bytes to be written beyond those that the source gives

	mu      sync.Mutex
	verdict *Verdict      // guarded by mu; set once
	amber   []string      // guarded by mu
	ended   chan struct{} // closed with the verdict
}

func newLane(r *Run, i int, l Lane) *lane {
	n := &lane{
		r: r, index: i, size: l.Size, blank: l.Blank, plain: l.Plain, delta: l.Delta && !l.Plain, patch: l.Patch,
		cursor: newCursor(), claims: claims{shared: &r.record}, changed: &verify.Record{}, ended: make(chan struct{}),
	}
	if l.Patch != nil {
		n.pieces = l.Patch.Extents()
	}
	t, ok := l.Target.(Async)
	if !ok {
		t = &atOnce{Target: l.Target, moved: n.touch}
	}
	n.t = t
	n.total.Store(-1)
	return n
}

// atOnce makes an Async of a Target that can only do one thing at a time.
type atOnce struct {
	Target
	moved   func() // called after each request
	results []error
}

func (a *atOnce) StartWrite(p []byte, off int64) error {
	_, err := a.WriteAt(p, off)
	a.moved()
	a.results = append(a.results, err)
	return nil
}

func (a *atOnce) StartRead(p []byte, off int64) error {
	_, err := a.ReadAt(p, off)
	a.moved()
	a.results = append(a.results, err)
	return nil
}

func (a *atOnce) Wait() error {
	err := a.results[0]
	a.results = append(a.results[:0], a.results[1:]...)
	return err
}

// run takes the card through all its phases.
func (l *lane) run(ctx context.Context) {
	defer l.r.win.leave(l.cursor)
	err := l.phases(ctx)
	step := Phase(l.phase.Load())
	if err == nil {
		end := Good
		if (l.r.o.NoProof || l.plain) && !l.untouched() {
			end = Unverified
		}
		if !l.end(Verdict{Phase: end, Step: step, Offset: -1}) && !l.plain && !l.untouched() {
			l.unseal(ErrInterrupted) // the run was ended just before
		}
		return
	}
	if ctx.Err() != nil {
		return // watch gives the verdict
	}
	var s *stepError
	if !errors.As(err, &s) {
		s = fault(err, verify.WriteEIO, -1)
	}
	l.end(Verdict{Phase: Failed, Reason: s.reason, Step: step, Offset: s.off, Err: err, Bad: s.bad})
}

// end gives the lane its verdict and returns true, unless it has one.
func (l *lane) end(v Verdict) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.verdict != nil {
		return false
	}
	if v.Phase == Interrupted || v.Step == 0 {
		v.Step = Phase(l.phase.Load())
	}
	l.verdict = &v
	l.proved.CompareAndSwap(0, time.Now().UnixNano())
	close(l.ended)
	return true
}

// over tells whether the lane has its verdict: then its goroutine must not touch
// the card any more, but to unseal it.
func (l *lane) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

func (l *lane) warn(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.amber = append(l.amber, fmt.Sprintf(format, args...))
}

// enter begins a phase of so many bytes.
func (l *lane) enter(p Phase, total int64) {
	l.done.Store(0)
	l.total.Store(total)
	l.touch()
	l.phase.Store(int32(p))
}

// touch notes that something moved.
func (l *lane) touch() { l.moved.Store(time.Now().UnixNano()) }

func (l *lane) progress(n int64) {
	l.done.Add(n)
	l.touch()
}

// phases does everything from the first byte to the proof.
func (l *lane) phases(ctx context.Context) error {
	l.idle.Store(true)
	select {
	case <-l.r.headReady:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.idle.Store(false)
	l.takeHead()
	l.began.Store(time.Now().UnixNano())
	fill := l.fill
	if l.delta {
		fill = l.refresh
	}
	if err := fill(ctx); err != nil {
		return err
	}
	if l.untouched() {
		return l.check()
	}
	if err := l.flush(ctx); err != nil {
		return err
	}
	l.wrote.Store(time.Now().UnixNano())
	if l.plain {
		return nil
	}
	if !l.r.o.NoProof {
		if err := l.prove(ctx); err != nil {
			return err
		}
	}
	return l.seal(ctx)
}

// fill writes all of the image but the withheld first MiB.
func (l *lane) fill(ctx context.Context) error {
	if !l.plain {
		if err := l.prepare(); err != nil {
			return err
		}
	}
	l.enter(Writing, -1)
	if l.plain {
		// Nothing is withheld from what is written like a file.
		if err := l.writeHead(l.head); err != nil {
			return err
		}
	}
	if err := l.writeAll(ctx); err != nil {
		return err
	}
	if l.r.o.Discard {
		return l.discardFree(ctx)
	}
	return nil
}

// prepare makes the card unbootable before anything else is written to it, and
// looks whether it holds what it says.
func (l *lane) prepare() error {
	l.enter(Preparing, -1)
	if err := l.blankOut(l.blank); err != nil {
		return err
	}
	_, err := l.probe(verify.Probe)
	return err
}

// probe looks whether the card holds what it says, in one of the ways of package
// verify. sound is false if the look met another error than that.
func (l *lane) probe(look func(verify.Card, []int64, func()) error) (sound bool, _ error) {
	places := l.places()
	if places == nil {
		return true, nil
	}
	err := look(l.t, places, l.touch)
	if err == nil {
		return true, nil
	}
	if _, small := errors.AsType[*verify.CapacityError](err); small {
		return false, fault(err, verify.FakeCapacity, -1)
	}
	// The write itself will meet the error again, and say where.
	l.warn("The quick look at the capacity met an error: %v.", err)
	return false, nil
}

// places returns where the card is probed; nil: nowhere.
func (l *lane) places() []int64 {
	m := l.r.o.Map
	if l.r.o.NoProbe || len(m.Used) == 0 {
		return nil
	}
	if own := beyond(l.pieces, m.End()); len(own) > 0 {
		m = block.Map{Size: own[len(own)-1].End(), Used: append(m.Used[:len(m.Used):len(m.Used)], own...)}
	}
	if l.size > 0 && m.End() > l.size {
		return nil
	}
	return verify.ProbePlaces(m)
}

// blankOut makes the card look blank: no failed or interrupted card boots, be it
// into what was on it before. tables are the extents of an earlier content to be
// blanked besides the first MiB.
func (l *lane) blankOut(tables []block.Extent) error {
	zeros, err := block.Aligned(block.HeadSize)
	if err != nil {
		return err
	}
	defer block.Free(zeros)
	extents := slices.Clone(tables)
	for _, h := range l.head {
		extents = append(extents, h.Extent())
	}
	for _, e := range extents {
		if l.over() {
			return ErrInterrupted
		}
		if err := l.fits(e); err != nil {
			return err
		}
		if err := l.writeSure(zeros[:min(e.Len, int64(len(zeros)))], e.Off); err != nil {
			return err
		}
		l.touch()
	}
	if len(extents) == 0 {
		return nil
	}
	return l.sync()
}

// flush empties the card's cache and looks whether it is still the same card.
func (l *lane) flush(ctx context.Context) error {
	l.enter(Flushing, -1)
	if l.over() {
		return context.Cause(ctx)
	}
	if err := l.sync(); err != nil {
		return err
	}
	return l.check()
}

// sync empties the card's cache.
func (l *lane) sync() error {
	l.syncing.Store(true)
	defer l.syncing.Store(false)
	if err := l.t.Sync(); err != nil {
		return fault(fmt.Errorf("flush: %w", err), verify.FlushFailed, -1)
	}
	l.touch()
	return nil
}

// check asks the target whether it is still the card that was opened.
func (l *lane) check() error {
	c, ok := l.t.(Checker)
	if a, wrapped := l.t.(*atOnce); wrapped {
		c, ok = a.Target.(Checker)
	}
	if !ok {
		return nil
	}
	if err := c.Check(); err != nil {
		return fault(err, verify.TargetChanged, -1)
	}
	return nil
}

func (l *lane) fits(e block.Extent) error {
	if l.size > 0 && e.End() > l.size {
		return tooSmall(e, l.size)
	}
	return nil
}

// checkStall gives the lane up if it has not moved for too long.
func (l *lane) checkStall(now time.Time) {
	since := l.stalledFor(now)
	if since == 0 || since < l.patience() || l.over() {
		return
	}
	step := Phase(l.phase.Load())
	l.end(Verdict{
		Phase: Failed, Reason: verify.Stalled, Step: step, Offset: -1,
		Err: fmt.Errorf("no answer for %v", since.Round(time.Second)),
	})
	l.r.win.leave(l.cursor)
}

// stalledFor returns for how long nothing has moved, 0 if that is not long.
func (l *lane) stalledFor(now time.Time) time.Duration {
	p := Phase(l.phase.Load())
	if p == Ready || p.Final() || l.idle.Load() {
		return 0
	}
	since := now.Sub(time.Unix(0, l.moved.Load()))
	if since < l.r.o.StallShown {
		return 0
	}
	return since
}

// patience returns how long the card may show no progress.
func (l *lane) patience() time.Duration {
	o := &l.r.o
	if l.syncing.Load() {
		return o.StallMax
	}
	began := l.began.Load()
	bytes := l.written.Load() + l.compared.Load()
	if began == 0 || bytes == 0 {
		return o.StallMin
	}
	took := time.Duration(l.moved.Load() - began)
	return min(o.StallMax, max(o.StallMin, time.Duration(float64(took)*float64(o.StallBytes)/float64(bytes))))
}
