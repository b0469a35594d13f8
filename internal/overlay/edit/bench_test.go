package edit

import (
	"context"
	"os"
	"testing"

	"multidd/internal/identity"
	"multidd/internal/sample"
	"multidd/internal/volume"
)

// BenchmarkMakeAll makes 400 cards of an image of 1 GiB with a real root file system ready.
func BenchmarkMakeAll(b *testing.B) {
	sample.Need(b, "mke2fs", "debugfs")
	name := b.TempDir() + "/image"
	must(b, sample.Make(sample.Image{Path: name, Size: 1 << 30, Fill: 500 << 20}))
	f, err := os.Open(name)
	must(b, err)
	defer f.Close()
	disk, err := volume.Look(f, 1<<30)
	must(b, err)
	const cards = 400
	var bytes int64
	for b.Loop() {
		e := New(f, disk, Options{Now: now})
		patches, err := e.MakeAll(context.Background(), identity.Default(), rows(cards))
		must(b, err)
		for _, p := range patches {
			bytes += p.Bytes()
		}
		e.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N*cards), "ms/card")
	b.ReportMetric(float64(bytes)/float64(b.N*cards), "B/card")
}
