package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Store keeps what packed images unpack to, so that a lane that falls behind,
// and the next run, need not unpack again. It is a directory:
//
//	multidd-lock           whoever changes the store holds a lock on it
//	<digest>/              an entry; the SHA-256 of the packed file
//	    image              what it unpacks to; blocks of zeros are holes
//	    sums               CRC-32 of each 64 KiB of that, four bytes each
//	    entry.json         see type entry; the time it was changed last is that
//	                       of its last use
//	multidd-tmp-…/         an entry that is being made
//
// An entry comes into being whole, by renaming, after all of it is on the disk.
// Whoever uses one, or is making it, holds a lock on its image, which ends with
// the process: an entry in use is never removed, and what a process that died
// has left behind is told from what is being made.
//
// Trouble with the store is never an error of the run. At worst the image is
// unpacked again, and no lane can leave the others behind.
type Store struct {
	dir   string
	limit int64

	patience time.Duration // how long the disk may keep the cards waiting, at first
	wrap     func(file) file
}

// An entry says what a copy is a copy of.
type entry struct {
	Schema     int    `json:"schema"`
	Name       string `json:"name"` // of the image when the copy was made, for people
	Format     string `json:"format"`
	Packed     string `json:"packed_sha256"`
	PackedSize int64  `json:"packed_size"`
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"`
}

const (
	entrySchema = 1
	maxEntry    = 64 << 10  // bytes of entry.json
	maxSumsFile = 256 << 20 // bytes of sums, for 4 TiB

	lockName  = "multidd-lock"
	tmpPrefix = "multidd-tmp-"
	imageName = "image"
	sumsName  = "sums"
	entryName = "entry.json"

	// maxStore bounds the default limit, in bytes.
	maxStore = 32 << 30
	// roomStep is how many bytes a copy asks for at a time.
	roomStep = 64 << 20
	// lockTimeout is how long a process that changes the store is waited for.
	lockTimeout = 5 * time.Second
)

// DefaultStoreDir returns where the store of this user is: in the user's cache
// directory.
func DefaultStoreDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the store: %w", err)
	}
	return filepath.Join(dir, "multidd", "store"), nil
}

// NewStore returns the store in dir, which is made when it is first needed. All
// copies together take at most limit bytes of disk; 0: a third of what is free
// there, counting the store itself as free, and at most 32 GiB. To make room,
// the copies that have not been used for longest are removed.
func NewStore(dir string, limit int64) *Store {
	return &Store{dir: dir, limit: limit, patience: 2 * time.Second, wrap: func(f file) file { return f }}
}

// trusted refuses a directory in which somebody else could put a copy for us to
// write to cards.
func (st *Store) trusted() error {
	fi, err := os.Stat(st.dir)
	if err != nil {
		return err
	}
	owner, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir():
		return fmt.Errorf("%s is not a directory", st.dir)
	case ok && int(owner.Uid) != os.Geteuid():
		return fmt.Errorf("the store %s belongs to another user; name one of your own", st.dir)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others can write to the store %s; take that right away (chmod go-w) or name another", st.dir)
	}
	return nil
}

// find looks for a copy of what a packed file unpacks to. The file is read, for
// its digest, only if there is a copy of one as long as it. The error is that
// of reading the file.
func (st *Store) find(ctx context.Context, in *input) (c *stored, digest string, err error) {
	if st.trusted() != nil {
		return nil, "", nil
	}
	names, _ := os.ReadDir(st.dir)
	for _, n := range names {
		e, err := readEntry(filepath.Join(st.dir, n.Name()))
		if err != nil || e.PackedSize != in.size {
			continue
		}
		if digest, err = in.digest(ctx); err != nil {
			return nil, "", err
		}
		break
	}
	if digest == "" {
		return nil, "", nil
	}
	c, err = st.open(digest)
	if err != nil {
		return nil, digest, nil
	}
	return c, digest, nil
}

