package devicetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"multidd/internal/sample"
)

// rulesFor returns the limits in force for a device, by file.
func rulesFor(t *testing.T, path string) map[string]string {
	t.Helper()
	group, err := throttleGroup()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	rules := make(map[string]string)
	for _, file := range []string{"blkio.throttle.write_bps_device", "blkio.throttle.read_bps_device"} {
		all, err := os.ReadFile(filepath.Join(group, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(all)) {
			dev, bps, _ := strings.Cut(strings.TrimSpace(line), " ")
			if dev == fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)) {
				rules[file] = bps
			}
		}
	}
	return rules
}

func TestARackHoldsItsCardsUntilItIsClosed(t *testing.T) {
	if os.Geteuid() != 0 {
		sample.Lack(t, ErrUnsupported)
	}
	const n, size = 3, 2 * mib
	for _, c := range []struct {
		name string
		make func(dir string) (*Rack, error)
	}{
		{"Files", func(dir string) (*Rack, error) { return NewRack(dir, n, size) }},
		{"Fakes", func(string) (*Rack, error) { return NewFakeRack(n, size) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			r, err := c.make(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			paths := r.Paths()
			if got := slices.Compact(slices.Sorted(slices.Values(paths))); len(got) != n {
				t.Errorf("the cards are %v, want %d different ones", paths, n)
			}
			var gone []func() bool
			for _, path := range paths {
				gone = append(gone, leaving(t, path))
			}
			t.Run("Use", func(t *testing.T) { // its end closes what it opened
				var written [][]byte
				for i, path := range paths {
					written = append(written, fill(t, openDevice(t, path), uint64(i), size))
				}
				for i, path := range paths {
					if !bytes.Equal(readAll(t, openDeviceToRead(t, path), size), written[i]) {
						t.Errorf("card %d does not hold what was written to it", i)
					}
				}
			})
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			for i, path := range paths {
				waitUntil(t, path+" is gone", gone[i])
			}
			if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func openDeviceToRead(t *testing.T, path string) Target {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestTheSpeedOfARackIsSetAndLifted(t *testing.T) {
	if os.Geteuid() != 0 {
		sample.Lack(t, ErrUnsupported)
	}
	r, err := NewRack(t.TempDir(), 2, mib)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	slow, other := r.Paths()[0], r.Paths()[1]
	if err := r.SetSpeed(0, 5e6, 20e6); err != nil {
		if errors.Is(err, ErrNoThrottle) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	got := rulesFor(t, slow)
	if got["blkio.throttle.write_bps_device"] != "5000000" || got["blkio.throttle.read_bps_device"] != "20000000" {
		t.Errorf("the limits are %v", got)
	}
	if got := rulesFor(t, other); len(got) != 0 {
		t.Errorf("another card has limits: %v", got)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if got := rulesFor(t, slow); len(got) != 0 {
		t.Errorf("limits are left: %v", got)
	}
}

// TestALimitDoesNotOutliveItsCard leaves one behind, as a process that is killed
// does.
func TestALimitDoesNotOutliveItsCard(t *testing.T) {
	c := serve(t, NewMedium(mib))
	var st unix.Stat_t
	if err := unix.Stat(c.Path, &st); err != nil {
		t.Fatal(err)
	}
	if err := setThrottle(st.Rdev, 5e6, 0); err != nil {
		t.Skip(err)
	}
	if got := rulesFor(t, c.Path); len(got) != 1 {
		t.Fatalf("the limits are %v, want one", got)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := rulesFor(t, c.Path); len(got) != 1 {
		t.Fatalf("the limits of a device that is gone are %v: nothing is shown here", got)
	}
	AttachAt(t, NewMedium(mib), c.Path)
	if got := rulesFor(t, c.Path); len(got) != 0 {
		t.Errorf("the next card has limits: %v", got)
	}
}

func TestARackThatCannotBeMadeLeavesNothing(t *testing.T) {
	_, err := NewRack(filepath.Join(t.TempDir(), "absent"), 2, mib)
	if err == nil || !strings.Contains(err.Error(), "card 1 of 2") {
		t.Errorf("got %v", err)
	}
}
