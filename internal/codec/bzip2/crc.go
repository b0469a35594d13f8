package bzip2

import (
	"encoding/binary"
	"sync"
)

// A crcTable computes bzip2's checksum, the CRC-32 of Ethernet with the most
// significant bit first, sixteen bytes at a time: [k][b] is the CRC of the byte
// b followed by k zero bytes.
type crcTable [16][256]uint32

const crcPoly = 0x04c11db7

// crc returns the table, which is made once.
var crc = sync.OnceValue(func() *crcTable {
	t := new(crcTable)
	for b := range t[0] {
		c := uint32(b) << 24
		for range 8 {
			c = c<<1 ^ crcPoly&-(c>>31)
		}
		t[0][b] = c
	}
	for k := 1; k < len(t); k++ {
		for b, c := range t[k-1] {
			t[k][b] = c<<8 ^ t[0][c>>24]
		}
	}
	return t
})

// update returns what the register c becomes when p is fed.
func (t *crcTable) update(c uint32, p []byte) uint32 {
	for len(p) >= 16 {
		// Only the first four bytes must wait for c; they are added last.
		x, y := binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])
		rest := (t[11][x>>24&255] ^ t[10][x>>16&255]) ^ (t[9][x>>8&255] ^ t[8][x&255]) ^
			((t[7][y>>56] ^ t[6][y>>48&255]) ^ (t[5][y>>40&255] ^ t[4][y>>32&255])) ^
			((t[3][y>>24&255] ^ t[2][y>>16&255]) ^ (t[1][y>>8&255] ^ t[0][y&255]))
		c ^= uint32(x >> 32)
		c = ((t[15][c>>24] ^ t[14][c>>16&255]) ^ (t[13][c>>8&255] ^ t[12][c&255])) ^ rest
		p = p[16:]
	}
	for _, b := range p {
		c = c<<8 ^ t[0][byte(c>>24)^b]
	}
	return c
}
