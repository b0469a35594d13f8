package labtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"multidd/internal/cardlab"
)

// patience is how long a test waits for something that has to come.
const patience = 3 * time.Minute

// A lane is what an event says of a card.
type lane struct {
	Lane    int      `json:"lane"`
	Slot    string   `json:"slot"`
	Device  string   `json:"device"`
	Serial  string   `json:"serial"`
	Size    int64    `json:"size"`
	Phase   string   `json:"phase"`
	Done    int64    `json:"done"`
	Good    bool     `json:"good"`
	Reason  string   `json:"reason"`
	Step    string   `json:"step"`
	Offset  *int64   `json:"offset"`
	Message string   `json:"message"`
	Amber   []string `json:"amber"`
	Retries int      `json:"retries"`
}

// verdict is "good", or the reason why not.
func (l lane) verdict() string {
	if l.Good {
		return "good"
	}
	return l.Reason
}

// An event is a line of --json. Those about one lane have the lane's fields.
type event struct {
	Event  string `json:"event"`
	Exit   int    `json:"exit"`
	Memory int64  `json:"memory"`
	Lanes  []lane `json:"lanes"`
	lane
}

// A run is multidd at work in the guest.
type run struct {
	r      *rack
	t      *testing.T
	cmd    *cardlab.Cmd
	ended  chan struct{} // closed when exit and err are known
	exit   int
	failed error // why there is no exit status

	mu     sync.Mutex
	line   []byte // a part of one
	out    bytes.Buffer
	events []event
	more   chan struct{} // closed and replaced when something was printed
}

// start starts multidd.
func (r *rack) start(args ...string) *run {
	r.t.Helper()
	return r.begin(r.Command(append([]string{r.multidd}, args...)...))
}

// atTerminal starts multidd on a terminal. What is written to keys is typed there.
func (r *rack) atTerminal(args ...string) (w *run, keys io.Writer) {
	r.t.Helper()
	cmd := r.Command(append([]string{r.multidd}, args...)...)
	in, out := io.Pipe()
	r.t.Cleanup(func() { out.Close() })
	cmd.TTY, cmd.Stdin = true, in
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	return r.begin(cmd), out
}

func (r *rack) begin(cmd *cardlab.Cmd) *run {
	r.t.Helper()
	w := &run{r: r, t: r.t, cmd: cmd, ended: make(chan struct{}), more: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = w, (*errorText)(w)
	r.must(cmd.Start())
	go func() {
		err := w.cmd.Wait()
		if exit, ok := errors.AsType[*cardlab.ExitError](err); ok {
			w.exit = exit.Code
		} else {
			w.failed = err
		}
		close(w.ended)
	}()
	r.t.Cleanup(func() {
		if r.t.Failed() {
			w.mu.Lock()
			defer w.mu.Unlock()
			r.t.Logf("%s\n%s", strings.Join(cmd.Args, " "), w.out.String())
		}
	})
	return w
}

// write starts `multidd write`, with events, to some cards.
func (r *rack) write(image string, cards ...int) *run {
	r.t.Helper()
	return r.start(slices.Concat([]string{"write", "--yes", "--json", image}, r.devices(cards...))...)
}

// Write takes what multidd prints on its standard output.
func (w *run) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Write(p)
	w.line = append(w.line, p...)
	for {
		line, rest, ok := bytes.Cut(w.line, []byte("\n"))
		if !ok {
			break
		}
		var e event
		if len(line) > 0 && line[0] == '{' && json.Unmarshal(line, &e) == nil && e.Event != "" {
			w.events = append(w.events, e)
		}
		w.line = rest
	}
	w.printed()
	return len(p), nil
}

func (w *run) printed() {
	close(w.more)
	w.more = make(chan struct{})
}

// errorText takes what multidd prints on its standard error.
type errorText run

func (w *errorText) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Write(p)
	(*run)(w).printed()
	return len(p), nil
}

