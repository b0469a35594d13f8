package faulttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A lane is what an event of --json says of a card.
type lane struct {
	Lane    int      `json:"lane"`
	Device  string   `json:"device"`
	Phase   string   `json:"phase"`
	Reason  string   `json:"reason"`
	Step    string   `json:"step"`
	Message string   `json:"message"`
	Stalled float64  `json:"stalled_seconds"`
	Behind  bool     `json:"behind"`
	Amber   []string `json:"amber"`
}

// An event is a line of --json. Those about one lane have the lane's fields.
type event struct {
	Event string `json:"event"`
	Exit  int    `json:"exit"`
	Error string `json:"error"`
	Image struct {
		Error string `json:"error"`
	} `json:"image"`
	Lanes []lane `json:"lanes"`
	lane
}

// A program is multidd at work.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process that was started has ended
	silent chan struct{} // closed when nobody can write to its output any more

	mu     sync.Mutex
	out    bytes.Buffer // of both outputs
	events []event
	more   chan struct{} // closed and replaced when something was printed
}

// start starts multidd.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	stdout, outEnd := pipe(t)
	stderr, errEnd := pipe(t)
	p := newProgram(t, args...)
	p.cmd.Stdout, p.cmd.Stderr = outEnd, errEnd
	p.begin(outEnd, errEnd)
	p.listen(stdout, stderr)
	return p
}

// startWrite starts `multidd write`, with events.
func startWrite(t *testing.T, image string, cards []*card, flags ...string) *program {
	t.Helper()
	args := slices.Concat([]string{"write", "--yes", "--json"}, flags, []string{image})
	for _, c := range cards {
		args = append(args, c.path)
	}
	return start(t, args...)
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, w
}

func newProgram(t *testing.T, args ...string) *program {
	p := &program{t: t, cmd: exec.Command(multidd, args...), ended: make(chan struct{}), silent: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir(), "TERM=xterm")
	return p
}

// begin starts the process and closes what only it is to hold.
func (p *program) begin(ours ...*os.File) {
	p.t.Helper()
	err := p.cmd.Start()
	for _, f := range ours {
		f.Close()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the tests ask for the exit status
		close(p.ended)
	}()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has ended, unless the test failed
		<-p.ended
		if p.t.Failed() {
			p.t.Logf("%s\n%s", strings.Join(p.cmd.Args, " "), p.text())
		}
	})
}

// listen reads what the program prints.
func (p *program) listen(outputs ...io.Reader) {
	var all sync.WaitGroup
	for _, r := range outputs {
		all.Go(func() {
			var line []byte // a part of one
			for b := make([]byte, 4096); ; {
				n, err := r.Read(b)
				line = p.take(b[:n], line)
				if err != nil {
					return
				}
			}
		})
	}
	go func() { all.Wait(); close(p.silent) }()
}

// take takes what was printed, and returns the part of it that is no whole line
// yet.
func (p *program) take(text, part []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Write(text)
	part = append(part, text...)
	for {
		line, rest, ok := bytes.Cut(part, []byte("\n"))
		if !ok {
			break
		}
		var e event
		if len(line) > 0 && line[0] == '{' && json.Unmarshal(line, &e) == nil {
			p.events = append(p.events, e)
		}
		part = rest
	}
	close(p.more)
	p.more = make(chan struct{})
	return part
}

// text returns all that was printed so far.
func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// until waits for what has to come before the output ends.
func (p *program) until(what string, ok func() bool) {
	p.t.Helper()
	for late := time.After(patience); ; {
		p.mu.Lock()
		more := p.more
		p.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-more:
		case <-p.silent:
			if ok() {
				return
			}
			p.t.Fatalf("multidd ended before %s", what)
		case <-late:
			p.t.Fatalf("within %v not: %s", patience, what)
		}
	}
}

// untilLane waits for an event about a lane that match accepts.
func (p *program) untilLane(n int, what string, match func(event) bool) {
	p.t.Helper()
	p.until(fmt.Sprintf("lane %d was %s", n, what), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return slices.ContainsFunc(p.events, func(e event) bool {
			return (e.Event == "lane" || e.Event == "verdict") && e.Lane == n && match(e)
		})
	})
}

