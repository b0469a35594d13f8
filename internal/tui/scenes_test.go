package tui

import (
	"fmt"
	"strings"
	"time"

	"multidd/internal/station"
	"multidd/internal/verify"
)

// The scenes below are runs as a screen might meet them. Nothing in them depends
// on the time of day.

const mb = 1_000_000

var start = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// at makes a snapshot taken some seconds after the start.
func at(seconds float64, lanes ...station.LaneState) station.Snapshot {
	d := time.Duration(seconds * float64(time.Second))
	s := station.Snapshot{
		Time: start.Add(d), Elapsed: d, Lanes: lanes, Memory: 92 * mb,
		Image: station.ImageState{
			Name: "moz-ref-v2.img.bz2", Format: "bz2", Size: 3_965_190_144, Used: 2_104_533_975, Read: 2_458_417_889,
		},
	}
	for i := range s.Lanes {
		s.Lanes[i].Index = i
	}
	return s
}

var models = []string{"Generic STORAGE DEVICE", "Generic- SD/MMC/MS PRO", "SanDisk Ultra Fit", "Kingston DataTraveler 3.0"}

// card is a lane in a slot of a hub, in some phase; part is how much of the
// phase is done.
func card(i int, p station.Phase, part float64) station.LaneState {
	const total = 2_104_533_975
	lane := station.LaneState{
		Slot: fmt.Sprintf("1-2.%d.%d", i/4+1, i%4+1), Device: "/dev/sd" + letters(i+1),
		Model: models[i%len(models)], Serial: fmt.Sprintf("%012d", 4711+i), Size: 15_931_539_456,
		Phase: p, Total: total, Done: int64(part * total), Rate: 19.8 * mb, ETA: -1, Offset: -1,
	}
	switch p {
	case station.Writing:
		lane.ETA = time.Duration((1-part)*106+48) * time.Second
	case station.Verifying:
		lane.Rate = 43.5 * mb
		lane.ETA = time.Duration((1-part)*48) * time.Second
	case station.Flushing, station.Sealing, station.Ready, station.Preparing:
		lane.Rate, lane.Done, lane.Total = 0, 0, -1
	case station.Good, station.Unverified:
		lane.Took, lane.WriteRate, lane.ReadRate = 157*time.Second, 19.6*mb, 42.9*mb
	case station.Failed, station.Interrupted:
		lane.Took, lane.WriteRate = 63*time.Second, 18.8*mb
	}
	return lane
}

// letters names devices as the kernel does: b … z, aa, ab …
func letters(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return string(rune('a'+i/26-1)) + string(rune('a'+i%26))
}

func failed(lane station.LaneState, r verify.Reason, step station.Phase, off int64, msg string) station.LaneState {
	lane.Phase, lane.Reason, lane.Step, lane.Offset, lane.Message = station.Failed, r, step, off, msg
	return lane
}

// mixed is 14 cards in every state there is.
func mixed() station.Snapshot {
	good := card(3, station.Good, 1)
	good.Retries, good.Amber = 2, []string{"2 writes had to be repeated; keep an eye on this card."}
	stalled := card(6, station.Writing, 0.31)
	stalled.Stalled = 34 * time.Second
	behind := card(10, station.Writing, 0.12)
	behind.Behind, behind.Rate, behind.ETA = true, 4.9*mb, 1200*time.Second
	s := at(171,
		card(0, station.Good, 1), card(1, station.Good, 1), card(2, station.Good, 1), good,
		card(4, station.Verifying, 0.72), card(5, station.Verifying, 0.08), stalled,
		failed(card(7, station.Failed, 0), verify.WriteEIO, station.Writing, 1_187_340_288,
			"The card refuses to be written at 1.19 GB (byte 1187340288), three times. It is worn out or has a bad contact: try another reader once, else throw it away."),
		card(8, station.Writing, 0.97), card(9, station.Flushing, 0), behind, card(11, station.Sealing, 0),
		card(12, station.Preparing, 0), card(13, station.Ready, 0))
	s.Rate, s.Bottleneck = 168.4*mb, station.ByCards
	return s
}

// rack is n cards, most of them writing.
func rack(n int) station.Snapshot {
	lanes := make([]station.LaneState, n)
	for i := range lanes {
		switch {
		case i%13 == 5:
			lanes[i] = card(i, station.Good, 1)
		case i%29 == 17:
			lanes[i] = failed(card(i, station.Failed, 0), verify.ReadbackMismatch, station.Verifying, 734_003_200, "")
		case i%7 == 2:
			lanes[i] = card(i, station.Verifying, float64(i*37%100)/100)
		default:
			lanes[i] = card(i, station.Writing, float64(60+i*17%40)/100)
		}
	}
	s := at(140, lanes...)
	s.Rate, s.Bottleneck = 1_204*mb, station.ByBus
	return s
}

// looks for tests.
func asciiLook() look { return look{signs: asciiSigns()} }
func utf8Look() look  { return look{signs: unicodeSigns()} }

// picture draws a frame with a border, so that a golden file shows its size.
func picture(lines []string, w, h int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%dx%d\n+%s+\n", w, h, strings.Repeat("-", w))
	for i := range h {
		line := ""
		if i < len(lines) {
			line = lines[i]
		}
		fmt.Fprintf(&b, "|%s|\n", utf8Look().fit(line, w))
	}
	fmt.Fprintf(&b, "+%s+\n", strings.Repeat("-", w))
	return b.String()
}
