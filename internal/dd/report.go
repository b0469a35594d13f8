package dd

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// program begins every message.
const program = "multidd: "

// counts are records as dd counts them. One goroutine adds, any number look.
type counts struct {
	full, partial, bytes atomic.Int64
	whole                int64 // length of a full record
	gathered             int64 // bytes of the record being gathered
}

// record counts one record of n bytes.
func (c *counts) record(n int) {
	c.bytes.Add(int64(n))
	if int64(n) == c.whole {
		c.full.Add(1)
	} else {
		c.partial.Add(1)
	}
}

// gather counts n bytes of a stream that is cut into full records, without
// counting the last until end is called.
func (c *counts) gather(n int) {
	c.bytes.Add(int64(n))
	c.gathered += int64(n)
	c.full.Add(c.gathered / c.whole)
	c.gathered %= c.whole
}

// end counts what is left of the gathered stream as one partial record.
func (c *counts) end() {
	if c.gathered > 0 {
		c.partial.Add(1)
		c.gathered = 0
	}
}

// set counts n bytes as records that were read.
func (c *counts) set(n int64) {
	c.full.Store(n / c.whole)
	c.partial.Store(min(n%c.whole, 1))
}

func (c *counts) String() string { return fmt.Sprintf("%d+%d", c.full.Load(), c.partial.Load()) }

// A report is all that is said on the standard error output.
type report struct {
	level Status
	now   func() time.Time
	in    counts // of what was read

	mu    sync.Mutex // guards what follows
	w     io.Writer
	taken *counts   // of what was read and then taken by the only output; nil: all that was read
	outs  []*counts // of each output
	line  int       // length of the line of progress that the cursor stands on; 0: none
	shown int64     // bytes that the last line of progress spoke of; -1: there was none
	begun time.Time
	next  time.Time // when the next line of progress is due
}

// say writes a message, on a line of its own.
func (r *report) say(format string, args ...any) {
	r.print(program + fmt.Sprintf(format, args...) + "\n")
}

// fail says what went wrong, and why.
func (r *report) fail(err error, format string, args ...any) {
	r.say("%v", failure(fmt.Sprintf(format, args...), err))
}

// print writes s on a line of its own.
func (r *report) print(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(s)
}

// A trouble is an error in dd's words.
type trouble struct {
	what string
	err  error
}

func failure(what string, err error) error { return &trouble{what, err} }

func (t *trouble) Error() string {
	if errno, ok := errors.AsType[syscall.Errno](t.err); ok {
		return t.what + ": " + reason(errno)
	}
	return t.what + ": " + t.err.Error()
}

func (t *trouble) Unwrap() error { return t.err }

// write ends a line of progress and writes s after it. Nothing can be done about an
// error: there is no other place to report it.
func (r *report) write(s string) {
	if r.line > 0 {
		s = "\n" + s
		r.line = 0
	}
	_, _ = io.WriteString(r.w, s)
}

// start begins the clock.
func (r *report) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = r.now()
	r.next = r.begun.Add(time.Second)
}

// seen returns counts that are reported as what was read, instead of those of
// the input.
func (r *report) seen() *counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = &counts{whole: r.in.whole}
	return r.taken
}

// count adds an output to the report.
func (r *report) count(c *counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outs = append(r.outs, c)
}

// furthest returns the counts of the output that has come furthest: they are
// alike but for those that failed or are behind.
func (r *report) furthest() *counts {
	best := &counts{}
	for i, c := range r.outs {
		if i == 0 || c.bytes.Load() > best.bytes.Load() {
			best = c
		}
	}
	return best
}

// stats prints the records, and how many bytes were copied how fast.
func (r *report) stats() {
	if r.level == StatusNone {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	in, out := &r.in, r.furthest()
	if r.taken != nil {
		in = r.taken
	}
	s := fmt.Sprintf("%v records in\n%v records out\n", in, out)
	if r.level != StatusNoXfer {
		s += r.transfer(out.bytes.Load(), r.now(), false) + "\n"
	}
	r.write(s)
}

// tick prints the line of progress if it is due.
func (r *report) tick() {
	if r.level != StatusProgress {
		return
	}
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.next) {
		return
	}
	r.next = r.next.Add(time.Second)
	r.progress(now)
}

// beforeSync brings the line of progress up to date, since what comes next may
// take long.
func (r *report) beforeSync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shown >= 0 && r.shown < r.furthest().bytes.Load() {
		r.progress(r.now())
	}
}

// progress writes the line of progress over the one before it.
func (r *report) progress(now time.Time) {
	r.shown = r.furthest().bytes.Load()
	s := r.transfer(r.shown, now, true)
	blank := strings.Repeat(" ", max(0, r.line-len(s)))
	_, _ = io.WriteString(r.w, "\r"+s+blank)
	r.line = len(s)
}

// transfer says how many bytes were copied since the start and how fast. The
// time is in whole seconds if wanted so.
func (r *report) transfer(bytes int64, now time.Time, seconds bool) string {
	took := now.Sub(r.begun)
	rate := "Infinity B"
	if took > 0 {
		rate = human(uint64(bytes), uint64(time.Second), uint64(took), 1000)
	}
	time := strconv.FormatFloat(took.Seconds(), 'g', 6, 64)
	if seconds {
		time = strconv.FormatFloat(took.Seconds(), 'f', 0, 64)
	}
	return fmt.Sprintf("%s copied, %s s, %s/s", amount(bytes), time, rate)
}

// amount says a number of bytes: 1 byte, 999 bytes, 1001 bytes (1.0 kB),
// 1024 bytes (1.0 kB, 1.0 KiB).
func amount(n int64) string {
	si, iec := human(uint64(n), 1, 1, 1000), human(uint64(n), 1, 1, 1024)
	switch {
	case n == 1:
		return "1 byte"
	case strings.HasSuffix(si, " B"):
		return fmt.Sprintf("%d bytes", n)
	case strings.HasSuffix(iec, " B"):
		return fmt.Sprintf("%d bytes (%s)", n, si)
	}
	return fmt.Sprintf("%d bytes (%s, %s)", n, si, iec)
}
