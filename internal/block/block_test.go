package block

import (
	"context"
	"errors"
	"testing"
	"time"
	"unsafe"
)

func TestMapCheckNamesTheBadRange(t *testing.T) {
	for _, c := range []struct {
		name string
		m    Map
		ok   bool
	}{
		{"whole", Whole(10), true},
		{"nothing", Map{Size: 10}, true},
		{"touching", Map{10, []Extent{{0, 4}, {4, 6}}}, true},
		{"overlapping", Map{10, []Extent{{0, 4}, {3, 2}}}, false},
		{"backwards", Map{10, []Extent{{5, 2}, {0, 2}}}, false},
		{"empty range", Map{10, []Extent{{5, 0}}}, false},
		{"negative", Map{10, []Extent{{-1, 5}}}, false},
		{"past the end", Map{10, []Extent{{5, 6}}}, false},
		{"overflow", Map{10, []Extent{{1, 1<<63 - 1}}}, false},
	} {
		if err := c.m.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestIntersect(t *testing.T) {
	for _, c := range []struct{ a, b, want Extent }{
		{Extent{0, 10}, Extent{5, 10}, Extent{5, 5}},
		{Extent{0, 5}, Extent{5, 10}, Extent{5, 0}},
		{Extent{7, 2}, Extent{0, 100}, Extent{7, 2}},
		{Extent{20, 5}, Extent{0, 10}, Extent{20, 0}},
	} {
		if got := c.a.Intersect(c.b); got != c.want {
			t.Errorf("%v and %v: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestPoolIsBoundedAndAligned(t *testing.T) {
	p := NewPool(2, 8192)
	var got [][]byte
	for range 2 {
		b, err := p.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != 8192 || uintptr(unsafe.Pointer(&b[0]))%Align != 0 {
			t.Errorf("a buffer of %d bytes at %p", len(b), &b[0])
		}
		got = append(got, b)
	}
	why := errors.New("no more")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, why)
	defer cancel()
	if _, err := p.Get(ctx); !errors.Is(err, why) {
		t.Errorf("a third buffer: %v", err)
	}
	p.Put(got[0][:100]) // a short block gives the whole buffer back
	b, err := p.Get(t.Context())
	if err != nil || len(b) != 8192 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	p.Put(b)
	p.Close()
	p.Put(got[1])
}
