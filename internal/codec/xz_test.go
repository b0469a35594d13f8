package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// xzHeader makes a block's header with a right checksum from what is in it.
func xzHeader(fields ...byte) []byte {
	b := append([]byte{0}, fields...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	b[0] = byte(len(b) / 4)
	return le.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func TestHostileXZHeadersAreErrors(t *testing.T) {
	huge := "\xff\xff\xff\xff\xff\xff\xff\xff\x7f" // the largest number there is
	stored := []byte("\x01\x00\x03data\x00")       // LZMA2: four bytes as they are, the end
	for _, c := range []struct {
		name  string
		block []byte
		says  string
	}{
		{"a packed size of 0", xzHeader(0x40, 0, 0x21, 1, 0), "makes no sense"},
		{"a huge packed size", xzHeader([]byte("\x40" + huge + "\x21\x01\x00")...), "makes no sense"},
		{"a huge size that is not true", append(xzHeader([]byte("\x80"+huge+"\x21\x01\x00")...), stored...), "corrupt"},
		{"a number that goes on for ever", xzHeader([]byte("\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x21\x01\x00")...), "makes no sense"},
		{"a number in too many bytes", xzHeader(0x40, 0x88, 0x00, 0x21, 1, 0), "makes no sense"},
		{"flags not defined", xzHeader(0x04, 0x21, 1, 0), "not known here"},
		{"a filter not known", xzHeader(0x01, 0x0a, 0, 0x21, 1, 0), "filter not known here (0xa)"},
		{"LZMA2 not the last", xzHeader(0x01, 0x21, 1, 0, 0x21, 1, 0), "filter"},
		{"no LZMA2", xzHeader(0x00, 0x04, 0), "filter"},
		{"properties beyond the end", xzHeader([]byte("\x00\x21" + huge)...), "makes no sense"},
		{"a dictionary that cannot be", xzHeader(0x00, 0x21, 1, 41), "makes no sense"},
		{"padding that is not zero", xzHeader(0x00, 0x21, 1, 0, 0, 0, 7), "makes no sense"},
		{"a wrong checksum", append(xzHeader(0x00, 0x21, 1, 0)[:8], 1, 2, 3, 4), "checksum"},
		{"a chunk that does not exist", append(xzHeader(0x00, 0x21, 1, 0), 0x7f, 0, 0, 0), "chunk"},
		{"a first chunk that goes on from another", append(xzHeader(0x00, 0x21, 1, 0), 2, 0, 0, 'x', 0), "corrupt"},
		{"no blocks, and an index of very many", []byte("\x00" + huge), "cut short"},
		{"an index of one that was not there", appendXZIndex(nil, xzCRC32, xzRecord{16, 4}), "does not agree"},
		{"an index that is wrongly padded", []byte("\x00\x00\x00\x01"), "padding"},
		{"an index with a wrong checksum", []byte("\x00\x00\x00\x00\x00\x00\x00\x00"), "checksum of the index"},
		{"a wrong footer", append(appendXZIndex(nil, xzCRC32)[:18], "YY"...), "footer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, workers := range []int{1, 2} {
				stream := append(appendXZHeader(nil, xzCRC32), c.block...)
				_, err := unpack(stream, XZ, ReadOptions{Workers: workers})
				if _, is := errors.AsType[*Error](err); !is || !strings.Contains(err.Error(), c.says) {
					t.Errorf("the error is: %v", err)
				}
			}
		})
	}
}

