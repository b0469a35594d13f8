package volumetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"multidd/internal/block"
)

// sizeOf is about the least that a kind can be made in.
func sizeOf(kind string) int64 {
	switch kind {
	case "fat12":
		return 8 * mib
	case "f2fs":
		return 64 * mib
	case "btrfs":
		return 120 * mib
	case "fat32":
		return 48 * mib
	}
	return 16 * mib
}

func TestEveryKindIsMadeCleanAndReadBack(t *testing.T) {
	t.Parallel()
	for _, kind := range Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			im := Make(t, Spec{Parts: []Part{{Kind: kind, Size: sizeOf(kind)}}, Seed: 1})
			made := time.Since(began)
			if wrong := im.Fsck(t); len(wrong) > 0 {
				t.Errorf("%s", wrong)
			}
			files := im.Files(t)[0]
			t.Logf("%d files, made in %v", len(files), made)
			if kind != "swap" && kind != "noise" && len(files) < 20 {
				t.Errorf("%d files", len(files))
			}
			if diff := Diff(t, im, im.Copy(t)); len(diff) > 0 {
				t.Errorf("a copy differs: %s", diff[0])
			}
		})
	}
}

// What proves maps has to notice when a map is wrong.
func TestNoiseInUsedBytesIsNoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"ext4", "fat16", "exfat", "f2fs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			im := Make(t, Spec{Table: "gpt", Parts: []Part{{Kind: kind, Size: sizeOf(kind)}}, Seed: 2})
			table := block.Extent{Len: im.Parts[0].Off}
			im.Scramble(t, block.Map{Size: im.Size, Used: []block.Extent{table}}, 3)
			if len(im.Fsck(t)) == 0 {
				t.Error("fsck finds nothing wrong with noise")
			}
		})
	}
	t.Run("content", func(t *testing.T) {
		im := Make(t, Spec{Parts: []Part{{Kind: "fat16", Size: 16 * mib}, {Kind: "noise", Size: mib}}, Seed: 2})
		bad := im.Copy(t)
		bad.Scramble(t, block.Map{Size: im.Size, Used: []block.Extent{{Len: mib}, {Off: 9 * mib, Len: 7 * mib}}}, 3)
		diff := Diff(t, im, bad)
		if len(diff) < 2 || !strings.HasPrefix(diff[len(diff)-1], "part 2") {
			t.Errorf("%d files differ", len(diff))
		}
	})
}

func TestTablesAreAsAsked(t *testing.T) {
	parts := []Part{
		{Kind: "fat16", Size: 16 * mib, Empty: true},
		{Kind: "swap", Size: 2 * mib, Logical: true},
		{Kind: "noise", Size: 2 * mib, Logical: true},
	}
	im := Make(t, Spec{Table: "mbr", Parts: parts, Slack: 5 * mib})
	var held []string
	for _, p := range im.Parts {
		// Its exit status is 2 where it finds nothing.
		out, _ := command(t, "blkid", "-p", "-o", "value", "-s", "TYPE", "-O", fmt.Sprint(p.Off), "-S", fmt.Sprint(p.Len), im.Path).Output()
		held = append(held, strings.TrimSpace(string(out)))
	}
	got := run(t, "sfdisk", "-d", im.Path)
	for _, s := range []string{"label: dos", "type=5", "img5 ", "img6 ", "type=82"} {
		if !strings.Contains(got, s) {
			t.Errorf("the table has no %q:\n%s", s, got)
		}
	}
	if !slices.Equal(held, []string{"vfat", "swap", ""}) {
		t.Errorf("the parts hold %q", held)
	}
}
