package tui

import (
	"fmt"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/station"
)

// A note is something that people should read while the run goes on: of the
// whole run, or of some cards.
type note struct {
	sign  string
	ink   ink
	slots []string
	text  string
}

func (n note) String() string {
	if len(n.slots) == 0 {
		return n.text
	}
	return strings.Join(n.slots, ", ") + ": " + n.text
}

// notesOf gathers what is to be said about a run, the worst first. What is the
// same for several cards is said once.
func notesOf(snap station.Snapshot, lk look) []note {
	var out []note
	say := func(sign string, i ink, text string, slots ...string) {
		for k := range out {
			if len(slots) > 0 && out[k].ink == i && out[k].text == text {
				out[k].slots = append(out[k].slots, slots...)
				return
			}
		}
		out = append(out, note{sign, i, slots, text})
	}
	if snap.Image.Err != "" {
		say(lk.signs.bad, red, "The image is bad: "+snap.Image.Err)
	}
	for _, w := range snap.Warnings {
		say(lk.signs.warn, yellow, w)
	}
	for _, lane := range snap.Lanes {
		if lane.Phase == station.Failed && (snap.Image.Err == "" || !ofImage(lane.Reason)) {
			say(lk.signs.bad, red, advice(lane), rowSlot(lane))
		}
	}
	for _, lane := range snap.Lanes {
		if lane.Stalled > 0 && !lane.Phase.Final() {
			say(lk.signs.warn, yellow, fmt.Sprintf("nothing has moved for %s.", clock(lane.Stalled)), rowSlot(lane))
		}
	}
	for _, lane := range snap.Lanes {
		for _, a := range lane.Amber {
			say(lk.signs.warn, yellow, a, rowSlot(lane))
		}
	}
	return out
}

// fold draws notes in at most so many lines: a line each, those at the top more
// while there is room, and a word about those that are left out.
func fold(notes []note, lk look, width, lines int) []string {
	const indent = 3
	w := width - indent - 1
	if len(notes) == 0 || lines < 1 || w < 1 {
		return nil
	}
	more := ""
	if over := len(notes) - lines; over > 0 && lines > 1 {
		more = fmt.Sprintf("   and %d more; the end of the run tells all", over+1)
		notes, lines = notes[:lines-1], lines-1
	} else if over > 0 {
		notes = notes[:lines]
	}
	spare := lines - len(notes)
	var out []string
	for _, n := range notes {
		whole := wrap(n.String(), w)
		take := min(len(whole), 1+spare)
		spare -= take - 1
		if take < len(whole) {
			whole[take-1] = ansi.Truncate(whole[take-1]+" "+whole[take], w, lk.signs.more)
		}
		for i, line := range whole[:take] {
			mark := blanks(indent)
			if i == 0 {
				mark = " " + lk.paint(n.ink, n.sign) + " "
			}
			out = append(out, mark+line)
		}
	}
	if more != "" {
		out = append(out, lk.paint(faint, more))
	}
	return out
}
