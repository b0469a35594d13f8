// Command demo shows multidd at work: it makes a realistic master card and has multidd
// capture it; then it makes 14 virtual cards, one of them slow and one of them
// bad, and has multidd write the image to all of them. As root the cards are loop
// devices; otherwise they are files.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"multidd/internal/device/devicetest"
	"multidd/internal/sample"
	"multidd/internal/station"
)

const (
	cards     = 14
	imageSize = 64 << 20
	cardSize  = 72 << 20
	speed     = 30e6 // of most cards, in bytes/s
	slow      = 10e6 // of the slow one
	slowCard  = 4
	badCard   = 9
	badOffset = 12<<20 + 0x123 // where the bad card turns a bit over; the image uses it
)

func main() {
	begin := time.Now()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	fmt.Printf("\nThe demo took %.0f s.\n", time.Since(begin).Seconds())
}

func run() error {
	multidd, err := filepath.Abs("bin/multidd")
	if err != nil {
		return err
	}
	if _, err := os.Stat(multidd); err != nil {
		return errors.New("bin/multidd is not there: run 'make demo'")
	}
	dir, err := os.MkdirTemp(tempDir(), "multidd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	packed := filepath.Join(dir, "moz-ref-v2.img.bz2")
	fmt.Printf("Making a master card of %d MiB: MBR, ext2 root with a real tree, ext2 scratch …\n", imageSize>>20)
	if err := capture(multidd, dir, packed); err != nil {
		return err
	}
	paths, remove, err := makeCards(dir)
	if err != nil {
		return err
	}
	defer remove()
	fmt.Printf("\n$ multidd write --yes moz-ref-v2.img.bz2 %s …\n", paths[0])
	err = show(multidd, append([]string{"write", "--yes", "--store=" + filepath.Join(dir, "store"), packed}, paths...)...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != station.ExitSomeFailed {
		return fmt.Errorf("multidd write ended with %v, and one card of %d is bad: want exit status %d", err, cards, station.ExitSomeFailed)
	}
	return nil
}

// capture makes the master card and has it captured into an image.
func capture(multidd, dir, image string) error {
	master := filepath.Join(dir, "master")
	if err := sample.Make(sample.Image{Path: master, Size: imageSize, Fill: 24 << 20, Name: "moz-ref-v2"}); err != nil {
		return err
	}
	defer os.Remove(master)
	if os.Geteuid() == 0 {
		content, err := os.ReadFile(master)
		if err != nil {
			return err
		}
		m := devicetest.NewMedium(imageSize)
		if _, err := m.WriteAt(content, 0); err != nil {
			return err
		}
		m.Inject(devicetest.Rate(speed, speed))
		card, err := devicetest.Serve(m, "")
		if err != nil {
			return err
		}
		defer card.Close()
		master = card.Path
	}
	fmt.Printf("$ multidd capture %s moz-ref-v2.img.bz2\n", master)
	return show(multidd, "capture", master, image)
}

// tempDir is a file system in memory, if there is one with room.
func tempDir() string {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// makeCards makes the cards and returns how to remove them.
func makeCards(dir string) (paths []string, remove func(), err error) {
	bad := devicetest.NewMedium(cardSize, devicetest.Flip(badOffset))
	bad.Soil(1)
	if os.Geteuid() != 0 {
		fmt.Printf("Making %d cards that are files (as root they would be block devices); number %d turns a bit over …\n", cards, badCard)
		return fileCards(dir, bad)
	}
	fmt.Printf("Making %d cards of %d MB/s; number %d does %d MB/s, and number %d turns a bit over …\n", cards, int(speed/1e6), slowCard, int(slow/1e6), badCard)
	rack, err := devicetest.NewRack(dir, cards-1, cardSize)
	if err != nil {
		return nil, nil, err
	}
	for i := range cards - 1 {
		bps := int64(speed)
		if i == slowCard {
			bps = slow
		}
		if err := rack.SetSpeed(i, bps, bps); err != nil {
			fmt.Println("(the cards go as fast as this computer does:", err.Error()+")")
			break
		}
	}
	card, err := devicetest.Serve(bad, "")
	if err != nil {
		return nil, nil, errors.Join(err, rack.Close())
	}
	paths = insert(rack.Paths(), badCard, card.Path)
	return paths, func() {
		if err := errors.Join(card.Close(), rack.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "demo: take the cards down:", err)
		}
	}, nil
}

// fileCards makes cards that are files; the slow and the bad one are files of a
// file system of this process's own.
func fileCards(dir string, bad *devicetest.Medium) (paths []string, remove func(), err error) {
	var undo []func() error
	remove = func() {
		for _, f := range undo {
			if err := f(); err != nil {
				fmt.Fprintln(os.Stderr, "demo: take the cards down:", err)
			}
		}
	}
	for i := range cards {
		path := filepath.Join(dir, fmt.Sprintf("card%02d.img", i))
		var m *devicetest.Medium
		switch i {
		case slowCard:
			m = devicetest.NewMedium(cardSize, devicetest.Rate(slow, slow))
		case badCard:
			m = bad
		default:
			paths = append(paths, path)
			continue
		}
		mount := path + ".d"
		if err := os.Mkdir(mount, 0o700); err != nil {
			remove()
			return nil, nil, err
		}
		path, down, err := devicetest.ServeFile(m, mount)
		if err != nil {
			remove()
			return nil, nil, err
		}
		undo = append(undo, down)
		paths = append(paths, path)
	}
	return paths, remove, nil
}

func insert(list []string, at int, s string) []string {
	out := append([]string(nil), list[:at]...)
	return append(append(out, s), list[at:]...)
}

func show(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
