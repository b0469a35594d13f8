package resize

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"multidd/internal/block"
	"multidd/internal/volume"
)

// A Shrinkage is what Shrink has made of a disk.
type Shrinkage struct {
	// Number is that of the partition that was shrunk; 0: there is no table.
	Number int
	// From and To are the sizes of its file system, in bytes, before and after.
	From, To int64
	// Before and Size are the sizes of the disk, in bytes, before and after.
	Before, Size int64
	// Notes are sentences about what else people should know.
	Notes []string
}

// DefaultRoom is the least room that a file system is left by default, in bytes.
const DefaultRoom = 64 << 20

// Room returns how much room a file system with so many bytes in use is left by
// default: a twentieth, and at least DefaultRoom.
func Room(used int64) int64 { return max(used/20, DefaultRoom) }

// CanShrink returns a *Refusal or a *Damage if it can be told beforehand that Shrink
// would refuse the disk, and a *Missing if it lacks a program.
func CanShrink(d *volume.Disk) error {
	if _, err := lastPart(d, "shrunk"); err != nil {
		return err
	}
	return Available()
}

// Shrink makes a raw image smaller, in place: the file system in its last
// partition to what it needs and room bytes besides (negative: Room), the
// partition to the file system, the disk to the partition, with the backup of a GPT
// behind it. A disk from which nothing can be taken stays as it is.
//
// The file must be nobody else's meanwhile. After an error it may be half changed
// and good for nothing. A temporary file as large as what the partition has in
// use lies beside it. The errors are as those of Grower.Grow.
func Shrink(ctx context.Context, path string, room int64) (*Shrinkage, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("shrink the image: %w", err)
	}
	defer f.Close()
	s, err := newShrinker(f, path)
	if err != nil {
		return nil, err
	}
	if err := s.shrink(ctx, room); err != nil {
		return nil, err
	}
	return s.out, f.Close()
}

// A shrinker works on an image.
type shrinker struct {
	part
	f    *os.File
	dir  string // for temporary files
	disk *volume.Disk
	out  *Shrinkage
}

func newShrinker(f *os.File, path string) (*shrinker, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("shrink the image: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, refuse("%s is not a plain file: only an image is made smaller, never a card", path)
	}
	disk, err := volume.Look(f, fi.Size())
	if err != nil {
		return nil, fmt.Errorf("shrink the image: %w", err)
	}
	p, err := lastPart(disk, "shrunk")
	if err != nil {
		return nil, err
	}
	out := &Shrinkage{Number: p.number, From: p.fs.Size, To: p.fs.Size, Before: disk.Size, Size: disk.Size}
	return &shrinker{part: p, f: f, dir: filepath.Dir(path), disk: disk, out: out}, nil
}

// shrink does all of it: in a scratch first.
func (s *shrinker) shrink(ctx context.Context, room int64) error {
	tmp, err := newScratch(s.dir, s.part)
	if err != nil {
		return err
	}
	defer tmp.Close()
	size, err := s.squeeze(ctx, tmp, room)
	if err != nil {
		return err
	}
	end := s.Off + size
	disk := s.diskSize(end)
	if disk >= s.disk.Size {
		return nil // there is nothing to gain
	}
	lost, err := behind(s.f, s.disk, s.part)
	if err != nil {
		return err
	}
	if lost.Len > 0 {
		s.out.Notes = append(s.out.Notes, fmt.Sprintf("what lies behind the last partition (%v) is left out", lost))
	}
	pieces, err := Refit(s.f, s.disk, disk, end)
	if err != nil {
		return err
	}
	if err := s.putBack(ctx, tmp, size, disk, pieces); err != nil {
		return fmt.Errorf("write the smaller image: %w", err)
	}
	s.out.Size = disk
	return s.check()
}

// diskSize returns the size of the disk whose last partition ends there.
func (s *shrinker) diskSize(end int64) int64 {
	if s.disk.Table != "gpt" {
		return end
	}
	return alignUp(end + gptBackup(s.disk.Sector))
}

// tries is how often a file system is given more room if resize2fs finds that what it
// has estimated does not do.
const tries = 4

