package station

import "testing"

func TestATableForOtherSectorsIsWarnedOf(t *testing.T) {
	gpt := func(sector int) []byte {
		p := make([]byte, 1<<16)
		copy(p[sector:], "EFI PART")
		p[510], p[511], p[446+4], p[446+12] = 0x55, 0xaa, 0xee, 1
		return p
	}
	mbr := make([]byte, 512)
	mbr[510], mbr[511], mbr[446], mbr[446+4], mbr[446+12] = 0x55, 0xaa, 0x80, 0x83, 1
	fat := make([]byte, 512)
	copy(fat, "\xeb\x58\x90MSDOS5.0")
	copy(fat[440:], "Remove disks or other media. Press any key to restart")
	fat[510], fat[511] = 0x55, 0xaa
	for _, c := range []struct {
		name  string
		image []byte
		table int
	}{
		{"GPT for 512", gpt(512), 512}, {"GPT for 4096", gpt(4096), 4096}, {"MBR", mbr, 512},
		{"a file system alone", fat, 0}, {"zeros", make([]byte, 1<<16), 0}, {"short", []byte{0x55}, 0},
	} {
		if got := tableSector(c.image); got != c.table {
			t.Errorf("%s: %d, want %d", c.name, got, c.table)
		}
		for _, card := range []int{512, 4096} {
			warned := geometryNote(c.table, card) != ""
			if want := c.table != 0 && c.table != card; warned != want {
				t.Errorf("%s on a card with sectors of %d: warned %v", c.name, card, warned)
			}
		}
	}
}
