package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// An input is the file an image is in, or the stream it comes in, opened once.
type input struct {
	file *os.File       // nil: a stream, which gives its bytes once
	info fs.FileInfo    // of what was opened, at that time; nil if nothing can be said
	size int64          // of the file or device, in bytes; -1: a stream
	pipe *io.PipeReader // a stream's bytes
	own  io.Closer      // what is to be closed; nil: nothing
}

// openInput opens the file of that name, or takes standard input for "-".
func openInput(name string, stdin io.Reader) (*input, error) {
	var f *os.File
	in := &input{size: -1}
	if name == "-" {
		if stdin == nil {
			stdin = os.Stdin
		}
		var ok bool
		if f, ok = stdin.(*os.File); !ok {
			in.stream(stdin)
			return in, nil
		}
	} else {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, fmt.Errorf("open the image: %w", err)
		}
		in.own = f
	}
	if err := in.look(f, name); err != nil {
		_ = in.close()
		return nil, err
	}
	return in, nil
}

// look finds out what was opened.
func (in *input) look(f *os.File, name string) error {
	var err error
	if in.info, err = f.Stat(); err != nil {
		return fmt.Errorf("open the image: %w", err)
	}
	mode := in.info.Mode()
	switch {
	case mode.IsDir():
		return fmt.Errorf("%s is a directory; give the image file in it", name)
	case mode.IsRegular() && (name != "-" || atStart(f)):
		in.file, in.size = f, in.info.Size()
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0 && (name != "-" || atStart(f)):
		in.file = f
		if in.size, err = f.Seek(0, io.SeekEnd); err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err != nil {
			return fmt.Errorf("find the size of %s: %w", name, err)
		}
	default:
		in.stream(f)
	}
	return nil
}

// atStart tells whether a file is to be read from its first byte.
func atStart(f *os.File) bool {
	at, err := f.Seek(0, io.SeekCurrent)
	return err == nil && at == 0
}

// stream makes r the source of bytes. Somebody else than the one who wants them
// waits for them, who is left behind if the stream gives nothing when it is
// to be closed: a read of a terminal or a pipe cannot be called off.
func (in *input) stream(r io.Reader) {
	pr, pw := io.Pipe()
	in.pipe = pr
	go func() {
		_, err := io.CopyBuffer(pw, struct{ io.Reader }{r}, make([]byte, 256<<10))
		_ = pw.CloseWithError(err) // nil: io.EOF
	}()
}

// isDevice tells whether the image is in a block device: always a raw one.
func (in *input) isDevice() bool { return in.file != nil && !in.info.Mode().IsRegular() }

// peek returns the first n bytes, or all if there are fewer, and a reader of the
// whole.
func (in *input) peek(ctx context.Context, n int) ([]byte, io.Reader, error) {
	head := make([]byte, n)
	if in.file != nil {
		n, err := in.file.ReadAt(head, 0)
		if err != nil && err != io.EOF {
			return nil, nil, fmt.Errorf("it cannot be read: %w", err)
		}
		return head[:n], io.NewSectionReader(in.file, 0, in.size), nil
	}
	stop := context.AfterFunc(ctx, func() { in.pipe.CloseWithError(context.Cause(ctx)) })
	n, err := io.ReadFull(in.pipe, head)
	if !stop() {
		return nil, nil, context.Cause(ctx)
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, fmt.Errorf("it cannot be read: %w", err)
	}
	return head[:n], io.MultiReader(bytes.NewReader(head[:n]), in.pipe), nil
}

// stop ends a read of a stream that is waiting.
func (in *input) stop() {
	if in.pipe != nil {
		_ = in.pipe.CloseWithError(ErrClosed)
	}
}

func (in *input) close() error {
	in.stop()
	if in.own != nil {
		return in.own.Close()
	}
	return nil
}

// changed says what became of a regular file since it was opened, if anything did.
func (in *input) changed() error {
	if in.file == nil || in.isDevice() {
		return nil
	}
	now, err := in.file.Stat()
	if err != nil {
		return err
	}
	const advice = "what was read of it may be half old and half new; leave it alone and run again"
	switch was := in.info; {
	case now.Size() != was.Size():
		return fmt.Errorf("it was changed while it was being read, from %d bytes to %d: %s", was.Size(), now.Size(), advice)
	case !now.ModTime().Equal(was.ModTime()):
		return fmt.Errorf("it was changed while it was being read: %s", advice)
	case touched(was, now):
		return fmt.Errorf("it was changed or renamed while it was being read: %s", advice)
	}
	return nil
}

// touched tells whether a file of the same size and time of modification was
// changed all the same. The time of change cannot be set back as that of
// modification can, but it also moves when only the file's name, owner or mode
// changes, as when another file takes its name, which does the one that is open
// no harm.
func touched(was, now fs.FileInfo) bool {
	a, ok := was.Sys().(*syscall.Stat_t)
	b, ok2 := now.Sys().(*syscall.Stat_t)
	if !ok || !ok2 {
		return false
	}
	harmless := a.Nlink != b.Nlink || a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid
	return a.Ctim != b.Ctim && !harmless
}

// digest returns the SHA-256 of the file, in hexadecimal.
func (in *input) digest(ctx context.Context) (string, error) {
	h := sha256.New()
	r := io.NewSectionReader(in.file, 0, in.size)
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		switch _, err := io.CopyN(h, r, 8<<20); err {
		case nil:
		case io.EOF:
			return hex.EncodeToString(h.Sum(nil)), nil
		default:
			return "", fmt.Errorf("it cannot be read: %w", err)
		}
	}
}

// A meter counts what is read of an input, and the time it took.
type meter struct {
	r   io.Reader
	sum hash.Hash // of what was read; nil: not wanted
	end error     // how it ended; nothing is read after that

	bytes   atomic.Int64
	nanos   atomic.Int64
	stopped atomic.Bool
}

func (m *meter) Read(p []byte) (int, error) {
	if m.stopped.Load() {
		return 0, ErrClosed
	}
	if m.end != nil {
		return 0, m.end
	}
	begin := time.Now()
	n, err := m.r.Read(p)
	m.nanos.Add(int64(time.Since(begin)))
	m.bytes.Add(int64(n))
	if m.sum != nil {
		m.sum.Write(p[:n])
	}
	m.end = err
	return n, err
}

// drain reads what the decoder left over, and returns the digest of the whole.
func (m *meter) drain() (string, error) {
	if _, err := io.Copy(io.Discard, m); err != nil {
		return "", err
	}
	if m.sum == nil {
		return "", nil
	}
	return hex.EncodeToString(m.sum.Sum(nil)), nil
}
