package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A tree is the kernel's block devices at one moment, what stands on what, and
// what is in use.
type tree struct {
	sys    System
	nodes  []*node
	byName map[string]*node
	byDev  map[devno]*node
	// groups are the devices that make up one mounted file system of several
	// devices (btrfs, bcachefs).
	groups [][]*node
	mounts []mount
	uses   map[*node][]use

	swapFiles []fileID
}

// A node is a block device: a whole disk or a partition.
type node struct {
	name string
	dir  string // in sysfs
	dev  devno
	disk *node // the whole disk; the node itself if it is one

	parts   []*node
	slaves  []*node // what it is made of (dm, md, bcache)
	holders []*node // what is made of it
	loop    *backing
	loops   []*node // loop devices that it, or a file on it, is behind
}

// A backing is what is behind a loop device.
type backing struct {
	path string  // as it was when attached
	disk *node   // the block device it is, or nil
	file fileID  // the file it is, if that is known
	on   []*node // the devices that hold the file
}

// load reads the tree. A device that goes away meanwhile is left out.
func (s System) load() (*tree, error) {
	t := &tree{sys: s, byName: map[string]*node{}, byDev: map[devno]*node{}, uses: map[*node][]use{}}
	if err := t.loadNodes(); err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	for _, n := range t.nodes {
		if err := t.link(n); err != nil {
			return nil, fmt.Errorf("look what uses %s: %w", n.name, err)
		}
	}
	t.loadGroups()
	if err := t.loadMounts(); err != nil {
		return nil, fmt.Errorf("look what is mounted: %w", err)
	}
	t.loadLoops()
	if err := t.loadUses(); err != nil {
		return nil, fmt.Errorf("look what is used as swap: %w", err)
	}
	return t, nil
}

