package devicetest

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	cardName    = "card"  // of the only file
	cardNode    = 2       // its number; that of the root is 1
	maxTransfer = 1 << 20 // of one operation, in bytes
)

// cardFS is a file system with one file in it, a medium. Nothing is cached: every
// read, write and fsync of the file comes to the medium.
type cardFS struct {
	fuse.RawFileSystem // says "not implemented" to all the rest
	medium             *Medium
	attached           atomic.Bool
	owner              fuse.Owner
}

func newCardFS(m *Medium) *cardFS {
	return &cardFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), medium: m,
		owner: fuse.Owner{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())},
	}
}

func (f *cardFS) String() string { return "fakecard" }

func (f *cardFS) attr(node uint64) fuse.Attr {
	if node == fuse.FUSE_ROOT_ID {
		return fuse.Attr{Ino: node, Mode: syscall.S_IFDIR | 0o700, Nlink: 2, Owner: f.owner}
	}
	return fuse.Attr{Ino: node, Mode: syscall.S_IFREG | 0o600, Nlink: 1, Size: uint64(f.medium.Size()), Owner: f.owner}
}

func (f *cardFS) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name != cardName {
		return fuse.ENOENT
	}
	out.NodeId, out.Attr = cardNode, f.attr(cardNode)
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	return fuse.OK
}

func (f *cardFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr = f.attr(in.NodeId)
	out.SetTimeout(time.Hour)
	return fuse.OK
}

func (f *cardFS) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	return fuse.OK
}

func (f *cardFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := f.medium.ReadAt(buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil && err != io.EOF {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (f *cardFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, err := f.medium.WriteAt(data, int64(in.Offset))
	return uint32(n), status(err)
}

// Fsync does not trouble the medium with the one that making a loop device comes
// with: the first flush the medium sees is the first that somebody asks for.
func (f *cardFS) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	if !f.attached.Load() {
		return fuse.OK
	}
	return status(f.medium.Sync())
}

// Flush is a file being closed, which says nothing about the medium.
func (f *cardFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func status(err error) fuse.Status {
	var errno syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &errno):
		return fuse.Status(errno)
	}
	return fuse.EIO
}
