package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A Place is where a file is: in which partition, and its path from that one's own root,
// with slashes.
type Place struct {
	Partition
	Path string
}

// A Partition is one of an image, by its number or by the label of its file system. The zero
// value is the first one that has ext2, ext3 or ext4.
type Partition struct {
	Number int
	Label  string
}

func (p Partition) String() string {
	switch {
	case p.Number > 0:
		return fmt.Sprintf("partition %d", p.Number)
	case p.Label != "":
		return fmt.Sprintf("the partition labelled %q", p.Label)
	}
	return "the first ext file system"
}

// A Set is a set of templates.
type Set struct {
	files      []fileTemplate
	machineID  bool
	sshKeys    []string
	macBase    net.HardwareAddr // nil: there is none
	diskID     bool
	uuids      []Partition
	references []Place
}

// A fileTemplate is one edit of a file.
type fileTemplate struct {
	Place
	mode     fs.FileMode
	uid, gid int
	text     text
	edit     func(old []byte, text string) ([]byte, error)
}

// toml types, as they are written.
type (
	setTOML struct {
		Files      []fileTOML `toml:"file"`
		Lines      []lineTOML `toml:"line"`
		Keys       []keyTOML  `toml:"key"`
		MachineID  bool       `toml:"machine-id"`
		SSHKeys    []string   `toml:"ssh-keys"`
		MACBase    string     `toml:"mac-base"`
		DiskID     bool       `toml:"disk-id"`
		UUIDs      []any      `toml:"uuids"`
		References []refTOML  `toml:"reference"`
	}
	fileTOML struct {
		Partition any    `toml:"partition"`
		Path      string `toml:"path"`
		Content   string `toml:"content"`
		Mode      string `toml:"mode"`
		Owner     string `toml:"owner"`
	}
	lineTOML struct {
		Partition any    `toml:"partition"`
		Path      string `toml:"path"`
		Begins    string `toml:"begins"`
		Text      string `toml:"text"`
	}
	keyTOML struct {
		Partition any     `toml:"partition"`
		Path      string  `toml:"path"`
		Key       string  `toml:"key"`
		Value     *string `toml:"value"`
		Words     bool    `toml:"words"`
	}
	refTOML struct {
		Partition any    `toml:"partition"`
		Path      string `toml:"path"`
	}
)

const maxSet = 1 << 20 // bytes

// Default returns the templates that hold when none are given: the name in /etc/hostname, and in
// the line of /etc/hosts that begins with 127.0.1.1, of the first ext file system.
func Default() *Set {
	s, err := ParseSet([]byte("[[file]]\npath = \"/etc/hostname\"\ncontent = \"{name}\\n\"\n[[line]]\npath = \"/etc/hosts\"\nbegins = \"127.0.1.1\"\ntext = \"127.0.1.1\\t{name}\"\n"))
	if err != nil {
		panic(err) // a constant
	}
	return s
}

// ReadSet reads templates from a file, in TOML. An error names the line.
func ReadSet(name string) (*Set, error) {
	st, err := os.Stat(name)
	if err == nil && st.Size() > maxSet {
		err = fmt.Errorf("it has %d bytes, which is more than any set of templates", st.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the templates: %w", err)
	}
	s, err := ParseSet(b)
	if err != nil {
		return nil, fmt.Errorf("templates %s: %w", name, err)
	}
	return s, nil
}

// ParseSet reads the text of templates.
func ParseSet(b []byte) (*Set, error) {
	var in setTOML
	if err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&in); err != nil {
		return nil, lineOf(err)
	}
	p := setParser{lines: positions(b), s: &Set{machineID: in.MachineID, diskID: in.DiskID}}
	for i, x := range in.Files {
		p.file(i, x)
	}
	for i, x := range in.Lines {
		p.line(i, x)
	}
	for i, x := range in.Keys {
		p.key(i, x)
	}
	p.identifiers(in)
	if p.err == nil && len(p.s.files) == 0 && !in.MachineID && !in.DiskID && len(in.SSHKeys)+len(in.UUIDs) == 0 {
		return nil, errors.New("it changes nothing: there is no [[file]], [[line]] or [[key]] in it")
	}
	return p.s, p.err
}

