package tui

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"multidd/internal/station"
)

// Devices writes what sits in which slot: a line each, below it what is on it, and
// for what may not be written the reasons.
func Devices(w io.Writer, targets []station.Target, o TableOptions) error {
	if len(targets) == 0 {
		_, err := io.WriteString(w, "There is no slot and no card here. Plug a reader in and put a card into it.\n")
		return err
	}
	var b bytes.Buffer
	lk, width := o.look(), o.width()
	targetRows(&b, lk, targets, width)
	free := 0
	for _, t := range targets {
		if len(t.Refusals) == 0 {
			free++
		}
	}
	sum := fmt.Sprintf("%s may be written.", cards(free))
	if free == 0 {
		sum = "None of these may be written."
	}
	b.WriteString("\n" + lk.paint(bold, sum) + "\n")
	_, err := w.Write(b.Bytes())
	return err
}

// Plan writes what a run would do: the image, the targets with what is on them
// now and would be lost, and what is against it.
func Plan(w io.Writer, im station.ImageState, targets []station.Target, o TableOptions) error {
	var b bytes.Buffer
	lk, width := o.look(), o.width()
	what := fmt.Sprintf("%s (%s)", lk.text(im.Name), lk.text(im.Format))
	if im.Size >= 0 {
		what += ", makes " + size(im.Size)
	}
	if im.Used >= 0 && im.Used < im.Size {
		what = fmt.Sprintf("%s (%s), %s of %s is used", lk.text(im.Name), lk.text(im.Format), size(im.Used), size(im.Size))
	}
	for _, line := range wrap(what, width) {
		b.WriteString(lk.paint(bold, line) + "\n")
	}
	b.WriteString("\n")
	targetRows(&b, lk, targets, width)
	refused := 0
	for _, t := range targets {
		if len(t.Refusals) > 0 {
			refused++
		}
	}
	if refused > 0 {
		b.WriteString("\n" + lk.paint(red, fmt.Sprintf("%d of %d targets are refused, so nothing would be written.", refused, len(targets))) + "\n")
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (o TableOptions) width() int {
	if o.Width <= 0 {
		return 80
	}
	return min(max(o.Width, 20), maxWidth)
}

// targetRows draws targets as a table with their contents and refusals below.
func targetRows(b *bytes.Buffer, lk look, targets []station.Target, width int) {
	heads := []string{"SLOT", "DEVICE", "SIZE", "MODEL", "SERIAL", "AT LEAST"}
	rows := make([][]string, len(targets))
	for i, t := range targets {
		floor := ""
		if t.Floor >= 0 {
			floor = shortClock(t.Floor)
		}
		device := t.Device
		if device == t.Slot {
			device = ""
		}
		rows[i] = []string{t.Slot, device, capacity(t.Size), t.Model, t.Serial, floor}
		for j := range rows[i] {
			rows[i][j] = lk.text(rows[i][j])
		}
	}
	widths := make([]int, len(heads))
	for j := range heads {
		for _, row := range rows {
			widths[j] = max(widths[j], ansi.StringWidth(row[j]))
		}
		if widths[j] > 0 {
			widths[j] = max(widths[j], len(heads[j]))
		}
	}
	fitTargets(widths, width)
	b.WriteString(targetLine(lk, blanks(markWidth), heads, widths, faint))
	for i, t := range targets {
		mark, how := lk.paint(green, lk.fit(lk.signs.good, markWidth)), plain
		if len(t.Refusals) > 0 {
			mark, how = lk.paint(red, lk.fit(lk.signs.bad, markWidth)), faint
		}
		b.WriteString(targetLine(lk, mark, rows[i], widths, how))
		notes := t.Contents
		if t.Floor >= 0 {
			notes = append(notes[:len(notes):len(notes)], "takes at least "+shortClock(t.Floor)+", going by its speed: "+t.FloorFrom)
		}
		for _, n := range notes {
			b.WriteString(lk.paint(faint, lk.fit(blanks(markWidth+gap)+lk.text(n), min(width, markWidth+gap+ansi.StringWidth(lk.text(n))))) + "\n")
		}
		for _, r := range t.Refusals {
			for _, line := range wrap(lk.text(r.Text)+" ["+r.Reason+"]", width-markWidth-gap) {
				b.WriteString(blanks(markWidth+gap) + lk.paint(yellow, line) + "\n")
			}
		}
	}
}

// fitTargets makes the columns fit: the serial and the model give way first.
func fitTargets(widths []int, width int) {
	const slot, model, serial, floor = 0, 3, 4, 5
	for _, step := range []struct{ col, least int }{{serial, 8}, {model, 10}, {serial, 0}, {floor, 0}, {model, 0}, {slot, 16}} {
		over := markWidth - width
		for _, w := range widths {
			if w > 0 {
				over += gap + w
			}
		}
		if over <= 0 {
			return
		}
		if w := widths[step.col]; w > step.least {
			widths[step.col] = max(w-over, step.least)
			if widths[step.col] < 4 {
				widths[step.col] = 0
			}
		}
	}
}

func targetLine(lk look, mark string, cells []string, widths []int, how ink) string {
	const size = 2
	line := ""
	for j, w := range widths {
		if w == 0 {
			continue
		}
		fit := lk.fit
		if j == size {
			fit = lk.right
		} else if j < size {
			fit = lk.fitTail
		}
		line += blanks(gap) + fit(cells[j], w)
	}
	return mark + lk.paint(how, strings.TrimRight(line, " ")) + "\n"
}

// capacity says what a card holds.
func capacity(n int64) string {
	switch {
	case n == 0:
		return "empty"
	case n < 0:
		return "new file"
	}
	return size(n)
}
