// Package duplicate is the engine: one source, many lanes. It reads the image
// once, gives every lane its blocks, lets each go at its own speed, and writes,
// flushes, reads back and seals per lane. It knows nothing of formats, hardware
// or people: it sees the small interfaces below.
package duplicate

import (
	"context"
	"io"

	"multidd/internal/block"
)

// A Source gives an image's blocks in ascending order of their offsets. Blocks
// do not overlap; there may be gaps, which are not written.
type Source interface {
	// Next returns the next block, of at most the run's block size. After the
	// last it returns io.EOF, and only if all of the image was there and right.
	// Any other error means that the image is bad or cannot be read, and
	// no card may look whole.
	Next(ctx context.Context) (block.Block, error)
}

// A Rereader is a Source whose bytes can be had again, at any time and from any
// goroutine, once Next has returned them. A lane that falls behind goes on from
// it, and bad ranges are rewritten from it.
type Rereader interface {
	// ReadAt is as in io.ReaderAt. It must not be called for bytes that Next
	// has not yet returned.
	io.ReaderAt
	// CanReread tells whether ReadAt works in this run.
	CanReread() bool
}

// A Target is a card, or what stands for one. An error may have a method
// Reason() string that names one of the reasons of package verify; then its text
// names the place, too. One that has none is judged by what was being done.
type Target interface {
	// ReadAt reads from the medium, past every cache of this computer.
	io.ReaderAt
	// WriteAt takes blocks of any length; those that are aligned go straight to
	// the medium.
	io.WriterAt
	// Sync returns when all that was written is on the medium, the device's own
	// cache included.
	Sync() error
}

// An Async is a Target that takes several requests at a time. They are carried
// out in the order in which they were started. One goroutine at a time may call
// its methods.
type Async interface {
	Target
	// StartWrite and StartRead begin a request and return without waiting for
	// it. p must be left alone until Wait has returned for it.
	StartWrite(p []byte, off int64) error
	StartRead(p []byte, off int64) error
	// Wait waits for the oldest request that was started and not yet waited for,
	// and returns what became of it.
	Wait() error
}

// A Discarder is a Target that can make a range of bytes read as zeros without
// being given them. What it says is not taken on trust: the range is read back.
type Discarder interface {
	Discard(off, n int64) error
}

// A Patch is what differs on one card from what all cards get: pieces laid over
// the blocks that pass, for one lane only. Its methods may be called at any time,
// and always say the same.
type Patch interface {
	// Apply returns b itself if nothing in it differs. Else it returns a block of
	// its own, of the same extent, and releases b.
	Apply(b block.Block) block.Block
	// Extents returns where the pieces are: in ascending order, not overlapping.
	// Where the source gives nothing, too, they are written.
	Extents() []block.Extent
}

// A Checker is a Target that can tell whether it is still the card it was when
// it was opened, and whether nobody else wrote to it. Its error has a Reason.
type Checker interface {
	Check() error
}
