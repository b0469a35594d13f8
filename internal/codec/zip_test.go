package codec

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// archive makes an archive; each entry is "name=content".
func archive(t testing.TB, method uint16, comment string, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		name, content, _ := strings.Cut(e, "=")
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, content)
	}
	if err := w.SetComment(comment); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAnArchiveMustHoldExactlyOneFile(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []string
		err     string // part of it; "": x.img comes out
	}{
		{"one file", []string{"x.img=data"}, ""},
		{"one file in folders", []string{"a/", "a/b/", "a/b/x.img=data", "c/"}, ""},
		{"two files", []string{"x.img=data", "readme.txt=hello", "more=1"}, `"x.img" and "readme.txt"`},
		{"a name that would write to the terminal", []string{"x.img=data", "\x1b[2J=1"}, `"\x1b[2J"`},
		{"nothing", nil, "no file"},
		{"folders only", []string{"a/", "b/"}, "no file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			packed := archive(t, zip.Deflate, "a comment", c.entries...)
			if f := Recognise(packed); f != Zip {
				t.Errorf("it is recognised as %s", f)
			}
			got, err := unpack(packed, Zip, ReadOptions{})
			switch {
			case c.err == "" && (err != nil || string(got) != "data"):
				t.Errorf("%q comes out: %v", got, err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("the error is: %v", err)
			}
		})
	}
}

func TestAFolderWithDataIsAnError(t *testing.T) {
	packed := archive(t, zip.Deflate, "", "folder =data", "x.img=data")
	packed = bytes.ReplaceAll(packed, []byte("folder "), []byte("folder/"))
	if _, err := unpack(packed, Zip, ReadOptions{}); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("the error is: %v", err)
	}
}

