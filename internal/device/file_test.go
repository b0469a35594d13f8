package device

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestANewFileIsMadeByTheFirstWriteAndNotBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "card.img")
	c := open(t, path, Options{})
	if c.Size() != -1 || c.Disk().Bus != BusFile {
		t.Errorf("size %d, bus %s", c.Size(), c.Disk().Bus)
	}
	if n, err := c.ReadAt(make([]byte, 10), 0); n != 0 || err != io.EOF {
		t.Errorf("reading what is not there: %d, %v", n, err)
	}
	if err := c.StartRead(make([]byte, 10), 0); !errors.Is(err, io.EOF) {
		t.Errorf("starting to read what is not there: %v", err)
	}
	if err := errors.Join(c.Sync(), c.Check()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Fatal("it is there before anything was written")
	}
	image := pattern(1, 100_001)
	if n, err := c.WriteAt(image, 0); n != len(image) || err != nil {
		t.Fatal(n, err)
	}
	if err := errors.Join(c.Sync(), c.Check()); err != nil {
		t.Error(err)
	}
	got := make([]byte, len(image)+10)
	if n, err := c.ReadAt(got, 0); n != len(image) || err != io.EOF || !bytes.Equal(got[:n], image) {
		t.Errorf("read back %d bytes, %v", n, err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, image) {
		t.Errorf("the file has %d bytes, %v", len(b), err)
	}

	never := filepath.Join(t.TempDir(), "never.img")
	open(t, never, Options{}).Close()
	if _, err := os.Lstat(never); err == nil {
		t.Error("it was made though nothing was written")
	}
	if err := open(t, never, Options{}).Prepare(0); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(never); err != nil {
		t.Error("Prepare did not make it")
	}
}

func TestAnEmptyFileGrowsAndAFullOneDoesNot(t *testing.T) {
	empty := scratch(t, 0)
	c := open(t, empty, Options{})
	if c.Size() != -1 {
		t.Errorf("size of an empty file: %d", c.Size())
	}
	if err := c.Prepare(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteAt(pattern(1, 5000), 1<<20-5000); err != nil {
		t.Error(err)
	}
	if _, err := c.WriteAt(pattern(1, 10), 1<<20); err != nil {
		t.Errorf("growing on: %v", err)
	}
	if fi, err := os.Stat(empty); err != nil || fi.Size() != 1<<20+10 {
		t.Errorf("%v, %v", fi.Size(), err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}

	full := scratch(t, 8192)
	c = open(t, full, Options{})
	if c.Size() != 8192 {
		t.Errorf("size %d", c.Size())
	}
	if err := c.Prepare(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteAt([]byte("x"), 8192); reasonOf(err) != ReasonTooSmall {
		t.Errorf("writing past its end: %v", err)
	}
	if fi, err := os.Stat(full); err != nil || fi.Size() != 8192 {
		t.Errorf("%v, %v", fi.Size(), err)
	}
}

func TestAFileThatIsNotTheOneLookedAtIsRefused(t *testing.T) {
	var s System
	dir := t.TempDir()
	path := filepath.Join(dir, "card.img")
	fresh := find(t, path)
	if err := os.WriteFile(path, []byte("somebody's thesis"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(fresh, Options{}); reasonOf(err) != ReasonTargetChanged {
		t.Errorf("it was not there: %v", err)
	}
	old := find(t, path)
	if c, err := s.Open(old, Options{}); err != nil {
		t.Error(err) // the control
	} else {
		c.Close()
	}
	if err := os.WriteFile(path, []byte("somebody's longer thesis"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(old, Options{}); reasonOf(err) != ReasonTargetChanged {
		t.Errorf("it was shorter: %v", err)
	}
	old = find(t, path)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(old, Options{}); reasonOf(err) != ReasonTargetChanged {
		t.Errorf("it is gone: %v", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := s.Open(old, Options{}); done <- err }()
	select {
	case err := <-done:
		if reasonOf(err) != ReasonNotACard {
			t.Errorf("it is a pipe: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits at a pipe")
	}

	// Between opening and the first write.
	late := filepath.Join(dir, "late.img")
	c := open(t, late, Options{})
	if err := os.WriteFile(late, []byte("another thesis"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteAt([]byte("x"), 0); reasonOf(err) != ReasonTargetChanged {
		t.Errorf("it appeared: %v", err)
	}
	if b, _ := os.ReadFile(late); string(b) != "another thesis" {
		t.Errorf("it was written: %q", b)
	}
}

func TestAFileThatIsReplacedWhileWrittenIsSeen(t *testing.T) {
	for _, k := range []struct {
		name string
		do   func(path string) error
		want string
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"deleted", os.Remove, ReasonRemoved},
		{"replaced", func(p string) error {
			return errors.Join(os.Rename(p, p+".old"), os.WriteFile(p, make([]byte, 8192), 0o644))
		}, ReasonTargetChanged},
		{"cut", func(p string) error { return os.Truncate(p, 100) }, ReasonTargetChanged},
		{"longer", func(p string) error { return os.Truncate(p, 100_000) }, ReasonTargetChanged},
	} {
		path := scratch(t, 8192)
		c := open(t, path, Options{})
		if _, err := c.WriteAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		if err := k.do(path); err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err == nil != (k.want == "") || err != nil && reasonOf(err) != k.want {
			t.Errorf("%s: %v, want %q", k.name, err, k.want)
		}
	}
}

func TestAFileWithoutWritePermissionIsNoReasonOfTheCards(t *testing.T) {
	needRoot(t)
	path := scratch(t, 8192)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	d := find(t, path)
	var s System
	err := asNobody(func() error { _, err := s.claim(d, Options{}); return err })
	if !errors.Is(err, os.ErrPermission) || reasonOf(err) != "" {
		t.Errorf("got %v", err)
	}
}

func TestAFileInUseAsSwapIsRefused(t *testing.T) {
	f := newFixture(t)
	path := scratch(t, 8192)
	d, err := f.Find(path)
	f.check(err)
	if r := f.Judge(d, Policy{}); len(r) > 0 {
		t.Fatal(r) // the control
	}
	f.swapped(path)
	if r := f.Judge(d, Policy{}); len(r) != 1 || r[0].Reason != ReasonMounted {
		t.Errorf("got %v", r)
	}
}

func TestTheSameFileTwiceIsBusy(t *testing.T) {
	path := scratch(t, 8192)
	o := Options{lockWait: 30 * time.Millisecond}
	c := open(t, path, o)
	link := path + ".link"
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	refuses(t, link, o, ReasonBusy)
	c.Close()
	open(t, link, o)
}
