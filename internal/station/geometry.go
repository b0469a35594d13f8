package station

import (
	"context"
	"encoding/binary"
	"fmt"

	"multidd/internal/block"
)

// Next returns the image's next block, and looks at the partition table as it
// passes.
func (s *ImageSource) Next(ctx context.Context) (block.Block, error) {
	for {
		b, err := s.Reader.Next(ctx)
		if err != nil {
			return b, err
		}
		if b.Off == 0 {
			s.sector.Store(int32(tableSector(b.Data)))
		}
		switch e := b.Extent(); {
		case s.End == 0 || e.End() <= s.End:
			return b, nil
		case e.Off < s.End:
			return block.New(b.Off, b.Data[:s.End-e.Off], b.Release), nil
		}
		b.Release() // and on to the end, where the image proves to be right
	}
}

// TableSector returns for which size of sectors, in bytes, the image's partition
// table was made; 0: it has none, or has not come by yet.
func (s *ImageSource) TableSector() int { return int(s.sector.Load()) }

// tableSector returns for which size of sectors, in bytes, the partition table at
// the beginning of a disk was made; 0: there is none. A GUID partition table has
// its header in sector 1 (UEFI Specification, 5.3.2). A master boot record does
// not tell: it is taken to be for 512 bytes, as nearly all are.
func tableSector(p []byte) int {
	for _, sector := range []int{512, 4096} {
		if len(p) >= 2*sector && string(p[sector:sector+8]) == "EFI PART" {
			return sector
		}
	}
	const table, entries = 446, 4
	if len(p) < 512 || p[510] != 0x55 || p[511] != 0xaa {
		return 0
	}
	used := 0
	for i := range entries {
		e := p[table+16*i : table+16*i+16]
		if e[0]&0x7f != 0 {
			return 0 // a boot sector of a file system, not a table
		}
		if e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) > 0 {
			used++
		}
	}
	if used == 0 {
		return 0
	}
	return 512
}

// geometryNote warns of a card whose sectors are not those that the image's
// partition table was made for; "" if there is nothing to warn of.
func geometryNote(table, card int) string {
	if table == 0 || card == 0 || table == card {
		return ""
	}
	return fmt.Sprintf("The image's partition table is made for sectors of %d bytes and this card has %d: the partitions will not be found on it in this reader.", table, card)
}
