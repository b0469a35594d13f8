// Package identity knows who a card is: the rows of a list of names, one for each card,
// and the templates that say which files of a card get which text from its row. It turns
// a row into edits of files and into new identifiers, and a list of who is where into
// labels. It knows nothing of how any of that gets onto a card.
//
// docs/identity.md describes the lists and the templates.
package identity

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Row is one line of a list: who one card is.
type Row struct {
	Name    string            // a host name: letters, digits and hyphens
	Index   int               // its place in the list, from 1
	Columns map[string]string // the other columns of a CSV, by the names in its header
}

// Limits of lists.
const (
	MaxRows  = 100_000
	maxBytes = 16 << 20 // of a file
	maxName  = 63       // bytes, RFC 1123
)

// ErrTooFew is the error of a list that has fewer names than there are cards.
var ErrTooFew = errors.New("there are not enough names")

// Enough returns an error with the numbers, ErrTooFew, if there are fewer rows than
// cards.
func Enough(rows []Row, cards int) error {
	if len(rows) < cards {
		return fmt.Errorf("%w: there are %d for %d cards, so %d cards would have none", ErrTooFew, len(rows), cards, cards-len(rows))
	}
	return nil
}

// ReadNames reads the rows that an argument stands for: names with commas between them,
// with ranges in braces as the shell has them (card-{01..14}), the name of a file, or "-"
// for stdin. What has a slash in it, or is the name of a file that is there, is a file. An
// error names the line, or the place in the argument.
func ReadNames(argument string, stdin io.Reader) ([]Row, error) {
	if argument == "-" {
		return inSource("standard input")(readList(stdin, ""))
	}
	st, err := os.Stat(argument)
	if !strings.ContainsRune(argument, '/') && (err != nil || !st.Mode().IsRegular()) {
		return inSource("the names")(parseArgument(argument))
	}
	f, err := os.Open(argument)
	if err != nil {
		return nil, fmt.Errorf("read the names: %w", err)
	}
	defer f.Close()
	return inSource(argument)(readList(f, argument))
}

func inSource(source string) func([]Row, error) ([]Row, error) {
	return func(rows []Row, err error) ([]Row, error) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
		return rows, nil
	}
}

// parseArgument reads names with commas between them and ranges in braces.
func parseArgument(text string) ([]Row, error) {
	var c collector
	for i, word := range splitTop(text) {
		word = strings.TrimSpace(word)
		names, err := expand(word, MaxRows)
		if err != nil {
			return nil, fmt.Errorf("name %d, %q: %w", i+1, word, err)
		}
		for _, name := range names {
			if err := c.add(name, nil, func() string { return fmt.Sprintf("name %d", len(c.rows)+1) }); err != nil {
				return nil, err
			}
		}
	}
	return c.rows, nil
}

// readList reads a file of names: one on each line, or a CSV with a header. What it is
// called decides, or whether its first line has a comma.
func readList(r io.Reader, name string) ([]Row, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the names: %w", err)
	}
	if len(text) > maxBytes {
		return nil, fmt.Errorf("it has more than %d MiB, which is more than any list of names", maxBytes>>20)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if strings.EqualFold(filepath.Ext(name), ".csv") || bytes.ContainsRune(firstLine(text), ',') {
		return parseCSV(text)
	}
	var c collector
	line := 0
	for s := bufio.NewScanner(bytes.NewReader(text)); ; {
		line++
		if !s.Scan() {
			if s.Err() != nil {
				return nil, fmt.Errorf("line %d: %w", line, s.Err())
			}
			return c.done()
		}
		word, _, _ := strings.Cut(s.Text(), "#")
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		if err := c.add(word, nil, func() string { return fmt.Sprintf("line %d", line) }); err != nil {
			return nil, err
		}
	}
}

// firstLine returns the first line with something in it that is no comment.
func firstLine(text []byte) []byte {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return line
		}
	}
	return nil
}

