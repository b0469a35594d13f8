package main

import (
	"io"
	"strings"

	"multidd/internal/block"
	"multidd/internal/station"
	"multidd/internal/tui"
	"multidd/internal/volume"
	"multidd/internal/volume/ext"
)

// rates are the speeds that cards are imagined to have, in bytes a second.
var rates = [...]int64{10e6, 20e6, 40e6}

// sum puts together what is known of the disk.
func (ins *inspector) sum() {
	d := ins.disk
	if d == nil {
		return
	}
	out := &ins.out
	out.Table, out.ID, out.Sector = d.Table, d.ID, d.Sector
	used := d.Map()
	if ins.bmap != nil {
		used = *ins.bmap
	}
	out.Used = used.Bytes()
	for _, rate := range rates {
		out.Write = append(out.Write, tui.InspectedTime{Rate: rate, Seconds: float64(out.Used) / float64(rate)})
	}
	for _, w := range d.Warnings {
		ins.warn("%s.", sentenceCase(w))
	}
	if d.FS != nil {
		out.Parts = append(out.Parts, inspectedPart(d, volume.Part{Extent: block.Extent{Len: d.Size}, FS: d.FS}, used))
	}
	for _, p := range d.Parts {
		out.Parts = append(out.Parts, inspectedPart(d, p, used))
	}
}

// sentenceCase begins a sentence with a capital letter.
func sentenceCase(s string) string {
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		return string(s[0]-'a'+'A') + s[1:]
	}
	return s
}

// inspectedPart is a partition with all text in it fit to be shown.
func inspectedPart(d *volume.Disk, p volume.Part, used block.Map) tui.InspectedPart {
	x := tui.InspectedPart{
		Number: p.Number, Start: p.Off, Size: p.Len, Type: station.Clean(p.Type), Name: station.Clean(p.Name),
		PartUUID: station.Clean(p.UUID), Boot: p.Boot, Logical: p.Logical, FSSize: -1, FSUsed: -1,
	}
	if p.Number > 0 {
		x.TypeName = tui.PartType(d.Table, x.Type)
	}
	for _, e := range used.Used {
		x.Counted += e.Intersect(p.Extent).Len
	}
	if fs := p.FS; fs != nil {
		x.FS, x.Label, x.UUID = station.Clean(fs.Kind), station.Clean(fs.Label), station.Clean(fs.UUID)
		x.FSSize, x.FSUsed = fs.Size, fs.Used
		x.State, x.Why = fs.State.String(), station.Clean(fs.Why)
	}
	return x
}

// revisionFile is where an image keeps the text that says which master it came from,
// of which at most maxRevision bytes are taken.
const (
	revisionFile = "/etc/image-revision"
	maxRevision  = 4 << 10
)

// revision looks for that text in the ext file systems of the disk.
func (ins *inspector) revision(r io.ReaderAt) {
	parts := ins.disk.Parts
	if ins.disk.FS != nil {
		parts = []volume.Part{{Extent: block.Extent{Len: ins.disk.Size}, FS: ins.disk.FS}}
	}
	for _, p := range parts {
		if p.FS == nil || !strings.HasPrefix(p.FS.Kind, "ext") || p.FS.State == volume.Unknown {
			continue
		}
		f, err := ext.Open(io.NewSectionReader(r, p.Off, p.Len))
		if err != nil {
			continue
		}
		text, err := f.ReadFile(revisionFile, maxRevision)
		if err != nil {
			continue
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(station.Clean(line)); line != "" {
				lines = append(lines, line)
			}
		}
		ins.out.Revision = strings.Join(lines, "\n")
		return
	}
}
