package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"multidd/internal/tree"
	"multidd/internal/volume/ext"
	"multidd/internal/volume/fat"
)

// A job is a file system to be made.
type job struct {
	p      *Partition
	file   string // that it is made in; of size bytes if size is not Fit
	size   int64  // bytes; Fit: as the content asks for
	tree   *tree.Tree
	uuid   string // in the usual form
	serial string // of a FAT: eight digits
	tool   tool
	dir    string // scratch
}

// A kind is a kind of file system.
type kind struct {
	files bool   // a tree can go into it
	label int    // bytes in its label; 0: it has none
	uuid  bool   // it has one
	flash bool   // it belongs on raw flash
	fixed bool   // it cannot be as large as its content asks for
	mbr   string // type of its partition
	gpt   string
	tools []string
	make  func(context.Context, *job) error
}

// Types of partitions of a GPT.
const (
	typeLinux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	typeSwap  = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
	typeBasic = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
)

var kinds = map[string]kind{
	"ext2":     {files: true, label: 16, uuid: true, mbr: "83", gpt: typeLinux, tools: []string{"mke2fs", "e2fsck"}, make: makeExt},
	"ext3":     {files: true, label: 16, uuid: true, mbr: "83", gpt: typeLinux, tools: []string{"mke2fs", "e2fsck"}, make: makeExt},
	"ext4":     {files: true, label: 16, uuid: true, mbr: "83", gpt: typeLinux, tools: []string{"mke2fs", "e2fsck"}, make: makeExt},
	"fat":      {files: true, label: 11, mbr: "c", gpt: typeBasic, tools: []string{"mkfs.vfat"}, make: makeFAT},
	"jffs2":    {files: true, flash: true, mbr: "83", gpt: typeLinux, tools: []string{"mkfs.jffs2"}, make: makeJFFS2},
	"ubifs":    {files: true, flash: true, uuid: true, mbr: "83", gpt: typeLinux, tools: []string{"mkfs.ubifs"}, make: makeUBI},
	"squashfs": {files: true, mbr: "83", gpt: typeLinux, tools: []string{"sqfstar"}, make: makeSquashfs},
	"swap":     {fixed: true, label: 16, uuid: true, mbr: "82", gpt: typeSwap, tools: []string{"mkswap"}, make: makeSwap},
	"empty":    {fixed: true, mbr: "83", gpt: typeLinux, make: func(context.Context, *job) error { return nil }},
	"raw":      {mbr: "83", gpt: typeLinux, make: makeRaw},
}

func kindNames() []string { return slices.Sorted(maps.Keys(kinds)) }

