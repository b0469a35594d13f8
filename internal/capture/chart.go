package capture

import (
	"slices"

	"multidd/internal/block"
)

// A Status says how far the reading of some bytes has come. The values are the
// letters of GNU ddrescue's map files.
type Status byte

const (
	Untried   Status = '?' // not read yet
	Untrimmed Status = '*' // could not be read as a large piece
	Unscraped Status = '/' // could not be read as a small piece
	Bad       Status = '-' // a sector that could not be read
	Finished  Status = '+' // read
)

func (s Status) valid() bool {
	switch s {
	case Untried, Untrimmed, Unscraped, Bad, Finished:
		return true
	}
	return false
}

// A Segment is some bytes of one status.
type Segment struct {
	block.Extent
	Status Status
}

// A Chart says of every byte of a disk how far its reading has come.
type Chart struct {
	segments []Segment // ascending, without gaps; neighbours differ in status
}

// NewChart returns the chart of a disk of size bytes of which nothing was read.
func NewChart(size int64) *Chart {
	c := &Chart{}
	if size > 0 {
		c.segments = []Segment{{block.Extent{Len: size}, Untried}}
	}
	return c
}

// Size returns the size of the disk in bytes.
func (c *Chart) Size() int64 {
	if len(c.segments) == 0 {
		return 0
	}
	return c.segments[len(c.segments)-1].End()
}

// Clone returns a copy that changes on its own.
func (c *Chart) Clone() *Chart { return &Chart{slices.Clone(c.segments)} }

// find returns the segment that a byte is in.
func (c *Chart) find(off int64) int {
	i, _ := slices.BinarySearchFunc(c.segments, off, func(s Segment, off int64) int {
		if s.End() <= off {
			return -1
		}
		return 1
	})
	return i
}

// Set gives an extent, which lies on the disk, a status.
func (c *Chart) Set(e block.Extent, s Status) {
	if e.Len <= 0 {
		return
	}
	from, to := c.find(e.Off), c.find(e.End()-1)
	var parts []Segment
	add := func(off, end int64, s Status) {
		switch last := len(parts) - 1; {
		case off >= end:
		case last >= 0 && parts[last].Status == s:
			parts[last].Len = end - parts[last].Off
		default:
			parts = append(parts, Segment{block.Extent{Off: off, Len: end - off}, s})
		}
	}
	if from > 0 { // it may become one with what is set
		from--
		add(c.segments[from].Off, c.segments[from].End(), c.segments[from].Status)
	}
	first := c.segments[c.find(e.Off)]
	add(first.Off, e.Off, first.Status)
	add(e.Off, e.End(), s)
	add(e.End(), c.segments[to].End(), c.segments[to].Status)
	if to+1 < len(c.segments) {
		to++
		add(c.segments[to].Off, c.segments[to].End(), c.segments[to].Status)
	}
	c.segments = slices.Replace(c.segments, from, to+1, parts...)
}

// Of returns the parts of an extent that have one of some statuses, in ascending
// order, neighbours in one.
func (c *Chart) Of(e block.Extent, statuses ...Status) []block.Extent {
	var found []block.Extent
	if e.Len <= 0 {
		return nil
	}
	for _, s := range c.segments[c.find(e.Off):] {
		if s.Off >= e.End() {
			break
		}
		if !slices.Contains(statuses, s.Status) {
			continue
		}
		found = appendExtent(found, s.Intersect(e))
	}
	return found
}

// appendExtent appends an extent to a list of ascending ones.
func appendExtent(list []block.Extent, e block.Extent) []block.Extent {
	if last := len(list) - 1; last >= 0 && list[last].End() == e.Off {
		list[last].Len += e.Len
		return list
	}
	return append(list, e)
}

// Within is Of for all of some extents.
func (c *Chart) Within(used []block.Extent, statuses ...Status) []block.Extent {
	var found []block.Extent
	for _, e := range used {
		for _, f := range c.Of(e, statuses...) {
			found = appendExtent(found, f)
		}
	}
	return found
}

func total(extents []block.Extent) (n int64) {
	for _, e := range extents {
		n += e.Len
	}
	return n
}
