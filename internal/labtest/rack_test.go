package labtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"multidd/internal/cardlab"
	"multidd/internal/sample"
)

const mib = 1 << 20

// scratch is a directory that is there as long as the tests run.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "multidd-labtest-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(scratch)
		return m.Run()
	}())
}

// program builds multidd, once, linked statically, and returns its path.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "multidd")
	cmd := exec.Command("go", "build", "-o", path, "multidd/cmd/multidd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build multidd: %w\n%s", err, out)
	}
	return path, nil
})

// A rack is a running machine with card readers, and multidd to write the cards.
type rack struct {
	*cardlab.VM
	t       *testing.T
	multidd string
}

// need skips a test where it cannot or is not to run. always says that it is one
// of the few that need no MULTIDD_LAB=all.
func need(t *testing.T, always bool) {
	t.Helper()
	if err := cardlab.Available(); err != nil {
		sample.Lack(t, err)
	}
	if testing.Short() || !always && os.Getenv("MULTIDD_LAB") != "all" {
		t.Skip("takes long: MULTIDD_LAB=all runs it")
	}
}

// boot starts a machine that ends with the test. A card without a file gets one
// that holds an older disk, as used cards do.
func boot(t *testing.T, cfg cardlab.Config) *rack {
	t.Helper()
	multidd, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cfg.StateDir = t.TempDir()
	for i := range cfg.Cards {
		if c := &cfg.Cards[i]; c.File == "" {
			c.File = oldDisk(t, cfg.StateDir, c.Size)
		}
	}
	vm, err := cardlab.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("booted in %.1f s (%s)", vm.Boot.Seconds(), vm.Accel)
	return &rack{vm, t, multidd}
}

// in returns the rack for a subtest.
func (r *rack) in(t *testing.T) *rack { return &rack{r.VM, t, r.multidd} }

// must ends the test if what was done to the rack could not be.
func (r *rack) must(errs ...error) {
	r.t.Helper()
	if err := errors.Join(errs...); err != nil {
		r.t.Fatal(err)
	}
}

// try runs a shell script in the guest and returns what it printed.
func (r *rack) try(script string) (string, error) {
	var out bytes.Buffer
	cmd := r.Command("sh", "-ec", script)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// sh is try for scripts that have to succeed.
func (r *rack) sh(script string) string {
	r.t.Helper()
	out, err := r.try(script)
	if err != nil {
		r.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

// device returns the device of a card, once the kernel has it, as "/dev/sda".
func (r *rack) device(card int) string {
	r.t.Helper()
	return strings.TrimSpace(r.sh(fmt.Sprintf("until card %d 2>/dev/null; do sleep 0.1; done", card)))
}

// devices returns those of several cards.
func (r *rack) devices(cards ...int) []string {
	r.t.Helper()
	var all []string
	for _, c := range cards {
		all = append(all, r.device(c))
	}
	return all
}

// taken returns how many bytes each card took so far.
func (r *rack) taken() []int64 {
	r.t.Helper()
	stats, err := r.Stats()
	r.must(err)
	var all []int64
	for _, s := range stats {
		all = append(all, s.WriteBytes)
	}
	return all
}

// newDisk makes another card that holds an older disk.
func (r *rack) newDisk(size int64) string {
	r.t.Helper()
	return oldDisk(r.t, r.Dir, size)
}

// change takes a card out of its slot and puts another one in; the reader stays.
// Nobody can do that before the reader has answered a request or two.
func (r *rack) change(card int, c cardlab.Card) {
	r.t.Helper()
	dev := r.device(card)
	r.must(r.Eject(card), r.Swap(card, c))
	r.sh(fmt.Sprintf("until ! head -c 1 %s >/dev/null 2>&1; do sleep 0.1; done", dev))
	r.must(r.Insert(card))
}

// holds tells of a card whether it begins with all of the image.
func (r *rack) holds(card int, image string) {
	r.t.Helper()
	if at := differs(r.t, r.Backing(card), image); at >= 0 {
		r.t.Errorf("card %d does not hold the image: byte %d differs", card, at)
	}
}

// dead tells of a card whether its first MiB is blank: it neither boots nor looks
// whole.
func (r *rack) dead(card int) {
	r.t.Helper()
	if i := slices.IndexFunc(head(r.t, r.Backing(card)), func(c byte) bool { return c != 0 }); i >= 0 {
		r.t.Errorf("the first MiB of card %d is not blank: byte %d", card, i)
	}
}

// untouched tells of cards whether they hold what they did before.
func (r *rack) untouched(before []int64, cards ...int) {
	r.t.Helper()
	now := r.taken()
	for _, c := range cards {
		if now[c] != before[c] {
			r.t.Errorf("card %d was written: %d bytes", c, now[c]-before[c])
		}
	}
}

// head returns the first MiB of a card's file.
func head(t *testing.T, file string) []byte {
	t.Helper()
	b := make([]byte, mib)
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		_, err = io.ReadFull(f, b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// differs returns where a card's file differs from the image, -1 if it does not
// before the image's end.
func differs(t *testing.T, file, image string) int {
	t.Helper()
	a, err1 := os.ReadFile(file)
	b, err2 := os.ReadFile(image)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if len(a) >= len(b) && bytes.Equal(a[:len(b)], b) {
		return -1
	}
	for i := range b {
		if i >= len(a) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

// blank tells whether a part of a card's file is all zeros.
func blank(t *testing.T, file string, off, end int64) bool {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return !slices.ContainsFunc(b[off:end], func(c byte) bool { return c != 0 })
}
