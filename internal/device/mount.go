package device

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A mount is a line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id      int
	dev     devno
	point   string
	fstype  string
	source  string
	options string // of the file system, not of the mount
}

// A use is what keeps a block device from being written.
type use struct {
	swap     bool
	where    string // the mount point, or what the swap was turned on by
	readOnly bool   // the file system, not only its mount: nothing changes on the device
}

// systemPoints are the mount points that the running system lives on.
var systemPoints = []string{"/", "/usr", "/var", "/boot", "/efi"}

// system tells whether the running system needs what is used so.
func (u use) system() bool {
	return !u.swap && (slices.Contains(systemPoints, u.where) || strings.HasPrefix(u.where, "/boot/"))
}

// loadMounts reads what this process and the first one have mounted: they differ
// when this process has a mount table of its own.
func (t *tree) loadMounts() error {
	own, err := readMounts(t.sys.proc("self/mountinfo"))
	if err != nil {
		return err
	}
	t.mounts = own
	first, err := readMounts(t.sys.proc("1/mountinfo"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	for _, m := range append(slices.Clone(own), first...) {
		for _, n := range t.holding(&m, map[int]bool{}) {
			t.use(n, use{where: m.point, readOnly: m.readOnly()})
		}
	}
	for _, g := range t.groups {
		for _, n := range g {
			if len(t.uses[n]) == 0 {
				t.use(n, use{where: "a place that cannot be seen from here"})
			}
		}
	}
	return nil
}

// readOnly tells whether the mounted file system itself cannot be written, by any of
// its mounts.
func (m *mount) readOnly() bool { return m.options == "ro" || strings.HasPrefix(m.options, "ro,") }

func (t *tree) use(n *node, u use) {
	if !slices.Contains(t.uses[n], u) {
		t.uses[n] = append(t.uses[n], u)
	}
}

func readMounts(path string) ([]mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []mount
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // an overlay of many layers has long lines
	for lines.Scan() {
		head, tail, ok := strings.Cut(lines.Text(), " - ")
		x, y := strings.Fields(head), strings.SplitN(tail, " ", 3)
		if !ok || len(x) < 5 || len(y) < 2 {
			continue
		}
		m := mount{point: unescape(x[4]), fstype: y[0], source: unescape(y[1])}
		m.id, _ = strconv.Atoi(x[0])
		m.dev, _ = parseDev(x[2])
		if len(y) == 3 {
			m.options = y[2]
		}
		mounts = append(mounts, m)
	}
	return mounts, lines.Err()
}

// unescape undoes the kernel's \ooo for white space and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountOf returns the mount a path is on: the one with the given id if that can
// be, else the last one made at the longest part of the path; nil if none.
func (t *tree) mountOf(path string, id int) *mount {
	var best *mount
	for i := range t.mounts {
		m := &t.mounts[i]
		if !isBelow(path, m.point) {
			continue
		}
		if id != 0 && m.id == id {
			return m
		}
		if best == nil || len(m.point) >= len(best.point) {
			best = m
		}
	}
	return best
}

// isBelow tells whether a path is dir or inside it, by the names alone.
func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// holding returns the block devices that a mounted file system is on. Some file
// systems have no device number of their own there: btrfs names one of its
// devices as the source, an overlay lies on the directories it is made of.
func (t *tree) holding(m *mount, seen map[int]bool) []*node {
	if m == nil || seen[m.id] {
		return nil
	}
	if n := t.byDev[m.dev]; n != nil {
		return t.group(n)
	}
	if m.fstype == "overlay" {
		seen[m.id] = true
		var on []*node
		for _, dir := range overlayDirs(m.options) {
			on = append(on, t.locateIn(dir, seen).on...)
		}
		return on
	}
	var on []*node
	for _, source := range strings.Split(m.source, ":") {
		if n := t.sourceNode(source); n != nil {
			on = append(on, t.group(n)...)
		}
	}
	return on
}

// sourceNode returns the block device a mount's source names, or nil.
func (t *tree) sourceNode(source string) *node {
	if !filepath.IsAbs(source) {
		return nil
	}
	var st unix.Stat_t
	if unix.Stat(source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return t.byDev[splitDev(uint64(st.Rdev))]
	}
	return t.nodeAt(source)
}

// overlayDirs returns the directories an overlay is made of. In a list of them a
// colon that belongs to a name has a backslash before it.
func overlayDirs(options string) (dirs []string) {
	for _, o := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir", "lowerdir+", "datadir+", "upperdir":
			for _, dir := range splitEscaped(unescape(value), ':') {
				if dir != "" {
					dirs = append(dirs, strings.NewReplacer(`\\`, `\`, `\:`, ":").Replace(dir))
				}
			}
		}
	}
	return dirs
}

// splitEscaped splits at each sep that has no backslash before it.
func splitEscaped(s string, sep byte) (parts []string) {
	from := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}

// loadUses adds the swap areas to what is in use.
func (t *tree) loadUses() error {
	b, err := os.ReadFile(t.sys.proc("swaps"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without swap
	}
	if err != nil {
		return err
	}
	for i, line := range strings.Split(string(b), "\n") {
		x := strings.Fields(line)
		if i == 0 || len(x) < 2 {
			continue
		}
		path := strings.TrimSuffix(unescape(x[0]), " (deleted)")
		p := t.locate(path)
		for _, n := range p.on {
			t.use(n, use{swap: true, where: path})
		}
		if p.file != (fileID{}) {
			t.swapFiles = append(t.swapFiles, p.file)
		}
	}
	return nil
}

// mountPoints returns where n itself is mounted, fit to be shown.
func (t *tree) mountPoints(n *node) (points []string) {
	for _, u := range t.uses[n] {
		if !u.swap {
			points = append(points, Clean(u.where))
		}
	}
	return points
}
