package station

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"multidd/internal/block"
	"multidd/internal/device"
	"multidd/internal/duplicate"
	"multidd/internal/image"
)

// A Refusal is a reason why a target may not be written.
type Refusal struct {
	Reason string // a stable token
	Text   string // what is wrong and what to do, in one sentence
}

// A Target is a place that was named, or found, and what is in it now. All its
// strings are safe to print on a terminal.
type Target struct {
	Name                        string // as it was given
	Slot, Device, Model, Serial string
	Bus                         string
	Size                        int64    // in bytes; 0: no card; -1: a file that grows
	Contents                    []string // what is on it, a line for each partition
	Refusals                    []Refusal
	// Floor is the least time that writing the image and reading it back takes
	// this card, from what is known of its speed; -1: nothing is.
	Floor time.Duration
	// FloorFrom says where that is known from.
	FloorFrom string

	disk device.Disk
	card *device.Card
}

// A Plan is what a run would do: an image and the targets it goes to. It holds the
// targets open, once they are.
type Plan struct {
	Image   ImageState
	Targets []Target
	// End is just past the last byte that is written, used how many bytes are
	// written; -1: not known yet.
	End, Used int64
	// EndWhy says what it is that ends there, in a clause; "": the image.
	EndWhy string

	sys    device.System
	o      device.Options
	speeds *Speeds
	// whole is set if the image is all that is to be on the cards, so that what
	// is left of an earlier partition table goes.
	whole bool
	delta bool // only what differs is written
}

// Survey lists the slots of this computer, with what is in them and whether
// it may be written. Disks that can be no card at all are left out unless all is
// set.
func Survey(ctx context.Context, sys device.System, policy device.Policy, all bool) ([]Target, error) {
	disks, err := sys.List()
	if err != nil {
		return nil, fmt.Errorf("list the devices: %w", err)
	}
	disks = slices.DeleteFunc(disks, func(d device.Disk) bool {
		if !all && (d.Bus == device.BusVirtual || d.Bus == device.BusLoop || d.Bus == "") {
			return true
		}
		return d.Bus == device.BusLoop && d.Size == 0 // a loop device without a file
	})
	disks = probe(ctx, sys, disks)
	var targets []Target
	for i, refusals := range sys.JudgeAll(disks, policy) {
		t := newTarget(disks[i].Path, disks[i])
		t.refuse(refusals)
		targets = append(targets, t)
	}
	return targets, nil
}

// probeFor is how long disks have to tell what is on them.
const probeFor = 5 * time.Second

func probe(ctx context.Context, sys device.System, disks []device.Disk) []device.Disk {
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	return sys.Probe(ctx, disks)
}

func newTarget(name string, d device.Disk) Target {
	return Target{
		Name: Clean(name), Slot: Clean(d.Slot), Device: Clean(d.Path), Model: strings.TrimSpace(d.Vendor + " " + d.Model), Serial: d.Serial,
		Bus: d.Bus, Size: d.Size, Contents: contents(d), Floor: -1, disk: d,
	}
}

// contents says what is on a disk, a line for each partition.
func contents(d device.Disk) []string {
	var lines []string
	if d.FS != "" || d.Label != "" || len(d.Mounts) > 0 {
		lines = append(lines, describe("", d.Size, d.FS, d.Label, d.Mounts))
	}
	for _, p := range d.Parts {
		lines = append(lines, describe(p.Name, p.Size, p.FS, p.Label, p.Mounts))
	}
	if len(d.Holders) > 0 {
		lines = append(lines, "part of "+strings.Join(d.Holders, ", "))
	}
	return lines
}

func describe(name string, size int64, fs, label string, mounts []string) string {
	words := []string{}
	if name != "" {
		words = append(words, name)
	}
	words = append(words, Amount(size))
	if fs != "" {
		words = append(words, fs)
	}
	if label != "" {
		words = append(words, fmt.Sprintf("%q", label))
	}
	if len(mounts) > 0 {
		words = append(words, "mounted at "+strings.Join(mounts, ", "))
	}
	return strings.Join(words, " ")
}

// NewPlan finds the named targets and judges them. Nothing is written, and
// nothing is opened for writing yet. image is what will be written, end the end of
// its last used byte, -1 if that is not known.
func NewPlan(ctx context.Context, sys device.System, names []string, image ImageState, end int64, o device.Options, speeds *Speeds) *Plan {
	o.Policy.Named = true
	p := &Plan{Image: image, End: end, Used: image.Used, sys: sys, o: o, speeds: speeds, whole: true}
	var disks []device.Disk
	var found []int // which targets they are
	for i, f := range sys.FindAll(names) {
		t := Target{Name: Clean(names[i]), Device: Clean(names[i]), Floor: -1}
		if f.Err != nil {
			t.Refusals = []Refusal{refusalOf(f.Err)}
		} else {
			disks, found = append(disks, f.Disk), append(found, i)
		}
		p.Targets = append(p.Targets, t)
	}
	disks = probe(ctx, sys, disks)
	for i, refusals := range sys.JudgeAll(disks, o.Policy) {
		t := &p.Targets[found[i]]
		*t = newTarget(t.Name, disks[i])
		t.refuse(refusals)
		p.judge(t, disks[:i])
		p.floor(t)
	}
	return p
}

