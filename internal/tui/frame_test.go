package tui

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/station"
	"multidd/internal/verify"
)

func TestScreensAreAsDrawn(t *testing.T) {
	one := func(p station.Phase, part float64) station.Snapshot {
		s := at(63, card(0, p, part))
		s.Rate, s.Bottleneck = s.Lanes[0].Rate, station.ByCards
		return s
	}
	badImage := mixed()
	badImage.Image.Err = "the bzip2 stream is damaged at byte 4711 of the file."
	for i := range badImage.Lanes {
		badImage.Lanes[i] = failed(card(i, station.Failed, 0), verify.ImageDecode, station.Writing, -1, "")
	}
	unknown := one(station.Writing, 0)
	unknown.Image.Size, unknown.Image.Used, unknown.Image.Format = -1, -1, "gz"
	unknown.Lanes[0].Total, unknown.Lanes[0].Done, unknown.Lanes[0].ETA = -1, 1_234_567_890, -1
	files := at(3, card(0, station.Writing, 0.4), card(1, station.Verifying, 0.9))
	for i := range files.Lanes {
		l := &files.Lanes[i]
		l.Slot = fmt.Sprintf("/home/lab/cards/rack-one/card-%02d.img", i+1)
		l.Device, l.Model, l.Serial = l.Slot, "", ""
	}
	unread := mixed()
	unread.WriteOnly = true
	for i := range unread.Lanes {
		unread.Lanes[i] = card(i, station.Unverified, 1)
	}
	crowd := mixed()
	crowd.Warnings = []string{"The window had to be made smaller: little memory is free."}
	for i := range crowd.Lanes[4:] {
		crowd.Lanes[4+i] = failed(crowd.Lanes[4+i], verify.Removed, station.Writing, 500_000_000, "")
	}
	ascii, utf8 := asciiLook(), utf8Look()
	for _, c := range []struct {
		name string
		snap station.Snapshot
		view view
	}{
		{"80x24-14cards", mixed(), view{width: 80, height: 24, look: utf8}},
		{"80x24-14cards-ascii", mixed(), view{width: 80, height: 24, look: ascii}},
		{"80x24-14cards-stopping", mixed(), view{width: 80, height: 24, look: utf8, stopping: true}},
		{"80x24-14cards-bad-image", badImage, view{width: 80, height: 24, look: utf8}},
		{"80x24-14cards-not-read-back", unread, view{width: 80, height: 24, look: utf8}},
		{"80x24-14cards-hub-died", crowd, view{width: 80, height: 24, look: utf8}},
		{"80x24-1card", one(station.Writing, 0.43), view{width: 80, height: 24, look: utf8}},
		{"80x24-1card-size-unknown", unknown, view{width: 80, height: 24, look: utf8}},
		{"80x24-files", files, view{width: 80, height: 24, look: utf8}},
		{"80x24-64cards", rack(64), view{width: 80, height: 24, look: utf8}},
		{"80x24-64cards-scrolled", rack(64), view{width: 80, height: 24, top: 60, look: utf8}},
		{"100x30-64cards", rack(64), view{width: 100, height: 30, look: utf8}},
		{"200x40-64cards", rack(64), view{width: 200, height: 40, look: utf8}},
		{"200x30-14cards", mixed(), view{width: 200, height: 30, look: utf8}},
		{"40x20-14cards", mixed(), view{width: 40, height: 20, look: utf8}},
		{"40x8-14cards", mixed(), view{width: 40, height: 8, look: utf8}},
		{"24x6-14cards", mixed(), view{width: 24, height: 6, look: utf8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			golden(t, "screen-"+c.name+".txt", picture(frame(c.snap, c.view), c.view.width, c.view.height))
		})
	}
}

// hostile is a run whose names were made by somebody who means ill, or writes in
// wide letters.
func hostile() station.Snapshot {
	s := mixed()
	s.Image.Name = "\x1b]0;owned\x07\u202egpj.exe\x1b[2Jカード.img"
	s.Warnings = []string{"one\ntwo\tthree\x00"}
	for i := range s.Lanes {
		l := &s.Lanes[i]
		l.Model = "存储卡 読み取り装置\x1b[31m \u2066rtl\u2069 👨‍👩‍👧 e\u0301\u0301"
		l.Slot = "/mnt/カード/" + strings.Repeat("長", i) + ".img"
		l.Amber = append(l.Amber, "警告 \u200fabc\r\ndef")
	}
	return s
}

