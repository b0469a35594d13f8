package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
)

// What a card is given that holds the image before it: pieces of so many bytes
// differ, one in changedOne.
const (
	changedPiece = 256 << 10
	changedOne   = 20
)

// refresh: cards that hold an image of which 5 % differs, and then the other way
// round. The floor is to read everything and to write what differs.
func (b *bench) refresh() error {
	next := filepath.Join(b.dir, "next.img")
	defer os.Remove(next)
	changed, err := changeSome(b.image, next)
	if err != nil {
		return err
	}
	const readSpeed = 2 * speed // as most cards
	for _, read := range []float64{speed, readSpeed} {
		floor := float64(b.size)/read + float64(changed)/speed
		err := b.withCards(14, func(r *devicetest.Rack) error {
			if _, err := measure(command{name: "fill the cards", line: b.ours(b.image, "--blocks=all --verify=none", r.Paths()), allowed: []int{10}}); err != nil {
				return err
			}
			for i := range r.Paths() {
				if err := r.SetSpeed(i, speed, int64(read)); err != nil {
					return err
				}
			}
			return b.table(fmt.Sprintf("14 equal cards that write %.0f MB/s and read %.0f, %.1f %% changed: to read all and write that takes %.1f s", speed/1e6, read/1e6, 100*float64(changed)/float64(b.size), floor), floor, []command{
				{name: "multidd --delta", line: b.ours(next, "--blocks=all --delta", r.Paths())},
				{name: "multidd --delta, back again", line: b.ours(b.image, "--blocks=all --delta", r.Paths())},
			}, 14)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// changeSome copies an image and changes a part of it. It returns how many bytes. It
// needs little memory itself, which would be counted for the commands that it starts.
func changeSome(from, to string) (changed int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	size, err := io.Copy(out, in)
	noise, piece := rand.NewChaCha8([32]byte{5}), make([]byte, changedPiece)
	for at := int64(2 << 20); err == nil && at+changedPiece <= size; at += changedOne * changedPiece {
		if _, err = noise.Read(piece); err == nil {
			_, err = out.WriteAt(piece, at)
		}
		changed += changedPiece
	}
	return changed, err
}

// usedOnly: an image a quarter full. The floor is to write what is used.
func (b *bench) usedOnly() error {
	image := filepath.Join(b.dir, "quarter.img")
	defer os.Remove(image)
	if err := sample.Make(sample.Image{Path: image, Size: b.size, Fill: b.size / 4}); err != nil {
		return err
	}
	used, err := b.used(image)
	if err != nil {
		return err
	}
	floor := float64(used) / speed
	how := fmt.Sprintf("%d of %d MB are used, cards of 20 MB/s, floor %.1f s", used/1e6, b.size/1e6, floor)
	err = b.withCards(14, func(r *devicetest.Rack) error {
		for i := range r.Paths() {
			if err := r.SetSpeed(i, speed, speed); err != nil {
				return err
			}
		}
		if err := b.table(how+", 14 cards, write and flush", floor, []command{b.written(image, r.Paths())}, 14); err != nil {
			return err
		}
		one := r.Paths()[:1]
		commands := []command{b.written(image, one)}
		if b.have("bmaptool") {
			if _, err := measure(command{name: "bmaptool create", line: fmt.Sprintf("bmaptool -q create %s > %s.map", image, image)}); err != nil {
				return err
			}
			defer os.Remove(image + ".map")
			commands = append(commands, command{name: "bmaptool copy", line: fmt.Sprintf("bmaptool -q copy --bmap %s.map %s %s", image, image, one[0])})
		}
		return b.table(how+", one card, write and flush", floor, commands, 1)
	})
	if err != nil {
		return err
	}
	return b.withCards(14, func(r *devicetest.Rack) error {
		for i := range r.Paths() {
			if err := r.SetSpeed(i, speed, speed); err != nil {
				return err
			}
		}
		return b.table(how+" twice, 14 cards, write, flush and read back", 2*floor, []command{
			{name: "multidd", line: b.ownWords(image, "", r.Paths())},
		}, 14)
	})
}

// written is multidd writing what is used, and not reading it back.
func (b *bench) written(image string, cards []string) command {
	return command{name: "multidd --verify=none", line: b.ownWords(image, "--verify=none", cards), allowed: []int{10}}
}

// ownWords is multidd's command line without anything that makes it do as others do.
func (b *bench) ownWords(image, flags string, cards []string) string {
	line := fmt.Sprintf("%s write --yes --json --store=%s %s %s", b.multidd, filepath.Join(b.dir, "store"), flags, image)
	for _, c := range cards {
		line += " " + c
	}
	return line
}

// used asks multidd how much of an image is used, in bytes.
func (b *bench) used(image string) (int64, error) {
	f, err := measure(command{name: "multidd --dry-run", line: fmt.Sprintf("%s write --dry-run --json %s %s", b.multidd, image, filepath.Join(b.dir, "none"))})
	if err != nil {
		return 0, err
	}
	var plan struct {
		Image struct {
			Used int64 `json:"used"`
		} `json:"image"`
	}
	err = json.Unmarshal(f.out, &plan)
	return plan.Image.Used, err
}

// withCards makes cards that the image fits on, without a limit of speed.
func (b *bench) withCards(n int, f func(r *devicetest.Rack) error) error {
	r, err := devicetest.NewRack(b.dir, n, b.size+(4<<20))
	if err != nil {
		return err
	}
	defer r.Close()
	return f(r)
}
