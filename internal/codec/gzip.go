package codec

import (
	"io"

	"github.com/klauspost/compress/gzip"
)

const gzipMagic = "\x1f\x8b\x08"

// gzipMemory is what inflating takes: the window and the code tables, in bytes.
const gzipMemory = 64 << 10

// gzipParts are the members of a gz stream.
type gzipParts struct {
	in *input
	z  *gzip.Reader
}

func (g *gzipParts) next() (io.Reader, error) {
	head, err := g.in.peek(len(gzipMagic))
	switch {
	case !like(head, gzipMagic):
		return nil, errMagic
	case err != nil:
		return nil, err
	}
	if g.z == nil {
		g.z, err = gzip.NewReader(g.in.Reader)
	} else {
		err = g.z.Reset(g.in.Reader)
	}
	if err != nil {
		return nil, err
	}
	g.z.Multistream(false)
	return g.z, nil
}

func (g *gzipParts) offset() int64   { return g.in.offset() }
func (g *gzipParts) memory() int64   { return gzipMemory }
func (g *gzipParts) sizeHint() int64 { return -1 } // a member's length stands at its end, and only modulo 4 GiB
func (g *gzipParts) close()          {}
