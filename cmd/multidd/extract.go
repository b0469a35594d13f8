package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"multidd/internal/block"
	"multidd/internal/build"
	"multidd/internal/codec"
	"multidd/internal/device"
	"multidd/internal/image"
	"multidd/internal/station"
	"multidd/internal/tree"
)

// extractOptions are what `multidd extract` was asked for.
type extractOptions struct {
	from, to                 string
	partition, path, scratch string
	store                    string
	force                    bool
}

func newExtract(c console) *cobra.Command {
	var o extractOptions
	cmd := &cobra.Command{
		Use:   "extract [flags] IMAGE|CARD DIR|TAR",
		Short: "Take the files out of an image or a card",
		Long: `Take the files of a partition (ext2, ext3, ext4, FAT or JFFS2) out of an image
or off a card, into a new directory or a tar. Nothing is mounted, and what they
come from is only read.

IMAGE is a file, raw or packed; a root of JFFS2 alone is one, too. CARD is a
device, a link to one, or a slot; it must not be mounted, unless read-only.

A name that ends in .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst or
.tar.lz4 is a tar, and - is a tar to standard output; any other is a directory,
which must be empty or not there yet. A tar keeps everything: owners, devices,
hard links, extended attributes. In a directory owners and devices are kept for
root, and for others it is said how many names have lost something.

The exit status is 0 if all files are out, 5 if the card is refused, 6 if the
image is bad, 7 if a permission is missing, 1 for anything else, 130 and 143 if
it was interrupted.`,
		Example: `  multidd extract moz-ref-v2.img.bz2 root.tar.xz
  multidd extract --partition=2 --path=/etc /dev/sdb etc/
  multidd extract root.jffs2 - | tar -tv`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("extract: name an image or a card, and a directory or tar for its files")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.from, o.to = args[0], args[1]
			return runExtract(c, &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.partition, "partition", "", "which partition, by its `NUMBER|LABEL` (default: the only one with files)")
	f.StringVar(&o.path, "path", "", "only what is below `PATH` in it")
	f.BoolVar(&o.force, "force", false, "overwrite a tar that is there")
	f.StringVar(&o.scratch, "scratch", "", "where a packed image is unpacked that has to be, `DIR` (default: $TMPDIR)")
	f.StringVar(&o.store, "store", "", "where unpacked copies are looked for, `DIR|off` (default: multidd/store in the user's cache directory)")
	return cmd
}

// runExtract is `multidd extract`. A card may hang in the kernel, so it happens in a
// worker.
func runExtract(c console, o *extractOptions) error {
	if o.to == "-" && term.IsTerminal(int(c.out.Fd())) {
		return quit(station.ExitUsage, "a tar is nothing for a terminal; name a file, or send standard output elsewhere")
	}
	if !isWorker() {
		status, err := supervise(os.Args[1:])
		return &exitError{status, err}
	}
	ctx, stop := onSignals(context.Background(), func() {})
	defer stop()
	x := &extractor{c: c, o: o}
	defer x.close()
	err := x.run(ctx)
	var bad *image.Error
	switch {
	case ctx.Err() != nil:
		return interrupted(ctx)
	case err == nil || errors.As(err, new(*exitError)):
		return err
	case errors.Is(err, fs.ErrPermission):
		return &exitError{station.ExitPermission, err}
	case errors.As(err, &bad):
		return &exitError{station.ExitImage, err}
	}
	return &exitError{station.ExitError, err}
}

// An extractor takes files out of one image or card.
type extractor struct {
	c       console
	o       *extractOptions
	card    *device.Source // nil: it is no card
	closers []func() error
}

func (x *extractor) close() {
	for _, c := range x.closers {
		_ = c() // only read, or scratch
	}
}

func (x *extractor) run(ctx context.Context) error {
	if err := x.place(); err != nil {
		return err
	}
	r, size, err := x.open(ctx)
	if err != nil {
		return err
	}
	r = stoppable{ctx, r}
	files, err := build.ReadFiles(r, size, x.o.partition)
	if err != nil {
		return fmt.Errorf("%s: %w", x.o.from, err)
	}
	t := files.Tree
	if x.o.path != "" {
		if t, err = below(t, x.o.path); err != nil {
			return fmt.Errorf("%s: %w", x.o.from, err)
		}
	}
	lost, err := x.write(t)
	if err == nil && x.card != nil {
		err = x.card.Check() // whether somebody wrote to it meanwhile
	}
	if err != nil {
		return err
	}
	from := "the file system"
	if files.Part.Number > 0 {
		from = partName(files.Part)
	}
	totals := t.Totals()
	say(x.c.err, "%s of %s is in %s: %d names, %d files with %s", station.Clean(from), station.Clean(x.o.from), toName(x.o.to), totals.Names, totals.Files, station.Amount(totals.Bytes))
	if lost > 0 {
		say(x.c.err, "%d names have lost their owner, a device or an attribute, which only root can give: make a tar, or run it as root", lost)
	}
	return nil
}

func toName(name string) string {
	if name == "-" {
		return "the tar on standard output"
	}
	return name
}

// tarFormat returns how a tar of that name is packed; false: it is a directory.
func tarFormat(name string) (codec.Format, bool) {
	lower := strings.ToLower(name)
	switch {
	case name == "-" || strings.HasSuffix(lower, ".tar"):
		return codec.Raw, true
	case strings.HasSuffix(name, "/"):
		return "", false
	}
	for ending, f := range map[string]codec.Format{".tgz": codec.Gzip, ".tbz2": codec.Bzip2, ".txz": codec.XZ, ".tzst": codec.Zstd} {
		if strings.HasSuffix(lower, ending) {
			return f, true
		}
	}
	f := codec.ByName(name)
	return f, f != codec.Raw && f != codec.Zip && strings.HasSuffix(strings.TrimSuffix(lower, filepath.Ext(lower)), ".tar")
}

// place looks whether there is room for the files where they are to go, before anything
// takes time.
func (x *extractor) place() error {
	to := x.o.to
	if to == "-" {
		return nil
	}
	if inDev(to) {
		return quit(station.ExitUsage, "%s is below /dev, where no files belong; name another place", to)
	}
	fi, err := os.Stat(to)
	_, isTar := tarFormat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case isTar && !fi.Mode().IsRegular():
		return quit(station.ExitUsage, "%s is not a plain file; name another", to)
	case isTar && !x.o.force:
		return quit(station.ExitUsage, "%s is there already; name another, or say --force", to)
	case isTar:
		return nil
	case !fi.IsDir():
		return quit(station.ExitUsage, "%s is a file; name a directory, or a tar that ends in .tar, .tar.gz …", to)
	}
	entries, err := os.ReadDir(to)
	if err == nil && len(entries) > 0 {
		return quit(station.ExitUsage, "the directory %s is not empty; name a new one", to)
	}
	return err
}

