package tui

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"time"

	"multidd/internal/station"
	"multidd/internal/verify"
)

// Schema is the version of the events that JSON writes. Fields and events may be
// added under the same number; none changes its meaning or goes away.
const Schema = 1

// JSONOptions say how events are written.
type JSONOptions struct {
	// Interval is the time between two progress events; 0 is 1 s.
	Interval time.Duration
}

// JSON writes a run as events, one a line (NDJSON), each line in one call of
// Write. Every event has
//
//	schema           1
//	event            its kind, see below; skip kinds that you do not know
//	time             RFC 3339
//	elapsed_seconds  since the run began
//
// Sizes, offsets and lengths are in bytes, speeds in bytes per second. What is
// not known is null. The kinds, and what they have besides:
//
//	run-start  image; lanes: [card …]
//	image      image: something new is known of it, such as its digest or error
//	warning    message: a sentence about the run as a whole
//	lane       a card's lane has changed: its phase, stalled, behind, retries …;
//	           a warning (amber) may still come after its verdict
//	progress   every second or so: image_read, bytes_per_second, bottleneck
//	           ("", "cards", "source", "decoder", "bus"), memory, counts,
//	           lanes: [lane, phase, done, total, bytes_per_second, eta_seconds]
//	verdict    a lane has come to its end
//	run-end    the last line: exit (the exit status), image, warnings, counts,
//	           lanes: the verdict of every lane
//
// An output without a run-end was cut off, and says nothing about cards without
// a verdict. The parts:
//
//	image      name, format, size, used, read, sha256 ("" until known), error
//	counts     cards, good, unverified, failed, interrupted, running, stalled
//	card       lane (from 0), slot, device, model, serial, size
//	lane       card; phase ("ready", "prepare", "compare", "write", "flush",
//	           "verify", "seal", "good", "unverified", "failed", "interrupted"),
//	           done and total in this phase, bytes_per_second, eta_seconds, behind,
//	           stalled_seconds, retries, rewrote, amber: [sentence …], compared,
//	           differed (these two only where what differs is written)
//	verdict    lane; good, reason (a token, "" if good), step (the phase it
//	           happened in, "" if good), offset, message, took_seconds,
//	           write_bytes_per_second, read_bytes_per_second,
//	           bad_ranges: [offset, length, want, got]
//
// When w fails the run goes on; the error is returned at its end.
func JSON(ctx context.Context, w io.Writer, o JSONOptions, s Station) error {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	l := eventLog{interval: o.Interval}
	return follow(ctx, s, func(snap station.Snapshot) error {
		for _, event := range l.next(snap) {
			line, err := encode(event)
			if err != nil {
				return err
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		return nil
	})
}

func encode(event any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(event)
	return b.Bytes(), err
}

type (
	headJSON struct {
		Schema  int       `json:"schema"`
		Event   string    `json:"event"`
		Time    time.Time `json:"time"`
		Elapsed float64   `json:"elapsed_seconds"`
	}
	imageJSON struct {
		Name   string `json:"name"`
		Format string `json:"format"`
		Size   *int64 `json:"size"`
		Used   *int64 `json:"used"`
		Read   int64  `json:"read"`
		SHA256 string `json:"sha256"`
		Error  string `json:"error"`
	}
	countsJSON struct {
		Cards       int `json:"cards"`
		Good        int `json:"good"`
		Unverified  int `json:"unverified"`
		Failed      int `json:"failed"`
		Interrupted int `json:"interrupted"`
		Running     int `json:"running"`
		Stalled     int `json:"stalled"`
	}
	cardJSON struct {
		Lane   int    `json:"lane"`
		Slot   string `json:"slot"`
		Device string `json:"device"`
		Model  string `json:"model"`
		Serial string `json:"serial"`
		Size   int64  `json:"size"`
	}
	motionJSON struct {
		Phase string   `json:"phase"`
		Done  int64    `json:"done"`
		Total *int64   `json:"total"`
		Rate  float64  `json:"bytes_per_second"`
		ETA   *float64 `json:"eta_seconds"`
	}
	laneJSON struct {
		cardJSON
		motionJSON
		Behind  bool     `json:"behind"`
		Stalled float64  `json:"stalled_seconds"`
		Retries int      `json:"retries"`
		Rewrote int      `json:"rewrote"`
		Amber   []string `json:"amber"`
		// Of a lane that writes only what differs.
		Compared *int64 `json:"compared,omitempty"`
		Differed *int64 `json:"differed,omitempty"`
	}
	verdictJSON struct {
		laneJSON
		Good      bool          `json:"good"`
		Reason    verify.Reason `json:"reason"`
		Step      string        `json:"step"`
		Offset    *int64        `json:"offset"`
		Message   string        `json:"message"`
		Took      float64       `json:"took_seconds"`
		WriteRate float64       `json:"write_bytes_per_second"`
		ReadRate  float64       `json:"read_bytes_per_second"`
		Bad       []rangeJSON   `json:"bad_ranges"`
	}
	rangeJSON struct {
		Off  int64  `json:"offset"`
		Len  int64  `json:"length"`
		Want string `json:"want"`
		Got  string `json:"got"`
	}

	startEvent struct {
		headJSON
		Image imageJSON  `json:"image"`
		Lanes []cardJSON `json:"lanes"`
	}
	imageEvent struct {
		headJSON
		Image imageJSON `json:"image"`
	}
	warningEvent struct {
		headJSON
		Message string `json:"message"`
	}
	laneEvent struct {
		headJSON
		laneJSON
	}
	progressEvent struct {
		headJSON
		Read       int64              `json:"image_read"`
		Rate       float64            `json:"bytes_per_second"`
		Bottleneck station.Bottleneck `json:"bottleneck"`
		Memory     int64              `json:"memory"`
		Counts     countsJSON         `json:"counts"`
		Lanes      []laneMotionJSON   `json:"lanes"`
	}
	laneMotionJSON struct {
		Lane int `json:"lane"`
		motionJSON
	}
	verdictEvent struct {
		headJSON
		verdictJSON
	}
	endEvent struct {
		headJSON
		Exit     int           `json:"exit"`
		Image    imageJSON     `json:"image"`
		Warnings []string      `json:"warnings"`
		Counts   countsJSON    `json:"counts"`
		Lanes    []verdictJSON `json:"lanes"`
	}
)

// An eventLog remembers what has been said.
type eventLog struct {
	interval time.Duration
	begun    bool
	last     time.Time // of the last progress event
	image    station.ImageState
	warnings int
	lanes    []station.LaneState
}

// next is what a snapshot adds: any number of events.
func (l *eventLog) next(snap station.Snapshot) []any {
	var out []any
	head := func(event string) headJSON {
		return headJSON{Schema, event, snap.Time, seconds(snap.Elapsed)}
	}
	// How much of the image has been read is no news of it.
	news := snap.Image
	news.Read = 0
	switch {
	case !l.begun:
		l.begun, l.last = true, snap.Time
		e := startEvent{head("run-start"), imageOf(snap.Image), []cardJSON{}}
		for _, lane := range snap.Lanes {
			e.Lanes = append(e.Lanes, cardOf(lane))
		}
		out = append(out, e)
	case news != l.image:
		out = append(out, imageEvent{head("image"), imageOf(snap.Image)})
	}
	for _, s := range snap.Warnings[min(l.warnings, len(snap.Warnings)):] {
		out = append(out, warningEvent{head("warning"), s})
	}
	for i, lane := range snap.Lanes {
		var before station.LaneState
		if i < len(l.lanes) {
			before = l.lanes[i]
		}
		switch {
		case lane.Phase.Final() && !before.Phase.Final():
			out = append(out, verdictEvent{head("verdict"), verdictOf(lane)})
		case changed(before, lane):
			out = append(out, laneEvent{head("lane"), laneOf(lane)})
		}
	}
	if snap.Done {
		e := endEvent{head("run-end"), snap.Exit, imageOf(snap.Image), sentences(snap.Warnings), countsOf(snap.Lanes), []verdictJSON{}}
		for _, lane := range snap.Lanes {
			e.Lanes = append(e.Lanes, verdictOf(lane))
		}
		out = append(out, e)
	} else if snap.Time.Sub(l.last) >= l.interval {
		l.last = snap.Time
		e := progressEvent{head("progress"), snap.Image.Read, finite(snap.Rate), snap.Bottleneck, snap.Memory, countsOf(snap.Lanes), []laneMotionJSON{}}
		for _, lane := range snap.Lanes {
			e.Lanes = append(e.Lanes, laneMotionJSON{lane.Index, motionOf(lane)})
		}
		out = append(out, e)
	}
	l.image, l.warnings, l.lanes = news, len(snap.Warnings), snap.Lanes
	return out
}

// changed tells whether a lane has news beyond its progress.
func changed(a, b station.LaneState) bool {
	return a.Phase != b.Phase || (a.Stalled > 0) != (b.Stalled > 0) || a.Behind != b.Behind ||
		a.Retries != b.Retries || a.Rewrote != b.Rewrote || len(a.Amber) != len(b.Amber)
}

func imageOf(im station.ImageState) imageJSON {
	return imageJSON{im.Name, im.Format, known(im.Size), known(im.Used), im.Read, im.SHA256, im.Err}
}

func countsOf(lanes []station.LaneState) countsJSON {
	t := count(lanes)
	return countsJSON{t.all, t.good, t.unread, t.failed, t.interrupted, t.running, t.stalled}
}

func cardOf(lane station.LaneState) cardJSON {
	return cardJSON{lane.Index, lane.Slot, lane.Device, lane.Model, lane.Serial, lane.Size}
}

func motionOf(lane station.LaneState) motionJSON {
	m := motionJSON{Phase: lane.Phase.String(), Done: lane.Done, Total: known(lane.Total), Rate: finite(lane.Rate)}
	if lane.ETA >= 0 {
		s := seconds(lane.ETA)
		m.ETA = &s
	}
	return m
}

func laneOf(lane station.LaneState) laneJSON {
	compared, differed := int64(-1), int64(-1)
	if lane.Delta {
		compared, differed = lane.Compared, lane.Differed
	}
	return laneJSON{cardOf(lane), motionOf(lane), lane.Behind, seconds(lane.Stalled),
		lane.Retries, lane.Rewrote, sentences(lane.Amber), known(compared), known(differed)}
}

func verdictOf(lane station.LaneState) verdictJSON {
	v := verdictJSON{
		laneJSON: laneOf(lane), Good: lane.Phase == station.Good, Offset: known(lane.Offset),
		Took: seconds(lane.Took), WriteRate: finite(lane.WriteRate), ReadRate: finite(lane.ReadRate),
		Bad: []rangeJSON{},
	}
	if lane.Phase == station.Failed || lane.Phase == station.Interrupted {
		v.Reason, v.Step, v.Message = lane.Reason, lane.Step.String(), advice(lane)
		if v.Reason == "" && lane.Phase == station.Interrupted {
			v.Reason = verify.Interrupted
		}
	}
	for _, r := range lane.Bad {
		v.Bad = append(v.Bad, rangeJSON{r.Off, r.Len, r.Want, r.Got})
	}
	return v
}

// known is nil for a number that is not known.
func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// seconds are exact to the millisecond.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// finite keeps JSON from choking on a speed that could not be computed.
func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0
	}
	return math.Round(v)
}

// sentences is never null.
func sentences(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
