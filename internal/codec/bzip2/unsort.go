package bzip2

const (
	// chains is how many chains of rows are followed at once.
	chains = 16
	// stripe is how many bytes of one chain lie side by side while it is followed.
	stripe = 256
	// spacing is the distance between the rows where strands begin. It is a
	// prime, so that no regular block makes them all neighbours in the text.
	spacing = 761
	// mark flags a row where a strand begins.
	mark = 1 << 31
)

// An unsorter turns the last column of a block's sorted rotations back into the
// block.
//
// The i-th of the sorted rotations begins with the i-th smallest byte. The
// rotation that begins one byte later is the one whose last byte is that very
// byte: equal bytes have the same order in the first column and the last. So
// rows[i] = that rotation << 8 | byte i, and to follow the rows from that of
// the block itself is to spell it.
//
// Every step waits for memory. So the text is cut into strands that begin at
// marked rows and end before the next one, many are spelled at once, and then
// they are joined.
type unsorter struct {
	rows    []uint32
	strands []strand
	begun   int    // how many strands were begun
	orig    uint32 // the row of the block itself, where strand 0 begins
}

// A strand is the text from one marked row to the next.
type strand struct {
	chain, at, n int // its bytes are n of that chain from at
	next         int // the strand after it in the text
}

// link fills rows from c, in four parts at once: where equal bytes follow each
// other, every store of one part waits for the store before it.
func (u *unsorter) link(c *column) {
	const parts = 4
	var from [parts + 1]int
	var row [parts][256]uint32 // where the next row that begins with a byte goes
	less := uint32(0)
	for k := range parts {
		cut := c.before(c.n * k / parts)
		from[k] = cut.n
		row[k] = cut.count
	}
	from[parts] = c.n
	for b, n := range c.count {
		for k := range parts {
			row[k][b] += less
		}
		less += n
	}
	u.rows = u.rows[:c.n]
	rows, n := u.rows, c.n
	for k := range parts {
		n = min(n, from[k+1]-from[k])
	}
	p0, p1, p2, p3 := c.bytes[:n], c.bytes[from[1]:][:n], c.bytes[from[2]:][:n], c.bytes[from[3]:][:n]
	x1, x2, x3 := uint32(from[1])<<8, uint32(from[2])<<8, uint32(from[3])<<8
	for i, b := range p0 {
		x := uint32(i) << 8
		r := row[0][b]
		row[0][b] = r + 1
		rows[r] = x | uint32(b)

		b = p1[i]
		r = row[1][b]
		row[1][b] = r + 1
		rows[r] = x + x1 | uint32(b)

		b = p2[i]
		r = row[2][b]
		row[2][b] = r + 1
		rows[r] = x + x2 | uint32(b)

		b = p3[i]
		r = row[3][b]
		row[3][b] = r + 1
		rows[r] = x + x3 | uint32(b)
	}
	for k := range parts { // the parts are not equal
		row, i := &row[k], from[k]+n
		for _, b := range c.bytes[i:from[k+1]] {
			r := row[b]
			row[b] = r + 1
			rows[r] = uint32(i)<<8 | uint32(b)
			i++
		}
	}
}

// spell writes the text, as long as there are rows, to text. It scribbles on
// spare. orig is less than len(text).
func (u *unsorter) spell(text, spare []byte, orig uint32) {
	u.orig = orig
	if len(text) < chains*spacing || !u.follow(spare) {
		u.plain(text)
		return
	}
	// A block that repeats itself has several cycles of rows, of which strand 0
	// is on the one wanted: go round as often as needed.
	for i := 0; len(text) > 0; i = u.strands[i].next {
		s := &u.strands[i]
		for at, end := s.at, s.at+s.n; at < end && len(text) > 0; {
			k := min(stripe-at%stripe, end-at)
			p := spare[at/stripe*stripe*chains+s.chain*stripe+at%stripe:]
			text = text[copy(text, p[:k]):]
			at += k
		}
	}
}

// plain spells the text row by row.
func (u *unsorter) plain(text []byte) {
	e := u.rows[u.orig]
	for i := range text {
		text[i] = byte(e)
		e = u.rows[e&^mark>>8]
	}
}

