package faulttest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/device"
	"multidd/internal/device/devicetest"
	"multidd/internal/duplicate"
	"multidd/internal/image"
	"multidd/internal/station"
)

const (
	mib = 1 << 20
	// patience is how long a test waits for something that has to come.
	patience = 2 * time.Minute
	// used is the seed of what is on a card before it is written.
	used = 11
)

// A card is a fake card with a block device.
type card struct {
	*devicetest.Medium
	t    *testing.T
	path string
}

// newCard returns a used card of size bytes with the given faults.
func newCard(t *testing.T, size int64, faults ...devicetest.Fault) *card {
	t.Helper()
	return attach(t, devicetest.NewMedium(size, faults...))
}

// newBlankCard returns a card with nothing on it. It takes no memory for zeros.
func newBlankCard(t *testing.T, size int64, faults ...devicetest.Fault) *card {
	t.Helper()
	m := devicetest.NewMedium(size, faults...)
	return &card{m, t, devicetest.Attach(t, m)}
}

func attach(t *testing.T, m *devicetest.Medium) *card {
	t.Helper()
	m.Soil(used)
	return &card{m, t, devicetest.Attach(t, m)}
}

// newCards returns n sound cards.
func newCards(t *testing.T, n int, size int64) []*card {
	t.Helper()
	cards := make([]*card, n)
	for i := range cards {
		cards[i] = newCard(t, size)
	}
	return cards
}

// before returns what was on the card from an offset on, before it was written.
func (c *card) before(off int64) []byte {
	m := devicetest.NewMedium(c.Size())
	m.Soil(used)
	return read(m, off, c.Size()-off)
}

// read returns what a medium holds at rest.
func read(m *devicetest.Medium, off, n int64) []byte {
	p := make([]byte, n)
	_, _ = m.Cells().ReadAt(p, off) // there is so much
	return p
}

// odd returns the offset of the first byte that is not what it should be on a card with
// the image, and beyond it what was there before; -1: there is none.
func (c *card) odd(data []byte) int {
	n := int64(len(data))
	if at := differs(read(c.Medium, 0, n), data); at >= 0 {
		return at
	}
	if at := differs(read(c.Medium, n, c.Size()-n), c.before(n)); at >= 0 {
		return int(n) + at
	}
	return -1
}

// holds tells whether the card holds the image at rest, and beyond it what was
// there before.
func (c *card) holds(data []byte) bool { return c.odd(data) < 0 }

// wantHolds checks that the card holds the image and nothing beyond it was
// touched.
func (c *card) wantHolds(data []byte) {
	c.t.Helper()
	if at := c.odd(data); at >= 0 {
		c.t.Errorf("%s: byte %d is not what it should be (the image ends at %d)", c.path, at, len(data))
		for _, r := range c.Log() {
			if r.Kind == devicetest.Write && touches(r, int64(at)) {
				c.t.Logf("operation %d wrote it: %d bytes at byte %d, done %v, error %v", r.N, r.Len, r.Off, r.Done, r.Err)
			}
		}
	}
}

// wantUntouched checks that nothing was written to the card.
func (c *card) wantUntouched() {
	c.t.Helper()
	if n := c.Counts().Writes; n != 0 {
		c.t.Errorf("%s: %d writes", c.path, n)
	}
	c.wantUntouchedAtRest()
}

// wantUntouchedAtRest checks that the card holds what it held before.
func (c *card) wantUntouchedAtRest() {
	c.t.Helper()
	c.wantHolds(nil)
}

// wantDead checks that nobody takes the card for a disk with something on it.
func (c *card) wantDead() {
	c.t.Helper()
	if looksWhole(read(c.Medium, 0, 4096)) {
		c.t.Errorf("%s looks like a disk with something on it", c.path)
	}
}

// await waits until the card was given an operation that match accepts.
func (c *card) await(match func(devicetest.Record) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if _, err := c.Await(ctx, match); err != nil {
		c.t.Fatalf("%s was not given an operation within %v", c.path, patience)
	}
}

// awaitWrite waits until a byte is written.
func (c *card) awaitWrite(off int64) {
	c.t.Helper()
	c.await(func(r devicetest.Record) bool { return r.Kind == devicetest.Write && touches(r, off) })
}

// touches tells whether an operation concerns a byte.
func touches(r devicetest.Record, off int64) bool { return r.Off <= off && off < r.Off+int64(r.Len) }

// looksWhole tells whether a disk has a signature by which it is taken for one.
func looksWhole(disk []byte) bool {
	return disk[510] == 0x55 && disk[511] == 0xaa || bytes.Equal(disk[512:520], []byte("EFI PART"))
}

// differs returns the first offset at which two disks differ, or -1.
func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// A master is an image and the file it is in.
type master struct {
	path string
	data []byte
}

// newMaster makes an image of n bytes that repeats nowhere and begins with a master
// boot record.
func newMaster(t *testing.T, n int) master {
	t.Helper()
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	data[510], data[511] = 0x55, 0xaa
	return masterOf(t, data)
}

