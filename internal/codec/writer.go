package codec

import (
	"errors"
	"fmt"
	"io"
	"runtime"
)

// WriteOptions say how to pack.
type WriteOptions struct {
	// Workers is how many processors may be used. 0: all of them.
	Workers int
	// Level is how hard to try, from 1 to 9 (zst: to 19), as the format's own tool
	// counts. 0: what is usual for the format.
	Level int
	// Memory is the most that may be used, in bytes; fewer processors are if need
	// be, and at least one. 0: 256 MiB.
	Memory int64
}

// NewWriter packs what is written to it into w, in format f, in a form that the
// format's own tool unpacks. Close completes the packed stream and leaves w open;
// it must be called, even after an error, to end what the writer has running. An
// error in writing to w comes back from a later Write, at the latest from Close.
func NewWriter(w io.Writer, f Format, o WriteOptions) (io.WriteCloser, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Memory <= 0 {
		o.Memory = 256 << 20
	}
	most := 9
	if f == Zstd {
		most = 19
	}
	if o.Level < 0 || o.Level > most {
		return nil, fmt.Errorf("pack as %s: there is no level %d, only 1 to %d", f, o.Level, most)
	}
	switch f {
	case Raw:
		return plainWriter{w}, nil
	case Bzip2:
		return newBzip2Writer(w, o)
	case Gzip:
		return newPacker(w, newGzipShape(o), o), nil
	case XZ:
		return newPacker(w, newXZShape(o), o), nil
	case Zstd:
		return newPacker(w, newZstdShape(o), o), nil
	case LZ4:
		return newLZ4Writer(w, o)
	case Zip:
		return nil, fmt.Errorf("images are not packed as zip; use zst, xz, gz, bz2 or lz4")
	}
	return nil, fmt.Errorf("pack: there is no format %q", f)
}

var errClosed = errors.New("pack: the stream has been closed")

// level returns the level asked for, or else the usual one.
func (o WriteOptions) level(usual int) int {
	if o.Level == 0 {
		return usual
	}
	return o.Level
}

// WriteZeros writes n zeros to a writer that NewWriter returned. That takes next
// to no time where the format is packed in pieces, of which zeros are but one.
func WriteZeros(w io.Writer, n int64) error {
	if z, ok := w.(interface{ WriteZeros(n int64) error }); ok {
		return z.WriteZeros(n)
	}
	return writeZeros(w, n)
}

// someZeros are never anything else.
var someZeros [64 << 10]byte

func writeZeros(w io.Writer, n int64) error {
	for n > 0 {
		k, err := w.Write(someZeros[:min(n, int64(len(someZeros)))])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

// A plainWriter packs nothing.
type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }
