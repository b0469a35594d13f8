package tui

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/capture"
	"multidd/internal/station"
)

// A Capturing is a card becoming an image, as it stands.
type Capturing struct {
	Time    time.Time
	Elapsed time.Duration

	Card  CaptureCard
	Image CaptureImage
	capture.State

	Warnings []string // sentences about the capture as a whole
	// Status is the exit status, once Ended is set.
	Ended  bool
	Status int
	// Reason and Message say why it failed; "" if it did not.
	Reason, Message string
	Bad             []CaptureRange // what could not be read; zeros in the image, if there is one
	Took            time.Duration
}

// A CaptureCard is the card.
type CaptureCard struct {
	Slot, Device, Model, Serial string
	Size                        int64 // bytes
}

// A CaptureImage is the image.
type CaptureImage struct {
	Name, Format string
	Used         int64 // bytes of the card that are in it; -1: not known
	Packed       int64 // bytes it has so far
	SHA256       string
	Verified     string   // how it was proved: "image", "card" or "none"
	Files        []string // all that was made
}

// A CaptureRange is a range of bytes of a card.
type CaptureRange struct {
	Off int64 `json:"offset"`
	Len int64 `json:"length"`
}

// clean makes every string in it fit to be shown.
func (c Capturing) clean(l look) Capturing {
	for _, s := range []*string{&c.Card.Slot, &c.Card.Device, &c.Card.Model, &c.Card.Serial, &c.Image.Name, &c.Message} {
		*s = l.text(*s)
	}
	c.Warnings, c.Image.Files = l.texts(c.Warnings), l.texts(c.Image.Files)
	return c
}

// A CapturePlain shows a capture as plain lines: one for each thing that happens, and
// one every Interval.
type CapturePlain struct {
	W        io.Writer
	Interval time.Duration // 0: 10 s

	begun    bool
	last     time.Time
	phase    capture.Phase
	warnings int
	stalled  bool
}

// Show shows what is new.
func (p *CapturePlain) Show(c Capturing) error {
	c = c.clean(look{signs: unicodeSigns()})
	interval := p.Interval
	if interval <= 0 {
		interval = 10 * time.Second
	}
	var b strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&b, "%7s  %s\n", clock(c.Elapsed), fmt.Sprintf(format, args...))
	}
	if !p.begun {
		p.begun, p.last = true, c.Time
		say("%s", captureHead(c))
	}
	for _, w := range c.Warnings[min(p.warnings, len(c.Warnings)):] {
		say("warning: %s", w)
	}
	p.warnings = len(c.Warnings)
	if c.Phase != p.phase {
		p.phase = c.Phase
		say("%s", capturePhase(c.Phase))
	}
	if stalled := c.Stalled > 0; stalled != p.stalled && !c.Ended {
		p.stalled = stalled
		if stalled {
			say("stalled, the card has not answered for %s", clock(c.Stalled))
		} else {
			say("the card answers again")
		}
	}
	if c.Time.Sub(p.last) >= interval && !c.Ended {
		p.last = c.Time
		say("%s", strings.Join(captureWords(c), ", "))
	}
	_, err := io.WriteString(p.W, b.String())
	return err
}

// captureHead is "/dev/sdb (SD SC16G, 15.9 GB, 2.10 GB used) to x.img.bz2 (bz2)".
func captureHead(c Capturing) string {
	about := []string{}
	if c.Card.Model != "" {
		about = append(about, c.Card.Model)
	}
	about = append(about, size(c.Card.Size))
	if c.Image.Used >= 0 && c.Image.Used < c.Card.Size {
		about = append(about, size(c.Image.Used)+" used")
	}
	return fmt.Sprintf("%s (%s) to %s (%s)", c.Card.Device, strings.Join(about, ", "), c.Image.Name, c.Image.Format)
}

func capturePhase(p capture.Phase) string {
	switch p {
	case capture.Reading:
		return "reading the card"
	case capture.Rescuing:
		return "reading again what could not be read"
	case capture.Reworking:
		return "shrinking the image"
	case capture.Packing:
		return "packing what was read"
	case capture.Finishing:
		return "completing the image"
	case capture.Proving:
		return "reading the image back"
	case capture.Rereading:
		return "reading the card once more"
	}
	return p.String()
}

// captureWords says how a capture stands, what matters most first.
func captureWords(c Capturing) []string {
	words := []string{c.Phase.String()}
	if c.Total > 0 {
		words = append(words, percent(float64(c.Done)/float64(c.Total)))
	}
	if c.Rate > 0 {
		words = append(words, speed(c.Rate))
	}
	if c.ETA >= 0 {
		words = append(words, clock(c.ETA)+" left")
	}
	if c.Lost > 0 {
		so := ""
		if c.Phase <= capture.Rescuing {
			so = " so far"
		}
		words = append(words, size(c.Lost)+" unreadable"+so)
	}
	if c.Stalled > 0 {
		words = append(words, "stalled for "+clock(c.Stalled))
	} else if s := captureLimit(c); s != "" {
		words = append(words, s)
	}
	if c.Image.Packed > 0 && c.Image.Format != "raw" {
		words = append(words, "packed "+size(c.Image.Packed)+ratio(c))
	}
	return words
}

// ratio is " (2.4:1)": what was read to what it was packed to.
func ratio(c Capturing) string {
	if c.Phase != capture.Reading || c.Image.Packed <= 0 || c.Done < c.Image.Packed {
		return ""
	}
	return fmt.Sprintf(" (%.1f:1)", float64(c.Done)/float64(c.Image.Packed))
}

