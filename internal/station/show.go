package station

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"multidd/internal/device"
	"multidd/internal/duplicate"
)

// snapshot looks at everything once.
func (s *Station) snapshot(begin time.Time) Snapshot {
	now := time.Now()
	snap := Snapshot{WriteOnly: s.writeOnly, Time: now, Elapsed: now.Sub(begin), Image: s.src.State(), Warnings: append(s.warnings[:len(s.warnings):len(s.warnings)], s.src.Warnings()...), Memory: resident()}
	totals := s.run.Totals()
	snap.Image.Read = totals.Read
	if totals.Total >= 0 {
		snap.Image.Used = totals.Total
	}
	progress := make([]duplicate.Progress, len(s.cards))
	for i := range s.cards {
		progress[i] = s.run.Progress(i)
	}
	reading, decoding := s.src.Waits()
	s.meter.add(sample{now, progress, totals, reading, decoding})
	for i, c := range s.cards {
		snap.Lanes = append(snap.Lanes, s.lane(i, c, progress[i], totals))
	}
	flagSlow(snap.Lanes)
	for _, l := range snap.Lanes {
		snap.Rate += l.Rate
	}
	snap.Bottleneck = s.bottleneck(snap)
	return snap
}

// lane says what there is to know of one card.
func (s *Station) lane(i int, c Card, p duplicate.Progress, t duplicate.Totals) LaneState {
	l := LaneState{
		Index: i, Slot: Clean(c.Slot), Device: Clean(c.Device), Model: Clean(c.Model), Serial: Clean(c.Serial), Size: c.Size,
		Phase: p.Phase, Done: p.Done, Total: p.Total, Behind: p.Behind, Stalled: p.Stalled,
		Retries: p.Retries, Rewrote: p.Rewrote, ETA: -1, Offset: -1,
		Delta: c.Delta, Compared: p.Compared, Differed: p.Differed,
		Amber: append(slices.Clone(c.Amber), p.Amber...),
	}
	if s, ok := s.src.(interface{ TableSector() int }); ok {
		if note := geometryNote(s.TableSector(), c.Sector); note != "" {
			l.Amber = append(l.Amber, note)
		}
	}
	if p.Verdict == nil {
		l.Rate = s.meter.rate(i)
		l.ETA = eta(l, p, t, s.meter.writeRate(p))
		return l
	}
	v := p.Verdict
	if !p.Began.IsZero() {
		l.Took = p.Ended.Sub(p.Began)
		if !p.Wrote.IsZero() {
			setRates(&l, p, v)
		}
	}
	l.Reason, l.Step, l.Offset = v.Reason, v.Step, v.Offset
	if v.Err != nil {
		l.Message = sentence(v)
	}
	for _, b := range v.Bad {
		l.Bad = append(l.Bad, BadRange{b.First, b.Last - b.First, b.Sum.String(), b.Got.String()})
	}
	return l
}

// setRates works out how fast a card was that was written to its end.
func setRates(l *LaneState, p duplicate.Progress, v *duplicate.Verdict) {
	writing, reading := p.Wrote.Sub(p.Began).Seconds(), p.Ended.Sub(p.Wrote).Seconds()
	switch {
	case l.Delta && writing > 0:
		l.ReadRate = float64(p.Compared) / writing
	case l.Delta:
		return
	case writing > 0:
		l.WriteRate = float64(p.Written) / writing
	}
	if reading > 0 && v.Phase == Good && !l.Delta {
		l.ReadRate = float64(p.Written) / reading
	}
}

// pace is how fast a card went through the image.
func (l LaneState) pace() float64 {
	if l.Delta {
		return l.ReadRate
	}
	return l.WriteRate
}

// sentence says what happened, what it probably means and what to do.
func sentence(v *duplicate.Verdict) string {
	s := Clean(v.Err.Error())
	if s != "" && !strings.HasSuffix(s, ".") {
		s += "."
	}
	if h := v.Reason.Hint(); h != "" {
		s += " " + h
	}
	return s
}

// eta guesses how long a lane still takes, from its own rate; the reading back is
// taken to be as quick as the writing until it is measured.
func eta(l LaneState, p duplicate.Progress, t duplicate.Totals, writeRate float64) time.Duration {
	if l.Total < 0 || l.Rate <= 0 && writeRate <= 0 {
		return -1
	}
	rate := l.Rate
	if rate <= 0 {
		rate = writeRate
	}
	left := float64(l.Total - l.Done)
	if l.Phase <= Flushing && l.Delta {
		left += float64(p.Differed) // and as much again as it may still be
		if l.Phase == Comparing && l.Done > 0 {
			left += float64(p.Differed) / float64(l.Done) * float64(l.Total-l.Done)
		}
	} else if l.Phase <= Flushing {
		left += float64(max(0, t.Total))
	}
	return time.Duration(left / rate * float64(time.Second)).Round(time.Second)
}

