package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"multidd/internal/block"
	"multidd/internal/codec"
	"multidd/internal/image"
	"multidd/internal/station"
	"multidd/internal/tui"
	"multidd/internal/volume"
)

// An inspector finds out about one image or card.
type inspector struct {
	c    console
	o    *inspectOptions
	path string // of the file or device
	out  tui.Inspection

	bmap *block.Map   // nil: there is none
	disk *volume.Disk // nil: not looked at
}

// Memory that unpacking may take here, in bytes: there are no cards to be fed.
const (
	inspectMemory = 1 << 30
	inspectAhead  = 128 << 20
)

// look opens the image and looks at the disk in it: at any place where that can be,
// else as it passes by.
func (ins *inspector) look(ctx context.Context) error {
	o := image.Options{BMap: ins.o.bmap, Store: storeAt(ins.o.store)}
	if ins.path == "-" { // which may come by once, and is read as it is then
		o = image.Options{BMap: "none", Digest: ins.o.digest}
	}
	im, err := ins.open(ctx, o)
	if err != nil {
		return err
	}
	defer im.Close()
	ins.note(im)
	r, anywhere := im.ReaderAt()
	ins.out.Anywhere = anywhere
	if !anywhere {
		return ins.pass(ctx, im)
	}
	if ins.disk, err = volume.Look(r, im.Size()); err != nil {
		return err
	}
	if err := ins.compareMap(r); err != nil {
		return err
	}
	ins.revision(r)
	if ins.o.digest {
		return ins.prove(ctx, im)
	}
	return nil
}

func (ins *inspector) open(ctx context.Context, o image.Options) (*image.Image, error) {
	o.Stdin = ins.c.in
	o.Unpack = codec.ReadOptions{Memory: inspectMemory, Ahead: inspectAhead}
	return image.Open(ctx, ins.path, o)
}

// storeAt returns where unpacked copies are looked for, as --store says.
func storeAt(dir string) *image.Store {
	if dir == "off" {
		return nil
	}
	if dir == "" {
		var err error
		if dir, err = image.DefaultStoreDir(); err != nil {
			return nil
		}
	}
	return image.NewStore(dir, 0)
}

// note takes over what an image says before anything of it is read.
func (ins *inspector) note(im *image.Image) {
	ins.out.Format, ins.out.Stored = string(im.Format()), im.Stored()
	ins.out.Size = im.Size()
	if fi := im.Info(); fi != nil && fi.Mode().IsRegular() {
		ins.out.Packed = fi.Size()
	}
	if m, ok := im.Map(); ok {
		ins.bmap = &m
	}
	ins.out.Digests = ins.out.Digests[:0]
	for _, e := range im.Expected() {
		of := "either"
		switch {
		case !e.Disk:
			of = "file"
		case !e.File:
			of = "disk"
		}
		ins.out.Digests = append(ins.out.Digests, tui.InspectedDigest{Of: of, SHA256: e.SHA256, From: station.Clean(e.From), State: "unchecked"})
	}
}

// compareMap compares the .bmap with what the file systems say.
func (ins *inspector) compareMap(r io.ReaderAt) error {
	if ins.bmap == nil {
		return nil
	}
	var bytes, content int64
	buf := make([]byte, 1<<20)
	for _, e := range leftOut(ins.disk.Map().Used, ins.bmap.Used) {
		bytes += e.Len
		for at := e.Off; at < e.End(); {
			b := buf[:min(int64(len(buf)), e.End()-at)]
			if n, err := r.ReadAt(b, at); n < len(b) {
				return err
			}
			content += notZero(b)
			at += int64(len(b))
		}
	}
	m := &tui.InspectedMap{Used: ins.bmap.Bytes(), Agrees: bytes == 0, Says: "that is all that is in use"}
	switch {
	case content > 0:
		m.Says = fmt.Sprintf("it leaves out %s that are in use and not zero: it is that of another image, or this one was changed", station.Amount(content))
	case bytes > 0:
		m.Says = fmt.Sprintf("it leaves out %s of zeros that are in use, where a card keeps what it has", station.Amount(bytes))
	}
	ins.out.BMap = m
	return nil
}

