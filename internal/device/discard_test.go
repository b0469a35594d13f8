package device

import (
	"bytes"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// discard tells a device that n bytes at off are of no more use.
func discard(f *os.File, off, n uint64) error {
	r := [2]uint64{off, n}
	return control(f, func(fd int) error {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r))); e != 0 {
			return e
		}
		return nil
	})
}

func TestWhatIsDiscardedReadsAsZerosAndIsNoForeignWrite(t *testing.T) {
	const size, off, n = 1 << 20, 100_000, 500_000
	eachTarget(t, size, func(t *testing.T, c *Card) {
		if err := c.CanDiscard(); err != nil {
			t.Fatal(err)
		}
		want := pattern(1, size)
		if _, err := c.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Discard(off, n); err != nil {
			t.Fatal(err)
		}
		if err := c.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil {
			t.Error(err)
		}
		got := make([]byte, size)
		if _, err := c.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		sector := 1 // of a file any byte can go, of a device whole sectors
		if c.disk.Bus != BusFile {
			sector = c.disk.Sector
		}
		clear(want[(off+sector-1)/sector*sector : (off+n)/sector*sector])
		if !bytes.Equal(got, want) {
			t.Error("something else than was asked for is zero")
		}
		if err := c.Discard(size-512, 1024); reasonOf(err) != ReasonTooSmall {
			t.Errorf("beyond the end: %v", err)
		}
	})
}

// Most readers promise nothing; to them nothing is discarded.
func TestACardThatPromisesNoZerosIsNotToBeDiscarded(t *testing.T) {
	f := newFixture(t)
	usbCard(f)
	c := &Card{sys: f.System, disk: f.get("sdb")}
	if err := c.CanDiscard(); reasonOf(err) != ReasonNoDiscard {
		t.Errorf("a card that says nothing of zeros: %v", err)
	}
	f.attrs(f.sys("class/block/sdb"), "queue/write_zeroes_max_bytes=4294966784")
	if err := c.CanDiscard(); err != nil {
		t.Errorf("a card that promises zeros: %v", err)
	}
}
