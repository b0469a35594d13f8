package devicetest

import (
	"context"
	"io"
	"slices"
	"sync"
	"syscall"
)

// A Medium is a card in memory, with faults. Its methods may be called from many
// goroutines.
type Medium struct {
	// SectorSize is the size of the logical sectors of the card once attached, in
	// bytes: a power of two from 512 to 4096; 0 means 512. It is set before Attach.
	SectorSize int

	cells *Cells

	mu      sync.Mutex
	faults  chain // ends with the cells; replaced, never changed
	power   *power
	log     []Record
	changed chan struct{} // closed when log changes; nil: nobody waits for that
}

// A Record is what is known of an operation that a medium was given.
type Record struct {
	N    int // how many operations came before it
	Kind Kind
	Off  int64 // in bytes; 0 for a Sync
	Len  int   // in bytes; 0 for a Sync
	Done bool  // it has been answered
	Err  error // what it was answered with
}

// Counts says how many operations a medium was given, by kind, answered or not,
// and how many bytes they concern.
type Counts struct {
	Reads, Writes, Syncs    int
	BytesRead, BytesWritten int64
	Failed                  int // of all of them
}

// NewMedium returns a medium of size bytes, all zero, that has the given faults,
// the outermost first.
func NewMedium(size int64, faults ...Fault) *Medium {
	cells := newCells(size)
	return &Medium{
		cells:  cells,
		faults: append(newChain(faults...), &link{flash{cells}}),
		power:  newPower(),
	}
}

// Size returns the size that the medium claims to have, in bytes.
func (m *Medium) Size() int64 { return m.cells.size }

// Cells returns what the medium holds at rest, to be read and changed past all
// faults, caches and records.
func (m *Medium) Cells() *Cells { return m.cells }

// Bytes returns a copy of all that the medium holds at rest.
func (m *Medium) Bytes() []byte {
	p := make([]byte, m.Size())
	m.cells.mu.Lock()
	defer m.cells.mu.Unlock()
	m.cells.readLocked(p, 0)
	return p
}

// Soil makes the medium a used card: what was never written to it is noise, the
// same for the same seed.
func (m *Medium) Soil(seed uint64) { m.cells.soil(seed) }

// Rot turns one bit over at rest at each of the offsets, as in a card that
// forgets. The bit is that of Flip.
func (m *Medium) Rot(offs ...int64) {
	m.cells.mu.Lock()
	defer m.cells.mu.Unlock()
	for _, off := range offs {
		var b [1]byte
		m.cells.readLocked(b[:], off)
		b[0] ^= bitAt(off)
		m.cells.writeLocked(b[:], off)
	}
}

// Inject puts a fault in outside of all others. undo, which may be called many
// times, takes it out again; operations that wait in it go on at once, and what
// a cache still holds is lost.
func (m *Medium) Inject(f Fault) (undo func()) {
	l := &link{f}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(chain{l}, m.faults...)
	return sync.OnceFunc(func() { m.remove(func(g *link) bool { return g == l }) })
}

// Heal takes all faults out, as undo does.
func (m *Medium) Heal() {
	m.remove(func(l *link) bool { _, last := l.Fault.(flash); return !last })
}

func (m *Medium) remove(which func(*link) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keep chain
	for _, l := range m.faults {
		if !which(l) {
			keep = append(keep, l)
		} else if w, ok := l.Fault.(interface{ lift() }); ok {
			w.lift()
		}
	}
	m.faults = keep
}

// LetGo ends all waiting: operations that hang or are delayed go on, and until
// the medium is plugged in or attached again, nothing waits any more. Attach does
// this before the test's clean-up begins.
func (m *Medium) LetGo() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.power.letGo()
}

// Pull takes the card out of its slot: all operations, also those under way, fail
// with ENODEV, caches lose what they held, as with PowerCut, and the block
// devices it is attached as are taken down when nobody has them open any more.
// Pull does not wait for that.
func (m *Medium) Pull() { m.turnOff(syscall.ENODEV) }

