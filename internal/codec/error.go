package codec

import (
	"errors"
	"fmt"
	"io"
)

// An Error says what is wrong with a packed stream, and where. Trouble with
// reading the stream's bytes is not one: it is passed on as it came.
//
// A stream that ends too early satisfies errors.Is(err, io.ErrUnexpectedEOF);
// one that may be sound, but asks for something that is not to be had here (more
// memory than allowed, another method of packing), errors.ErrUnsupported.
type Error struct {
	Format Format
	Offset int64 // into the packed stream, in bytes
	Err    error
}

func (e *Error) Error() string {
	switch {
	case e.Err == io.ErrUnexpectedEOF:
		return fmt.Sprintf("%s image is cut short: it ends at byte %d, before the packed data does", e.Format, e.Offset)
	case errors.Is(e.Err, errors.ErrUnsupported):
		return fmt.Sprintf("%s image cannot be unpacked (at byte %d): %v", e.Format, e.Offset, e.Err)
	}
	return fmt.Sprintf("%s image is damaged at byte %d: %v", e.Format, e.Offset, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// errMagic is the error of bytes that do not begin a stream where one must begin.
var errMagic = errors.New("this is not how its packed data begins")

// errTrailing is the error of bytes after the end of a stream.
var errTrailing = errors.New("after the end there is something that does not belong to it")

// An unsupported error is a sentence on what a stream asks for.
type unsupported string

func (u unsupported) Error() string        { return string(u) }
func (u unsupported) Is(target error) bool { return target == errors.ErrUnsupported }

// tooBig is the error of a stream that needs more memory than allowed, both in bytes.
func tooBig(need, allowed int64) error {
	return unsupported(fmt.Sprintf("unpacking it needs %s of memory, and %s are allowed", amount(need), amount(allowed)))
}

// amount says a number of bytes for people.
func amount(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// cut turns an end in the middle of something into the error of a stream that
// was cut short.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
