package tui

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/term"

	"multidd/internal/station"
)

// Screen shows a run on the whole of the terminal out, until it is done, and
// leaves the terminal as it was. Keys come from in, or from the controlling
// terminal when in is none: an image may come from there. The first Ctrl-C or q
// interrupts the station; a second Ctrl-C ends the screen at once with
// ErrAbandoned. When ctx ends first, its cause is returned.
//
// On a terminal that cannot move its cursor, or has no size, Plain is used. When
// the terminal fails or goes away the run goes on, and Screen returns at its end.
func Screen(ctx context.Context, in, out *os.File, s Station) error {
	w, h, err := term.GetSize(int(out.Fd()))
	if dumb(os.Getenv("TERM")) || err != nil || w < 1 || h < 1 {
		return Plain(ctx, out, PlainOptions{}, s)
	}
	keys, closeKeys := keyboard(in)
	defer closeKeys()

	watching, stop := context.WithCancel(ctx)
	defer stop()
	m := &model{snaps: s.Watch(watching), done: watching.Done(), interrupt: s.Interrupt,
		view: view{width: w, height: h, look: lookFor(os.Getenv)}}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(keys), tea.WithOutput(out),
		tea.WithoutSignalHandler(), tea.WithFPS(framesPerSecond), tea.WithWindowSize(w, h))
	_, err = p.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case m.abandoned:
		return ErrAbandoned
	case m.snap.Done:
		return nil
	case err == nil:
		return errNoEnd
	}
	return outlive(ctx, m.snaps, fmt.Errorf("draw on the terminal: %w", err))
}

// outlive lets the rest of a run go by that cannot be shown any more, and then
// returns why: a terminal is lost, the cards are not.
func outlive(ctx context.Context, snaps <-chan station.Snapshot, why error) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case _, ok := <-snaps:
			if !ok {
				return why
			}
		}
	}
}

// framesPerSecond bounds how often the screen is drawn again. Snapshots come less
// often; it is keys that should feel prompt.
const framesPerSecond = 30

// keyboard is where keys come from: in, if it is a terminal, else the controlling
// terminal, else nowhere.
func keyboard(in *os.File) (keys io.Reader, closeKeys func()) {
	if in != nil && term.IsTerminal(int(in.Fd())) {
		return in, func() {}
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return nil, func() {}
	}
	return tty, func() { tty.Close() }
}

// A model is the state of the screen. Its methods are called by one goroutine.
type model struct {
	snaps     <-chan station.Snapshot
	done      <-chan struct{} // closed when nobody watches any more
	interrupt func()

	snap      station.Snapshot
	begun     bool // there is a snapshot
	view      view
	abandoned bool
}

// A snapMsg is a new snapshot; an endMsg says that there will be no more.
type (
	snapMsg station.Snapshot
	endMsg  struct{}
)

// Init and Update ask for one snapshot at a time, so that a slow terminal skips
// some instead of falling behind.
func (m *model) Init() tea.Cmd { return m.nextSnapshot }

func (m *model) nextSnapshot() tea.Msg {
	select {
	case snap, ok := <-m.snaps:
		if ok {
			return snapMsg(snap)
		}
	case <-m.done:
	}
	return endMsg{}
}

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case snapMsg:
		m.snap, m.begun = station.Snapshot(msg), true
		if m.snap.Done {
			return m, tea.Quit
		}
		return m, m.nextSnapshot
	case endMsg:
		return m, tea.Quit
	case tea.WindowSizeMsg:
		m.view.width, m.view.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	}
	return m, nil
}

// key does what a key asks for.
func (m *model) key(key string) tea.Cmd {
	l := lay(m.snap, m.view)
	page := l.rows * l.cols
	switch key {
	case "ctrl+c":
		if m.view.stopping {
			m.abandoned = true
			return tea.Quit
		}
		return m.stop()
	case "q":
		if !m.view.stopping {
			return m.stop()
		}
	case "up", "k":
		m.view.top = l.top - 1
	case "down", "j":
		m.view.top = l.top + 1
	case "pgup", "b":
		m.view.top = l.top - page
	case "pgdown", "space", "f":
		m.view.top = l.top + page
	case "home", "g":
		m.view.top = 0
	case "end", "G":
		m.view.top = len(m.snap.Lanes)
	}
	m.view.top = lay(m.snap, m.view).top
	return nil
}

func (m *model) stop() tea.Cmd {
	m.view.stopping = true
	return func() tea.Msg {
		m.interrupt()
		return nil
	}
}

func (m *model) View() tea.View {
	v := tea.View{AltScreen: true, DisableBracketedPasteMode: true}
	if m.begun {
		v.Content = strings.Join(frame(m.snap, m.view), "\n")
	}
	return v
}