// loadNodes reads which devices there are, by the directory that has a link for
// each device number.
func (t *tree) loadNodes() error {
	dir := t.sys.sys("dev/block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	byDir := make(map[string]*node, len(entries))
	for _, e := range entries {
		dev, ok := parseDev(e.Name())
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if !ok || err != nil {
			continue // gone
		}
		n := &node{name: filepath.Base(link), dir: filepath.Join(dir, link), dev: dev}
		t.nodes = append(t.nodes, n)
		t.byName[n.name], t.byDev[n.dev], byDir[n.dir] = n, n, n
	}
	for _, n := range t.nodes {
		// A partition's directory is inside its disk's.
		if n.disk = byDir[filepath.Dir(n.dir)]; n.disk == nil {
			n.disk = n
		} else {
			n.disk.parts = append(n.disk.parts, n)
		}
	}
	return nil
}

// link finds what n is made of. The kernel tells so from both sides, here and in
// the "holders" of what n is made of; see judgement.known.
func (t *tree) link(n *node) (err error) {
	if n.disk != n || n.single() {
		return nil
	}
	n.slaves, err = t.named(filepath.Join(n.dir, "slaves"))
	for _, m := range n.slaves {
		m.holders = append(m.holders, n)
	}
	return err
}

// single tells whether n is surely made of no other devices: those are the many,
// which it would take long to ask.
func (n *node) single() bool {
	for _, driver := range []string{"sd", "mmcblk", "nvme", "vd", "loop", "zram", "ram"} {
		if rest, ok := strings.CutPrefix(n.name, driver); ok && rest != "" {
			return true
		}
	}
	return false
}

// named returns the devices that a directory has entries for.
func (t *tree) named(dir string) ([]*node, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var nodes []*node
	for _, e := range entries {
		if n := t.byName[e.Name()]; n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// loadGroups reads which devices belong to one file system, which the mount
// table does not tell: it names one of them only.
func (t *tree) loadGroups() {
	btrfs, _ := filepath.Glob(t.sys.sys("fs/btrfs/*/devices"))
	for _, dir := range btrfs {
		if g, _ := t.named(dir); len(g) > 0 {
			t.groups = append(t.groups, g)
		}
	}
	bcachefs, _ := filepath.Glob(t.sys.sys("fs/bcachefs/*"))
	for _, dir := range bcachefs {
		var g []*node
		links, _ := filepath.Glob(filepath.Join(dir, "dev-*/block"))
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && t.byName[filepath.Base(to)] != nil {
				g = append(g, t.byName[filepath.Base(to)])
			}
		}
		if len(g) > 0 {
			t.groups = append(t.groups, g)
		}
	}
}

// group returns all devices of the file system that n is part of, n at least.
func (t *tree) group(n *node) []*node {
	for _, g := range t.groups {
		for _, m := range g {
			if m == n {
				return g
			}
		}
	}
	return []*node{n}
}

// loadLoops finds out what is behind each loop device. The kernel tells the
// device and inode of the file by ioctl; without the right to ask, the path it
// had when it was attached must do.
func (t *tree) loadLoops() {
	for _, n := range t.nodes {
		if n.disk != n || !strings.HasPrefix(n.name, "loop") {
			continue
		}
		path := attr(n.dir, "loop/backing_file")
		if path == "" {
			continue
		}
		n.loop = t.backing(n, path)
		for _, on := range n.loop.on {
			on.loops = append(on.loops, n)
		}
	}
}

func (t *tree) backing(n *node, path string) *backing {
	dev, rdev, ino, err := loopBacking(t.sys.node(n.name), n.dev)
	if disk := t.byDev[rdev]; err == nil && disk != nil {
		return &backing{path: path, disk: disk, on: []*node{disk}}
	}
	if fs := t.byDev[dev]; err == nil && fs != nil {
		return &backing{path: path, file: fileID{dev, ino}, on: t.group(fs)}
	}
	p := t.locate(strings.TrimSuffix(path, " (deleted)"))
	if err == nil && p.file != (fileID{dev, ino}) {
		// Nothing or something else has that path now. The file can only be on
		// what the path leads to if that tells no device numbers of its own.
		if m := t.mountOf(path, 0); m == nil || t.byDev[m.dev] != nil {
			p.on = nil
		}
		p.disk, p.file = nil, fileID{dev, ino}
	}
	return &backing{path, p.disk, p.file, p.on}
}

// above returns n and all that stands on it, however indirectly: its partitions,
// RAID and mapper devices made of them, loop devices on them or on files in the
// file systems there, and loop devices that share their file with one of these.
func (t *tree) above(n *node) []*node {
	return closure(n, func(n *node) []*node {
		next := append(append(append([]*node{}, n.parts...), n.holders...), n.loops...)
		if n.loop != nil {
			next = append(next, t.attached(n.loop.file)...)
		}
		return next
	})
}

// attached returns the loop devices that a file is behind.
func (t *tree) attached(f fileID) (loops []*node) {
	if f == (fileID{}) {
		return nil
	}
	for _, n := range t.nodes {
		if n.loop != nil && n.loop.file == f {
			loops = append(loops, n)
		}
	}
	return loops
}

// below returns n and all that it stands on: its disk, and what dm, md and loop
// devices are made of.
func (t *tree) below(n *node) []*node {
	return closure(n, func(n *node) []*node {
		next := append([]*node{n.disk}, n.slaves...)
		if n.loop != nil {
			next = append(next, n.loop.on...)
		}
		return next
	})
}

// closure returns n and all that can be reached from it, each once.
func closure(n *node, next func(*node) []*node) []*node {
	seen := map[*node]bool{n: true}
	all := []*node{n}
	for i := 0; i < len(all); i++ {
		for _, m := range next(all[i]) {
			if !seen[m] {
				seen[m] = true
				all = append(all, m)
			}
		}
	}
	return all
}

// A place is where a path leads.
type place struct {
	disk *node   // the block device it is, or nil
	file fileID  // else the file it is; zero if it is not there
	on   []*node // the block devices that hold its bytes; none for a file in memory or on the network
}

// locate finds where a path leads. For a path that is not there, only on is
// filled in, by where such a file would be.
func (t *tree) locate(path string) place {
	return t.locateIn(path, map[int]bool{})
}

// locateIn is locate; seen holds the mounts that are being looked into, which
// keeps an overlay that names itself from going round for ever.
func (t *tree) locateIn(path string, seen map[int]bool) place {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
	if err != nil {
		if n := t.nodeAt(path); n != nil {
			return place{disk: n, on: []*node{n}}
		}
		return place{on: t.holding(t.mountOf(path, 0), seen)}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		if n := t.byDev[devno{st.Rdev_major, st.Rdev_minor}]; n != nil {
			return place{disk: n, on: []*node{n}}
		}
		return place{}
	}
	dev := devno{st.Dev_major, st.Dev_minor}
	p := place{file: fileID{dev, st.Ino}}
	if n := t.byDev[dev]; n != nil {
		p.on = t.group(n)
		return p
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	p.on = t.holding(t.mountOf(path, int(st.Mnt_id)), seen)
	return p
}

// nodeAt returns the device that a path below /dev names, going by the name
// alone if there is no such node.
func (t *tree) nodeAt(path string) *node {
	rest, ok := strings.CutPrefix(path, "/dev/")
	if !ok {
		if rest, ok = strings.CutPrefix(path, t.sys.dev()+"/"); !ok {
			return nil
		}
	}
	if mapped, ok := strings.CutPrefix(rest, "mapper/"); ok {
		for _, n := range t.nodes {
			if attr(n.dir, "dm/name") == mapped {
				return n
			}
		}
	}
	return t.byName[strings.ReplaceAll(rest, "/", "!")]
}
