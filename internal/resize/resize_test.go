package resize

import (
	"maps"
	"os"
	"slices"
	"testing"

	"multidd/internal/volume/volumetest"
)

func TestMain(m *testing.M) {
	// Disks are many and made for a moment: memory is the place for them.
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() && os.Getenv("TMPDIR") == "" {
		_ = os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

// For all that mke2fs makes, in all kinds of tables: made larger and smaller, it is
// clean to e2fsck, its table to sfdisk and sgdisk, and to the kernel every file is
// what it was.
func TestEveryFileSystemIsResizedWithAllItsFiles(t *testing.T) {
	tables := []string{"gpt", "mbr", "logical", ""}
	for i, name := range slices.Sorted(maps.Keys(kinds())) {
		table := tables[i%len(tables)]
		t.Run(name+" in "+table, func(t *testing.T) {
			spec := aSpec(table, kinds()[name], uint64(i))
			im := volumetest.Make(t, spec)
			t.Run("its files are where debugfs says", func(t *testing.T) { checkFiles(t, im) })
			t.Run("larger", func(t *testing.T) { checkGrown(t, im, spec.Table) })
			t.Run("smaller", func(t *testing.T) { checkShrunk(t, im, spec.Table) })
		})
	}
}
