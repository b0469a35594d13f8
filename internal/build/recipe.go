// Package build makes a card image from a recipe and trees of files: partition table,
// file systems, boot loaders, and a text file that says which revision it is. No
// root, no mount and no loop device is needed, and the same recipe with the same trees
// gives the same bytes.
//
// File systems are made by the tools that make them everywhere (e2fsprogs,
// dosfstools, mtd-utils, squashfs-tools, util-linux); docs/build.md describes the
// recipe.
package build

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// A Size is a number of bytes as a recipe has it: a number alone, or one with
// k, M, G, T (x 1024, also KiB, MiB, …) or kB, MB, GB, TB (x 1000).
type Size int64

// Rest is the size of the partition that takes what the others leave, and Fit that of one
// that is as large as what is in it asks for.
const (
	Rest Size = -1
	Fit  Size = -2
)

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	word := string(text)
	switch word {
	case "rest":
		*s = Rest
		return nil
	case "fit":
		*s = Fit
		return nil
	}
	digits := strings.TrimRight(word, "kKMGTiB")
	factor, unit := int64(1), word[len(digits):]
	base := int64(1024)
	if len(unit) == 2 && unit[1] == 'B' {
		base = 1000
	}
	for range strings.Index("KMGT", strings.ToUpper(unit[:min(1, len(unit))])) + 1 {
		if unit == "" || unit == "B" {
			break
		}
		factor *= base
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	ok := slices.Contains([]string{"", "B", "k", "K", "M", "G", "T", "kB", "KB", "MB", "GB", "TB", "kiB", "KiB", "MiB", "GiB", "TiB"}, unit)
	if err != nil || !ok || n < 0 || n > 1<<62/factor {
		return fmt.Errorf("%q is not a size; it is a number with k, M, G, MiB, MB …, \"rest\" or \"fit\"", word)
	}
	*s = Size(n * factor)
	return nil
}

// An Owner is a user's and a group's number, "1000:1000" in a recipe.
type Owner struct{ UID, GID int }

// UnmarshalText reads an owner.
func (o *Owner) UnmarshalText(text []byte) error {
	u, g, both := strings.Cut(string(text), ":")
	uid, err := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	if !both || err != nil || err2 != nil {
		return fmt.Errorf("%q is not an owner; it is two numbers, such as 0:0", text)
	}
	*o = Owner{int(uid), int(gid)}
	return nil
}

// A Mode is permissions, "0755" in a recipe.
type Mode uint32

// UnmarshalText reads a mode.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || n > 0o7777 {
		return fmt.Errorf("%q is not a mode; it is up to four digits from 0 to 7", text)
	}
	*m = Mode(n)
	return nil
}

// A Recipe says how an image is made. Paths in it are relative to its own directory.
type Recipe struct {
	Name     string `toml:"name"`     // for the revision file
	Revision string `toml:"revision"` // for the revision file
	// Size of the image; 0: what the partitions take. "fit" and "rest" are not possible.
	Size  Size   `toml:"size"`
	Table string `toml:"table"`   // "mbr", "gpt" or "none": one file system and no table
	ID    string `toml:"disk-id"` // of the table: 8 hexadecimal digits (mbr) or a UUID (gpt); "": from the content
	Align Size   `toml:"align"`   // of partitions; 0: 4 MiB
	// RevisionFile is where the revision is written down in the first file system that keeps
	// files; "": etc/image-revision, "none": nowhere.
	RevisionFile string      `toml:"revision-file"`
	Raw          []Raw       `toml:"raw"`
	Partitions   []Partition `toml:"partition"`

	dir string
}

// Raw is a file whose bytes go to one place of the image, such as a boot loader.
type Raw struct {
	File   string `toml:"file"`
	Offset Size   `toml:"offset"`
}

// A Partition is one of the image.
type Partition struct {
	Size  Size   `toml:"size"`  // in bytes, "rest" or "fit"; 0: fit
	Start Size   `toml:"start"` // 0: where there is room
	Type  string `toml:"type"`  // as sfdisk takes it: "83", "c", "linux", "uefi", a GUID; "": by the file system
	Name  string `toml:"name"`  // gpt only
	Boot  bool   `toml:"boot"`
	// Flags are gpt only, as sfdisk has them: "RequiredPartition", "NoBlockIOProtocol",
	// "LegacyBIOSBootable" (which boot is, too), "GUID:48" to "GUID:63".
	Flags    []string `toml:"flags"`
	PartUUID string   `toml:"part-uuid"` // gpt only; "": from the content

	FS    string `toml:"fs"` // "ext2" … "empty"; see makers
	Label string `toml:"label"`
	UUID  string `toml:"uuid"` // of the file system; "": from the content
	File  string `toml:"file"` // with fs "raw": what the partition holds

	Ext      Ext      `toml:"ext"`
	FAT      FAT      `toml:"fat"`
	JFFS2    JFFS2    `toml:"jffs2"`
	UBI      UBI      `toml:"ubi"`
	Squashfs Squashfs `toml:"squashfs"`

	Trees   []Source `toml:"tree"`    // laid over one another, the last on top
	Exclude []string `toml:"exclude"` // patterns as rsync has them, taken out of all trees
	Remove  []string `toml:"remove"`  // paths taken out at the end; one that is not there is an error
	Devices string   `toml:"devices"` // a device table with owners, permissions and devices
	Rules   []Rule   `toml:"rule"`
}

