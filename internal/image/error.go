package image

import "errors"

// The reasons an image can be bad for. They are words of package verify.
const (
	reasonDecode = "image-decode" // it cannot be read, unpacked or understood
	reasonDigest = "image-digest" // it is not what a digest or a map says, or was changed
)

// An Error says what is wrong with an image, in one sentence. Whatever was made
// of the image so far cannot be trusted.
type Error struct {
	Name   string // of the image or of the file beside it, as given
	Offset int64  // in the disk the image makes, in bytes; -1: nowhere in particular
	Err    error

	reason string
}

func (e *Error) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason returns "image-decode" or "image-digest".
func (e *Error) Reason() string { return e.reason }

// ErrClosed is returned by the methods of a Reader after Close.
var ErrClosed = errors.New("the image has been closed")

// ErrNotKept is returned by ReadAt for bytes of which there is no copy, because
// there is no store or because it was given up before it got there.
var ErrNotKept = errors.New("no copy of this part of the image was kept")
