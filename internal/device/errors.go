package device

import (
	"errors"
	"fmt"
	"syscall"
)

// An Error is what is wrong with a card, with the reason in a stable word.
type Error struct {
	reason string
	text   string
	err    error
}

func newError(reason string, err error, format string, args ...any) *Error {
	return &Error{reason, fmt.Sprintf(format, args...), err}
}

func (e *Error) Error() string { return e.text }

// Unwrap returns the system's error, if there is one.
func (e *Error) Unwrap() error { return e.err }

// Reason returns one of the Reason constants, or "" if none fits, as when the
// user lacks a right.
func (e *Error) Reason() string { return e.reason }

// refused makes an error of the first of some refusals, and nil of none.
func refused(list []Refusal) error {
	if len(list) == 0 {
		return nil
	}
	return newError(list[0].Reason, nil, "%s", list[0].Text)
}

// isAny tells whether err is one of the system's errors listed.
func isAny(err error, list ...syscall.Errno) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
