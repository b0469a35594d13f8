package tui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/capture"
	"multidd/internal/station"
)

// captured returns a capture as it goes, with a bad place and a card that hangs for a
// while.
func captureStory() (story []Capturing) {
	begin := time.Date(2026, 11, 22, 14, 0, 0, 0, time.UTC)
	c := Capturing{
		Card:  CaptureCard{"1-2.3", "/dev/sdb", "SD SC\x1b[31m16G", "0x1234", 15_931_539_456},
		Image: CaptureImage{Name: "moz-ref-v2.img.bz2", Format: "bz2", Used: 2_100_000_000, Verified: "image"},
		State: capture.State{Total: 2_100_000_000, ETA: -1},
	}
	add := func(at float64, change func()) {
		change()
		c.Elapsed = time.Duration(at * float64(time.Second))
		c.Time = begin.Add(c.Elapsed)
		story = append(story, c)
	}
	add(0, func() {})
	add(1, func() {
		c.Warnings = []string{"partition 2 of /dev/sdb (f2fs): it uses a feature that is not understood"}
	})
	add(10, func() {
		c.Done, c.Rate, c.ETA, c.Bottleneck, c.Image.Packed = 200_000_000, 20e6, 95*time.Second, capture.ByCard, 80_000_000
	})
	add(27, func() { c.Stalled = 17 * time.Second; c.Rate, c.ETA, c.Bottleneck = 0, -1, capture.ByNothing })
	add(40, func() {
		c.Stalled, c.Done, c.Rate = 0, 500_000_000, 18e6
		c.Bottleneck = capture.ByImage
		c.Image.Packed = 200_000_000
	})
	add(120, func() {
		c.Phase, c.Done, c.Rate, c.Lost, c.Bottleneck = capture.Rescuing, 2_099_000_000, 12_000, 1_000_000, capture.ByNothing
	})
	add(130, func() {
		c.Phase, c.Done, c.Total, c.Rate, c.Lost = capture.Packing, 100_000_000, 1_600_000_000, 60e6, 512
		c.ETA = 25 * time.Second
	})
	add(150, func() {
		c.Phase, c.Done, c.Total, c.Rate, c.ETA = capture.Proving, 15_000_000_000, 15_931_539_456, 900e6, time.Second
	})
	add(151, func() {
		c.Ended, c.Took, c.Status = true, 151*time.Second, station.ExitSomeFailed
		c.Bad = []CaptureRange{{1_234_567_168, 512}}
		c.Image.SHA256, c.Image.Files = strings.Repeat("ab", 32), []string{"moz-ref-v2.img.bz2", "moz-ref-v2.img.bz2.bmap", "moz-ref-v2.img.bz2.sha256"}
	})
	return story
}

