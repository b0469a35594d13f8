package tui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"multidd/internal/sample"
	"multidd/internal/station"
)

// A tty is a terminal with a puppet on it: the bytes it was sent are kept.
type tty struct {
	*puppet
	f      *os.File // the terminal's own side
	before *term.State
	exited chan error

	mu  sync.Mutex
	got bytes.Buffer // guarded by mu
}

// onTTY starts a puppet on a new terminal of 80x24. stdin is the terminal too
// unless another is given.
func onTTY(t *testing.T, stdin *os.File, env ...string) *tty {
	t.Helper()
	p := newPuppet(t)
	ptmx, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer slave.Close()
	if err := pty.Setsize(ptmx, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	// A file of its own that does not block: closing it takes the terminal away
	// at once, even from a goroutine that is reading.
	fd, err := syscall.Dup(int(ptmx.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "terminal")
	y := &tty{puppet: p, f: f, exited: make(chan error, 1)}
	y.before = y.mode()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append([]string{p.env(), "TERM=xterm-256color", "LANG=C.UTF-8", promptExit}, env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if stdin != nil {
		cmd.Stdin = stdin
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 1<<16)
		for {
			n, err := f.Read(buf)
			y.mu.Lock()
			y.got.Write(buf[:n])
			y.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() { y.exited <- cmd.Wait() }()
	t.Cleanup(func() {
		p.letGo()
		select {
		case <-y.exited:
		case <-time.After(patience):
			cmd.Process.Kill()
			t.Error("the puppet does not end")
		}
		f.Close()
		<-read
	})
	p.meet()
	return y
}

func (y *tty) output() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.got.String()
}

// await waits until the terminal has been sent something.
func (y *tty) await(what string) {
	y.t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(y.output(), what); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			y.t.Fatalf("%q does not come; the terminal has been sent\n%q", what, y.output())
		}
	}
}

// press types keys.
func (y *tty) press(keys string) {
	y.t.Helper()
	if _, err := io.WriteString(y.f, keys); err != nil {
		y.t.Fatal(err)
	}
}

// mode is what the terminal does with what is typed.
func (y *tty) mode() (state *term.State) {
	y.t.Helper()
	conn, err := y.f.SyscallConn()
	if err != nil {
		y.t.Fatal(err)
	}
	if ctl := conn.Control(func(fd uintptr) { state, err = term.GetState(int(fd)) }); ctl != nil || err != nil {
		y.t.Fatal(ctl, err)
	}
	return state
}

// unrestored names what a screen has left behind on the terminal.
func (y *tty) unrestored() []string {
	y.t.Helper()
	var left []string
	if !reflect.DeepEqual(y.before, y.mode()) {
		left = append(left, "the mode of the terminal")
	}
	out := y.output()
	for name, seq := range map[string][2]string{
		"the other screen":    {"\x1b[?1049h", "\x1b[?1049l"},
		"the hidden cursor":   {"\x1b[?25l", "\x1b[?25h"},
		"the keyboard's mode": {"\x1b[=1;1u", "\x1b[=0;1u"},
	} {
		on, off := strings.LastIndex(out, seq[0]), strings.LastIndex(out, seq[1])
		if on < 0 {
			y.t.Errorf("%s was never there: nothing is tested", name)
		}
		if off < on {
			left = append(left, name)
		}
	}
	return left
}

// promptExit keeps the race detector from holding a puppet up for a second when
// it ends.
const promptExit = "GORACE=atexit_sleep_ms=0"

const ctrlC = "\x03"

func TestTheTerminalIsLeftAsItWas(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*tty)
	}{
		{"when the run is done", func(y *tty) {
			y.show("done")
			y.expect("ended")
		}},
		{"after Ctrl-C", func(y *tty) {
			y.press(ctrlC)
			y.expect("interrupt")
			y.await("Ctrl-C again")
			y.show("interrupted")
			y.expect("ended")
		}},
		{"after a second Ctrl-C of a run that does not end", func(y *tty) {
			y.press("q")
			y.expect("interrupt")
			y.press("q") // does nothing: a run is not left by a slip
			y.press(ctrlC)
			y.expect("abandoned")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := onTTY(t, nil)
			y.show("mixed")
			y.await("61%")
			if left := y.unrestored(); len(left) < 3 {
				t.Errorf("while the screen is there only %q differ", left)
			}
			c.end(y)
			y.await("after the run")
			if left := y.unrestored(); len(left) > 0 {
				t.Errorf("left behind: %q\n%q", left, y.output())
			}
		})
	}
}

func TestTheImageOnStandardInputIsNotReadAsKeys(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	image := strings.Repeat("q"+ctrlC, 100)
	if _, err := io.WriteString(w, image); err != nil {
		t.Fatal(err)
	}
	y := onTTY(t, r)
	y.show("mixed")
	y.await("61%")
	y.press("q") // from the terminal it is a key
	y.expect("interrupt")
	y.show("done")
	y.expect("ended")
	got := make([]byte, len(image))
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(r, got); err != nil || string(got) != image {
		t.Errorf("of the image %d bytes are left: %v", n, err)
	}
}

func TestTheRunOutlivesItsTerminal(t *testing.T) {
	y := onTTY(t, nil)
	y.show("mixed")
	y.await("61%")
	y.f.Close()
	for range 10 {
		y.show("mixed")
	}
	y.show("done")
	y.expect("ended")
}

