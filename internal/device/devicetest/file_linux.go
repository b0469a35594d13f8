package devicetest

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// ServeFile makes m a plain file, in a file system mounted at dir, an empty
// directory, until remove is called. It needs no root but the program fusermount3
// (package fuse3); without either the error is ErrUnsupported.
func ServeFile(m *Medium, dir string) (path string, remove func() error, err error) {
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			return "", nil, fmt.Errorf("%w; a file needs only fusermount3", ErrUnsupported)
		}
	}
	m.plug()
	fs := newCardFS(m)
	fs.attached.Store(true)
	server, err := fuse.NewServer(fs, dir, &fuse.MountOptions{
		DirectMount:   os.Geteuid() == 0,
		MaxWrite:      maxTransfer,
		MaxBackground: 64,
		DisableXAttrs: true,
		DisableSplice: true,
		FsName:        "fakecard",
		Logger:        log.New(io.Discard, "", 0),
	})
	if err != nil {
		return "", nil, fmt.Errorf("mount a fake card at %s: %w", dir, errors.Join(ErrUnsupported, err))
	}
	served := make(chan struct{})
	go func() {
		server.Serve()
		close(served)
	}()
	if err := server.WaitMount(); err != nil {
		return "", nil, fmt.Errorf("mount a fake card at %s: %w", dir, err)
	}
	return filepath.Join(dir, cardName), func() error {
		if err := server.Unmount(); err != nil {
			return fmt.Errorf("unmount the fake card at %s: %w", dir, err)
		}
		<-served
		return nil
	}, nil
}
