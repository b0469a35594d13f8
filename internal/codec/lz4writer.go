package codec

import (
	"errors"
	"io"
	"sync"

	"github.com/pierrec/lz4/v4"
)

// lz4Cost is about how much memory packing a block takes, in bytes: the block, and
// what comes of it.
const lz4Cost = 2*4<<20 + 1<<20

// An lz4Writer makes one frame of independent blocks of 4 MiB, with a checksum of
// the whole content. Package lz4 packs on several goroutines, but tells of errors
// only at the end, and ends its goroutines after one only when it is reset.
type lz4Writer struct {
	z *lz4.Writer
	w *failingWriter
}

func newLZ4Writer(w io.Writer, o WriteOptions) (*lz4Writer, error) {
	f := &failingWriter{w: w}
	z := lz4.NewWriter(f)
	level := lz4.Fast
	if o.Level > 2 { // the tool's levels below are alike
		level = 1 << (8 + o.Level)
	}
	workers := max(1, min(int64(o.Workers), o.Memory/lz4Cost-2))
	err := z.Apply(lz4.ConcurrencyOption(int(workers)), lz4.BlockSizeOption(lz4.Block4Mb),
		lz4.ChecksumOption(true), lz4.CompressionLevelOption(level))
	return &lz4Writer{z, f}, err
}

func (l *lz4Writer) Write(p []byte) (int, error) {
	if l.z == nil {
		return 0, errClosed
	}
	if err := l.w.failed(); err != nil {
		return 0, err
	}
	return l.z.Write(p)
}

func (l *lz4Writer) Close() error {
	if l.z == nil {
		return l.w.failed()
	}
	_, err := l.z.Write(nil) // so that there is a frame, even if nothing is in it
	err = errors.Join(err, l.z.Close())
	l.z.Reset(io.Discard)
	l.z = nil
	if failed := l.w.failed(); failed != nil {
		return failed
	}
	l.w.fail(err)
	return err
}

// A failingWriter remembers its first error.
type failingWriter struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

func (f *failingWriter) Write(p []byte) (int, error) {
	if err := f.failed(); err != nil {
		return 0, err
	}
	n, err := f.w.Write(p)
	f.fail(err)
	return n, err
}

func (f *failingWriter) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *failingWriter) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
