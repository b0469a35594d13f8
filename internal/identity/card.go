package identity

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"strconv"
)

// A Card is what one row asks for.
type Card struct {
	Name  string
	Edits []Edit // of files, to be carried out in this order
	// New identifiers. A change of one is a change of all that refers to it by it.
	DiskID [4]byte // of the partition table, little-endian; all zero: it stays
	UUIDs  []UUID  // of file systems
	// References are files, beside WellKnown, in which an identifier that changes may be named.
	References []Place
}

// A UUID is a new one for the file system of a partition. What has only 32 bits takes the first.
type UUID struct {
	Partition
	UUID [16]byte
}

// An Edit makes the new content of a file out of the old one.
type Edit struct {
	Place
	Mode     fs.FileMode // of a file that is new; one that is there keeps its own
	UID, GID int         // the same
	apply    func(old []byte) ([]byte, error)
}

// Apply returns the new content. Old is that of the file as it is, nil if it is not there.
func (e Edit) Apply(old []byte) ([]byte, error) {
	b, err := e.apply(old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	return b, nil
}

// WellKnown are files of any partition that name disks, partitions and file systems by their
// identifiers, in many systems.
func WellKnown() []string {
	return []string{
		"/etc/fstab", "/etc/default/grub", "/etc/crypttab", "/etc/kernel/cmdline", "/etc/initramfs-tools/conf.d/resume",
		"/boot/cmdline.txt", "/boot/firmware/cmdline.txt", "/boot/extlinux/extlinux.conf", "/boot/grub/grub.cfg", "/boot/grub/grubenv",
		"/boot/grub2/grub.cfg", "/boot/armbianEnv.txt", "/boot/uEnv.txt", "/boot/boot.cmd", "/boot/boot.scr",
		"/cmdline.txt", "/extlinux/extlinux.conf", "/grub/grub.cfg", "/grub/grubenv", "/uEnv.txt", "/armbianEnv.txt", "/EFI/debian/grub.cfg", "/syslinux.cfg",
	}
}

// Check tries the templates on every row, without making keys. An error names the line of
// the template, or the row.
func (s *Set) Check(rows []Row) error {
	for _, r := range rows {
		values, err := s.values(r, "00000000000040008000000000000000")
		if err != nil {
			return err
		}
		for _, f := range s.files {
			if _, err := f.text.with(values); err != nil {
				return err
			}
		}
	}
	return nil
}

// values returns what the words in templates stand for.
func (s *Set) values(r Row, machineID string) (map[string]string, error) {
	v := map[string]string{}
	maps.Copy(v, r.Columns)
	v[varName], v[varIndex], v[varMachine] = r.Name, strconv.Itoa(r.Index), machineID
	if s.macBase == nil {
		return v, nil
	}
	if _, twice := v[varMAC]; twice {
		return nil, errors.New("both the column mac and mac-base say what {mac} is: leave one out")
	}
	mac, err := nextMAC(s.macBase, r.Index)
	if err != nil {
		return nil, err
	}
	v[varMAC] = mac
	return v, nil
}

// nextMAC counts an address on. Its first three bytes stay.
func nextMAC(base net.HardwareAddr, index int) (string, error) {
	low := int(base[3])<<16 | int(base[4])<<8 | int(base[5])
	low += index - 1
	if low >= 1<<24 {
		return "", fmt.Errorf("mac-base %v has no address for card %d: it goes up to %02x:%02x:%02x:ff:ff:ff", base, index, base[0], base[1], base[2])
	}
	return net.HardwareAddr{base[0], base[1], base[2], byte(low >> 16), byte(low >> 8), byte(low)}.String(), nil
}

// Card returns what a row asks for. Everything that is new on every card is made of bytes from
// random, but for RSA keys, which are always random; it takes no two cards to be the same.
func (s *Set) Card(r Row, random io.Reader) (*Card, error) {
	var id [16]byte
	if err := uuid(&id, random); err != nil {
		return nil, err
	}
	machine := hex.EncodeToString(id[:])
	values, err := s.values(r, machine)
	if err != nil {
		return nil, err
	}
	c := &Card{Name: r.Name, References: s.references}
	for _, f := range s.files {
		text, err := f.text.with(values)
		if err != nil {
			return nil, err
		}
		c.Edits = append(c.Edits, Edit{f.Place, f.mode, f.uid, f.gid, func(old []byte) ([]byte, error) { return f.edit(old, text) }})
	}
	if s.machineID {
		c.add("/etc/machine-id", 0o444, []byte(machine+"\n"))
	}
	for _, kind := range s.sshKeys {
		private, public, err := hostKey(kind, "root@"+r.Name, random)
		if err != nil {
			return nil, fmt.Errorf("make a key for %s: %w", r.Name, err)
		}
		c.add("/etc/ssh/ssh_host_"+kind+"_key", 0o600, private)
		c.add("/etc/ssh/ssh_host_"+kind+"_key.pub", 0o644, public)
	}
	for _, p := range s.uuids {
		u := UUID{Partition: p}
		if err := uuid(&u.UUID, random); err != nil {
			return nil, err
		}
		c.UUIDs = append(c.UUIDs, u)
	}
	for s.diskID && c.DiskID == [4]byte{} {
		if _, err := io.ReadFull(random, c.DiskID[:]); err != nil {
			return nil, fmt.Errorf("make an identifier: %w", err)
		}
	}
	return c, nil
}

// add adds a whole file in the first ext file system.
func (c *Card) add(path string, mode fs.FileMode, content []byte) {
	c.Edits = append(c.Edits, Edit{Place{Path: path}, mode, 0, 0, func([]byte) ([]byte, error) { return content, nil }})
}

// uuid makes a random one, RFC 9562 version 4.
func uuid(u *[16]byte, random io.Reader) error {
	if _, err := io.ReadFull(random, u[:]); err != nil {
		return fmt.Errorf("make an identifier: %w", err)
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return nil
}

// Places returns all files that the templates are about, each once, in their order.
func (s *Set) Places() []Place {
	var all []Place
	seen := map[Place]bool{}
	add := func(p Place) {
		if !seen[p] {
			seen[p] = true
			all = append(all, p)
		}
	}
	for _, f := range s.files {
		add(f.Place)
	}
	if s.machineID {
		add(Place{Path: "/etc/machine-id"})
	}
	for _, kind := range s.sshKeys {
		add(Place{Path: "/etc/ssh/ssh_host_" + kind + "_key.pub"})
	}
	return all
}
