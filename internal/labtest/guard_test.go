package labtest

import (
	"strings"
	"testing"
	"unicode"

	"multidd/internal/cardlab"
)

// A disk that is in use is refused, with all that was named beside it, and
// nothing is written. When it is not in use any more, it is a card like others.
func TestDisksInUseAreRefused(t *testing.T) {
	need(t, false)
	// In the scripts $d is the device. Each disk has a partition.
	cases := []struct {
		name      string
		reasons   string
		use, free string
		card      cardlab.Card
	}{
		{
			name: "partition mounted", reasons: "mounted",
			use:  "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 ${d}1; mkdir -p /mnt/part; mount ${d}1 /mnt/part",
			free: "umount /mnt/part",
		},
		{
			name: "mounted as a whole", reasons: "mounted",
			use:  "mkfs.vfat -I $d; mkdir -p /mnt/whole; mount $d /mnt/whole",
			free: "umount /mnt/whole",
		},
		{
			name: "swap", reasons: "mounted",
			use:  "mkswap ${d}1; swapon ${d}1",
			free: "swapoff ${d}1",
		},
		{
			name: "a device-mapper device on it", reasons: "busy",
			use:  "echo 0 20000 linear ${d}1 0 | dmsetup create plain",
			free: "dmsetup remove plain",
		},
		{
			name: "mounted through two layers", reasons: "mounted",
			use: `echo 0 20000 linear ${d}1 0 | dmsetup create -u LVM-lower lower
				echo 0 20000 linear /dev/mapper/lower 0 | dmsetup create upper
				mkfs.ext2 -q /dev/mapper/upper; mkdir -p /mnt/upper; mount /dev/mapper/upper /mnt/upper`,
			free: "umount /mnt/upper; dmsetup remove upper; dmsetup remove lower",
		},
		{
			name: "a loop device on it", reasons: "busy",
			use:  "modprobe loop; losetup /dev/loop5 ${d}1",
			free: "losetup -d /dev/loop5",
		},
		{
			name: "mounted through a loop device", reasons: "mounted",
			use:  "modprobe loop; losetup /dev/loop6 ${d}1; mkfs.ext2 -q /dev/loop6; mkdir -p /mnt/loop; mount /dev/loop6 /mnt/loop",
			free: "umount /mnt/loop; losetup -d /dev/loop6",
		},
		{
			name: "locked by another program", reasons: "busy",
			use:  "(exec 9<>$d; flock -x 9; exec sleep 1000) >/dev/null 2>&1 & while flock -n $d true; do sleep 0.1; done",
			free: "kill $(pidof sleep); until flock -n $d true; do sleep 0.1; done",
		},
	}
	cards := []cardlab.Card{{}} // the first is free all the time
	for _, c := range cases {
		cards = append(cards, c.card)
	}
	r := boot(t, cardlab.Config{Cards: cards})
	image := newImage(t, 4*mib, 1)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, card := r.in(t), i+1
			dev := r.device(card)
			r.sh("d=" + dev + "\n" + c.use + "\nsync")
			before := r.taken()
			r.start("write", "--yes", image, r.device(0), dev).end().refused(c.reasons)
			r.untouched(before, 0, card)

			r.sh("d=" + dev + "\n" + c.free)
			r.write(image, card).end().want(0, "good")
			r.holds(card, image)
		})
	}
}

// A disk that the running system was started from is refused as such, also when
// its root is on a logical volume.
func TestTheSystemsDiskIsRefused(t *testing.T) {
	need(t, false)
	r := boot(t, cardlab.Config{Cards: make([]cardlab.Card, 3)})
	image := newImage(t, 4*mib, 1)
	for i, root := range []struct{ name, use string }{
		{"on a partition", "root=${d}1"},
		{"on a logical volume", `size=$(blockdev --getsz ${d}1)
			echo 0 $size linear ${d}1 0 | dmsetup create -u LVM-root root; root=/dev/mapper/root`},
	} {
		t.Run(root.name, func(t *testing.T) {
			r, card := r.in(t), i+1
			dev := r.device(card)
			// To multidd the root is what it is confined to.
			r.sh("d=" + dev + "\n" + root.use + `
				mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $root; mount $root /mnt; cd /mnt
				mkdir proc sys dev tmp
				for fs in proc sys dev; do mount --rbind /$fs $fs; done
				cp ` + r.multidd + ` multidd; cp ` + image + ` image; sync`)
			before := r.taken()
			run := r.begin(r.Command("chroot", "/mnt", "/multidd", "write", "--yes", "/image", r.device(0), dev))
			res := run.end()
			res.refused("system-disk")
			res.refused("source-on-target") // the image lies there too
			r.untouched(before, 0, card)
			r.sh("umount -R /mnt")
		})
	}
}

