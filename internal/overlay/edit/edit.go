// Package edit turns what a row of names asks for into pieces of one image: the files of a
// card that differ from those of all others, and its own identifiers. Nothing is mounted, and
// no path ever leads to a file of this computer.
//
// FAT is changed by package volume/fat, in memory. ext2, ext3 and ext4 are changed by debugfs
// of e2fsprogs, which knows every feature there is, on a nameless file that holds what
// describes the file system and not the content of its files; what differs afterwards are the
// pieces. debugfs tells of no failure by its exit status, so that everything it says is taken
// for one, e2fsck looks at the result, and the files are read back from the image with the
// pieces laid over it. docs/identity.md says more.
package edit

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"multidd/internal/block"
	"multidd/internal/identity"
	"multidd/internal/overlay"
	"multidd/internal/volume"
)

// Options say how edits are made.
type Options struct {
	// Now is the time of files that change, to the second.
	Now time.Time
	// Dir is where temporary files without names lie; "": in memory if there is room, or else in
	// the directory for those.
	Dir string
	// Random gives what is new on every card; nil: crypto/rand. It is read by several
	// goroutines at once.
	Random io.Reader
	// Workers is how many cards are made ready at once; 0: one for each processor.
	Workers int
	// Thorough lets e2fsck look at every card, and not only at the first.
	Thorough bool
}

// MaxBytes is the most that all patches of one MakeAll may have together, in bytes.
const MaxBytes = 1 << 30

// maxFile is the most that a file that is edited may have, in bytes.
const maxFile = 1 << 20

// A Refusal says, in a clause, why an image cannot take an edit: there is no such directory, no
// room, a file system that has to be repaired or cannot be changed. Nothing was touched.
type Refusal struct{ why string }

func (e *Refusal) Error() string { return e.why }

func refuse(format string, args ...any) error { return &Refusal{fmt.Sprintf(format, args...)} }

// A Missing says which program is not installed.
type Missing struct{ Program, Package string }

func (e *Missing) Error() string {
	return fmt.Sprintf("%s is needed, and not installed; on Debian it is in the package %s", e.Program, e.Package)
}

// A Patch is how one card differs from the image.
type Patch struct {
	Name string // of the card
	// Pieces take the place of what the image has there, in ascending order. They are ready
	// for overlay.New.
	Pieces []block.Block
	// Changed are the files that differ: "/etc/hostname in partition 2".
	Changed []string
}

// Bytes returns how many bytes the pieces have.
func (p *Patch) Bytes() int64 {
	var n int64
	for _, b := range p.Pieces {
		n += int64(len(b.Data))
	}
	return n
}

// An Editor makes the patches of the cards of one image. Its methods may be called from any
// goroutine, but for Close.
type Editor struct {
	base io.ReaderAt
	disk *volume.Disk
	o    Options
	ext  map[int]*extPart // by number of the partition
}

// New returns the Editor of the disk that base holds and volume.Look describes.
func New(base io.ReaderAt, disk *volume.Disk, o Options) *Editor {
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	e := &Editor{base: base, disk: disk, o: o, ext: map[int]*extPart{}}
	for _, p := range e.parts() {
		if isExt(p.FS) {
			e.ext[p.Number] = &extPart{e: e, p: p}
		}
	}
	return e
}

// Close gives the temporary files back.
func (e *Editor) Close() {
	for _, x := range e.ext {
		x.close()
	}
}

// parts returns the partitions, or the disk as one of number 0 if it has no table.
func (e *Editor) parts() []volume.Part {
	if e.disk.FS != nil {
		return []volume.Part{{Extent: block.Extent{Len: e.disk.Size}, FS: e.disk.FS}}
	}
	return e.disk.Parts
}

func isExt(fs *volume.FileSystem) bool {
	return fs != nil && (fs.Kind == "ext2" || fs.Kind == "ext3" || fs.Kind == "ext4")
}

func isFAT(fs *volume.FileSystem) bool {
	return fs != nil && (fs.Kind == "fat12" || fs.Kind == "fat16" || fs.Kind == "fat32")
}

func nameOf(p volume.Part) string {
	if p.Number == 0 {
		return "the file system"
	}
	return fmt.Sprintf("partition %d", p.Number)
}

