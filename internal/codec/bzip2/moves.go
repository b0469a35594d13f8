package bzip2

// A mover writes the last column as symbols: for how far back a byte is that
// moves to the front, and two for the runs of the byte that is in front; at last
// the end of the block.
type mover struct {
	recent  recent
	symbols []uint16
	short   runTable
}

// A runTable holds the symbols of short runs by their lengths: at most four, and
// how many there are.
type runTable [31]struct {
	symbols [4]uint16
	n       int
}

func (t *runTable) make() {
	for n := range t {
		t[n].n = len(appendRun(t[n].symbols[:0], n))
	}
}

// appendRun appends the symbols of a run: its length in digits of 1 and 2, to the
// base of 2, the lowest first. Symbol 0 is a 1, symbol 1 a 2.
func appendRun(dst []uint16, n int) []uint16 {
	for ; n > 0; n = (n - 1) / 2 {
		dst = append(dst, uint16(n-1)&1)
	}
	return dst
}

// move writes the last column of rows, a block of the bytes of used, which ascend.
// It uses rows up.
func (m *mover) move(rows []uint32, used []byte) {
	if room := len(rows) + 5; cap(m.symbols) < room {
		m.symbols = make([]uint16, roomFor(len(rows))+5)
	}
	symbols := m.symbols[:cap(m.symbols)]
	runs := gather(rows)
	m.recent.list(used)
	n := 0
	if run := runs[0]; byte(run>>24) == used[0] { // it is in front already
		n = len(appendRun(symbols[:0], int(run&rowPlace)))
		runs = runs[1:]
	}
	n += m.recent.move(runs, symbols[n:], &m.short)
	symbols[n] = uint16(len(used)) + 1
	m.symbols = symbols[:n+1]
}

// gather makes of each run of the last column one word: the byte, and in the lower
// 24 bits how long the run is. The words take the place of rows.
func gather(rows []uint32) []uint32 {
	n, length := 0, uint32(0)
	for i := 0; i+1 < len(rows); i++ {
		b, next := rows[i]>>24, rows[i+1]>>24
		length++
		rows[n] = b<<24 | length
		ends := ((b - next) | (next - b)) >> 31 // 1 if they differ
		n += int(ends)
		length &= ends - 1
	}
	rows[n] = rows[len(rows)-1]>>24<<24 | (length + 1)
	return rows[:n+1]
}
