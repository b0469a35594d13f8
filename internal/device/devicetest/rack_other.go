//go:build !linux

package devicetest

func newFileCard(string, int64) (rackCard, error) { return nil, ErrUnsupported }
