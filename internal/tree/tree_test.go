package tree

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multidd/internal/sample"
)

var then = time.Date(2009, 7, 4, 12, 30, 15, 123456789, time.UTC)

// put adds nodes to a tree: "dir/", "file=content", "link->target".
func put(t *testing.T, to *Tree, specs ...string) *Tree {
	t.Helper()
	for _, s := range specs {
		name, n := s, &Node{Mode: fs.ModeDir | 0o755, ModTime: then}
		if p, target, ok := strings.Cut(s, "->"); ok {
			name, n = p, &Node{Mode: fs.ModeSymlink | 0o777, Target: target, ModTime: then}
		} else if p, content, ok := strings.Cut(s, "="); ok {
			name, n = p, File([]byte(content), 0o644, then)
		} else {
			name = strings.TrimSuffix(s, "/")
		}
		if err := to.Put(name, n); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func names(t *Tree) string {
	var all []string
	_ = t.Walk(func(p string, n *Node) error {
		switch n.Mode.Type() {
		case 0:
			b, _ := t.ReadFile(p, 1<<20)
			p += "=" + string(b)
		case fs.ModeSymlink:
			p += "->" + n.Target
		case fs.ModeDir:
			p += "/"
		}
		all = append(all, p)
		return nil
	})
	return strings.Join(all[1:], " ")
}

func TestAnUpperTreeWins(t *testing.T) {
	for _, c := range []struct{ lower, upper, want string }{
		{"a=1 b=2", "b=3 c=4", "a=1 b=3 c=4"},
		{"d/ d/a=1", "d/ d/b=2", "d/ d/a=1 d/b=2"},
		{"d/ d/a=1", "d=file", "d=file"},
		{"d=file", "d/ d/a=1", "d/ d/a=1"},
		{"usr/ usr/lib/ usr/lib/x=1 lib->usr/lib", "lib/ lib/y=2", "lib->usr/lib usr/ usr/lib/ usr/lib/x=1 usr/lib/y=2"},
		{"usr/ usr/lib/ lib->/usr/lib", "lib/ lib/d/ lib/d/y=2", "lib->/usr/lib usr/ usr/lib/ usr/lib/d/ usr/lib/d/y=2"},
		{"l->nowhere", "l/ l/a=1", "l/ l/a=1"},
		{"l->f f=1", "l=2", "f=1 l=2"},
	} {
		lower, upper := put(t, New(), strings.Fields(c.lower)...), put(t, New(), strings.Fields(c.upper)...)
		before := names(upper)
		if err := lower.Lay(upper); err != nil {
			t.Errorf("%s under %s: %v", c.lower, c.upper, err)
		} else if got := names(lower); got != c.want {
			t.Errorf("%s under %s is %s, want %s", c.lower, c.upper, got, c.want)
		}
		if names(upper) != before {
			t.Errorf("%s was changed to %s", before, names(upper))
		}
	}
}

func TestADirectoryOfAnUpperTreeBringsItsAttributes(t *testing.T) {
	lower, upper := put(t, New(), "d/", "d/a=1"), New()
	if err := upper.Put("d", &Node{Mode: fs.ModeDir | 0o700, UID: 7, ModTime: then}); err != nil {
		t.Fatal(err)
	}
	if err := lower.Lay(upper); err != nil {
		t.Fatal(err)
	}
	if d := lower.Lookup("d"); d.UID != 7 || d.Mode.Perm() != 0o700 || lower.Lookup("d/a") == nil {
		t.Errorf("the directory is %v of %d, and holds %s", d.Mode, d.UID, names(lower))
	}
}

func TestNoPathLeadsOutOfTheTree(t *testing.T) {
	tr := put(t, New(), "etc/", "etc/passwd=inside", "abs->/etc/passwd", "up->../../../../etc/passwd", "loop->loop2", "loop2->loop", "dir->/etc", "dots->..", "file=x", "chain->abs")
	for p, want := range map[string]string{
		"abs": "etc/passwd", "up": "etc/passwd", "dir/passwd": "etc/passwd", "dots/etc/passwd": "etc/passwd", "../../etc/passwd": "etc/passwd",
		"/etc/../../etc/passwd": "etc/passwd", "chain": "etc/passwd", "dir/new": "etc/new", ".": ".", "dots": ".",
	} {
		if got, _, err := tr.Resolve(p); got != want || err != nil {
			t.Errorf("%s leads to %q, %v, want %s", p, got, err, want)
		}
	}
	for _, p := range []string{"loop", "loop/x", "nowhere/x", "file/x", "etc/passwd/x", "etc/" + strings.Repeat("n", 256), "etc/a\x00b"} {
		if got, n, err := tr.Resolve(p); err == nil {
			t.Errorf("%.20q leads to %q, %v", p, got, n)
		}
	}
	for _, p := range []string{"../x", "a/../../x", "a//b", "./a", "etc/.", "x\x00y", strings.Repeat("n", 256), "file/x", "abs/x"} {
		if err := tr.Put(p, File(nil, 0o644, then)); err == nil {
			t.Errorf("%.20q was put", p)
		}
	}
}

func TestPatternsChooseAsRsyncDoes(t *testing.T) {
	dir := t.TempDir()
	tr := New()
	for _, p := range []string{"a/", "a/b/", "a/b/c", "a/b/c.o", "x.o", "a/x.o", "b/", "b/c", "dir/", "dir/sub/", "dir/sub/deep/", "dir/sub/deep/f", "f", "we ird", "q?", "[z]"} {
		if name, isDir := strings.CutSuffix(p, "/"); isDir {
			put(t, tr, p)
			must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		} else {
			put(t, tr, p+"=")
			must(t, os.WriteFile(filepath.Join(dir, p), nil, 0o644))
		}
	}
	sample.Need(t, "rsync")
	for _, text := range []string{"*.o", "/x.o", "b", "b/", "/b", "a/b", "/a/b/", "b/c", "sub/**", "/dir/**/f", "**/c", "f", "c*", "we*", "?", "q[?]", "\\[z\\]", "/a/*/c", "deep/f", "dir/**"} {
		p, err := ParsePattern(text)
		must(t, err)
		mine := New()
		must(t, mine.Lay(tr))
		mine.Exclude(p)
		out, err := exec.Command("rsync", "-a", "--list-only", "--exclude="+text, dir+"/").Output()
		must(t, err)
		var theirs []string
		for line := range strings.Lines(string(out)) {
			name := strings.TrimSuffix(line, "\n")[strings.Index(line, ":")+7:]
			if name != "." {
				theirs = append(theirs, name)
			}
		}
		var got []string
		_ = mine.Walk(func(p string, _ *Node) error { got = append(got, p); return nil })
		got = got[1:]
		slices.Sort(got)
		slices.Sort(theirs)
		if !slices.Equal(got, theirs) {
			t.Errorf("without %s\n%q are left, with rsync\n%q", text, got, theirs)
		}
	}
	for _, text := range []string{"", "/", "a/../b", "[", "a//b"} {
		if p, err := ParsePattern(text); err == nil {
			t.Errorf("%q is the pattern %+v", text, p)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// realTree makes a directory with everything in it that a tree can hold, as far as
// this user may.
func realTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := func(p string) string { return filepath.Join(dir, p) }
	for _, d := range []string{"etc", "usr/bin", "empty", "closed"} {
		must(t, os.MkdirAll(at(d), 0o755))
	}
	must(t, os.WriteFile(at("etc/hostname"), []byte("n810\n"), 0o644))
	must(t, os.WriteFile(at("usr/bin/su"), bytes.Repeat([]byte("code"), 3000), 0o755))
	must(t, os.Link(at("usr/bin/su"), at("usr/bin/su2")))
	must(t, os.Symlink("su", at("usr/bin/link")))
	must(t, os.Symlink("/"+strings.Repeat("long/", 40), at("far")))
	must(t, os.WriteFile(at("odd \n\xff\"name"), nil, 0o600))
	sparse, err := os.Create(at("sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("island"), 3<<20)
	must(t, err)
	must(t, sparse.Truncate(5<<20))
	must(t, sparse.Close())
	must(t, unix.Mkfifo(at("pipe"), 0o640))
	must(t, unix.Setxattr(at("etc/hostname"), "user.comment", []byte("a\x00b"), 0))
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, unix.Mknod(at("big"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
		must(t, os.Lchown(at("usr/bin/link"), 12, 34))
		must(t, os.Chown(at("usr/bin/su"), 70000, 1))
		must(t, unix.Setxattr(at("usr/bin/su"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	}
	must(t, os.Chmod(at("usr/bin/su"), 0o755|os.ModeSetuid))
	must(t, os.Chmod(at("empty"), 0o777|os.ModeSticky))
	ts, err := unix.TimeToTimespec(then)
	must(t, err)
	for _, p := range []string{"etc/hostname", "usr/bin/link", "usr/bin/su", "far", "pipe", "closed", "empty", "etc"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(p), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	must(t, os.Chmod(at("closed"), 0o500))
	return dir
}

func same(t *testing.T, what string, a, b *Tree, o CompareOptions) {
	t.Helper()
	changes, err := Compare(a, b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		t.Errorf("%s: %s", what, c)
	}
}

func TestEverythingSurvivesATarAndADirectory(t *testing.T) {
	dir := realTree(t)
	tr, err := FromDir(dir)
	must(t, err)
	var b bytes.Buffer
	must(t, tr.WriteTar(&b))
	again, err := FromTar(bytes.NewReader(b.Bytes()), int64(b.Len()))
	must(t, err)
	same(t, "through our tar", tr, again, CompareOptions{})
	x, err := tr.Digest()
	must(t, err)
	y, err := again.Digest()
	must(t, err)
	if x != y {
		t.Errorf("digest %s, through a tar %s", x, y)
	}
	out := filepath.Join(t.TempDir(), "out")
	skipped, err := again.WriteDir(out)
	must(t, err)
	if skipped > 0 {
		t.Errorf("%d names were not written in full", skipped)
	}
	written, err := FromDir(out)
	must(t, err)
	same(t, "through a directory", tr, written, CompareOptions{})
	if n := written.Lookup("sparse"); os.Geteuid() == 0 && n.Holes {
		t.Error("a tar keeps no holes, but there are some")
	}
	direct := filepath.Join(t.TempDir(), "direct")
	_, err = tr.WriteDir(direct)
	must(t, err)
	sample.Need(t, "rsync")
	list, err := exec.Command("rsync", "-anHAX", "--delete", "--checksum", "--itemize-changes", dir+"/", direct+"/").CombinedOutput()
	if len(list) > 0 || err != nil {
		t.Errorf("rsync finds differences: %v\n%s", err, list)
	}
}

func TestTarsOfGNUTarAreRead(t *testing.T) {
	sample.Need(t, "tar")
	dir := realTree(t)
	tr, err := FromDir(dir)
	must(t, err)
	for _, how := range [][]string{{"--format=pax", "--xattrs", "--xattrs-include=*"}, {"--format=pax", "-S", "--xattrs", "--xattrs-include=*"}, {"--format=gnu", "-S"}, {"--format=gnu"}} {
		name := filepath.Join(t.TempDir(), "t.tar")
		cmd := exec.Command("tar", slices.Concat([]string{"-C", dir, "--numeric-owner", "-cf", name}, how, []string{"."})...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		f, err := os.Open(name)
		must(t, err)
		defer f.Close()
		st, err := f.Stat()
		must(t, err)
		got, err := FromTar(f, st.Size())
		if err != nil {
			t.Errorf("%v: %v", how, err)
			continue
		}
		want := tr
		o := CompareOptions{}
		if how[0] == "--format=gnu" { // it keeps neither attributes nor parts of a second
			o.Coarse = time.Second
			want = New()
			must(t, want.Lay(tr))
			want.changeIf(func(_ string, n *Node) bool { return n.Xattrs != nil }, func(n *Node) { n.Xattrs = nil })
		}
		same(t, strings.Join(how, " "), want, got, o)
	}
}

func TestADamagedTarIsRefusedWithItsPlace(t *testing.T) {
	var b bytes.Buffer
	must(t, put(t, New(), "a=hello", "d/", "d/b=world").WriteTar(&b))
	whole := b.Bytes()
	for n := 0; n < len(whole)-1024; n += 100 {
		if _, err := FromTar(bytes.NewReader(whole[:n]), int64(n)); err == nil {
			t.Errorf("%d bytes of %d are a tar", n, len(whole))
		}
	}
	for at := 0; at < len(whole); at += 512 {
		if string(whole[at+257:at+262]) != "ustar" {
			continue
		}
		bad := bytes.Clone(whole)
		bad[at+148] ^= 1 // the checksum of this header
		if _, err := FromTar(bytes.NewReader(bad), int64(len(bad))); err == nil || !strings.Contains(err.Error(), "at byte ") {
			t.Errorf("a wrong checksum at byte %d: %v", at, err)
		}
	}
}

func TestComparingFindsEveryDifference(t *testing.T) {
	base := func() *Tree {
		tr := put(t, New(), "f=one", "d/", "d/x=1", "l->f")
		must(t, tr.Put("h", tr.Lookup("f")))
		return tr
	}
	same(t, "two that are equal", base(), base(), CompareOptions{})
	for _, c := range []struct {
		want   string
		change func(*Tree)
	}{
		{"f: content|h: content", func(tr *Tree) {
			n := *tr.Lookup("f")
			n.Content = File([]byte("two"), 0, then).Content
			tr.replace(map[*Node]*Node{tr.Lookup("f"): &n})
		}},
		{"f: mode|h: mode", func(tr *Tree) { must(t, tr.Change("f", func(n *Node) { n.Mode |= fs.ModeSetuid })) }},
		{"d: owner", func(tr *Tree) { must(t, tr.Change("d", func(n *Node) { n.GID = 5 })) }},
		{"d/x: time", func(tr *Tree) { must(t, tr.Change("d/x", func(n *Node) { n.ModTime = then.Add(1) })) }},
		{"l: target", func(tr *Tree) { must(t, tr.Change("l", func(n *Node) { n.Target = "d" })) }},
		{"d/x: attributes", func(tr *Tree) {
			must(t, tr.Change("d/x", func(n *Node) { n.Xattrs = map[string]string{"user.a": "1"} }))
		}},
		{"d: missing", func(tr *Tree) { tr.Remove("d") }},
		{"new: extra", func(tr *Tree) { put(t, tr, "new=1") }},
		{"l: kind", func(tr *Tree) { put(t, tr, "l=f") }},
		{"h: links", func(tr *Tree) { n := *tr.Lookup("h"); must(t, tr.Put("h", &n)) }},
	} {
		b := base()
		c.change(b)
		changes, err := Compare(base(), b, CompareOptions{})
		must(t, err)
		var got []string
		for _, x := range changes {
			got = append(got, x.String())
		}
		if g := strings.Join(got, "|"); g != c.want {
			t.Errorf("got %s, want %s", g, c.want)
		}
	}
}

func TestADeviceTableGivesOwnersAndDevices(t *testing.T) {
	tr := put(t, New(), "bin/", "bin/su=x", "home/", "home/user/", "home/user/f=1", "l->bin")
	table := `# name type mode uid gid major minor start inc count
/bin/su	f	4755	0	50	-	-	-	-	-
/dev	d	755	0	0
/dev/null	c	666	0	0	1	3	0	0	-
/dev/ram	b	640	0	6	1	0	0	1	4
/home/user	r	700	1000	1000
/home	d	-	5	5
/run/fifo	p	600	1	2
/l	l	-	9	9
`
	must(t, tr.ApplyTable(strings.NewReader(table), then))
	for p, want := range map[string]Node{
		"bin/su":      {Mode: 0o755 | fs.ModeSetuid, GID: 50},
		"dev/null":    {Mode: 0o666 | fs.ModeDevice | fs.ModeCharDevice, Major: 1, Minor: 3},
		"dev/ram0":    {Mode: 0o640 | fs.ModeDevice, GID: 6, Major: 1},
		"dev/ram3":    {Mode: 0o640 | fs.ModeDevice, GID: 6, Major: 1, Minor: 3},
		"home":        {Mode: 0o755 | fs.ModeDir, UID: 5, GID: 5},
		"home/user":   {Mode: 0o700 | fs.ModeDir, UID: 1000, GID: 1000},
		"home/user/f": {Mode: 0o700, UID: 1000, GID: 1000},
		"run/fifo":    {Mode: 0o600 | fs.ModeNamedPipe, UID: 1, GID: 2},
		"l":           {Mode: 0o777 | fs.ModeSymlink, UID: 9, GID: 9},
	} {
		n := tr.Lookup(p)
		if n == nil {
			t.Errorf("there is no %s", p)
		} else if n.Mode != want.Mode || n.UID != want.UID || n.GID != want.GID || n.Major != want.Major || n.Minor != want.Minor {
			t.Errorf("%s is %v %d:%d %d,%d; want %v %d:%d %d,%d", p, n.Mode, n.UID, n.GID, n.Major, n.Minor, want.Mode, want.UID, want.GID, want.Major, want.Minor)
		}
	}
	if tr.Lookup("dev/ram4") != nil {
		t.Error("one device too many")
	}
	for _, line := range []string{"/x", "/nofile f 644 0 0", "/bin/su f 99 0 0", "/bin/su f 17777 0 0", "/a z 1 0 0", "/dev/x c 1 0 0 1 1 0 1 999999999", "/../x d 755 0 0", "/bin/su f 4755 -1 0"} {
		if err := tr.ApplyTable(strings.NewReader("\n"+line+"\n"), then); err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestAFileThatChangesWhileItIsReadIsNoticed(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	must(t, os.WriteFile(name, []byte("before"), 0o644))
	tr, err := FromDir(dir)
	must(t, err)
	if _, err := tr.Digest(); err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(name, []byte("after it"), 0o644))
	if _, err := tr.Digest(); err == nil {
		t.Error("nothing was noticed")
	}
}

func TestWritingATreeTouchesNothingElse(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(t.TempDir(), "d")
	tr := put(t, New(), "a->"+outside, "b=1")
	_, err := tr.WriteDir(dir)
	must(t, err)
	if _, err := tr.WriteDir(dir); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a second time: %v", err)
	}
	if es, _ := os.ReadDir(outside); len(es) > 0 {
		t.Errorf("outside there is %v", es)
	}
}

func TestChangesReachAllNamesOfAFileAndNoOtherTree(t *testing.T) {
	a := put(t, New(), "x=1")
	must(t, a.Put("y", a.Lookup("x")))
	b := New()
	must(t, b.Lay(a))
	p, err := ParsePattern("x")
	must(t, err)
	if n := b.ChangeAll(p, func(n *Node) { n.UID = 4 }); n != 1 {
		t.Errorf("%d were changed", n)
	}
	if b.Lookup("x").UID != 4 || b.Lookup("x") != b.Lookup("y") || a.Lookup("x").UID != 0 {
		t.Error("the change went too far or not far enough")
	}
}

func FuzzFromTar(f *testing.F) {
	var b bytes.Buffer
	tr := New()
	_ = tr.Put("d/f", File([]byte("content"), 0o644, then))
	_ = tr.Put("l", &Node{Mode: fs.ModeSymlink, Target: "../x"})
	_ = tr.WriteTar(&b)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		tr, err := FromTar(bytes.NewReader(in), int64(len(in)))
		if err != nil {
			return
		}
		_ = tr.Walk(func(p string, n *Node) error {
			if p != "." && strings.Contains("/"+p+"/", "/../") {
				t.Errorf("the path %q", p)
			}
			if n.Mode.IsRegular() && n.Size < 1<<20 {
				_, _ = tr.ReadFile(p, 1<<20)
			}
			return nil
		})
	})
}

func FuzzDeviceTable(f *testing.F) {
	f.Add("/dev/null c 666 0 0 1 3 0 0 -\n")
	f.Fuzz(func(t *testing.T, in string) {
		tr := put(t, New(), "a/", "a/b=1")
		_ = tr.ApplyTable(strings.NewReader(in), then)
		_ = maps.Clone(tr.root.children)
	})
}
