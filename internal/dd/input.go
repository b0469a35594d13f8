package dd

import (
	"io"
	"math"
	"syscall"

	"multidd/internal/codec"
)

const standardInput = "standard input"

// An input is what if= names, open.
type input struct {
	job   *Job
	rep   *report
	name  string
	fd    int // the descriptor; it is closed only if own is set
	own   bool
	size  int64 // of a regular file or a block device, in bytes; -1: it has no size of its own
	plain bool  // a regular file
	stat  syscall.Stat_t

	seekErr error // why its offset cannot be had; nil: it can
	offset  int64 // in bytes; -1: too large to tell

	packed codec.Reader // gives the unpacked bytes; nil: the input is not unpacked
	file   *packedFile  // what packed reads

	before  int  // what the read before gave, in bytes
	warn    bool // a short read is worth a warning
	partial int  // length of the record before, if it was short; else 0
	failed  bool // something was said that is not the end, but makes the exit status 1
}

// openInput opens the input of a job. The errors of an input are dd's messages;
// they have not been said.
func openInput(j *Job, rep *report) (*input, error) {
	in := &input{job: j, rep: rep, name: j.Input, size: -1}
	if j.Stdin {
		in.name = standardInput
		if err := addFlags(in.fd, j.inFlags()); err != nil {
			return nil, failure("setting flags for "+quoteName(in.name), err)
		}
	} else {
		fd, err := open(j.Input, syscall.O_RDONLY|j.inFlags(), 0)
		if err != nil {
			return nil, failure("failed to open "+quoteName(in.name), err)
		}
		in.fd, in.own = fd, true
	}
	if in.offset, in.seekErr = syscall.Seek(in.fd, 0, io.SeekCurrent); in.seekErr != nil {
		in.offset = 0
	}
	in.measure()
	in.warn = j.AsRead && !j.FullBlock && (j.Skip.Records > 0 ||
		j.Count.Records > 0 && j.Count.Records < noLimit || j.DirectIn || j.DirectOut)
	if err := in.unpack(); err != nil {
		_ = in.close()
		return nil, in.readFailure(err)
	}
	return in, nil
}

// measure finds out what kind of file the input is, and its size.
func (in *input) measure() {
	if syscall.Fstat(in.fd, &in.stat) != nil {
		return
	}
	switch in.stat.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		in.size, in.plain = in.stat.Size, true
	case syscall.S_IFBLK:
		if end, err := syscall.Seek(in.fd, 0, io.SeekEnd); err == nil {
			in.size = end
		}
		_, _ = syscall.Seek(in.fd, in.offset, io.SeekStart)
	}
}

// full tells whether every record is full but the last: nothing has to be waited
// for. Files that the kernel makes up as they are read have the size 0.
func (in *input) full() bool { return in.size > 0 || in.packed != nil }

func (j *Job) inFlags() int {
	if j.DirectIn {
		return syscall.O_DIRECT
	}
	return 0
}

// close gives the input back.
func (in *input) close() error {
	if in.packed != nil {
		_ = in.packed.Close()
		in.file.close()
	}
	if !in.own {
		return nil
	}
	return syscall.Close(in.fd)
}

// skip passes over what skip= says, if there is as much.
func (in *input) skip() error {
	amount, ibs := in.job.Skip, in.job.IBS
	if amount.Zero() {
		return nil
	}
	length, fits := amount.length(ibs)
	start := in.offset
	left, err := in.skipTo(amount, length, fits)
	if err != nil {
		return err
	}
	if (left > 0 || in.offset >= 0 && (!fits || in.offset-start != length)) && in.job.Status != StatusNone {
		in.rep.say("%s: cannot skip to specified offset", quoteBare(in.name))
	}
	return nil
}

// skipTo returns how many whole records could not be skipped.
func (in *input) skipTo(amount Amount, length int64, fits bool) (left int64, err error) {
	if in.packed != nil {
		return in.skipReading(amount)
	}
	cause := error(syscall.EOVERFLOW)
	if fits {
		if _, cause = syscall.Seek(in.fd, length, io.SeekCurrent); cause == nil {
			if in.plain && in.offset >= 0 && in.size-in.offset < length {
				left = (length - in.size) / in.job.IBS
				length = in.size - in.offset
			}
			in.advance(length)
			return left, nil
		}
	}
	if _, err := syscall.Seek(in.fd, 0, io.SeekEnd); err == nil {
		return 0, failure(quoteBare(in.name)+": cannot skip", cause)
	}
	return in.skipReading(amount)
}

