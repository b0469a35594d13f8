package cardlab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Plan is a list of things that happen while a command runs. In its text form
// each line is a trigger followed by an action:
//
//	at 2s ACTION                 that long after the start of the command
//	on "REGEXP" ACTION           when a line of the output matches, once
//	on "REGEXP" +500ms ACTION    that long after it
//	when 3 wrote 8M ACTION       when card 3 has taken that much data
//	when 3 read 8M ACTION        when that much has been read from card 3
//
// The actions are
//
//	plug 3          plug in the reader of card 3       (also: plug 0-6,9)
//	pull 3          pull it out
//	insert 3        put card 3 into its slot; the reader stays
//	eject 3         take it out of its slot
//	blank 3         make card 3, which must be out, blank
//	slow 3 500K     limit its speed of writing, per second; 0 = no limit
//	stall 3 5s      let it take and give nothing for that long (25s at the most)
//	cut             power cut, by QMP
//	kill            power cut, by SIGKILL to QEMU
//	signal INT      send a signal to the command (INT, TERM, HUP, KILL, QUIT, USR1, USR2)
//	send "text\n"   send text to the command's standard input
//
// Empty lines and lines that start with # are skipped.
type Plan []Event

// Event is a line of a plan.
type Event struct {
	line string

	after  time.Duration // at, on
	output *regexp.Regexp
	card   int // when; -1 otherwise
	read   bool
	bytes  int64

	action []string
	cards  []int
	bps    int64
	stall  time.Duration
	sig    syscall.Signal
}

var signals = map[string]syscall.Signal{
	"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL,
	"QUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

// ParsePlan reads a plan's text form.
func ParsePlan(text string) (Plan, error) {
	var plan Plan
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		e, err := parseEvent(line)
		if err != nil {
			return nil, fmt.Errorf("plan, line %d: %s: %w", i+1, line, err)
		}
		plan = append(plan, e)
	}
	return plan, nil
}

func parseEvent(line string) (e Event, err error) {
	words, err := splitWords(line)
	if err != nil {
		return e, err
	}
	e = Event{line: line, card: -1}
	bad := errors.New(`want "at TIME ACTION", "on REGEXP [+TIME] ACTION" or "when CARD wrote|read SIZE ACTION"`)
	switch {
	case len(words) > 2 && words[0] == "at":
		e.after, err = time.ParseDuration(words[1])
		words = words[2:]
	case len(words) > 2 && words[0] == "on":
		e.output, err = regexp.Compile(words[1])
		words = words[2:]
		if d, ok := strings.CutPrefix(words[0], "+"); ok && err == nil {
			e.after, err = time.ParseDuration(d)
			words = words[1:]
		}
	case len(words) > 4 && words[0] == "when" && (words[2] == "wrote" || words[2] == "read"):
		e.read = words[2] == "read"
		if e.card, err = strconv.Atoi(words[1]); err == nil {
			e.bytes, err = ParseSize(words[3])
		}
		words = words[4:]
	default:
		err = bad
	}
	if err != nil {
		return e, err
	}
	e.action = words
	return e, e.parseAction()
}

func (e *Event) parseAction() (err error) {
	want := map[string]int{"plug": 2, "pull": 2, "insert": 2, "eject": 2, "blank": 2, "slow": 3, "stall": 3, "signal": 2, "send": 2, "cut": 1, "kill": 1}
	if len(e.action) == 0 || want[e.action[0]] == 0 {
		return errors.New("no such action")
	}
	if len(e.action) != want[e.action[0]] {
		return fmt.Errorf("%s takes %d arguments", e.action[0], want[e.action[0]]-1)
	}
	switch e.action[0] {
	case "plug", "pull", "insert", "eject", "blank", "slow", "stall":
		if e.cards, err = ParseCards(e.action[1]); err != nil {
			return err
		}
		if e.action[0] == "slow" {
			e.bps, err = ParseSize(e.action[2])
		} else if e.action[0] == "stall" {
			e.stall, err = time.ParseDuration(e.action[2])
			if err == nil && e.stall > maxStall {
				err = fmt.Errorf("more than %v", maxStall)
			}
		}
	case "signal":
		var ok bool
		if e.sig, ok = signals[strings.TrimPrefix(e.action[1], "SIG")]; !ok {
			err = errors.New("no such signal")
		}
	}
	return err
}

// splitWords splits a line at spaces; a word may be a Go string in double quotes.
func splitWords(line string) (words []string, err error) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		var word string
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, errors.New("unbalanced quotes")
			}
			if word, err = strconv.Unquote(quoted); err != nil {
				return nil, err
			}
			line = line[len(quoted):]
		} else {
			word, line, _ = strings.Cut(line, " ")
		}
		words = append(words, word)
	}
	return words, nil
}

// ParseSize reads a number of bytes such as 512, 64K, 4M or 2G.
func ParseSize(s string) (int64, error) {
	shift := map[string]uint{"K": 10, "M": 20, "G": 30}[strings.ToUpper(s[max(0, len(s)-1):])]
	if shift > 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<(62-shift) {
		return 0, fmt.Errorf("bad size %q", s)
	}
	return n << shift, nil
}