// refuse adds what a guard has against a target.
func (t *Target) refuse(refusals []device.Refusal) {
	for _, r := range refusals {
		t.Refusals = append(t.Refusals, Refusal{r.Reason, Clean(r.Text)})
	}
}

// judge adds what this plan has against a target, given the ones named before it.
func (p *Plan) judge(t *Target, earlier []device.Disk) {
	for _, e := range earlier {
		t.refuse(device.SameDevice([]device.Disk{e, t.disk}))
	}
	if t.disk.Size != 0 {
		p.fits(t, t.disk)
	}
}

// Need says how large a card the image needs, in bytes, which was not known when the
// plan was made, and what it is that ends there, in a clause ("": the image).
// Targets that are smaller are refused.
func (p *Plan) Need(end int64, why string) {
	p.End, p.EndWhy = end, why
	for i := range p.Targets {
		if t := &p.Targets[i]; t.disk.Size != 0 {
			p.fits(t, t.disk)
		}
	}
}

// Smallest returns the size of the smallest target that a card is in, in bytes; of
// a file that grows there is no end. -1: there is none.
func (p *Plan) Smallest() int64 {
	least := int64(-1)
	for _, t := range p.Targets {
		if t.disk.Size > 0 && (least < 0 || t.disk.Size < least) {
			least = t.disk.Size
		}
	}
	return least
}

// fits refuses a target that ends before the image does.
func (p *Plan) fits(t *Target, d device.Disk) {
	if p.End < 0 {
		return
	}
	if err := d.Fits(p.End); err != nil {
		r := refusalOf(err)
		if p.EndWhy != "" {
			r.Text += ": " + Clean(p.EndWhy)
		}
		t.Refusals = append(t.Refusals, r)
	}
}

func (p *Plan) floor(t *Target) {
	t.Floor, t.FloorFrom = -1, ""
	if p.Used < 0 || p.speeds == nil {
		return
	}
	write, read, from := p.speeds.Of(t.disk)
	if write <= 0 || p.delta && read <= 0 {
		return
	}
	seconds := float64(p.Used) / write
	switch {
	case p.delta:
		seconds = float64(p.Used) / read // and no one knows how much differs
	case read > 0:
		seconds += float64(p.Used) / read
	}
	t.Floor, t.FloorFrom = time.Duration(seconds*float64(time.Second)), from
}

// Delta has the cards read first, and only what differs written.
func (p *Plan) Delta() {
	p.delta = true
	for i := range p.Targets {
		p.floor(&p.Targets[i])
	}
}

// CanDiscard returns why one of the opened targets does not promise that what it
// discards reads as zeros; nil if all do.
func (p *Plan) CanDiscard() error {
	for _, t := range p.Targets {
		if t.card == nil {
			continue
		}
		if err := t.card.CanDiscard(); err != nil {
			return err
		}
	}
	return nil
}

func refusalOf(err error) Refusal {
	r := string(reasonOf(err))
	if r == "" {
		r = "error"
		if errors.Is(err, fs.ErrPermission) {
			r = "permission"
		}
	}
	return Refusal{r, Clean(err.Error())}
}

// Keep keeps all that the image does not fill, as dd does: an old partition table
// at the end of a card, too.
func (p *Plan) Keep() { p.whole = false }

// Refused returns the targets that may not be written.
func (p *Plan) Refused() []Target {
	var refused []Target
	for _, t := range p.Targets {
		if len(t.Refusals) > 0 {
			refused = append(refused, t)
		}
	}
	return refused
}

// Open opens all targets, exclusively, until Close. If one of them cannot be
// had, that is a refusal of it. Nothing is written.
func (p *Plan) Open() {
	var disks []device.Disk
	var targets []*Target
	for i := range p.Targets {
		if t := &p.Targets[i]; len(t.Refusals) == 0 {
			disks, targets = append(disks, t.disk), append(targets, t)
		}
	}
	for i, opened := range p.sys.OpenAll(disks, p.o) {
		t := targets[i]
		if opened.Err != nil {
			t.Refusals = append(t.Refusals, refusalOf(opened.Err))
			continue
		}
		t.card = opened.Card
		p.fits(t, t.card.Disk())
	}
}

