package edit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"

	"multidd/internal/identity"
	"multidd/internal/tree"
)

// edits is how many random edits are made in all; the variable asks for more by hand.
func edits(t *testing.T) int {
	if s := os.Getenv("MULTIDD_EDITS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		return n
	}
	return len(features) + len(tight)
}

// tight are file systems with next to no room.
var tight = []struct {
	name string
	args []string
}{
	{"ext4, nearly full", []string{"-t", "ext4"}},
	{"ext4, 1 KiB, nearly full", []string{"-t", "ext4", "-b", "1024"}},
	{"ext2, nearly full", []string{"-t", "ext2", "-b", "1024", "-m", "0"}},
}

// A random sequence of edits goes to one disk, each on top of those before it. After each, every
// fsck finds nothing, the files are as they were asked for, and no other file has changed.
func TestRandomEditsDamageNothing(t *testing.T) {
	const seed = 20261122
	kinds := append(features[:len(features):len(features)], tight...)
	each := (edits(t) + len(kinds) - 1) / len(kinds)
	for i, c := range kinds {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			t.Logf("seed %d, %d; %d edits", seed, i, each)
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			tr := aSystem(uint64(i))
			if i >= len(features) {
				for n := range 300 {
					must(t, tr.Put(fmt.Sprintf("var/%d", n), tree.File(make([]byte, 44_000), 0o644, then)))
				}
			}
			d := newDisk(t, 24, tr, c.args...)
			refused := 0
			for k := range each {
				if !randomEdit(t, d, rng, k) {
					refused++
				}
				if t.Failed() {
					t.Fatalf("edit %d", k)
				}
			}
			if i < len(features) && refused > each/2 {
				t.Errorf("%d of %d edits were refused", refused, each)
			}
		})
	}
}

// randomEdit makes one, and carries it out on the disk. It returns false if it was refused.
func randomEdit(t *testing.T, d *aDisk, rng *rand.Rand, k int) bool {
	before, boot := d.extTree(d), d.fatTree(d)
	set, want, wantBoot := randomSet(rng, before, boot, k)
	e := New(d, d.look(), Options{Now: now, Thorough: true, Workers: 1})
	defer e.Close()
	patches, err := e.MakeAll(context.Background(), parse(t, set), []identity.Row{{Name: "card", Index: 1}})
	if _, no := errors.AsType[*Refusal](err); no {
		t.Logf("edit %d: %v", k, err)
		return false
	}
	must(t, err)
	card := d.card(patches[0])
	d.clean(card)
	after, bootAfter := d.extTree(card), d.fatTree(card)
	for _, x := range []struct {
		got  *tree.Tree
		want map[string]string
	}{{after, want}, {bootAfter, wantBoot}} {
		for p, text := range x.want {
			if got := read(t, x.got, p); got != text {
				t.Errorf("/%s has %d bytes, %.40q, and not %d, %.40q", p, len(got), got, len(text), text)
			}
		}
	}
	b, err := os.ReadFile(card.Name())
	must(t, err)
	var touched, touchedBoot []string
	for p := range want {
		// Other names of a file that was replaced have one less beside them.
		touched = append(touched, p)
		old := before.Lookup(p)
		must(t, before.Walk(func(other string, n *tree.Node) error {
			if n == old {
				touched = append(touched, other)
				if other != p && want[other] == "" && read(t, after, other) != read(t, before, other) {
					t.Errorf("/%s has changed with /%s", other, p)
				}
			}
			return nil
		}))
	}
	for p := range wantBoot {
		touchedBoot = append(touchedBoot, p)
	}
	sameBut(t, before, after, touched...)
	sameBut(t, boot, bootAfter, touchedBoot...)
	_, err = d.WriteAt(b, 0)
	must(t, err)
	must(t, os.Remove(card.Name()))
	return true
}

// randomSet returns templates, and what files hold then.
func randomSet(rng *rand.Rand, root, boot *tree.Tree, k int) (set string, want, wantBoot map[string]string) {
	var b strings.Builder
	want, wantBoot = map[string]string{}, map[string]string{}
	for n := range 1 + rng.IntN(6) {
		tr, to, part := root, want, 2
		if rng.IntN(4) == 0 {
			tr, to, part = boot, wantBoot, 1
		}
		var files, dirs []string
		_ = tr.Walk(func(p string, n *tree.Node) error {
			switch {
			case n.Mode.IsRegular() && n.Size < maxFile:
				files = append(files, p)
			case n.Mode.IsDir():
				dirs = append(dirs, p)
			}
			return nil
		})
		p := ""
		if rng.IntN(3) == 0 {
			p = path.Join(dirs[rng.IntN(len(dirs))], fmt.Sprintf("new %d-%d %s", k, n, strings.Repeat("n", rng.IntN(100))))
		} else {
			p = files[rng.IntN(len(files))]
		}
		if part == 1 && rng.IntN(2) == 0 {
			p = strings.TrimSpace(p)
		}
		p = strings.TrimRight(p, " ") // FAT has no names with one at their end
		size := []int{0, 1, 59, 60, 160, 1023, 4096, 4097, rng.IntN(20_000), rng.IntN(200_000)}[rng.IntN(10)]
		text := make([]byte, size)
		for i := range text {
			text[i] = "abcdefghijklmnop \n"[rng.IntN(18)]
		}
		if rng.IntN(5) == 0 { // blocks of zeros are holes
			text = []byte("x" + strings.Repeat("\x00", size))
			fmt.Fprintf(&b, "[[file]]\npartition = %d\npath = %q\ncontent = \"x%s\"\n", part, p, strings.Repeat(`\u0000`, size))
		} else {
			fmt.Fprintf(&b, "[[file]]\npartition = %d\npath = %q\ncontent = %q\n", part, p, text)
		}
		to[p] = string(text)
	}
	return b.String(), want, wantBoot
}
