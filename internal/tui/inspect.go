package tui

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// An Inspection is what `multidd inspect` has found out about an image or a card. Its
// names in JSON are stable. All sizes are in bytes, -1: not known.
type Inspection struct {
	Name     string `json:"name"`            // as it was named
	Device   string `json:"device"`          // of a card; "": it is an image
	Format   string `json:"format"`          // how it is packed, or "raw"
	Packed   int64  `json:"packed_size"`     // of the file
	Stored   bool   `json:"stored"`          // there is an unpacked copy in the store
	Anywhere bool   `json:"seekable"`        // it can be read at any place without being unpacked from its beginning
	Size     int64  `json:"size"`            // of the disk it makes
	Used     int64  `json:"used"`            // what a card is given of that
	Table    string `json:"table"`           // "mbr", "gpt" or ""
	ID       string `json:"id"`              // of the table
	Sector   int    `json:"sector"`          // bytes that the table counts in
	Revision string `json:"revision"`        // what the image says of itself; "": nothing
	Error    string `json:"error,omitempty"` // why there is no more to tell; "": all is told

	Parts    []InspectedPart   `json:"partitions"` // a disk without a table has one, of number 0, or none
	BMap     *InspectedMap     `json:"bmap"`       // nil: it has none
	Digests  []InspectedDigest `json:"digests"`
	Write    []InspectedTime   `json:"write"`
	Warnings []string          `json:"warnings"` // sentences
}

// An InspectedPart is a partition with the file system in it.
type InspectedPart struct {
	Number   int    `json:"number"`
	Start    int64  `json:"start"`
	Size     int64  `json:"size"`
	Type     string `json:"type"`      // as it stands in the table
	TypeName string `json:"type_name"` // in words
	Name     string `json:"name"`
	PartUUID string `json:"partuuid"`
	Boot     bool   `json:"boot"`
	Logical  bool   `json:"logical"`

	FS      string `json:"fs"` // "": none that is known
	Label   string `json:"label"`
	UUID    string `json:"uuid"`
	FSSize  int64  `json:"fs_size"`
	FSUsed  int64  `json:"fs_used"`
	State   string `json:"state"` // "clean", "dirty", "unknown"; "" without a file system
	Why     string `json:"why"`   // it is not clean
	Counted int64  `json:"used"`  // what a card is given of the partition
}

// An InspectedMap is the .bmap of an image.
type InspectedMap struct {
	Used int64 `json:"used"`
	// Agrees tells whether it has all that the file systems have in use.
	Agrees bool   `json:"agrees"`
	Says   string `json:"says"` // a clause
}

// An InspectedDigest is a SHA-256 that somebody has given, or that was worked out.
type InspectedDigest struct {
	Of     string `json:"of"` // "file", "disk" (what it unpacks to) or "either"
	SHA256 string `json:"sha256"`
	From   string `json:"from"`  // the file that says so; "": worked out
	State  string `json:"state"` // "computed", "right", "unchecked"
}

// An InspectedTime is how long writing takes at least on a card of some speed.
type InspectedTime struct {
	Rate    int64   `json:"bytes_per_second"`
	Seconds float64 `json:"seconds"`
}

// Inspect writes what was found out about an image or a card, for people.
func Inspect(w io.Writer, in Inspection, o TableOptions) error {
	p := &inspectPage{lk: o.look(), width: o.width()}
	p.head(in)
	if len(in.Parts) > 0 {
		p.b.WriteByte('\n')
		p.parts(in)
	}
	if in.Size >= 0 && in.Error == "" {
		p.b.WriteByte('\n')
		p.sums(in)
	}
	if in.Revision != "" {
		p.b.WriteByte('\n')
		p.revision(in.Revision)
	}
	if len(in.Digests) > 0 {
		p.b.WriteByte('\n')
		p.digests(in)
	}
	for _, s := range in.Warnings {
		p.b.WriteByte('\n')
		p.note(yellow, p.lk.signs.warn, s)
	}
	if in.Error != "" {
		p.b.WriteByte('\n')
		p.note(red, p.lk.signs.bad, stop(in.Error))
	}
	_, err := w.Write(p.b.Bytes())
	return err
}

// Passing says in a line how far an image has passed by: so many bytes of its file,
// which has packed bytes (-1: not known), have made so many of the disk.
func Passing(input, packed, decoded int64, took time.Duration) string {
	s := "unpacked " + size(decoded)
	if packed > 0 {
		s += ", " + portion(min(input, packed), packed)
	}
	return s + ", " + clock(took)
}

// An inspectPage is being written.
type inspectPage struct {
	b     bytes.Buffer
	lk    look
	width int
}