// Check looks once more whether the opened targets are what they were, after a
// person was asked.
func (p *Plan) Check() {
	var checking sync.WaitGroup
	for i := range p.Targets {
		t := &p.Targets[i]
		if t.card == nil {
			continue
		}
		checking.Go(func() {
			if err := t.card.Check(); err != nil {
				t.Refusals = append(t.Refusals, refusalOf(err))
			}
		})
	}
	checking.Wait()
}

// rescanFor is how long the kernel may take to read the tables of written cards.
const rescanFor = 3 * time.Second

// Finish has the kernel read the partition tables of the cards that were written.
func (p *Plan) Finish(last Snapshot) {
	var rescan sync.WaitGroup
	for i, l := range last.Lanes {
		if card := p.Targets[i].card; card != nil && (l.Phase == Good || l.Phase == Unverified) {
			rescan.Go(card.Rescan)
		}
	}
	done := make(chan struct{})
	go func() { rescan.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(rescanFor):
	}
}

// Close lets go of the targets, all at once: the kernel takes its time over each.
func (p *Plan) Close() {
	var closing sync.WaitGroup
	for i := range p.Targets {
		t := &p.Targets[i]
		if t.card == nil {
			continue
		}
		closing.Go(func() {
			_ = t.card.Close() // what was written has its verdict
			t.card = nil
		})
	}
	closing.Wait()
}

// Cards returns the opened targets as cards of a run.
func (p *Plan) Cards() []Card {
	var cards []Card
	for _, t := range p.Targets {
		d := t.card.Disk()
		c := Card{
			Slot: t.Slot, Device: t.Device, Model: t.Model, Serial: t.Serial,
			Size: max(0, d.Size), Sector: d.Sector, Target: t.card, Bus: d.BusID, BusSpeed: d.BusSpeed,
			Delta: p.delta,
		}
		if d.Bus == device.BusFile {
			c.Sector = 0
		}
		if !t.card.Direct() {
			c.Amber = append(c.Amber, "The card was read back through the page cache, which was dropped first, since direct I/O is not possible with it.")
		}
		if off, n, ok := t.card.BackupTable(); ok && p.whole {
			c.Blank = []block.Extent{{Off: off, Len: n}}
		}
		cards = append(cards, c)
	}
	return cards
}

// Largest returns the size of the largest opened target, 0 if one of them grows.
func (p *Plan) Largest() int64 {
	var n int64
	for _, t := range p.Targets {
		if t.disk.Size < 0 {
			return 0
		}
		n = max(n, t.disk.Size)
	}
	return n
}

// Learn remembers how fast the cards of a finished run were.
func (p *Plan) Learn(last Snapshot) error {
	if p.speeds == nil {
		return nil
	}
	for i, l := range last.Lanes {
		if l.Phase == Good && l.Step == Sealing {
			p.speeds.learn(p.Targets[i].disk, l.WriteRate, l.ReadRate)
		}
	}
	return p.speeds.save()
}

// A run may be at most Resident bytes of memory for up to manyCards cards, and
// perCard blocks more for each further one.
const (
	Resident  = 128 << 20
	manyCards = 14
	// BlockSize is that of a run in bytes.
	BlockSize = 1 << 20
	// perCard is how many blocks a lane may have under way at least; they are what
	// a further card takes.
	perCard = 2
	// ours is what the program takes beside buffers and decoder.
	ours = 34 << 20
)

// Sizes returns how many blocks the window of a run may have, how many each lane may
// have under way, and the pool for both, so that the run keeps within its memory:
// decoder is what the image's decoder takes, in bytes. Where there is room for more
// than two a lane, there are up to four: a card is then not idle if this computer is
// busy when it is done with some.
func Sizes(cards int, decoder int64) (window, depth int, pool *block.Pool) {
	const most, enough, least, deepest = 24, 16, 6, 4
	budget := Resident + int64(max(0, cards-manyCards))*perCard*BlockSize
	room := int((budget-ours-decoder)/BlockSize) - image.Held
	depth = min(deepest, max(perCard, (room-enough)/max(1, cards)))
	window = min(most, max(least, room-depth*cards))
	return window, depth, block.NewPool(duplicate.Buffers(window, depth, cards)+image.Held, BlockSize)
}

// Amount writes a number of bytes for people, as dd does.
func Amount(n int64) string {
	if n < 0 {
		return "?"
	}
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for ; f >= 999.5 && i < len(units)-1; i++ {
		f /= 1000
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %cB", f, units[i])
	}
	return fmt.Sprintf("%.0f %cB", f, units[i])
}

// IsPermission tells whether a refusal is only for want of a right.
func (r Refusal) IsPermission() bool { return r.Reason == "permission" }
