package dd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"multidd/internal/block"
)

// A Source gives the engine what the input's records make, for cards: a stream
// of blocks as long as the pool's buffers, the first at Job.Offset. It is a
// duplicate.Source, and a duplicate.Rereader if CanReread says so.
type Source struct {
	r    *Run
	in   *input
	pool *block.Pool
	fan  *fan   // to the plain outputs and the sums; nil: there are none
	outs counts // what a card is given

	next int64 // where the next block belongs on a card
	left int64 // how many bytes may still be read; if whole
	// whole is set if all records are read full but the last, so that they need
	// not be read one at a time.
	whole bool
	ended bool   // there is nothing more to be read; if whole
	pad   int64  // how many zeros conv=sync puts behind the last record
	buf   []byte // a record, unless whole
	rest  []byte // of the record, not yet given
	err   error  // how the input ended

	begin  int64 // the input's offset of the first byte given
	reread int   // a descriptor to read at any offset; -1: that cannot be done
}

// Source opens the input, and these plain outputs, which get the same bytes as
// the cards: they hold up the cards when they are slower. A job with
// conv=sparse cannot go to cards. What goes wrong with a plain output is said on
// stderr, and so are read errors under conv=noerror; what goes wrong with the
// input is the error, here and of Next, in dd's words. Finish must be called
// unless there is an error.
func (r *Run) Source(pool *block.Pool, plain ...string) (*Source, error) {
	j := r.job
	if j.Sparse {
		return nil, errors.New("conv=sparse is for files: zeros that are left out are not zero on a card")
	}
	if _, ok := j.Seek.length(j.OBS); !ok {
		return nil, fmt.Errorf("seek=%d (%d-byte) blocks: no card is as large", j.Seek.Records, j.OBS)
	}
	if r.warn(); j.Status == StatusProgress {
		r.rep.level = StatusAll // progress is shown per card, by others
	}
	var err error
	if r.in, err = openInput(j, r.rep); err != nil {
		return nil, err
	}
	s := &Source{r: r, in: r.in, pool: pool, next: j.Offset(), reread: -1}
	s.outs.whole = j.OBS
	s.left, _ = j.Count.length(j.IBS)
	s.whole = !j.NoError && s.in.full()
	r.rep.count(&s.outs)
	if err := s.open(plain); err != nil {
		s.release()
		_ = r.in.close()
		return nil, err
	}
	r.src = s
	return s, nil
}

// open opens the plain outputs and goes to where the input begins.
func (s *Source) open(plain []string) error {
	r := s.r
	r.rep.start()
	if err := s.in.skip(); err != nil {
		return err
	}
	if s.begin = s.in.offset; !s.whole {
		var err error
		if s.buf, err = buffer(r.job.IBS, "input"); err != nil {
			return err
		}
	}
	s.openReread()
	var outs []*output
	if len(plain) > 0 {
		outs, s.in.failed = r.openOutputs(plain)
	}
	for _, o := range outs {
		o.asRead = false // what they get is cut as the cards' blocks are
	}
	if sinks := r.sinks(outs); len(sinks) > 0 {
		size := int64(s.pool.BufferSize())
		s.fan = newFan(sinks, size, buffers(size))
		s.fan.start()
	}
	return nil
}

// openReread opens the input once more if it can be read at any offset. That
// descriptor is not open for direct reading, so that any piece can be had.
func (s *Source) openReread() {
	j := s.r.job
	if !s.in.full() || s.in.packed != nil || s.in.seekErr != nil || j.Sync || j.NoError {
		return
	}
	if fd, err := open(fmt.Sprintf("/proc/self/fd/%d", s.in.fd), syscall.O_RDONLY, 0); err == nil {
		s.reread = fd
	}
}

// Total returns how many bytes the cards will be given; -1 if that cannot be known.
func (s *Source) Total() int64 {
	j := s.r.job
	if !s.in.full() || s.in.packed != nil || j.NoError {
		return -1
	}
	limit, _ := j.Count.length(j.IBS)
	n := min(limit, max(0, s.in.size-s.begin))
	if j.Sync {
		n = roundUp(n, j.IBS)
	}
	return n
}

