package resize

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"multidd/internal/block"
	"multidd/internal/overlay"
	"multidd/internal/volume"
)

// A Growth is how a disk on a larger card differs from the image it comes from.
type Growth struct {
	// Pieces take the place of what the image has there, in ascending order, or
	// stand where it has nothing. They are read-only: cards of one size share them.
	Pieces []block.Block
	// Number is that of the partition that grows; 0: there is no table.
	Number int
	// From and To are the sizes of its file system, in bytes, before and after.
	// They are the same if the card has no more room.
	From, To int64
	// Notes are sentences about what else people should know.
	Notes []string
}

// Bytes returns how many bytes the pieces have.
func (g *Growth) Bytes() int64 {
	var n int64
	for _, p := range g.Pieces {
		n += int64(len(p.Data))
	}
	return n
}

// A Grower finds out how a disk grows to the sizes of cards. Its methods may be
// called from any goroutine.
type Grower struct {
	base  io.ReaderAt
	disk  *volume.Disk
	given []block.Extent
	dir   string

	mu   sync.Mutex
	done map[int64]*Growth // guarded by mu: by the size of the card in bytes
}

// NewGrower returns the Grower of the disk that base holds and volume.Look
// describes. Given is what a card is given of it, which is mostly disk.Map.
// Temporary files, without names and with many holes, lie in dir; "": the directory
// for temporary files.
func NewGrower(base io.ReaderAt, disk *volume.Disk, given block.Map, dir string) *Grower {
	return &Grower{base: base, disk: disk, given: given.Used, dir: dir, done: map[int64]*Growth{}}
}

// Grow returns how the disk differs on a card of size bytes, where its last
// partition and the file system in it reach to the end. It is found out once for
// every size.
//
// A *Refusal says why that cannot be, a *Damage what is wrong with the file
// system, a *Missing which program is not installed. Other errors are trouble
// with reading the image or with the temporary file.
func (g *Grower) Grow(ctx context.Context, size int64) (*Growth, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if done := g.done[size]; done != nil {
		return done, nil
	}
	t, err := g.target(size)
	if err != nil {
		return nil, err
	}
	defer t.table.Close()
	grown, err := t.grow(ctx)
	if err != nil {
		return nil, err
	}
	g.done[size] = grown
	return grown, nil
}

// A target is what the disk is to become.
type target struct {
	*Grower
	part
	size  int64         // of the card, in bytes
	end   int64         // of the last partition then
	refit []block.Block // what changes in the partition table
	table *overlay.Overlay
	out   *Growth
}

// target decides what fits on a card.
func (g *Grower) target(size int64) (*target, error) {
	p, err := lastPart(g.disk, "grown")
	if err != nil {
		return nil, err
	}
	size -= size % int64(g.disk.Sector)
	end := alignDown(size)
	switch g.disk.Table {
	case "gpt":
		end = alignDown(size - gptBackup(g.disk.Sector))
	case "mbr": // counts in 32 bits
		end = min(end, alignDown((1<<32-1)*int64(g.disk.Sector)))
	default:
		end = alignBlock(size, p.fs)
	}
	if need := g.least(p); size < need {
		return nil, refuse("the card has %d bytes, and the image needs %d for its partitions as they are: make it smaller (multidd capture --shrink) or take a larger card", size, need)
	}
	t := &target{Grower: g, part: p, size: size, end: max(end, p.End())}
	t.out = &Growth{Number: p.number, From: p.fs.Size, To: p.fs.Size}
	if t.refit, err = Refit(g.base, g.disk, size, t.end); err != nil {
		return nil, err
	}
	t.table, err = overlay.New(t.refit)
	return t, err
}

// gptBackup returns how many bytes the backup of a GPT takes at the end of the disk
// at most: a header, and entries of 16 KiB.
func gptBackup(sector int) int64 { return 16<<10 + int64(sector) }