func TestNoScreenIsTooBig(t *testing.T) {
	color := utf8Look()
	color.color = true
	scenes := map[string]station.Snapshot{
		"none": at(1), "one": at(1, card(0, station.Writing, 0.5)), "mixed": mixed(), "64": rack(64), "400": rack(400), "hostile": hostile(),
	}
	for name, snap := range scenes {
		for _, lk := range []look{utf8Look(), asciiLook(), color} {
			for _, w := range []int{1, 2, 3, 5, 8, 13, 20, 21, 24, 29, 30, 39, 40, 60, 79, 80, 81, 100, 133, 200} {
				for _, h := range []int{1, 2, 4, 7, 9, 12, 24, 50} {
					v := view{width: w, height: h, top: w % 50, look: lk, stopping: w%2 == 0}
					if err := tooBig(frame(snap, v), w, h); err != nil {
						t.Fatalf("%s at %dx%d: %v", name, w, h, err)
					}
				}
			}
		}
	}
	if tooBig([]string{"1234", ""}, 3, 2) == nil || tooBig([]string{"1", "2"}, 3, 1) == nil {
		t.Error("a screen that is too big is not noticed")
	}
}

func tooBig(lines []string, w, h int) error {
	if len(lines) > h {
		return fmt.Errorf("%d lines", len(lines))
	}
	for i, line := range lines {
		if n := ansi.StringWidth(line); n > w || strings.Contains(line, "\n") {
			return fmt.Errorf("line %d is %d cells wide: %q", i, n, line)
		}
	}
	return nil
}

func TestEveryCardIsInSightWhenThereIsRoom(t *testing.T) {
	for _, c := range []struct{ n, w, h int }{
		{14, 80, 24}, {14, 40, 20}, {64, 100, 30}, {64, 200, 40}, {64, 80, 60}, {64, 120, 25}, {1, 20, 5},
	} {
		screen := strings.Join(frame(rack(c.n), view{width: c.w, height: c.h, look: utf8Look()}), "\n")
		for _, lane := range rack(c.n).Lanes {
			if !strings.Contains(screen, lane.Slot) {
				t.Errorf("%d cards at %dx%d: %s is not shown\n%s", c.n, c.w, c.h, lane.Slot, screen)
				break
			}
		}
	}
}

func TestScrollingReachesEveryCard(t *testing.T) {
	snap := rack(400)
	seen := map[string]bool{}
	m := &model{snap: snap, begun: true, view: view{width: 80, height: 24, look: utf8Look()}}
	note := func() {
		screen := strings.Join(frame(m.snap, m.view), "\n")
		for _, lane := range snap.Lanes {
			if strings.Contains(screen, " "+lane.Slot+" ") {
				seen[lane.Slot] = true
			}
		}
	}
	for note(); len(seen) < 400; note() {
		before := m.view.top
		m.key("pgdown")
		if m.view.top == before {
			break
		}
	}
	if len(seen) != 400 {
		t.Errorf("paging down showed %d of 400 cards", len(seen))
	}
	end := m.view.top
	for _, c := range []struct {
		key  string
		want int
	}{{"down", end}, {"up", end - 1}, {"home", 0}, {"up", 0}, {"end", end}} {
		if m.key(c.key); m.view.top != c.want {
			t.Errorf("after %q the first card is %d, want %d", c.key, m.view.top, c.want)
		}
	}
}

var blanksAtEnd = regexp.MustCompile(`(?m) +$`)

