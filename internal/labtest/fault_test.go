package labtest

import (
	"testing"

	"multidd/internal/cardlab"
)

// What happens to one card while others are written does not concern the others.
// These cases run wherever the lab is set up.
func TestOneCardsTroubleIsItsOwn(t *testing.T) {
	need(t, true)
	const (
		good      = 0
		pulled    = 1
		slow      = 2
		badWrite  = 3
		badRead   = 4
		imageSize = 32 * mib // more than the lanes share
		badByte   = 17*mib + 5*512
	)
	r := boot(t, cardlab.Config{Cards: []cardlab.Card{
		{},
		{},
		{WriteBPS: mib},
		{FailWrites: []int64{badByte / 512}},
		{FailReads: []int64{badByte / 512}},
	}})
	t.Run("pulled in mid-write", func(t *testing.T) {
		r, image := r.in(t), newImage(t, imageSize, 1)
		before := r.taken()
		run := r.write(image, good, pulled)
		run.untilTaken(pulled, before, 8*mib)
		r.must(r.Pull(pulled))
		run.end().want(3, "good", "removed")
		r.holds(good, image)
		r.dead(pulled)

		// The card comes back: as a card of a new run, it is good.
		r.must(r.Plug(pulled))
		r.write(image, pulled).end().want(0, "good")
		r.holds(pulled, image)
	})

	t.Run("slow", func(t *testing.T) {
		r, image := r.in(t), newImage(t, imageSize, 2)
		before := r.taken()
		run := r.write(pack(t, image), slow, good)
		run.untilPhase(1, "good")
		if n := r.taken()[slow] - before[slow]; n >= imageSize {
			t.Errorf("the other card was good only when the slow one had taken all: %d bytes", n)
		}
		r.holds(good, image)
		r.must(r.Slow(slow, 0))
		run.end().want(0, "good", "good")
		r.holds(slow, image)
	})

	t.Run("bad sectors", func(t *testing.T) {
		r, image := r.in(t), newImage(t, imageSize, 3)
		res := r.write(image, badWrite, good, badRead).end()
		res.want(3, "write-eio", "good", "read-eio")
		for _, n := range []int{0, 2} {
			at := res.lanes[n].Offset
			if at == nil || *at > badByte || badByte-*at >= 4*mib {
				t.Errorf("lane %d failed at %v, the bad sector is at byte %d", n, at, badByte)
			}
		}
		r.holds(good, image)
		r.dead(badWrite)
		r.dead(badRead)
		// Nothing more is written to a card that refuses to be written.
		if !blank(t, r.Backing(badWrite), badByte+4*mib, imageSize) {
			t.Errorf("card %d was written beyond its bad sector", badWrite)
		}
	})
}