// least returns the size of the smallest card that holds the partitions as they
// are, in bytes.
func (g *Grower) least(p part) int64 {
	if g.disk.Table == "gpt" {
		return p.End() + gptBackup(g.disk.Sector)
	}
	return p.End()
}

// grow finds out what differs.
func (t *target) grow(ctx context.Context) (*Growth, error) {
	larger := t.end > t.End()
	if !larger && t.fs.Size >= alignBlock(t.Len, t.fs) {
		if t.size != t.disk.Size {
			t.out.Pieces = t.refit
		}
		return t.out, nil
	}
	if larger {
		if err := t.note(); err != nil {
			return nil, err
		}
	}
	pieces, err := t.enlarge(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range t.refit {
		if p.Off < t.Off || !larger {
			pieces = append(pieces, p)
		}
	}
	if larger {
		// Nothing stays of what the card has at its end; the backup of the table
		// is there, too.
		tail := block.Extent{Off: max(t.end, alignDown(t.size)-Align)}
		tail.Len = t.size - tail.Off
		more, err := overlay.Take(t.grown(nil), []block.Extent{tail})
		if err != nil {
			return nil, err
		}
		pieces = append(pieces, more...)
	}
	slices.SortFunc(pieces, func(a, b block.Block) int { return cmp.Compare(a.Off, b.Off) })
	t.out.Pieces = pieces
	return t.out, nil
}

// alignBlock returns the highest number of whole blocks in n bytes, in bytes.
func alignBlock(n int64, fs *volume.FileSystem) int64 {
	return n / int64(fs.BlockSize) * int64(fs.BlockSize)
}

// note looks for what lies behind the partition and is lost when that grows.
func (t *target) note() error {
	e, err := behind(t.base, t.disk, t.part)
	if err == nil && e.Len > 0 {
		t.out.Notes = append(t.out.Notes, fmt.Sprintf("what lies behind the last partition (%v) is left out: %v grows over it", e, t.part))
	}
	return err
}

// behind returns the extent that has something between the last partition and the
// backup of the table, or the end of the disk. Its Len is 0 if there are only
// zeros or what is free.
func behind(r io.ReaderAt, d *volume.Disk, p part) (block.Extent, error) {
	all := block.Extent{Off: p.End(), Len: d.Size - p.End()}
	if d.Table == "gpt" {
		all.Len -= gptBackup(d.Sector)
	}
	buf := make([]byte, 1<<20)
	var found block.Extent
	for _, e := range within(d.Map().Used, all) {
		for at := e.Off; at < e.End(); {
			b := buf[:min(int64(len(buf)), e.End()-at)]
			if err := readFull(r, b, at); err != nil {
				return found, fmt.Errorf("read the disk: %w", err)
			}
			first := slices.IndexFunc(b, func(c byte) bool { return c != 0 })
			if first >= 0 {
				if found.Len == 0 {
					found.Off = at + int64(first)
				}
				found.Len = at + int64(len(bytes.TrimRight(b, "\x00"))) - found.Off
			}
			at += int64(len(b))
		}
	}
	return found, nil
}

// A grownDisk is read as it will be on the card. What lies behind the last
// partition is zeros and the table's backup.
type grownDisk struct {
	*target
	inside io.ReaderAt // the partition, from its first byte; nil: not looked at
}

func (t *target) grown(inside io.ReaderAt) *grownDisk { return &grownDisk{t, inside} }

// ReadAt is as in io.ReaderAt.
func (g *grownDisk) ReadAt(p []byte, off int64) (int, error) {
	if off >= g.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), g.size-off))
	for at := off; at < off+int64(n); {
		b := p[at-off : n]
		var err error
		switch {
		case at < g.Off:
			b = b[:min(int64(len(b)), g.Off-at)]
			err = readFull(g.base, b, at)
		case at < g.end:
			b = b[:min(int64(len(b)), g.end-at)]
			err = readFull(g.inside, b, at-g.Off)
		default:
			clear(b)
		}
		if err != nil {
			return int(at - off), err
		}
		at += int64(len(b))
	}
	g.table.Fill(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// enlarge lets the file system grow in a scratch, first without the content of its
// files.
func (t *target) enlarge(ctx context.Context) ([]block.Block, error) {
	s, err := newScratch(t.dir, t.part)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	inside := io.NewSectionReader(t.base, t.Off, t.Len)
	if t.fs.State == volume.Clean {
		data, err := filesOf(inside, t.Len)
		if err == nil {
			var pieces []block.Block
			if pieces, err = t.try(ctx, s, data); err == nil {
				return pieces, nil
			}
		}
		if !errors.Is(err, errOdd) && !errors.Is(err, errMoved) {
			return nil, err
		}
	}
	return t.try(ctx, s, &fileData{})
}

// errMoved says that the content of files was moved.
var errMoved = errors.New("the content of files was moved")

// filesOf finds the content of the plain files of a file system.
func filesOf(r io.ReaderAt, size int64) (*fileData, error) {
	x, err := openExt(r, size)
	if err != nil {
		return nil, err
	}
	return x.files()
}

// try lets the file system grow without the content that is named, and returns what
// differs from the image then. The error is errMoved if the content is needed
// after all.
func (t *target) try(ctx context.Context, s *scratch, data *fileData) ([]block.Block, error) {
	copied := without(t.inside(t.disk.Map().Used, t.Extent), data.extents)
	size := t.end - t.Off
	if err := s.fill(ctx, t.base, t.Off, copied, size); err != nil {
		return nil, err
	}
	if err := s.repair(ctx); err != nil {
		return nil, err
	}
	if err := s.resize(ctx, size/int64(t.fs.BlockSize)); err != nil {
		return nil, err
	}
	if err := s.prove(ctx); err != nil {
		return nil, err
	}
	if err := s.Truncate(size); err != nil { // resize2fs leaves out what is too small for a group
		return nil, err
	}
	x, err := openExt(s, size)
	if err != nil {
		return nil, fmt.Errorf("understand what resize2fs made of %v: %w", t.part, err)
	}
	if len(data.extents) > 0 {
		if after, err := x.files(); err != nil || after.sum != data.sum {
			return nil, errors.Join(errMoved, err)
		}
	}
	return t.compare(s, x, copied, data.extents)
}

// inside returns the extents within e, counted from the first byte of the partition.
func (t *target) inside(all []block.Extent, e block.Extent) []block.Extent {
	all = within(all, e)
	for i := range all {
		all[i].Off -= t.Off
	}
	return all
}

// compare returns what differs: of what was copied and a card is given, the blocks
// that are not the same; of what it is not given, all that is used now.
func (t *target) compare(s *scratch, x *ext, copied, left []block.Extent) ([]block.Block, error) {
	disk, err := volume.Look(t.grown(s), t.size)
	if err != nil {
		return nil, err
	}
	now := disk.FS
	if n := len(disk.Parts); n > 0 {
		now = disk.Parts[n-1].FS
	}
	if now == nil || now.State != volume.Clean {
		return nil, fmt.Errorf("what resize2fs made of %v is not understood", t.part)
	}
	t.out.To = now.Size
	unwritten, err := x.unwritten()
	if err != nil {
		return nil, err
	}
	used := without(t.inside(disk.Map().Used, block.Extent{Off: t.Off, Len: t.end - t.Off}), left)
	changed := without(used, common(copied, t.inside(t.given, t.Extent)))
	fresh := without(changed, unwritten)
	both := without(used, changed)
	pieces, err := overlay.Diff(io.NewSectionReader(t.base, t.Off, t.Len), s, both, t.fs.BlockSize)
	if err != nil {
		return nil, err
	}
	more, err := overlay.Take(s, fresh)
	if err != nil {
		return nil, err
	}
	pieces = append(pieces, more...)
	for i := range pieces {
		pieces[i].Off += t.Off
	}
	return pieces, nil
}