// follow spells all strands into buf, byte i of chain c at i/stripe*stripe*chains
// + c*stripe + i%stripe. It reports false if that takes more room than there
// is: the last strands of some blocks are so long that most chains idle.
func (u *unsorter) follow(buf []byte) bool {
	n := len(u.rows)
	for i := 0; i < n; i += spacing {
		u.rows[i] |= mark
	}
	u.rows[u.orig] |= mark
	idle := uint32(n) << 8 // a row that is its own successor, for chains that have nothing to do
	u.rows = append(u.rows, idle)
	u.begun = 0
	u.strands = u.strands[:(n+spacing-1)/spacing+1]
	var e, last [chains]uint32
	var id [chains]int
	for c := range id {
		id[c], e[c] = u.begin(c, 0, idle)
	}
	busy := chains
	for at := 0; ; {
		if at%stripe == 0 && len(buf) < (at+stripe)*chains {
			u.rows = u.rows[:n]
			return false
		}
		p := (*[stripe * chains]byte)(buf[at/stripe*stripe*chains:])
		at += step(u.rows, p, at%stripe, &e, &last)
		for c := range e {
			if e[c]&mark == 0 {
				continue
			}
			s := &u.strands[id[c]]
			s.n = at - s.at
			s.next = u.strandAt(last[c] >> 8)
			if id[c], e[c] = u.begin(c, at, idle); id[c] < 0 {
				if busy--; busy == 0 {
					return true
				}
			}
		}
	}
}

// begin begins the next strand, at the byte at of chain c, and returns it and
// the entry of its first row; or -1 and idle if all were begun.
func (u *unsorter) begin(c, at int, idle uint32) (id int, e uint32) {
	for u.begun < len(u.strands) {
		id, u.begun = u.begun, u.begun+1
		row := u.orig
		if id > 0 {
			row = uint32(id-1) * spacing
		}
		if u.strandAt(row) == id {
			u.strands[id] = strand{chain: c, at: at}
			return id, u.rows[row] &^ mark
		}
	}
	return -1, idle
}

// strandAt returns the strand that begins at a marked row.
func (u *unsorter) strandAt(row uint32) int {
	if row == u.orig {
		return 0
	}
	return int(row/spacing) + 1
}

// step follows all chains, whose next entries are e, and writes their bytes from
// at on. It stops after the last byte of a stripe, or when chains come upon a
// mark: then their e are the marked entries and last the ones before. It returns
// how many steps it made.
//
// It is spelled out because an array would be kept in memory, and there the
// chains would wait for each other.
func step(rows []uint32, p *[stripe * chains]byte, at int, e, last *[chains]uint32) int {
	i := uint(at)
	e0, e1, e2, e3 := e[0], e[1], e[2], e[3]
	e4, e5, e6, e7 := e[4], e[5], e[6], e[7]
	e8, e9, e10, e11 := e[8], e[9], e[10], e[11]
	e12, e13, e14, e15 := e[12], e[13], e[14], e[15]
	for i < stripe {
		p[i], p[i+stripe], p[i+2*stripe], p[i+3*stripe] = byte(e0), byte(e1), byte(e2), byte(e3)
		p[i+4*stripe], p[i+5*stripe], p[i+6*stripe], p[i+7*stripe] = byte(e4), byte(e5), byte(e6), byte(e7)
		p[i+8*stripe], p[i+9*stripe], p[i+10*stripe], p[i+11*stripe] = byte(e8), byte(e9), byte(e10), byte(e11)
		p[i+12*stripe], p[i+13*stripe], p[i+14*stripe], p[i+15*stripe] = byte(e12), byte(e13), byte(e14), byte(e15)
		i++
		f0, f1, f2, f3 := rows[e0>>8], rows[e1>>8], rows[e2>>8], rows[e3>>8]
		f4, f5, f6, f7 := rows[e4>>8], rows[e5>>8], rows[e6>>8], rows[e7>>8]
		f8, f9, f10, f11 := rows[e8>>8], rows[e9>>8], rows[e10>>8], rows[e11>>8]
		f12, f13, f14, f15 := rows[e12>>8], rows[e13>>8], rows[e14>>8], rows[e15>>8]
		if (f0|f1|f2|f3|f4|f5|f6|f7|f8|f9|f10|f11|f12|f13|f14|f15)&mark != 0 {
			*last = [chains]uint32{e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12, e13, e14, e15}
			*e = [chains]uint32{f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15}
			return int(i) - at
		}
		e0, e1, e2, e3 = f0, f1, f2, f3
		e4, e5, e6, e7 = f4, f5, f6, f7
		e8, e9, e10, e11 = f8, f9, f10, f11
		e12, e13, e14, e15 = f12, f13, f14, f15
	}
	*e = [chains]uint32{e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12, e13, e14, e15}
	return int(i) - at
}
