package build

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"multidd/internal/sample"
	"multidd/internal/tree"
)

// Every recipe in the documentation is built, of trees that stand for those it names.
func TestTheRecipesOfTheDocsAreBuilt(t *testing.T) {
	sample.Need(t, "mke2fs", "mkfs.vfat", "sfdisk", "mkfs.jffs2", "sumtool")
	dir := rootTar(t)
	tr := tree.New()
	must(t, tr.Put("home/user", &tree.Node{Mode: os.ModeDir | 0o755, ModTime: then}))
	must(t, tr.Put("etc/hosts", tree.File([]byte("127.0.0.1 localhost\n"), 0o644, then)))
	for _, name := range []string{"maemo-root", "harness", "firmware", "handout"} {
		if _, err := tr.WriteDir(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.ReadFile(filepath.Join(dir, "root.tar"))
	must(t, err)
	for _, name := range []string{"root.tar.xz", "maemo-root.tar.gz"} { // what is in them says how they are packed
		must(t, os.WriteFile(filepath.Join(dir, name), root, 0o644))
	}
	for _, name := range []string{"MLO", "u-boot-dtb.img"} {
		must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 100_000), 0o644))
	}
	built := 0
	for _, page := range []string{"build.md", "firmware.md"} {
		text, err := os.ReadFile(filepath.Join("../../docs", page))
		must(t, err)
		for _, m := range regexp.MustCompile("(?s)```toml\n# (\\S+)\n(.*?)```").FindAllSubmatch(text, -1) {
			name := filepath.Join(dir, string(m[1]))
			must(t, os.WriteFile(name, m[2], 0o644))
			r, err := ReadRecipe(name)
			must(t, err)
			r.Size /= 4 // for the sake of time
			for i := range r.Partitions {
				if p := &r.Partitions[i]; p.Size > 0 {
					p.Size /= 4
				}
			}
			if _, err := Build(context.Background(), r, filepath.Join(t.TempDir(), "x.img.zst"), Options{Now: then}); err != nil {
				t.Errorf("%s: %v", m[1], err)
			}
			built++
		}
	}
	if built != 5 {
		t.Errorf("%d recipes were built", built)
	}
}
