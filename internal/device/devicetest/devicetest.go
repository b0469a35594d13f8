// Package devicetest is a card that misbehaves on demand: the fakes that stand
// for what package device drives. Only tests, the demo and the benchmark import
// it.
//
// A Medium is a card in memory. It has the ReadAt, WriteAt and Sync of any
// target, and a chain of faults between them and the cells that hold the bytes:
//
//	computer ── fault ── fault ── … ── cells
//
// Each fault carries an operation out, spoils it, keeps it, or passes it on to
// the next one inside. Faults can be put in and taken out at any time. What the
// cells hold can be looked at past all faults, and every operation is recorded.
//
// Attach makes a medium a real block device: it is served by FUSE as a file with
// direct I/O, under a loop device with direct I/O. A write to the device is a
// WriteAt of the medium, a flush of the device (what fsync comes to) is a Sync,
// and an operation that hangs leaves its caller in uninterruptible sleep, as a
// wedged card reader does. Nothing is left behind when the process dies: the
// file system is in no mount table, and the kernel takes the loop device down
// when the last descriptor on it is closed.
//
// A Rack is a set of cards of chosen speeds, for measuring. Contract is what
// every target promises, fakes and real ones alike.
package devicetest

import (
	"fmt"
	"math"
	"strings"
)

// A Kind is what an operation does. Kinds can be joined with | where a fault
// asks which operations it concerns.
type Kind uint8

// The kinds of operations.
const (
	Read Kind = 1 << iota
	Write
	Sync
	Any = Read | Write | Sync
)

func (k Kind) String() string {
	var names []string
	for i, name := range []string{"read", "write", "sync"} {
		if k&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// Always is a number of times that never runs out.
const Always = math.MaxInt

// An Op is one operation on its way from the computer to the cells.
type Op struct {
	N    int // how many operations the medium had been given before this one
	Kind Kind
	Off  int64  // in bytes; 0 for a Sync
	Data []byte // what to write, or where to put what is read; nil for a Sync

	size  int64  // of the medium
	power *power // of the medium when the op came in; nil: always on
}

func (op Op) String() string {
	if op.Kind == Sync {
		return fmt.Sprintf("op %d: sync", op.N)
	}
	return fmt.Sprintf("op %d: %v of %d bytes at %d", op.N, op.Kind, len(op.Data), op.Off)
}

// End returns the offset just past the operation.
func (op Op) End() int64 { return op.Off + int64(len(op.Data)) }

// touches tells whether op is of one of the kinds and concerns any of the n
// bytes from off. A Sync concerns no bytes.
func (op Op) touches(kinds Kind, off, n int64) bool {
	return op.Kind&kinds != 0 && op.Off < off+n && off < op.End()
}

// cut returns the parts of op before and from the offset at; either may be empty.
func (op Op) cut(at int64) (head, tail Op) {
	n := min(max(at-op.Off, 0), int64(len(op.Data)))
	head, tail = op, op
	head.Data, tail.Data = op.Data[:n], op.Data[n:]
	tail.Off += n
	return head, tail
}

// Next carries an operation out further inside. It returns how many bytes were
// done, and why if that is not all of them.
type Next func(Op) (int, error)

// A Fault is one way in which a card misbehaves. It belongs to one medium and is
// put in once.
type Fault interface {
	// Do carries op out, or has next do so, in its own way. It is called from
	// many goroutines. Data to be written belongs to the caller and must not be
	// changed.
	Do(op Op, next Next) (n int, err error)
}

// FaultFunc is a Fault that is only a function.
type FaultFunc func(op Op, next Next) (int, error)

// Do calls f.
func (f FaultFunc) Do(op Op, next Next) (int, error) { return f(op, next) }

// A chain is a list of faults, outermost first. The last one calls no next.
type chain []*link

// A link is a place in a chain. Its address tells it from all others.
type link struct{ Fault }

func newChain(faults ...Fault) chain {
	c := make(chain, len(faults))
	for i, f := range faults {
		c[i] = &link{f}
	}
	return c
}

func (c chain) do(op Op) (int, error) { return c[0].Do(op, c[1:].do) }

// both has next do head and then, if all of it could be done, tail: the halves of
// an operation that was cut.
func both(head, tail Op, doHead, doTail Next) (int, error) {
	var n int
	if len(head.Data) > 0 {
		var err error
		if n, err = doHead(head); err != nil {
			return n, err
		}
	}
	if len(tail.Data) == 0 {
		return n, nil
	}
	m, err := doTail(tail)
	return n + m, err
}