func captureLimit(c Capturing) string {
	switch {
	case c.Bottleneck == capture.ByCard:
		return "the card is the limit"
	case c.Bottleneck == capture.ByImage && c.Image.Format == "raw":
		return "the disk is the limit"
	case c.Bottleneck == capture.ByImage:
		return "packing is the limit"
	}
	return ""
}

// CaptureProgress is a capture in one line, in the manner of dd.
func CaptureProgress(c Capturing) string {
	c = c.clean(look{signs: unicodeSigns()})
	s := fmt.Sprintf("%d bytes (%s, %s) of %s, %.1f s", c.Done,
		ddSize(c.Done, 1000, "B", "kB", "MB", "GB", "TB"), ddSize(c.Done, 1024, "B", "KiB", "MiB", "GiB", "TiB"), c.Card.Device, c.Elapsed.Seconds())
	return s + ", " + strings.Join(captureWords(c), ", ")
}

// A CaptureLine shows a capture as one line of a terminal that is written over.
type CaptureLine struct {
	W       io.Writer
	Width   func() int // of the terminal now, in cells
	O       TableOptions
	written bool
	said    int // warnings
	begun   bool
}

// Show draws the line anew. After the last it goes away.
func (l *CaptureLine) Show(c Capturing) error {
	look := l.O.look()
	c = c.clean(look)
	var b strings.Builder
	if l.written {
		b.WriteString("\r\x1b[K")
	}
	if !l.begun {
		l.begun = true
		fmt.Fprintf(&b, "%s\n", captureHead(c))
	}
	for _, w := range c.Warnings[min(l.said, len(c.Warnings)):] {
		paragraph(&b, look, yellow, look.signs.warn, min(l.Width(), maxWidth), w)
	}
	l.said = len(c.Warnings)
	if l.written = !c.Ended; l.written {
		b.WriteString(captureLine(look, c, l.Width()-1))
	}
	_, err := io.WriteString(l.W, b.String())
	return err
}

// captureLine is the line in at most w cells: a bar, and words as far as there is room.
func captureLine(l look, c Capturing, w int) string {
	const barWidth = 20
	words := captureWords(c)
	line := fmt.Sprintf("%-6s ", words[0])
	words = words[1:]
	if w > 60 && c.Total > 0 {
		done := int(float64(barWidth) * min(1, float64(c.Done)/float64(c.Total)))
		line += strings.Repeat(l.signs.proved, done) + strings.Repeat(l.signs.empty, barWidth-done) + " "
	}
	for i, s := range words {
		sep := "  "
		if i == 0 {
			sep = ""
		}
		if ansi.StringWidth(line)+len(sep)+ansi.StringWidth(s) > w {
			break
		}
		line += sep + s
	}
	return l.fit(line, min(w, ansi.StringWidth(line)))
}

// CaptureEnd says how a capture ended: one sentence, what could not be read, and which
// files were made. It is wrapped to the width of a terminal, and not at all where there
// is none (Width 0): a log has a line for each thing.
func CaptureEnd(w io.Writer, c Capturing, o TableOptions) error {
	l := o.look()
	width := math.MaxInt
	if o.Width > 0 {
		width = o.width()
	}
	c = c.clean(l)
	var b strings.Builder
	switch {
	case c.Status == station.ExitGood:
		captured(&b, l, green, l.signs.good, width, c)
	case c.Status == station.ExitUnverified || c.Status == station.ExitSomeFailed:
		captured(&b, l, yellow, l.signs.warn, width, c)
	default:
		fmt.Fprintf(&b, "%s %s was not captured.\n", l.paint(red, l.signs.bad), c.Card.Device)
	}
	for i, r := range c.Bad {
		if i == maxShownRanges {
			fmt.Fprintf(&b, "  and %d more\n", len(c.Bad)-i)
			break
		}
		fmt.Fprintf(&b, "  unreadable: %d bytes at byte %d\n", r.Len, r.Off)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxShownRanges is how many bad ranges people are shown.
const maxShownRanges = 20

// captured is the sentence at the end, and what was made.
func captured(b *strings.Builder, l look, i ink, sign string, width int, c Capturing) {
	paragraph(b, l, i, sign, width, capturedSentence(c))
	if c.Image.SHA256 != "" {
		indented(b, width, "SHA-256 of the image, unpacked: "+c.Image.SHA256)
	}
	if len(c.Image.Files) > 0 {
		indented(b, width, "made "+strings.Join(c.Image.Files, ", "))
	}
}

func capturedSentence(c Capturing) string {
	used := "all of its " + size(c.Card.Size)
	if c.Image.Used < c.Card.Size {
		used = fmt.Sprintf("%s of its %s", size(c.Image.Used), size(c.Card.Size))
	}
	s := fmt.Sprintf("Captured %s, %s, into %s (%s", c.Card.Device, used, c.Image.Name, c.Image.Format)
	if c.Image.Packed > 0 {
		s += ", " + size(c.Image.Packed)
	}
	s += ") in " + clock(c.Took)
	switch c.Image.Verified {
	case "image":
		s += "; the image was read back and is what was read"
	case "card":
		s += "; the image was read back, and the card read twice"
	default:
		s += "; nothing proves the image, since it was not read back"
	}
	s += "."
	if len(c.Bad) > 0 {
		var n int64
		for _, r := range c.Bad {
			n += r.Len
		}
		s += fmt.Sprintf(" %s could not be read, and are zeros in it.", size(n))
	}
	return s
}
