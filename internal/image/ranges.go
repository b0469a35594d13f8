package image

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"strings"
)

// mapBlock is the size of a block in the maps we make, in bytes.
const mapBlock = 4096

// mapRanges is how many ranges a map has before it grows coarser, and how many
// more each time it does. A map of at most 8 times as many is within what
// parseBMap takes.
const mapRanges = 16 << 10

// A madeRange is a range of blocks of the map, with its checksum.
type madeRange struct {
	first, last int64
	sum         [sha256.Size]byte
}

// A rangeMaker makes the map of an image while that is written: the blocks that
// something was written to, in ranges, with the checksum of each.
//
// A range that has ended is not opened again. So that a disk in very many pieces
// has a map that can be read, gaps count as used once there are too many ranges,
// small ones first: they are zeros in the image like any other gap, and only
// have to be written.
type rangeMaker struct {
	done  []madeRange
	open  bool // a range has begun
	first int64
	at    int64 // how far it has come, in bytes of the disk
	h     hash.Hash
}

// gap returns how many blocks may lie between two writes of one range.
func (m *rangeMaker) gap() int64 {
	n := len(m.done) / mapRanges
	if n >= 8 {
		return 1 << 62
	}
	return 1<<(2*n) - 1
}

// write takes what is written at byte off, which is not before what was.
func (m *rangeMaker) write(p []byte, off int64) {
	b := off / mapBlock
	if m.open && b-m.last()-1 > m.gap() {
		m.finish((m.last() + 1) * mapBlock)
	}
	if !m.open {
		m.open, m.first, m.at = true, b, b*mapBlock
		m.h.Reset()
	}
	hashZeros(m.h, off-m.at)
	m.h.Write(p)
	m.at = off + int64(len(p))
}

// last returns the last block of the range that is open.
func (m *rangeMaker) last() int64 { return max(m.first, (m.at-1)/mapBlock) }

// finish ends the range, which is followed by zeros up to byte end.
func (m *rangeMaker) finish(end int64) {
	r := madeRange{first: m.first, last: m.last()}
	hashZeros(m.h, end-m.at)
	m.h.Sum(r.sum[:0])
	m.done = append(m.done, r)
	m.open = false
}

// text ends the map of a disk of size bytes, and returns it. A map must have a
// range; if nothing was written, it is the first block.
func (m *rangeMaker) text(size int64) string {
	if !m.open && len(m.done) == 0 {
		m.open = true
		m.h.Reset()
	}
	if m.open {
		m.finish(min(size, (m.last()+1)*mapBlock))
	}
	var mapped int64
	for _, r := range m.done {
		mapped += r.last - r.first + 1
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<?xml version="1.0" ?>
<!-- Which blocks of an image are used. Only these have to be written to a card;
     all others are zeros in the image, and free. Read by bmaptool and multidd. -->

<bmap version="2.0">
    <!-- in bytes -->
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>

    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>

    <ChecksumType> sha256 </ChecksumType>

    <!-- of this file, with 64 digits 0 in the place of this -->
    <BmapFileChecksum> `, size, mapBlock, (size+mapBlock-1)/mapBlock, mapped)
	at := b.Len()
	b.WriteString(strings.Repeat("0", 2*sha256.Size) + " </BmapFileChecksum>\n\n    <BlockMap>\n")
	for _, r := range m.done {
		if r.first == r.last {
			fmt.Fprintf(&b, "        <Range chksum=\"%x\"> %d </Range>\n", r.sum, r.first)
		} else {
			fmt.Fprintf(&b, "        <Range chksum=\"%x\"> %d-%d </Range>\n", r.sum, r.first, r.last)
		}
	}
	b.WriteString("    </BlockMap>\n</bmap>\n")
	text := b.Bytes()
	copy(text[at:], fmt.Sprintf("%x", sha256.Sum256(text)))
	return string(text)
}