func TestColourSaysNothingThatSignsDoNot(t *testing.T) {
	lk := utf8Look()
	lk.color = true
	for _, snap := range []station.Snapshot{mixed(), rack(64), hostile()} {
		v := view{width: 100, height: 30, look: lk}
		trimmed := func() string {
			lines := frame(snap, v)
			for i, line := range lines {
				lines[i] = strings.TrimRight(line, " ")
			}
			return strings.Join(lines, "\n")
		}
		inColour := trimmed()
		v.look.color = false
		bare := trimmed()
		if blanksAtEnd.ReplaceAllString(ansi.Strip(inColour), "") != bare {
			t.Errorf("with colour the text is another one:\n%s\n%s", ansi.Strip(inColour), bare)
		}
		if inColour == bare {
			t.Error("there is no colour where there should be")
		}
	}
	// No two states of a card look alike without colour.
	rows := map[string]string{}
	c := columnsFor(80, mixed().Lanes)
	lane := card(0, station.Ready, 0)
	for name, change := range map[string]func(*station.LaneState){
		"ready":       func(l *station.LaneState) { l.Phase = station.Ready },
		"writing":     func(l *station.LaneState) { l.Phase = station.Writing },
		"stalled":     func(l *station.LaneState) { l.Phase, l.Stalled = station.Writing, 20*time.Second },
		"verifying":   func(l *station.LaneState) { l.Phase = station.Verifying },
		"good":        func(l *station.LaneState) { l.Phase = station.Good },
		"good amber":  func(l *station.LaneState) { l.Phase, l.Amber = station.Good, []string{"slow"} },
		"failed":      func(l *station.LaneState) { l.Phase, l.Reason = station.Failed, verify.WriteEIO },
		"interrupted": func(l *station.LaneState) { l.Phase = station.Interrupted },
		"unverified":  func(l *station.LaneState) { l.Phase = station.Unverified },
	} {
		l := lane
		change(&l)
		row := c.row(utf8Look(), l)
		if other, ok := rows[row]; ok {
			t.Errorf("%s looks like %s: %q", name, other, row)
		}
		rows[row] = name
	}
}

func TestHostileNamesDoNotReachTheTerminal(t *testing.T) {
	bad := regexp.MustCompile(`[\x00-\x09\x0b-\x1f\x7f-\x{9f}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]`)
	var table strings.Builder
	snap := hostile()
	if err := Table(&table, snap, TableOptions{}); err != nil {
		t.Fatal(err)
	}
	l := plainLog{interval: time.Second, look: utf8Look()}
	for name, text := range map[string]string{
		"screen":   strings.Join(frame(snap, view{width: 120, height: 40, look: utf8Look()}), "\n"),
		"table":    table.String(),
		"plain":    l.next(snap),
		"progress": Progress(snap),
	} {
		if at := bad.FindString(text); at != "" {
			t.Errorf("%s has %q", name, at)
		}
		if bad.FindString(text+snap.Image.Name) == "" {
			t.Error("the name is not hostile: nothing was tested")
		}
	}
}

func TestASCIIScreensAreASCII(t *testing.T) {
	var table strings.Builder
	if err := Table(&table, hostile(), TableOptions{ASCII: true}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"screen": strings.Join(frame(hostile(), view{width: 90, height: 30, look: asciiLook()}), "\n"),
		"wide":   strings.Join(frame(rack(64), view{width: 200, height: 30, look: asciiLook()}), "\n"),
		"table":  table.String(),
	} {
		for _, r := range text {
			if r > '~' {
				t.Errorf("%s has %q", name, r)
				break
			}
		}
	}
}

func TestTheLookFollowsTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		env          map[string]string
		ascii, color bool
	}{
		{map[string]string{"TERM": "xterm-256color", "LANG": "en_US.UTF-8"}, false, true},
		{map[string]string{"TERM": "xterm-256color", "LANG": "C.utf8"}, false, true},
		{map[string]string{"TERM": "xterm-256color", "LANG": "de_DE.UTF-8@euro"}, false, true},
		{map[string]string{"TERM": "xterm-256color", "LANG": "de_DE.ISO-8859-1"}, true, true},
		{map[string]string{"TERM": "xterm-256color"}, true, true},
		{map[string]string{"TERM": "xterm", "LC_ALL": "C", "LANG": "en_US.UTF-8"}, true, true},
		{map[string]string{"TERM": "xterm", "LC_CTYPE": "en_US.UTF-8", "LANG": "C"}, false, true},
		{map[string]string{"TERM": "linux", "LANG": "en_US.UTF-8"}, true, true},
		{map[string]string{"TERM": "xterm", "LANG": "en_US.UTF-8", "NO_COLOR": "1"}, false, false},
		{map[string]string{"TERM": "dumb", "LANG": "en_US.UTF-8"}, false, false},
	} {
		l := lookFor(func(name string) string { return c.env[name] })
		if l.signs.ascii != c.ascii || l.color != c.color {
			t.Errorf("%v: ascii %v, colour %v; want %v, %v", c.env, l.signs.ascii, l.color, c.ascii, c.color)
		}
	}
}
