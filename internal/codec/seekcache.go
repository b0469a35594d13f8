package codec

import (
	"errors"
	"io"
	"sync"
)

// A seekCache is the frames that were asked for last, unpacked. There is a fixed
// number of places for them, and of those who unpack.
type seekCache struct {
	s       *Seekable
	benches chan *frameBench

	mu     sync.Mutex
	freed  *sync.Cond // a place may be taken
	places []*seekPlace
	clock  int64
}

// A seekPlace is where a frame is kept. What it holds is changed only by the one
// who found it unused.
type seekPlace struct {
	frame int // -1: none
	data  []byte
	err   error
	ready chan struct{} // closed when data or err is there
	users int           // guarded by the cache's mu, like frame and last
	last  int64         // when it was taken last
}

// maxSeekPlaces bounds the places where frames are small.
const maxSeekPlaces = 64

var errNegative = errors.New("read before the beginning of an image")

// newSeekCache makes the places for frames; ok is false if there is not even
// memory for one.
func newSeekCache(s *Seekable) (c *seekCache, ok bool) {
	budget := s.o.Ahead / 2
	bench := s.maxPacked + frameCost
	benches := max(1, min(int64(s.o.Workers), budget/2/bench))
	places := min(maxSeekPlaces, (budget-benches*bench)/max(1, s.maxUnpacked))
	if places < 1 {
		return nil, false
	}
	c = &seekCache{s: s, benches: make(chan *frameBench, benches)}
	c.freed = sync.NewCond(&c.mu)
	for range benches {
		c.benches <- &frameBench{}
	}
	for range places {
		c.places = append(c.places, &seekPlace{frame: -1})
	}
	return c, true
}

// memory returns the most that the cache takes, in bytes.
func (c *seekCache) memory() int64 {
	return int64(len(c.places))*c.s.maxUnpacked + int64(cap(c.benches))*(c.s.maxPacked+frameCost)
}

// take returns frame i, unpacked, which stays so until it is given to release.
func (c *seekCache) take(i int) (*seekPlace, error) {
	c.mu.Lock()
	p, fresh := c.placeLocked(i)
	p.users++
	c.clock++
	p.last = c.clock
	if fresh {
		p.frame, p.err, p.ready = i, nil, make(chan struct{})
	}
	ready := p.ready
	c.mu.Unlock()
	if fresh {
		c.fill(p)
	}
	<-ready
	if p.err != nil {
		c.release(p)
		return nil, p.err
	}
	return p, nil
}

// placeLocked returns the place that has frame i, or else the one that has been
// out of use for longest; it waits until there is one.
func (c *seekCache) placeLocked(i int) (p *seekPlace, fresh bool) {
	for {
		var unused *seekPlace
		for _, p := range c.places {
			if p.frame == i {
				return p, false
			}
			if p.users == 0 && (unused == nil || p.last < unused.last) {
				unused = p
			}
		}
		if unused != nil {
			return unused, true
		}
		c.freed.Wait()
	}
}

// fill unpacks the frame that p is for. An error is only for those who wait for
// it now: the next one tries again.
func (c *seekCache) fill(p *seekPlace) {
	b := <-c.benches
	err := c.read(p, b)
	c.benches <- b
	c.mu.Lock()
	if p.err = err; err != nil {
		p.frame = -1
	}
	c.mu.Unlock()
	close(p.ready)
}

func (c *seekCache) read(p *seekPlace, b *frameBench) error {
	from, to := c.s.frames[p.frame], c.s.frames[p.frame+1]
	packed := b.room(to.start - from.start)
	if err := readFullAt(c.s.r, packed, from.start); err != nil {
		return err
	}
	if int64(cap(p.data)) < to.off-from.off {
		p.data = make([]byte, 0, to.off-from.off)
	}
	data, err := c.s.unpack(p.frame, b, packed, p.data[:0])
	if err == nil {
		p.data = data
	}
	return err
}

// release gives a place up.
func (c *seekCache) release(p *seekPlace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.users--; p.users == 0 {
		c.freed.Broadcast()
	}
}

// ReadAt is as in io.ReaderAt. A frame that is damaged, or is not what the table
// says, is an *Error.
func (s *Seekable) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errNegative
	}
	for n < len(p) {
		if off >= s.Size() {
			return n, io.EOF
		}
		i := s.at(off)
		place, err := s.cache.take(i)
		if err != nil {
			return n, err
		}
		k := copy(p[n:], place.data[off-s.frames[i].off:])
		s.cache.release(place)
		n, off = n+k, off+int64(k)
	}
	return n, nil
}
