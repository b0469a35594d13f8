package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"multidd/internal/station"
	"multidd/internal/volume"
	"multidd/internal/volume/volumetest"
)

func TestTheRoomThatIsAskedForIsUnderstood(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int64 // -2: not asked for; -3: an error
	}{
		{nil, -2}, {[]string{"--shrink"}, -1}, {[]string{"--shrink=0"}, 0}, {[]string{"--shrink=64M"}, 64 << 20},
		{[]string{"--shrink=1GB"}, 1e9}, {[]string{"--shrink=much"}, -3},
	} {
		var s shrinking
		cmd := &cobra.Command{RunE: func(*cobra.Command, []string) error { return nil }, SilenceErrors: true, SilenceUsage: true}
		s.add(cmd)
		cmd.SetArgs(c.args)
		got := int64(-3)
		if err := cmd.Execute(); err == nil {
			if got = s.room; !s.asked {
				got = -2
			}
		}
		if got != c.want || (s.rework() == nil) != (got == -2) {
			t.Errorf("%q: got %d, want %d", c.args, got, c.want)
		}
	}
}

// What capture is given to rework its raw file with does that.
func TestShrinkReworksTheRawImage(t *testing.T) {
	im := volumetest.Make(t, volumetest.Spec{Table: "gpt", Parts: []volumetest.Part{{Kind: "ext4", Size: 64 << 20}}})
	s := shrinking{asked: true}
	m, err := s.rework()(t.Context(), im.Path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := volume.Look(f, m.Size)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != m.Size || m.Size > im.Size/2 || m.Bytes() != d.Map().Bytes() || len(s.notes()) != 1 || !strings.Contains(s.notes()[0], "in partition 1 has") {
		t.Errorf("the map is of %d bytes of %d, the file %v, %v: %q", m.Bytes(), m.Size, fi, err, s.notes())
	}
	noise := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(noise, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.rework()(t.Context(), noise)
	if e, ok := errors.AsType[*exitError](err); !ok || e.status != station.ExitRefused || !strings.Contains(e.Error(), "--shrink: the disk has no partition table") {
		t.Errorf("got %v", err)
	}
}
