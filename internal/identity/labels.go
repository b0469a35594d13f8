package identity

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// A Label says which card is where: it goes onto the card, or onto the list.
type Label struct {
	Name     string
	Slot     string // where the card is
	Revision string // which master it was made from, in a line
}

// WriteLabels writes labels in a format: "csv", "txt" or "pdf".
func WriteLabels(w io.Writer, format string, labels []Label) error {
	clean := make([]Label, len(labels))
	for i, l := range labels {
		clean[i] = Label{printable(l.Name), printable(l.Slot), printable(l.Revision)}
	}
	switch format {
	case "csv":
		return writeCSV(w, clean)
	case "txt":
		return writeText(w, clean)
	case "pdf":
		return writePDF(w, clean)
	}
	return fmt.Errorf("labels are csv, txt or pdf, and not %q", format)
}

// printable makes text fit for a line: a revision is read from an image.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func writeCSV(w io.Writer, labels []Label) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"name", "slot", "revision"}) // Error tells
	for _, l := range labels {
		_ = c.Write([]string{l.Name, l.Slot, l.Revision})
	}
	c.Flush()
	return c.Error()
}

func writeText(w io.Writer, labels []Label) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, l := range labels {
		if _, err := fmt.Fprintf(t, "%s\t%s\t%s\n", l.Name, l.Slot, l.Revision); err != nil {
			return err
		}
	}
	return t.Flush()
}

// A sheet of A4 with three labels across and eight down, 70 mm by 37 mm each. Lengths are in
// points, of which 72 are an inch.
const (
	point       = 72 / 25.4 // a millimetre
	sheetWidth  = 595
	sheetHeight = 842
	across      = 3
	down        = 8
	labelWidth  = 70 * point
	labelHeight = 37 * point
	labelMargin = 5 * point
)

// writePDF writes sheets of labels as PDF 1.4 (ISO 32000), with Helvetica, which every reader
// has. Objects 1 to 4 are the catalog, the list of pages and the fonts; two for each page follow.
func writePDF(w io.Writer, labels []Label) error {
	p := pdf{w: bufio.NewWriter(w)}
	pages := max(1, (len(labels)+across*down-1)/(across*down))
	p.printf("%%PDF-1.4\n%%\xe2\xe3\xcf\xd3\n")
	p.object("<< /Type /Catalog /Pages 2 0 R >>")
	var kids strings.Builder
	for i := range pages {
		fmt.Fprintf(&kids, "%d 0 R ", 5+2*i)
	}
	p.object("<< /Type /Pages /Count %d /Kids [ %s] >>", pages, kids.String())
	for _, font := range []string{"Helvetica", "Helvetica-Bold"} {
		p.object("<< /Type /Font /Subtype /Type1 /BaseFont /%s /Encoding /WinAnsiEncoding >>", font)
	}
	for i := range pages {
		p.object("<< /Type /Page /Parent 2 0 R /MediaBox [ 0 0 %d %d ] /Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> /Contents %d 0 R >>", sheetWidth, sheetHeight, 6+2*i)
		content := sheet(labels[min(len(labels), i*across*down):min(len(labels), (i+1)*across*down)])
		p.object("<< /Length %d >>\nstream\n%sendstream", len(content), content)
	}
	start := p.n
	p.printf("xref\n0 %d\n0000000000 65535 f \n", len(p.at)+1)
	for _, at := range p.at {
		p.printf("%010d 00000 n \n", at)
	}
	p.printf("trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(p.at)+1, start)
	if p.err != nil {
		return p.err
	}
	return p.w.Flush()
}

type pdf struct {
	w   *bufio.Writer
	n   int   // bytes written
	at  []int // where the objects begin
	err error
}

func (p *pdf) printf(format string, args ...any) {
	n, err := fmt.Fprintf(p.w, format, args...)
	p.n += n
	if p.err == nil {
		p.err = err
	}
}

func (p *pdf) object(format string, args ...any) {
	p.at = append(p.at, p.n)
	p.printf("%d 0 obj\n", len(p.at))
	p.printf(format, args...)
	p.printf("\nendobj\n")
}

// sheet returns what is drawn on one page.
func sheet(labels []Label) string {
	const top = (sheetHeight + down*labelHeight) / 2
	const left = (sheetWidth - across*labelWidth) / 2
	var b strings.Builder
	b.WriteString("0.8 G 0.3 w\n")
	for i, l := range labels {
		x := left + float64(i%across)*labelWidth
		y := top - float64(i/across+1)*labelHeight
		fmt.Fprintf(&b, "%.2f %.2f %.2f %.2f re S\n", x, y, labelWidth, labelHeight)
		size := min(18, (labelWidth-2*labelMargin)/(0.62*float64(max(1, len(l.Name))))) // 0.62: about as wide as a letter
		line(&b, "F2", size, x+labelMargin, y+labelHeight*0.62, l.Name)
		line(&b, "F1", 9, x+labelMargin, y+labelHeight*0.36, l.Slot)
		line(&b, "F1", 8, x+labelMargin, y+labelHeight*0.16, l.Revision)
	}
	return b.String()
}

// line draws one line of text, as much of it as fits onto a label.
func line(b *strings.Builder, font string, size, x, y float64, s string) {
	room := int((labelWidth - 2*labelMargin) / (0.5 * size))
	fmt.Fprintf(b, "BT /%s %.1f Tf %.2f %.2f Td (", font, size, x, y)
	for i, r := range []rune(s) {
		switch {
		case i >= room:
		case r == '(' || r == ')' || r == '\\':
			fmt.Fprintf(b, "\\%c", r)
		case r >= ' ' && r <= '~' || r >= 0xa1 && r <= 0xff: // WinAnsi has these where Unicode has them
			fmt.Fprintf(b, "\\%03o", r)
		default:
			b.WriteByte('?')
		}
	}
	b.WriteString(") Tj ET\n")
}
