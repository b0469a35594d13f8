package labtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multidd/internal/cardlab"
)

// Only the card that was looked at is written, and only the card that was written
// is called good, whatever happens to readers and slots meanwhile.
func TestAnotherCardIsNeverTakenForThisOne(t *testing.T) {
	need(t, false)
	t.Run("another card in the reader", func(t *testing.T) {
		r := boot(t, cardlab.Config{Cards: make([]cardlab.Card, 2), Udev: true, UAS: true})
		r.atAllTimes(func(r *rack, next cardlab.Card) { r.change(0, next) })
	})
	r := boot(t, cardlab.Config{Cards: make([]cardlab.Card, 2), Udev: true})
	t.Run("another card and the reader plugged anew", func(t *testing.T) {
		r.in(t).atAllTimes(func(r *rack, next cardlab.Card) {
			r.must(r.Pull(0), r.Swap(0, next), r.Plug(0))
		})
	})
	t.Run("the same reader and card plugged anew", func(t *testing.T) {
		r.in(t).atAllTimes(func(r *rack, _ cardlab.Card) {
			r.must(r.Pull(0), r.Plug(0))
		})
	})
	t.Run("two readers plugged in the other order", func(t *testing.T) {
		r.in(t).atAllTimes(func(r *rack, next cardlab.Card) {
			r.must(r.Pull(0), r.Pull(1), r.Swap(0, next), r.Plug(1), r.Plug(0))
		})
	})
}

// atAllTimes lets somebody do something with card 0 in every step of a run. After
// it another card is in its place, or it is elsewhere, or at least it was out; next
// is what the other card is like.
func (r *rack) atAllTimes(do func(r *rack, next cardlab.Card)) {
	r.t.Run("before the answer", func(t *testing.T) { r.in(t).changedBeforeAnswer(do) })
	r.t.Run("in mid-write", func(t *testing.T) { r.in(t).changedInMidWrite(do) })
	r.t.Run("while the image is waited for", func(t *testing.T) { r.in(t).changedWhileWaiting(do) })
	r.t.Run("before the proof", func(t *testing.T) { r.in(t).changedBeforeProof(do) })
}

// gone is what may be said of a card that was taken away or changed.
const gone = "removed|target-changed"

func (r *rack) changedBeforeAnswer(do func(*rack, cardlab.Card)) {
	image := newImage(r.t, 8*mib, 1)
	run, keys := r.atTerminal("write", image, r.device(0))
	run.untilPrinted("Type yes: ")
	before := r.taken()
	do(r, cardlab.Card{File: r.newDisk(0)})
	io.WriteString(keys, "yes\n")
	run.end().refused(gone)
	r.untouched(before, 0, 1)
}

func (r *rack) changedInMidWrite(do func(*rack, cardlab.Card)) {
	image := newImage(r.t, 32*mib, 2)
	r.change(0, cardlab.Card{File: r.newDisk(0), WriteBPS: 8 * mib})
	before := r.taken()
	run := r.write(image, 0)
	run.untilTaken(0, before, 4*mib)
	old := r.Backing(0)
	next := r.watchedDisk()
	do(r, cardlab.Card{File: next.file})
	run.end().want(4, gone)
	next.untouched(r)
	if !blank(r.t, old, 0, mib) {
		r.t.Error("the first MiB of the card that was being written is not blank")
	}
}

// changedWhileWaiting changes the card while nothing is being written to it,
// since the source is slow: the kernel tells of the change only those who ask.
func (r *rack) changedWhileWaiting(do func(*rack, cardlab.Card)) {
	const first = 4 * mib
	image, dev := newImage(r.t, 8*mib, 3), r.device(0)
	r.sh("rm -f /tmp/go")
	before := r.taken()
	run := r.begin(r.Command("sh", "-c", fmt.Sprintf(`
		{ head -c %d %s; until test -e /tmp/go; do sleep 0.1; done; tail -c +%d %s; } |
		%s write --yes --json - %s`, first, image, first+1, image, r.multidd, dev)))
	run.untilTaken(0, before, first-mib)
	old, seq := r.Backing(0), r.diskSeq(dev)
	next := r.watchedDisk()
	do(r, cardlab.Card{File: next.file})
	r.sh(fmt.Sprintf(`until test "$(cat /sys/block/%s/diskseq 2>/dev/null)" != %s; do sleep 0.1; done`, filepath.Base(dev), seq))
	r.sh("touch /tmp/go")
	run.end().want(4, gone)
	next.untouched(r)
	if !blank(r.t, old, 0, mib) {
		r.t.Error("the first MiB of the card that was being written is not blank")
	}
}

