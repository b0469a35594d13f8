package station

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/device"
	"multidd/internal/duplicate"
	"multidd/internal/image"
)

// steady is a source of so many blocks of noise.
type steady struct {
	pool   *block.Pool
	blocks int
	end    error
	next   int
}

func (s *steady) Next(ctx context.Context) (block.Block, error) {
	if s.next == s.blocks {
		return block.Block{}, s.end
	}
	b, err := s.pool.Get(ctx)
	if err != nil {
		return block.Block{}, err
	}
	b[0] = byte(s.next)
	s.next++
	return block.New(int64((s.next-1)*len(b)), b, func() { s.pool.Put(b) }), nil
}

func (s *steady) State() ImageState {
	n := int64(s.blocks * s.pool.BufferSize())
	return ImageState{Name: "x.img", Format: "raw", Size: n, Used: n}
}
func (s *steady) Waits() (time.Duration, time.Duration) { return 0, 0 }
func (s *steady) Warnings() []string                    { return nil }

// medium is a card in memory; fail says what goes wrong.
type medium struct {
	mu   sync.Mutex
	data []byte
	fail func(kind string, off int64) error
}

func (m *medium) op(kind string, off int64) error {
	if m.fail != nil {
		return m.fail(kind, off)
	}
	return nil
}

func (m *medium) WriteAt(p []byte, off int64) (int, error) {
	if err := m.op("write", off); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.data[off:], p), nil
}

func (m *medium) ReadAt(p []byte, off int64) (int, error) {
	if err := m.op("read", off); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.data[off:]), nil
}

func (m *medium) Sync() error { return m.op("sync", 0) }

const blocks = 4

// run runs an image to cards that fail as told.
func run(t *testing.T, ctx context.Context, end error, noProof bool, fails ...func(string, int64) error) (*Station, Snapshot) {
	t.Helper()
	window, depth, pool := Sizes(len(fails), 0)
	var cards []Card
	for i, f := range fails {
		cards = append(cards, Card{Slot: "1-" + string(rune('1'+i)), Device: "/dev/sdx", Target: &medium{data: make([]byte, 8<<20), fail: f}, Size: 8 << 20})
	}
	s := New(ctx, &steady{pool: pool, blocks: blocks, end: end}, cards, Options{Pool: pool, Engine: duplicate.Options{Window: window, Depth: depth, NoProof: noProof, NoProbe: true}})
	return s, s.Do()
}

func bad(kind string, off int64) error {
	if kind == "write" && off >= 2<<20 {
		return errors.New("input/output error")
	}
	return nil
}

func TestTheExitStatusSaysWhatBecameOfTheCards(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(duplicate.ErrInterrupted)
	terminated, cancel := context.WithCancelCause(t.Context())
	cancel(ErrTerminated)
	for _, c := range []struct {
		name    string
		ctx     context.Context
		end     error
		noProof bool
		cards   []func(string, int64) error
		want    int
	}{
		{"all good", t.Context(), io.EOF, false, []func(string, int64) error{nil, nil}, ExitGood},
		{"one bad", t.Context(), io.EOF, false, []func(string, int64) error{nil, bad}, ExitSomeFailed},
		{"all bad", t.Context(), io.EOF, false, []func(string, int64) error{bad, bad}, ExitNoneGood},
		{"not read back", t.Context(), io.EOF, true, []func(string, int64) error{nil, nil}, ExitUnverified},
		{"not read back, one bad", t.Context(), io.EOF, true, []func(string, int64) error{nil, bad}, ExitSomeFailed},
		{"bad image", t.Context(), errors.New("damaged"), false, []func(string, int64) error{nil, nil}, ExitImage},
		{"interrupted", interrupted, io.EOF, false, []func(string, int64) error{nil}, ExitInterrupted},
		{"terminated", terminated, io.EOF, false, []func(string, int64) error{nil}, ExitTerminated},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, last := run(t, c.ctx, c.end, c.noProof, c.cards...)
			if !last.Done || last.Exit != c.want {
				t.Errorf("exit status %d, want %d: %+v", last.Exit, c.want, last)
			}
		})
	}
}

