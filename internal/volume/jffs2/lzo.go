package jffs2

// unpackLZO unpacks a stream of LZO1X to n bytes. A stream is made of instructions, each of
// which copies bytes from up to 48 KiB back and then up to three from the stream; how an
// instruction below 16 is meant depends on how many the one before took from the stream.
func unpackLZO(p []byte, n int) ([]byte, error) {
	z := &lzo{in: p, out: make([]byte, 0, n), most: n}
	if len(p) > 0 && p[0] > 17 { // the stream begins with some bytes as they are
		k := int(z.byte()) - 17
		z.literals(k)
		z.state = min(k, 4)
	}
	for !z.bad && !z.ended {
		z.step()
	}
	if z.bad || len(z.out) != n {
		return nil, errPacking
	}
	return z.out, nil
}

type lzo struct {
	in, out    []byte
	most       int
	state      int // bytes that came as they are with the last instruction; 4: four or more
	bad, ended bool
}

func (z *lzo) byte() byte {
	if len(z.in) == 0 {
		z.bad = true
		return 0
	}
	b := z.in[0]
	z.in = z.in[1:]
	return b
}

// long returns a length that did not fit into its field of an instruction: each zero
// byte stands for 255.
func (z *lzo) long(base int) int {
	for !z.bad {
		b := z.byte()
		if b != 0 {
			return base + int(b)
		}
		if base += 255; base > z.most {
			z.bad = true
		}
	}
	return 0
}

func (z *lzo) literals(k int) {
	if k > len(z.in) || len(z.out)+k > z.most {
		z.bad = true
		return
	}
	z.out = append(z.out, z.in[:k]...)
	z.in = z.in[k:]
}

// again copies k bytes from back bytes back; they may overlap.
func (z *lzo) again(k, back int) {
	if back > len(z.out) || len(z.out)+k > z.most {
		z.bad = true
		return
	}
	for range k {
		z.out = append(z.out, z.out[len(z.out)-back])
	}
}

// step follows one instruction.
func (z *lzo) step() {
	i := int(z.byte())
	low := i & 3 // what comes as it is, behind what is copied
	switch {
	case z.bad:
		return
	case i >= 64: // of 3 to 8 bytes, within 2 KiB
		z.again(i>>5+1, int(z.byte())<<3+i>>2&7+1)
	case i >= 32: // within 16 KiB
		k := i & 31
		if k == 0 {
			k = z.long(31)
		}
		a, b := int(z.byte()), int(z.byte())
		low = a & 3
		z.again(k+2, b<<6+a>>2+1)
	case i >= 16: // 16 to 48 KiB back, or the end
		k := i & 7
		if k == 0 {
			k = z.long(7)
		}
		a, b := int(z.byte()), int(z.byte())
		low = a & 3
		back := 16384 + i&8<<11 + b<<6 + a>>2
		if back == 16384 {
			z.ended = true
			return
		}
		z.again(k+2, back)
	case z.state == 0: // a run of bytes as they are
		if i == 0 {
			i = z.long(15)
		}
		z.literals(i + 3)
		z.state = 4
		return
	case z.state == 4:
		z.again(3, int(z.byte())<<2+i>>2+2049)
	default:
		z.again(2, int(z.byte())<<2+i>>2+1)
	}
	z.literals(low)
	z.state = low
}