// changedBeforeProof changes the card when all is written. Reading is slow, so
// that there is time; and the other card holds the very image, so that it would
// pass for the first.
func (r *rack) changedBeforeProof(do func(*rack, cardlab.Card)) {
	image := newImage(r.t, 16*mib, 4)
	r.change(0, cardlab.Card{File: r.newDisk(0), ReadBPS: mib})
	twin := r.newDisk(0)
	overwrite(r.t, twin, image)
	run := r.write(image, 0)
	run.untilPhase(0, "verify")
	old := r.Backing(0)
	do(r, cardlab.Card{File: twin})
	run.end().want(4, gone)
	if !blank(r.t, old, 0, mib) {
		r.t.Error("the first MiB of a card that was not proved is not blank")
	}
}

// A watched is the file of a card that must not be written.
type watched struct {
	file string
	was  []byte
}

func (r *rack) watchedDisk() watched {
	r.t.Helper()
	file := r.newDisk(8 * mib)
	b, err := os.ReadFile(file)
	r.must(err)
	return watched{file, b}
}

func (w watched) untouched(r *rack) {
	r.t.Helper()
	b, err := os.ReadFile(w.file)
	r.must(err)
	if !bytes.Equal(b, w.was) {
		r.t.Error("another card was written, that nobody had named")
	}
}

// diskSeq returns the number that the kernel gives each medium.
func (r *rack) diskSeq(dev string) string {
	r.t.Helper()
	return strings.TrimSpace(r.sh("cat /sys/block/" + filepath.Base(dev) + "/diskseq"))
}

