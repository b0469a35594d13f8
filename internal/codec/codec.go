// Package codec recognises, opens and makes compressed streams: bz2, gz, xz,
// zst, lz4 and zip. It does not know that the stream is a disk.
//
// Streams are read strictly. What may follow one another in a format
// (concatenated streams, frames and members, frames to be skipped) is one
// image; after the last of them only zeros may stand, up to the end. Anything
// else that is there, anything that is missing and any checksum that does not
// fit is an *Error that says where. Bytes come out before the checksum that
// covers them has been read: they are right only once Read has returned io.EOF.
//
// The formats, and where they are described:
//
//	bz2  https://sourceware.org/bzip2/ (see package bzip2 below this one)
//	gz   RFC 1952, RFC 1951
//	xz   https://tukaani.org/xz/xz-file-format.txt
//	zst  RFC 8878; the seek table: contrib/seekable_format of facebook/zstd
//	lz4  doc/lz4_Frame_format.md of lz4/lz4
//	zip  APPNOTE.TXT of PKWARE, version 6.3
package codec

import (
	"encoding/binary"
	"hash/crc32"
	"path/filepath"
	"strings"
)

// A Format is how a stream is packed.
type Format string

// The formats. A raw stream is not packed.
const (
	Raw   Format = "raw"
	Bzip2 Format = "bz2"
	Gzip  Format = "gz"
	XZ    Format = "xz"
	Zstd  Format = "zst"
	LZ4   Format = "lz4"
	Zip   Format = "zip"
)

// HeadLen is how many bytes from the start of a stream Recognise wants to see.
const HeadLen = 512

// Recognise tells a stream's format from its first HeadLen bytes, never from a
// name. A stream that is not packed is Raw. Beside the magic number the fields
// after it must be plausible, since a raw disk image may begin with anything.
// Fewer bytes than HeadLen are taken to be the whole stream; then a beginning
// that has been cut short counts too, so that it is refused later rather than
// taken for a disk.
func Recognise(head []byte) Format {
	head = head[:min(len(head), HeadLen)]
	switch {
	case isBzip2(head):
		return Bzip2
	case begins(head, gzipMagic) && (len(head) < 4 || head[3]&0xe0 == 0):
		return Gzip
	case isXZ(head):
		return XZ
	case isZip(head):
		return Zip
	}
	return recogniseFrames(head)
}

// ByName tells by a file name's ending how a stream is to be packed.
func ByName(name string) Format {
	switch f := Format(strings.TrimPrefix(strings.ToLower(filepath.Ext(name)), ".")); f {
	case Bzip2, Gzip, XZ, Zstd, LZ4, Zip:
		return f
	}
	return Raw
}

// begins tells whether a stream that starts with head starts with magic, or would
// if it had not been cut there; one byte is too little to say.
func begins(head []byte, magic string) bool { return len(head) > 1 && like(head, magic) }

// like tells whether head and magic are the same as far as both go.
func like(head []byte, magic string) bool {
	n := min(len(head), len(magic))
	return string(head[:n]) == magic[:n]
}

func isBzip2(head []byte) bool {
	switch {
	case !begins(head, "BZh"):
		return false
	case len(head) < 4:
		return true
	case head[3] < '1' || head[3] > '9':
		return false
	}
	// Packed blocks, or the end of an empty stream.
	rest := head[4:min(len(head), 10)]
	return strings.HasPrefix("\x31\x41\x59\x26\x53\x59", string(rest)) ||
		strings.HasPrefix("\x17\x72\x45\x38\x50\x90", string(rest))
}

func isXZ(head []byte) bool {
	if !begins(head, xzMagic) {
		return false
	}
	return len(head) < xzHeaderLen || crc32.ChecksumIEEE(head[6:8]) == binary.LittleEndian.Uint32(head[8:])
}

func isZip(head []byte) bool {
	if begins(head, zipEnd) && len(head) >= 4 { // an archive with nothing in it
		return len(head) < 6 || head[4] == 0 && head[5] == 0
	}
	// The version of the format that is needed, times ten; the upper byte is 0.
	return begins(head, zipEntry) && (len(head) < 6 || head[4] <= 63 && head[5] == 0) &&
		(len(head) < 10 || head[9] == 0) // methods have small numbers
}

// recogniseFrames tells zst and lz4 apart, which share the frames that are to
// be skipped. If only such frames are to be seen, pzstd made the stream.
func recogniseFrames(head []byte) Format {
	for skipped := false; ; skipped = true {
		switch {
		case begins(head, zstdMagic) && (len(head) < 5 || head[4]&0x08 == 0):
			return Zstd
		case begins(head, lz4Magic) && (len(head) < 6 || head[4]&0xc2 == 0x40 && head[5]&0x8f == 0 && head[5] >= 0x40):
			return LZ4
		case begins(head, lz4LegacyMagic) && (len(head) < 8 || lz4LegacyBlock(binary.LittleEndian.Uint32(head[4:]))):
			return LZ4
		case !isSkippable(head):
			if skipped && len(head) < 4 { // no more to be seen
				return Zstd
			}
			return Raw
		}
		n := int64(skippableLen)
		if len(head) >= skippableLen {
			n += int64(binary.LittleEndian.Uint32(head[4:]))
		}
		head = head[min(n, int64(len(head))):]
	}
}

const skippableLen = 8 // of the head of a frame to be skipped, in bytes

// isSkippable tells whether a zst or lz4 frame that is to be skipped begins
// here: 50 to 5f, 2a 4d 18, the length of what follows in four bytes.
func isSkippable(head []byte) bool { return len(head) >= 4 && likeSkippable(head) }

// likeSkippable is isSkippable for a head of at least one byte that may have been cut short.
func likeSkippable(head []byte) bool {
	return head[0]&0xf0 == 0x50 && like(head[1:], "\x2a\x4d\x18")
}