// create makes the file of a file system, all zeros.
func (j *job) create(size int64) (*os.File, error) {
	f, err := os.Create(j.file)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// fit calls try with growing sizes until it no longer says that there is not enough room.
func (j *job) fit(guess int64, try func(size int64) error) error {
	if Size(j.size) != Fit {
		return try(j.size)
	}
	const mib = 1 << 20
	for step := 0; ; step++ {
		size := (guess + mib - 1) / mib * mib
		err := try(size)
		if !errors.Is(err, ext.ErrFull) && !errors.Is(err, fat.ErrFull) || step == 8 {
			return err
		}
		guess = size + size/5
	}
}

// makeExt has mke2fs make an empty file system and fills it; e2fsck indexes large
// directories and judges.
func makeExt(ctx context.Context, j *job) error {
	names := int64(j.tree.Totals().Names)
	return j.fit(j.extGuess(), func(size int64) error {
		f, err := j.create(size)
		if err != nil {
			return err
		}
		defer f.Close()
		x := j.p.Ext
		args := []string{"-q", "-F", "-t", j.p.FS, "-U", j.uuid, "-E", "hash_seed=" + j.uuid, "-L", j.p.Label}
		for flag, n := range map[string]int64{"-b": int64(x.Block), "-I": int64(x.Inode)} {
			if n > 0 {
				args = append(args, flag, strconv.FormatInt(n, 10))
			}
		}
		if x.Features != "" {
			args = append(args, "-O", x.Features)
		}
		if x.Reserved != nil {
			args = append(args, "-m", strconv.Itoa(*x.Reserved))
		}
		switch need := names + names/10 + 64; { // a tenth for what comes later
		case x.Inodes > 0:
			args = append(args, "-N", strconv.Itoa(x.Inodes))
		case need > size/16384: // what mke2fs would make
			args = append(args, "-N", strconv.FormatInt(need, 10))
		}
		if _, err := j.tool.run(ctx, "mke2fs", append(args, j.file)); err != nil {
			return err
		}
		if err := ext.Fill(f, j.tree); err != nil {
			return err
		}
		return j.finishExt(ctx)
	})
}

// finishExt gives large directories an index, and makes sure that nothing is wrong.
func (j *job) finishExt(ctx context.Context) error {
	if _, err := j.tool.run(ctx, "e2fsck", []string{"-f", "-y", "-D", j.file}, 1); err != nil {
		return err
	}
	_, err := j.tool.run(ctx, "e2fsck", []string{"-f", "-n", j.file})
	return err
}

// extGuess returns about how large an ext file system must be for the tree, in bytes.
func (j *job) extGuess() int64 {
	bs := int64(j.p.Ext.Block)
	if bs == 0 {
		bs = 4096
	}
	var n int64
	_ = j.tree.Walk(func(_ string, x *tree.Node) error {
		n += (x.Size+bs-1)/bs*bs + 512 // and its inode and entry
		if x.Mode.IsDir() {
			n += bs
		}
		return nil
	})
	return n + n/10 + 8<<20
}

func makeFAT(ctx context.Context, j *job) error {
	totals := j.tree.Totals()
	guess := totals.Bytes + int64(totals.Names)*4096
	return j.fit(guess+guess/10+2<<20, func(size int64) error {
		f, err := j.create(size)
		if err != nil {
			return err
		}
		defer f.Close()
		args := []string{"--invariant", "-i", j.serial}
		if j.p.Label != "" {
			args = append(args, "-n", j.p.Label)
		}
		if j.p.FAT.Bits > 0 {
			args = append(args, "-F", strconv.Itoa(j.p.FAT.Bits))
		}
		if n := int64(j.p.FAT.Cluster); n > 0 {
			args = append(args, "-s", strconv.FormatInt(max(1, n/512), 10))
		}
		if _, err := j.tool.run(ctx, "mkfs.vfat", append(args, j.file)); err != nil {
			return err
		}
		return fat.Fill(f, j.tree)
	})
}

func makeSwap(ctx context.Context, j *job) error {
	f, err := j.create(j.size)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(0o600); err != nil { // or mkswap grumbles
		return err
	}
	args := []string{"-U", j.uuid}
	if j.p.Label != "" {
		args = append(args, "-L", j.p.Label)
	}
	_, err = j.tool.run(ctx, "mkswap", append(args, j.file))
	return err
}

func makeRaw(_ context.Context, j *job) error {
	from, err := os.Open(j.p.File)
	if err != nil {
		return err
	}
	defer from.Close()
	st, err := from.Stat()
	if err != nil {
		return err
	}
	size := j.size
	if Size(size) == Fit {
		size = st.Size()
	}
	if st.Size() > size {
		return fmt.Errorf("%s has %d bytes, and the partition %d", j.p.File, st.Size(), size)
	}
	f, err := j.create(size)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(f, from)
	return err
}

// makeSquashfs gives sqfstar the tree as a tar, so that it needs no root.
func makeSquashfs(ctx context.Context, j *job) error {
	root := j.tree.Root() // which sqfstar does not take from a tar; 4.5 gives it to whoever calls, all the same
	args := []string{
		"-quiet", "-no-progress", "-root-mode", fmt.Sprintf("%o", root.UnixMode()&0o7777), "-root-uid", fmt.Sprint(root.UID), "-root-gid", fmt.Sprint(root.GID),
	}
	if c := j.p.Squashfs.Compression; c != "" {
		args = append(args, "-comp", c)
	}
	if b := int64(j.p.Squashfs.Block); b > 0 {
		args = append(args, "-b", strconv.FormatInt(b, 10))
	}
	if err := os.RemoveAll(j.file); err != nil {
		return err
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := j.tree.WriteTar(w)
		w.CloseWithError(err)
		done <- err
	}()
	t := j.tool
	t.stdin, t.now = r, j.latest()
	_, err := t.run(ctx, "sqfstar", append(args, j.file))
	r.Close()
	if terr := <-done; terr != nil && !errors.Is(terr, io.ErrClosedPipe) {
		return terr
	}
	if err != nil {
		return err
	}
	return j.checkSize()
}

// latest returns the time of the build or of the newest file: sqfstar takes the time that it
// is told for the latest that a file may have.
func (j *job) latest() time.Time {
	t := j.tool.now
	_ = j.tree.Walk(func(_ string, n *tree.Node) error {
		if n.ModTime.After(t) {
			t = n.ModTime
		}
		return nil
	})
	return t
}

// checkSize makes sure that what a tool made fits, and fills its file up.
func (j *job) checkSize() error {
	st, err := os.Stat(j.file)
	if err != nil || Size(j.size) == Fit {
		return err
	}
	if st.Size() > j.size {
		return fmt.Errorf("what was made has %d bytes, and the partition %d: make it larger or leave something out", st.Size(), j.size)
	}
	return os.Truncate(j.file, j.size)
}

// findTools makes sure that all tools are there, before anything takes time.
func (r *Recipe) findTools() error {
	var names []string
	if r.Table != "none" {
		names = append(names, "sfdisk")
	}
	for i := range r.Partitions {
		p := &r.Partitions[i]
		names = append(names, kinds[p.FS].tools...)
		if p.JFFS2.Summary {
			names = append(names, "sumtool")
		}
		if p.FS == "ubifs" && !p.UBI.Only {
			names = append(names, "ubinize")
		}
	}
	for _, name := range names {
		if _, err := find(name); err != nil {
			return err
		}
	}
	return nil
}
