package bzip2

import "encoding/binary"

// Symbols of a block: two for runs of the byte in front, then how far back the
// byte is that moves to the front, then the end of the block.
const (
	runA = 0
	runB = 1
)

// A mover writes the last column as symbols.
type mover struct {
	recent  recent
	used    []byte // the bytes in the block, ascending
	symbols []uint16
	runs    [256]runSymbols
}

// A runSymbols is the symbols of a short run, at most four, and how many they are.
type runSymbols struct {
	symbols uint64
	n       int
}

// shortRun is the longest run that has at most four symbols or so.
const shortRun = 30

// newMover returns a mover.
func newMover() *mover {
	m := new(mover)
	for n := range shortRun + 1 {
		var b [16]byte
		k := len(appendRun(nil, n))
		for i, sym := range appendRun(nil, n) {
			binary.LittleEndian.PutUint16(b[2*i:], sym)
		}
		m.runs[n] = runSymbols{binary.LittleEndian.Uint64(b[:]), k}
	}
	return m
}

// appendRun appends the symbols of a run: its length in digits of 1 and 2, to the
// base of 2, the lowest first.
func appendRun(dst []uint16, n int) []uint16 {
	for ; n > 0; n = (n - 1) / 2 {
		dst = append(dst, uint16(n-1)&1)
	}
	return dst
}

// move writes the last column of rows, and uses rows up.
func (m *mover) move(rows []uint32, used []byte) {
	m.used = used
	m.recent.list(used)
	if cap(m.symbols) < len(rows)+8 {
		m.symbols = make([]uint16, roomFor(len(rows))+8)
	}
	runs := gather(rows)
	out := m.symbols[:cap(m.symbols)]
	n := 0
	// The first run may be of the byte that is in front.
	r0 := runs[0]
	if byte(r0>>24) == byte(m.recent.top) {
		n = len(appendRun(out[:0], int(r0&rowPlace)))
		runs = runs[1:]
	}
	for _, r := range runs {
		out[n] = uint16(m.recent.move(byte(r>>24))) + 1
		n++
		more := int(r&rowPlace) - 1
		if more <= 0 {
			continue
		}
		n += len(appendRun(out[n:n], more))
	}
	out[n] = uint16(len(used)) + 1
	m.symbols = out[:n+1]
}

// gather makes each run of the last column one word: the byte, and in the lower
// 24 bits how many there are.
func gather(rows []uint32) []uint32 {
	n, count := 0, uint32(0)
	for i := 0; i+1 < len(rows); i++ {
		b, next := rows[i]>>24, rows[i+1]>>24
		count++
		rows[n] = b<<24 | count
		differ := (b - next) | (next - b) // the highest bit is set if they differ
		n += int(differ >> 31)
		count &= differ>>31 - 1
	}
	rows[n] = rows[len(rows)-1]>>24<<24 | (count + 1)
	return rows[:n+1]
}
