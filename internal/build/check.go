package build

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
)

// tables are the kinds of table there are, with the most partitions.
var tables = map[string]int{"mbr": 60, "gpt": 128, "none": 1}

// check finds what is wrong with a recipe by itself.
func (r *Recipe) check() error {
	if r.Table == "" && len(r.Partitions) == 1 {
		r.Table = "none"
	}
	most, ok := tables[r.Table]
	switch {
	case !ok:
		return fmt.Errorf("table = %q: it is mbr, gpt or none", r.Table)
	case len(r.Partitions) == 0:
		return errors.New("there is no [[partition]]")
	case len(r.Partitions) > most:
		return fmt.Errorf("there are %d partitions, and a table of kind %q has %d at most", len(r.Partitions), r.Table, most)
	case r.Size < 0:
		return errors.New("size: that of the image is a number, or left out")
	case r.Align < 0 || r.Align%512 != 0:
		return errors.New("align: it is a multiple of 512 bytes")
	}
	if r.Align == 0 {
		r.Align = 4 << 20
	}
	if err := r.checkID(); err != nil {
		return err
	}
	rest := 0
	for i := range r.Partitions {
		p := &r.Partitions[i]
		if p.Size == 0 {
			p.Size = Fit
		}
		if p.Size == Rest {
			rest++
		}
		if err := p.check(r); err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
	}
	switch {
	case rest > 1:
		return errors.New("two partitions cannot both take the rest")
	case rest > 0 && r.Size == 0:
		return errors.New("a partition takes the rest, but the image has no size")
	}
	for i, x := range r.Raw {
		if x.File == "" || x.Offset < 0 {
			return fmt.Errorf("raw %d: it needs a file and an offset", i+1)
		}
	}
	return nil
}

func (p *Partition) check(r *Recipe) error {
	kind, ok := kinds[p.FS]
	switch {
	case !ok:
		return fmt.Errorf("fs = %q: it is one of %s", p.FS, strings.Join(kindNames(), ", "))
	case p.FS == "raw" && p.File == "":
		return errors.New("with fs = \"raw\" it needs a file")
	case p.FS != "raw" && p.File != "":
		return fmt.Errorf("file goes with fs = \"raw\", not with %q", p.FS)
	case len(p.Trees) > 0 && !kind.files:
		return fmt.Errorf("a tree cannot go into fs = %q", p.FS)
	case r.Table != "gpt" && (p.Name != "" || p.PartUUID != "" || len(p.Flags) > 0):
		return errors.New("only partitions of a gpt have a name, flags and a part-uuid")
	case p.Size == Fit && kind.fixed:
		return fmt.Errorf("fs = %q needs a size", p.FS)
	case p.Start < 0 || p.Start%512 != 0:
		return errors.New("start: it is a multiple of 512 bytes")
	}
	if err := cmp.Or(p.checkWords(), p.checkOptions()); err != nil {
		return err
	}
	for i, s := range p.Trees {
		if err := s.check(); err != nil {
			return fmt.Errorf("tree %d: %w", i+1, err)
		}
	}
	for i, x := range p.Rules {
		if x.Path == "" || x.Mode == nil && x.Owner == nil {
			return fmt.Errorf("rule %d: it needs a path, and a mode or an owner", i+1)
		}
	}
	return nil
}

func (s *Source) check() error {
	given := 0
	for _, is := range []bool{s.Dir != "", s.Tar != "", s.Image != "", s.File != "", s.Text != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("it is one of dir, tar, image, file and text")
	case s.Partition != 0 && s.Image == "":
		return errors.New("partition goes with image")
	case (s.File != "" || s.Text != nil) && strings.Trim(s.To, "/") == "":
		return errors.New("to: say what the file is to be called")
	}
	return nil
}

// isFlash tells whether the image is one to be flashed: a file system of raw flash without
// a table.
func (r *Recipe) isFlash() bool {
	return r.Table == "none" && kinds[r.Partitions[0].FS].flash
}

