package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
)

// speed is that of most cards, in bytes/s; slow that of the slow one.
const (
	speed = 20e6
	slow  = 5e6
)

// makeImages makes the image and its packed form.
func (b *bench) makeImages() error {
	b.image = filepath.Join(b.dir, "card.img")
	b.packed = b.image + ".bz2"
	if err := sample.Make(sample.Image{Path: b.image, Size: b.size, Fill: b.size / 2}); err != nil {
		return err
	}
	if _, err := measure(command{name: "lbzip2", line: fmt.Sprintf("lbzip2 -k -9 %s", b.image)}); err != nil {
		return err
	}
	fi, err := os.Stat(b.packed)
	if err != nil {
		return err
	}
	fmt.Printf("image: %d MiB, half full of programs and libraries; packed %d MB (lbzip2 -9, one stream)\n", b.size>>20, fi.Size()/1e6)
	return nil
}

// withRack makes cards with room for an image of size bytes, sets their speeds and
// lets f use them.
func (b *bench) withRack(n int, size int64, speeds func(i int) float64, f func(r *devicetest.Rack) error) error {
	r, err := devicetest.NewRack(b.dir, n, size+(4<<20))
	if err != nil {
		return err
	}
	defer r.Close()
	for i := range n {
		v := int64(speeds(i))
		if err := r.SetSpeed(i, v, v); err != nil {
			return err
		}
	}
	return f(r)
}

func all(v float64) func(int) float64 { return func(int) float64 { return v } }

// ours is multidd's command line. Every byte is written, as the others do.
func (b *bench) ours(image string, flags string, cards []string) string {
	return fmt.Sprintf("%s write --yes --json --blocks=all --store=%s %s %s %s", b.multidd, filepath.Join(b.dir, "store"), flags, image, strings.Join(cards, " "))
}

// peers are the other tools' ways of writing one raw image to many cards.
func (b *bench) peers(cards []string) []command {
	var dd, of, tee []string
	for _, c := range cards {
		dd = append(dd, fmt.Sprintf("(dd if=%s of=%s bs=4M oflag=direct conv=fsync status=none) &", b.image, c))
		of = append(of, "of="+c)
		tee = append(tee, c)
	}
	join := func(s []string) string { return strings.Join(s, " ") }
	return []command{
		{name: "dd per card, O_DIRECT", line: join(dd) + " wait"},
		{name: "dcfldd", line: fmt.Sprintf("dcfldd if=%s %s bs=4M statusinterval=0 status=off 2>/dev/null && sync %s", b.image, join(of), join(cards))},
		{name: "dc3dd", line: fmt.Sprintf("dc3dd if=%s %s 2>/dev/null && sync %s", b.image, join(of), join(cards))},
		{name: "tee", line: fmt.Sprintf("tee < %s %s > /dev/null && sync %s", b.image, join(tee), join(cards))},
	}
}

// unverified is multidd doing what the others do: write and flush.
func (b *bench) unverified(image string, cards []string) command {
	return command{name: "multidd --verify=none", line: b.ours(image, "--verify=none", cards), allowed: []int{10}}
}

func (b *bench) freshStore() error { return os.RemoveAll(filepath.Join(b.dir, "store")) }

// equalCards: 14 cards of the same speed.
func (b *bench) equalCards() error {
	floor := float64(b.size) / speed
	return b.withRack(14, b.size, all(speed), func(r *devicetest.Rack) error {
		commands := append([]command{b.unverified(b.image, r.Paths())}, b.peers(r.Paths())...)
		return b.table(fmt.Sprintf("14 equal cards of 20 MB/s, write and flush, floor %.1f s", floor), floor, commands, 14)
	})
}

// table measures and writes wall time, ratio to the floor, processor seconds per GiB
// written and memory.
func (b *bench) table(title string, floor float64, commands []command, cards int) error {
	figures, err := rounds(b.rounds, commands, b.freshStore)
	if err != nil {
		return err
	}
	b.title("%s", title)
	b.row("", "wall s", "× floor (least–most)", "CPU s per GiB written", "MiB")
	for i, c := range commands {
		gib := float64(b.size) * float64(cards) / (1 << 30)
		b.row(c.name, fmt.Sprintf("%.2f", median(figures[i], wall)),
			span(figures[i], func(f figure) float64 { return f.wall / floor }, "%.3f"),
			fmt.Sprintf("%.2f", median(figures[i], cpu)/gib), fmt.Sprintf("%.0f", median(figures[i], rss)))
	}
	return nil
}

// oneSlowCard: 13 cards of one speed and one of a quarter of it. What counts is
// when the median card is done.
func (b *bench) oneSlowCard() error { return b.slowCard(b.image, "raw", b.peers) }

