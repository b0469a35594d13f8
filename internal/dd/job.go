// Package dd is the words of dd: it takes dd's operands, reads the input record
// by record as dd does, and copies to plain files, pipes, character devices and
// the standard output exactly as GNU dd (coreutils 9) does, down to its messages
// and its exit status. What goes to cards is given to the engine as a
// duplicate.Source.
//
// Beyond dd, of= may be given several times, hash= prints digests of the bytes
// output, and packed files are packed and unpacked on the way: an input is
// unpacked if its name has the ending of a packed format and its content is in
// that format; an output whose name ends in .bz2, .gz, .xz, .zst or .lz4 is
// packed. If all outputs have the same ending as the input, the bytes are copied
// as they are. iflag=raw and oflag=raw copy the bytes as they are whatever the
// names say.
//
// Where GNU dd 9.1 is not followed: a number may have any number of x and a B
// behind one, as in later versions; an output that cannot seek is not read
// instead; nothing is created among the devices; the statistics are printed even
// if flushing fails too; the last progress before flushing is on the line of
// progress; from file to file a record need not fit into the memory. A standard
// stream that is closed is /dev/null to every Go program.
package dd

import (
	"math"

	"multidd/internal/codec"
)

// A Status is how much is said on the standard error output.
type Status int

// What status= may say. StatusAll is dd's default.
const (
	StatusAll      Status = iota // messages, records, bytes and rate
	StatusNone                   // errors
	StatusNoXfer                 // messages and records
	StatusProgress               // as StatusAll, and a line of progress once a second
)

// An Amount is a length in records and some bytes more.
type Amount struct {
	Records int64 // of ibs or obs bytes each
	Bytes   int64 // fewer than one record has
}

// Zero tells whether nothing is asked for.
func (a Amount) Zero() bool { return a == Amount{} }

// noLimit is how many records are copied without count=.
const noLimit = math.MaxInt64

// length returns the amount in bytes; ok is false if that is more than an offset can be.
func (a Amount) length(record int64) (n int64, ok bool) {
	if a.Records > (math.MaxInt64-a.Bytes)/record {
		return math.MaxInt64, false
	}
	return a.Records*record + a.Bytes, true
}

// roundUp returns the next multiple of unit from n on, or the largest number if
// that is larger still.
func roundUp(n, unit int64) int64 {
	rest := n % unit
	if rest == 0 {
		return n
	}
	if n -= rest; n > math.MaxInt64-unit {
		return math.MaxInt64
	}
	return n + unit
}

// A Verify says whether cards are read back.
type Verify int

// What verify= may say.
const (
	VerifyDefault  Verify = iota // not given: cards are read back
	VerifyReadback               // asked for
	VerifyNone                   // only flushed
)

// A Job is what a line of operands asks for.
type Job struct {
	Input   string   // if=
	Stdin   bool     // there is no if=: the standard input is read
	Outputs []string // every of=, in order; none: the standard output

	IBS, OBS int64 // how many bytes are read and written at a time
	// AsRead is set by bs=: a record that was read short is written short.
	// Otherwise records are gathered to OBS bytes.
	AsRead            bool
	Skip, Seek, Count Amount

	// conv=
	Fsync, Fdatasync, NoTrunc, NoError, Sync, Excl, NoCreat, Sparse bool
	// iflag=
	FullBlock, DirectIn, RawIn bool
	// oflag=
	DirectOut, SyncOut, DsyncOut, RawOut bool

	Status Status
	Hashes []string // names of digests, such as "sha256", in order
	Verify Verify
	// Warnings are to be shown before the job is begun, each one sentence.
	Warnings []string
}

// Offset returns where on a card the output begins, in bytes.
func (j *Job) Offset() int64 {
	n, _ := j.Seek.length(j.OBS)
	return n
}

// asIs tells whether the input's packed bytes are copied without unpacking and
// packing them again: all outputs have the input's ending.
func (j *Job) asIs() bool {
	f := codec.ByName(j.Input)
	if j.Stdin || f == codec.Raw || len(j.Outputs) == 0 {
		return false
	}
	for _, name := range j.Outputs {
		if codec.ByName(name) != f {
			return false
		}
	}
	return true
}

// unpacks returns the format in which the input is expected to be packed; Raw:
// its bytes are copied as they are.
func (j *Job) unpacks() codec.Format {
	if j.Stdin || j.RawIn || j.asIs() {
		return codec.Raw
	}
	return codec.ByName(j.Input)
}

// Packs returns the format in which an output of this name is packed; Raw: it is not.
func (j *Job) Packs(name string) codec.Format {
	f := codec.ByName(name)
	if j.RawOut || f == codec.Zip || j.asIs() {
		return codec.Raw
	}
	return f
}
