package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FromDir reads the tree below a directory of this computer: `rsync -aHX` would
// keep no more. Content is read when it is asked for: a file that has another size
// by then is an error. What is mounted inside belongs to it.
func FromDir(dir string) (*Tree, error) {
	r := &dirReader{links: map[inode]*Node{}}
	st, err := os.Stat(dir) // it may be a link itself
	if err != nil {
		return nil, fmt.Errorf("read the tree %s: %w", dir, err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("read the tree %s: it is not a directory", dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("read the tree %s: %w", dir, err)
	}
	root, err := r.node(abs + "/.")
	if err != nil {
		return nil, fmt.Errorf("read the tree: %w", err)
	}
	return &Tree{root: root}, nil
}

type inode struct{ dev, ino uint64 }

type dirReader struct {
	links map[inode]*Node // files with several names
}

// node reads the file of that path, and all that is below it.
func (r *dirReader) node(path string) (*Node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "look at", Path: path, Err: err}
	}
	id := inode{st.Dev, st.Ino}
	if n := r.links[id]; n != nil {
		return n, nil
	}
	n := &Node{
		Mode: fileMode(st.Mode), UID: int(st.Uid), GID: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()),
	}
	if st.Nlink > 1 && !n.Mode.IsDir() {
		r.links[id] = n
	}
	var err error
	switch n.Mode.Type() {
	case 0:
		n.Size = st.Size
		n.Holes = st.Blocks*512 < st.Size
		n.Content = func() (io.ReadCloser, error) { return openSame(path, st) }
	case fs.ModeDir:
		if err = r.children(path, n); err != nil {
			return nil, err
		}
	case fs.ModeSymlink:
		if n.Target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	if n.Xattrs, err = xattrs(path); err != nil {
		return nil, &fs.PathError{Op: "read the attributes of", Path: path, Err: err}
	}
	return n, nil
}

func (r *dirReader) children(path string, n *Node) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	n.children = make(map[string]*Node, len(entries))
	for _, e := range entries {
		child, err := r.node(filepath.Join(path, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since the directory was read
		}
		if err != nil {
			return err
		}
		n.children[e.Name()] = child
	}
	return nil
}

// openSame opens a file and makes sure that it is the one that was looked at.
func openSame(path string, was unix.Stat_t) (io.ReadCloser, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Dev != was.Dev || st.Ino != was.Ino || st.Size != was.Size || st.Mtim != was.Mtim) {
		err = errors.New("it was changed while the tree was being read")
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return f, nil
}

// xattrs reads the extended attributes of a file, not of what it links to.
func xattrs(path string) (map[string]string, error) {
	n, err := unix.Llistxattr(path, nil)
	if n == 0 || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) && isSpecial(path) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]byte, n)
	if n, err = unix.Llistxattr(path, names); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10) // the most there can be, xattr(7)
		k, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			continue // gone, or not for this user to see
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = string(value[:k])
	}
	return all, nil
}

func isSpecial(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && !st.Mode().IsRegular() && !st.IsDir()
}

// fileMode translates a mode of the kernel, inode(7).
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFREG:
	default:
		mode |= fs.ModeIrregular
	}
	for bit, to := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= to
		}
	}
	return mode
}

// UnixMode returns the node's mode as the kernel and file systems have it,
// inode(7): kind and permissions.
func (n *Node) UnixMode() uint32 {
	m := uint32(n.Mode.Perm())
	switch t := n.Mode.Type(); {
	case t == 0:
		m |= unix.S_IFREG
	case t == fs.ModeDir:
		m |= unix.S_IFDIR
	case t == fs.ModeSymlink:
		m |= unix.S_IFLNK
	case t&fs.ModeCharDevice != 0:
		m |= unix.S_IFCHR
	case t&fs.ModeDevice != 0:
		m |= unix.S_IFBLK
	case t == fs.ModeNamedPipe:
		m |= unix.S_IFIFO
	case t == fs.ModeSocket:
		m |= unix.S_IFSOCK
	}
	if n.Mode&fs.ModeSetuid != 0 {
		m |= unix.S_ISUID
	}
	if n.Mode&fs.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	if n.Mode&fs.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	return m
}

// ModeOf is the reverse of Node.UnixMode.
func ModeOf(unixMode uint32) fs.FileMode { return fileMode(unixMode) }