// text returns all that was printed so far.
func (w *run) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.String()
}

// until waits for what has to come before multidd ends.
func (w *run) until(what string, ok func() bool) {
	w.t.Helper()
	late := time.After(patience)
	for {
		w.mu.Lock()
		more := w.more
		w.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-more:
		case <-time.After(10 * time.Millisecond): // what cards took is not told
		case <-w.ended:
			if ok() {
				return
			}
			w.t.Fatalf("multidd ended before %s", what)
		case <-late:
			w.t.Fatalf("within %v no %s", patience, what)
		}
	}
}

// untilPrinted waits for a text.
func (w *run) untilPrinted(text string) {
	w.t.Helper()
	w.until(fmt.Sprintf("%q was printed", text), func() bool { return strings.Contains(w.text(), text) })
}

// untilPhase waits until a lane is in a phase. Lanes are in the order of the
// targets.
func (w *run) untilPhase(n int, phase string) {
	w.t.Helper()
	w.until(fmt.Sprintf("lane %d came to %q", n, phase), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.ContainsFunc(w.events, func(e event) bool {
			return (e.Event == "lane" || e.Event == "verdict") && e.lane.Lane == n && e.Phase == phase
		})
	})
}

// untilTaken waits until a card took that much more than before.
func (w *run) untilTaken(card int, before []int64, bytes int64) {
	w.t.Helper()
	w.until(fmt.Sprintf("card %d took %d bytes", card, bytes), func() bool { return w.r.taken()[card]-before[card] >= bytes })
}

// A result is how a run ended.
type result struct {
	t     *testing.T
	exit  int
	text  string
	lanes []lane // as the last event has them; in the order of the targets
	most  int64  // memory, in bytes
}

// end waits for the end.
func (w *run) end() result {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Fatalf("%s did not end within %v", strings.Join(w.cmd.Args, " "), patience)
	}
	if w.failed != nil {
		w.t.Fatalf("%s: %v", strings.Join(w.cmd.Args, " "), w.failed)
	}
	res := result{t: w.t, exit: w.exit, text: w.text()}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, e := range w.events {
		res.most = max(res.most, e.Memory)
		if e.Event != "run-end" {
			continue
		}
		res.lanes = e.Lanes
		if i != len(w.events)-1 {
			w.t.Errorf("there are events after run-end")
		}
		if e.Exit != w.exit {
			w.t.Errorf("run-end says exit %d, the exit status is %d", e.Exit, w.exit)
		}
	}
	return res
}

// want checks the exit status and the verdicts, in the order of the targets. A
// verdict may be one of several: "removed|target-changed".
func (res result) want(exit int, verdicts ...string) {
	res.t.Helper()
	if res.exit != exit {
		res.t.Errorf("exit status %d, want %d", res.exit, exit)
	}
	if len(res.lanes) != len(verdicts) {
		res.t.Fatalf("the last event tells of %d lanes, want %d", len(res.lanes), len(verdicts))
	}
	for i, want := range verdicts {
		l := res.lanes[i]
		if !slices.Contains(strings.Split(want, "|"), l.verdict()) {
			res.t.Errorf("lane %d (%s): %s %q at %q, want %s: %s", i, l.Device, l.Phase, l.verdict(), l.Step, want, l.Message)
		}
	}
}

// refused checks that a guard refused, for one of the reasons that are separated
// by "|", and that it was said in words too.
func (res result) refused(reasons string) {
	res.t.Helper()
	if res.exit != 5 {
		res.t.Errorf("exit status %d, want 5: refused by a guard", res.exit)
	}
	said := slices.ContainsFunc(strings.Split(reasons, "|"), func(r string) bool { return strings.Contains(res.text, "["+r+"]") })
	if !said || !strings.Contains(res.text, "nothing was written") {
		res.t.Errorf("no word of a refusal for %s:\n%s", reasons, res.text)
	}
}
