package resize

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"multidd/internal/block"
	"multidd/internal/volume/volumetest"
)

// kinds are the ext file systems that there are: by the features that decide where
// things lie.
func kinds() map[string]volumetest.Part {
	part := func(kind string, args ...string) volumetest.Part {
		return volumetest.Part{Kind: kind, Size: 40 * mib, Args: append(args, "-N", "900")}
	}
	return map[string]volumetest.Part{
		"ext2 1k":          part("ext2", "-b", "1024"),
		"ext2 4k":          part("ext2", "-b", "4096"),
		"ext2 of 2009":     part("ext2", "-b", "1024", "-I", "128", "-O", "none,filetype,sparse_super,resize_inode"),
		"ext3 1k":          part("ext3", "-b", "1024"),
		"ext3 4k":          part("ext3", "-b", "4096", "-J", "size=4"),
		"ext4 1k":          part("ext4", "-b", "1024"),
		"ext4 4k":          part("ext4", "-b", "4096"),
		"ext4 uninit_bg":   part("ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"),
		"ext4 no flex_bg":  part("ext4", "-b", "1024", "-O", "^flex_bg"),
		"ext4 meta_bg":     part("ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"),
		"ext4 bigalloc":    part("ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"),
		"ext4 32bit":       part("ext4", "-b", "1024", "-O", "^64bit"),
		"ext4 inline_data": part("ext4", "-b", "1024", "-O", "inline_data"),
		"ext4 sparse2":     part("ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"),
		"ext4 no resize":   part("ext4", "-b", "1024", "-O", "^resize_inode"),
		"ext2 no resize":   part("ext2", "-b", "1024", "-O", "^resize_inode"),
		"ext4 ea_inode":    part("ext4", "-b", "1024", "-O", "ea_inode"),
	}
}

// debugfs says which blocks a file has.
var dumped = regexp.MustCompile(`(?m)\((?:IND|DIND|TIND|ETB\d+|(\d+)(?:-(\d+))?(?:\[u\])?)\):(\d+)(?:-(\d+))?`)

// checkFiles asks debugfs which blocks are the content of plain files.
func checkFiles(t *testing.T, im volumetest.Image) {
	p := im.Parts[len(im.Parts)-1]
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, err := openExt(io.NewSectionReader(f, p.Off, p.Len), p.Len)
	if err != nil {
		t.Fatal(err)
	}
	got, err := x.files()
	if err != nil {
		t.Fatal(err)
	}
	if want := contentByDebugfs(t, fmt.Sprintf("%s?offset=%d", im.Path, p.Off), x.block); !slices.Equal(got.extents, want) {
		t.Errorf("got %v, debugfs says %v", got.extents, want)
	}
}

// contentByDebugfs asks debugfs about every inode.
func contentByDebugfs(t *testing.T, path string, size int64) []block.Extent {
	t.Helper()
	ask := func(requests string) string {
		cmd := exec.Command("debugfs", "-f", "-", path)
		cmd.Stdin = strings.NewReader(requests)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	var requests strings.Builder
	last, err := strconv.Atoi(regexp.MustCompile(`Inode count:\s+(\d+)`).FindStringSubmatch(ask("stats\n"))[1])
	if err != nil {
		t.Fatal(err)
	}
	for i := 11; i <= last; i++ {
		fmt.Fprintf(&requests, "testi <%d>\nstat <%d>\n", i, i)
	}
	var all []block.Extent
	for _, answer := range strings.Split(ask(requests.String()), "debugfs: testi ")[1:] {
		if !strings.Contains(answer, "marked in use") || !strings.Contains(answer, "Type: regular") || strings.Contains(answer, "EA_INODE") {
			continue
		}
		for _, m := range dumped.FindAllStringSubmatch(answer, -1) {
			if m[1] == "" {
				continue
			}
			first, err := strconv.ParseInt(m[3], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			end := first
			if m[4] != "" {
				if end, err = strconv.ParseInt(m[4], 10, 64); err != nil {
					t.Fatal(err)
				}
			}
			all = append(all, block.Extent{Off: first * size, Len: (end - first + 1) * size})
		}
	}
	return normal(all)
}

// What makes a reader run wild must end, as odd.
func FuzzFiles(f *testing.F) {
	disks := map[byte][]byte{}
	f.Add(byte(0), uint32(1024+0x60), byte(0x10))
	f.Add(byte(1), uint32(2048), byte(0xff))
	f.Add(byte(2), uint32(1024+0x20), byte(1))
	f.Fuzz(func(t *testing.T, which byte, at uint32, with byte) {
		names := []string{"ext2 1k", "ext4 1k", "ext4 meta_bg"}
		which %= byte(len(names))
		if disks[which] == nil {
			part := kinds()[names[which]]
			part.Size = 4 * mib
			im := volumetest.Make(t, volumetest.Spec{Parts: []volumetest.Part{part}})
			b, err := os.ReadFile(im.Path)
			if err != nil {
				t.Fatal(err)
			}
			disks[which] = b
		}
		disk := disks[which]
		i := int(at) % len(disk)
		disk[i] ^= with
		defer func() { disk[i] ^= with }()
		s, err := newScratch("", part{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.WriteAt(disk, 0); err != nil {
			t.Fatal(err)
		}
		x, err := openExt(s, int64(len(disk)))
		if err != nil {
			return
		}
		if data, err := x.files(); err == nil {
			m := block.Map{Size: 1 << 62, Used: data.extents}
			if err := m.Check(); err != nil {
				t.Error(err)
			}
		}
		_, _ = x.unwritten()
	})
}

func TestExtentsAreTakenAway(t *testing.T) {
	e := func(n ...int64) (all []block.Extent) {
		for i := 0; i < len(n); i += 2 {
			all = append(all, block.Extent{Off: n[i], Len: n[i+1] - n[i]})
		}
		return all
	}
	for _, c := range []struct{ a, b, want []block.Extent }{
		{e(0, 10), nil, e(0, 10)},
		{e(0, 10), e(0, 10), nil},
		{e(0, 10), e(2, 4, 6, 8), e(0, 2, 4, 6, 8, 10)},
		{e(0, 10, 20, 30), e(5, 25), e(0, 5, 25, 30)},
		{e(0, 10, 20, 30), e(5, 6, 22, 23, 28, 40), e(0, 5, 6, 10, 20, 22, 23, 28)},
		{e(5, 6), e(0, 1, 2, 3, 5, 6), nil},
	} {
		if got := without(c.a, c.b); !slices.Equal(got, c.want) {
			t.Errorf("%v without %v: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestNothingIsCopiedAfterTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := fmt.Errorf("enough")
	cancel(why)
	s, err := newScratch("", part{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.fill(ctx, s, 0, []block.Extent{{Off: 0, Len: 10}}, 10); err != why {
		t.Errorf("got %v", err)
	}
}
