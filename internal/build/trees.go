package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"multidd/internal/codec"
	"multidd/internal/image"
	"multidd/internal/tree"
)

// undated is the time of what is made here, until the digest of the inputs is known, which
// does not depend on the clock. No file has it.
var undated = time.Unix(0, 1)

// date gives all that is undated its time.
func date(t *tree.Tree, now time.Time) {
	set := func(n *tree.Node) {
		if n.ModTime.Equal(undated) {
			n.ModTime = now
		}
	}
	all, _ := tree.ParsePattern("/**") // it is right
	t.ChangeAll(all, set)
	_ = t.Change(".", set) // it is there
}

// loader reads trees. What it opens stays open until close.
type loader struct {
	r       *Recipe
	scratch string
	closers []func() error
}

func (l *loader) close() {
	for _, c := range l.closers {
		_ = c() // only read
	}
}

// partition lays the trees of a partition over one another and applies its rules.
func (l *loader) partition(ctx context.Context, p *Partition) (*tree.Tree, error) {
	t := tree.New()
	_ = t.Change(".", func(n *tree.Node) { n.ModTime = undated })
	for i := range p.Trees {
		s := &p.Trees[i]
		upper, err := l.source(ctx, s)
		if err == nil {
			err = exclude(upper, s.Exclude)
		}
		if err == nil {
			upper, err = moved(upper, s)
		}
		if err == nil {
			err = t.Lay(upper)
		}
		if err != nil {
			return nil, fmt.Errorf("tree %d: %w", i+1, err)
		}
	}
	if err := exclude(t, p.Exclude); err != nil {
		return nil, err
	}
	for _, name := range p.Remove {
		if !t.Remove(name) {
			return nil, fmt.Errorf("remove: there is no /%s in the trees", strings.Trim(name, "/"))
		}
	}
	if err := l.devices(t, p.Devices); err != nil {
		return nil, err
	}
	for i, rule := range p.Rules {
		if err := apply(t, rule); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return t, nil
}

func exclude(t *tree.Tree, patterns []string) error {
	for _, text := range patterns {
		p, err := tree.ParsePattern(text)
		if err != nil {
			return fmt.Errorf("exclude: %w", err)
		}
		t.Exclude(p)
	}
	return nil
}

// moved puts a tree where it belongs in the file system, and gives it its owner.
func moved(t *tree.Tree, s *Source) (*tree.Tree, error) {
	if s.Owner != nil {
		all, _ := tree.ParsePattern("/**") // it is right
		own := func(n *tree.Node) { n.UID, n.GID = s.Owner.UID, s.Owner.GID }
		t.ChangeAll(all, own)
		_ = t.Change(".", own)
	}
	to := strings.Trim(path.Clean("/"+s.To), "/")
	if to == "" || s.File != "" || s.Text != nil {
		return t, nil
	}
	at := tree.New()
	_ = at.Change(".", func(n *tree.Node) { n.ModTime = undated })
	err := t.Walk(func(p string, n *tree.Node) error {
		if n.Mode.IsDir() {
			n = n.Bare()
		}
		return at.Put(path.Join(to, p), n)
	})
	return at, err
}

func (l *loader) devices(t *tree.Tree, name string) error {
	if name == "" {
		return nil
	}
	f, err := os.Open(l.r.path(name))
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	defer f.Close()
	if err := t.ApplyTable(f, undated); err != nil {
		return fmt.Errorf("devices: %s: %w", name, err)
	}
	return nil
}

func apply(t *tree.Tree, rule Rule) error {
	p, err := tree.ParsePattern(rule.Path)
	if err != nil {
		return err
	}
	n := t.ChangeAll(p, func(n *tree.Node) {
		if rule.Owner != nil {
			n.UID, n.GID = rule.Owner.UID, rule.Owner.GID
		}
		if rule.Mode != nil {
			n.Mode = n.Mode.Type() | tree.ModeOf(uint32(*rule.Mode))&tree.Permissions
		}
	})
	if n == 0 {
		return fmt.Errorf("nothing in the trees is called %s", rule.Path)
	}
	return nil
}

// source reads one tree.
func (l *loader) source(ctx context.Context, s *Source) (*tree.Tree, error) {
	switch {
	case s.Dir != "":
		return tree.FromDir(l.r.path(s.Dir))
	case s.Tar != "":
		return l.tar(ctx, s.Tar)
	case s.Image != "":
		return l.image(ctx, s)
	}
	t := tree.New()
	var n *tree.Node
	if s.Text != nil {
		n = tree.File([]byte(*s.Text), 0o644, undated)
	} else {
		name := l.r.path(s.File)
		st, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if !st.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a file", name)
		}
		n = &tree.Node{Mode: st.Mode().Perm(), ModTime: st.ModTime(), Size: st.Size(), Content: func() (io.ReadCloser, error) { return os.Open(name) }}
	}
	return t, t.Put(s.To, n)
}

// tar reads a tar, which may be packed; then it is unpacked into the scratch directory.
func (l *loader) tar(ctx context.Context, name string) (*tree.Tree, error) {
	f, err := l.open(ctx, name)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t, err := tree.FromTar(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// open opens a file that may be packed.
func (l *loader) open(ctx context.Context, name string) (*os.File, error) {
	f, err := os.Open(l.r.path(name))
	if err != nil {
		return nil, err
	}
	head := make([]byte, codec.HeadLen)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	format := codec.Recognise(head[:n])
	if format == codec.Raw {
		l.closers = append(l.closers, f.Close)
		return f, nil
	}
	defer f.Close()
	d, err := codec.NewReader(io.MultiReader(bytes.NewReader(head[:n]), f), format, codec.ReadOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer d.Close()
	to, err := os.CreateTemp(l.scratch, "tar-")
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, to.Close)
	if _, err := io.Copy(to, stopping{ctx, d}); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	return to, nil
}

// stopping is a reader that ends with its context.
type stopping struct {
	ctx context.Context
	r   io.Reader
}

func (s stopping) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}

// image reads the files of a partition of an image.
func (l *loader) image(ctx context.Context, s *Source) (*tree.Tree, error) {
	im, err := image.Open(ctx, l.r.path(s.Image), image.Options{All: true})
	if err != nil {
		return nil, err
	}
	r, random := im.ReaderAt()
	size := im.Size()
	l.closers = append(l.closers, im.Close)
	if !random || size < 0 {
		f, err := l.open(ctx, s.Image)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		r, size = f, st.Size()
	}
	which := ""
	if s.Partition > 0 {
		which = strconv.Itoa(s.Partition)
	}
	files, err := ReadFiles(r, size, which)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Image, err)
	}
	return files.Tree, nil
}
