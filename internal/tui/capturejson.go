package tui

import (
	"io"
	"time"

	"multidd/internal/capture"
)

// A CaptureJSON shows a capture as events, one a line (NDJSON), with the head and the
// units of those of JSON. The kinds, and what they have besides:
//
//	run-start  command: "capture"; card: slot, device, model, serial, size;
//	           image: name, format, size, used, packed, sha256
//	warning    message
//	progress   every second or so, and at each change of phase: phase ("read",
//	           "rescue", "rework", "pack", "finish", "verify", "reread"), done and total
//	           (null: not known), bytes_per_second, eta_seconds, bottleneck ("", "card",
//	           "image"), packed, unreadable, stalled_seconds
//	run-end    command, exit, reason, error, card, image, verified ("image", "card",
//	           "none"), files, bad_ranges: [offset, length], took_seconds, warnings
type CaptureJSON struct {
	W        io.Writer
	Interval time.Duration // between two progress events; 0: 1 s

	begun    bool
	last     time.Time
	phase    capture.Phase
	warnings int
}

type (
	captureCardJSON struct {
		Slot   string `json:"slot"`
		Device string `json:"device"`
		Model  string `json:"model"`
		Serial string `json:"serial"`
		Size   int64  `json:"size"`
	}
	captureImageJSON struct {
		Name   string `json:"name"`
		Format string `json:"format"`
		Size   int64  `json:"size"`
		Used   *int64 `json:"used"`
		Packed int64  `json:"packed"`
		SHA256 string `json:"sha256"`
	}
	captureStartEvent struct {
		headJSON
		Command string           `json:"command"`
		Card    captureCardJSON  `json:"card"`
		Image   captureImageJSON `json:"image"`
	}
	captureProgressEvent struct {
		headJSON
		motionJSON
		Bottleneck capture.Bottleneck `json:"bottleneck"`
		Packed     int64              `json:"packed"`
		Unreadable int64              `json:"unreadable"`
		Stalled    float64            `json:"stalled_seconds"`
	}
	captureEndEvent struct {
		headJSON
		Command  string           `json:"command"`
		Exit     int              `json:"exit"`
		Reason   string           `json:"reason"`
		Error    string           `json:"error"`
		Card     captureCardJSON  `json:"card"`
		Image    captureImageJSON `json:"image"`
		Verified string           `json:"verified"`
		Files    []string         `json:"files"`
		Bad      []CaptureRange   `json:"bad_ranges"`
		Took     float64          `json:"took_seconds"`
		Warnings []string         `json:"warnings"`
	}
)

// Show writes what is new.
func (j *CaptureJSON) Show(c Capturing) error {
	for _, event := range j.next(c) {
		line, err := encode(event)
		if err != nil {
			return err
		}
		if _, err := j.W.Write(line); err != nil {
			return err
		}
	}
	return nil
}

func (j *CaptureJSON) next(c Capturing) (events []any) {
	interval := j.Interval
	if interval <= 0 {
		interval = time.Second
	}
	head := func(event string) headJSON { return headJSON{Schema, event, c.Time, seconds(c.Elapsed)} }
	card := captureCardJSON{c.Card.Slot, c.Card.Device, c.Card.Model, c.Card.Serial, c.Card.Size}
	image := captureImageJSON{c.Image.Name, c.Image.Format, c.Card.Size, known(c.Image.Used), c.Image.Packed, c.Image.SHA256}
	if !j.begun {
		j.begun, j.last = true, c.Time
		events = append(events, captureStartEvent{head("run-start"), "capture", card, image})
	}
	for _, w := range c.Warnings[min(j.warnings, len(c.Warnings)):] {
		events = append(events, warningEvent{head("warning"), w})
	}
	j.warnings = len(c.Warnings)
	if c.Ended {
		return append(events, captureEndEvent{
			head("run-end"), "capture", c.Status, c.Reason, c.Message, card, image, c.Image.Verified,
			append([]string{}, c.Image.Files...), append([]CaptureRange{}, c.Bad...), seconds(c.Took), append([]string{}, c.Warnings...),
		})
	}
	if c.Phase != j.phase || c.Time.Sub(j.last) >= interval {
		j.phase, j.last = c.Phase, c.Time
		m := motionJSON{Phase: c.Phase.String(), Done: c.Done, Rate: finite(c.Rate)}
		if c.Total > 0 {
			m.Total = &c.Total
		}
		if c.ETA >= 0 {
			eta := seconds(c.ETA)
			m.ETA = &eta
		}
		events = append(events, captureProgressEvent{head("progress"), m, c.Bottleneck, c.Image.Packed, c.Lost, seconds(c.Stalled)})
	}
	return events
}