// untilPrinted waits for a text, which need not be a whole line.
func (p *program) untilPrinted(text string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%q was printed", text), func() bool { return strings.Contains(p.text(), text) })
}

func (p *program) untilPhase(n int, phase string) {
	p.t.Helper()
	p.untilLane(n, phase, func(e event) bool { return e.Phase == phase })
}

// signal sends a signal to the process that was started.
func (p *program) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// worker returns the process that does the writing, once it has begun.
func (p *program) worker() int {
	p.t.Helper()
	p.until("a run began", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.events) > 0
	})
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	for _, path := range tasks {
		b, _ := os.ReadFile(path)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return pid
		}
	}
	p.t.Fatal("multidd has no worker")
	return 0
}

// exists tells whether a process has a thread that has not ended. One that has ended
// altogether may still be waited for.
func exists(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return slices.ContainsFunc(threads, func(path string) bool {
		b, err := os.ReadFile(path)
		_, state, ok := strings.Cut(string(b), ") ")
		return err == nil && ok && state[0] != 'Z' && state[0] != 'X'
	})
}

// untilGone waits for the end of a process.
func (p *program) untilGone(pid int) {
	p.t.Helper()
	for end := time.Now().Add(patience); exists(pid); time.Sleep(time.Millisecond) { // the kernel tells nobody
		if time.Now().After(end) {
			p.t.Fatalf("process %d did not end within %v", pid, patience)
		}
	}
}

// mostMemory waits for the end of a process and returns the most memory that it had
// resident, in bytes.
func (p *program) mostMemory(pid int) (most int64) {
	p.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) { // the kernel tells nobody
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, peak, ok := strings.Cut(string(b), "VmHWM:")
		if !ok { // it has no memory any more
			return most
		}
		var kb int64
		_, _ = fmt.Sscan(peak, &kb)
		most = max(most, kb<<10)
	}
	p.t.Fatalf("process %d did not end within %v", pid, patience)
	return 0
}

// An outcome is how the program ended.
type outcome struct {
	t     *testing.T
	exit  int
	text  string
	last  event // run-end, if there is one
	ended bool  // there is a run-end
}

// end waits until the process has ended and nobody can write to its output.
func (p *program) end() outcome {
	p.t.Helper()
	late := time.After(patience)
	for what, c := range map[string]chan struct{}{"end": p.ended, "let go of its output": p.silent} {
		select {
		case <-c:
		case <-late:
			p.t.Fatalf("multidd did not %s within %v", what, patience)
		}
	}
	o := outcome{t: p.t, exit: p.cmd.ProcessState.ExitCode(), text: p.text()}
	for _, e := range p.events {
		if o.ended {
			p.t.Error("there are events after run-end")
		}
		if e.Event == "run-end" {
			o.last, o.ended = e, true
		}
	}
	if o.ended && o.last.Exit != o.exit {
		p.t.Errorf("run-end says exit %d, the exit status is %d", o.last.Exit, o.exit)
	}
	return o
}

// want checks the exit status and the verdicts.
func (o outcome) want(exit int, verdicts ...string) {
	o.t.Helper()
	if o.exit != exit {
		o.t.Errorf("exit status %d, want %d", o.exit, exit)
	}
	if len(o.last.Lanes) != len(verdicts) {
		o.t.Fatalf("the last event tells of %d lanes, want %d", len(o.last.Lanes), len(verdicts))
	}
	for i, l := range o.last.Lanes {
		got := l.Phase
		if got == "failed" {
			got = l.Reason
		}
		if !slices.Contains(strings.Split(verdicts[i], "|"), got) {
			o.t.Errorf("lane %d is %q in phase %q, want %s: %s", i, got, l.Step, verdicts[i], l.Message)
		}
	}
}

// wantRefused checks that a guard refused for a reason, in a sentence that holds
// some words.
func (o outcome) wantRefused(reason string, words ...string) {
	o.t.Helper()
	if o.exit != 5 {
		o.t.Errorf("exit status %d, want 5", o.exit)
	}
	for _, w := range append(words, "["+reason+"]", "nothing was written") {
		if !strings.Contains(o.text, w) {
			o.t.Errorf("no word of %q", w)
		}
	}
}
