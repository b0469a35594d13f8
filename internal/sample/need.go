package sample

import (
	"os"
	"os/exec"
	"testing"
)

// Need skips a test if one of the programs that it runs is not installed. In CI
// it fails then; see Lack.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Lack(t, err)
		}
	}
}

// Lack ends a test that cannot be made here because something is missing: it is
// skipped. Where the environment variable CI is set it fails, since .ci/run
// installs what the tests need, and a promise that is skipped there is kept by
// nobody.
func Lack(t testing.TB, what ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what...)
	}
	t.Skip(what...)
}