// ParseCards reads a list of card indexes such as 3 or 0-6,9.
func ParseCards(s string) (cards []int, err error) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || a > b || a < 0 || b > 999 {
			return nil, fmt.Errorf("bad list of cards %q", s)
		}
		for ; a <= b; a++ {
			cards = append(cards, a)
		}
	}
	return cards, nil
}

// Happened is an event that took place.
type Happened struct {
	At    float64 // seconds since the start of the command
	Event string  // its line in the plan
	Error string  `json:",omitempty"`
}

// RunPlan starts the command and carries out the plan while it runs. It returns
// what happened, and the command's error as Cmd.Wait does. An event that did not
// happen before the command ended is not in the list.
func (c *Cmd) RunPlan(plan Plan) ([]Happened, error) {
	for _, e := range plan {
		for _, card := range append(e.cards, e.card) {
			if card >= len(c.vm.slots) {
				return nil, fmt.Errorf("%s: there is no card %d", e.line, card)
			}
		}
	}
	r := &planRun{c: c, stop: make(chan struct{})}
	if len(plan) > 0 {
		c.Stdout = tee(c.Stdout, &watcher{r: r})
		c.Stderr = tee(c.Stderr, &watcher{r: r})
	}
	var polled []Event
	for _, e := range plan {
		if e.action[0] == "send" {
			c.keepStdin = true
		}
		switch {
		case e.output != nil:
			r.onOutput = append(r.onOutput, e)
		case e.card >= 0:
			polled = append(polled, e)
		}
	}
	r.start = time.Now()
	if err := c.Start(); err != nil {
		return nil, err
	}
	for _, e := range plan {
		if e.output == nil && e.card < 0 {
			r.later(e)
		}
	}
	if len(polled) > 0 {
		r.wg.Add(1)
		go r.poll(polled)
	}
	err := c.Wait()
	close(r.stop)
	r.wg.Wait()
	return r.happened, err
}

type planRun struct {
	c     *Cmd
	start time.Time
	stop  chan struct{} // closed when the command has ended
	wg    sync.WaitGroup

	mu       sync.Mutex
	onOutput []Event // that have not happened
	happened []Happened
}

// later lets an event happen after its time, unless the command ends before.
func (r *planRun) later(e Event) {
	r.wg.Go(func() {
		select {
		case <-time.After(e.after):
			r.do(e)
		case <-r.stop:
		}
	})
}

// poll watches how much the cards took.
func (r *planRun) poll(events []Event) {
	defer r.wg.Done()
	for len(events) > 0 {
		select {
		case <-r.stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
		stats, err := r.c.vm.Stats()
		if err != nil {
			return // the machine has gone
		}
		var rest []Event
		for _, e := range events {
			n := stats[e.card].WriteBytes
			if e.read {
				n = stats[e.card].ReadBytes
			}
			if n < e.bytes {
				rest = append(rest, e)
			} else {
				r.do(e)
			}
		}
		events = rest
	}
}

// do carries out an event's action.
func (r *planRun) do(e Event) {
	at := time.Since(r.start).Seconds()
	err := r.act(e)
	h := Happened{At: at, Event: e.line}
	if err != nil {
		h.Error = err.Error()
	}
	r.mu.Lock()
	r.happened = append(r.happened, h)
	r.mu.Unlock()
}

func (r *planRun) act(e Event) error {
	vm := r.c.vm
	switch e.action[0] {
	case "cut":
		vm.Stats() // to be known afterwards
		return vm.PowerCut()
	case "kill":
		vm.Stats()
		return vm.Kill()
	case "signal":
		return r.c.Signal(e.sig)
	case "send":
		return vm.guest.send(message{Op: "stdin", ID: r.c.id, Data: []byte(e.action[1])})
	}
	var errs []error
	for _, card := range e.cards {
		switch e.action[0] {
		case "plug":
			errs = append(errs, vm.Plug(card))
		case "pull":
			errs = append(errs, vm.Pull(card))
		case "insert":
			errs = append(errs, vm.Insert(card))
		case "eject":
			errs = append(errs, vm.Eject(card))
		case "blank":
			errs = append(errs, vm.Blank(card))
		case "slow":
			errs = append(errs, vm.Slow(card, e.bps))
		case "stall":
			go vm.Stall(card, e.stall)
		}
	}
	return errors.Join(errs...)
}

// watcher looks for matches in the lines of an output. A carriage return ends a
// line too, for the sake of progress displays.
type watcher struct {
	r    *planRun
	line []byte
}

func (w *watcher) Write(p []byte) (int, error) {
	w.line = append(w.line, p...)
	for {
		i := bytes.IndexAny(w.line, "\r\n")
		if i < 0 {
			return len(p), nil
		}
		line := w.line[:i]
		w.line = w.line[i+1:]
		w.r.mu.Lock()
		var rest, due []Event
		for _, e := range w.r.onOutput {
			if e.output.Match(line) {
				due = append(due, e)
			} else {
				rest = append(rest, e)
			}
		}
		w.r.onOutput = rest
		w.r.mu.Unlock()
		for _, e := range due {
			w.r.later(e)
		}
	}
}

func tee(w io.Writer, also io.Writer) io.Writer {
	if w == nil {
		return also
	}
	return io.MultiWriter(w, also)
}
