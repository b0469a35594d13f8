package tui

import (
	"fmt"
	"strings"
	"time"

	"multidd/internal/station"
	"multidd/internal/verify"
)

// A meaning says a reason in words that fit into a row and into a sentence.
// What to do about it is verify.Reason's Hint.
type meaning struct {
	short  string // two or three words, for a row: "write error"
	clause string // what goes on after "the card in 1-2.4 failed: it "
	blame  bool   // it is the card that is bad
}

// meanings has every reason of package verify.
var meanings = map[verify.Reason]meaning{
	verify.ReadbackMismatch: {"reads back wrong", "reads back other bytes than were written", true},
	verify.ReadEIO:          {"read error", "cannot read some of its own bytes", true},
	verify.WriteEIO:         {"write error", "refuses to be written", true},
	verify.FlushFailed:      {"flush failed", "could not empty its own cache", true},
	verify.Stalled:          {"stopped answering", "stopped answering", true},
	verify.Removed:          {"was pulled out", "was pulled out or lost its power", false},
	verify.TargetChanged:    {"card was swapped", "is not the card that was checked", false},
	verify.TooSmall:         {"too small", "is too small for the image", false},
	verify.FakeCapacity:     {"fake capacity", "holds less than it says", true},
	verify.ReadOnly:         {"write-protected", "is write-protected", false},
	verify.Busy:             {"in use", "is held by another program", false},
	verify.Mounted:          {"mounted", "has a file system or swap space that is in use", false},
	verify.SystemDisk:       {"system disk", "is a disk that the running system needs", false},
	verify.SourceOnTarget:   {"holds the image", "holds the image that is to be written", false},
	verify.ForeignWrite:     {"written by others", "was written to by another program meanwhile", false},
	verify.UnstableRead:     {"unstable reads", "reads differently each time", true},
	verify.ImageDigest:      {"bad image", "was given an image that is not what its digest says", false},
	verify.ImageDecode:      {"bad image", "was given an image that cannot be decoded", false},
	verify.IDUnavailable:    {"no name left", "could not be given a name", false},
	verify.Journal:          {"not recorded", "could not be recorded in the journal", false},
	verify.StoreFull:        {"no store to go on", "fell behind, and there was no room to keep the image for it", false},
	verify.Interrupted:      {"not finished", "was not finished", false},
}

// means is the meaning of a reason, known or not.
func means(r verify.Reason) meaning {
	if m, ok := meanings[r]; ok {
		return m
	}
	if r == "" {
		return meaning{short: "failed", clause: "failed"}
	}
	return meaning{short: string(r), clause: "failed (" + string(r) + ")"}
}

// advice is what happened to a lane that is not good, what it probably means and
// what to do: the station's own message where there is one.
func advice(lane station.LaneState) string {
	if lane.Message != "" {
		return lane.Message
	}
	if h := lane.Reason.Hint(); h != "" {
		return h
	}
	return "The card " + means(lane.Reason).clause + ". Try it once more in another reader."
}

// where is " at 1.23 GB", or nothing.
func where(lane station.LaneState) string {
	if lane.Offset < 0 || lane.Step == station.Ready {
		return ""
	}
	if lane.Reason == verify.FakeCapacity {
		return ", about " + size(lane.Offset)
	}
	return " at " + size(lane.Offset)
}

// slotted is the lane's place and device: "1-2.4 (/dev/sdf)".
func slotted(lane station.LaneState) string {
	switch {
	case lane.Slot == "":
		return lane.Device
	case lane.Device == "" || lane.Device == lane.Slot:
		return lane.Slot
	}
	return lane.Slot + " (" + lane.Device + ")"
}

// limit names the bottleneck in words.
func limit(snap station.Snapshot) string {
	switch snap.Bottleneck {
	case station.NoBottleneck:
		return ""
	case station.ByCards:
		if len(snap.Lanes) == 1 {
			return "the card is the limit"
		}
		return "the cards are the limit"
	case station.BySource:
		return "reading the image is the limit"
	case station.ByDecoder:
		return "unpacking is the limit"
	case station.ByBus:
		return "the USB bus is the limit"
	}
	return string(snap.Bottleneck) + " is the limit"
}

