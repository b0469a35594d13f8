package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"multidd/internal/block"
	"multidd/internal/codec"
	"multidd/internal/image"
	"multidd/internal/tree"
	"multidd/internal/volume"
)

// Options say how an image is built.
type Options struct {
	// Now is the time of all that is made here: file systems, the revision file.
	Now time.Time
	// Scratch is a directory for what is made on the way, as large as the image's
	// content; "": the system's.
	Scratch string
	Create  image.CreateOptions
	// Fiasco is the name under which a flashable root is packed for a Nokia flasher, too;
	// "": it is not.
	Fiasco string
	// Step is told what is being done, in a few words; nil: nobody is.
	Step func(string)
}

// A Report says what was built.
type Report struct {
	Made     image.Made
	Size     int64 // of the disk, in bytes
	Used     int64
	Digest   string // of all inputs: recipe, trees, boot loaders; SHA-256 in hexadecimal
	Revision string // the text of the revision file; "": there is none
	Parts    []PartReport
}

// A PartReport is what was built of one partition.
type PartReport struct {
	Number    int
	Off, Size int64 // bytes
	FS, Label string
	UUID      string
	Totals    tree.Totals
}

// identities are what tells images apart, made from their content, so that the same
// content has the same.
type identities struct {
	disk  string   // of the table
	fs    []string // of the file systems
	parts []string
}

// Build makes the image that a recipe describes, under the name out. With any error there
// is nothing of that name, or what was there before. Errors are ErrTool where a tool is
// missing, and fs.ErrExist where an image is there already.
func Build(ctx context.Context, r *Recipe, out string, o Options) (rep Report, err error) {
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if err := r.findTools(); err != nil {
		return rep, err
	}
	if o.Fiasco != "" {
		if err := r.checkFiasco(o.Fiasco, o.Create.Force); err != nil {
			return rep, fmt.Errorf("pack for a Nokia flasher: %w", err)
		}
	}
	w, err := r.create(out, o.Create)
	if err != nil {
		return rep, err
	}
	defer w.Abort()
	scratch, err := os.MkdirTemp(o.Scratch, "multidd-build-")
	if err != nil {
		return rep, fmt.Errorf("make a scratch directory: %w", err)
	}
	defer os.RemoveAll(scratch)
	if scratch, err = filepath.Abs(scratch); err != nil {
		return rep, err
	}
	l := &loader{r: r, scratch: scratch}
	defer l.close()
	b := &builder{r: r, o: o, scratch: scratch, tool: tool{now: o.Now}}
	if err := b.load(ctx, l); err != nil {
		return rep, err
	}
	if err := b.makeAll(ctx); err != nil {
		return rep, err
	}
	if err := b.assemble(ctx); err != nil {
		return rep, err
	}
	if err := b.pack(ctx, w, &rep); err != nil {
		return rep, err
	}
	b.report(&rep)
	return rep, nil
}

// create begins to make the image, so that what stands in its way is said at once.
func (r *Recipe) create(out string, o image.CreateOptions) (*image.Writer, error) {
	if r.isFlash() { // what is to be flashed is a plain file without a map
		o.NoMap = true
		if o.Format == "" && codec.ByName(out) == codec.Raw && out != "-" {
			o.Format = codec.Raw
		}
	}
	return image.Create(out, o)
}

// report says what was built.
func (b *builder) report(rep *Report) {
	rep.Size, rep.Digest, rep.Revision = b.size, b.digest, b.revision
	for i, p := range b.places {
		x := &b.r.Partitions[i]
		pr := PartReport{Number: b.number(i), Off: p.off, Size: p.size, FS: x.FS, Label: x.Label}
		switch {
		case x.FS == "fat":
			pr.UUID = strings.ToUpper(b.serial(i)[:4] + "-" + b.serial(i)[4:])
		case kinds[x.FS].uuid:
			pr.UUID = b.ids.fs[i]
		}
		if b.trees[i] != nil {
			pr.Totals = b.trees[i].Totals()
		}
		rep.Parts = append(rep.Parts, pr)
	}
}

type builder struct {
	r        *Recipe
	o        Options
	scratch  string
	tool     tool
	trees    []*tree.Tree // of the partitions; nil: it has no files
	digest   string
	revision string
	ids      identities
	files    []string // of the partitions
	places   []place
	size     int64
	disk     string // the image's raw file
}

// serial returns the serial number of a FAT, eight digits.
func (b *builder) serial(i int) string {
	return strings.ReplaceAll(cmp.Or(b.r.Partitions[i].UUID, b.ids.fs[i]), "-", "")[:8]
}

