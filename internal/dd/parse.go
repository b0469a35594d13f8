package dd

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// defaultSize is the length of a record where nothing else is said, in bytes.
const defaultSize = 512

// maxSize is the longest record, in bytes.
const maxSize = math.MaxInt - 1

// IsOperands tells whether arguments are in the language of dd: the first is a
// word of letters followed by "=".
func IsOperands(args []string) bool {
	if len(args) == 0 {
		return false
	}
	word, _, ok := strings.Cut(args[0], "=")
	return ok && word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") == ""
}

// tryHelp is what dd says after a word that it does not understand.
const tryHelp = "\nTry 'multidd --help' for more information."

// Parse understands a line of dd's operands. As in dd, the last of several that
// say the same thing counts, and flags add up; each of= is one more output. The
// error is dd's message.
func Parse(args []string) (*Job, error) {
	p := parser{job: Job{Stdin: true}, count: number{n: noLimit}}
	if i := slices.Index(args, "--"); i >= 0 {
		args = slices.Delete(slices.Clone(args), i, i+1)
	}
	for _, arg := range args {
		word, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, unrecognized(arg)
		}
		if err := p.operand(arg, word, value); err != nil {
			return nil, err
		}
	}
	return p.finish()
}

// A number is the value of count=, skip= or seek=.
type number struct {
	n     int64
	bytes bool // it counts bytes: there is a B in it
}

type parser struct {
	job                           Job
	ibs, obs, bs                  int64 // 0: not given
	count, skip, seek             number
	countBytes, skipBytes, seekBs bool // by flag
}

func unrecognized(arg string) error {
	return errors.New("unrecognized operand " + quoteWord(arg) + tryHelp)
}

func (p *parser) operand(arg, word, value string) error {
	switch word {
	case "if":
		p.job.Input, p.job.Stdin = value, false
	case "of":
		p.job.Outputs = append(p.job.Outputs, value)
	case "bs":
		return size(&p.bs, value)
	case "ibs":
		return size(&p.ibs, value)
	case "obs":
		return size(&p.obs, value)
	case "count":
		return p.amount(&p.count, value)
	case "skip", "iseek":
		return p.amount(&p.skip, value)
	case "seek", "oseek":
		return p.amount(&p.seek, value)
	case "conv":
		return each(value, "conversion", p.conv)
	case "iflag":
		return each(value, "input flag", p.iflag)
	case "oflag":
		return each(value, "output flag", p.oflag)
	case "status":
		return each(value, "status level", p.status)
	case "hash":
		return each(value, "hash", p.hash)
	case "verify":
		return each(value, "way to verify", p.verify)
	case "cbs":
		return errors.New("cbs= is not taken: multidd copies bytes as they are and converts no text; use dd for that")
	default:
		return unrecognized(arg)
	}
	return nil
}

// size sets the length of a record.
func size(to *int64, value string) error {
	n, err := parseNumber(value)
	switch {
	case err == nil && n < 1:
		err = errNumber
	case err == nil && n > maxSize:
		err = errOverflow
	}
	*to = n
	return invalidNumber(value, err)
}

func (p *parser) amount(to *number, value string) error {
	n, err := parseNumber(value)
	if err == nil && n == 0 && strings.HasPrefix(value, "0x") {
		p.job.Warnings = append(p.job.Warnings, "warning: '0x' is a zero multiplier; use '00x' if that is intended")
	}
	*to = number{n, strings.Contains(value, "B")}
	return invalidNumber(value, err)
}

func invalidNumber(value string, err error) error {
	switch err {
	case nil:
		return nil
	case errOverflow:
		return fmt.Errorf("invalid number: %s: Value too large for defined data type", quoteWord(value))
	}
	return fmt.Errorf("invalid number: %s", quoteWord(value))
}

// errUnknown is what a setter of each returns for a word that is not dd's.
var errUnknown = errors.New("unknown")

