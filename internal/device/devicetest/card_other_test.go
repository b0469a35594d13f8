//go:build !linux

package devicetest

import "testing"

func openDevice(t *testing.T, path string) Target {
	t.Fatalf("open %s: %v", path, ErrUnsupported)
	return nil
}
