package volume

import "multidd/internal/block"

// told collects what is told about a disk, in ascending order: which extents
// are used and how far that is known.
//
// Its memory is bounded, whatever the disk looks like: once fine extents have
// been told, free space smaller than a threshold counts as used, and each
// further fine extents double it. What it makes of a disk depends on the order
// of what is told only, not on how much of it has been taken already.
type told struct {
	used  []block.Extent // ascending, apart from each other; not yet taken
	to    int64          // all before this offset has been told
	end   int64          // of the last used extent
	count int            // of the extents told so far
}

const fine = 1 << 18

// least returns the size of the smallest free space that is still told apart.
func (t *told) least() int64 {
	if steps := t.count / fine; steps > 0 {
		return 4096 << min(steps, 40)
	}
	return 1
}

// use tells that e is used and what lies between it and all that was told
// before is free. What was told already is not told again.
func (t *told) use(e block.Extent) {
	end := e.End()
	e.Off = max(e.Off, t.to)
	if e.Len = end - e.Off; e.Len <= 0 {
		return
	}
	if e.Off-t.end < t.least() {
		e.Off, e.Len = t.end, end-t.end
	}
	if n := len(t.used) - 1; n >= 0 && t.used[n].End() == e.Off {
		t.used[n].Len += e.Len
	} else {
		t.used = append(t.used, e)
		t.count++
	}
	t.to, t.end = end, end
}

// useTo tells that all that has not been told before off is used.
func (t *told) useTo(off int64) { t.use(block.Extent{Off: t.to, Len: off - t.to}) }

// freeTo tells that all that has not been told before off is free.
func (t *told) freeTo(off int64) { t.to = max(t.to, off) }

// cover tells that all of e is used after all, whatever was told about it, and
// what was told about what lies behind it.
func (t *told) cover(e block.Extent) {
	for n := len(t.used) - 1; n >= 0 && t.used[n].End() > e.Off; n-- {
		t.used[n].Len = e.Off - t.used[n].Off
		if t.used[n].Len <= 0 {
			t.used = t.used[:n]
		}
	}
	e.Len = max(e.End(), t.to) - e.Off
	t.to = min(t.to, e.Off)
	t.end = min(t.end, e.Off)
	if n := len(t.used); n > 0 {
		t.end = t.used[n-1].End()
	}
	t.use(e)
}

// known returns the offset before which nothing changes any more.
func (t *told) known() int64 {
	if t.to-t.end < t.least() {
		return t.end
	}
	return t.to
}

// take returns what is used of e, or not known to be free, and forgets all that
// was told before e's end. It is called with extents in ascending order.
func (t *told) take(e block.Extent) []block.Extent {
	var out []block.Extent
	gone := 0
	for _, u := range t.used {
		if u.Off >= e.End() {
			break
		}
		if part := u.Intersect(e); part.Len > 0 {
			out = append(out, part)
		}
		if u.End() <= e.End() {
			gone++
		}
	}
	t.used = t.used[gone:]
	if known := max(t.known(), e.Off); known < e.End() {
		if n := len(out) - 1; n >= 0 && out[n].End() == known {
			out[n].Len = e.End() - out[n].Off
		} else {
			out = append(out, block.Extent{Off: known, Len: e.End() - known})
		}
	}
	return out
}
