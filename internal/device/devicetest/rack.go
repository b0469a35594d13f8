package devicetest

import (
	"errors"
	"fmt"
	"sync"
)

// A Rack is a number of cards of chosen speeds, each a block device. It belongs
// to whoever made it, who closes it. Should the process die, the kernel takes the
// devices down.
type Rack struct{ cards []rackCard }

// A rackCard is a card whose speed can be set.
type rackCard interface {
	path() string
	setSpeed(write, read int64) error
	Close() error
}

// NewRack returns n cards of size bytes that are loop devices over files in dir,
// which has the room for them and is best a tmpfs. The files have no names. Their
// speed is limited by the kernel, so that it costs nothing and is the same for
// every program; see SetSpeed.
func NewRack(dir string, n int, size int64) (*Rack, error) {
	return newRack(n, func() (rackCard, error) { return newFileCard(dir, size) })
}

// NewFakeRack returns n cards of size bytes that are media attached by this
// process, for where NewRack cannot set speeds. What is written to them takes
// memory of this process, and time of its processors.
func NewFakeRack(n int, size int64) (*Rack, error) {
	return newRack(n, func() (rackCard, error) { return newFakeCard(size) })
}

func newRack(n int, newCard func() (rackCard, error)) (*Rack, error) {
	r := new(Rack)
	for i := range n {
		c, err := newCard()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make card %d of %d: %w", i+1, n, err), r.Close())
		}
		r.cards = append(r.cards, c)
	}
	return r, nil
}

// Paths returns the paths of the devices.
func (r *Rack) Paths() []string {
	paths := make([]string, len(r.cards))
	for i, c := range r.cards {
		paths[i] = c.path()
	}
	return paths
}

// SetSpeed limits how many bytes per second card i takes and gives, from now on;
// 0 is no limit. The error is ErrNoThrottle where the kernel offers no way.
func (r *Rack) SetSpeed(i int, write, read int64) error {
	if err := r.cards[i].setSpeed(write, read); err != nil {
		return fmt.Errorf("set the speed of %s: %w", r.cards[i].path(), err)
	}
	return nil
}

// Close takes the devices down and frees what they held. A device that somebody
// still has open is taken down when they close it.
func (r *Rack) Close() error {
	errs := make([]error, len(r.cards))
	var wg sync.WaitGroup
	for i, c := range r.cards {
		wg.Go(func() { errs[i] = c.Close() })
	}
	wg.Wait()
	r.cards = nil
	return errors.Join(errs...)
}

// fakeCard is a rackCard that is a medium.
type fakeCard struct {
	*Card
	rate *rate
}

func newFakeCard(size int64) (rackCard, error) {
	r := Rate(0, 0).(*rate)
	c, err := Serve(NewMedium(size, r), "")
	if err != nil {
		return nil, err
	}
	return fakeCard{c, r}, nil
}

func (c fakeCard) path() string { return c.Path }

func (c fakeCard) setSpeed(write, read int64) error {
	c.rate.set(write, read)
	return nil
}