// lineOf makes one sentence of an error in TOML.
func lineOf(err error) error {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
		line, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: there is no key %q here", line, strings.Join(strict.Errors[0].Key(), "."))
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := e.Position()
		return fmt.Errorf("line %d: %s", line, strings.TrimPrefix(e.Error(), "toml: "))
	}
	return err
}

// positions returns the lines of a TOML text in which its keys are: "file 0" is that of the
// first [[file]], "file 0 path" that of path in it.
func positions(b []byte) map[string]int {
	lines, count := map[string]int{}, map[string]int{}
	var p unstable.Parser
	p.Reset(b)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		it := e.Key()
		if !it.Next() {
			continue
		}
		key := string(it.Node().Data)
		line := p.Shape(it.Node().Raw).Start.Line
		switch e.Kind {
		case unstable.ArrayTable:
			table = fmt.Sprintf("%s %d", key, count[key])
			count[key]++
			lines[table] = line
		case unstable.KeyValue:
			lines[strings.TrimSpace(table+" "+key)] = line
		}
	}
	return lines
}

// A setParser makes a Set of what is in TOML. The first error stays.
type setParser struct {
	lines map[string]int
	s     *Set
	err   error
}

// fail notes an error at a key of a table, or at the table if it does not have it.
func (p *setParser) fail(table, key string, err error) {
	line := p.lines[strings.TrimSpace(table+" "+key)]
	if line == 0 {
		line = p.lines[table]
	}
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("line %d: %w", line, err)
	}
}

func (p *setParser) text(table, key, s string) text {
	t, err := parseText(s)
	p.fail(table, key, err)
	if t.line = p.lines[table+" "+key]; t.line == 0 {
		t.line = p.lines[table]
	}
	return t
}

func (p *setParser) template(table string, partition any, path string) fileTemplate {
	part, err := parsePartition(partition)
	p.fail(table, "partition", err)
	p.fail(table, "path", CheckPath(path))
	return fileTemplate{Place: Place{part, path}, mode: 0o644}
}

func (p *setParser) file(i int, x fileTOML) {
	table := fmt.Sprintf("file %d", i)
	t := p.template(table, x.Partition, x.Path)
	t.text = p.text(table, "content", x.Content)
	t.edit = func(_ []byte, text string) ([]byte, error) { return []byte(text), nil }
	if x.Mode != "" {
		n, err := strconv.ParseUint(x.Mode, 8, 32)
		if err != nil || n > 0o777 {
			p.fail(table, "mode", fmt.Errorf("%q is not a mode; it is up to four digits from 0 to 7, such as 0640", x.Mode))
		}
		t.mode = fs.FileMode(n)
	}
	if x.Owner != "" {
		u, g, both := strings.Cut(x.Owner, ":")
		uid, err := strconv.ParseUint(u, 10, 32)
		gid, err2 := strconv.ParseUint(g, 10, 32)
		if !both || err != nil || err2 != nil {
			p.fail(table, "owner", fmt.Errorf("%q is not an owner; it is two numbers, such as 0:0", x.Owner))
		}
		t.uid, t.gid = int(uid), int(gid)
	}
	p.s.files = append(p.s.files, t)
}

func (p *setParser) line(i int, x lineTOML) {
	table := fmt.Sprintf("line %d", i)
	t := p.template(table, x.Partition, x.Path)
	t.text = p.text(table, "text", x.Text)
	switch {
	case x.Begins == "" || !isLine(x.Begins):
		p.fail(table, "begins", errors.New("begins: say what the line begins with"))
	case !isLine(x.Text):
		p.fail(table, "text", errors.New("text: it is one line"))
	}
	t.edit = func(old []byte, text string) ([]byte, error) { return replaceLine(old, x.Begins, text), nil }
	p.s.files = append(p.s.files, t)
}

