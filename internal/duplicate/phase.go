package duplicate

import (
	"errors"
	"fmt"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// A Phase is how far a lane has come.
type Phase int32

// The phases, in the order in which a lane goes through them. The last four
// are final.
const (
	Ready       Phase = iota // nothing written yet
	Preparing                // blanking the first MiB, probing the capacity
	Comparing                // reading the card, and writing what of it differs
	Writing                  // taking the image's blocks
	Flushing                 // emptying the card's own cache
	Verifying                // reading back
	Sealing                  // writing, flushing and reading back the withheld first MiB
	Good                     // proved
	Unverified               // written and flushed, not read back, because that was asked for
	Failed                   // see the verdict's Reason
	Interrupted              // somebody ended the run
)

var phaseNames = [...]string{"ready", "prepare", "compare", "write", "flush", "verify", "seal", "good", "unverified", "failed", "interrupted"}

func (p Phase) String() string { return phaseNames[p] }

// Final tells whether the lane has come to its end.
func (p Phase) Final() bool { return p >= Good }

// A Verdict says what became of a card.
type Verdict struct {
	Phase  Phase         // Good, Unverified, Failed or Interrupted
	Reason verify.Reason // why it is not good
	Step   Phase         // in which phase that happened
	Offset int64         // where on the card, in bytes; -1: nowhere in particular
	Err    error         // what happened
	Bad    []verify.Bad  // what read back wrong, at most maxBad blocks
}

// A stepError is what ends a lane, and where on the card that happened.
type stepError struct {
	reason verify.Reason
	off    int64
	bad    []verify.Bad
	err    error
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// Reason returns why the lane ended, as a stable token.
func (e *stepError) Reason() string { return string(e.reason) }

// fault makes err the end of a lane. The reason is err's own, if it has one.
func fault(err error, otherwise verify.Reason, off int64) *stepError {
	var at interface{ Offset() int64 }
	if errors.As(err, &at) {
		off = at.Offset()
	}
	return &stepError{reason: reasonOf(err, otherwise), off: off, err: err}
}

// placed says what was being done at byte off when err came, unless err says so
// itself: that of a Target which names a reason names the place, too.
func placed(what string, off int64, err error) error {
	if reasonOf(err, "") != "" {
		return err
	}
	return fmt.Errorf("%s at byte %d: %w", what, off, err)
}

// reasonOf returns the reason that err names, or otherwise.
func reasonOf(err error, otherwise verify.Reason) verify.Reason {
	var r interface{ Reason() string }
	if errors.As(err, &r) {
		if s := r.Reason(); s != "" {
			return verify.Reason(s)
		}
	}
	return otherwise
}

// tooSmall says that the image goes on past the end of a card.
func tooSmall(e block.Extent, size int64) error {
	return &stepError{
		reason: verify.TooSmall, off: size,
		err: fmt.Errorf("the image goes on at least to byte %d, the card ends at byte %d: %d bytes too few", e.End(), size, e.End()-size),
	}
}
