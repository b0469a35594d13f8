package volume

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"

	"multidd/internal/block"
)

// A Watcher sees a disk pass by once, in order and without gaps, and says as
// early as can be known which of its bytes are used. It says of no byte that it
// is free which Look would call used, except where Look finds damage further on
// (a warning of Disk then says so) or the disk ends before its table says.
//
// Its memory is bounded: the first MiB of the disk, up to 8 MiB of what passed
// last while a reader could come back to it, the tables of one file system, and the map.
//
// Its methods may be called from several goroutines.
type Watcher struct {
	mu   sync.Mutex
	scan scan
	tape tape
	next func() (struct{}, bool) // lets the scan go on until it waits or ends; nil: it has ended
	stop func()
	used []block.Extent // what See has returned so far
	lost bool           // See was called out of order
}

// NewWatcher returns a Watcher that has seen nothing. It is to be closed.
func NewWatcher() *Watcher {
	w := &Watcher{}
	w.scan = scan{r: &w.tape, size: endless, stream: true, disk: &Disk{Sector: 512}}
	w.next, w.stop = iter.Pull(w.run)
	return w
}

// run is the scan as a coroutine. It yields whenever it wants bytes that have not
// passed yet. What a scan cannot go on with leaves all that follows used.
func (w *Watcher) run(yield func(struct{}) bool) {
	w.tape.wait = func() bool { return yield(struct{}{}) }
	err := w.scan.run()
	if err != nil && !errors.Is(err, errStopped) {
		w.scan.disk.warn("%v: from there on all of the disk counts as used", err)
	}
	w.tape.want = math.MaxInt64
}

// See takes the bytes of the disk from off on, which is where the bytes before
// ended, and returns the extents of the disk among them, in ascending order, that
// are used or not known to be free. It does not keep p. If off is not where the
// bytes before ended, all that follows is used.
func (w *Watcher) See(off int64, p []byte) []block.Extent {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := block.Extent{Off: off, Len: int64(len(p))}
	if off != w.tape.pos {
		w.endLocked()
		w.lost, w.tape.pos, w.scan.told = true, off, told{}
	}
	if len(p) == 0 {
		return nil
	}
	w.tape.now = p
	for w.next != nil && w.tape.want < seen.End() {
		if _, more := w.next(); !more {
			w.endLocked()
		}
	}
	w.tape.pass()
	used := w.scan.told.take(seen)
	w.rememberLocked(used)
	return used
}

func (w *Watcher) rememberLocked(used []block.Extent) {
	if w.lost {
		return
	}
	for _, e := range used {
		if n := len(w.used) - 1; n >= 0 && w.used[n].End() == e.Off {
			w.used[n].Len += e.Len
		} else {
			w.used = append(w.used, e)
		}
	}
}

// Disk returns what is known by now; after the end of the disk, everything. Its
// Map is what See has returned so far.
func (w *Watcher) Disk() *Disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := *w.scan.disk
	d.Size = w.tape.pos
	if d.used = slices.Clone(w.used); w.lost {
		d.used = nil
	}
	d.Parts = slices.Clone(d.Parts)
	for i := range d.Parts {
		d.Parts[i].FS = clone(d.Parts[i].FS)
	}
	d.FS = clone(d.FS)
	d.Warnings = slices.Clone(d.Warnings)
	return &d
}

func clone(fs *FileSystem) *FileSystem {
	if fs == nil {
		return nil
	}
	c := *fs
	return &c
}

// Used returns about how many bytes of the disk will turn out to be used, as far
// as its table and the superblocks that have passed say; ok is false until there
// is something to go by.
func (w *Watcher) Used() (n int64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.scan.disk
	if d.FS != nil {
		return d.FS.needs(d.FS.Size), true
	}
	var end int64
	for _, p := range d.Parts {
		if n += max(0, p.Off-end) + p.FS.needs(p.Len); n > endless {
			return 0, false
		}
		end = p.End()
	}
	return n, len(d.Parts) > 0
}

// needs returns how many of the size bytes that fs lies in are used.
func (fs *FileSystem) needs(size int64) int64 {
	if fs == nil || fs.State != Clean {
		return size
	}
	return min(size, fs.Used+max(0, size-fs.Size))
}

// Close ends the watching. What has been found out stays.
func (w *Watcher) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked()
}

func (w *Watcher) endLocked() {
	w.next = nil
	w.tape.want = math.MaxInt64
	w.stop()
}

// keep is how much of what has passed is kept for a reader that comes back to it,
// in bytes: the tables of a file system are not always in order.
const keep = 4 << 20

// errStopped ends a scan when the watching has ended.
var errStopped = errors.New("nobody watches any more")

// A tape is a disk that passes by. Reading what has not passed yet waits for it;
// reading what has passed works for the first MiB, and for the last 4 MiB before
// what is waited for.
type tape struct {
	head []byte // the first MiB, as far as it has passed
	past []byte // the bytes before pos that are kept
	now  []byte // the bytes from pos on, which are passing
	pos  int64
	want int64       // what is waited for
	wait func() bool // returns when more has passed; false: never
}

// ReadAt waits for what has not passed.
func (t *tape) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		start := t.pos - int64(len(t.past))
		switch {
		case at < int64(len(t.head)):
			n += copy(p[n:], t.head[at:])
		case at < start:
			return n, errGone
		case at < t.pos:
			n += copy(p[n:], t.past[at-start:])
		case at < t.pos+int64(len(t.now)):
			n += copy(p[n:], t.now[at-t.pos:])
		default:
			t.want = at
			if !t.wait() {
				return n, errStopped
			}
		}
	}
	return n, nil
}

// pass lets the bytes that are passing go by, and keeps what may be asked for.
func (t *tape) pass() {
	p, end := t.now, t.pos+int64(len(t.now))
	t.now = nil
	if room := block.HeadSize - t.pos; room > 0 {
		t.head = append(t.head, p[:min(room, int64(len(p)))]...)
	}
	t.pos = end
	if t.want == math.MaxInt64 || end < t.want-keep {
		t.past = nil
		return
	}
	if len(p) >= keep {
		p, t.past = p[len(p)-keep:], nil
	}
	if t.past == nil {
		t.past = make([]byte, 0, 2*keep)
	}
	if len(t.past)+len(p) > cap(t.past) {
		t.past = append(t.past[:0], t.past[len(t.past)-(keep-len(p)):]...)
	}
	t.past = append(t.past, p...)
}