// squeeze shrinks the file system in a scratch, and returns the size of the
// partition it then needs.
func (s *shrinker) squeeze(ctx context.Context, tmp *scratch, room int64) (int64, error) {
	var err error
	for range tries {
		if err = s.load(ctx, tmp); err != nil {
			return 0, err
		}
		var size int64
		if size, room, err = s.aim(ctx, tmp, room); err != nil {
			return 0, err
		}
		if size >= s.Len {
			return s.Len, nil // as large as it is; but it has been repaired
		}
		if size < s.fs.Size {
			err = tmp.resize(ctx, size/int64(s.fs.BlockSize))
		}
		if err == nil {
			return size, tmp.prove(ctx)
		}
		if errors.As(err, new(*Missing)) || ctx.Err() != nil {
			return 0, err
		}
		room = 2*room + Align
	}
	return 0, err
}

// load copies what the partition has in use to the scratch and has it repaired.
func (s *shrinker) load(ctx context.Context, tmp *scratch) error {
	used := within(s.disk.Map().Used, s.Extent)
	for i := range used {
		used[i].Off -= s.Off
	}
	if err := tmp.fill(ctx, s.f, s.Off, used, s.Len); err != nil {
		return err
	}
	return tmp.repair(ctx)
}

// aim returns the size of the partition that leaves the file system so much room, and
// how much that is if nobody has said.
func (s *shrinker) aim(ctx context.Context, tmp *scratch, room int64) (size, given int64, _ error) {
	least, err := s.least(ctx, tmp)
	if err != nil {
		return 0, 0, err
	}
	if room < 0 {
		room = Room(least)
	}
	room = min(room, s.Len) // so that sums do not overflow
	end := min(alignUp(s.Off+least+room), s.End())
	return end - s.Off, room, nil
}

var estimate = regexp.MustCompile(`(?m)^Estimated minimum size of the filesystem: (\d+)$`)

// least returns how small the file system can be, as resize2fs estimates it, or for
// one of clusters, for which it does not know, what it has in use.
func (s *shrinker) least(ctx context.Context, tmp *scratch) (int64, error) {
	out, status, err := tmp.run(ctx, "resize2fs", "-P", "-f", self)
	if err != nil {
		return 0, err
	}
	m := estimate.FindStringSubmatch(out)
	if status != 0 || m == nil {
		return 0, fmt.Errorf("resize2fs does not say how small %v can be: %s", s.part, sentence(out))
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > s.Len/int64(s.fs.BlockSize) {
		return s.Len, nil
	}
	n *= int64(s.fs.BlockSize)
	if x, err := openExt(tmp, s.Len); err == nil && x.clusters() {
		return min(n, s.fs.Used), nil
	}
	return n, nil
}

// putBack makes the image end with the partition as it is in the scratch.
func (s *shrinker) putBack(ctx context.Context, tmp *scratch, size, disk int64, pieces []block.Block) error {
	// What is cut off and given back reads as zeros.
	for _, n := range []int64{s.Off, disk} {
		if err := s.f.Truncate(n); err != nil {
			return err
		}
	}
	whole := []block.Extent{{Off: 0, Len: size}}
	if err := tmp.Truncate(size); err != nil {
		return err
	}
	if err := copyHoles(ctx, io.NewOffsetWriter(s.f, s.Off), tmp, 0, whole); err != nil {
		return err
	}
	for _, p := range pieces {
		if _, err := s.f.WriteAt(p.Data, p.Off); err != nil {
			return err
		}
	}
	return nil
}

// check looks at what has become of the image.
func (s *shrinker) check() error {
	disk, err := volume.Look(s.f, s.out.Size)
	if err != nil {
		return err
	}
	now := disk.FS
	if n := len(disk.Parts); n > 0 {
		now = disk.Parts[n-1].FS
	}
	if len(disk.Parts) != len(s.disk.Parts) || now == nil || now.State != volume.Clean {
		return fmt.Errorf("the smaller image is not understood: leave the size as it is")
	}
	s.out.To = now.Size
	return nil
}