// What may stand in a recipe where a tool or a format expects a certain form.
var (
	uuidForm   = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	numberForm = regexp.MustCompile(`^(0x)?[0-9a-fA-F]{8}$`)
	serialForm = regexp.MustCompile(`^[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}$`)
	typeForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ()/._+-]*$`)
	flagForm   = regexp.MustCompile(`^(RequiredPartition|NoBlockIOProtocol|LegacyBIOSBootable|GUID:(4[89]|5[0-9]|6[0-3]))$`)
)

func (r *Recipe) checkID() error {
	switch {
	case r.ID == "":
		return nil
	case r.Table == "mbr" && !numberForm.MatchString(r.ID):
		return fmt.Errorf("disk-id = %q: that of an mbr has 8 hexadecimal digits", r.ID)
	case r.Table == "gpt" && !uuidForm.MatchString(r.ID):
		return fmt.Errorf("disk-id = %q: that of a gpt is a UUID", r.ID)
	case r.Table == "none":
		return errors.New("there is no table, so it has no disk-id")
	}
	return nil
}

// checkWords finds what is wrong with the names and numbers of a partition.
func (p *Partition) checkWords() error {
	kind := kinds[p.FS]
	switch {
	case p.Type != "" && !typeForm.MatchString(p.Type):
		return fmt.Errorf("type = %q: it is one that sfdisk knows, such as linux, uefi, 83, c or a GUID", p.Type)
	case strings.ContainsFunc(p.Name, func(c rune) bool { return unicode.IsControl(c) || c == '"' || c == '\\' }) || len(utf16.Encode([]rune(p.Name))) > 36:
		return fmt.Errorf("name = %q: it has up to 36 characters, and no quotes and backslashes", p.Name)
	case p.PartUUID != "" && !uuidForm.MatchString(p.PartUUID):
		return fmt.Errorf("part-uuid = %q is no UUID", p.PartUUID)
	case p.Label != "" && kind.label == 0:
		return fmt.Errorf("fs = %q has no label", p.FS)
	case len(p.Label) > kind.label || strings.ContainsFunc(p.Label, unicode.IsControl):
		return fmt.Errorf("label = %q: with fs = %q it has up to %d bytes", p.Label, p.FS, kind.label)
	case p.UUID == "":
	case p.FS == "fat":
		if !serialForm.MatchString(p.UUID) {
			return fmt.Errorf("uuid = %q: that of a FAT has 8 hexadecimal digits, as in 1234-ABCD", p.UUID)
		}
	case !kind.uuid:
		return fmt.Errorf("fs = %q has no uuid", p.FS)
	case !uuidForm.MatchString(p.UUID):
		return fmt.Errorf("uuid = %q is no UUID", p.UUID)
	}
	for _, f := range p.Flags {
		if !flagForm.MatchString(f) {
			return fmt.Errorf("flags: %q is none of RequiredPartition, NoBlockIOProtocol, LegacyBIOSBootable and GUID:48 to GUID:63", f)
		}
	}
	return nil
}

// checkOptions finds what is wrong with what a file system is told.
func (p *Partition) checkOptions() error {
	for _, x := range []struct {
		name  string
		given bool
		fs    []string
	}{
		{"ext", p.Ext != Ext{}, []string{"ext2", "ext3", "ext4"}}, {"fat", p.FAT != FAT{}, []string{"fat"}}, {"jffs2", p.JFFS2 != JFFS2{}, []string{"jffs2"}},
		{"ubi", p.UBI != UBI{}, []string{"ubifs"}}, {"squashfs", p.Squashfs != Squashfs{}, []string{"squashfs"}},
	} {
		if x.given && !slices.Contains(x.fs, p.FS) {
			return fmt.Errorf("%s = {…} says nothing to fs = %q", x.name, p.FS)
		}
	}
	for _, x := range []struct {
		name     string
		n        Size
		min, max Size
		power    bool // of two
	}{
		{"ext.block", p.Ext.Block, 1 << 10, 64 << 10, true}, {"ext.inode", Size(p.Ext.Inode), 128, 64 << 10, true}, {"ext.inodes", Size(p.Ext.Inodes), 1, 1 << 31, false},
		{"fat.cluster", p.FAT.Cluster, 512, 64 << 10, true},
		{"jffs2.erase-block", p.JFFS2.EraseBlock, 8 << 10, 16 << 20, false}, {"jffs2.page", p.JFFS2.Page, 1 << 10, 64 << 10, true}, {"jffs2.pad-to", p.JFFS2.PadTo, 4, 1 << 32, false},
		{"ubi.min-io", p.UBI.MinIO, 1, 64 << 10, true}, {"ubi.erase-block", p.UBI.EraseBlock, 15 << 10, 16 << 20, false}, {"ubi.sub-page", p.UBI.SubPage, 1, 64 << 10, true}, {"ubi.max-blocks", Size(p.UBI.MaxBlocks), 17, 1 << 20, false},
		{"squashfs.block", p.Squashfs.Block, 4 << 10, 1 << 20, true},
	} {
		if x.n != 0 && (x.n < x.min || x.n > x.max || x.power && x.n&(x.n-1) != 0) {
			what := "a number"
			if x.power {
				what = "a power of two"
			}
			return fmt.Errorf("%s: it is %s from %d to %d", x.name, what, x.min, x.max)
		}
	}
	for _, x := range []struct {
		name, word string
		words      []string
	}{
		{"jffs2.compression", p.JFFS2.Compression, []string{"none", "priority", "size"}}, {"ubi.compression", p.UBI.Compression, []string{"none", "lzo", "zlib", "zstd"}},
		{"squashfs.compression", p.Squashfs.Compression, []string{"gzip", "lz4", "lzo", "xz", "zstd"}},
	} {
		if x.word != "" && !slices.Contains(x.words, x.word) {
			return fmt.Errorf("%s = %q: it is one of %s", x.name, x.word, strings.Join(x.words, ", "))
		}
	}
	switch {
	case !slices.Contains([]int{0, 12, 16, 32}, p.FAT.Bits):
		return errors.New("fat.bits: it is 12, 16 or 32")
	case p.Ext.Reserved != nil && (*p.Ext.Reserved < 0 || *p.Ext.Reserved > 50):
		return errors.New("ext.reserved: it is a percentage from 0 to 50")
	case strings.ContainsFunc(p.Ext.Features, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }):
		return errors.New("ext.features: they are separated by commas")
	}
	return nil
}
