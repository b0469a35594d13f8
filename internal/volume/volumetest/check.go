package volumetest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"multidd/internal/block"
)

// Files returns what each part holds: of every file, by its path, a line about its
// kind, content, owner, mode, times, links and attributes, as far as its file system
// keeps them. Of swap, its header; of noise, its digest. What cannot be read is
// there as the file "unreadable".
func (im Image) Files(tb testing.TB) []map[string]string {
	tb.Helper()
	var all []map[string]string
	for _, p := range im.Parts {
		path := filepath.Join(scratch(tb), "part")
		im.extract(tb, p.Extent, path)
		all = append(all, files(tb, path, p.Kind))
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
	}
	return all
}

func files(tb testing.TB, path, kind string) map[string]string {
	tb.Helper()
	switch kind {
	case "noise":
		data, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		return map[string]string{"": fmt.Sprintf("%x", sha256.Sum256(data))}
	case "swap":
		_, header, _ := strings.Cut(run(tb, "blkid", "-p", "-o", "export", path), "\n") // behind the file's name
		return map[string]string{"": header}
	case "fat12", "fat16", "fat32":
		return fatFiles(tb, path)
	case "f2fs":
		return f2fsFiles(tb, path)
	}
	var found map[string]string
	if err := mounted(tb, path, kind, "ro", func(dir string) { found = treeFiles(dir) }); err != nil {
		return map[string]string{unreadable: err.Error()}
	}
	return found
}

const unreadable = "unreadable"

// treeFiles describes the files below a folder.
func treeFiles(dir string) map[string]string {
	found := map[string]string{}
	first := map[uint64]string{} // the first name of each inode
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		line, ino, err := describe(path)
		if err != nil {
			return err
		}
		if same, ok := first[ino]; ok && !d.IsDir() {
			line += " linked to " + same
		} else {
			first[ino] = name
		}
		found[name] = line
		return nil
	})
	if err != nil {
		found[unreadable] = err.Error()
	}
	return found
}

// describe returns all about one file, and the number of its inode.
func describe(path string) (line string, ino uint64, err error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return "", 0, err
	}
	line = fmt.Sprintf("mode %o owner %d:%d links %d device %x changed %d.%09d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", 0, err
		}
		line += fmt.Sprintf(" size %d sha256 %x", len(data), sha256.Sum256(data))
	case syscall.S_IFLNK:
		target, err := os.Readlink(path)
		return line + " to " + target, st.Ino, err
	}
	return line + attributes(path), st.Ino, nil
}