// write writes the tree where it is to go. It returns how many names have lost something.
func (x *extractor) write(t *tree.Tree) (lost int, err error) {
	f, isTar := tarFormat(x.o.to)
	switch {
	case !isTar:
		return t.WriteDir(x.o.to)
	case x.o.to == "-":
		return 0, t.WriteTar(x.c.out)
	}
	dir, base := filepath.Split(x.o.to)
	temp, err := os.CreateTemp(filepath.Clean(dir), "."+base+".multidd-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(temp.Name()) // gone after the renaming
	defer temp.Close()
	if err := packTar(temp, f, t); err != nil {
		return 0, fmt.Errorf("write %s: %w", x.o.to, err)
	}
	if x.o.force {
		return 0, os.Rename(temp.Name(), x.o.to)
	}
	return 0, os.Link(temp.Name(), x.o.to)
}

func packTar(to *os.File, f codec.Format, t *tree.Tree) error {
	w, err := codec.NewWriter(to, f, codec.WriteOptions{})
	if err != nil {
		return err
	}
	err = t.WriteTar(w)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = to.Chmod(0o644)
	}
	if err == nil {
		err = to.Sync()
	}
	return err
}

// open opens the card or image such that it can be read at any place.
func (x *extractor) open(ctx context.Context) (io.ReaderAt, int64, error) {
	_, isCard, err := findCard(x.o.from)
	if err != nil {
		return nil, 0, err
	}
	if isCard {
		src, err := openCard(&captureOptions{card: x.o.from})
		if err != nil {
			return nil, 0, err
		}
		x.closers, x.card = append(x.closers, src.Close), src
		return &chunked{r: src, size: src.Size()}, src.Size(), nil
	}
	o := image.Options{All: true, Stdin: x.c.in, Store: storeAt(x.o.store), Unpack: codec.ReadOptions{Memory: inspectMemory, Ahead: inspectAhead}}
	if x.o.from == "-" {
		o.Store = nil
	}
	im, err := image.Open(ctx, x.o.from, o)
	if err != nil {
		return nil, 0, err
	}
	x.closers = append(x.closers, im.Close)
	if r, ok := im.ReaderAt(); ok {
		return r, im.Size(), nil
	}
	if x.o.from != "-" { // it is unpacked once, and not into the store
		o.Store = nil
		if im, err = image.Open(ctx, x.o.from, o); err != nil {
			return nil, 0, err
		}
		x.closers = append(x.closers, im.Close)
	}
	return x.unpack(ctx, im)
}