func TestWhatCannotBeUnpackedFromAnArchiveIsRefused(t *testing.T) {
	entry := func(flags, method uint16) []byte {
		b := archive(t, zip.Store, "", "x.img=data")
		binary.LittleEndian.PutUint16(b[6:], flags)
		binary.LittleEndian.PutUint16(b[8:], method)
		return b
	}
	for name, packed := range map[string][]byte{
		"encrypted":             entry(1, 8),
		"strongly encrypted":    entry(1<<6, 8),
		"method 9, deflate64":   entry(0, 9),
		"method 93, zstd":       entry(8, 93),
		"stored without length": entry(8, 0),
	} {
		_, err := unpack(packed, Zip, ReadOptions{})
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "unzip -p") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestADirectoryThatDisagreesIsAnError changes each field of the directory and of
// the end record that says something on the file.
func TestADirectoryThatDisagreesIsAnError(t *testing.T) {
	packed := archive(t, zip.Deflate, "", "folder/", "x.img=some data, some data, some data")
	if _, err := unpack(packed, Zip, ReadOptions{}); err != nil {
		t.Fatal("unchanged:", err)
	}
	dir := bytes.LastIndex(packed, []byte(zipDirectory))
	end := bytes.LastIndex(packed, []byte(zipEnd))
	for name, at := range map[string]int{
		"method": dir + 10, "checksum": dir + 16, "packed length": dir + 20, "length": dir + 24, "length of the name": dir + 28,
		"place": dir + 42, "name": dir + 46, "magic": dir + 2,
		"disk": end + 4, "disk of the directory": end + 6, "entries on it": end + 8, "entries": end + 10,
		"length of the directory": end + 12, "place of the directory": end + 16, "length of the comment": end + 20, "end magic": end + 3,
	} {
		bad := bytes.Clone(packed)
		bad[at]++
		if _, err := unpack(bad, Zip, ReadOptions{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	listedTwice := bytes.Clone(packed[:end])
	listedTwice = append(append(listedTwice, packed[dir:end]...), packed[end:]...)
	if _, err := unpack(listedTwice, Zip, ReadOptions{}); err == nil {
		t.Error("an entry listed twice: no error")
	}
}

// wideArchive makes, by hand, what archivers make of a file whose length does not
// fit in 32 bits, or might not.
func wideArchive(content string, sizes64, streamed, signature, wide bool) []byte {
	var z bytes.Buffer
	f, _ := flate.NewWriter(&z, 6)
	io.WriteString(f, content)
	f.Close()
	crc := crc32.ChecksumIEEE([]byte(content))
	packed, size := uint64(z.Len()), uint64(len(content))
	le := binary.LittleEndian

	var extra, flags = []byte(nil), uint16(0)
	h := []byte(zipEntry + "\x2d\x00\x00\x00\x08\x00\x00\x00\x00\x00")
	if streamed {
		flags = 8
		le.PutUint16(h[6:], flags)
		h = append(h, make([]byte, 12)...)
	} else {
		h = le.AppendUint32(h, crc)
		if sizes64 {
			h = append(h, "\xff\xff\xff\xff\xff\xff\xff\xff"...)
			extra = le.AppendUint64(le.AppendUint64([]byte("\x99\x99\x01\x00?\x01\x00\x10\x00"), size), packed)
		} else {
			h = le.AppendUint32(le.AppendUint32(h, uint32(packed)), uint32(size))
		}
	}
	h = le.AppendUint16(le.AppendUint16(h, 1), uint16(len(extra)))
	b := append(append(append(h, 'x'), extra...), z.Bytes()...)
	if streamed {
		if signature {
			b = append(b, zipDescriptor...)
		}
		b = le.AppendUint32(b, crc)
		if wide {
			b = le.AppendUint64(le.AppendUint64(b, packed), size)
		} else {
			b = le.AppendUint32(le.AppendUint32(b, uint32(packed)), uint32(size))
		}
	}
	start := uint64(len(b))
	b = append(b, zipDirectory+"\x2d\x00\x2d\x00\x00\x00\x08\x00\x00\x00\x00\x00"...)
	b = le.AppendUint32(b, crc)
	extra = nil
	if sizes64 {
		b = append(b, "\xff\xff\xff\xff\xff\xff\xff\xff"...)
		extra = le.AppendUint64(le.AppendUint64(le.AppendUint64([]byte("\x01\x00\x18\x00"), size), packed), 0)
	} else {
		b = le.AppendUint32(le.AppendUint32(b, uint32(packed)), uint32(size))
	}
	b = le.AppendUint16(le.AppendUint16(b, 1), uint16(len(extra)))
	b = append(b, make([]byte, 10)...)
	if sizes64 {
		b = append(b, "\xff\xff\xff\xff"...)
	} else {
		b = append(b, 0, 0, 0, 0)
	}
	b = append(append(b, 'x'), extra...)
	end := uint64(len(b))
	if sizes64 {
		b = le.AppendUint64(append(b, zipEnd64...), 44)
		b = append(b, make([]byte, 12)...)
		for _, v := range []uint64{1, 1, end - start, start} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint64(append(b, zipEnd64Locate+"\x00\x00\x00\x00"...), end)
		b = append(b, 1, 0, 0, 0)
		return append(b, zipEnd+"\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00"...)
	}
	b = append(b, zipEnd+"\x00\x00\x00\x00\x01\x00\x01\x00"...)
	b = le.AppendUint32(le.AppendUint32(b, uint32(end-start)), uint32(start))
	return append(b, 0, 0)
}

func TestLengthsAreUnderstoodInAllTheWaysInWhichTheyAreWritten(t *testing.T) {
	content := strings.Repeat("a long file ", 99)
	for i := range 16 {
		sizes64, streamed, signature, wide := i&1 > 0, i&2 > 0, i&4 > 0, i&8 > 0
		name := fmt.Sprintf("64 bits %v, after the data %v, with signature %v, there in 64 bits %v", sizes64, streamed, signature, wide)
		packed := wideArchive(content, sizes64, streamed, signature, wide)
		if got, err := unpack(packed, Zip, ReadOptions{}); err != nil || string(got) != content {
			t.Errorf("%s: %v", name, err)
		}
		for at := range packed {
			if _, err := unpack(packed[:at], Zip, ReadOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, cut at %d of %d: %v", name, at, len(packed), err)
			}
		}
	}
	if sameSize(1<<32+5, 5, true) || !sameSize(1<<32+5, 5, false) || sameSize(5, 6, false) {
		t.Error("sizes are compared wrongly")
	}
}

func TestAnArchiveOfVeryManyFoldersIsRefused(t *testing.T) {
	var folders []string
	for i := range zipEntries + 1 {
		folders = append(folders, fmt.Sprintf("%d/", i))
	}
	if _, err := unpack(archive(t, zip.Store, "", append(folders, "x.img=data")...), Zip, ReadOptions{}); err == nil {
		t.Error("no error")
	}
	if _, err := unpack(archive(t, zip.Store, "", append(folders[:zipEntries-1:zipEntries-1], "x.img=data")...), Zip, ReadOptions{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("as many as are put up with: %v", err) // a stored file of unknown length, from package zip
	}
}

func TestTheSizeOfAFileInAnArchiveIsAHint(t *testing.T) {
	for _, c := range []struct {
		packed []byte
		want   int64
	}{
		{wideArchive("12345", false, false, false, false), 5},
		{wideArchive("12345", true, false, false, false), 5},
		{wideArchive("12345", false, true, false, false), -1},
	} {
		r, err := NewReader(bytes.NewReader(c.packed), Zip, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.SizeHint(); got != c.want {
			t.Errorf("the hint is %d, not %d", got, c.want)
		}
	}
}
