package volume

import (
	"strings"
	"testing"
)

// headWith returns the first bytes of a partition with some text at offsets.
func headWith(text map[int]string) []byte {
	head := make([]byte, headSize)
	for at, s := range text {
		copy(head[at:], s)
	}
	return head
}

func TestWhatIsKnownByNameOnlyCountsAsUsedWhole(t *testing.T) {
	const uuid = "\x11\x11\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x55\x55\x55\x55"
	const asText = "11111111-2222-3333-4444-555555555555"
	for _, c := range []struct {
		kind, label, uuid string
		text              map[int]string
	}{
		{"xfs", "data", asText, map[int]string{0: "XFSB", 32: uuid, 108: "data"}},
		{"ntfs", "", "0807060504030201", map[int]string{3: "NTFS    ", 0x48: "\x01\x02\x03\x04\x05\x06\x07\x08"}},
		{"crypto_LUKS", "safe", asText, map[int]string{0: "LUKS\xba\xbe\x00\x02", 24: "safe", 168: asText}},
		{"crypto_LUKS", "", asText, map[int]string{0: "LUKS\xba\xbe\x00\x01", 8: "aes", 40: "xts-plain64", 168: asText}},
		{"LVM2_member", "", "", map[int]string{512: "LABELONE"}},
		{"linux_raid_member", "box:0", asText, map[int]string{4096: "\xfc\x4e\x2b\xa9", 4096 + 16: uuid, 4096 + 32: "box:0"}},
		{"squashfs", "", "", map[int]string{0: "hsqs"}},
		{"jffs2", "", "", map[int]string{0: "\x85\x19\x03\x20"}},
		{"ubi", "", "", map[int]string{0: "UBI#"}},
		{"iso9660", "LIVE", "", map[int]string{32769: "CD001", 32808: "LIVE        "}},
	} {
		head := headWith(c.text)
		const size = 4 * mib
		d, err := Look(&sparseHead{head, size}, size)
		if err != nil {
			t.Fatal(err)
		}
		if d.FS == nil || d.FS.Kind != c.kind || d.FS.Label != c.label || d.FS.UUID != c.uuid || d.FS.State != Unknown {
			t.Errorf("%s: %+v", c.kind, d.FS)
		}
		if d.Map().Bytes() != size {
			t.Errorf("%s: %d bytes are used", c.kind, d.Map().Bytes())
		}
	}
}

// A disk that has a table and is more than its partitions, as the images of
// installers are, is kept outside of them, too.
func TestAnInstallersDiskIsKeptOutsideOfItsPartitions(t *testing.T) {
	const size = 64 * mib
	table := headWith(map[int]string{446: "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00", 510: "\x55\xaa"})
	swap := makeSmall(t, 2*mib, 4096, "mkswap", "-p", "4096")
	disk := append(append(table, make([]byte, mib-headSize)...), swap...)
	for _, c := range []struct {
		mark string
		all  bool
	}{{"CD001", true}, {"", false}} {
		copy(disk[32769:], "\x00\x00\x00\x00\x00")
		copy(disk[32769:], c.mark)
		d, err := Look(&sparseHead{disk, size}, size)
		if err != nil {
			t.Fatal(err)
		}
		behind := size - d.Map().Bytes()
		if len(d.Parts) != 1 || d.Parts[0].FS == nil || (behind > 4*mib) == c.all {
			t.Errorf("with %q: %d bytes are free, %+v", c.mark, behind, d)
		}
		if warned := strings.Contains(strings.Join(d.Warnings, " "), "believed"); warned != c.all {
			t.Errorf("with %q: %q", c.mark, d.Warnings)
		}
	}
}

func FuzzForeign(f *testing.F) {
	for _, m := range marks() {
		for _, at := range m.at {
			f.Add(headWith(map[int]string{at: m.magic})[:at+len(m.magic)+10])
		}
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		for _, fs := range foreign(head, 1<<20) {
			if fs.State != Unknown || fs.Kind == "" {
				t.Errorf("%+v", fs)
			}
		}
	})
}
