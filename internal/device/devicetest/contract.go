package devicetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"multidd/internal/block"
)

// A Target is what an engine writes to: a card or what stands for one.
type Target interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// An async is a Target that takes several requests at a time and carries them out
// in order.
type async interface {
	Target
	StartWrite(p []byte, off int64) error
	StartRead(p []byte, off int64) error
	Wait() error
}

// contractSize is the least size of a target that the contract can be checked on,
// in bytes.
const contractSize = 8 << 20

// contractAlign is what offsets in the contract are multiples of, in bytes: no
// card has larger sectors. Lengths and the addresses of buffers can be anything.
const contractAlign = 4096

// A clause is one promise of every target. check returns how it is broken, given
// the target's size in bytes.
type clause struct {
	name  string
	check func(target Target, size int64) error
}

var clauses = []clause{
	{"WhatIsWrittenIsReadBack", checkReadBack},
	{"NeighboursAreLeftAlone", checkNeighbours},
	{"AnyLengthAndBuffer", checkOddBuffers},
	{"TheLastWriteWins", checkLastWins},
	{"NothingIsTakenPastTheEnd", checkEnd},
	{"RequestsMayOverlapInTime", checkParallel},
	{"SyncTakesAndChangesNothing", checkSync},
	{"StartedRequestsAreCarriedOutInOrder", checkAsync},
}

// Contract checks what every target promises: a card, a plain file, or a fake. open
// returns a target of at least 8 MiB, with any contents, which Contract overwrites,
// and its size in bytes; it has t.Cleanup close it. It is called once for each
// promise.
func Contract(t *testing.T, open func(t *testing.T) (target Target, size int64)) {
	t.Helper()
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			target, size := open(t)
			if size < contractSize {
				t.Fatalf("the target has %d bytes, the contract takes %d", size, contractSize)
			}
			if err := c.check(target, size); err != nil {
				t.Error(err)
			}
		})
	}
}

