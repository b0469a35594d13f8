//go:build !linux

package devicetest

// A Card is a medium attached to this computer as a block device.
type Card struct {
	Path string // of the device
}

// Serve is for Linux only.
func Serve(*Medium, string) (*Card, error) { return nil, ErrUnsupported }

// Close does nothing.
func (*Card) Close() error { return nil }

// ServeFile is for Linux only.
func ServeFile(*Medium, string) (string, func() error, error) { return "", nil, ErrUnsupported }