// What cannot be written is refused before anything is.
func TestUnfitCardsAreRefused(t *testing.T) {
	need(t, false)
	const imageSize = 16 * mib
	cases := []struct {
		name, reason string
		card         cardlab.Card
	}{
		{"write-protected", "read-only", cardlab.Card{ReadOnly: true}},
		{"one sector too small", "too-small", cardlab.Card{Size: imageSize - 512}},
		{"no card in the slot", "empty", cardlab.Card{Empty: true}},
	}
	cards := []cardlab.Card{{}, {BlockSize: 4096}}
	for _, c := range cases {
		cards = append(cards, c.card)
	}
	r := boot(t, cardlab.Config{Cards: cards})
	image := newImage(t, imageSize, 1)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, card := r.in(t), i+2
			before := r.taken()
			r.start("write", "--yes", image, r.device(0), r.device(card)).end().refused(c.reason)
			r.untouched(before, 0, card)
		})
	}
	t.Run("the same card twice", func(t *testing.T) {
		r := r.in(t)
		before := r.taken()
		r.start("write", "--yes", image, r.device(0), "2-1").end().refused("same-device")
		r.untouched(before, 0)
	})
	// Sectors of 4096 bytes are no reason to refuse, nor is an image that ends
	// within one.
	t.Run("large sectors", func(t *testing.T) {
		r, odd := r.in(t), newImage(t, imageSize+3*512+1, 2)
		r.write(odd, 1, 0).end().want(0, "good", "good")
		r.holds(0, odd)
		r.holds(1, odd)
		for card := range 2 {
			if !blank(t, r.Backing(card), imageSize+3*512+1, imageSize+2*mib) {
				t.Errorf("card %d was written beyond the image's end", card)
			}
		}
	})
}

// A card's words for itself do nothing to the terminal, and cannot pass for
// multidd's.
func TestHostileNamesAreHarmless(t *testing.T) {
	need(t, false)
	r := boot(t, cardlab.Config{Cards: []cardlab.Card{{
		Vendor: "\x1b[31mBad", Product: "\x1b]0;own\x07\u202eKO", Serial: "\x1b]0;owned\x07\u202e\u009b2J\r\nok good",
	}}})
	image := newImage(t, 4*mib, 1)
	dev := r.device(0)
	r.sh(`mkfs.ext4 -q -L "$(printf '\033[2J\342\200\256\nx')" ` + dev + "1")
	if raw := r.sh("cat /sys/bus/usb/devices/2-1/serial"); !strings.Contains(raw, "\x1b]0;owned\x07") {
		t.Fatalf("the card says nothing hostile: %q", raw)
	}
	for _, c := range []struct {
		name string
		exit int
		args []string
	}{
		{"devices", 0, []string{"devices"}},
		{"devices, JSON", 0, []string{"devices", "--json"}},
		{"dry run", 0, []string{"write", "--dry-run", image, dev}},
		{"dry run, JSON", 0, []string{"write", "--dry-run", "--json", image, dev}},
		{"refused", 5, []string{"write", "--yes", "--max-size", "1M", image, dev}},
		{"in plain lines", 0, []string{"write", "--yes", "--plain", image, dev}},
		{"in JSON lines", 0, []string{"write", "--yes", "--json", image, dev}},
		{"in dd's words", 0, []string{"--yes", "if=" + image, "of=" + dev, "status=progress"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := r.in(t).start(c.args...).end()
			if res.exit != c.exit {
				t.Errorf("exit status %d, want %d", res.exit, c.exit)
			}
			harmless(t, res.text)
			for _, l := range res.lanes {
				harmless(t, l.Serial+l.Message)
			}
		})
	}
	t.Run("on a terminal", func(t *testing.T) {
		run, keys := r.in(t).atTerminal("write", image, dev)
		run.untilPrinted("Type yes: ")
		keys.Write([]byte("yes\n"))
		res := run.end()
		if res.exit != 0 {
			t.Errorf("exit status %d", res.exit)
		}
		for _, s := range []string{"\x1b]0;own", "\x07", "\u202e", "\u009b"} {
			if strings.Contains(res.text, s) {
				t.Errorf("%q came through", s)
			}
		}
	})
}

// harmless checks that a text holds no control characters but newlines and tabs,
// and none that change the direction.
func harmless(t *testing.T, text string) {
	t.Helper()
	for _, c := range text {
		if unicode.IsControl(c) && c != '\n' && c != '\t' || unicode.Is(unicode.Bidi_Control, c) {
			t.Errorf("%U was printed: %q", c, text)
			return
		}
	}
}