// Ext is what ext2, ext3 and ext4 can be told.
type Ext struct {
	Block    Size   `toml:"block"`    // 1, 2 or 4 KiB; 0: as mke2fs chooses
	Inode    int    `toml:"inode"`    // bytes; 0: as mke2fs chooses
	Inodes   int    `toml:"inodes"`   // how many; 0: as many as mke2fs or the tree wants
	Features string `toml:"features"` // as mke2fs -O: "^metadata_csum,64bit"
	Reserved *int   `toml:"reserved"` // percent for root; none: 5
}

// FAT is what FAT can be told.
type FAT struct {
	Bits    int  `toml:"bits"`    // 12, 16 or 32; 0: as mkfs.vfat chooses
	Cluster Size `toml:"cluster"` // 0: as mkfs.vfat chooses
}

// JFFS2 is what JFFS2 can be told.
type JFFS2 struct {
	EraseBlock   Size   `toml:"erase-block"` // 0: 128 KiB
	Page         Size   `toml:"page"`        // most data in a node; 0: 4 KiB
	BigEndian    bool   `toml:"big-endian"`
	CleanMarkers *bool  `toml:"clean-markers"` // none: on; NAND wants them off
	Pad          bool   `toml:"pad"`           // to the end of the last erase block
	PadTo        Size   `toml:"pad-to"`
	Summary      bool   `toml:"summary"`     // what sumtool adds, for a quick mount
	Compression  string `toml:"compression"` // "none", "priority", "size"
}

// UBI is what UBIFS and the UBI around it can be told, in the words of mkfs.ubifs and
// ubinize.
type UBI struct {
	MinIO       Size   `toml:"min-io"`      // 0: 2 KiB
	EraseBlock  Size   `toml:"erase-block"` // physical; 0: 128 KiB
	MaxBlocks   int    `toml:"max-blocks"`  // logical erase blocks; 0: 2047
	SubPage     Size   `toml:"sub-page"`    // 0: MinIO
	Volume      string `toml:"volume"`      // "": rootfs
	Compression string `toml:"compression"` // "lzo", "zlib", "zstd", "none"
	Only        bool   `toml:"ubifs-only"`  // without UBI around it
}

// Squashfs is what squashfs can be told.
type Squashfs struct {
	Compression string `toml:"compression"` // gzip, lz4, lzo, xz, zstd; "": as the tool chooses
	Block       Size   `toml:"block"`
}

// A Source is a tree: one of a directory, a tar (packed or not), a partition of an image,
// or the text of one file.
type Source struct {
	Dir       string   `toml:"dir"`
	Tar       string   `toml:"tar"`
	Image     string   `toml:"image"`
	Partition int      `toml:"partition"` // of the image; 0: the image is the file system
	File      string   `toml:"file"`      // one file, to be called To
	Text      *string  `toml:"text"`      // the same, from what is written here
	To        string   `toml:"to"`        // where in the file system; "": its root
	Owner     *Owner   `toml:"owner"`     // of all that is in it; none: as it is
	Exclude   []string `toml:"exclude"`
}

// A Rule gives what a pattern chooses an owner or permissions.
type Rule struct {
	Path  string `toml:"path"`
	Mode  *Mode  `toml:"mode"`
	Owner *Owner `toml:"owner"`
}

// maxRecipe is how long a recipe may be, in bytes.
const maxRecipe = 1 << 20

// ReadRecipe reads a recipe from a file. An error names the line if there is one.
func ReadRecipe(name string) (*Recipe, error) {
	st, err := os.Stat(name)
	if err == nil && st.Size() > maxRecipe {
		err = fmt.Errorf("%s has %d bytes, which is more than any recipe", name, st.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("read the recipe: %w", err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the recipe: %w", err)
	}
	r, err := ParseRecipe(text)
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", name, err)
	}
	r.dir = filepath.Dir(name)
	return r, nil
}

// ParseRecipe reads the text of a recipe.
func ParseRecipe(text []byte) (*Recipe, error) {
	r := &Recipe{}
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, lineOf(err)
	}
	return r, r.check()
}

// lineOf makes one sentence of an error in TOML.
func lineOf(err error) error {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		line, _ := e.Position()
		return fmt.Errorf("line %d: there is no key %q here", line, strings.Join(e.Key(), "."))
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := e.Position()
		if len(e.Key()) > 0 {
			return fmt.Errorf("line %d: %s: %s", line, strings.Join(e.Key(), "."), strings.TrimPrefix(e.Error(), "toml: "))
		}
		return fmt.Errorf("line %d: %s", line, strings.TrimPrefix(e.Error(), "toml: "))
	}
	return err
}

// path returns where a file named in the recipe is.
func (r *Recipe) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(r.dir, name)
}
