package devicetest

import (
	"context"
	"errors"
	"testing"

	"multidd/internal/sample"
)

// ErrUnsupported says that this system, or this user, cannot make a medium a
// block device.
var ErrUnsupported = errors.New("a fake card needs Linux, root, /dev/fuse and /dev/loop-control")

// Attach makes m a block device, plugging it in if need be, and returns its path,
// such as /dev/loop7. It skips the test where that is not possible. When the test
// ends, first all that waits in m goes on, then the test's own clean-up is done,
// and then the device is taken down. Only code deferred in the test itself runs
// earlier: it must not wait for an operation that hangs.
func Attach(t testing.TB, m *Medium) (path string) {
	t.Helper()
	return AttachAt(t, m, "")
}

// AttachAt is as Attach, at a given loop device, which must be free: that of a
// card that was pulled, to put another one in its place. An empty path is any.
func AttachAt(t testing.TB, m *Medium, path string) string {
	t.Helper()
	card, err := Serve(m, path)
	if errors.Is(err, ErrUnsupported) {
		sample.Lack(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := card.Close(); err != nil {
			t.Error(err)
		}
	})
	context.AfterFunc(t.Context(), m.LetGo)
	return card.Path
}
