package tui

import (
	"bytes"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
)

// inspections are images and cards as people have them, and as they had better not.
func inspections() map[string]Inspection {
	times := func(used float64) []InspectedTime {
		return []InspectedTime{{10e6, used / 10e6}, {20e6, used / 20e6}, {40e6, used / 40e6}}
	}
	boot := InspectedPart{
		Number: 1, Start: 4 << 20, Size: 256 << 20, Type: "0c", TypeName: "FAT32 (LBA)", PartUUID: "6c586e13-01", Boot: true,
		FS: "fat32", Label: "bootfs", UUID: "4BD9-4BE9", FSSize: 256 << 20, FSUsed: 52 << 20, State: "clean",
	}
	root := InspectedPart{
		Number: 2, Start: 260 << 20, Size: 3500 << 20, Type: "83", TypeName: "Linux", PartUUID: "6c586e13-02",
		FS: "ext4", Label: "rootfs", UUID: "56f80fa2-e005-4cca-86e6-19da1069914d", FSSize: 3500 << 20, FSUsed: 1100 << 20, State: "clean",
	}
	dirty := root
	dirty.State, dirty.Why, dirty.Number, dirty.Logical = "dirty", "its journal has to be replayed", 5, true
	dirty.Label = "a label as long as labels come"
	unknown := InspectedPart{Number: 6, Start: 3760 << 20, Size: 16 << 20, Type: "da", TypeName: "no file system", PartUUID: "6c586e13-06", FSSize: -1, FSUsed: -1}
	sum := strings.Repeat("0123456789abcdef", 4)
	return map[string]Inspection{
		"packed": {
			Name: "moz-ref-v2.img.zst", Format: "zst", Packed: 403 << 20, Anywhere: true, Size: 3776 << 20, Used: 1170 << 20, Table: "mbr", ID: "6c586e13", Sector: 512,
			Parts: []InspectedPart{boot, root}, BMap: &InspectedMap{1170 << 20, true, "that is all that is in use"}, Write: times(1170 << 20),
			Revision: "moz-ref v2\n2026-11-20, by the lab\n",
			Digests:  []InspectedDigest{{"file", sum, "moz-ref-v2.img.zst.sha256", "right"}, {"disk", sum, "", "computed"}},
		},
		"card": {
			Name: "1-2.4", Device: "/dev/sdb in slot 1-2.4, Generic STORAGE DEVICE", Format: "raw", Size: 3776 << 20, Used: 3600 << 20, Table: "mbr", ID: "6c586e13", Sector: 512,
			Parts: []InspectedPart{boot, dirty, unknown}, Write: times(3600 << 20),
			Warnings: []string{"What is shown may be half old and half new: /dev/sdb1 is mounted at /media/boot, so that it changes while it is read; unmount it first: umount /media/boot."},
		},
		"one file system": {
			Name: "data.img", Format: "raw", Size: 64 << 20, Used: 3 << 20, Write: times(3 << 20),
			Parts: []InspectedPart{{Size: 64 << 20, FS: "ext2", UUID: root.UUID, FSSize: 64 << 20, FSUsed: 3 << 20, State: "clean"}},
		},
		"unknown": {Name: "x.img", Format: "raw", Size: 1 << 20, Used: 1 << 20, Write: times(1 << 20)},
		"cut": {
			Name: "cut.img.bz2", Format: "bz2", Packed: 9000, Size: -1, Used: 600 << 20, Table: "mbr", ID: "6c586e13", Sector: 512,
			Parts: []InspectedPart{boot}, Error: "cut.img.bz2: bz2 image is cut short: it ends at byte 9000, before the packed data does",
		},
		"wrong map": {
			Name: "other.img", Format: "raw", Size: 3776 << 20, Used: 1170 << 20, Table: "gpt", ID: "12345678-1234-1234-1234-123456789ABC", Sector: 4096,
			Parts:   []InspectedPart{{Number: 1, Start: 1 << 20, Size: 3774 << 20, Type: "x", TypeName: "Linux", Name: "root", PartUUID: "11111111-2222-3333-4444-555555555555", FS: "xfs", UUID: root.UUID, State: "unknown", Why: "what is in use of it is not read here"}},
			BMap:    &InspectedMap{1170 << 20, false, "it leaves out 93 kB that are in use and not zero: it is that of another image, or this one was changed"},
			Digests: []InspectedDigest{{"either", sum, "SHA256SUMS", "unchecked"}},
		},
	}
}

func TestAnInspectionIsAPage(t *testing.T) {
	for name, in := range inspections() {
		for _, o := range []TableOptions{{Width: 80}, {Width: 60, ASCII: true}} {
			var b bytes.Buffer
			if err := Inspect(&b, in, o); err != nil {
				t.Fatal(err)
			}
			suffix := ""
			if o.ASCII {
				suffix = "-narrow"
			}
			golden(t, "inspect-"+strings.ReplaceAll(name, " ", "-")+suffix+".txt", b.String())
			for line := range strings.Lines(b.String()) {
				if n := ansi.StringWidth(strings.TrimRight(line, "\n")); n > o.Width {
					t.Errorf("%s: a line of %d cells at a width of %d: %s", name, n, o.Width, line)
				}
			}
		}
	}
}

// A card may say anything of itself.
func TestAnInspectionShowsNothingThatHarms(t *testing.T) {
	in := inspections()["card"]
	evil := "e\x1b[31mvil\u202e\r\n\x07"
	in.Name, in.Device, in.ID, in.Revision, in.Error = evil, evil, evil, evil, evil
	in.Warnings, in.Digests = []string{evil}, []InspectedDigest{{"file", evil, evil, "unchecked"}}
	in.BMap = &InspectedMap{1, false, evil}
	p := &in.Parts[0]
	p.Type, p.TypeName, p.Name, p.PartUUID, p.FS, p.Label, p.UUID, p.State, p.Why = evil, evil, evil, evil, evil, evil, evil, evil, evil
	var b bytes.Buffer
	if err := Inspect(&b, in, TableOptions{Width: 80}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"\x1b", "\u202e", "\r", "\x07"} {
		if strings.Contains(b.String(), bad) {
			t.Errorf("%q is on the page", bad)
		}
	}
}

func TestTypesAreSaidInWords(t *testing.T) {
	for _, c := range []struct{ table, kind, want string }{
		{"mbr", "0c", "FAT32 (LBA)"}, {"mbr", "83", "Linux"}, {"mbr", "0C", "FAT32 (LBA)"}, {"mbr", "99", "99"},
		{"gpt", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux"}, {"gpt", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"}, {"gpt", "83", "83"},
	} {
		if got := PartType(c.table, c.kind); got != c.want {
			t.Errorf("%s %s: got %s, want %s", c.table, c.kind, got, c.want)
		}
	}
}

func TestPassingIsOneLine(t *testing.T) {
	for _, c := range []struct {
		input, packed, decoded int64
		want                   string
	}{{50e6, 100e6, 400e6, "unpacked 400 MB, 50 %, 0:12"}, {50e6, -1, 400e6, "unpacked 400 MB, 0:12"}, {101e6, 100e6, 400e6, "unpacked 400 MB, 100 %, 0:12"}} {
		if got := Passing(c.input, c.packed, c.decoded, 12e9); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
