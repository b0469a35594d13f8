package device

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multidd/internal/sample"
)

func openSource(t *testing.T, name string) *Source {
	t.Helper()
	s, err := System{}.OpenSource(name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// refusesSource makes sure that a disk is not opened for reading.
func refusesSource(t *testing.T, name, reason string, words ...string) {
	t.Helper()
	s, err := System{}.OpenSource(name, Options{lockWait: 50 * time.Millisecond})
	if err == nil {
		s.Close()
		t.Errorf("%s was opened, want %s", name, reason)
		return
	}
	if reasonOf(err) != reason {
		t.Errorf("%s: got %s (%v), want %s", name, reasonOf(err), err, reason)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not tell of %q", name, err, w)
		}
	}
}

func TestAnyDiskOrFileCanBeRead(t *testing.T) {
	data := pattern(1, 1<<20+1234)
	check := func(t *testing.T, name string, data []byte) {
		t.Helper()
		s := openSource(t, name)
		if s.Size() != int64(len(data)) {
			t.Errorf("%d bytes, want %d", s.Size(), len(data))
		}
		got := make([]byte, len(data))
		if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read: %v", err)
		}
		buf := make([]byte, 4096+100)
		if err := errors.Join(s.StartRead(buf[:4096], 4096), s.StartRead(buf[4096:], 8192), s.Wait(), s.Wait()); err != nil || !bytes.Equal(buf, data[4096:4096+len(buf)]) {
			t.Errorf("read in the background: %v", err)
		}
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	}
	file := scratch(t, 0)
	if err := os.WriteFile(file, data, 0o444); err != nil {
		t.Fatal(err)
	}
	t.Run("a file", func(t *testing.T) { check(t, file, data) })
	t.Run("a file, as anybody", func(t *testing.T) {
		needRoot(t) // to leave it
		if err := os.Chmod(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		err := asNobody(func() error {
			s, err := System{}.OpenSource(file, Options{})
			if err == nil {
				s.Close()
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	even := scratch(t, 0)
	if err := os.WriteFile(even, data[:1<<20], 0o444); err != nil {
		t.Fatal(err)
	}
	t.Run("a disk", func(t *testing.T) { check(t, attach(t, even).path, data[:1<<20]) })
	t.Run("a write-protected disk", func(t *testing.T) { check(t, attach(t, even, "--read-only").path, data[:1<<20]) })
	t.Run("a file attached read-only", func(t *testing.T) { attach(t, even, "--read-only"); check(t, even, data[:1<<20]) })
}

func TestWhatChangesWhileItIsReadIsRefused(t *testing.T) {
	sample.Need(t, "mke2fs")
	l := newLoop(t, 8<<20)
	run(t, "mke2fs", "-q", l.path)
	t.Run("mounted", func(t *testing.T) {
		dir := mounted(t, l.path)
		refusesSource(t, l.path, ReasonMounted, dir, "umount "+dir)
		refusesSource(t, l.file, ReasonMounted, dir)
	})
	t.Run("mounted writable, seen through a read-only mount", func(t *testing.T) {
		dir := mounted(t, l.path)
		only := mounted(t, "--bind", "-o", "ro", dir)
		refusesSource(t, l.path, ReasonMounted)
		if u := (use{where: only, readOnly: true}); slices.Contains(usesOf(t, l.name()), u) {
			t.Error("a read-only mount of a writable file system is taken for a read-only one")
		}
	})
	t.Run("attached", func(t *testing.T) {
		refusesSource(t, l.file, ReasonBusy, l.name(), "losetup -d")
		over := attach(t, l.path, "-o", "4096")
		refusesSource(t, l.path, ReasonBusy, over.name())
	})
	t.Run("mounted read-only", func(t *testing.T) { // the control: that does no harm
		mounted(t, "-o", "ro", l.path)
		openSource(t, l.path)
	})
	t.Run("written by another copy", func(t *testing.T) {
		c := open(t, l.path, named)
		refusesSource(t, l.path, ReasonBusy)
		c.Close()
		openSource(t, l.path)
	})
	t.Run("a file being written", func(t *testing.T) {
		file := scratch(t, 4096)
		c := open(t, file, Options{})
		refusesSource(t, file, ReasonBusy, "locked")
		c.Close()
		openSource(t, file)
		refuses(t, file, Options{lockWait: 50 * time.Millisecond}, ReasonBusy)
	})
}

func usesOf(t *testing.T, name string) []use {
	t.Helper()
	all, err := System{}.load()
	if err != nil {
		t.Fatal(err)
	}
	return all.uses[all.byName[name]]
}

func TestDevicesThatCannotBeReadAsOneAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, disk, reason, words string
		make                      func(*fixture)
	}{
		{"the running system", "sdb", ReasonSystemDisk, "another computer", func(f *fixture) { twoParts(f); f.mount("8:17", "/", "ext4", "/dev/sdb1", "rw") }},
		{"the running system, read-only", "sdb", "", "", func(f *fixture) { twoParts(f); f.mount("8:17", "/", "ext4", "/dev/sdb1", "ro,errors=remount-ro") }},
		{"swap", "sdb", ReasonMounted, "swapoff", func(f *fixture) { twoParts(f); f.swapped("/dev/sdb2") }},
		{"LVM", "sdb", ReasonBusy, "dm-0", func(f *fixture) { usbCard(f); f.virtual("dm-0", "253:0", 1<<30, "sdb") }},
		{"an empty slot", "sdb", ReasonEmpty, "put one in", func(f *fixture) { f.usbDisk("sdb", "8:16", "1-2", 6, 0, 0) }},
		{"a built-in disk", "nvme0n1", "", "", func(f *fixture) { f.nvme("nvme0n1", "259:0", 1<<40) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			c.make(f)
			got := f.JudgeSource(f.get(c.disk))
			switch {
			case c.reason == "" && len(got) > 0:
				t.Errorf("refused: %v", got)
			case c.reason != "" && (len(got) == 0 || got[0].Reason != c.reason || !strings.Contains(got[0].Text, c.words)):
				t.Errorf("got %v, want %s", got, c.reason)
			}
		})
	}
	for name, reason := range map[string]string{t.TempDir() + "/none": ReasonNoSuchDevice, scratch(t, 0): ReasonEmpty, t.TempDir(): ReasonNotACard, "/dev/sdnonesuch": ReasonNoSuchDevice} {
		refusesSource(t, name, reason)
	}
}

func TestNothingIsMountedFromADiskBeingRead(t *testing.T) {
	l := newLoop(t, 8<<20)
	s := openSource(t, l.path)
	refuses(t, l.path, named, ReasonBusy)
	refusesSource(t, l.path, ReasonBusy, "this program itself")
	s.Close()
	open(t, l.path, named) // the control
}

func TestWhoWritesToADiskBeingReadIsNoticed(t *testing.T) {
	l := newLoop(t, 8<<20)
	file := scratch(t, 4096)
	for _, name := range []string{l.path, file} {
		s := openSource(t, name)
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // times of files are only so fine
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(pattern(2, 4096), 0)
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(); reasonOf(err) != ReasonForeignWrite {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestASourceCannotBeWritten(t *testing.T) {
	l := newLoop(t, 1<<20)
	for _, name := range []string{l.path, scratch(t, 4096)} {
		s := openSource(t, name)
		h := s.c.handle.Load()
		for _, f := range []*os.File{h.file, h.direct} {
			if f == nil {
				continue
			}
			if _, err := f.WriteAt(make([]byte, 512), 0); !errors.Is(err, unix.EBADF) {
				t.Errorf("%s: written: %v", name, err)
			}
		}
	}
}

func TestWhoMayNotReadIsTold(t *testing.T) {
	needRoot(t)
	file := scratch(t, 4096)
	if err := errors.Join(os.Chmod(filepath.Dir(file), 0o755), os.Chmod(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	l := newLoop(t, 1<<20)
	for _, name := range []string{file, l.path} {
		d := find(t, name)
		err := asNobody(func() error {
			if d.Bus == BusFile {
				_, err := System{}.openSourceFile(d, Options{})
				return err
			}
			_, _, err := System{}.openSourceNode(d, Options{})
			return err
		})
		if !errors.Is(err, fs.ErrPermission) || reasonOf(err) != "" || !strings.Contains(err.Error(), "right to read") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