// parseCSV reads rows with columns, RFC 4180. The name is in the column called name, or in
// the first one.
func parseCSV(text []byte) ([]Row, error) {
	r := csv.NewReader(bytes.NewReader(text))
	r.Comment, r.TrimLeadingSpace = '#', true
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("there is no name in it")
	} else if err != nil {
		return nil, csvError(err)
	}
	at, err := columns(header)
	if err != nil {
		line, _ := r.FieldPos(0)
		return nil, fmt.Errorf("line %d: %w", line, err)
	}
	var c collector
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return c.done()
		} else if err != nil {
			return nil, csvError(err)
		}
		line, _ := r.FieldPos(0)
		values := map[string]string{}
		for i, v := range record {
			v = strings.TrimSpace(v)
			if !isText(v) {
				return nil, fmt.Errorf("line %d: column %q has a control character or is not UTF-8", line, header[i])
			}
			values[header[i]] = v
		}
		name := values[header[at]]
		delete(values, header[at])
		if err := c.add(name, values, func() string { return fmt.Sprintf("line %d", line) }); err != nil {
			return nil, err
		}
	}
}

// columns checks a header and returns which column has the names.
func columns(header []string) (int, error) {
	at := 0
	for i, name := range header {
		name = strings.TrimSpace(name)
		header[i] = name
		switch {
		case !isVariable(name):
			return 0, fmt.Errorf("column %d is called %q: letters, digits, - and _ make a name that templates can use", i+1, name)
		case slices.Contains(header[:i], name):
			return 0, fmt.Errorf("two columns are called %q", name)
		case name == "name":
			at = i
		}
	}
	for i, name := range header {
		if i != at && slices.Contains(reserved, name) {
			return 0, fmt.Errorf("a column cannot be called %q: that is a word of templates", name)
		}
	}
	return at, nil
}

func csvError(err error) error {
	if e, ok := errors.AsType[*csv.ParseError](err); ok {
		return fmt.Errorf("line %d: %w", e.Line, e.Err)
	}
	return err
}

// isText tells whether s can stand in one line of a file.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// A collector gathers rows and sees to it that no two cards get one name.
type collector struct {
	rows []Row
	seen map[string]string // by name in small letters: where it was
}

func (c *collector) add(name string, values map[string]string, where func() string) error {
	if err := CheckName(name); err != nil {
		return fmt.Errorf("%s: %w", where(), err)
	}
	key := strings.ToLower(name)
	if before, ok := c.seen[key]; ok {
		return fmt.Errorf("%s: the name %q is there already (%s)", where(), name, before)
	}
	if len(c.rows) >= MaxRows {
		return fmt.Errorf("%s: there are more than %d names", where(), MaxRows)
	}
	if c.seen == nil {
		c.seen = map[string]string{}
	}
	c.seen[key] = where()
	c.rows = append(c.rows, Row{name, len(c.rows) + 1, values})
	return nil
}

func (c *collector) done() ([]Row, error) {
	if len(c.rows) == 0 {
		return nil, errors.New("there is no name in it")
	}
	return c.rows, nil
}

// CheckName returns an error if a name cannot be that of a host: 1 to 63 letters, digits and
// hyphens, without a hyphen at either end (RFC 1123).
func CheckName(name string) error {
	switch odd := strings.IndexFunc(name, func(r rune) bool { return !isNameRune(r) }); {
	case name == "":
		return errors.New("the name is empty")
	case odd >= 0:
		r, _ := utf8.DecodeRuneInString(name[odd:])
		return fmt.Errorf("%q cannot be the name of a host: it has a %q, and letters, digits and hyphens are all there may be", name, r)
	case len(name) > maxName:
		return fmt.Errorf("%q cannot be the name of a host: it has %d characters, and %d is the most", name, len(name), maxName)
	case name[0] == '-' || name[len(name)-1] == '-':
		return fmt.Errorf("%q cannot be the name of a host: it begins or ends with a hyphen", name)
	}
	return nil
}

func isNameRune(r rune) bool {
	return r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}
