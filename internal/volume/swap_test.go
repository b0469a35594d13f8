package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"multidd/internal/volume/volumetest"
)

func TestSwapIsFreeBehindItsHeader(t *testing.T) {
	t.Parallel()
	for _, page := range []int64{4 << 10, 8 << 10, 16 << 10, 64 << 10} {
		im := volumetest.Make(t, volumetest.Spec{Parts: []volumetest.Part{{Kind: "swap", Size: 4 * mib, Args: []string{"-p", fmt.Sprint(page)}}}})
		fs := openAt(t, openSwap, im, 0)
		info := fs.info()
		if info.Kind != "swap" || info.State != Clean || info.Label != "spare" || info.UUID != blkid(t, im.Path, "UUID") || info.Size != im.Size {
			t.Errorf("%+v", info)
		}
		m := mapOf(t, fs, im.Size)
		if m.Bytes() != page {
			t.Errorf("%v", m)
		}
		proveMap(t, im, m)
	}
}

// What is suspended lies in the pages; nobody may take them for free.
func TestSwapThatIsMoreThanSwapCountsAsUsedWhole(t *testing.T) {
	made := makeSmall(t, 4*mib, 4*mib, "mkswap", "-p", "4096")
	sign := func(s string) []byte {
		b := bytes.Clone(made)
		copy(b[4086:4096], s+"\x00\x00\x00\x00\x00")
		return b
	}
	put := func(off int, v uint32) []byte {
		b := bytes.Clone(made)
		binary.LittleEndian.PutUint32(b[off:], v)
		return b
	}
	for _, c := range []struct {
		name  string
		data  []byte
		state State
		why   string
	}{
		{"as mkswap makes it", made, Clean, ""},
		{"suspended", sign("S1SUSPEND"), Unknown, "it holds the memory of a system that was suspended"},
		{"suspended by a program", sign("ULSUSPEND"), Unknown, "it holds the memory of a system that was suspended"},
		{"suspended long ago", sign("LINHIB0001"), Unknown, "it holds the memory of a system that was suspended"},
		{"made long ago", sign("SWAP-SPACE"), Unknown, "it is swap space of a kind that is no longer made"},
		{"a version", put(1024, 3), Unknown, "its version 3 is not known"},
		{"longer than where it lies", put(1028, 1<<20), Unknown, "it is longer than where it lies"},
		{"of the greatest length", put(1028, 1<<32-1), Unknown, "it is longer than where it lies"},
		{"of no length", put(1028, 0), Unknown, "its header contradicts itself"},
		{"shorter than where it lies", put(1028, 99), Clean, ""},
	} {
		fs, err := openSwap(bytes.NewReader(c.data), int64(len(c.data)))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		info := fs.info()
		if info.State != c.state || info.Why != c.why {
			t.Errorf("%s: %+v", c.name, info)
		}
		free := int64(len(c.data)) - mapOf(t, fs, int64(len(c.data))).Bytes()
		if want := info.Size - 4096; c.state == Clean && free != want || c.state != Clean && free != 0 {
			t.Errorf("%s: %d bytes are free", c.name, free)
		}
	}
}

func TestSwapOfAnotherByteOrder(t *testing.T) {
	data := makeSmall(t, 4*mib, 4*mib, "mkswap", "-p", "65536")
	for off := 1024; off < 1036; off += 4 {
		binary.BigEndian.PutUint32(data[off:], binary.LittleEndian.Uint32(data[off:]))
	}
	fs, err := openSwap(bytes.NewReader(data), int64(len(data)))
	if err != nil || fs.info().State != Clean || fs.info().Used != 64<<10 {
		t.Errorf("%v, %+v", err, fs.info())
	}
}

func TestWhatIsNoSwapIsLeftToOthers(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 100), make([]byte, 70_000)} {
		if _, err := openSwap(bytes.NewReader(data), int64(len(data))); !errors.Is(err, errNotMine) {
			t.Errorf("%d zeros: %v", len(data), err)
		}
	}
}

func FuzzSwap(f *testing.F) {
	f.Add(makeSmall(f, 1*mib, 8192, "mkswap", "-L", "label", "-p", "4096"), int64(1*mib))
	f.Add(makeSmall(f, 1*mib, 70_000, "mkswap", "-p", "65536"), int64(1*mib))
	fuzzOpener(f, openSwap)
}
