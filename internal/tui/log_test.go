package tui

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"multidd/internal/station"
	"multidd/internal/verify"
)

// story is a run of three cards: one goes well, one stalls for a while and needs
// a range rewritten, one is pulled out. A snapshot is 2 s apart.
func story() []station.Snapshot {
	var out []station.Snapshot
	add := func(lanes ...station.LaneState) *station.Snapshot {
		s := at(float64(2*len(out)), lanes...)
		s.Rate, s.Bottleneck = 41.5*mb, station.ByCards
		out = append(out, s)
		return &out[len(out)-1]
	}
	a, b, c := card(0, station.Ready, 0), card(1, station.Ready, 0), card(2, station.Ready, 0)
	add(a, b, c).Image.Size = -1
	move := func(l *station.LaneState, p station.Phase, part float64) {
		old := *l
		*l = card(int(l.Device[len(l.Device)-1]-'b'), p, part)
		l.Retries, l.Rewrote, l.Amber = old.Retries, old.Rewrote, old.Amber
	}
	move(&a, station.Preparing, 0)
	move(&b, station.Writing, 0)
	move(&c, station.Writing, 0)
	add(a, b, c)
	move(&a, station.Writing, 0.1)
	b.Stalled = 16 * time.Second
	move(&c, station.Writing, 0.2)
	add(a, b, c).Warnings = []string{"Little memory is free."}
	b.Stalled = 18 * time.Second
	c = failed(c, verify.Removed, station.Writing, 430_000_000, "The card was pulled out at 430 MB. Put it back and start again.")
	add(a, b, c)
	move(&a, station.Flushing, 0)
	move(&b, station.Writing, 0.5)
	b.Retries = 1
	add(a, b, c)
	move(&a, station.Verifying, 0.4)
	b.Behind = true
	add(a, b, c)
	move(&a, station.Sealing, 0)
	move(&b, station.Verifying, 0.6)
	add(a, b, c)
	move(&a, station.Good, 1)
	b.Rewrote = 1
	b.Amber = []string{"1 bad range had to be rewritten; do not trust this card with what matters."}
	add(a, b, c).Image.SHA256 = strings.Repeat("5a", 32)
	move(&b, station.Good, 1)
	b.Bad = []station.BadRange{{Off: 4096, Len: 1048576, Want: "aa", Got: "bb"}}
	last := add(a, b, c)
	last.Image.SHA256 = strings.Repeat("5a", 32)
	last.Done, last.Exit = true, 3
	for i := range out[3:] {
		out[3+i].Warnings = out[2].Warnings
	}
	return out
}

func TestPlainLinesAreAsWritten(t *testing.T) {
	var b strings.Builder
	if err := Plain(t.Context(), &b, PlainOptions{Interval: 5 * time.Second}, &tape{snaps: story()}); err != nil {
		t.Fatal(err)
	}
	golden(t, "plain.txt", b.String())
}

func TestPlainProgressKeepsItsInterval(t *testing.T) {
	lines := func(interval time.Duration) int {
		var b strings.Builder
		var snaps []station.Snapshot
		for i := range 601 { // ten a second
			snaps = append(snaps, at(float64(i)/10, card(0, station.Writing, float64(i)/1000)))
		}
		snaps[600].Done = true
		if err := Plain(t.Context(), &b, PlainOptions{Interval: interval}, &tape{snaps: snaps}); err != nil {
			t.Fatal(err)
		}
		return strings.Count(b.String(), " done, ")
	}
	for interval, want := range map[time.Duration]int{0: 5, time.Second: 59, time.Minute: 0} {
		if got := lines(interval); got != want {
			t.Errorf("every %v: %d lines in a minute, want %d", interval, got, want)
		}
	}
}

// lineWriter checks that each call of Write is one whole line.
type lineWriter struct {
	t     *testing.T
	lines []string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if s := string(p); strings.Count(s, "\n") != 1 || !strings.HasSuffix(s, "\n") {
		w.t.Errorf("one call of Write is not one line: %q", s)
	}
	w.lines = append(w.lines, string(p))
	return len(p), nil
}

func events(t *testing.T, snaps []station.Snapshot) (text string, out []map[string]any) {
	t.Helper()
	w := &lineWriter{t: t}
	if err := JSON(t.Context(), w, JSONOptions{Interval: 4 * time.Second}, &tape{snaps: snaps}); err != nil {
		t.Fatal(err)
	}
	for _, line := range w.lines {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, e)
	}
	return strings.Join(w.lines, ""), out
}