// skipReading skips by reading.
func (in *input) skipReading(amount Amount) (left int64, err error) {
	buf, err := buffer(in.job.IBS, "input")
	if err != nil {
		return 0, err
	}
	defer release(buf)
	for amount.Records > 0 || amount.Bytes > 0 {
		want := in.job.IBS
		if amount.Records == 0 {
			want = amount.Bytes
		}
		n, err := in.fill(buf[:want])
		if err != nil {
			return 0, in.readFailure(err)
		}
		if n == 0 {
			break
		}
		in.advance(int64(n))
		if amount.Records > 0 {
			amount.Records--
		} else {
			amount.Bytes = 0
		}
	}
	return amount.Records, nil
}

func (in *input) advance(n int64) {
	if in.offset < 0 || in.offset > math.MaxInt64-n {
		in.offset = -1
		return
	}
	in.offset += n
}

// record reads the next record into buf, which is as long as a record, and
// returns it. The error is io.EOF after the last record.
func (in *input) record(buf []byte) ([]byte, error) {
	j := in.job
	for {
		in.rep.tick()
		want := in.due()
		if want == 0 {
			return nil, io.EOF
		}
		if j.Sync && j.NoError {
			clear(buf)
		}
		n, err := in.fill(buf[:want])
		switch {
		case err != nil:
			if n = 0; !j.NoError || in.packed != nil { // behind damage in a packed stream there is nothing to be had
				return nil, in.readFailure(err)
			}
			in.passOver(err)
			if !j.Sync || in.partial > 0 {
				continue
			}
		case n == 0:
			return nil, io.EOF
		default:
			in.advance(int64(n))
		}
		return in.complete(buf, n), nil
	}
}

// due returns how many bytes the next record may have; 0: there is to be none.
func (in *input) due() int64 {
	done := in.rep.in.full.Load() + in.rep.in.partial.Load()
	switch count := in.job.Count; {
	case done < count.Records:
		return in.job.IBS
	case done == count.Records:
		return count.Bytes
	}
	return 0
}

// complete counts a record of n bytes and fills it up if conv=sync asks for that.
func (in *input) complete(buf []byte, n int) []byte {
	in.rep.in.record(n)
	in.partial = 0
	if n < len(buf) {
		in.partial = n
		if in.job.Sync {
			if !in.job.NoError { // else there are zeros already
				clear(buf[n:])
			}
			n = len(buf)
		}
	}
	return buf[:n]
}

// passOver says that a record could not be read, and goes on behind it.
func (in *input) passOver(err error) {
	if in.job.Status != StatusNone {
		in.rep.say("%v", in.readFailure(err))
	}
	in.rep.stats()
	if !in.seekBehind(in.job.IBS - int64(in.partial)) {
		in.failed = true
		in.seekErr = syscall.ESPIPE // said once is enough
	}
}

func (in *input) readFailure(err error) error {
	return failure("error reading "+quoteName(in.name), err)
}

// seekBehind goes on n bytes behind where the bad record began.
func (in *input) seekBehind(n int64) bool {
	if in.seekErr == syscall.ESPIPE {
		return true
	}
	err := in.seekErr
	if err == nil {
		if in.advance(n); in.offset < 0 {
			in.rep.say("offset overflow while reading file %s", quoteName(in.name))
			return false
		}
		var at int64
		if at, err = syscall.Seek(in.fd, 0, io.SeekCurrent); err == nil {
			if (at > in.offset || at < in.offset-n) && in.job.Status != StatusNone {
				in.rep.say("warning: invalid file offset after failed read")
			}
			if _, err = syscall.Seek(in.fd, in.offset, io.SeekStart); err == nil {
				return true
			}
		}
	}
	in.rep.say("%v", failure(quoteBare(in.name)+": cannot seek", err))
	return false
}

// fill reads once, or with iflag=fullblock until p is full. At the end of the
// input it returns 0.
func (in *input) fill(p []byte) (int, error) {
	if in.packed != nil {
		n, err := io.ReadFull(in.packed, p)
		if err == io.EOF || err == io.ErrUnexpectedEOF { // a stream cut short has an error of its own
			err = nil
		}
		return n, err
	}
	if !in.job.FullBlock {
		return in.read(p)
	}
	for got := 0; ; {
		n, err := in.read(p[got:])
		if got += n; err != nil || n == 0 || got == len(p) {
			return got, err
		}
	}
}

// read reads once.
func (in *input) read(p []byte) (int, error) {
	n, err := readFD(in.fd, p)
	if err == syscall.EINVAL && in.job.DirectIn && in.before > 0 && in.before < len(p) {
		n, err = 0, nil // the end of a file of which the last block is not whole
	}
	if n > 0 && in.warn && in.before > 0 && in.before < len(p) {
		if in.job.Status != StatusNone {
			in.rep.say("warning: partial read (%d byte%s); suggest iflag=fullblock", in.before, plural(in.before))
		}
		in.warn = false
	}
	in.before = max(n, 0)
	return max(n, 0), err
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