// readEntry reads what an entry says of itself.
func readEntry(dir string) (*entry, error) {
	if !isSHA256(filepath.Base(dir)) {
		return nil, fs.ErrNotExist
	}
	b, err := readSmall(filepath.Join(dir, entryName), maxEntry)
	if err != nil {
		return nil, err
	}
	e := &entry{}
	if err := json.Unmarshal(b, e); err != nil {
		return nil, err
	}
	if e.Schema != entrySchema || e.Packed != filepath.Base(dir) || e.Size <= 0 || !isSHA256(e.SHA256) {
		return nil, errors.New("not an entry of this version")
	}
	return e, nil
}

// A stored copy is an entry that is open and, so long, in use.
type stored struct {
	entry
	f   *os.File
	crc []uint32
}

// open opens the entry of a packed file with that digest.
func (st *Store) open(digest string) (*stored, error) {
	dir := filepath.Join(st.dir, digest)
	f, err := os.OpenFile(filepath.Join(dir, imageName), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	c, err := st.use(dir, f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	// The time of last use decides only what is removed first.
	now := time.Now()
	_ = os.Chtimes(filepath.Join(dir, entryName), now, now)
	return c, nil
}

// use locks an entry's image and then looks whether the entry is still there.
func (st *Store) use(dir string, f *os.File) (*stored, error) {
	if err := flock(f.Fd(), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return nil, err
	}
	e, err := readEntry(dir)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() != e.Size {
		return nil, fmt.Errorf("the copy has %d bytes instead of %d", fi.Size(), e.Size)
	}
	b, err := readSmall(filepath.Join(dir, sumsName), maxSumsFile)
	if err != nil {
		return nil, err
	}
	crc, err := unpackSums(b, e.Size)
	if err != nil {
		return nil, err
	}
	return &stored{*e, f, crc}, nil
}

// ReadAt is as in io.ReaderAt. If the copy is not what was written, the error
// is errDamaged.
func (c *stored) ReadAt(p []byte, off int64) (int, error) {
	if off >= c.Size {
		return 0, io.EOF
	}
	n, err := readChecked(c.f, c.crc, c.Size, p[:min(int64(len(p)), c.Size-off)], off)
	switch {
	case err == nil && n < len(p):
		err = io.EOF
	case errors.Is(err, fs.ErrClosed):
		err = ErrClosed
	case err != nil && !errors.Is(err, errDamaged):
		err = fmt.Errorf("%w: %w", errDamaged, err) // its disk cannot read it
	}
	return n, err
}

func (c *stored) close() error { return c.f.Close() }

// begin starts a copy of an image that needs so many bytes, if that is known and
// not negative.
func (st *Store) begin(need int64, warn func(string, ...any)) (*spool, error) {
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return nil, err
	}
	if err := st.trusted(); err != nil {
		return nil, err
	}
	unlock, err := st.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	st.sweepLocked()
	if limit := st.limitLocked(); need > limit {
		return nil, fmt.Errorf("it needs %d bytes, and the store %s may have %d", need, st.dir, limit)
	}
	dir, err := os.MkdirTemp(st.dir, tmpPrefix)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, imageName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = flock(f.Fd(), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		drop(dir)
		return nil, err
	}
	return newSpool(st, dir, st.wrap(f), warn), nil
}

// install makes a copy that is complete an entry.
func (st *Store) install(s *spool, e *entry) error {
	e.Schema = entrySchema
	b, err := json.MarshalIndent(e, "", "\t")
	if err != nil {
		return err
	}
	if err := s.f.Truncate(e.Size); err != nil {
		return err
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(s.dir, sumsName), packSums(s.sums.crc)); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(s.dir, entryName), b); err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	unlock, err := st.lock()
	if err != nil {
		return err
	}
	defer unlock()
	// From now on others may use it, as we do.
	if err := flock(s.f.Fd(), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return err
	}
	switch err := os.Rename(s.dir, filepath.Join(st.dir, e.Packed)); {
	case errors.Is(err, fs.ErrExist): // somebody else was faster
		drop(s.dir)
		return nil
	case err != nil:
		return err
	}
	return syncDir(st.dir)
}