// compareZeros judges the .bmap of an image that has passed by: content is how much
// of what it leaves out is not zero.
func (ins *inspector) compareZeros(content int64) {
	if ins.bmap == nil {
		return
	}
	m := &tui.InspectedMap{Used: ins.bmap.Bytes(), Agrees: content == 0, Says: "all that it leaves out is zero"}
	if content > 0 {
		m.Says = fmt.Sprintf("it leaves out %s that are not zero: what was deleted, or it is that of another image", station.Amount(content))
	}
	ins.out.BMap = m
}

// notZero counts the bytes in pieces of 512 that are not all zeros.
func notZero(b []byte) (n int64) {
	for len(b) > 0 {
		k := min(512, len(b))
		for _, x := range b[:k] {
			if x != 0 {
				n += int64(k)
				break
			}
		}
		b = b[k:]
	}
	return n
}

// leftOut returns what of used a map does not have. Both are in ascending order.
func leftOut(used, m []block.Extent) []block.Extent {
	var out []block.Extent
	for _, e := range used {
		for len(m) > 0 && m[0].End() <= e.Off {
			m = m[1:]
		}
		for i := 0; i < len(m) && m[i].Off < e.End(); i++ {
			if m[i].Off > e.Off {
				out = append(out, block.Extent{Off: e.Off, Len: m[i].Off - e.Off})
			}
			end := min(e.End(), m[i].End())
			e = block.Extent{Off: end, Len: e.End() - end}
		}
		if e.Len > 0 {
			out = append(out, e)
		}
	}
	return out
}

// pass lets an image pass by that has to be unpacked, once.
func (ins *inspector) pass(ctx context.Context, opened *image.Image) error {
	im := opened
	if ins.path != "-" { // which may come by once
		var err error
		if im, err = ins.open(ctx, image.Options{All: true, Digest: ins.o.digest}); err != nil {
			return err
		}
		defer im.Close()
	}
	w := volume.NewWatcher()
	defer w.Close()
	var left []block.Extent // of what is still to come, what the map leaves out
	if ins.bmap != nil {
		left = leftOut([]block.Extent{{Len: ins.bmap.Size}}, ins.bmap.Used)
	}
	var content int64
	r, err := readThrough(ctx, ins.c, im, ins.out.Packed, func(b block.Block) {
		w.See(b.Off, b.Data)
		for ; len(left) > 0 && left[0].Off < b.Extent().End(); left = left[1:] {
			in := left[0].Intersect(b.Extent())
			content += notZero(b.Data[in.Off-b.Off:][:in.Len])
			if left[0].End() > b.Extent().End() {
				break
			}
		}
	})
	if err == nil {
		ins.out.Size = r.Stats().Decoded
	}
	ins.disk = w.Disk()
	if err == nil {
		ins.proved(ctx, r, im)
		ins.compareZeros(content)
	}
	return err
}

// prove reads an image that has been looked at to its end, so that its digests are
// worked out and all that can be proved about it is proved.
func (ins *inspector) prove(ctx context.Context, opened *image.Image) error {
	im, err := ins.open(ctx, image.Options{BMap: ins.o.bmap, All: opened.Format() == codec.Raw, Digest: true})
	if err != nil {
		return err
	}
	defer im.Close()
	r, err := readThrough(ctx, ins.c, im, ins.out.Packed, func(block.Block) {})
	if err == nil {
		ins.proved(ctx, r, im)
	}
	return err
}

// proved notes what has been proved by reading an image to its end.
func (ins *inspector) proved(ctx context.Context, r *image.Reader, im *image.Image) {
	for i := range ins.out.Digests {
		ins.out.Digests[i].State = "right"
	}
	if !ins.o.digest {
		return
	}
	ins.computed("disk", r.Digest())
	if im.Format() != codec.Raw && ins.out.Packed >= 0 {
		if sum, err := fileDigest(ctx, ins.path); err == nil {
			ins.computed("file", sum)
		}
	}
}

// computed notes a digest, unless it is known as one that was right.
func (ins *inspector) computed(of, sum string) {
	if sum == "" {
		return
	}
	for i, d := range ins.out.Digests {
		if d.SHA256 == sum {
			ins.out.Digests[i].Of = of
			return
		}
	}
	ins.out.Digests = append(ins.out.Digests, tui.InspectedDigest{Of: of, SHA256: sum, State: "computed"})
}

func fileDigest(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	defer stop()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