func (b *bench) slowCard(image, kind string, peers func([]string) []command) error {
	const slowCard = 3
	floor := float64(b.size) / speed
	speeds := func(i int) float64 {
		if i == slowCard {
			return slow
		}
		return speed
	}
	return b.withRack(14, b.size, speeds, func(r *devicetest.Rack) error {
		commands := []command{b.unverified(image, r.Paths())}
		if peers != nil {
			commands = append(commands, peers(r.Paths())...)
		}
		figures, err := rounds(b.rounds, commands, b.freshStore)
		if err != nil {
			return err
		}
		b.title("13 cards of 20 MB/s and one of 5, %s image, write and flush: the median card's floor is %.1f s, the slow card's %.1f s", kind, floor, float64(b.size)/slow)
		b.row("", "median card s", "× its floor", "all done s", "× slow card's floor", "MiB")
		for i, c := range commands {
			// A tool that goes at the pace of its slowest card has all cards done
			// at its end. For dd per card the others' end is that of its own dd.
			done := median(figures[i], wall)
			switch {
			case i == 0:
				var took []float64
				for _, f := range figures[i] {
					took = append(took, medianTook(f.out))
				}
				done = middle(took)
			case strings.HasPrefix(c.name, "dd "):
				b.row(c.name+" (each its own)", "as alone", "as alone", fmt.Sprintf("%.1f", median(figures[i], wall)), fmt.Sprintf("%.3f", median(figures[i], wall)*slow/float64(b.size)), fmt.Sprintf("%.0f", median(figures[i], rss)))
				continue
			}
			b.row(c.name, fmt.Sprintf("%.2f", done), fmt.Sprintf("%.3f", done/floor), fmt.Sprintf("%.1f", median(figures[i], wall)),
				fmt.Sprintf("%.3f", median(figures[i], wall)*slow/float64(b.size)), fmt.Sprintf("%.0f", median(figures[i], rss)))
		}
		return nil
	})
}

// medianTook returns how long multidd's median card took from the start of the
// run to its verdict, out of its events.
func medianTook(events []byte) float64 {
	var took []float64
	for s := bufio.NewScanner(bytes.NewReader(events)); s.Scan(); {
		var e struct {
			Event   string  `json:"event"`
			Elapsed float64 `json:"elapsed_seconds"`
		}
		if json.Unmarshal(s.Bytes(), &e) == nil && e.Event == "verdict" {
			took = append(took, e.Elapsed)
		}
	}
	return middle(took)
}

// withVerify: writing and reading back, against the sum of both floors.
func (b *bench) withVerify() error {
	floor := 2 * float64(b.size) / speed
	return b.withRack(14, b.size, all(speed), func(r *devicetest.Rack) error {
		return b.table(fmt.Sprintf("14 equal cards of 20 MB/s, write, flush and read back, sum of both floors %.1f s", floor), floor, []command{
			{name: "multidd", line: b.ours(b.image, "", r.Paths())},
			{name: "multidd, from bz2", line: b.ours(b.packed, "", r.Paths())},
		}, 14)
	})
}

// packedImage: the first two scenes from a .bz2.
func (b *bench) packedImage() error {
	floor := float64(b.size) / speed
	err := b.withRack(14, b.size, all(speed), func(r *devicetest.Rack) error {
		tee := r.Paths()
		return b.table(fmt.Sprintf("14 equal cards of 20 MB/s from a .bz2, write and flush, floor %.1f s", floor), floor, []command{
			b.unverified(b.packed, r.Paths()),
			{name: "lbzip2 | tee", line: fmt.Sprintf("lbzip2 -dc %s | tee %s >/dev/null && sync %s", b.packed, strings.Join(tee, " "), strings.Join(tee, " "))},
		}, 14)
	})
	if err != nil {
		return err
	}
	return b.slowCard(b.packed, "bz2", nil)
}

// unpacking: processor seconds of unpacking a plain .bz2, on 1 and on 2 cores.
func (b *bench) unpacking() error {
	for _, cores := range []int{1, 2} {
		on := "taskset -c " + []string{"", "0", "0,1"}[cores] + " "
		commands := []command{
			{name: "multidd if= of=/dev/null", line: on + fmt.Sprintf("%s if=%s of=/dev/null bs=1M status=none", b.multidd, b.packed), env: []string{fmt.Sprintf("GOMAXPROCS=%d", cores)}},
			{name: "lbzip2 -dc", line: on + fmt.Sprintf("lbzip2 -n %d -dc %s > /dev/null", cores, b.packed)},
			{name: "bzip2 -dc", line: on + fmt.Sprintf("bzip2 -dc %s > /dev/null", b.packed)},
		}
		figures, err := rounds(b.rounds, commands, func() error { return nil })
		if err != nil {
			return err
		}
		b.title("unpacking a single-stream .bz2 card image on %d core(s)", cores)
		b.row("", "CPU s", "lbzip2's CPU ÷ its own", "wall s", "MB/s", "MiB")
		for i, c := range commands {
			b.row(c.name, span(figures[i], cpu, "%.2f"), fmt.Sprintf("%.2f", median(figures[1], cpu)/median(figures[i], cpu)),
				fmt.Sprintf("%.2f", median(figures[i], wall)), fmt.Sprintf("%.0f", float64(b.size)/1e6/median(figures[i], wall)), fmt.Sprintf("%.0f", median(figures[i], rss)))
		}
	}
	return nil
}

