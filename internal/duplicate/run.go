package duplicate

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// ErrInterrupted is the cause with which a run's context is cancelled when a
// person ends it.
var ErrInterrupted = errors.New("interrupted")

// Options say how a run goes. The zero value is right for cards.
type Options struct {
	Window  int  // blocks shared by the lanes; 0: 24
	Depth   int  // requests in flight per lane; 0: 2
	NoProof bool // do not read back: lanes end Unverified
	// Rewrites is how often bad ranges are rewritten; 0: once, negative: never.
	Rewrites int
	// Retries is how often a write that failed is repeated; 0: three times,
	// negative: never.
	Retries int
	// NoProbe leaves out the quick look for a card that claims too much.
	NoProbe bool
	// Map is what will be written, if that is known; it is what is probed.
	Map block.Map
	// FullProof has lanes with Delta read everything back, not only what was
	// written and a sample of the rest.
	FullProof bool
	// Discard has what the source leaves out, up to the end of Map or of what it
	// gave, read as zeros: by the Discard of a target that is a Discarder, and by
	// writing zeros where that did not do it. Lanes with Delta leave it alone.
	Discard bool
	// A lane that makes no progress for StallShown (0: 15 s) is shown as
	// stalled. It is given up after the time it takes to write StallBytes
	// (0: 64 MiB) at its own rate, but not before StallMin (0: 30 s) nor after
	// StallMax (0: 5 min). Emptying a card's cache has no progress to show and
	// may always take StallMax.
	StallShown, StallMin, StallMax time.Duration
	StallBytes                     int64
	noSample                       bool // for tests: what was found equal is not looked at again
	// Grace is how long the end of a run waits for requests under way; 0: 2 s.
	Grace time.Duration
}

func orDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (o *Options) fill() {
	orDefault(&o.Window, 24)
	orDefault(&o.Depth, 2)
	orDefault(&o.Rewrites, 1)
	orDefault(&o.Retries, 3)
	orDefault(&o.StallShown, 15*time.Second)
	orDefault(&o.StallMin, 30*time.Second)
	orDefault(&o.StallMax, 5*time.Minute)
	orDefault(&o.StallBytes, 64<<20)
	orDefault(&o.Grace, 2*time.Second)
}

// Buffers returns how many buffers a run with so many lanes needs of its pool:
// those of the window and those in flight of each lane. What the source holds
// besides the blocks that Next returned comes on top, and 4 of the run's own if
// lanes have Delta.
func Buffers(window, depth, lanes int) int { return window + depth*lanes }

// A Lane is a card of a run.
type Lane struct {
	Target Target
	Size   int64 // of the card, in bytes; blocks beyond it do not fit. 0: no limit
	// Blank are extents of an earlier content, beyond those that the image fills
	// itself, that are blanked before anything else: what could bring it back.
	Blank []block.Extent
	// Plain is set for what is written like a file: nothing is withheld,
	// probed or read back.
	Plain bool
	// Patch is what differs on this card; nil: nothing.
	Patch Patch
	// Delta has the card read first, and only what differs written. A Plain one is
	// written whole all the same.
	Delta bool
}

// A Run writes one image to a set of cards.
type Run struct {
	src    Source
	reread Rereader // nil: bytes can be had only once
	pool   *block.Pool
	o      Options
	lanes  []*lane
	win    *window
	record verify.Record
	spots  *verify.Spots // nil: no lane wants them
	// looking are the buffers for blocks that lanes with Delta read again. They are
	// held only while a block is read and compared, and not while a card is waited
	// for, so that a few do for any number of lanes. nil: no lane wants them.
	looking *block.Pool

	head      []block.Block // copies of what belongs into the withheld first MiB
	headReady chan struct{} // closed when head is complete: the source gave its first good bytes
	srcDone   chan struct{} // closed when the source has ended well
	read      atomic.Int64  // bytes the source gave
	total     atomic.Int64  // bytes to be written to each card; -1: not known
	starved   atomic.Int64  // time in ns in which the source was waited for
	full      atomic.Int64  // time in ns in which the source waited for the lanes

	cancel context.CancelCauseFunc
	mu     sync.Mutex
	err    error // why no card can be good; guarded by mu
}

// New returns a run of the source to the lanes. The source makes its blocks in
// the pool's buffers, and the lanes read into them; see Buffers for their number. If the
// source is a Rereader, a lane that falls behind goes on from it. total is how
// many bytes the source will give, -1 if that is not known.
func New(src Source, pool *block.Pool, lanes []Lane, total int64, o Options) *Run {
	o.fill()
	r := &Run{src: src, pool: pool, o: o, headReady: make(chan struct{}), srcDone: make(chan struct{})}
	r.total.Store(total)
	r.reread, _ = src.(Rereader)
	r.win = newWindow(o.Window, r.canReread)
	for i, l := range lanes {
		r.lanes = append(r.lanes, newLane(r, i, l))
		if l.Delta && r.looking == nil {
			r.looking = block.NewPool(looking, pool.BufferSize())
		}
		if l.Delta && !o.NoProof && !o.FullProof {
			r.spots = &verify.Spots{}
		}
	}
	return r
}