// each gives the words of a list separated by commas to set. kind says what they are.
func each(list, kind string, set func(word string) error) error {
	for word := range strings.SplitSeq(list, ",") {
		if err := set(word); err == errUnknown {
			return fmt.Errorf("invalid %s: %s%s", kind, quoteWord(word), tryHelp)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) conv(word string) error {
	j := &p.job
	switch word {
	case "fsync":
		j.Fsync = true
	case "fdatasync":
		j.Fdatasync = true
	case "notrunc":
		j.NoTrunc = true
	case "noerror":
		j.NoError = true
	case "sync":
		j.Sync = true
	case "excl":
		j.Excl = true
	case "nocreat":
		j.NoCreat = true
	case "sparse":
		j.Sparse = true
	case "ascii", "ebcdic", "ibm", "block", "unblock", "lcase", "ucase", "swab":
		return fmt.Errorf("conv=%s is not taken: multidd copies bytes as they are and converts no text; use dd for that", word)
	default:
		return errUnknown
	}
	return nil
}

// foreignFlag refuses a flag of dd that is understood and not taken.
func foreignFlag(operand, word string) error {
	switch word {
	case "append", "directory", "dsync", "noatime", "nocache", "noctty", "nofollow", "nonblock", "sync",
		"count_bytes", "skip_bytes", "seek_bytes":
		return fmt.Errorf("%s=%s is not taken: multidd knows only what copying images and cards needs; use dd for that", operand, word)
	}
	return errUnknown
}

func (p *parser) iflag(word string) error {
	switch word {
	case "fullblock":
		p.job.FullBlock = true
	case "direct":
		p.job.DirectIn = true
	case "count_bytes":
		p.countBytes = true
	case "skip_bytes":
		p.skipBytes = true
	case "raw":
		p.job.RawIn = true
	default:
		return foreignFlag("iflag", word)
	}
	return nil
}

func (p *parser) oflag(word string) error {
	switch word {
	case "direct":
		p.job.DirectOut = true
	case "sync":
		p.job.SyncOut = true
	case "dsync":
		p.job.DsyncOut = true
	case "seek_bytes":
		p.seekBs = true
	case "raw":
		p.job.RawOut = true
	default:
		return foreignFlag("oflag", word)
	}
	return nil
}

func (p *parser) status(word string) error {
	switch word {
	case "none":
		p.job.Status = StatusNone
	case "noxfer":
		p.job.Status = StatusNoXfer
	case "progress":
		p.job.Status = StatusProgress
	default:
		return errUnknown
	}
	return nil
}

func (p *parser) verify(word string) error {
	switch word {
	case "none":
		p.job.Verify = VerifyNone
	case "readback":
		p.job.Verify = VerifyReadback
	default:
		return errUnknown
	}
	return nil
}

func (p *parser) hash(word string) error {
	if newHash(word) == nil {
		return errUnknown
	}
	if !slices.Contains(p.job.Hashes, word) {
		p.job.Hashes = append(p.job.Hashes, word)
	}
	return nil
}

// finish puts together what only all operands together say.
func (p *parser) finish() (*Job, error) {
	j := &p.job
	j.IBS, j.OBS = max(p.ibs, 0), max(p.obs, 0)
	if p.bs != 0 {
		j.IBS, j.OBS, j.AsRead = p.bs, p.bs, true
	}
	if j.IBS == 0 {
		j.IBS = defaultSize
	}
	if j.OBS == 0 {
		j.OBS = defaultSize
	}
	j.Skip = p.skip.amount(p.skipBytes, j.IBS)
	j.Seek = p.seek.amount(p.seekBs, j.OBS)
	if j.Count = (Amount{Records: noLimit}); p.count.n != noLimit {
		j.Count = p.count.amount(p.countBytes, j.IBS)
	}
	if j.Excl && j.NoCreat {
		return nil, errors.New("cannot combine excl and nocreat")
	}
	return j, j.check()
}

func (n number) amount(bytes bool, record int64) Amount {
	if n.bytes || bytes {
		return Amount{n.n / record, n.n % record}
	}
	return Amount{Records: n.n}
}

// check refuses what a packed output cannot be asked for.
func (j *Job) check() error {
	for _, name := range j.Outputs {
		if j.Packs(name) == "raw" {
			continue
		}
		word := ""
		switch {
		case !j.Seek.Zero():
			word = "seek="
		case j.NoTrunc:
			word = "conv=notrunc"
		case j.Sparse:
			word = "conv=sparse"
		default:
			continue
		}
		return fmt.Errorf("%s cannot be used with %s, which is packed from its beginning; with oflag=raw the bytes are written as they are",
			word, quoteName(name))
	}
	return nil
}