// number returns the number the kernel will give a partition.
func (b *builder) number(i int) int {
	if b.r.isLogical(i) {
		return i + 2 // the fourth is the extended one
	}
	return i + 1
}

// load reads all trees, works out the digest of everything that goes in, and adds the
// revision file.
func (b *builder) load(ctx context.Context, l *loader) error {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d %s %s %d %q\n", b.r.Name, b.r.Revision, b.r.Size, b.r.Table, b.r.ID, b.r.Align, b.r.RevisionFile)
	for i := range b.r.Partitions {
		p := &b.r.Partitions[i]
		plain := *p // what chooses files is told by the files
		plain.File, plain.Trees, plain.Exclude, plain.Remove, plain.Devices, plain.Rules = "", nil, nil, nil, "", nil
		if err := json.NewEncoder(h).Encode(plain); err != nil {
			return err
		}
		b.trees = append(b.trees, nil)
		if !kinds[p.FS].files {
			if p.FS == "raw" {
				p.File = b.r.path(p.File)
				if err := addFile(h, p.File); err != nil {
					return fmt.Errorf("partition %d: %w", i+1, err)
				}
			}
			continue
		}
		b.o.Step(fmt.Sprintf("read the trees of partition %d", b.number(i)))
		t, err := l.partition(ctx, p)
		if err == nil {
			b.trees[i] = t
			var d string
			if d, err = t.Digest(); err == nil {
				fmt.Fprintln(h, d)
				date(t, b.o.Now)
			}
		}
		if err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
	}
	for _, x := range b.r.Raw {
		fmt.Fprintln(h, "raw", x.Offset)
		if err := addFile(h, b.r.path(x.File)); err != nil {
			return fmt.Errorf("raw: %w", err)
		}
	}
	b.digest = hex.EncodeToString(h.Sum(nil))
	b.identify()
	return b.addRevision()
}

func addFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(w, f)
	fmt.Fprintln(w, n)
	return err
}

// identify makes the numbers that are not given.
func (b *builder) identify() {
	id := func(given, what string) string {
		if given != "" {
			return strings.ToLower(strings.TrimPrefix(given, "0x"))
		}
		return uuidFrom(b.digest + " " + what)
	}
	b.ids.disk = id(b.r.ID, "disk")
	for i := range b.r.Partitions {
		p := &b.r.Partitions[i]
		fs := p.UUID
		if p.FS == "fat" {
			fs = "" // it has a serial number
		}
		b.ids.fs = append(b.ids.fs, id(fs, fmt.Sprint("file system ", i)))
		b.ids.parts = append(b.ids.parts, id(p.PartUUID, fmt.Sprint("partition ", i)))
	}
}