// PowerCut takes the card's power away: all operations, also those under way,
// fail with EIO, and what was not flushed is lost from its caches, wholly or in
// part.
func (m *Medium) PowerCut() { m.turnOff(syscall.EIO) }

// Plug gives the card its power back after Pull or PowerCut. Attach it again if
// it is to be a block device again.
func (m *Medium) Plug() { m.plug() }

func (m *Medium) plug() *power {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.power.err() != nil || m.power.inHurry() {
		m.power = newPower()
	}
	return m.power
}

// turnOff ends the power. Whoever holds data looks, under its own lock, whether
// there is power, and is cut under that lock after the power has gone: so
// nothing reaches the cells once turnOff has returned.
func (m *Medium) turnOff(why error) {
	m.mu.Lock()
	p, faults := m.power, m.faults
	if p.err() != nil {
		m.mu.Unlock()
		return
	}
	p.why = why
	close(p.lost)
	p.letGo()
	m.mu.Unlock()
	for i, l := range faults {
		if c, ok := l.Fault.(interface{ cut(Next) }); ok {
			c.cut(faults[i+1:].do)
		}
	}
}

// ReadAt is as in io.ReaderAt. The errors of faults are system errors such as
// syscall.EIO.
func (m *Medium) ReadAt(p []byte, off int64) (int, error) {
	return m.do(Read, p, off, io.EOF)
}

// WriteAt is as in io.WriterAt. What lies past the end is refused with ENOSPC.
func (m *Medium) WriteAt(p []byte, off int64) (int, error) {
	return m.do(Write, p, off, syscall.ENOSPC)
}

// Sync puts what was written so far where a power cut cannot reach it.
func (m *Medium) Sync() error {
	_, err := m.answer(Op{Kind: Sync})
	return err
}

func (m *Medium) do(kind Kind, p []byte, off int64, past error) (int, error) {
	p, end := clip(p, off, m.Size(), past)
	if len(p) == 0 {
		return 0, end
	}
	n, err := m.answer(Op{Kind: kind, Off: off, Data: p})
	if err == nil {
		err = end
	}
	return n, err
}

// answer records op and sends it through the chain.
func (m *Medium) answer(op Op) (int, error) {
	m.mu.Lock()
	op.N, op.size, op.power = len(m.log), m.Size(), m.power
	faults := m.faults
	m.record(append(m.log, Record{N: op.N, Kind: op.Kind, Off: op.Off, Len: len(op.Data)}))
	m.mu.Unlock()

	n, err := 0, op.power.err()
	if err == nil {
		n, err = faults.do(op)
	}
	if lost := op.power.err(); lost != nil {
		n, err = 0, lost
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.log[op.N].Done, m.log[op.N].Err = true, err
	m.record(m.log)
	return n, err
}

func (m *Medium) record(log []Record) {
	m.log = log
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// Log returns what the medium was given so far, in the order in which it came.
func (m *Medium) Log() []Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// Counts sums up the log.
func (m *Medium) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	var c Counts
	for _, r := range m.log {
		switch r.Kind {
		case Read:
			c.Reads++
			c.BytesRead += int64(r.Len)
		case Write:
			c.Writes++
			c.BytesWritten += int64(r.Len)
		case Sync:
			c.Syncs++
		}
		if r.Err != nil {
			c.Failed++
		}
	}
	return c
}

// Await waits until the log holds a record that match accepts, and returns it.
// The error is ctx's cause.
func (m *Medium) Await(ctx context.Context, match func(Record) bool) (Record, error) {
	for {
		m.mu.Lock()
		if i := slices.IndexFunc(m.log, match); i >= 0 {
			defer m.mu.Unlock()
			return m.log[i], nil
		}
		if m.changed == nil {
			m.changed = make(chan struct{})
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, context.Cause(ctx)
		}
	}
}