// find returns the partition that a template means.
func (e *Editor) find(want identity.Partition) (volume.Part, error) {
	var found []volume.Part
	for _, p := range e.parts() {
		switch {
		case want.Number > 0 && p.Number == want.Number,
			want.Label != "" && p.FS != nil && p.FS.Label == want.Label,
			want.Label != "" && p.Name == want.Label,
			want == identity.Partition{} && isExt(p.FS) && len(found) == 0:
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 0 && want == identity.Partition{}:
		return volume.Part{}, refuse("there is no ext2, ext3 or ext4 file system in the image, and the templates name no partition")
	case len(found) == 0:
		return volume.Part{}, refuse("%v is not in the image", want)
	case len(found) > 1:
		return volume.Part{}, refuse("%v: there are %d; say the number", want, len(found))
	}
	return found[0], editable(found[0])
}

// editable returns why a partition cannot be changed.
func editable(p volume.Part) error {
	switch {
	case p.FS == nil:
		return refuse("%s has no file system that is known, and cannot be changed", nameOf(p))
	case !isExt(p.FS) && !isFAT(p.FS):
		return refuse("%s is %s: only ext2, ext3, ext4 and FAT can be changed", nameOf(p), p.FS.Kind)
	case p.FS.State == volume.Unknown:
		return refuse("%s (%s) cannot be changed: %s", nameOf(p), p.FS.Kind, p.FS.Why)
	case p.FS.State != volume.Clean:
		return refuse("%s (%s) cannot be changed as it is: %s; let the device that it comes from shut down, or repair it with fsck", nameOf(p), p.FS.Kind, p.FS.Why)
	}
	return nil
}

// A fileEdit is an edit of a file in a known partition.
type fileEdit struct {
	path     string
	existing bool // it is left out if there is no such file
	mode     uint32
	uid, gid int
	apply    func(old []byte) ([]byte, error)
}

// work is what is to be done to one partition.
type work struct {
	volume.Part
	files []fileEdit
	uuid  *[16]byte // nil: it stays
}

// Make returns the patch of one card. A *Refusal says why there can be none, a *Missing what is
// not installed; other errors are trouble with reading the image, with temporary files, or
// with what debugfs made.
func (e *Editor) Make(ctx context.Context, c *identity.Card) (*Patch, error) {
	todo, pieces, err := e.plan(c)
	if err != nil {
		return nil, err
	}
	out := &Patch{Name: c.Name, Pieces: pieces}
	for _, w := range todo {
		var changed []string
		if x := e.ext[w.Number]; x != nil {
			pieces, changed, err = x.edit(ctx, w)
		} else {
			pieces, changed, err = e.editFAT(w)
		}
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", c.Name, err)
		}
		out.Pieces = append(out.Pieces, pieces...)
		for _, path := range changed {
			out.Changed = append(out.Changed, path+" in "+nameOf(w.Part))
		}
	}
	slices.SortFunc(out.Pieces, func(a, b block.Block) int { return cmp.Compare(a.Off, b.Off) })
	return out, nil
}

// plan gathers what is to be done to each partition, and the pieces outside of them.
func (e *Editor) plan(c *identity.Card) ([]*work, []block.Block, error) {
	var todo []*work
	of := func(p volume.Part) *work {
		i := slices.IndexFunc(todo, func(w *work) bool { return w.Number == p.Number })
		if i < 0 {
			i = len(todo)
			todo = append(todo, &work{Part: p})
		}
		return todo[i]
	}
	for _, x := range c.Edits {
		p, err := e.find(x.Partition)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", x.Path, err)
		}
		w := of(p)
		w.files = append(w.files, fileEdit{x.Path, false, uint32(x.Mode.Perm()), x.UID, x.GID, x.Apply})
	}
	var changes []change
	for _, u := range c.UUIDs {
		p, err := e.find(u.Partition)
		if err != nil {
			return nil, nil, err
		}
		if of(p).uuid != nil {
			return nil, nil, refuse("%s would get two UUIDs", nameOf(p))
		}
		of(p).uuid = &u.UUID
		changes = append(changes, uuidChange(p, u.UUID))
	}
	var pieces []block.Block
	if c.DiskID != [4]byte{} {
		piece, more, err := e.diskID(c.DiskID)
		if err != nil {
			return nil, nil, err
		}
		pieces, changes = append(pieces, piece), append(changes, more)
	}
	if len(changes) == 0 {
		return todo, pieces, nil
	}
	return todo, pieces, e.planReferences(c, changes, of)
}

// MakeAll returns the patches of all rows, made side by side. The first error ends it: then there
// are none.
func (e *Editor) MakeAll(ctx context.Context, set *identity.Set, rows []identity.Row) ([]*Patch, error) {
	if err := set.Check(rows); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patches := make([]*Patch, len(rows))
	var mu sync.Mutex // guards bytes
	bytes := int64(0)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(e.o.Workers, len(rows)) {
		workers.Go(func() {
			for i := range next {
				p, err := e.makeRow(ctx, set, rows[i])
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				bytes += p.Bytes()
				if bytes > MaxBytes {
					cancel(refuse("what differs on %d cards takes more than %d MiB of memory: make fewer at once", len(rows), MaxBytes>>20))
				}
				mu.Unlock()
				patches[i] = p
			}
		})
	}
	for i := range rows {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	workers.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return patches, nil
}

func (e *Editor) makeRow(ctx context.Context, set *identity.Set, r identity.Row) (*Patch, error) {
	c, err := set.Card(r, e.o.Random)
	if err != nil {
		return nil, err
	}
	return e.Make(ctx, c)
}

// A patched is a disk with pieces laid over it.
type patched struct {
	base io.ReaderAt
	over *overlay.Overlay
}

// ReadAt is as in io.ReaderAt.
func (p patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.base.ReadAt(b, off)
	p.over.Fill(b[:n], off)
	return n, err
}

// Patched returns the disk as a card with the patch has it. Pieces beyond the end of base are
// not seen.
func Patched(base io.ReaderAt, p *Patch) (io.ReaderAt, error) {
	o, err := overlay.New(slices.Clone(p.Pieces))
	if err != nil {
		return nil, err
	}
	return patched{base, o}, nil
}

var errBack = errors.New("what was written is not what is read back")