// say writes a sentence, broken into lines that begin with so many blanks.
func (p *inspectPage) say(how ink, indent int, format string, args ...any) {
	for _, line := range wrap(p.lk.text(fmt.Sprintf(format, args...)), p.width-indent) {
		p.b.WriteString(blanks(indent) + p.lk.paint(how, line) + "\n")
	}
}

// note writes a sentence with a sign before it.
func (p *inspectPage) note(how ink, sign, s string) {
	var b strings.Builder
	paragraph(&b, p.lk, how, sign, p.width, p.lk.text(s))
	p.b.WriteString(b.String())
}

// head says what it is.
func (p *inspectPage) head(in Inspection) {
	p.say(bold, 0, "%s", in.Name)
	switch {
	case in.Device != "" && in.Size >= 0:
		p.say(plain, 0, "a card of %s, %d bytes: %s", size(in.Size), in.Size, in.Device)
	case in.Device != "":
		p.say(plain, 0, "a card: %s", in.Device)
	case in.Format == "raw" && in.Size >= 0:
		p.say(plain, 0, "raw image of %s, %d bytes", size(in.Size), in.Size)
	case in.Format == "raw" || in.Format == "":
	case in.Size >= 0:
		p.say(plain, 0, "packed as %s: %s for %s (%s), %d bytes%s", in.Format, size(in.Packed), size(in.Size), portion(in.Packed, in.Size), in.Size, reach(in))
	default:
		p.say(plain, 0, "packed as %s: %s", in.Format, size(in.Packed))
	}
	switch {
	case in.Table == "" && len(in.Parts) > 0:
		p.say(plain, 0, "no partition table: it is one file system")
	case in.Table == "" && in.Error == "":
		p.say(plain, 0, "no partition table and no file system that is known")
	case in.Table != "":
		p.say(plain, 0, "%s", p.table(in))
	}
}

// table says what is known of the partition table.
func (p *inspectPage) table(in Inspection) string {
	s := map[string]string{"mbr": "MBR", "gpt": "GPT"}[in.Table] + ", " + count1(len(in.Parts), "partition")
	if in.ID != "" {
		s += ", " + map[string]string{"mbr": "signature ", "gpt": ""}[in.Table] + in.ID
	}
	if in.Sector > 0 && in.Sector != 512 {
		s += fmt.Sprintf(", in sectors of %d bytes", in.Sector)
	}
	return s
}

func reach(in Inspection) string {
	switch {
	case in.Stored:
		return "; a copy is in the store"
	case in.Anywhere:
		return "; seekable"
	}
	return ""
}

// portion says a part of a whole: "19 %".
func portion(part, whole int64) string {
	if whole <= 0 || part < 0 {
		return "? %"
	}
	switch v := 100 * float64(part) / float64(whole); {
	case v > 0 && v < 0.1:
		return "< 0.1 %"
	case v < 9.95:
		return fmt.Sprintf("%.1f %%", v)
	default:
		return fmt.Sprintf("%.0f %%", v)
	}
}

