package capture

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"multidd/internal/block"
)

// A map file is GNU ddrescue's record of what was read of a disk
// (https://www.gnu.org/software/ddrescue/manual/ddrescue_manual.html#Mapfile-structure):
// lines of text. What begins with # is a comment. The first other line has the
// position, the status and perhaps the pass of the program that wrote it. Then come
// the blocks, each with its position, its size and its status, in ascending order
// and without gaps. Numbers are as in C: 0x for hexadecimal, 0 for octal.

// The bounds of a map file that is read. Real ones have a line for each bad place.
const (
	maxMapfileLines = 1 << 20
	maxMapfileLine  = 4096 // bytes
)

// A Mapfile is what a map file says, or is to say.
type Mapfile struct {
	Comments []string // without #
	Status   byte     // of the program that wrote it; + if it had finished
	Pos      int64    // where it was, in bytes
	Chart    *Chart
}

// ParseMapfile reads a map file. An error names the line.
func ParseMapfile(r io.Reader) (*Mapfile, error) {
	p := mapParser{m: &Mapfile{Chart: &Chart{}}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxMapfileLine)
	for lines.Scan() {
		if p.line++; p.line > maxMapfileLines {
			return nil, fmt.Errorf("map file: more than %d lines", maxMapfileLines)
		}
		if err := p.take(lines.Text()); err != nil {
			return nil, fmt.Errorf("map file, line %d: %w", p.line, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("map file, line %d: %w", p.line+1, err)
	}
	if p.m.Status == 0 || p.m.Chart.Size() == 0 {
		return nil, fmt.Errorf("map file: it ends before its first block")
	}
	return p.m, nil
}

type mapParser struct {
	m    *Mapfile
	line int
}

func (p *mapParser) take(line string) error {
	if comment, ok := strings.CutPrefix(line, "#"); ok {
		p.m.Comments = append(p.m.Comments, strings.TrimSpace(comment))
		return nil
	}
	words := strings.Fields(line)
	switch {
	case len(words) == 0:
		return nil
	case p.m.Status == 0:
		return p.status(words)
	case len(words) < 3:
		return fmt.Errorf("a block has a position, a size and a status, but there is only %q", line)
	}
	return p.block(words)
}

func (p *mapParser) status(words []string) error {
	if len(words) < 2 || len(words[1]) != 1 || !strings.Contains("?*/-FG+", words[1]) {
		return fmt.Errorf("it has no position and status of the reading, as a map file does before its blocks")
	}
	pos, err := number(words[0])
	if err != nil {
		return err
	}
	p.m.Pos, p.m.Status = pos, words[1][0]
	return nil
}

func (p *mapParser) block(words []string) error {
	off, err := number(words[0])
	if err != nil {
		return err
	}
	n, err := number(words[1])
	if err != nil {
		return err
	}
	at := p.m.Chart.Size()
	switch s := Status(words[2][0]); {
	case len(words[2]) != 1 || !s.valid():
		return fmt.Errorf("there is no status %.20q, only ? * / - and +", words[2])
	case off != at:
		return fmt.Errorf("the block begins at byte %d, and the one before it ends at %d", off, at)
	case n == 0 || n > math.MaxInt64-off:
		return fmt.Errorf("a block cannot have %d bytes at byte %d", n, off)
	default:
		c := p.m.Chart
		if last := len(c.segments) - 1; last >= 0 && c.segments[last].Status == s {
			c.segments[last].Len += n
		} else {
			c.segments = append(c.segments, Segment{block.Extent{Off: off, Len: n}, s})
		}
		return nil
	}
}

// number reads a position or size.
func number(s string) (int64, error) {
	digits, base := s, 10
	if rest, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		digits, base = rest, 16
	} else if len(s) > 1 && s[0] == '0' {
		digits, base = s[1:], 8
	}
	n, err := strconv.ParseUint(digits, base, 63) // no sign
	if err != nil {
		return 0, fmt.Errorf("%.40q is no number of bytes", s)
	}
	return int64(n), nil
}

// WriteTo writes the map file.
func (m *Mapfile) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	for _, c := range m.Comments {
		fmt.Fprintf(&b, "# %s\n", strings.Map(oneLine, c))
	}
	fmt.Fprintf(&b, "# current_pos  current_status  current_pass\n0x%08X     %c               1\n#      pos        size  status\n", m.Pos, m.Status)
	for _, s := range m.Chart.segments {
		fmt.Fprintf(&b, "0x%08X  0x%08X  %c\n", s.Off, s.Len, s.Status)
	}
	return b.WriteTo(w)
}

func oneLine(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}
