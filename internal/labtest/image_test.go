package labtest

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
)

// cardSize is that of a card whose size does not matter, in bytes.
const cardSize = 64 * mib

// partOff is where the partition of an image, or of an older disk, begins.
const partOff = mib

// newImage makes an image of so many bytes, all of them random, with a partition
// table. Images of the same seed are the same.
func newImage(t *testing.T, size int64, seed byte) string {
	t.Helper()
	path := t.TempDir() + "/master.img"
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	table(data, size)
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// pack packs an image into one beside it.
func pack(t *testing.T, image string) string {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err == nil {
		_, err = z.Write(data)
	}
	if err = errors.Join(err, z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// oldDisk makes a file of so many bytes (0: cardSize) that holds what is left of
// an older use: something in all of the first MiB, and one partition after it.
func oldDisk(t *testing.T, dir string, size int64) string {
	t.Helper()
	if size == 0 {
		size = cardSize
	}
	data := make([]byte, partOff)
	for i := range data {
		data[i] = "an older disk. "[i%15]
	}
	table(data, size)
	f, err := os.CreateTemp(dir, "card-*.img")
	if err == nil {
		_, err = f.Write(data)
	}
	if err = errors.Join(err, f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// table writes a master boot record with one Linux partition into the beginning
// of a disk.
func table(disk []byte, size int64) {
	clear(disk[440:512])
	entry := disk[446:]
	entry[4] = 0x83
	binary.LittleEndian.PutUint32(entry[8:], partOff/512)
	binary.LittleEndian.PutUint32(entry[12:], uint32((size-partOff)/512))
	disk[510], disk[511] = 0x55, 0xaa
}