// remove removes an entry, even if it is in use: those who use it keep it.
func (st *Store) remove(digest string) {
	unlock, err := st.lock()
	if err != nil {
		return // it will be found damaged again
	}
	defer unlock()
	drop(filepath.Join(st.dir, digest))
}

// drop removes the files of an entry, and the directory if nothing else is in it.
// Without its entry.json, which goes first, it is no entry any more. Who has the
// image open can go on reading it.
func drop(dir string) {
	for _, name := range []string{entryName, sumsName, imageName} {
		_ = os.Remove(filepath.Join(dir, name))
	}
	_ = os.Remove(dir)
}

// A holding is a directory of the store and what it takes of the disk.
type holding struct {
	dir   string
	bytes int64
	used  time.Time // last
	entry bool      // complete
}

// holdingsLocked returns all that the store has.
func (st *Store) holdingsLocked() []holding {
	names, _ := os.ReadDir(st.dir)
	var all []holding
	for _, n := range names {
		if !n.IsDir() || !isSHA256(n.Name()) && !strings.HasPrefix(n.Name(), tmpPrefix) {
			continue
		}
		h := holding{dir: filepath.Join(st.dir, n.Name())}
		for _, name := range []string{imageName, sumsName, entryName} {
			fi, err := os.Lstat(filepath.Join(h.dir, name))
			if err != nil {
				continue
			}
			if s, ok := fi.Sys().(*syscall.Stat_t); ok {
				h.bytes += int64(s.Blocks) * 512
			}
			if name == entryName {
				h.used, h.entry = fi.ModTime(), isSHA256(n.Name())
			}
		}
		all = append(all, h)
	}
	return all
}

// sweepLocked removes what processes that died have left behind.
func (st *Store) sweepLocked() {
	for _, h := range st.holdingsLocked() {
		if !h.entry && unused(h.dir) {
			drop(h.dir)
		}
	}
}

// unused tells whether nobody holds the lock of a copy.
func unused(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, imageName), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	return flock(f.Fd(), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// limitLocked returns how many bytes the store may have.
func (st *Store) limitLocked() int64 {
	if st.limit > 0 {
		return st.limit
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(st.dir, &s); err != nil {
		return 0
	}
	free := int64(s.Bavail) * int64(s.Bsize)
	for _, h := range st.holdingsLocked() {
		free += h.bytes
	}
	return min(free/3, maxStore)
}

// room makes room for at least need more bytes, and returns for how many.
func (st *Store) room(need int64) (int64, error) {
	unlock, err := st.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	limit := st.limitLocked()
	need = max(need, min(roomStep, limit/64))
	all := st.holdingsLocked()
	var total int64
	for _, h := range all {
		total += h.bytes
	}
	slices.SortFunc(all, func(a, b holding) int { return a.used.Compare(b.used) })
	for _, h := range all {
		if total+need <= limit {
			break
		}
		if h.entry && unused(h.dir) {
			drop(h.dir)
			total -= h.bytes
		}
	}
	if total+need > limit {
		return 0, fmt.Errorf("the store %s may have %d bytes, and they are all in use", st.dir, limit)
	}
	return need, nil
}

// lock keeps other processes from changing what the store has.
func (st *Store) lock() (unlock func(), _ error) {
	f, err := os.OpenFile(filepath.Join(st.dir, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(10 * time.Millisecond) {
		err := flock(f.Fd(), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case err != syscall.EWOULDBLOCK || time.Now().After(deadline):
			_ = f.Close()
			return nil, fmt.Errorf("lock the store %s: %w", st.dir, err)
		}
	}
}

func flock(fd uintptr, how int) error {
	for {
		if err := syscall.Flock(int(fd), how); err != syscall.EINTR {
			return err
		}
	}
}

// writeSynced writes a file and waits until it is on the disk.
func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