func TestAWatcherSeesTheLastSnapshotHoweverLate(t *testing.T) {
	s, last := run(t, t.Context(), io.EOF, false, nil)
	n := 0
	for snap := range s.Watch(t.Context()) {
		n++
		if !snap.Done || snap.Exit != last.Exit {
			t.Errorf("%+v", snap)
		}
	}
	if n != 1 {
		t.Errorf("%d snapshots", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range s.Watch(ctx) {
		t.Log("a snapshot may still come")
	}
}

func TestAFailedCardIsToldWithWhatToDo(t *testing.T) {
	_, last := run(t, t.Context(), io.EOF, false, nil, bad)
	l := last.Lanes[1]
	if l.Phase != Failed || l.Offset != 2<<20 || !strings.Contains(l.Message, "byte 2097152") || !strings.Contains(l.Message, l.Reason.Hint()) {
		t.Errorf("%+v", l)
	}
	if g := last.Lanes[0]; g.WriteRate <= 0 || g.ReadRate <= 0 || g.Took <= 0 {
		t.Errorf("a good card without its speed: %+v", g)
	}
}

func TestASlowCardIsFlagged(t *testing.T) {
	lanes := make([]LaneState, 5)
	for i := range lanes {
		lanes[i] = LaneState{Phase: Good, WriteRate: 20e6}
	}
	lanes[3].WriteRate = 5e6
	flagSlow(lanes)
	for i, l := range lanes {
		if flagged := len(l.Amber) > 0; flagged != (i == 3) {
			t.Errorf("lane %d: %v", i, l.Amber)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	for _, c := range []struct {
		cards   int
		decoder int64
		window  int
		depth   int
	}{{1, 0, 24, 4}, {1, 68 << 20, 16, 4}, {14, 0, 24, 4}, {14, 25 << 20, 21, 3}, {14, 40 << 20, 20, 2}, {64, 0, 24, 2}, {64, 25 << 20, 24, 2}} {
		window, depth, pool := Sizes(c.cards, c.decoder)
		limit := int64(Resident) + int64(max(0, c.cards-manyCards))*perCard*BlockSize
		if total := int64(pool.Len())*BlockSize + c.decoder; total > limit {
			t.Errorf("%d cards, decoder of %d: buffers for %d bytes, limit %d", c.cards, c.decoder, total, limit)
		}
		if window != c.window || depth != c.depth || pool.Len() < window+depth*c.cards+image.Held {
			t.Errorf("%d cards, decoder of %d: window %d, %d under way each, pool %d; want %d, %d", c.cards, c.decoder, window, depth, pool.Len(), c.window, c.depth)
		}
	}
}

func TestSpeedsAreRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "speeds.json")
	card := device.Disk{Vendor: "Generic", Model: "SD/MMC", Serial: "42", Size: 8e9, Bus: device.BusUSB}
	s := LoadSpeeds(path)
	if w, _, _ := s.Of(card); w != 0 {
		t.Errorf("knows %f of a card it never saw", w)
	}
	s.learn(card, 19e6, 40e6)
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	w, r, from := LoadSpeeds(path).Of(card)
	if w != 19e6 || r != 40e6 || !strings.HasPrefix(from, "measured on") {
		t.Errorf("%f, %f, %q", w, r, from)
	}
	other := card
	other.Serial = "43"
	if w, _, _ := LoadSpeeds(path).Of(other); w != 0 {
		t.Error("takes one card for another")
	}
	if w, _, from := s.Of(device.Disk{SpeedClass: 10}); w != 10e6 || from == "" {
		t.Errorf("speed class: %f from %q", w, from)
	}
	if err := os.WriteFile(path, []byte("{damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w, _, _ := LoadSpeeds(path).Of(card); w != 0 {
		t.Error("a damaged file is not empty")
	}
}

func TestCleanTakesOutWhatMovesTheCursor(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "a\x1b[31mb": "ab", "a\u202eb": "ab", "a\nb": "a b", "naïve": "naïve", "\x00\x07": "",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}