// Next returns the next block. The error is io.EOF after the last one.
func (s *Source) Next(ctx context.Context) (block.Block, error) {
	if s.err != nil {
		return block.Block{}, s.err
	}
	buf, err := s.pool.Get(ctx)
	if err != nil {
		return block.Block{}, err
	}
	n, err := s.fill(ctx, s.fit(buf))
	if err == nil && n > 0 && s.fan != nil {
		// With no plain output left the cards go on.
		if err = s.fan.copy(ctx, buf[:n], int(s.r.job.IBS)); err == errWrite {
			err = nil
		}
	}
	if s.err == nil {
		s.err = err
	}
	if err != nil || n == 0 {
		s.pool.Put(buf)
		return block.Block{}, s.err
	}
	b := block.New(s.next, buf[:n], func() { s.pool.Put(buf) })
	s.next += int64(n)
	return b, nil
}

// fill fills a buffer. At the end of the input it sets s.err and returns what
// there was before.
func (s *Source) fill(ctx context.Context, buf []byte) (n int, err error) {
	if s.whole {
		return s.fillWhole(buf)
	}
	for n < len(buf) {
		if len(s.rest) == 0 {
			if s.rest, err = s.in.record(s.buf); err != nil {
				break
			}
			if s.r.job.AsRead {
				s.outs.record(len(s.rest))
			} else {
				s.outs.gather(len(s.rest))
			}
		}
		m := copy(buf[n:], s.rest)
		n, s.rest = n+m, s.rest[m:]
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
	if err == io.EOF {
		s.outs.end()
		s.err, err = io.EOF, nil
	}
	return n, err
}

// fit shortens the first buffer so that the blocks after it begin at multiples
// of its length, unless the input could not be read directly any more then.
func (s *Source) fit(buf []byte) []byte {
	const sector = 512
	n := len(buf) - int(s.next%int64(len(buf)))
	if s.r.job.DirectIn && n%sector != 0 {
		return buf
	}
	return buf[:n]
}

// fillWhole is fill for an input that need not be read record by record.
func (s *Source) fillWhole(buf []byte) (int, error) {
	n, err := s.read(buf)
	if err != nil {
		return 0, s.in.readFailure(err)
	}
	in := &s.r.rep.in
	in.gather(n)
	if s.ended {
		if in.gathered > 0 && s.r.job.Sync {
			s.pad = s.r.job.IBS - in.gathered
		}
		in.end()
		zeros := int(min(s.pad, int64(len(buf)-n)))
		clear(buf[n : n+zeros])
		n, s.pad = n+zeros, s.pad-int64(zeros)
	}
	s.outs.gather(n)
	if s.ended && s.pad == 0 {
		s.outs.end()
		s.err = io.EOF
	}
	return n, nil
}

// read fills a buffer from the input as far as there is something.
func (s *Source) read(buf []byte) (n int, err error) {
	for n < len(buf) && !s.ended {
		p := buf[n:]
		p = p[:min(s.left, int64(len(p)))]
		m := 0
		if len(p) > 0 {
			if m, err = s.in.fill(p); err != nil {
				return n, err
			}
		}
		n, s.left, s.ended = n+m, s.left-int64(m), m == 0
	}
	return n, nil
}

// CanReread tells whether ReadAt works: the input is a regular file or a block
// device, copied as it is.
func (s *Source) CanReread() bool { return s.reread >= 0 }

// ReadAt reads what belongs at an offset of a card. It is as in io.ReaderAt, and
// must not be called for bytes that Next has not yet returned.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	if s.reread < 0 {
		return 0, errors.New("the input can be read only once")
	}
	off -= s.r.job.Offset()
	if off < 0 {
		return 0, fmt.Errorf("read the input %d bytes before its beginning", -off)
	}
	limit, _ := s.r.job.Count.length(s.r.job.IBS)
	short := limit-off < int64(len(p))
	if short {
		p = p[:max(0, limit-off)]
	}
	for n := 0; ; {
		if n == len(p) {
			if short {
				return n, io.EOF
			}
			return n, nil
		}
		m, err := preadFD(s.reread, p[n:], s.begin+off+int64(n))
		if n += m; err != nil {
			return n, s.in.readFailure(err)
		}
		if m == 0 {
			return n, io.EOF
		}
	}
}

// release gives back what the source holds.
func (s *Source) release() {
	release(s.buf)
	s.buf, s.rest = nil, nil
	if s.reread >= 0 {
		_ = syscall.Close(s.reread)
		s.reread = -1
	}
}

// Finish completes the plain outputs of a run with cards, closes the input, and
// prints the statistics and the sums as after Copy. It returns 0, or 1 if
// anything went wrong with the input or a plain output. The engine must be done
// with the source.
func (r *Run) Finish() int {
	s := r.src
	failed := s.err != io.EOF
	for _, sum := range r.sums {
		sum.void = failed
	}
	if s.fan != nil {
		failed = s.fan.wait() != nil || failed
	}
	s.release()
	return r.end(failed)
}
