package edit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multidd/internal/identity"
)

// debugfs is the weak place: it says nothing, or does nothing, and ends with 0. Whichever of the
// checks it gets past, another one must hold it.
func TestADebugfsThatLiesIsCaught(t *testing.T) {
	d := newDisk(t, 24, aSystem(11), "-t", "ext4")
	real, err := look("debugfs")
	must(t, err)
	for name, c := range map[string]struct{ script, want string }{
		"honest":           {`exec %s "$@"`, ""},
		"complains":        {`%s "$@"; echo "rm: something is wrong" >&2`, "something is wrong"},
		"does nothing":     {`true %s; cat >/dev/null`, "not what is read back"},
		"leaves out":       {`grep -v '^write' | %s "$@"  2>/dev/null`, "not what is read back"},
		"forgets the mode": {`grep -v ' mode ' | %s "$@" 2>/dev/null`, "mode or owner differs"},
		"damages":          {`%s "$@" 2>/dev/null; %[1]s -w -R 'clri /etc/hosts' /proc/self/fd/3 >/dev/null 2>&1`, "not clean"},
		"writes elsewhere": {`sed 's/hostname/hosts/' | %s "$@" 2>/dev/null`, "not what is read back"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Chmod(dir, 0o755))
			must(t, os.Chmod(filepath.Dir(dir), 0o755))
			must(t, os.Chmod(os.TempDir(), 0o1777))
			text := "#!/bin/sh\n" + fmt.Sprintf(c.script, real) + "\n"
			must(t, os.WriteFile(filepath.Join(dir, "debugfs"), []byte(text), 0o755))
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			e := New(d, d.look(), Options{Now: now})
			defer e.Close()
			_, err := e.MakeAll(context.Background(), identity.Default(), rows(1))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	must(t, Available())
	if _, err := look("no-such-program"); err == nil || !strings.Contains(err.Error(), "e2fsprogs") {
		t.Error(err)
	}
}