// flagSlow warns of cards that are much slower than most.
func flagSlow(lanes []LaneState) {
	var rates []float64
	for _, l := range lanes {
		if l.Phase == Good || l.Phase == Unverified {
			rates = append(rates, l.pace())
		}
	}
	if len(rates) < 3 {
		return
	}
	slices.Sort(rates)
	median := rates[len(rates)/2]
	for i := range lanes {
		l := &lanes[i]
		if (l.Phase == Good || l.Phase == Unverified) && l.pace() < median/2 {
			l.Amber = append(l.Amber, fmt.Sprintf("The card is much slower than the others: it took %.1f MB/s, most cards %.1f MB/s.", l.pace()/1e6, median/1e6))
		}
	}
}

// Clean makes a string safe to print, as device.Clean does, for those who know no
// devices.
func Clean(s string) string { return device.Clean(s) }

// resident returns how much memory the program has, in bytes.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// usable is what a USB bus of so many Mbit/s really carries, in bytes/s: about
// two thirds of its nominal rate at high speed, four fifths above.
func usable(mbit int) float64 {
	if mbit <= 480 {
		return float64(mbit) * 1e6 / 8 * 0.67
	}
	return float64(mbit) * 1e6 / 8 * 0.8
}

// bottleneck names what the run is waiting for most.
func (s *Station) bottleneck(snap Snapshot) Bottleneck {
	writing, active := 0, 0
	onBus, shares := map[string]float64{}, map[string]int{}
	for i, l := range snap.Lanes {
		if l.Phase == Writing || l.Phase == Comparing {
			writing++
		}
		if l.Phase == Writing || l.Phase == Comparing || l.Phase == Verifying {
			active++
			onBus[s.cards[i].Bus] += l.Rate
			shares[s.cards[i].Bus]++
		}
	}
	if active == 0 || snap.Elapsed < time.Second {
		return NoBottleneck
	}
	if writing > 0 && s.meter.starved() > 0.6 {
		if reading, decoding := s.meter.waits(); decoding > reading {
			return ByDecoder
		}
		return BySource
	}
	for i := range snap.Lanes {
		c := s.cards[i]
		if c.Bus != "" && c.BusSpeed > 0 && shares[c.Bus] > 1 && onBus[c.Bus] > 0.85*usable(c.BusSpeed) {
			return ByBus
		}
	}
	return ByCards
}

// A sample is what was seen at one moment.
type sample struct {
	at                time.Time
	lanes             []duplicate.Progress
	totals            duplicate.Totals
	reading, decoding time.Duration
}

// A meter keeps the samples of the last seconds to tell rates from.
type meter struct{ samples []sample }

// span is how far back rates look.
const span = 3 * time.Second

func newMeter() *meter { return &meter{} }

func (m *meter) add(s sample) {
	m.samples = append(m.samples, s)
	for len(m.samples) > 2 && s.at.Sub(m.samples[1].at) >= span {
		m.samples = m.samples[1:]
	}
}

func (m *meter) ends() (first, last sample) { return m.samples[0], m.samples[len(m.samples)-1] }

// rate returns how many bytes per second lane i did lately, in its phase.
func (m *meter) rate(i int) float64 {
	last := m.samples[len(m.samples)-1]
	for _, s := range m.samples {
		if s.lanes[i].Phase != last.lanes[i].Phase || s.lanes[i].Done > last.lanes[i].Done {
			continue // another phase
		}
		d := last.at.Sub(s.at).Seconds()
		if d < 0.1 {
			return 0
		}
		return float64(last.lanes[i].Done-s.lanes[i].Done) / d
	}
	return 0
}

// writeRate returns a lane's mean rate while writing.
func (m *meter) writeRate(p duplicate.Progress) float64 {
	if p.Began.IsZero() {
		return 0
	}
	end := p.Wrote
	if end.IsZero() {
		end = time.Now()
	}
	if d := end.Sub(p.Began).Seconds(); d > 0 {
		return float64(max(p.Written, p.Compared)) / d
	}
	return 0
}

// starved returns which part of the time the lanes waited for the source.
func (m *meter) starved() float64 {
	first, last := m.ends()
	starved := last.totals.Starved - first.totals.Starved
	full := last.totals.Full - first.totals.Full
	if starved+full <= 0 {
		return 0
	}
	return float64(starved) / float64(starved+full)
}

// waits returns how long the source was reading and decoding lately.
func (m *meter) waits() (reading, decoding time.Duration) {
	first, last := m.ends()
	return last.reading - first.reading, last.decoding - first.decoding
}
