package dd

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"syscall"
)

const standardOutput = "standard output"

// errWrite is the error of an output that has failed. It has been said.
var errWrite = errors.New("an output could not be written")

// An output is what one of= names, open. One goroutine uses it at a time.
type output struct {
	job    *Job
	rep    *report
	name   string
	fd     int
	counts *counts
	asRead bool // records are written as they come; else they are gathered
	obs    int  // to this many bytes
	alone  bool // it is the only output
	stat   syscall.Stat_t

	buf  []byte // the record being gathered; nil: not needed yet
	have int    // how much of it there is

	direct, sparse bool
	sync           bool // flush at the end, as conv=fsync does
	seeked         bool // the last record was not written but passed over
	broken         bool // it is a pipe without a reader
}

// newOutput returns an output that is not open yet. A packed one gathers what is
// packed into pieces that suit a disk, whatever obs= says.
func newOutput(j *Job, rep *report, packed bool) *output {
	o := &output{job: j, rep: rep, counts: &counts{whole: j.OBS}, asRead: j.AsRead, obs: int(j.OBS),
		direct: j.DirectOut, sparse: j.Sparse, sync: j.Fsync}
	if packed {
		o.asRead, o.obs, o.counts.whole = false, packedPiece, packedPiece
	}
	return o
}

// open opens the output; standard tells that it is the standard output. What is
// wrong has been said.
func (o *output) open(name string, standard bool) error {
	j, rep := o.job, o.rep
	o.name = name
	if standard {
		o.name = standardOutput
		if err := o.openStandard(); err != nil {
			rep.fail(err, "setting flags for %s", quoteName(o.name))
			return errWrite
		}
		return nil
	}
	size, fits := j.Seek.length(j.OBS)
	if !fits && !j.NoTrunc {
		rep.say("offset too large: cannot truncate to a length of seek=%d (%d-byte) blocks", j.Seek.Records, j.OBS)
		return errWrite
	}
	if err := o.openFile(); err != nil {
		rep.fail(err, "failed to open %s", quoteName(name))
		return errWrite
	}
	if err := o.refuseBlockDevice(); err != nil {
		rep.fail(err, "not writing %s", quoteName(name))
		_ = syscall.Close(o.fd)
		return errWrite
	}
	if j.Seek.Records > 0 && !j.NoTrunc {
		o.truncate(size)
	}
	return nil
}

// openStandard takes the standard output. It is duplicated, so that closing it
// tells about errors and harms nobody.
func (o *output) openStandard() (err error) {
	if err = addFlags(1, o.job.outFlags()); err == nil {
		o.fd, err = syscall.Dup(1)
	}
	if err == nil {
		err = syscall.Fstat(o.fd, &o.stat)
	}
	return err
}

func (j *Job) outFlags() (flags int) {
	if j.DirectOut {
		flags |= syscall.O_DIRECT
	}
	if j.SyncOut {
		flags |= syscall.O_SYNC
	}
	if j.DsyncOut {
		flags |= syscall.O_DSYNC
	}
	return flags
}

// openFile opens the output by its name. A device that has gone must not become a
// file: nothing is made among the devices.
func (o *output) openFile() (err error) {
	j := o.job
	flags := syscall.O_WRONLY | j.outFlags()
	devices := amongDevices(o.name)
	if !j.NoCreat && !devices {
		flags |= syscall.O_CREAT
	}
	switch {
	case j.Excl && devices && syscall.Access(o.name, 0) == nil:
		return syscall.EEXIST
	case j.Excl && !devices:
		flags |= syscall.O_EXCL
	}
	if j.Seek.Records == 0 && !j.NoTrunc {
		flags |= syscall.O_TRUNC
	}
	o.fd, err = open(o.name, flags, 0o666)
	return err
}

// amongDevices tells whether a file of this name would stand among the devices.
func amongDevices(name string) bool {
	path, err := filepath.Abs(name)
	return err == nil && strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

// refuseBlockDevice keeps a device from being written without the guards, should
// it have taken the place of a file.
func (o *output) refuseBlockDevice() error {
	if err := syscall.Fstat(o.fd, &o.stat); err != nil {
		return err
	}
	if o.stat.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		return errors.New("it is a block device now, and was none before")
	}
	return nil
}

// truncate gives the output the length at which it will be written on. That it
// cannot be done matters only for a file.
func (o *output) truncate(size int64) {
	if err := syscall.Ftruncate(o.fd, size); err != nil && o.isFile() {
		o.rep.fail(err, "failed to truncate to %d bytes in output file %s", size, quoteName(o.name))
	}
}

func (o *output) isFile() bool { return o.stat.Mode&syscall.S_IFMT == syscall.S_IFREG }

// begin goes to where the output is to begin.
func (o *output) begin() error {
	j := o.job
	if j.Seek.Zero() {
		return nil
	}
	err := error(syscall.EOVERFLOW)
	if off, fits := j.Seek.length(j.OBS); fits {
		_, err = syscall.Seek(o.fd, off, io.SeekCurrent)
	}
	if err != nil {
		o.rep.fail(err, "%s: cannot seek", quoteBare(o.name))
		return errWrite
	}
	return nil
}

