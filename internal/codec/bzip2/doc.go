// Package bzip2 unpacks and packs bzip2 data on many cores, in a bounded amount of
// memory, from any io.Reader and to any io.Writer.
//
// # The format
//
// A file is one stream after another. A stream is "BZh", a digit 1 to 9 (a
// block holds at most that many times 100,000 bytes), blocks, and an end mark
// with a checksum over the blocks' checksums; it is padded to a whole byte. A
// block begins with 48 fixed bits, at any bit of a byte, and undoes these steps
// of the packer, last first: runs of equal bytes are shortened (runs.go); the
// block is sorted by what follows each byte, the Burrows-Wheeler transform
// (unsort.go); the sorted column is written as moves to front and runs
// (front.go, column.go); these symbols are Huffman coded (huffman.go). There is
// no written standard: the format is what Julian Seward's bzip2 1.0.8 reads and
// writes (https://sourceware.org/bzip2/). This package accepts what that program
// accepts and refuses what it refuses, but that it is strict about what follows
// the last stream: only zeros to the end of the input, or nothing.
//
// # Unpacking on many cores
//
// Nothing in the format says where a block begins, and its length is known only
// once it is decoded. So a finder looks for the 48 bits at every bit of the
// input. Each place that has them is a candidate and is decoded by the next
// free worker. A candidate may be false: packed data may hold the same bits by
// accident or by malice. Therefore the reader, which takes the candidates in
// order, accepts a block only where the one before it ended, and drops the
// others. A false candidate costs time, never correctness; what marks the end
// of a stream is looked for only where a block ended.
//
// A block's checksum is verified before the first of its bytes is returned, so
// bytes of a damaged block never are.
//
// # Packing on many cores
//
// What is written is cut into blocks while its runs are shortened (shorten.go), so
// that a block of zeros, which may be 46 MB of input, is never there in full.
// Each block is encoded by the next free worker, as bits that begin
// anywhere; one goroutine joins them in order into one stream (writer.go). The
// blocks are cut where bzip2 cuts them, and the stream is the same however many
// workers there are.
//
// A worker sorts a block by comparing only a third of its rotations, first by some
// bytes of text and then by what is known of the rotations ahead (sort.go, stars.go,
// ranks.go): whatever repeats in it, that takes n log² n steps at most, and
// a run of anything hardly more than one look. The rest is what bzip2 does:
// moves to front and runs (recent.go, moves.go), and two to six codes among which
// every fifty symbols choose (code.go, encode.go). So it is as small as bzip2 makes it.
//
// # Bounded memory
//
// Unpacking: a block may expand from 900,000 bytes to 46 MB when its runs are. The workers
// therefore hand over the bytes with the runs still short, and Read lengthens
// them straight into the caller's buffer. The input is a window of chunks that
// moves on when a block is accepted (input.go). All buffers are made once; see
// Memory.
//
// Packing: all buffers are for the largest block of the level, and are made once; see
// WriterMemory. Whoever writes faster than blocks are encoded waits.
//
// # Speed
//
// A decoder mostly waits: for branches nobody can predict and for memory. So
//
//   - one look-up decodes a run and the move to front after it, and what
//     follows has no branch on whether the run goes on (huffman.go, column.go);
//   - a move from far behind shifts 64 bytes, not up to 255 (front.go);
//   - the sorted block is linked in four parts at once and spelled along sixteen
//     chains at once, so that their cache misses overlap (unsort.go);
//   - long runs are never written but to the caller, and the checksum takes
//     sixteen bytes at a time (runs.go, crc.go).
//
// And so does an encoder. It finds types, sorts keys, gathers runs and counts moves without
// branches; it weighs a group of symbols with all six codes in one addition each; and
// a row carries the byte before it, so that deriving the others looks at the text
// once for each.
package bzip2
