package device

import (
	"fmt"
	"testing"
)

// BenchmarkLooks is what the guards take before a run: each target is found,
// judged, opened and judged once more.
func BenchmarkLooks(b *testing.B) {
	for _, n := range []int{1, 14, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var names []string
			for range n {
				names = append(names, newLoop(b, 1<<20).path)
			}
			var s System
			for b.Loop() {
				var disks []Disk
				for _, f := range s.FindAll(names) {
					disks = append(disks, f.Disk)
				}
				s.JudgeAll(disks, named.Policy)
				cards := s.OpenAll(disks, named)
				b.StopTimer()
				for _, c := range cards {
					if c.Err != nil {
						b.Fatal(c.Err)
					}
					c.Card.Close()
				}
				b.StartTimer()
			}
		})
	}
}