func (p *setParser) key(i int, x keyTOML) {
	table := fmt.Sprintf("key %d", i)
	t := p.template(table, x.Partition, x.Path)
	value := ""
	if x.Value != nil {
		value = *x.Value
	}
	t.text = p.text(table, "value", value)
	switch {
	case x.Key == "" || strings.ContainsAny(x.Key, "= \t") || !isLine(x.Key):
		p.fail(table, "key", errors.New("key: it is one word without ="))
	case !isLine(value):
		p.fail(table, "value", errors.New("value: it is one line"))
	case x.Value == nil && !x.Words:
		p.fail(table, "key", errors.New("value is missing"))
	}
	t.edit = func(old []byte, text string) ([]byte, error) {
		word := x.Key
		if x.Value != nil {
			word += "=" + text
		}
		if !x.Words {
			return setLine(old, x.Key, word), nil
		}
		if x.Value != nil && strings.ContainsAny(text, " \t") {
			return nil, fmt.Errorf("the value %q of %s has a space in it, and would be two words", text, x.Key)
		}
		return setWord(old, x.Key, word)
	}
	p.s.files = append(p.s.files, t)
}

// identifiers takes what is not about the text of one file.
func (p *setParser) identifiers(in setTOML) {
	for _, kind := range in.SSHKeys {
		if !slices.Contains(keyKinds, kind) {
			p.fail("", "ssh-keys", fmt.Errorf("%q is not a kind of key that is made here; those are %s", kind, strings.Join(keyKinds, ", ")))
		}
	}
	p.s.sshKeys = in.SSHKeys
	if in.MACBase != "" {
		mac, err := net.ParseMAC(in.MACBase)
		if err != nil || len(mac) != 6 || mac[0]&3 != 2 {
			p.fail("", "mac-base", fmt.Errorf("%q is not a locally administered address of one station, such as 02:00:00:00:00:00", in.MACBase))
		}
		p.s.macBase = mac
	}
	for _, x := range in.UUIDs {
		part, err := parsePartition(x)
		p.fail("", "uuids", err)
		p.s.uuids = append(p.s.uuids, part)
	}
	for i, x := range in.References {
		t := p.template(fmt.Sprintf("reference %d", i), x.Partition, x.Path)
		p.s.references = append(p.s.references, t.Place)
	}
}

func parsePartition(x any) (Partition, error) {
	switch v := x.(type) {
	case nil:
		return Partition{}, nil
	case int64:
		if v >= 1 && v <= 1<<16 {
			return Partition{Number: int(v)}, nil
		}
	case string:
		if v != "" && isLine(v) {
			return Partition{Label: v}, nil
		}
	}
	return Partition{}, errors.New("partition: it is a number, from 1, or the label of a file system")
}

const maxPath = 1024 // bytes

// CheckPath returns an error if a path cannot be that of a file in an image. It never leads
// out of one; this is what no path should have in it anyway.
func CheckPath(path string) error {
	trimmed := strings.TrimPrefix(path, "/")
	switch {
	case trimmed == "":
		return errors.New("path: say which file")
	case len(path) > maxPath:
		return fmt.Errorf("path: it has %d bytes, and %d is the most", len(path), maxPath)
	case strings.ContainsRune(path, '"') || !isText(path):
		return fmt.Errorf("path: %q has a quotation mark or a control character in it, or is not UTF-8", path)
	}
	for name := range strings.SplitSeq(trimmed, "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 {
			return fmt.Errorf("path: %q has a part that is empty, too long, \".\" or \"..\"", path)
		}
	}
	return nil
}

func isLine(s string) bool { return !strings.ContainsAny(s, "\n\r\x00") }
