package tui

import "testing"

// A screen is drawn several times a second beside the copying; this is what one
// costs.
func BenchmarkFrameOf64Cards(b *testing.B) {
	lk := utf8Look()
	lk.color = true
	snap := rack(64)
	b.ReportAllocs()
	for b.Loop() {
		frame(snap, view{width: 120, height: 30, look: lk})
	}
}