func TestACaptureIsShownAsDrawn(t *testing.T) {
	var plain, line, narrow, events, usr1 bytes.Buffer
	p, j := CapturePlain{W: &plain}, CaptureJSON{W: &events}
	screens := map[*bytes.Buffer]*CaptureLine{
		&line:   {W: &line, Width: func() int { return 100 }},
		&narrow: {W: &narrow, O: TableOptions{ASCII: true}, Width: func() int { return 40 }},
	}
	ends := map[*bytes.Buffer]int{&plain: 0, &line: 80}
	for _, c := range captureStory() {
		fmt.Fprintln(&usr1, CaptureProgress(c))
		for _, err := range []error{p.Show(c), j.Show(c), screens[&line].Show(c), screens[&narrow].Show(c)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if c.Ended {
			for w := range ends {
				if err := CaptureEnd(w, c, TableOptions{Width: ends[w]}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	golden(t, "capture-plain.txt", plain.String())
	golden(t, "capture-events.jsonl", events.String())
	golden(t, "capture-usr1.txt", usr1.String())
	for buf, width := range map[*bytes.Buffer]int{&line: 100, &narrow: 40} {
		for text := range strings.SplitSeq(buf.String(), "\r\x1b[K") {
			// What ends in a new line may be longer: the terminal wraps it.
			if last := text[strings.LastIndex(text, "\n")+1:]; ansi.StringWidth(last) >= width {
				t.Errorf("a line of %d cells in %d: %q", ansi.StringWidth(last), width, last)
			}
		}
		if strings.Contains(buf.String(), "\x1b[31m") {
			t.Error("what a card calls itself reaches the terminal")
		}
	}
	golden(t, "capture-line.txt", strings.ReplaceAll(line.String(), "\r\x1b[K", "\n"))
	golden(t, "capture-narrow.txt", strings.ReplaceAll(narrow.String(), "\r\x1b[K", "\n"))
}

func TestTheEndOfACaptureSaysWhatItIsWorth(t *testing.T) {
	story := captureStory()
	c := story[len(story)-1]
	for _, x := range []struct {
		status   int
		verified string
		bad      int
		want     string
	}{
		{station.ExitGood, "image", 0, "✔ Captured /dev/sdb, 2.10 GB of its 15.9 GB, into moz-ref-v2.img.bz2 (bz2, 200 MB) in 2:31; the image was read back and is what was read.\n"},
		{station.ExitGood, "card", 0, "the card read twice"},
		{station.ExitUnverified, "none", 0, "! Captured"},
		{station.ExitUnverified, "none", 0, "nothing proves"},
		{station.ExitSomeFailed, "image", 1, "512 B could not be read, and are zeros in it"},
		{station.ExitNoneGood, "image", 30, "✘ /dev/sdb was not captured.\n  unreadable: 512 bytes at byte 0\n"},
		{station.ExitNoneGood, "image", 30, "and 10 more\n"},
	} {
		c.Status, c.Image.Verified, c.Bad = x.status, x.verified, nil
		for i := range x.bad {
			c.Bad = append(c.Bad, CaptureRange{int64(i) * 4096, 512})
		}
		var b bytes.Buffer
		if err := CaptureEnd(&b, c, TableOptions{}); err != nil || !strings.Contains(b.String(), x.want) {
			t.Errorf("status %d: %q does not tell %q (%v)", x.status, b.String(), x.want, err)
		}
	}
}

func TestTheEndOfACaptureFitsTheTerminal(t *testing.T) {
	story := captureStory()
	c := story[len(story)-1]
	for _, width := range []int{66, 80, 100} {
		var b bytes.Buffer
		if err := CaptureEnd(&b, c, TableOptions{Width: width}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if w := ansi.StringWidth(strings.TrimSuffix(line, "\n")); w > width || strings.Contains(line, "abab") && !strings.Contains(line, c.Image.SHA256) {
				t.Errorf("%d cells in %d: %q", w, width, line)
			}
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestACaptureThatCannotBeShownSaysSo(t *testing.T) {
	c := captureStory()[0]
	for _, s := range []interface{ Show(Capturing) error }{
		&CapturePlain{W: fullDisk{}}, &CaptureJSON{W: fullDisk{}}, &CaptureLine{W: fullDisk{}, Width: func() int { return 80 }},
	} {
		if s.Show(c) == nil {
			t.Errorf("%T: no error", s)
		}
	}
}

func TestEventsOfACaptureAreWhole(t *testing.T) {
	var b bytes.Buffer
	j := CaptureJSON{W: &b}
	for _, c := range captureStory() {
		if err := j.Show(c); err != nil {
			t.Fatal(err)
		}
	}
	var kinds []string
	for line := range strings.Lines(b.String()) {
		var e struct {
			Schema int
			Event  string
			Exit   *int
			Files  []string
			Ranges []CaptureRange `json:"bad_ranges"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Schema != Schema {
			t.Fatalf("%q: %v", line, err)
		}
		kinds = append(kinds, e.Event)
		if e.Event == "run-end" && (*e.Exit != station.ExitSomeFailed || len(e.Files) != 3 || len(e.Ranges) != 1) {
			t.Errorf("the last event: %s", line)
		}
	}
	if kinds[0] != "run-start" || kinds[len(kinds)-1] != "run-end" {
		t.Errorf("events %q", kinds)
	}
}
