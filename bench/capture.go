package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"multidd/internal/device/devicetest"
)

// capture: a master card becomes an image. What dd reads, and so what the others pack,
// is all of the card; beside it stands what multidd does if it is left to it.
func (b *bench) capture() error {
	return b.withRack(1, b.size, all(0), func(r *devicetest.Rack) error {
		card := r.Paths()[0]
		if _, err := measure(command{name: "dd", line: fmt.Sprintf("dd if=%s of=%s bs=4M oflag=direct conv=fsync status=none", b.image, card)}); err != nil {
			return err
		}
		if err := r.SetSpeed(0, speed, speed); err != nil {
			return err
		}
		whole := b.size + (4 << 20) // the card
		if err := b.captureTo(card, "zst", whole, "zstd -q -3 -T0"); err != nil {
			return err
		}
		return b.captureTo(card, "bz2", whole, "lbzip2 -9")
	})
}

// captureTo measures packing in one format.
func (b *bench) captureTo(card, format string, whole int64, packer string) error {
	image := filepath.Join(b.dir, "capture.img."+format)
	ours := func(flags string) string {
		return fmt.Sprintf("%s capture --force --json %s %s %s", b.multidd, flags, card, image)
	}
	commands := []command{
		{name: "multidd", line: ours("")},
		{name: "multidd --verify=none", line: ours("--verify=none"), allowed: []int{10}},
		{name: "multidd --blocks=all --verify=none", line: ours("--blocks=all --verify=none"), allowed: []int{10}},
		{name: "dd | " + packer, line: fmt.Sprintf("dd if=%s bs=1M iflag=direct status=none | %s > %s && sync %s", card, packer, image, image)},
	}
	var packed []int64
	figures := make([][]figure, len(commands))
	used := whole
	for round := range b.rounds {
		for i, c := range commands {
			f, err := measure(c)
			if err != nil {
				return err
			}
			figures[i] = append(figures[i], f)
			if i == 0 {
				used = capturedUsed(f.out, whole)
			}
			if fi, err := os.Stat(image); err == nil && round == 0 {
				packed = append(packed, fi.Size())
			}
		}
	}
	for _, name := range []string{image, image + ".sha256", filepath.Join(b.dir, "capture.img.bmap"), filepath.Join(b.dir, "capture.img.sha256")} {
		_ = os.Remove(name) // some are there
	}
	b.title("a card of 20 MB/s captured to %s: all of it is %d MB, which take %.1f s; used are %d MB, which take %.1f s", format, whole/1e6, float64(whole)/speed, used/1e6, float64(used)/speed)
	b.row("", "wall s", "× floor (least–most)", "last row's wall ÷ its own", "CPU s", "MB packed", "MiB")
	others := median(figures[len(commands)-1], wall)
	for i, c := range commands {
		floor := float64(used) / speed
		if i >= 2 {
			floor = float64(whole) / speed
		}
		b.row(c.name, fmt.Sprintf("%.2f", median(figures[i], wall)), span(figures[i], func(f figure) float64 { return f.wall / floor }, "%.3f"),
			fmt.Sprintf("%.2f", others/median(figures[i], wall)), fmt.Sprintf("%.1f", median(figures[i], cpu)), fmt.Sprintf("%.1f", float64(packed[i])/1e6), fmt.Sprintf("%.0f", median(figures[i], rss)))
	}
	return nil
}

// capturedUsed returns how much of a card was read, out of the events.
func capturedUsed(events []byte, otherwise int64) int64 {
	used := otherwise
	for s := bufio.NewScanner(bytes.NewReader(events)); s.Scan(); {
		var e struct {
			Event string `json:"event"`
			Image struct {
				Used int64 `json:"used"`
			} `json:"image"`
		}
		if json.Unmarshal(s.Bytes(), &e) == nil && e.Event == "run-end" {
			used = e.Image.Used
		}
	}
	return used
}
