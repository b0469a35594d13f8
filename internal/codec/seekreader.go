package codec

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"
)

// A seekReader unpacks a seekable file in order, several frames at a time. Its
// input is cut where the table says, and each piece must be one frame: so what
// comes out is what a Reader that does not know the table makes of the file.
type seekReader struct {
	s     *Seekable
	in    *input
	next  int        // the first frame that has not been read
	queue []*seekJob // under way, in order
	spare []*seekJob // with buffers to be used again
	cur   *seekJob   // being read; nil: none
	rest  []byte     // of what it unpacked to
	ahead error      // met while reading ahead; to be told when all before it has been read
	err   error      // the final one
	at    atomic.Int64
}

// A seekJob is a frame that is being unpacked, and what that takes.
type seekJob struct {
	frameBench
	frame int
	data  []byte
	err   error
	done  chan struct{} // has room for one: data or err is there
}

// Reader returns a Reader of the whole file, whose bytes it takes from r, from the
// first on. It is as strict as any Reader, and moreover checks all that the table
// says: when it returns io.EOF, what ReadAt gave was right.
func (s *Seekable) Reader(r io.Reader) Reader { return &seekReader{s: s, in: newInput(r)} }

func (r *seekReader) Read(p []byte) (int, error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	for len(r.rest) == 0 {
		if err := r.nextFrame(); err != nil {
			r.err = r.explain(err)
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	r.progress()
	return n, nil
}

// nextFrame goes on to the next frame; io.EOF: that was the last one.
func (r *seekReader) nextFrame() error {
	if r.cur != nil {
		r.spare = append(r.spare, r.cur)
		r.cur = nil
	}
	r.readAhead()
	if len(r.queue) == 0 {
		if r.ahead != nil {
			return r.ahead
		}
		return r.finish()
	}
	r.cur, r.queue = r.queue[0], r.queue[1:]
	<-r.cur.done
	if r.cur.err != nil {
		return r.cur.err
	}
	r.rest = r.cur.data
	r.progress()
	return nil
}

// readAhead sets as many frames going as there is memory for.
func (r *seekReader) readAhead() {
	for r.ahead == nil && r.next < r.s.count() && len(r.queue) < r.s.readers() {
		j := &seekJob{done: make(chan struct{}, 1)}
		if n := len(r.spare); n > 0 {
			j, r.spare = r.spare[n-1], r.spare[:n-1]
		}
		from, to := r.s.frames[r.next], r.s.frames[r.next+1]
		packed := j.room(to.start - from.start)
		if _, err := io.ReadFull(r.in, packed); err != nil {
			r.ahead = cut(err)
			return
		}
		if int64(cap(j.data)) < to.off-from.off {
			j.data = make([]byte, 0, to.off-from.off)
		}
		j.frame = r.next
		r.next++
		r.queue = append(r.queue, j)
		go func() {
			var data []byte
			if data, j.err = r.s.unpack(j.frame, &j.frameBench, packed, j.data[:0]); j.err == nil {
				j.data = data
			}
			j.done <- struct{}{}
		}()
	}
}

// finish compares what stands behind the frames with the table, to the end.
func (r *seekReader) finish() error {
	table := make([]byte, len(r.s.table))
	if _, err := io.ReadFull(r.in, table); err != nil {
		return cut(err)
	}
	if !bytes.Equal(table, r.s.table) {
		return errors.New("the table of its frames has changed since it was read")
	}
	switch _, err := r.in.peek(1); err {
	case io.EOF:
		r.at.Store(r.in.offset())
		return io.EOF
	case nil:
		return errTrailing
	default:
		return err
	}
}

// progress notes how far into the file the frame being read has come, as nearly
// as can be known.
func (r *seekReader) progress() {
	from, to := r.s.frames[r.cur.frame], r.s.frames[r.cur.frame+1]
	part := 1 - float64(len(r.rest))/float64(max(1, to.off-from.off))
	r.at.Store(from.start + int64(part*float64(to.start-from.start)))
}

// explain makes of an error what the caller is to see.
func (r *seekReader) explain(err error) error {
	if err == io.EOF {
		return err
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if failed := r.in.src.err; failed != nil && (r.in.Buffered() == 0 || errors.Is(err, failed)) {
		return failed
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Zstd, r.in.src.n, io.ErrUnexpectedEOF}
	}
	return &Error{Zstd, r.in.offset(), err}
}

func (r *seekReader) InputOffset() int64 { return r.at.Load() }
func (r *seekReader) Memory() int64      { return inputSize + int64(r.s.readers())*r.s.cost() }
func (r *seekReader) SizeHint() int64    { return r.s.Size() }

func (r *seekReader) Close() error {
	for _, j := range r.queue {
		<-j.done
	}
	for _, j := range r.queue {
		j.close()
	}
	for _, j := range r.spare {
		j.close()
	}
	if r.cur != nil {
		r.cur.close()
	}
	r.queue, r.spare, r.cur = nil, nil, nil
	if r.err == nil {
		r.err = errors.New("the packed stream has been closed")
	}
	r.rest = nil
	return nil
}
