package devicetest

import (
	"slices"
	"sync"
	"syscall"
)

// On calls f before every operation. If f returns an error, the operation fails
// with it and is not carried out. f may block, and may change the medium, but
// must leave op.Data alone.
func On(f func(op Op) error) Fault {
	return FaultFunc(func(op Op, next Next) (int, error) {
		if err := f(op); err != nil {
			return 0, err
		}
		return next(op)
	})
}

// Drop is a card that acknowledges all writes and keeps none.
func Drop() Fault { return DropAfter(0) }

// DropAfter is a card that keeps the first n bytes written to it, wherever they
// go, and acknowledges the rest.
func DropAfter(n int64) Fault {
	var mu sync.Mutex
	return FaultFunc(func(op Op, next Next) (int, error) {
		if op.Kind != Write {
			return next(op)
		}
		mu.Lock()
		keep := min(n, int64(len(op.Data)))
		n -= keep
		mu.Unlock()
		head, tail := op.cut(op.Off + keep)
		return both(head, tail, next, ack)
	})
}

// ack says that op was done.
func ack(op Op) (int, error) { return len(op.Data), nil }

// Flip is a card with a bad bit at each of the offsets, given in bytes: what is
// written there comes to rest with that bit turned over. The bit of the byte at
// off is bit off mod 8.
func Flip(offs ...int64) Fault { return flip(offs, Always) }

// FlipOnce is as Flip, but each bit is turned over by the first write only, so
// that a second one puts it right.
func FlipOnce(offs ...int64) Fault { return flip(offs, 1) }

func bitAt(off int64) byte { return 1 << (off % 8) }

func flip(offs []int64, times int) Fault {
	var mu sync.Mutex
	left := make(map[int64]int)
	for _, off := range offs {
		left[off] = times
	}
	return FaultFunc(func(op Op, next Next) (int, error) {
		if op.Kind != Write {
			return next(op)
		}
		mu.Lock()
		fresh := false
		for off, n := range left {
			if n == 0 || !op.touches(Write, off, 1) {
				continue
			}
			if !fresh { // the data is the caller's
				op.Data, fresh = slices.Clone(op.Data), true
			}
			op.Data[off-op.Off] ^= bitAt(off)
			left[off]--
		}
		mu.Unlock()
		return next(op)
	})
}

// Corners returns offsets on a medium of size bytes where a proof is most likely
// to miss a bad bit: the first and the last byte of the first, the last and a
// middle sector, page, MiB and 4 MiB piece.
func Corners(size int64) []int64 {
	var offs []int64
	for _, n := range []int64{512, 4 << 10, 1 << 20, 4 << 20} {
		mid := size / 2 / n * n
		offs = append(offs, 0, n-1, n, mid-1, mid, mid+n-1, size-n-1, size-n, size-1)
	}
	slices.Sort(offs)
	offs = slices.Compact(offs)
	return slices.DeleteFunc(offs, func(off int64) bool { return off < 0 || off >= size })
}

// Limbo is a card that truly has n bytes, whatever it claims: writes past them
// vanish, reads give zeros.
func Limbo(n int64) Fault {
	return FaultFunc(func(op Op, next Next) (int, error) {
		head, tail := op.cut(n)
		switch op.Kind {
		case Read:
			return both(head, tail, next, func(op Op) (int, error) {
				clear(op.Data)
				return ack(op)
			})
		case Write:
			return both(head, tail, next, ack)
		}
		return next(op)
	})
}

// Stale is as Limbo, but reads past n give what has always been there.
func Stale(n int64) Fault {
	return FaultFunc(func(op Op, next Next) (int, error) {
		if op.Kind != Write {
			return next(op)
		}
		head, tail := op.cut(n)
		return both(head, tail, next, ack)
	})
}

// Wrap is a card that truly has n bytes and takes every address modulo n.
func Wrap(n int64) Fault {
	return FaultFunc(func(op Op, next Next) (int, error) {
		if op.Kind == Sync {
			return next(op)
		}
		done := 0
		for done < len(op.Data) {
			part := op
			part.Off = (op.Off + int64(done)) % n
			part.Data = op.Data[done:]
			part, _ = part.cut(n)
			m, err := next(part)
			done += m
			if err != nil {
				return done, err
			}
		}
		return done, nil
	})
}

// Fail is a card on which operations of the given kinds fail with EIO: count of
// them, after as many as from went through, counted from when the fault was put
// in. Fail(Write, 6, 1) fails the seventh write, Fail(Sync, 0, Always) every
// flush, and Fail(Any, i, 1), tried with i from 0 up until nothing fails any
// more, every operation once.
func Fail(kinds Kind, from, count int) Fault {
	var mu sync.Mutex
	seen := 0
	return FaultFunc(func(op Op, next Next) (int, error) {
		if op.Kind&kinds == 0 {
			return next(op)
		}
		mu.Lock()
		n := seen - from
		seen++
		mu.Unlock()
		if n >= 0 && n < count {
			return 0, syscall.EIO
		}
		return next(op)
	})
}

// FailAt is a card on which operations of the given kinds that touch any of the n
// bytes from off fail with EIO, the first times of them. What comes before off is
// done.
func FailAt(kinds Kind, off, n int64, times int) Fault {
	var mu sync.Mutex
	return FaultFunc(func(op Op, next Next) (int, error) {
		mu.Lock()
		bad := times > 0 && op.touches(kinds, off, n)
		if bad {
			times--
		}
		mu.Unlock()
		if !bad {
			return next(op)
		}
		head, _ := op.cut(off)
		if len(head.Data) > 0 {
			if n, err := next(head); err != nil {
				return n, err
			}
		}
		return len(head.Data), syscall.EIO
	})
}

// Unstable is a card of which the n bytes from off, at least 2, read differently
// each time: one byte in every 4 KiB is wrong, each time another one.
func Unstable(off, n int64, seed uint64) Fault {
	var mu sync.Mutex
	count := int64(seed >> 1)
	return FaultFunc(func(op Op, next Next) (int, error) {
		done, err := next(op)
		if !op.touches(Read, off, n) {
			return done, err
		}
		mu.Lock()
		count++
		turn := count
		mu.Unlock()
		_, bad := op.cut(off)
		bad, _ = bad.cut(off + n)
		for p := range slices.Chunk(bad.Data, 4096) {
			p[turn%int64(len(p))] ^= 0xff
		}
		return done, err
	})
}

// ReadOnly is a card with its write-protect tab set: writes fail with EPERM. A
// block device attached while the fault is in says that it is read-only.
func ReadOnly() Fault { return readOnly{} }

type readOnly struct{}

func (readOnly) Do(op Op, next Next) (int, error) {
	if op.Kind == Write {
		return 0, syscall.EPERM
	}
	return next(op)
}

func (m *Medium) isReadOnly() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.faults, func(l *link) bool { _, ok := l.Fault.(readOnly); return ok })
}