// unpack unpacks an image that cannot be read at any place into a scratch file.
func (x *extractor) unpack(ctx context.Context, im *image.Image) (io.ReaderAt, int64, error) {
	f, err := os.CreateTemp(x.o.scratch, "multidd-extract-")
	if err != nil {
		return nil, 0, err
	}
	_ = os.Remove(f.Name()) // it is there until it is closed
	x.closers = append(x.closers, f.Close)
	packed := int64(-1)
	if fi := im.Info(); fi != nil {
		packed = fi.Size()
	}
	var failed error
	r, err := readThrough(ctx, x.c, im, packed, func(b block.Block) {
		if failed == nil && notZero(b.Data) > 0 {
			_, failed = f.WriteAt(b.Data, b.Off)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	size := r.Stats().Decoded
	if failed == nil {
		failed = f.Truncate(size)
	}
	if failed != nil {
		return nil, 0, fmt.Errorf("unpack %s into a scratch file (--scratch says where): %w", x.o.from, failed)
	}
	return f, size, nil
}

// below returns what is below a path of a tree; a file becomes a tree with one name.
func below(t *tree.Tree, p string) (*tree.Tree, error) {
	at, n, err := t.Resolve(p)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, fmt.Errorf("there is no /%s in it", strings.Trim(p, "/"))
	case at == ".":
		return t, nil
	}
	sub := tree.New()
	if !n.Mode.IsDir() {
		return sub, sub.Put(path.Base(at), n)
	}
	err = t.Walk(func(p string, n *tree.Node) error {
		rest, ok := strings.CutPrefix(p+"/", at+"/")
		if !ok {
			return nil
		}
		rest = strings.TrimSuffix(rest, "/")
		if n.Mode.IsDir() {
			n = n.Bare()
		}
		return sub.Put(rest, n) // of the directory itself: ""
	})
	return sub, err
}

// stoppable is a reader that ends with its context.
type stoppable struct {
	ctx context.Context
	io.ReaderAt
}

func (s stoppable) ReadAt(p []byte, off int64) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.ReaderAt.ReadAt(p, off)
}

// A chunked reader reads from a card in pieces of some size, and keeps the last of them:
// file systems are read a few bytes at a time, and each request to a card takes a
// millisecond.
type chunked struct {
	r      io.ReaderAt
	size   int64
	chunks []chunk // the newest last
}

type chunk struct {
	off  int64
	data []byte
}

const (
	chunkSize = 256 << 10
	maxChunks = 64
)

func (c *chunked) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		if off >= c.size {
			return n, io.EOF
		}
		k, err := c.chunk(off / chunkSize * chunkSize)
		if err != nil {
			return n, err
		}
		m := copy(p[n:], k.data[off-k.off:])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

func (c *chunked) chunk(off int64) (chunk, error) {
	for i, k := range c.chunks {
		if k.off == off {
			c.chunks = append(slices.Delete(c.chunks, i, i+1), k)
			return k, nil
		}
	}
	k := chunk{off, make([]byte, min(chunkSize, c.size-off))}
	if _, err := c.r.ReadAt(k.data, off); err != nil && err != io.EOF {
		return k, err
	}
	if len(c.chunks) == maxChunks {
		c.chunks = slices.Delete(c.chunks, 0, 1)
	}
	c.chunks = append(c.chunks, k)
	return k, nil
}