// overwrite copies a file over the beginning of another.
func overwrite(t *testing.T, file, with string) {
	t.Helper()
	b, err := os.ReadFile(with)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// A listed is a line of `multidd devices --json`.
type listed struct {
	Slot, Device, Serial, Bus string
	Size                      int64
	Allowed                   bool
	Refusals                  []struct{ Reason, Text string }
}

// list returns what `multidd devices` tells of the USB slots.
func (r *rack) list() (usb []listed) {
	r.t.Helper()
	res := r.start("devices", "--json").end()
	var all struct{ Devices []listed }
	if err := json.Unmarshal([]byte(res.text), &all); err != nil || res.exit != 0 {
		r.t.Fatalf("devices --json: exit %d, %v\n%s", res.exit, err, res.text)
	}
	for _, d := range all.Devices {
		if d.Bus == "usb" {
			usb = append(usb, d)
		}
	}
	return usb
}

// A slot is a place: the card in it may change, and its device's name too.
func TestSlotsKeepTheirNames(t *testing.T) {
	need(t, false)
	r := boot(t, cardlab.Config{Cards: make([]cardlab.Card, 2)})
	image := newImage(t, 8*mib, 1)
	slots := func() string {
		var all []string
		for _, d := range r.list() {
			all = append(all, d.Slot+" "+d.Device)
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	if got, want := slots(), "2-1 /dev/sda, 2-2 /dev/sdb"; got != want {
		t.Fatalf("the slots are %s, want %s", got, want)
	}
	r.must(r.Pull(0), r.Pull(1))
	r.sh(`while card 0 || card 1; do sleep 0.1; done 2>/dev/null`)
	r.must(r.Plug(1))
	r.device(1)
	r.must(r.Plug(0))
	r.device(0)
	if got, want := slots(), "2-1 /dev/sdb, 2-2 /dev/sda"; got != want {
		t.Errorf("the slots are %s, want %s", got, want)
	}
	before := r.taken()
	res := r.start("write", "--yes", "--json", image, "2-1").end()
	res.want(0, "good")
	if l := res.lanes[0]; l.Slot != "2-1" || l.Device != "/dev/sdb" {
		t.Errorf("the lane is of slot %s, device %s", l.Slot, l.Device)
	}
	r.holds(0, image)
	r.untouched(before, 1)
}

// Without udev nobody opens a device when its card changes, and sysfs tells the
// size of the card before.
func TestTheSizeIsThatOfTheCard(t *testing.T) {
	need(t, false)
	const imageSize = 24 * mib
	r := boot(t, cardlab.Config{Cards: []cardlab.Card{{Empty: true}}})
	image := newImage(t, imageSize, 1)
	r.start("write", "--yes", image, r.device(0)).end().refused("empty")

	r.must(r.Insert(0))
	res := r.write(image, 0).end()
	res.want(0, "good")
	r.holds(0, image)
	if n := res.lanes[0].Size; n != cardSize {
		t.Errorf("the card has %d bytes, want %d", n, cardSize)
	}

	r.must(r.Eject(0), r.Swap(0, cardlab.Card{File: r.newDisk(imageSize - 512)}), r.Insert(0))
	before := r.taken()
	r.start("write", "--yes", image, r.device(0)).end().refused("too-small")
	r.untouched(before, 0)

	r.must(r.Eject(0), r.Swap(0, cardlab.Card{File: r.newDisk(imageSize)}), r.Insert(0))
	res = r.write(image, 0).end()
	res.want(0, "good")
	r.holds(0, image)
	if n := res.lanes[0].Size; n != imageSize {
		t.Errorf("the card has %d bytes, want %d", n, imageSize)
	}
}

// A device that is not there must not become a file, and keeps the others from
// being written.
func TestAMissingDeviceIsRefused(t *testing.T) {
	need(t, false)
	r := boot(t, cardlab.Config{Cards: make([]cardlab.Card, 2)})
	image := newImage(t, 4*mib, 1)
	there, gone := r.device(0), r.device(1)
	r.must(r.Pull(1))
	r.sh("while card 1 2>/dev/null; do sleep 0.1; done")
	before := r.taken()
	for _, name := range []string{gone, "/dev/sdz", "/dev/disk/by-path/no-such-slot"} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			r.start("write", "--yes", image, there, name).end().refused("no-such-device")
			r.untouched(before, 0)
			if out, err := r.try("test -e " + name); err == nil {
				t.Errorf("%s is there now %s", name, out)
			}
		})
	}
	t.Run("of the dd form", func(t *testing.T) {
		r := r.in(t)
		res := r.start("--yes", "if="+image, "of="+gone).end()
		if res.exit != 1 || !strings.Contains(res.text, "there is no device "+gone) {
			t.Errorf("exit status %d, want 1, and the reason:\n%s", res.exit, res.text)
		}
		if out, err := r.try("test -e " + gone); err == nil {
			t.Errorf("%s is there now %s", gone, out)
		}
	})
}

// The whole rack at once.
func TestFourteenCards(t *testing.T) {
	need(t, false)
	const n = 14
	r := boot(t, cardlab.Config{Cards: make([]cardlab.Card, n)})
	image := newImage(t, 32*mib, 1)
	var cards []int
	var good []string
	for i := range n {
		cards, good = append(cards, i), append(good, "good")
	}
	places := map[string]bool{}
	for _, d := range r.list() {
		places[d.Slot] = d.Allowed
	}
	for i := range n {
		if slot := fmt.Sprintf("2-%d", i+1); !places[slot] {
			t.Errorf("slot %s is not listed, or not allowed: %v", slot, places)
		}
	}
	res := r.write(pack(t, image), cards...).end()
	res.want(0, good...)
	for i := range n {
		r.holds(i, image)
		if got, want := res.lanes[i].Slot, fmt.Sprintf("2-%d", i+1); got != want {
			t.Errorf("card %d is in slot %s, want %s", i, got, want)
		}
	}
	if most := int64(128 * mib); res.most > most || res.most == 0 {
		t.Errorf("it took up to %d bytes of memory, want at most %d", res.most, most)
	}
}