// looking is how many blocks lanes with Delta can look at again at a time.
const looking = 4

func (r *Run) canReread() bool { return r.reread != nil && r.reread.CanReread() }

// Do carries the run out and returns when every lane has its verdict. The error
// is not nil if the image could not be read to its end or is bad: then no lane
// is good. When ctx is cancelled every lane ends with the verdict Interrupted.
// A goroutine that the kernel does not give back is left behind.
func (r *Run) Do(ctx context.Context) error {
	ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	var work sync.WaitGroup
	for _, l := range r.lanes {
		r.win.attach(l.cursor)
		work.Go(func() { l.run(ctx) })
	}
	fed := make(chan struct{})
	go func() { defer close(fed); r.feed(ctx) }()
	r.watch(ctx)
	r.cancel(nil) // the feeder may be waiting for lanes that are no more
	idle := make(chan struct{})
	go func() { work.Wait(); <-fed; close(idle) }()
	select {
	case <-idle:
		r.win.drop()
		if r.looking != nil {
			r.looking.Close()
		}
	case <-time.After(r.o.Grace):
	}
	return r.Err()
}

// Err returns why no card can be good, if that is so.
func (r *Run) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// fail ends the run: the image is bad. The first cause stays.
func (r *Run) fail(err error) {
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	err = r.err
	r.mu.Unlock()
	r.cancel(err)
}

// feed moves the source's blocks into the window. It is the only one that calls
// the source's Next.
func (r *Run) feed(ctx context.Context) {
	ready := false
	markReady := func() {
		if !ready {
			ready = true
			close(r.headReady)
		}
	}
	for {
		wait := time.Now()
		if err := r.win.waitRoom(ctx); err != nil {
			return
		}
		begin := time.Now()
		r.full.Add(int64(begin.Sub(wait)))
		b, err := r.src.Next(ctx)
		r.starved.Add(int64(time.Since(begin)))
		if err == io.EOF {
			break
		}
		if err != nil {
			if ctx.Err() == nil {
				r.fail(err)
			}
			return
		}
		r.read.Add(int64(len(b.Data)))
		b, rest := r.withhold(b)
		if !rest {
			continue
		}
		if r.spots != nil {
			r.spots.Add(b.Off, b.Data)
		}
		r.record.Add(verify.Entry{Extent: b.Extent(), Sum: r.sum(b.Data)})
		r.win.push(share(b))
		markReady()
	}
	r.total.Store(r.read.Load())
	close(r.srcDone)
	markReady()
	r.win.end()
}

func (r *Run) sum(p []byte) block.Digest {
	if r.o.NoProof && !r.canReread() {
		return block.Digest{}
	}
	return verify.Sum(p)
}

// withhold keeps a copy of what belongs into the first MiB and returns the rest
// of the block, if there is any.
func (r *Run) withhold(b block.Block) (block.Block, bool) {
	in := b.Extent().Intersect(block.Extent{Len: block.HeadSize})
	if in.Len == 0 {
		return b, true
	}
	r.head = append(r.head, block.New(in.Off, append([]byte(nil), b.Data[:in.Len]...), nil))
	if in.Len == int64(len(b.Data)) {
		b.Release()
		return b, false
	}
	return block.New(in.End(), b.Data[in.Len:], b.Release), true
}

// watch waits until every lane has its verdict, and gives lanes up that have
// stopped.
func (r *Run) watch(ctx context.Context) {
	tick := time.NewTicker(r.o.StallShown / 20)
	defer tick.Stop()
	for _, l := range r.lanes {
	waiting:
		for {
			select {
			case <-l.ended:
				break waiting
			case <-ctx.Done():
				r.endAll(context.Cause(ctx))
			case now := <-tick.C:
				for _, l := range r.lanes {
					l.checkStall(now)
				}
			}
		}
	}
}

// endAll gives every lane that has none a verdict.
func (r *Run) endAll(cause error) {
	for _, l := range r.lanes {
		if r.Err() != nil {
			l.end(Verdict{Phase: Failed, Reason: reasonOf(cause, verify.ImageDecode), Offset: -1, Err: cause})
		} else {
			l.end(Verdict{Phase: Interrupted, Reason: verify.Interrupted, Offset: -1, Err: ErrInterrupted})
		}
	}
}