// oneCard: one card, as fast as it goes and at 20 MB/s, beside GNU dd. What multidd
// does before the first byte and after the last takes as long for any image, so at
// 20 MB/s a bigger one is written, too.
func (b *bench) oneCard() error {
	err := b.besideDD("one card, no speed limit, write and flush", 0, b.image, b.size, 3*b.rounds, func(card string) []command {
		return append(b.singles(b.image, card), b.slowSingles(card)...)
	})
	if err != nil {
		return err
	}
	err = b.besideDD("one card, 20 MB/s, write and flush", speed, b.image, b.size, b.rounds, func(card string) []command {
		readBack := command{name: "multidd write, which reads back too", line: b.ours(b.image, "", []string{card}), reads: true}
		return append(append(b.singles(b.image, card), readBack), b.slowSingles(card)...)
	})
	if err != nil || b.big == 0 {
		return err
	}
	image := filepath.Join(b.dir, "big.img")
	defer os.Remove(image)
	if err := sample.Make(sample.Image{Path: image, Size: b.big, Fill: b.big / 2}); err != nil {
		return err
	}
	return b.besideDD(fmt.Sprintf("one card, 20 MB/s, image of %d MiB, write and flush", b.big>>20), speed, image, b.big, b.rounds, func(card string) []command {
		return b.singles(image, card)
	})
}

// singles are the ways of writing one card that are compared with the first of them.
func (b *bench) singles(image, card string) []command {
	return []command{
		{name: "dd bs=4M oflag=direct", line: fmt.Sprintf("dd if=%s of=%s bs=4M oflag=direct conv=fsync status=none", image, card)},
		{name: "multidd if= of= bs=4M verify=none", line: fmt.Sprintf("%s --yes if=%s of=%s bs=4M verify=none status=none", b.multidd, image, card)},
		b.unverified(image, []string{card}),
	}
}

// slowSingles are ways that take more of the processor.
func (b *bench) slowSingles(card string) []command {
	commands := []command{{name: "dd bs=4M", line: fmt.Sprintf("dd if=%s of=%s bs=4M conv=fsync status=none", b.image, card)}}
	if b.have("bmaptool") {
		commands = append(commands, command{name: "bmaptool copy --nobmap", line: fmt.Sprintf("bmaptool -q copy --nobmap %s %s", b.image, card)})
	}
	return commands
}

// besideDD measures ways of writing an image of size bytes to one card of v bytes/s,
// and writes what they took beside the first of them.
func (b *bench) besideDD(title string, v float64, image string, size int64, n int, commands func(card string) []command) error {
	return b.withRack(1, size, all(v), func(r *devicetest.Rack) error {
		list := commands(r.Paths()[0])
		figures, err := rounds(n, list, b.freshStore)
		if err != nil {
			return err
		}
		dd := median(figures[0], wall)
		b.title("%s", title)
		b.row("", "wall s", "dd O_DIRECT's ÷ its own", "× floor", "CPU s per GiB", "MiB")
		for i, c := range list {
			took := median(figures[i], wall)
			beside, above := fmt.Sprintf("%.4f (%+.0f ms)", dd/took, 1000*(took-dd)), "–"
			if v > 0 {
				above = fmt.Sprintf("%.4f", took*v/float64(size))
			}
			if c.reads {
				beside, above = "–", fmt.Sprintf("%.4f (both)", took*v/float64(2*size))
			}
			b.row(c.name, span(figures[i], wall, "%.3f"), beside, above,
				fmt.Sprintf("%.2f", median(figures[i], cpu)*float64(1<<30)/float64(size)), fmt.Sprintf("%.0f", median(figures[i], rss)))
		}
		return nil
	})
}

// manyCards: 64 cards take as long as 14, and a bounded amount of memory.
func (b *bench) manyCards() error {
	floor := float64(b.size) / speed
	for _, n := range []int{14, 64} {
		err := b.withRack(n, b.size, all(speed), func(r *devicetest.Rack) error {
			return b.table(fmt.Sprintf("%d cards of 20 MB/s, write and flush, floor %.1f s", n, floor), floor, []command{
				b.unverified(b.image, r.Paths()),
				{name: "multidd --verify=none, from bz2", line: b.ours(b.packed, "--verify=none", r.Paths()), allowed: []int{10}},
			}, n)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