func TestJSONLinesAreAsWritten(t *testing.T) {
	text, _ := events(t, story())
	golden(t, "events.jsonl", text)
}

func TestJSONTellsTheWholeStory(t *testing.T) {
	_, all := events(t, story())
	kinds := map[string]int{}
	for i, e := range all {
		kind := e["event"].(string)
		kinds[kind]++
		if e["schema"] != float64(Schema) {
			t.Errorf("line %d has schema %v", i+1, e["schema"])
		}
		if _, err := time.Parse(time.RFC3339, e["time"].(string)); err != nil {
			t.Errorf("line %d: %v", i+1, err)
		}
		if (kind == "run-start") != (i == 0) || (kind == "run-end") != (i == len(all)-1) {
			t.Errorf("line %d of %d is %s", i+1, len(all), kind)
		}
	}
	if want := map[string]int{"run-start": 1, "image": 2, "warning": 1, "lane": 12, "progress": 3, "verdict": 3, "run-end": 1}; !maps.Equal(kinds, want) {
		t.Errorf("events: %v, want %v", kinds, want)
	}
	end := all[len(all)-1]
	if end["exit"] != 3.0 || end["counts"].(map[string]any)["good"] != 2.0 {
		t.Errorf("run-end: %v", end)
	}
	verdicts := end["lanes"].([]any)
	if len(verdicts) != 3 {
		t.Fatalf("run-end has %d lanes", len(verdicts))
	}
	pulled := verdicts[2].(map[string]any)
	for field, want := range map[string]any{"good": false, "reason": "removed", "step": "write", "offset": 430_000_000.0,
		"message": "The card was pulled out at 430 MB. Put it back and start again.", "slot": "1-2.1.3", "device": "/dev/sdd"} {
		if pulled[field] != want {
			t.Errorf("the pulled card's %s is %v, want %v", field, pulled[field], want)
		}
	}
	if good := verdicts[0].(map[string]any); good["offset"] != nil || good["reason"] != "" || good["good"] != true {
		t.Errorf("the good card: %v", good)
	}
	// What each verdict line said is what the last line says.
	for _, e := range all {
		if e["event"] != "verdict" {
			continue
		}
		for k, v := range verdicts[int(e["lane"].(float64))].(map[string]any) {
			if !reflect.DeepEqual(e[k], v) {
				t.Errorf("lane %v: %s is %v in its verdict and %v in the end", e["lane"], k, e[k], v)
			}
		}
	}
}

// fieldOf says which field of a verdict carries a field of a lane.
var fieldOf = map[string]string{
	"Index": "lane", "Slot": "slot", "Device": "device", "Model": "model", "Serial": "serial", "Size": "size",
	"Delta": "compared", "Compared": "compared", "Differed": "differed",
	"Phase": "phase", "Done": "done", "Total": "total", "Rate": "bytes_per_second", "ETA": "eta_seconds",
	"Behind": "behind", "Stalled": "stalled_seconds", "Retries": "retries", "Rewrote": "rewrote", "Amber": "amber",
	"Took": "took_seconds", "WriteRate": "write_bytes_per_second", "ReadRate": "read_bytes_per_second",
	"Reason": "reason", "Step": "step", "Offset": "offset", "Message": "message", "Bad": "bad_ranges",
}

func TestAVerdictCarriesEveryFieldOfItsLane(t *testing.T) {
	missing := func(lane reflect.Type, verdict map[string]any) (out []string) {
		for i := range lane.NumField() {
			name := lane.Field(i).Name
			if _, ok := verdict[fieldOf[name]]; !ok {
				out = append(out, name)
			}
		}
		return out
	}
	lane := failed(card(3, station.Failed, 0), verify.WriteEIO, station.Writing, 17, "")
	lane.Delta = true
	line, err := encode(verdictOf(lane))
	if err != nil {
		t.Fatal(err)
	}
	var verdict map[string]any
	if err := json.Unmarshal(line, &verdict); err != nil {
		t.Fatal(err)
	}
	if m := missing(reflect.TypeFor[station.LaneState](), verdict); len(m) > 0 {
		t.Errorf("a verdict leaves out %v", m)
	}
	delete(verdict, "offset")
	if m := missing(reflect.TypeFor[station.LaneState](), verdict); !slices.Equal(m, []string{"Offset"}) {
		t.Errorf("a field that is left out is not noticed: %v", m)
	}
	for name := range verdict {
		if name != strings.ToLower(name) || strings.ContainsAny(name, "- ") {
			t.Errorf("%q is not snake_case", name)
		}
	}
}