// Pattern returns n bytes of noise, the same for the same seed, different for
// every other.
func Pattern(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

// write writes p at off and says so if that did not go well.
func write(target Target, p []byte, off int64) error {
	switch n, err := target.WriteAt(p, off); {
	case err != nil:
		return fmt.Errorf("write %d bytes at %d: %d were taken: %w", len(p), off, n, err)
	case n != len(p):
		return fmt.Errorf("write %d bytes at %d: %d were taken, and no error", len(p), off, n)
	}
	return nil
}

// expect reads as many bytes as want has at off and compares them.
func expect(target Target, want []byte, off int64) error {
	got := make([]byte, len(want))
	n, err := target.ReadAt(got, off)
	if err == io.EOF && n == len(got) {
		err = nil // the end may be told at once
	}
	switch {
	case err != nil:
		return fmt.Errorf("read %d bytes at %d: %d were given: %w", len(got), off, n, err)
	case n != len(got):
		return fmt.Errorf("read %d bytes at %d: %d were given, and no error", len(got), off, n)
	}
	if bytes.Equal(got, want) {
		return nil
	}
	i := 0
	for got[i] == want[i] {
		i++
	}
	return fmt.Errorf("read %d bytes at %d: the byte at %d is %#02x, want %#02x", len(got), off, off+int64(i), got[i], want[i])
}

func checkReadBack(target Target, size int64) error {
	last := (size - 1<<20) / contractAlign * contractAlign
	offs := []int64{0, contractAlign, 3 << 20, last}
	for i, off := range offs[2:] {
		if err := write(target, Pattern(uint64(i), 1<<20), off); err != nil {
			return err
		}
	}
	for i, off := range offs[:2] {
		if err := write(target, Pattern(uint64(10+i), contractAlign), off); err != nil {
			return err
		}
	}
	if err := target.Sync(); err != nil {
		return err
	}
	for i, off := range offs[2:] {
		if err := expect(target, Pattern(uint64(i), 1<<20), off); err != nil {
			return err
		}
	}
	for i, off := range offs[:2] {
		if err := expect(target, Pattern(uint64(10+i), contractAlign), off); err != nil {
			return err
		}
	}
	return nil
}

func checkNeighbours(target Target, _ int64) error {
	want := Pattern(20, 1<<20)
	if err := write(target, want, 0); err != nil {
		return err
	}
	for i, n := range []int{contractAlign, 3 * contractAlign, 1, 511, 513, contractAlign + 1} {
		off, p := int64(i+1)*10*contractAlign, Pattern(uint64(21+i), n)
		if err := write(target, p, off); err != nil {
			return err
		}
		copy(want[off:], p)
	}
	return expect(target, want, 0)
}

func checkOddBuffers(target Target, _ int64) error {
	for i, n := range []int{1, 7, 511, 512, 4095, 4097, 65537, 1<<20 + 13} {
		// One byte off makes an address that suits no direct I/O.
		p := Pattern(uint64(40+i), n+1)[1:]
		if err := write(target, p, 2<<20); err != nil {
			return err
		}
		if err := expect(target, p, 2<<20); err != nil {
			return err
		}
	}
	if n, err := target.WriteAt(nil, 0); n != 0 || err != nil {
		return fmt.Errorf("write nothing: %d were taken, error %v", n, err)
	}
	if n, err := target.ReadAt(nil, 0); n != 0 || err != nil {
		return fmt.Errorf("read nothing: %d were given, error %v", n, err)
	}
	return nil
}

func checkLastWins(target Target, _ int64) error {
	want := Pattern(60, 1<<20)
	if err := write(target, want, 4<<20); err != nil {
		return err
	}
	for i := range 8 {
		off, p := int64(i)*16*contractAlign, Pattern(uint64(61+i), 24*contractAlign)
		if err := write(target, p, 4<<20+off); err != nil {
			return err
		}
		copy(want[off:], p)
	}
	return expect(target, want, 4<<20)
}

func checkEnd(target Target, size int64) error {
	last := (size - 1) / contractAlign * contractAlign
	tail := Pattern(70, int(size-last))
	if err := write(target, tail, last); err != nil {
		return err
	}
	got := make([]byte, len(tail)+contractAlign)
	n, err := target.ReadAt(got, last)
	if n != len(tail) || err != io.EOF || !bytes.Equal(got[:n], tail) {
		return fmt.Errorf("read past the end: %d bytes were given, error %v; want %d and io.EOF", n, err, len(tail))
	}
	// A plain file may grow, a card must refuse. Neither may take what it does
	// not keep.
	past := Pattern(71, 2*contractAlign)
	n, err = target.WriteAt(past, last)
	if err == nil {
		return expect(target, past, last)
	}
	if n >= len(past) {
		return fmt.Errorf("write past the end: all was taken, and error %v", err)
	}
	return nil
}

func checkParallel(target Target, _ int64) error {
	const lanes, n = 8, 256 << 10
	errs := make([]error, lanes)
	var wg sync.WaitGroup
	for i := range lanes {
		wg.Go(func() {
			for round := range 4 {
				p := Pattern(uint64(100+10*i+round), n)
				if errs[i] = errors.Join(write(target, p, int64(i)*n), expect(target, p, int64(i)*n)); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func checkSync(target Target, _ int64) error {
	want := Pattern(200, 2<<20)
	if err := write(target, want, 1<<20); err != nil {
		return err
	}
	for range 2 {
		if err := target.Sync(); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
	}
	return expect(target, want, 1<<20)
}

// checkAsync holds for every target that is not an async.
func checkAsync(target Target, _ int64) error {
	a, ok := target.(async)
	if !ok {
		return nil
	}
	const n = 1 << 20
	buf, err := block.Aligned(3 * n)
	if err != nil {
		return err
	}
	defer block.Free(buf)
	first, second, got := buf[:n], buf[n:2*n], buf[2*n:]
	copy(buf, Pattern(300, 2*n))
	for _, start := range []func() error{
		func() error { return a.StartWrite(first, 0) },
		func() error { return a.StartWrite(second, n/2) },
		func() error { return a.StartRead(got, 0) },
	} {
		if err := start(); err != nil {
			return fmt.Errorf("start a request: %w", err)
		}
	}
	for i := range 3 {
		if err := a.Wait(); err != nil {
			return fmt.Errorf("wait for request %d: %w", i, err)
		}
	}
	if !bytes.Equal(got[:n/2], first[:n/2]) || !bytes.Equal(got[n/2:], second[:n/2]) {
		return errors.New("a read started after two writes did not see both")
	}
	return nil
}