func TestARunThatCannotBeDrawnIsNotCutShort(t *testing.T) {
	broken := errors.New("input/output error")
	snaps := (&tape{snaps: story()}).Watch(t.Context())
	if err := outlive(t.Context(), snaps, broken); err != broken {
		t.Errorf("got %v", err)
	}
	if _, open := <-snaps; open {
		t.Error("snapshots are left: the run had not ended")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := outlive(ctx, make(chan station.Snapshot), nil); err != broken {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestColourIsLeftOutWhereItIsNotWanted(t *testing.T) {
	colour := regexp.MustCompile(`\x1b\[[0-9;]*\b(3[0-7]|4[0-7]|9[0-7]|10[0-7])(;[0-9;]*)?m`)
	for _, c := range []struct {
		env  []string
		want bool
	}{
		{nil, true},
		{[]string{"TERM=linux"}, true},
		{[]string{"NO_COLOR=1"}, false},
	} {
		y := onTTY(t, nil, c.env...)
		y.show("mixed")
		y.await("61%")
		y.show("done")
		y.expect("ended")
		y.await("13 of 14 cards are good")
		if got := colour.MatchString(y.output()); got != c.want {
			t.Errorf("%q: colour %v, want %v\n%q", c.env, got, c.want, y.output())
		}
	}
}

func TestADumbTerminalGetsPlainLines(t *testing.T) {
	y := onTTY(t, nil, "TERM=dumb")
	y.show("mixed")
	y.await("to 14 cards")
	y.show("done")
	y.expect("ended")
	y.await("13 of 14 cards are good")
	if strings.ContainsAny(y.output(), "\x1b") {
		t.Errorf("there are escape sequences: %q", y.output())
	}
}

// A tmux is a terminal whose screen can be looked at.
type tmux struct {
	t   *testing.T
	dir string
}

// inTmux starts a puppet on a terminal of tmux.
func inTmux(t *testing.T, w, h int) (*tmux, *puppet) {
	t.Helper()
	sample.Need(t, "tmux")
	p := newPuppet(t)
	x := &tmux{t, filepath.Dir(p.path)}
	conf := filepath.Join(x.dir, "conf")
	const options = "set -g remain-on-exit on\nset -g default-terminal screen-256color\nset -g status off\n"
	if err := os.WriteFile(conf, []byte(options), 0o600); err != nil {
		t.Fatal(err)
	}
	x.run("-f", conf, "new-session", "-d", "-x", fmt.Sprint(w), "-y", fmt.Sprint(h), "-e", p.env(), "-e", "LANG=C.UTF-8", "-e", "LC_ALL=", "-e", promptExit, os.Args[0])
	t.Cleanup(func() { x.run("kill-server") })
	p.meet()
	return x, p
}

func (x *tmux) run(args ...string) string {
	x.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-u", "-S", filepath.Join(x.dir, "tmux")}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// await waits until the screen is as it should be; more are options for what is
// looked at.
func (x *tmux) await(what string, ok func(screen string) bool, more ...string) {
	x.t.Helper()
	screen := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if screen = x.run(append([]string{"capture-pane", "-p"}, more...)...); ok(screen) {
			return
		}
	}
	x.t.Fatalf("the screen is not %s:\n%s", what, screen)
}

// awaitFrame waits until the screen is exactly what a view of a scene draws.
func (x *tmux) awaitFrame(name string, v view) {
	x.t.Helper()
	v.look = utf8Look()
	lines := frame(scene(name), v)
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	want := strings.Join(lines, "\n")
	x.await(fmt.Sprintf("%s at %dx%d, which is\n%s\nbut", name, v.width, v.height, want), func(screen string) bool {
		got := strings.Split(strings.TrimRight(screen, "\n"), "\n")
		for i := range got {
			got[i] = strings.TrimRight(got[i], " ")
		}
		return strings.Join(got, "\n") == want
	})
}

func TestTheScreenIsWhatIsDrawn(t *testing.T) {
	x, p := inTmux(t, 80, 24)
	p.show("mixed")
	x.awaitFrame("mixed", view{width: 80, height: 24})
	for _, size := range [][2]int{{100, 30}, {40, 20}, {20, 6}, {200, 50}, {80, 24}} {
		x.run("resize-window", "-x", fmt.Sprint(size[0]), "-y", fmt.Sprint(size[1]))
		x.awaitFrame("mixed", view{width: size[0], height: size[1]})
	}
	p.show("rack 64")
	x.awaitFrame("rack 64", view{width: 80, height: 24})
	x.run("send-keys", "NPage")
	x.awaitFrame("rack 64", view{width: 80, height: 24, top: 34})
	x.run("send-keys", "Up")
	x.awaitFrame("rack 64", view{width: 80, height: 24, top: 29})
	x.run("resize-window", "-x", "100", "-y", "30")
	x.awaitFrame("rack 64", view{width: 100, height: 30})
	x.run("resize-window", "-x", "80", "-y", "24")
	p.show("mixed")
	x.run("send-keys", "C-c")
	p.expect("interrupt")
	x.awaitFrame("mixed", view{width: 80, height: 24, stopping: true})
	p.show("interrupted")
	p.expect("ended")
	p.letGo()
	x.await("the one from before, with the table below", func(screen string) bool {
		return strings.HasPrefix(screen, "before the run\n") &&
			strings.Contains(screen, "4 of 14 cards are good; the card in 1-2.2.4") &&
			!strings.Contains(screen, "61%")
	}, "-S", "-")
}