// uuidFrom makes a UUID of a text: version 8 of RFC 9562, from SHA-256.
func uuidFrom(text string) string {
	s := sha256.Sum256([]byte(text))
	s[6], s[8] = s[6]&0xf|0x80, s[8]&0x3f|0x80
	x := hex.EncodeToString(s[:16])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// RevisionFile is where an image says which revision it is, if its recipe says nothing
// else.
const RevisionFile = "etc/image-revision"

// addRevision puts the revision file into the first partition with files that is not the
// boot partition of somebody's firmware, if there is such a one.
func (b *builder) addRevision() error {
	if b.r.RevisionFile == "none" {
		return nil
	}
	at := -1
	for i, t := range b.trees {
		if t != nil && (at < 0 || b.r.Partitions[at].FS == "fat" && b.r.Partitions[i].FS != "fat") {
			at = i
		}
	}
	if at < 0 {
		return nil
	}
	name := b.r.RevisionFile
	if name == "" {
		name = RevisionFile
	}
	var s strings.Builder
	for _, line := range [][2]string{{"name", b.r.Name}, {"revision", b.r.Revision}, {"date", b.o.Now.UTC().Format(time.RFC3339)}, {"inputs", "sha256:" + b.digest}} {
		if line[1] != "" {
			fmt.Fprintf(&s, "%s: %s\n", line[0], strings.ReplaceAll(line[1], "\n", " "))
		}
	}
	b.revision = s.String()
	t := b.trees[at]
	where, old, err := t.Resolve(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		where = name // directories that are missing are made
	case err != nil:
		return fmt.Errorf("revision-file: %w", err)
	case old != nil && !old.Mode.IsRegular():
		return fmt.Errorf("revision-file: /%s is a %s in the trees", where, old.Kind())
	}
	if err := t.Put(where, tree.File([]byte(b.revision), 0o644, b.o.Now)); err != nil {
		return fmt.Errorf("revision-file: %w", err)
	}
	return nil
}

// makeAll makes the file systems: first those that are as large as what is in them, then,
// when all sizes are known, the others.
func (b *builder) makeAll(ctx context.Context) error {
	n := len(b.r.Partitions)
	sizes := make([]int64, n)
	b.files = make([]string, n)
	for i := range b.r.Partitions {
		sizes[i] = int64(b.r.Partitions[i].Size)
		if b.r.Partitions[i].Size == Fit {
			if err := b.make(ctx, i, int64(Fit)); err != nil {
				return err
			}
			st, err := os.Stat(b.files[i])
			if err != nil {
				return err
			}
			sizes[i] = st.Size()
		}
	}
	var err error
	if b.places, b.size, err = b.r.layout(sizes); err != nil {
		return err
	}
	if err := b.r.checkRaw(b.places, b.size); err != nil {
		return err
	}
	for i := range b.r.Partitions {
		if b.r.Partitions[i].Size != Fit {
			if err := b.make(ctx, i, b.places[i].size); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) make(ctx context.Context, i int, size int64) error {
	p := &b.r.Partitions[i]
	b.o.Step(fmt.Sprintf("make partition %d, %s", b.number(i), p.FS))
	dir := filepath.Join(b.scratch, fmt.Sprintf("part%d", i))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	b.files[i] = filepath.Join(dir, "fs")
	j := &job{p: p, file: b.files[i], size: size, tree: b.trees[i], uuid: b.ids.fs[i], serial: b.serial(i), tool: b.tool, dir: dir}
	if err := kinds[p.FS].make(ctx, j); err != nil {
		return fmt.Errorf("partition %d: make %s: %w", i+1, p.FS, err)
	}
	return nil
}

// assemble puts table, file systems and boot loaders into one file.
func (b *builder) assemble(ctx context.Context) error {
	b.disk = filepath.Join(b.scratch, "disk")
	disk, err := os.OpenFile(b.disk, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := disk.Truncate(b.size); err != nil {
		return err
	}
	if err := b.r.table(ctx, b.tool, b.disk, b.places, b.ids); err != nil {
		return err
	}
	for i, p := range b.places {
		if b.r.Partitions[i].FS == "empty" {
			continue
		}
		if err := copyInto(ctx, disk, p.off, b.files[i]); err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
		if err := os.Remove(b.files[i]); err != nil {
			return err
		}
	}
	for _, x := range b.r.Raw {
		if err := copyInto(ctx, disk, int64(x.Offset), b.r.path(x.File)); err != nil {
			return fmt.Errorf("raw: %w", err)
		}
	}
	return nil
}

// copyInto copies a file into another from byte off on; zeros stay holes.
func copyInto(ctx context.Context, to *os.File, off int64, name string) error {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	buf, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(stopping{ctx, from}, buf)
		if p := buf[:n]; !bytes.Equal(p, zeros[:n]) {
			if _, err := to.WriteAt(p, off); err != nil {
				return err
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// pack makes the image out of the raw file: only what is used.
func (b *builder) pack(ctx context.Context, w *image.Writer, rep *Report) error {
	b.o.Step("pack")
	f, err := os.Open(b.disk)
	if err != nil {
		return err
	}
	defer f.Close()
	used, err := b.used(f)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, e := range used.Used {
		for at := e.Off; at < e.End(); {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			p := buf[:min(int64(len(buf)), e.End()-at)]
			if _, err := f.ReadAt(p, at); err != nil {
				return err
			}
			if _, err := w.WriteAt(p, at); err != nil {
				return err
			}
			at += int64(len(p))
		}
	}
	var nokia *fiasco
	if b.o.Fiasco != "" {
		b.o.Step("pack for a Nokia flasher")
		if nokia, err = b.packFiasco(ctx, b.o.Fiasco, b.o.Create.Force); err != nil {
			return fmt.Errorf("pack for a Nokia flasher: %w", err)
		}
		defer nokia.abort()
	}
	rep.Used = used.Bytes()
	if rep.Made, err = w.Close(b.size); err != nil {
		return err
	}
	if err := nokia.commit(); err != nil {
		return fmt.Errorf("%s is complete, but not what was packed for a Nokia flasher: %w", rep.Made.Path, err)
	}
	return nil
}

// used returns what of the disk is used; all of what is to be flashed is.
func (b *builder) used(f *os.File) (block.Map, error) {
	if b.r.isFlash() {
		return block.Whole(b.size), nil
	}
	disk, err := volume.Look(f, b.size)
	if err != nil {
		return block.Map{}, err
	}
	for _, p := range disk.Dirty() {
		return block.Map{}, fmt.Errorf("partition %d: what was made is not right: %s", p.Number, p.FS.Why)
	}
	return disk.Map(), nil
}