func TestAnXZIndexThatDisagreesIsAnError(t *testing.T) {
	// Two blocks of four stored bytes, without a check, so that only the index can tell.
	var stream []byte
	block := append(xzHeader(0x00, 0x21, 1, 0), "\x01\x00\x03data\x00"...)
	stream = append(appendXZHeader(nil, xzNone), block...)
	stream = append(stream, block...)
	good := xzRecord{12 + 8, 4}
	for _, c := range []struct {
		name    string
		records []xzRecord
		ok      bool
	}{
		{"right", []xzRecord{good, good}, true},
		{"another length", []xzRecord{good, {20, 5}}, false},
		{"another packed length", []xzRecord{{24, 4}, good}, false},
		{"one missing", []xzRecord{good}, false},
		{"one too many", []xzRecord{good, good, good}, false},
	} {
		got, err := unpack(appendXZIndex(bytes.Clone(stream), xzNone, c.records...), XZ, ReadOptions{})
		if c.ok != (err == nil) || c.ok && string(got) != "datadata" {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestChecksNotKnownAreRefused(t *testing.T) {
	_, err := unpack(append(appendXZHeader(nil, 2), 0, 0, 0, 0), XZ, ReadOptions{})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// blocks packs data as xz in blocks of 192 KiB whose headers tell their lengths.
func blocks(t testing.TB, data []byte) []byte {
	return tool(t, data, "xz", "-c", "-0", "-T2", "--block-size=192KiB")
}

func TestBlocksAreUnpackedAheadWithinTheBudget(t *testing.T) {
	want := sample(11, max(some(4<<20), 2<<20))
	packed := blocks(t, want)
	deepest := func(o ReadOptions) (depth int) {
		in := newInput(bytes.NewReader(packed))
		x := newXZParts(in, o.withDefaults())
		defer x.close()
		r, err := x.next()
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		buf := make([]byte, 100_000)
		for err == nil {
			var n int
			n, err = r.Read(buf)
			got.Write(buf[:n])
			depth = max(depth, len(x.ahead.queue))
			if held := x.benches.held; x.ahead.used && held > x.ahead.budget {
				t.Fatalf("%d bytes are held, and %d are allowed", held, x.ahead.budget)
			}
		}
		if err != io.EOF || !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%+v: something else comes out: %v", o, err)
		}
		return depth
	}
	for _, c := range []struct {
		name string
		o    ReadOptions
		want func(int) bool
	}{
		{"one worker", ReadOptions{Workers: 1}, func(n int) bool { return n == 0 }},
		{"four workers", ReadOptions{Workers: 4}, func(n int) bool { return n == 3 }},
		{"no memory for it", ReadOptions{Workers: 4, Ahead: 1 << 20}, func(n int) bool { return n == 0 }},
		{"memory for some", ReadOptions{Workers: 9, Ahead: xzPiecesSize + 5*(256<<10+120<<10)}, func(n int) bool { return n > 0 && n < 8 }},
	} {
		if n := deepest(c.o); !c.want(n) {
			t.Errorf("%s: up to %d blocks are unpacked ahead", c.name, n)
		}
	}
}

// storedBlocks is a stream of nine blocks of 60,000 bytes that are not packed, each
// of one letter. In one of them a byte may be wrong, so that only its check can tell.
func storedBlocks(wrong int) []byte {
	var records []xzRecord
	stream := appendXZHeader(nil, xzCRC32)
	for i := range 9 {
		data := bytes.Repeat([]byte{byte('a' + i)}, 60_000)
		chunk := binary.BigEndian.AppendUint16([]byte{1}, uint16(len(data)-1))
		chunk = append(append(chunk, data...), 0)
		if i == wrong {
			chunk[1000] ^= 1
		}
		h := binary.AppendUvarint([]byte{0xc0}, uint64(len(chunk)))
		h = binary.AppendUvarint(h, uint64(len(data)))
		b := &xzBlock{header: xzHeader(append(h, xzLZMA2, 1, 8)...), packed: int64(len(chunk)), check: xzCRC32}
		records = append(records, b.record(b.packed, int64(len(data))))
		stream = append(append(stream, b.header...), chunk...)
		stream = append(stream, make([]byte, padded(b.packed)-b.packed)...)
		stream = le.AppendUint32(stream, crc32.ChecksumIEEE(data))
	}
	return appendXZIndex(stream, xzCRC32, records...)
}

func TestEveryBlockIsProvedHoweverItIsUnpacked(t *testing.T) {
	for _, workers := range []int{1, 2, 8} {
		if got, err := unpack(storedBlocks(-1), XZ, ReadOptions{Workers: workers}); err != nil || len(got) != 9*60_000 {
			t.Errorf("%d workers: %d bytes come out, then %v", workers, len(got), err)
		}
		got, err := unpack(storedBlocks(5), XZ, ReadOptions{Workers: workers})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Offset < 5*60_000 || e.Offset > 6*60_100 || len(got) > 6*60_000 {
			t.Errorf("%d workers, the sixth is wrong: %d bytes come out, then %v", workers, len(got), err)
		}
	}
}