func TestProgressReadsLikeDD(t *testing.T) {
	for _, c := range []struct {
		snap station.Snapshot
		want string
	}{
		{mixed(), "19782619364 bytes (20 GB, 18 GiB) copied, 171.0 s, 168 MB/s, 5 of 14 cards done, 1 failed, 20:00 left"},
		{at(62.34, card(0, station.Writing, 0.5)), "1052266987 bytes (1.1 GB, 1004 MiB) copied, 62.3 s, 0 B/s, write, 1:41 left"},
		{at(1, card(0, station.Ready, 0)), "0 bytes (0 B, 0 B) copied, 1.0 s, 0 B/s, ready"},
	} {
		if got := Progress(c.snap); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestTablesAreAsDrawn(t *testing.T) {
	good := func(n int) station.Snapshot {
		var lanes []station.LaneState
		for i := range n {
			lanes = append(lanes, card(i, station.Good, 1))
		}
		return at(171, lanes...)
	}
	oneBad := good(14)
	oneBad.Lanes[4] = failed(card(4, station.Failed, 0), verify.WriteEIO, station.Writing, 1_187_340_288, mixed().Lanes[7].Message)
	oneBad.Lanes[4].Bad = []station.BadRange{{Off: 1_187_340_288, Len: 4096}, {Off: 1_300_000_768, Len: 512}}
	oneBad.Lanes[3].Amber = mixed().Lanes[3].Amber
	hub := good(14)
	for i := range 9 {
		hub.Lanes[2+i] = failed(card(2+i, station.Failed, 0), verify.Removed, station.Verifying, int64(i)*100*mb, "")
	}
	stopped := good(6)
	for i := range 3 {
		stopped.Lanes[3+i] = card(3+i, station.Interrupted, 0)
	}
	badImage := good(3)
	badImage.Image.Err = "the bzip2 stream is damaged at byte 4711"
	for i := range badImage.Lanes {
		badImage.Lanes[i] = failed(card(i, station.Failed, 0), verify.ImageDecode, station.Writing, -1, "x")
	}
	unread := good(2)
	for i := range unread.Lanes {
		unread.Lanes[i] = card(i, station.Unverified, 1)
		unread.Lanes[i].ReadRate = 0
	}
	files := good(2)
	for i := range files.Lanes {
		l := &files.Lanes[i]
		l.Slot = fmt.Sprintf("/home/lab/cards/rack-one/shelf-three/card-%02d.img", i+1)
		l.Device, l.Model, l.Serial = l.Slot, "", ""
	}
	warned := good(1)
	warned.Warnings = []string{"The store was full: the image had to be decoded a second time."}
	none := good(1)
	none.Lanes[0] = failed(none.Lanes[0], verify.FakeCapacity, station.Preparing, 8_000_000_000, "")
	for _, c := range []struct {
		name string
		snap station.Snapshot
		o    TableOptions
		left bool
	}{
		{name: "all-good", snap: good(14)},
		{name: "one-good", snap: warned},
		{name: "one-bad", snap: oneBad},
		{name: "one-bad-wide", snap: oneBad, o: TableOptions{Width: 120}},
		{name: "one-bad-narrow", snap: oneBad, o: TableOptions{Width: 40}},
		{name: "one-bad-ascii", snap: oneBad, o: TableOptions{ASCII: true}},
		{name: "only-one-and-bad", snap: none},
		{name: "hub-died", snap: hub},
		{name: "interrupted", snap: stopped},
		{name: "image-bad", snap: badImage},
		{name: "not-read-back", snap: unread},
		{name: "files", snap: files},
		{name: "left", snap: mixed(), left: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.snap.Done = !c.left
			var b strings.Builder
			if err := Table(&b, c.snap, c.o); err != nil {
				t.Fatal(err)
			}
			golden(t, "table-"+c.name+".txt", b.String())
			width := c.o.Width
			if width == 0 {
				width = 80
			}
			if err := tooBig(strings.Split(b.String(), "\n"), width, 1000); err != nil {
				t.Error(err)
			}
		})
	}
}
