package edit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"multidd/internal/block"
	"multidd/internal/overlay"
	"multidd/internal/volume"
	"multidd/internal/volume/ext"
)

// An extPart is a partition with an ext file system that is edited. All its extents count from
// the first byte of the partition.
type extPart struct {
	e *Editor
	p volume.Part

	once     sync.Once // guards the making of what follows, up to mu
	err      error
	fs       *ext.FileSystem
	meta     *os.File       // what describes the file system; where the content of files is there is nothing
	metaData []block.Extent // of meta that are no holes
	copied   []block.Extent // what meta has of the image
	content  []block.Extent // of plain files; not in meta

	mu      sync.Mutex
	idle    []*os.File        // guarded by mu: copies of meta
	known   map[string]source // guarded by mu: files of the image, by the path asked for
	checked bool              // guarded by mu: e2fsck has seen a result
}

// A source is a file of the image that is to be edited.
type source struct {
	ext.Place
	old []byte
	err error
}

func (x *extPart) inside() io.ReaderAt { return io.NewSectionReader(x.e.base, x.p.Off, x.p.Len) }

func (x *extPart) close() {
	for _, f := range append(x.idle, x.meta) {
		if f != nil {
			_ = f.Close()
		}
	}
	x.idle, x.meta = nil, nil
}

// prepare makes the copy that debugfs works on, once.
func (x *extPart) prepare(ctx context.Context) error {
	x.once.Do(func() {
		if x.err = x.copyMeta(ctx); x.err != nil {
			return
		}
		var out, complaint string
		var status int
		out, complaint, status, x.err = x.e.program(ctx, []*os.File{x.meta}, "", "e2fsck", "-f", "-n", fdName(0))
		if x.err == nil && status != 0 {
			x.err = refuse("%s (%s) cannot be changed as it is: e2fsck finds damage (%s); repair it with e2fsck -f", nameOf(x.p), x.p.FS.Kind, said(out+complaint))
		}
	})
	return x.err
}

func (x *extPart) copyMeta(ctx context.Context) error {
	var err error
	if x.fs, err = ext.Open(x.inside()); err != nil {
		return refuse("%s (%s) cannot be changed: %v", nameOf(x.p), x.p.FS.Kind, err)
	}
	err = x.fs.Content(func(_, off, n int64) error {
		x.content = append(x.content, block.Extent{Off: off, Len: n})
		return nil
	})
	if err != nil {
		return refuse("%s (%s) cannot be changed: %v", nameOf(x.p), x.p.FS.Kind, err)
	}
	x.content = normal(x.content)
	x.copied = without(relative(x.e.disk.Map().Used, x.p.Extent), x.content)
	if x.meta, err = nameless(x.e.o.Dir); err != nil {
		return err
	}
	if err := x.meta.Truncate(x.p.Len); err != nil {
		return fmt.Errorf("make a temporary file of %d bytes, nearly all holes: %w", x.p.Len, err)
	}
	if err := copyExtents(ctx, x.meta, x.inside(), x.copied); err != nil {
		return fmt.Errorf("copy what describes %s: %w", nameOf(x.p), err)
	}
	x.metaData, err = dataOf(x.meta, x.p.Len)
	return err
}

// take returns a copy of meta for one card.
func (x *extPart) take(ctx context.Context) (*os.File, error) {
	x.mu.Lock()
	if n := len(x.idle); n > 0 {
		f := x.idle[n-1]
		x.idle = x.idle[:n-1]
		x.mu.Unlock()
		return f, nil
	}
	x.mu.Unlock()
	need := int64(16 << 20) // that a card may add
	for _, e := range x.metaData {
		need += e.Len
	}
	f, err := nameless(x.e.dir(need))
	if err == nil {
		err = f.Truncate(x.p.Len)
	}
	if err == nil {
		err = copyExtents(ctx, f, x.meta, x.metaData)
	}
	if err != nil && f != nil {
		_ = f.Close()
	}
	return f, err
}