func count1(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// inspectColumns are those of the table of partitions.
func inspectColumns() []struct {
	head  string
	right bool
	text  func(InspectedPart) string
} {
	return []struct {
		head  string
		right bool
		text  func(InspectedPart) string
	}{
		{"NO", true, func(x InspectedPart) string {
			if x.Number == 0 {
				return ""
			}
			return fmt.Sprint(x.Number)
		}},
		{"START", true, func(x InspectedPart) string { return size(x.Start) }},
		{"SIZE", true, func(x InspectedPart) string { return size(x.Size) }},
		{"IN USE", true, func(x InspectedPart) string {
			if x.FS == "" || x.State == "unknown" {
				return "?"
			}
			return size(x.FSUsed)
		}},
		{"", true, func(x InspectedPart) string {
			if x.FS == "" || x.State == "unknown" {
				return ""
			}
			return portion(x.FSUsed, x.FSSize)
		}},
		{"FILE SYSTEM", false, func(x InspectedPart) string {
			if x.FS == "" {
				return "not known"
			}
			return x.FS
		}},
		{"LABEL", false, func(x InspectedPart) string { return x.Label }},
		{"STATE", false, func(x InspectedPart) string {
			if x.State == "unknown" {
				return "not understood"
			}
			return x.State
		}},
	}
}

// parts draws the partitions, a line each, and below it what else is known.
func (p *inspectPage) parts(in Inspection) {
	cols := inspectColumns()
	widths := make([]int, len(cols))
	for j, c := range cols {
		for _, x := range in.Parts {
			widths[j] = max(widths[j], ansi.StringWidth(p.lk.text(c.text(x))))
		}
		if widths[j] > 0 {
			widths[j] = max(widths[j], len(c.head))
		}
	}
	fitParts(widths, p.width)
	line := func(how func(j int) ink, cell func(j int) string) {
		var s string
		for j, c := range cols {
			if widths[j] == 0 {
				continue
			}
			fit := p.lk.fit
			if c.right {
				fit = p.lk.right
			}
			if s != "" {
				s += blanks(gap)
			}
			s += p.lk.paint(how(j), fit(p.lk.text(cell(j)), widths[j]))
		}
		p.b.WriteString(strings.TrimRight(s, " ") + "\n")
	}
	line(func(int) ink { return faint }, func(j int) string { return cols[j].head })
	for _, x := range in.Parts {
		line(func(j int) ink {
			if j == len(cols)-1 && x.State != "clean" {
				return yellow
			}
			return plain
		}, func(j int) string { return cols[j].text(x) })
		p.details(in, x, max(widths[0], 2)+gap)
	}
}

// fitParts makes the columns fit: the label gives way first, then where a partition
// starts and the share that is in use.
func fitParts(widths []int, width int) {
	const start, share, label, state = 1, 4, 6, 7
	for _, step := range []struct{ col, least int }{{label, 5}, {share, 0}, {start, 0}, {label, 0}, {state, 5}} {
		over := -gap - width
		for _, w := range widths {
			if w > 0 {
				over += gap + w
			}
		}
		if w := widths[step.col]; over > 0 && w > step.least {
			widths[step.col] = max(w-over, step.least)
			if step.least == 0 {
				widths[step.col] = 0
			}
		}
	}
}

// details says what else is known of a partition.
func (p *inspectPage) details(in Inspection, x InspectedPart, indent int) {
	var words []string
	if x.Number > 0 {
		kind := x.TypeName
		if x.Type != x.TypeName && in.Table == "mbr" {
			kind += " (" + x.Type + ")"
		}
		words = append(words, "type "+kind)
	}
	if x.Name != "" {
		words = append(words, fmt.Sprintf("name %q", x.Name))
	}
	if x.Logical {
		words = append(words, "logical")
	}
	if x.Boot {
		words = append(words, "bootable")
	}
	if len(words) > 0 {
		p.say(faint, indent, "%s", strings.Join(words, ", "))
	}
	var ids []string
	for _, id := range [][2]string{{"UUID", x.UUID}, {"PARTUUID", x.PartUUID}} {
		if id[1] != "" {
			ids = append(ids, id[0]+" "+id[1])
		}
	}
	if one := strings.Join(ids, ", "); ansi.StringWidth(one) <= p.width-indent {
		ids = []string{one}
	}
	for _, id := range ids {
		p.say(faint, indent, "%s", id)
	}
	if x.Why != "" {
		p.say(yellow, indent, "%s: all of it counts as used", x.Why)
	}
}

// sums says how much is used and what that means.
func (p *inspectPage) sums(in Inspection) {
	used := fmt.Sprintf("%s of %s (%s)", size(in.Used), size(in.Size), portion(in.Used, in.Size))
	switch m := in.BMap; {
	case m != nil && m.Agrees:
		p.say(plain, 0, "Used are %s, as its .bmap says; %s.", used, m.Says)
	case m != nil:
		p.say(yellow, 0, "Used are %s, as its .bmap says, but %s.", used, m.Says)
	case in.Used >= 0:
		p.say(plain, 0, "Used are %s.", used)
	}
	var times []string
	for i, t := range in.Write {
		s := fmt.Sprintf("%s at %d", clock(time.Duration(math.Ceil(t.Seconds))*time.Second), t.Rate/1e6)
		if i == 0 {
			s += " MB/s"
		}
		times = append(times, s)
	}
	if len(times) > 0 {
		p.say(plain, 0, "Written in %s; reading back comes after.", strings.Join(times, ", "))
	}
}

// revision shows what the image says of itself, at most some lines.
func (p *inspectPage) revision(text string) {
	p.say(bold, 0, "Revision")
	n := 0
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if n++; n > 8 {
			p.b.WriteString("  " + p.lk.signs.more + "\n")
			return
		}
		p.say(plain, 2, "%s", line)
	}
}

// digests shows the digests, two lines each: they are 64 digits long.
func (p *inspectPage) digests(in Inspection) {
	for _, d := range in.Digests {
		what := map[string]string{"file": "the file", "disk": "what it unpacks to", "either": "the file or what it unpacks to"}[d.Of]
		if in.Format == "raw" || in.Device != "" {
			what = "all of it"
		}
		how, says := plain, "worked out now"
		switch d.State {
		case "right":
			how, says = green, "right: as in "+d.From
		case "unchecked":
			says = "in " + d.From + "; not compared (--digest does)"
		}
		p.say(how, 0, "SHA-256 of %s, %s:", what, says)
		p.say(plain, 2, "%s", d.SHA256)
	}
}
