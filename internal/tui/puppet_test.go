package tui

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"multidd/internal/station"
)

// A puppet is this test binary, started once more on a terminal of its own. It
// shows a station whose snapshots the test sends for by name, over a socket, and
// answers with what happens to it.
type puppet struct {
	t       *testing.T
	path    string
	l       *net.UnixListener
	conn    net.Conn
	answers *bufio.Scanner
}

const puppetSocket = "MULTIDD_TUI_PUPPET"

// patience is how long a test waits for what must come. It bounds a test that
// fails; one that passes goes on at once.
const patience = 30 * time.Second

// newPuppet prepares for a puppet; it is to be started with p.env().
func newPuppet(t *testing.T) *puppet {
	t.Helper()
	dir, err := os.MkdirTemp("", "tui") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	p := &puppet{t: t, path: filepath.Join(dir, "s")}
	p.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: p.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.letGo()
		p.l.Close()
		os.RemoveAll(dir)
	})
	return p
}

func (p *puppet) env() string { return puppetSocket + "=" + p.path }

// meet waits until the puppet has come up.
func (p *puppet) meet() {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	if err := p.l.SetDeadline(deadline); err != nil {
		p.t.Fatal(err)
	}
	conn, err := p.l.Accept()
	if err != nil {
		p.t.Fatalf("the puppet does not come: %v", err)
	}
	if err := conn.SetDeadline(deadline.Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	p.conn, p.answers = conn, bufio.NewScanner(conn)
}

// show sends a scene.
func (p *puppet) show(scene string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.conn, scene); err != nil {
		p.t.Fatal(err)
	}
}

// expect waits for the puppet's next answer.
func (p *puppet) expect(want string) {
	p.t.Helper()
	if !p.answers.Scan() {
		p.t.Fatalf("the puppet is gone (%v), want %q", p.answers.Err(), want)
	}
	if got := p.answers.Text(); got != want {
		p.t.Fatalf("the puppet says %q, want %q", got, want)
	}
}

// letGo lets the puppet end.
func (p *puppet) letGo() {
	if p.conn != nil {
		p.conn.Close()
	}
}

func TestMain(m *testing.M) {
	if path := os.Getenv(puppetSocket); path != "" {
		os.Exit(dance(path))
	}
	os.Exit(m.Run())
}

// dance is the puppet's main: it shows the station and then the table, as a
// command does, says how that went, and stays until it is let go.
func dance(path string) int {
	signal.Ignore(syscall.SIGHUP) // the terminal may go away; the run does not
	conn, err := net.Dial("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := &stringed{conn: conn, released: make(chan struct{})}
	fmt.Println("before the run")
	err = Screen(context.Background(), os.Stdin, os.Stdout, s)
	fmt.Println("after the run")
	switch {
	case errors.Is(err, ErrAbandoned):
		fmt.Fprintln(conn, "abandoned")
	case err != nil:
		fmt.Fprintln(conn, "lost")
	default:
		Table(os.Stdout, s.last, OptionsFor(os.Stdout))
		fmt.Fprintln(conn, "ended")
	}
	<-s.released
	return 0
}

// stringed is the puppet's station: each line from the socket is a scene.
type stringed struct {
	conn     net.Conn
	last     station.Snapshot
	released chan struct{} // closed when the test lets go
}

func (s *stringed) Interrupt() { fmt.Fprintln(s.conn, "interrupt") }

func (s *stringed) Watch(ctx context.Context) <-chan station.Snapshot {
	ch := make(chan station.Snapshot)
	go func() {
		defer close(s.released)
		defer close(ch)
		lines := bufio.NewScanner(s.conn)
		for lines.Scan() {
			snap := scene(lines.Text())
			s.last = snap
			select {
			case ch <- snap:
			case <-ctx.Done():
			}
		}
	}()
	return ch
}

// scene makes a snapshot by its name: "mixed", "rack 64", "interrupted", "done".
func scene(name string) station.Snapshot {
	kind, n, _ := strings.Cut(name, " ")
	snap := mixed()
	var rest station.Phase
	switch kind {
	case "rack":
		cards, _ := strconv.Atoi(n)
		return rack(cards)
	case "interrupted":
		rest, snap.Exit, snap.Done = station.Interrupted, 130, true
	case "done":
		rest, snap.Exit, snap.Done = station.Good, 3, true
	default:
		return snap
	}
	for i, lane := range snap.Lanes {
		if !lane.Phase.Final() {
			snap.Lanes[i] = card(i, rest, 1)
			snap.Lanes[i].Index = i
		}
	}
	return snap
}
