package devicetest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// fileCard is a rackCard that is a loop device over a file.
type fileCard struct {
	hold *os.File // the device
	dev  uint64   // its number
}

func newFileCard(dir string, size int64) (rackCard, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make a loop device: only root can")
	}
	file, err := os.CreateTemp(dir, "card-*.img")
	if err != nil {
		return nil, fmt.Errorf("make a card's file: %w", err)
	}
	defer file.Close()
	// Without a name it is gone, with its bytes, when the device is.
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("take away the name of a card's file: %w", err)
	}
	// A file that has all its memory from the start: finding it would slow down
	// whoever writes first.
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
		return nil, fmt.Errorf("make a card's file of %d bytes: %w", size, err)
	}
	hold, err := attachLoop(int(file.Fd()), loopOptions{})
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(hold.Fd()), &st); err != nil {
		hold.Close()
		return nil, fmt.Errorf("stat %s: %w", hold.Name(), err)
	}
	return &fileCard{hold, st.Rdev}, nil
}

func (c *fileCard) path() string { return c.hold.Name() }

func (c *fileCard) setSpeed(write, read int64) error { return setThrottle(c.dev, write, read) }

// Close lifts the limits, lest the next card with this number have them, and
// lets go of the device.
func (c *fileCard) Close() error {
	err := setThrottle(c.dev, 0, 0)
	if errors.Is(err, ErrNoThrottle) {
		err = nil
	}
	return errors.Join(err, c.hold.Close())
}