func masterOf(t *testing.T, data []byte) master {
	t.Helper()
	return master{writeFile(t, "master.img", data), data}
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// A job is what a run in this process is asked for. The zero value but for the
// image is what `multidd write` does.
type job struct {
	image  string // path of the file
	open   image.Options
	device device.Options
	engine duplicate.Options
	delta  bool
}

// plan plans the job, until the end of the test.
func (j job) plan(t *testing.T, cards ...*card) (*station.Plan, *image.Image) {
	t.Helper()
	j.open.Digest = true
	im, err := image.Open(t.Context(), j.image, j.open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return j.planFor(t, im, cards...), im
}

func (j job) planFor(t *testing.T, im *image.Image, cards ...*card) *station.Plan {
	t.Helper()
	var names []string
	for _, c := range cards {
		names = append(names, c.path)
	}
	j.device.Policy.Images = []string{j.image}
	p := station.NewPlan(t.Context(), device.System{}, names, station.ImageOf(im), station.EndOf(im), j.device, nil)
	t.Cleanup(p.Close)
	return p
}

// opened plans the job and opens the cards. A process that another test is about to
// start has a copy of all that this one has open, until it becomes another program;
// so a card of an earlier run may be busy for a moment.
func (j job) opened(t *testing.T, cards ...*card) (*station.Plan, *image.Image) {
	t.Helper()
	p, im := j.plan(t, cards...)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p.Open()
		refused := p.Refused()
		if len(refused) == 0 {
			return p, im
		}
		if r := refused[0].Refusals[0]; r.Reason != device.ReasonBusy || time.Now().After(end) {
			t.Fatalf("%s is refused: %v", refused[0].Name, r)
		}
		p.Close()
		p = j.planFor(t, im, cards...)
	}
}

// A run is a run in this process.
type run struct {
	t     *testing.T
	st    *station.Station
	plan  *station.Plan
	image *image.Image
	pool  *block.Pool
	ended chan struct{} // closed when all is complete

	mu   sync.Mutex
	all  []station.Snapshot
	more chan struct{} // closed and replaced when there is another one
}

// start plans the job, opens the cards and begins to write.
func (j job) start(t *testing.T, cards ...*card) *run {
	t.Helper()
	p, im := j.opened(t, cards...)
	window, depth, pool := station.Sizes(len(cards), im.Memory())
	j.engine.Window, j.engine.Depth, j.engine.Map = window, depth, station.MapOf(im)
	if j.delta {
		p.Delta()
	}
	st := station.New(t.Context(), station.NewSource(im, pool, p.Largest()), p.Cards(),
		station.Options{Engine: j.engine, Pool: pool, Every: 10 * time.Millisecond})
	r := &run{t: t, st: st, plan: p, image: im, pool: pool, ended: make(chan struct{}), more: make(chan struct{})}
	snapshots := st.Watch(t.Context())
	go st.Do()
	go func() {
		defer close(r.ended)
		for s := range snapshots {
			r.take(s)
		}
	}()
	return r
}

func (r *run) take(s station.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, s)
	close(r.more)
	r.more = make(chan struct{})
}

// untilPhase waits until a lane is in a phase.
func (r *run) untilPhase(lane int, p station.Phase) {
	r.t.Helper()
	for late := time.After(patience); ; {
		r.mu.Lock()
		more := r.more
		there := slices.ContainsFunc(r.all, func(s station.Snapshot) bool { return s.Lanes[lane].Phase == p })
		r.mu.Unlock()
		if there {
			return
		}
		select {
		case <-more:
		case <-r.ended:
			r.t.Fatalf("the run ended before lane %d was in phase %v", lane, p)
		case <-late:
			r.t.Fatalf("lane %d did not come to phase %v within %v", lane, p, patience)
		}
	}
}

// run carries the job out.
func (j job) run(t *testing.T, cards ...*card) result {
	t.Helper()
	return j.start(t, cards...).end()
}

// A result is how a run ended: its last snapshot, and all of them.
type result struct {
	station.Snapshot
	t   *testing.T
	all []station.Snapshot
}

// end waits for the end of the run, and lets go of the cards.
func (r *run) end() result {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		r.t.Fatalf("the run did not end within %v", patience)
	}
	r.plan.Close()
	r.image.Close()
	r.pool.Close()
	if len(r.all) == 0 || !r.all[len(r.all)-1].Done {
		r.t.Fatal("the run has no last snapshot")
	}
	return result{r.all[len(r.all)-1], r.t, r.all}
}

// verdict says how a lane ended: in which phase, or why not in a good one.
func verdict(l station.LaneState) string {
	if l.Phase == station.Failed {
		return string(l.Reason)
	}
	return l.Phase.String()
}

// want checks the exit status and the verdicts.
func (res result) want(exit int, verdicts ...string) {
	res.t.Helper()
	if res.Exit != exit {
		res.t.Errorf("exit status %d, want %d (image: %q)", res.Exit, exit, res.Image.Err)
	}
	for i, l := range res.Lanes {
		if !slices.Contains(strings.Split(verdicts[i], "|"), verdict(l)) {
			res.t.Errorf("lane %d is %q in phase %v, want %s: %s", i, verdict(l), l.Step, verdicts[i], l.Message)
		}
		if l.Phase == station.Failed && l.Reason.Hint() != "" && !strings.Contains(l.Message, l.Reason.Hint()) {
			res.t.Errorf("lane %d does not say what to do: %q", i, l.Message)
		}
	}
}

// wantAmber checks that a lane has a warning with some words in it; no words: that
// it has none.
func (res result) wantAmber(lane int, words string) {
	res.t.Helper()
	amber := strings.Join(res.Lanes[lane].Amber, "\n")
	if words == "" && amber != "" || !strings.Contains(amber, words) {
		res.t.Errorf("lane %d is warned of %q, want %q", lane, amber, words)
	}
}
