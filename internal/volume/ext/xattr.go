package ext

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const xattrMagic = 0xea020000

// xattrPrefixes are what a number stands for at the beginning of a name. The one
// that fits best comes first.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
}{
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{1, "user."},
	{4, "trusted."},
	{6, "security."},
	{7, "system."},
}

// An xattr is an attribute as it is kept.
type xattr struct {
	index uint8
	name  string // without what the index says
	value []byte
}

func (x xattr) isACL() bool { return x.index == 2 || x.index == 3 }

// size is what the entry without its value takes, in bytes.
func (x xattr) size() int { return (16 + len(x.name) + 3) &^ 3 }

func (x xattr) room() int { return x.size() + (len(x.value)+3)&^3 }

// packXattrs sorts attributes as the kernel wants them in a block.
func packXattrs(all map[string]string) ([]xattr, error) {
	var list []xattr
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x := xattr{value: []byte(all[name])}
		for _, p := range xattrPrefixes {
			if rest, ok := strings.CutPrefix(name, p.prefix); ok && (p.index != 2 && p.index != 3 || rest == "") {
				x.index, x.name = p.index, rest
				break
			}
		}
		if x.index == 0 || len(x.name) > 255 {
			return nil, fmt.Errorf("the extended attribute %.60q cannot be kept in ext2, ext3 or ext4", name)
		}
		if x.isACL() {
			var err error
			if x.value, err = packACL(x.value); err != nil {
				return nil, fmt.Errorf("the extended attribute %s: %w", name, err)
			}
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return list, nil
}

// Tags of an access control list that come with a user's or a group's number.
const (
	aclUser  = 0x02
	aclGroup = 0x08
)

var errACL = errors.New("it is no access control list")

// packACL turns an access control list from what the kernel shows (version 2, eight
// bytes an entry) into what the file system keeps (version 1, four or eight).
func packACL(shown []byte) ([]byte, error) {
	if len(shown) < 4 || le.Uint32(shown) != 2 || len(shown)%8 != 4 {
		return nil, errACL
	}
	kept := le.AppendUint32(nil, 1)
	for e := range slices.Chunk(shown[4:], 8) {
		kept = append(kept, e[:4]...)
		if tag := le.Uint16(e); tag == aclUser || tag == aclGroup {
			kept = append(kept, e[4:]...)
		}
	}
	return kept, nil
}

// unpackACL is the reverse of packACL.
func unpackACL(kept []byte) ([]byte, error) {
	if len(kept) < 4 || le.Uint32(kept) != 1 {
		return nil, errACL
	}
	shown := le.AppendUint32(nil, 2)
	for kept = kept[4:]; len(kept) > 0; {
		if len(kept) < 4 {
			return nil, errACL
		}
		shown = append(shown, kept[:4]...)
		tag := le.Uint16(kept)
		kept = kept[4:]
		id := []byte{0xff, 0xff, 0xff, 0xff}
		if tag == aclUser || tag == aclGroup {
			if len(kept) < 4 {
				return nil, errACL
			}
			id, kept = kept[:4], kept[4:]
		}
		shown = append(shown, id...)
	}
	return shown, nil
}

// hash is what an entry's hash is made of, name and value.
func (x xattr) hash() uint32 {
	var h uint32
	for i := range len(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(x.name[i])
	}
	padded := append(slices.Clone(x.value), make([]byte, (4-len(x.value)%4)%4)...)
	for w := range slices.Chunk(padded, 4) {
		h = h<<16 ^ h>>16 ^ le.Uint32(w)
	}
	return h
}

// putXattrs writes entries from byte from of b on and their values from its end
// down. Offsets of values count from byte base.
func putXattrs(b []byte, base, from int, list []xattr) {
	end := len(b)
	for _, x := range list {
		e := b[from:]
		end -= (len(x.value) + 3) &^ 3
		e[0], e[1] = uint8(len(x.name)), x.index
		if len(x.value) > 0 {
			le.PutUint16(e[2:], uint16(end-base))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		le.PutUint32(e[12:], x.hash())
		copy(e[16:], x.name)
		copy(b[end:], x.value)
		from += x.size()
	}
}

// blockHash is the hash of a whole block of attributes.
func blockHash(list []xattr) uint32 {
	var h uint32
	for _, x := range list {
		e := x.hash()
		if e == 0 {
			return 0 // not to be shared
		}
		h = h<<16 ^ h>>16 ^ e
	}
	return h
}

// readXattrs reads the entries at byte from of b into all. Offsets of values count
// from byte base.
func readXattrs(b []byte, base, from int, all map[string]string) error {
	bad := errors.New("its extended attributes are damaged")
	for from+4 <= len(b) && le.Uint32(b[from:]) != 0 {
		if from+16 > len(b) {
			return bad
		}
		e := b[from:]
		n, index := int(e[0]), e[1]
		off, size := int(le.Uint16(e[2:])), int(le.Uint32(e[8:]))
		if le.Uint32(e[4:]) != 0 {
			return errors.New("an extended attribute lies in an inode of its own, which is not read here")
		}
		if 16+n > len(e) || size < 0 || size > len(b) || base+off > len(b)-size && size > 0 {
			return bad
		}
		x := xattr{index: index, name: string(e[16 : 16+n])}
		if size > 0 {
			x.value = b[base+off : base+off+size]
		}
		if err := x.add(all); err != nil {
			return err
		}
		from += x.size()
	}
	return nil
}

func (x xattr) add(all map[string]string) error {
	for _, p := range xattrPrefixes {
		if p.index != x.index {
			continue
		}
		value := x.value
		if x.isACL() {
			var err error
			if value, err = unpackACL(value); err != nil {
				return err
			}
		}
		if name := p.prefix + x.name; name != "system.data" { // content of a file kept in its inode
			all[name] = string(value)
		}
		return nil
	}
	return nil // of a kind nobody can ask for
}
