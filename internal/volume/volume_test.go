package volume

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/volume/volumetest"
)

// All that is called free is filled with noise, and nobody notices. (That noise in used bytes
// is noticed is tested in volumetest.)
func TestNoiseInAllThatIsFreeHarmsNothing(t *testing.T) {
	parts := []volumetest.Part{
		{Kind: "fat16", Size: 16 * mib},
		{Kind: "ext4", Size: 40 * mib, Args: []string{"-b", "1024"}},
		{Kind: "noise", Size: 2 * mib},
		{Kind: "ext3", Size: 24 * mib},
	}
	for _, table := range []string{"mbr", "gpt"} {
		im := volumetest.Make(t, volumetest.Spec{Table: table, Parts: parts, Slack: 10 * mib, Seed: 11})
		m := look(t, open(t, im.Path)).Map()
		if m.Bytes() > im.Size*3/4 {
			t.Errorf("%s: %d of %d bytes are used", table, m.Bytes(), im.Size)
		}
		noisy := im.Copy(t)
		noisy.Scramble(t, m, 12)
		if wrong := noisy.Fsck(t); len(wrong) > 0 {
			t.Errorf("%s: fsck: %q", table, wrong)
		}
		if diff := volumetest.Diff(t, im, noisy); len(diff) > 0 {
			t.Errorf("%s: %q", table, diff)
		}
		if got := look(t, open(t, noisy.Path)).Map(); !slices.Equal(got.Used, m.Used) {
			t.Errorf("%s: the map depends on what is free: %s", table, difference(got, m))
		}
	}
}

func TestADiskThatWasNotLookedAtIsUsed(t *testing.T) {
	d := &Disk{Size: 100}
	if m := d.Map(); m.Bytes() != 100 {
		t.Errorf("%v", m)
	}
}

// failing fails a read that touches a byte.
type failing struct {
	medium
	at int64
}

var errSector = errors.New("medium error")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if (block.Extent{Off: off, Len: int64(len(p))}).Intersect(block.Extent{Off: f.at, Len: 1}).Len > 0 {
		return 0, errSector
	}
	return f.medium.ReadAt(p, off)
}

// recorder notes what is read.
type recorder struct {
	medium
	read []block.Extent
}

func (r *recorder) ReadAt(p []byte, off int64) (int, error) {
	r.read = append(r.read, block.Extent{Off: off, Len: int64(len(p))})
	return r.medium.ReadAt(p, off)
}

// Whichever of the reads fails, it is said where, and there is no map.
func TestTroubleWithReadingIsAnError(t *testing.T) {
	m := io.NewSectionReader(open(t, extFile(t, "")), 0, 64*mib)
	rec := &recorder{medium: m}
	look(t, rec)
	if len(rec.read) < 5 {
		t.Fatalf("%d reads", len(rec.read))
	}
	for _, e := range rec.read {
		d, err := Look(failing{m, e.Off}, m.Size())
		if !errors.Is(err, errSector) || d != nil || !strings.Contains(err.Error(), fmt.Sprintf("of the disk at offset %d:", e.Off)) {
			t.Errorf("%v cannot be read: %v, %v", e, d, err)
		}
	}
}