// A tally counts lanes by what became of them.
type tally struct {
	all, good, unread, failed, interrupted, stalled, running int
}

func count(lanes []station.LaneState) tally {
	t := tally{all: len(lanes)}
	for _, lane := range lanes {
		switch {
		case lane.Phase == station.Good:
			t.good++
		case lane.Phase == station.Unverified:
			t.unread++
		case lane.Phase == station.Failed:
			t.failed++
		case lane.Phase == station.Interrupted:
			t.interrupted++
		default:
			t.running++
			if lane.Stalled > 0 {
				t.stalled++
			}
		}
	}
	return t
}

// done is how many lanes have their verdict.
func (t tally) done() int { return t.all - t.running }

// part is how much of a phase is done, from 0 to 1; ok is false when that is
// not known.
func part(lane station.LaneState) (f float64, ok bool) {
	if lane.Total <= 0 {
		return 0, false
	}
	return min(max(float64(lane.Done)/float64(lane.Total), 0), 1), true
}

// A share is how the work of all lanes is divided, each from 0 to 1; what is
// left of 1 is still to be done. Every card is worth the same, and writing it is
// half of its way and reading it back the other half.
type share struct {
	good, lost float64 // of cards with that verdict
	underway   float64 // done on the others, and not proved
}

// compared is the part of a card's way that comparing is, if only what differs is
// written.
const compared = 0.95

func (s share) done() float64 { return s.good + s.lost + s.underway }

func shares(snap station.Snapshot) share {
	var s share
	if len(snap.Lanes) == 0 {
		return s
	}
	written := 0.5
	if snap.WriteOnly {
		written = 1
	}
	one := 1 / float64(len(snap.Lanes))
	for _, lane := range snap.Lanes {
		f, _ := part(lane)
		written := written
		if lane.Delta {
			written = max(written, compared)
		}
		switch lane.Phase {
		case station.Good:
			s.good += one
		case station.Failed, station.Interrupted:
			s.lost += one
		case station.Writing, station.Comparing:
			s.underway += one * written * f
		case station.Flushing:
			s.underway += one * written
		case station.Verifying:
			s.underway += one * (written + (1-written)*f)
		case station.Sealing, station.Unverified:
			s.underway += one
		}
	}
	return s
}

// percent rounds down, so that 100 is said only at the end.
func percent(f float64) string { return fmt.Sprintf("%d%%", int(f*100+1e-9)) }

// left is the time until the last verdict, as far as the lanes that move know
// it; -1 when they do not. A stalled lane's is not counted: nobody knows it.
func left(lanes []station.LaneState) time.Duration {
	longest := time.Duration(-1)
	for _, lane := range lanes {
		if lane.Phase.Final() || lane.Stalled > 0 {
			continue
		}
		if lane.ETA < 0 && underway(lane) {
			return -1
		}
		longest = max(longest, lane.ETA)
	}
	return longest
}

// underway tells whether a lane's bytes are on their way.
func underway(lane station.LaneState) bool {
	return lane.Phase == station.Comparing || lane.Phase == station.Writing || lane.Phase == station.Verifying
}

// differed says how much of the lanes' good cards was written, in a run with Delta:
// "12.0 MB of 1.00 GB differed, and were written and read back"; "" in any
// other.
func differed(lanes ...station.LaneState) string {
	var of, n int64
	for _, lane := range lanes {
		if !lane.Delta {
			return ""
		}
		of, n = of+lane.Compared, n+lane.Differed
	}
	if n == 0 {
		return "nothing of " + size(of) + " differed, and nothing was written"
	}
	return size(n) + " of " + size(of) + " differed, and were written and read back"
}

// capital begins a sentence.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// cards is "1 card" or "14 cards".
func cards(n int) string {
	if n == 1 {
		return "1 card"
	}
	return fmt.Sprintf("%d cards", n)
}
