package sample

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheImageIsACard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "card.img")
	if err := Make(Image{Path: path, Size: 64 << 20, Fill: 20 << 20, Name: "v2"}); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/usr/sbin/sfdisk", "-d", path).CombinedOutput()
	if err != nil || strings.Count(string(out), "type=83") != 2 {
		t.Errorf("sfdisk: %v\n%s", err, out)
	}
	part := filepath.Join(t.TempDir(), "root")
	if err := exec.Command("dd", "if="+path, "of="+part, "bs=4M", "skip=1", "count=11", "status=none").Run(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/e2fsck", "-fn", part).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if out, _ := exec.Command("/usr/sbin/debugfs", "-R", "cat /etc/image-revision", part).Output(); string(out) != "v2\n" {
		t.Errorf("revision %q", out)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != 64<<20 {
		t.Errorf("%v, %v", fi, err)
	}
}