// attributes returns the extended attributes of what is not a link.
func attributes(path string) string {
	names := make([]byte, 4096)
	n, err := syscall.Listxattr(path, names)
	if err != nil {
		return "" // a kind that has none
	}
	var all []string
	for _, name := range strings.Split(strings.Trim(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		if n, err := syscall.Getxattr(path, name, value); err == nil {
			all = append(all, fmt.Sprintf(" %s=%q", name, value[:n]))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

// fatFiles lets mtools read a FAT: what it copies out, and what it lists, in which
// the attributes and the label are.
func fatFiles(tb testing.TB, path string) map[string]string {
	tb.Helper()
	dir := scratch(tb)
	// Of an empty one nothing can be copied, and that is an error.
	out, err := command(tb, "mcopy", "-s", "-m", "-n", "-Q", "-i", path, "::/*", dir).CombinedOutput()
	found := treeFiles(dir)
	delete(found, ".") // the folder it was copied to
	if err != nil && len(found) > 0 {
		found[unreadable] = string(out)
	}
	for what, cmd := range map[string]*exec.Cmd{
		"listing":    command(tb, "mdir", "-/", "-a", "-i", path, "::"),
		"attributes": command(tb, "mattrib", "-/", "-i", path, "::/*"),
	} {
		out, err := cmd.CombinedOutput()
		if err != nil && len(found) > 0 {
			found[unreadable] = string(out)
		}
		found[what] = string(out)
	}
	return found
}

var f2fsInode = regexp.MustCompile(`-- (.*) <ino = (0x[0-9a-f]+)>`)

// f2fsFiles lets f2fs-tools read an F2FS: what its inodes say, and what is in them.
func f2fsFiles(tb testing.TB, path string) map[string]string {
	tb.Helper()
	tree, err := command(tb, "fsck.f2fs", "--dry-run", "-t", path).CombinedOutput()
	if err != nil {
		return map[string]string{unreadable: string(tree)}
	}
	found := map[string]string{}
	for _, m := range f2fsInode.FindAllStringSubmatch(string(tree), -1) {
		dir := scratch(tb)
		cmd := command(tb, "dump.f2fs", "-i", strings.TrimPrefix(m[2], "0x"), path)
		cmd.Dir = dir
		cmd.Stdin = strings.NewReader("y\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			found[unreadable] = string(out)
		}
		var line strings.Builder
		for _, l := range strings.Split(string(out), "\n") {
			if strings.HasPrefix(l, "i_") {
				line.WriteString(strings.Join(strings.Fields(l), " ") + " ")
			}
		}
		dumped, err := filepath.Glob(filepath.Join(dir, "lost_found", "*"))
		if err != nil {
			tb.Fatal(err)
		}
		for _, f := range dumped {
			data, err := os.ReadFile(f)
			if err != nil {
				tb.Fatal(err)
			}
			fmt.Fprintf(&line, "sha256 %x", sha256.Sum256(data))
		}
		found[m[2]+" "+m[1]] = line.String()
	}
	return found
}

// Diff returns a line for every file that is not the same on two disks of the same
// Spec, or cannot be read on either; none if they hold the same.
func Diff(tb testing.TB, a, b Image) []string {
	tb.Helper()
	return b.Changed(tb, a.Files(tb))
}

// Changed is Diff with what Files returned before.
func (im Image) Changed(tb testing.TB, before []map[string]string) []string {
	tb.Helper()
	var diff []string
	for i, now := range im.Files(tb) {
		was := before[i]
		names := slices.Sorted(maps.Keys(was))
		for name := range now {
			if _, ok := was[name]; !ok {
				names = append(names, name)
			}
		}
		for _, name := range names {
			if was[name] != now[name] || name == unreadable {
				diff = append(diff, fmt.Sprintf("part %d (%s), %q:\n\t%s\n\t%s", i+1, im.Parts[i].Kind, name, was[name], now[name]))
			}
		}
	}
	return diff
}

// Fsck asks the fsck of each part what is wrong with it, changing nothing, and
// returns its words; none if all is clean.
func (im Image) Fsck(tb testing.TB) []string {
	tb.Helper()
	var wrong []string
	for i, p := range im.Parts {
		path := filepath.Join(scratch(tb), "part")
		im.extract(tb, block.Extent{Off: p.Off, Len: p.Len}, path)
		if words := fsck(tb, path, p.Kind); words != "" {
			wrong = append(wrong, fmt.Sprintf("part %d (%s): %s", i+1, p.Kind, words))
		}
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
	}
	return wrong
}

// fsck returns what is wrong with the file system in a file.
func fsck(tb testing.TB, path, kind string) string {
	tb.Helper()
	var name string
	var args []string
	switch kind {
	case "ext2", "ext3", "ext4":
		name, args = "e2fsck", []string{"-f", "-n"}
	case "fat12", "fat16", "fat32":
		name, args = "fsck.fat", []string{"-n"}
	case "exfat":
		name, args = "fsck.exfat", []string{"-n"}
	case "f2fs":
		name, args = "fsck.f2fs", []string{"--dry-run"}
	case "btrfs":
		name, args = "btrfs", []string{"check", "--readonly", "--check-data-csum"}
	default:
		return ""
	}
	cmd := command(tb, name, append(args, path)...)
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Cancel() }) // on noise some go on and on
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v\n%s", name, err, out[:min(len(out), 10_000)])
	}
	if strings.Contains(string(out), "[Fail]") || strings.Contains(string(out), "[ASSERT]") || strings.Contains(string(out), "WARNING: ") && kind != "btrfs" {
		return fmt.Sprintf("%s: %s", name, out)
	}
	return ""
}