// giveBack undoes what was done to a copy, for the next card. What is not in the image becomes
// zeros: no card's keys stay there.
func (x *extPart) giveBack(f *os.File, pieces []block.Block) {
	for _, p := range pieces {
		b := make([]byte, len(p.Data))
		err := readFull(x.meta, b, p.Off)
		if err == nil {
			_, err = f.WriteAt(b, p.Off)
		}
		if err != nil {
			_ = f.Close()
			return
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.idle = append(x.idle, f)
}

// find returns a file of the image, with its content.
func (x *extPart) find(path string) source {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s, ok := x.known[path]; ok {
		return s
	}
	var s source
	s.Place, s.err = x.fs.Find(path)
	switch {
	case s.err != nil || s.Node == nil:
	case !s.Node.Mode.IsRegular():
		s.err = fmt.Errorf("it is a %s, not a file", s.Node.Kind())
	case s.Node.Size > maxFile:
		s.err = fmt.Errorf("it has %d bytes, and only files of up to %d can be edited", s.Node.Size, maxFile)
	default:
		s.old, s.err = x.fs.ReadFile(path, maxFile)
	}
	if x.known == nil {
		x.known = map[string]source{}
	}
	x.known[path] = s
	return s
}

// A result is a file as it is to be.
type result struct {
	source
	path     string // as it was asked for
	now      []byte
	mode     uint32 // permissions
	uid, gid int
}

// results carries the edits out in memory. Files that stay as they are are not among them.
func (x *extPart) results(edits []fileEdit) ([]*result, error) {
	type place struct {
		dir  int64
		name string
	}
	var all []*result
	at := map[place]*result{}
	for _, d := range edits {
		s := x.find(d.path)
		absent := s.Node == nil && (s.err == nil || errors.Is(s.err, fs.ErrNotExist))
		r := at[place{s.Dir, s.Name}]
		if d.existing && absent && (s.err != nil || r == nil) {
			continue
		}
		if s.err != nil {
			return nil, refuse("%s in %s cannot be edited: %s", d.path, nameOf(x.p), clean(s.err.Error()))
		}
		if strings.ContainsFunc(s.Name, func(r rune) bool { return r < ' ' || r == '"' || r == 0x7f }) {
			return nil, refuse("%s in %s cannot be edited: it leads to a file with a control character or a quotation mark in its name (%q)", d.path, nameOf(x.p), s.Name)
		}
		if r == nil {
			r = &result{source: s, path: d.path, now: s.old, mode: d.mode, uid: d.uid, gid: d.gid}
			if s.Node != nil {
				r.mode, r.uid, r.gid = s.Node.UnixMode()&0o7777, s.Node.UID, s.Node.GID
			}
			at[place{s.Dir, s.Name}] = r
			all = append(all, r)
		}
		now, err := d.apply(r.now)
		if err != nil {
			return nil, refuse("%s in %s cannot be edited: %v", d.path, nameOf(x.p), err)
		}
		if len(now) > maxFile {
			return nil, refuse("%s in %s would have %d bytes, and %d is the most", d.path, nameOf(x.p), len(now), maxFile)
		}
		r.now = now
	}
	return slices.DeleteFunc(all, func(r *result) bool { return r.Node != nil && bytes.Equal(r.old, r.now) }), nil
}

// edit returns the pieces in which the disk differs, and the paths that do.
func (x *extPart) edit(ctx context.Context, w *work) ([]block.Block, []string, error) {
	if err := x.prepare(ctx); err != nil {
		return nil, nil, err
	}
	results, err := x.results(w.files)
	if err != nil || len(results) == 0 && w.uuid == nil {
		return nil, nil, err
	}
	f, err := x.take(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("copy what describes %s: %w", nameOf(x.p), err)
	}
	pieces, err := x.editCopy(ctx, f, results, w.uuid)
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	x.giveBack(f, pieces)
	var changed []string
	for _, r := range results {
		changed = append(changed, r.path)
	}
	for i, p := range pieces {
		pieces[i] = block.New(p.Off+x.p.Off, p.Data, nil)
	}
	return pieces, changed, x.readBack(pieces, results)
}

// editCopy changes a copy and returns what is not as it was.
func (x *extPart) editCopy(ctx context.Context, f *os.File, results []*result, uuid *[16]byte) ([]block.Block, error) {
	if len(results) > 0 {
		if err := x.debugfs(ctx, f, results); err != nil {
			return nil, err
		}
	}
	leak, err := x.leaks(results)
	if err == nil && (leak || uuid != nil) {
		err = x.repair(ctx, f)
	}
	if err != nil {
		return nil, err
	}
	if uuid != nil {
		if err := x.setUUID(ctx, f, *uuid); err != nil {
			return nil, err
		}
	}
	if err := x.check(ctx, f); err != nil {
		return nil, err
	}
	return x.compare(f, results)
}

// check lets e2fsck look at the first result, or at all.
func (x *extPart) check(ctx context.Context, f *os.File) error {
	x.mu.Lock()
	done := x.checked && !x.e.o.Thorough
	x.mu.Unlock()
	if done {
		return nil
	}
	out, complaint, status, err := x.e.program(ctx, []*os.File{f}, "", "e2fsck", "-f", "-n", fdName(0))
	if err == nil && status != 0 {
		err = fmt.Errorf("what debugfs made of %s is not clean (%s): this is a mistake in debugfs", nameOf(x.p), said(out+complaint))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.checked = x.checked || err == nil
	return err
}

// compare returns in what a changed copy differs from the image: of what was copied, the blocks
// that are not as they were; of what was free, or belonged to a file that was replaced, all that
// is used now, for nobody knows what a card has there.
func (x *extPart) compare(f *os.File, results []*result) ([]block.Block, error) {
	disk, err := volume.Look(view{x, f}, x.e.disk.Size)
	if err != nil {
		return nil, err
	}
	now := disk.FS
	for _, p := range disk.Parts {
		if p.Number == x.p.Number {
			now = p.FS
		}
	}
	if now == nil || now.State != volume.Clean {
		return nil, fmt.Errorf("what debugfs made of %s is not clean", nameOf(x.p))
	}
	var replaced []block.Extent
	for _, r := range results {
		if r.Ino == 0 || r.Links > 1 { // its blocks are still those of its other names
			continue
		}
		err := x.fs.ContentOf(r.Ino, func(_, off, n int64) error {
			replaced = append(replaced, block.Extent{Off: off, Len: n})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	kept := without(x.content, normal(replaced))
	fresh := without(without(relative(disk.Map().Used, x.p.Extent), x.copied), kept)
	data, err := dataOf(f, x.p.Len)
	if err != nil {
		return nil, err
	}
	data = normal(append(data, x.metaData...))
	pieces, err := overlay.Diff(x.meta, f, without(x.copied, without(x.copied, data)), max(512, min(4096, now.BlockSize)))
	if err != nil {
		return nil, err
	}
	more, err := overlay.Take(f, fresh)
	if err != nil {
		return nil, err
	}
	pieces = append(pieces, more...)
	slices.SortFunc(pieces, func(a, b block.Block) int { return cmp.Compare(a.Off, b.Off) })
	return pieces, nil
}

// A view is the disk with one partition from a copy, and nothing in the others.
type view struct {
	x *extPart
	f *os.File
}

// ReadAt is as in io.ReaderAt.
func (v view) ReadAt(p []byte, off int64) (int, error) {
	n, err := v.x.e.base.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return n, err
	}
	all := block.Extent{Off: off, Len: int64(n)}
	for _, part := range v.x.e.parts() {
		in := part.Intersect(all)
		if in.Len == 0 {
			continue
		}
		b := p[in.Off-off:][:in.Len]
		if part.Number != v.x.p.Number {
			clear(b)
		} else if err := readFull(v.f, b, in.Off-part.Off); err != nil {
			return 0, err
		}
	}
	return n, err
}

// readBack reads what was written, from the image with the pieces laid over it.
func (x *extPart) readBack(pieces []block.Block, results []*result) error {
	r, err := Patched(x.e.base, &Patch{Pieces: pieces})
	if err != nil {
		return err
	}
	fs, err := ext.Open(io.NewSectionReader(r, x.p.Off, x.p.Len))
	if err != nil {
		return fmt.Errorf("%w: %w", errBack, err)
	}
	for _, want := range results {
		p, err := fs.Find(want.path)
		if err == nil && p.Node == nil {
			err = errors.New("it is not there")
		}
		var b []byte
		if err == nil {
			b, err = fs.ReadFile(want.path, maxFile)
		}
		if err == nil && !bytes.Equal(b, want.now) {
			at := 0
			for at < min(len(b), len(want.now)) && b[at] == want.now[at] {
				at++
			}
			err = fmt.Errorf("%d bytes are there, and not %d; they differ from byte %d on", len(b), len(want.now), at)
		}
		if err == nil && (p.Node.UnixMode()&0o7777 != want.mode || p.Node.UID != want.uid || p.Node.GID != want.gid) {
			err = errors.New("its mode or owner differs")
		}
		if err != nil {
			return fmt.Errorf("%w: %s in %s: %w", errBack, want.path, nameOf(x.p), err)
		}
	}
	return nil
}

// relative returns what of all extents lies within e, counted from its beginning.
func relative(all []block.Extent, e block.Extent) []block.Extent {
	var out []block.Extent
	for _, x := range all {
		if in := x.Intersect(e); in.Len > 0 {
			out = append(out, block.Extent{Off: in.Off - e.Off, Len: in.Len})
		}
	}
	return out
}

// normal returns the same extents in ascending order, joined where they touch or overlap.
func normal(all []block.Extent) []block.Extent {
	slices.SortFunc(all, func(a, b block.Extent) int { return cmp.Compare(a.Off, b.Off) })
	var out []block.Extent
	for _, e := range all {
		if n := len(out); n > 0 && out[n-1].End() >= e.Off {
			out[n-1].Len = max(out[n-1].End(), e.End()) - out[n-1].Off
			continue
		}
		out = append(out, e)
	}
	return out
}

// without returns what of a is not in b. Both are in ascending order.
func without(a, b []block.Extent) []block.Extent {
	var out []block.Extent
	for _, e := range a {
		for len(b) > 0 && b[0].End() <= e.Off {
			b = b[1:]
		}
		for _, gap := range b {
			if gap.Off >= e.End() {
				break
			}
			if gap.Off > e.Off {
				out = append(out, block.Extent{Off: e.Off, Len: gap.Off - e.Off})
			}
			e = block.Extent{Off: gap.End(), Len: max(0, e.End()-gap.End())}
		}
		if e.Len > 0 {
			out = append(out, e)
		}
	}
	return out
}
