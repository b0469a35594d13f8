// Package station drives runs: it knows the slots of this computer, the card in
// each, the image that is to go to them, and what became of every lane. Screens
// only show its snapshots; nothing here is drawn or printed.
package station

import (
	"time"

	"multidd/internal/duplicate"
	"multidd/internal/verify"
)

// A Phase is how far a lane has come.
type Phase = duplicate.Phase

// The phases, in the order in which a lane goes through them. The last four
// are final.
const (
	Ready       = duplicate.Ready       // opened and checked, nothing written
	Preparing   = duplicate.Preparing   // probing the capacity, blanking the first MiB
	Comparing   = duplicate.Comparing   // being read, and written where it differs
	Writing     = duplicate.Writing     // taking the image's blocks
	Flushing    = duplicate.Flushing    // emptying the card's own cache
	Verifying   = duplicate.Verifying   // reading back
	Sealing     = duplicate.Sealing     // writing and reading back the withheld first MiB
	Good        = duplicate.Good        // proved
	Unverified  = duplicate.Unverified  // written and flushed, not read back, because that was asked for
	Failed      = duplicate.Failed      // see Reason
	Interrupted = duplicate.Interrupted // somebody ended the run
)

// A Bottleneck names what the run is waiting for most.
type Bottleneck string

// What a run can be held up by.
const (
	NoBottleneck Bottleneck = ""        // too early to tell
	ByCards      Bottleneck = "cards"   // the cards write or read as fast as they can
	BySource     Bottleneck = "source"  // the image cannot be read faster
	ByDecoder    Bottleneck = "decoder" // the processor unpacks as fast as it can
	ByBus        Bottleneck = "bus"     // cards share a USB bus that is full
)

// A Snapshot is what there is to know about a run at one moment.
type Snapshot struct {
	Time    time.Time
	Elapsed time.Duration
	Image   ImageState
	Lanes   []LaneState // in the order in which the targets were given

	// Bytes that all cards together took (or gave, when verifying) per second, lately.
	Rate       float64
	Bottleneck Bottleneck
	Memory     int64 // resident, in bytes
	// Warnings concern the run as a whole, each a sentence.
	Warnings []string
	// WriteOnly: the cards are not read back, because that was asked for.
	WriteOnly bool
	Done      bool // every lane is final
	Exit      int  // the exit status, once Done
}

// An ImageState says what is being written.
type ImageState struct {
	Name   string // as given
	Format string // "raw", "bz2", …
	Size   int64  // of the disk it makes, in bytes; -1: not known yet
	Used   int64  // how much of that is written; -1: not known yet
	Read   int64  // decoded so far, in bytes
	// SHA256 of the whole decoded image, in hex; empty until it is known.
	SHA256 string
	// Err says what is wrong with the image, in one sentence; then no card is good.
	Err string
}

// A LaneState is one card's way through the run. All its strings are safe to
// print on a terminal.
type LaneState struct {
	Index  int    // from 0
	Slot   string // the place: a USB port path such as "1-2.3", or the path of a plain file
	Device string // such as "/dev/sdb"
	Model  string // vendor, model
	Serial string
	Size   int64 // of the card, in bytes

	// Delta: the card is read first, and only what differs is written. Compared is
	// how many bytes have been looked at, Differed how many of them were not as they
	// should be and were written, or are about to be.
	Delta              bool
	Compared, Differed int64

	Phase   Phase
	Done    int64 // bytes done in this phase
	Total   int64 // bytes to do in this phase; -1: not known yet
	Rate    float64
	ETA     time.Duration // until the verdict; -1: not known
	Behind  bool          // has left the window and goes on from the store
	Stalled time.Duration // since when nothing moved, if that is 15 s or more; else 0
	Retries int           // writes that had to be repeated
	Rewrote int           // bad ranges that were rewritten
	// Amber holds warnings on this card, each a sentence: it may be good all the same.
	Amber []string

	// For a final lane:
	Took      time.Duration // from the first byte to the verdict
	WriteRate float64       // mean, bytes per second, the flush included; 0 of a Delta
	ReadRate  float64       // mean, of the reading back; of a Delta, of the comparing
	Reason    verify.Reason // why it is not good
	Step      Phase         // in which phase that happened
	Offset    int64         // where on the card; -1: nowhere in particular
	Message   string        // what happened, what it probably means and what to do
	Bad       []BadRange    // what read back wrong, at most 100 ranges
}

// A BadRange is a part of a card that did not hold what was written to it.
type BadRange struct {
	Off, Len  int64
	Want, Got string // digests in hex, where known
}