// take writes the records in data, all rec bytes long but the last, which may be
// shorter.
func (o *output) take(data []byte, rec int) error {
	for len(data) > 0 {
		n := min(rec, len(data))
		if err := o.record(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// record writes a record that was read, or gathers it.
func (o *output) record(p []byte) error {
	if !o.asRead {
		return o.gather(p)
	}
	n, err := o.write(p)
	if err != nil {
		o.counts.bytes.Add(int64(n))
		return o.fail(err, "error writing %s")
	}
	o.counts.record(n)
	return nil
}

// gather writes whole records and keeps the rest.
func (o *output) gather(p []byte) error {
	for len(p) > 0 {
		if o.have == 0 && len(p) >= o.obs {
			if err := o.whole(p[:o.obs]); err != nil {
				return err
			}
			p = p[o.obs:]
			continue
		}
		if o.buf == nil {
			var err error
			if o.buf, err = buffer(int64(o.obs), "output"); err != nil {
				o.rep.say("%v", err)
				return err
			}
		}
		n := copy(o.buf[o.have:], p)
		o.have, p = o.have+n, p[n:]
		if o.have == o.obs {
			o.have = 0
			if err := o.whole(o.buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// whole writes a record that has been gathered.
func (o *output) whole(p []byte) error {
	n, err := o.write(p)
	if err == nil {
		o.counts.record(n)
		return nil
	}
	if n > 0 {
		o.counts.record(n)
	}
	return o.fail(err, "writing to %s")
}

// Write gathers p; for what packs.
func (o *output) Write(p []byte) (int, error) {
	if err := o.gather(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// fail says why the output ends. About a pipe without a reader dd does not say a
// word if that is all there is to write to: it is dead by then.
func (o *output) fail(err error, format string) error {
	if err == syscall.EPIPE && o.alone {
		o.broken = true
		return errWrite
	}
	o.rep.fail(err, format, quoteName(o.name))
	return errWrite
}

// write writes all of p, and returns how much was written. conv=sparse passes
// over a record of zeros.
func (o *output) write(p []byte) (n int, err error) {
	if o.direct && len(p) < o.obs {
		o.endDirect()
	}
	o.seeked = false
	if o.sparse && isZero(p) {
		if _, err := syscall.Seek(o.fd, int64(len(p)), io.SeekCurrent); err == nil {
			o.seeked = true
			return len(p), nil
		}
		o.sparse = false
	}
	for n < len(p) {
		m, err := writeFD(o.fd, p[n:])
		if err == nil && m == 0 {
			err = syscall.ENOSPC // beyond the end of a device
		}
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// endDirect prepares for a last record that is not whole, which cannot be written
// directly. It is flushed at the end instead.
func (o *output) endDirect() {
	flags, err := flagsOf(o.fd)
	if err == nil {
		err = setFlags(o.fd, flags&^syscall.O_DIRECT)
	}
	if err != nil && o.job.Status != StatusNone {
		o.rep.fail(err, "failed to turn off O_DIRECT: %s", quoteBare(o.name))
	}
	o.direct, o.sync = false, true
}

// isZero tells whether there is nothing but zeros in p.
func isZero(p []byte) bool {
	const probe = 16
	if len(p) <= probe {
		return len(bytes.Trim(p, "\x00")) == 0
	}
	// If the beginning is zero, and everything equals what stands before it …
	return isZero(p[:probe]) && bytes.Equal(p[probe:], p[:len(p)-probe])
}

// finish writes what has been gathered, and the length of a file that ends with
// zeros passed over.
func (o *output) finish() error {
	if o.have > 0 {
		n, err := o.write(o.buf[:o.have])
		o.have = 0
		if n > 0 {
			o.counts.bytes.Add(int64(n))
			o.counts.partial.Add(1)
		}
		if err != nil {
			return o.fail(err, "error writing %s")
		}
	}
	if !o.seeked || !o.isFile() {
		return nil
	}
	if err := syscall.Fstat(o.fd, &o.stat); err != nil {
		return o.fail(err, "cannot fstat %s")
	}
	at, err := syscall.Seek(o.fd, 0, io.SeekCurrent)
	if err != nil || o.stat.Size >= at {
		return nil
	}
	if err := syscall.Ftruncate(o.fd, at); err != nil {
		o.rep.fail(err, "failed to truncate to %d bytes in output file %s", at, quoteName(o.name))
		return errWrite
	}
	return nil
}

// close flushes the output if that was asked for, and gives it back. It is called
// once, whatever happened before.
func (o *output) close() (failed error) {
	release(o.buf)
	o.buf = nil
	if o.job.Fsync || o.job.Fdatasync {
		o.rep.beforeSync()
	}
	sync := o.sync
	if o.job.Fdatasync {
		if err := syscall.Fdatasync(o.fd); err != nil {
			if err != syscall.ENOSYS && err != syscall.EINVAL {
				o.rep.fail(err, "fdatasync failed for %s", quoteName(o.name))
				failed = errWrite
			}
			sync = true
		}
	}
	if sync {
		if err := syscall.Fsync(o.fd); err != nil {
			o.rep.fail(err, "fsync failed for %s", quoteName(o.name))
			failed = errWrite
		}
	}
	if err := syscall.Close(o.fd); err != nil && err != syscall.EINTR {
		o.rep.fail(err, "closing output file %s", quoteName(o.name))
		failed = errWrite
	}
	return failed
}
