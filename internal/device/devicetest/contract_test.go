package devicetest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAMediumKeepsTheContract(t *testing.T) {
	Contract(t, func(*testing.T) (Target, int64) { return NewMedium(8*mib + 512), 8*mib + 512 })
}

func TestAPlainFileKeepsTheContract(t *testing.T) {
	Contract(t, func(t *testing.T) (Target, int64) {
		f, err := os.Create(filepath.Join(t.TempDir(), "card.img"))
		if err == nil {
			err = f.Truncate(8*mib + 100)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, 8*mib + 100
	})
}

func TestAFakeCardKeepsTheContract(t *testing.T) {
	path := Attach(t, NewMedium(8*mib))
	Contract(t, func(t *testing.T) (Target, int64) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, 8 * mib
	})
}

// TestABadTargetBreaksTheContract is the contract's negative control.
func TestABadTargetBreaksTheContract(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func() Fault
	}{
		{"Drop", Drop},
		{"Flip", func() Fault { return Flip(4096) }},
		{"Limbo", func() Fault { return Limbo(7 * mib) }},
		{"Wrap", func() Fault { return Wrap(4 * mib) }},
		{"Cache", func() Fault { return Cache(mib / 2) }},
		{"SyncFails", func() Fault { return Fail(Sync, 0, Always) }},
		{"SyncFailsOnce", func() Fault { return Fail(Sync, 1, 1) }},
		{"WriteFails", func() Fault { return FailAt(Write, 8*mib-1, 1, Always) }},
		{"ReadFails", func() Fault { return Fail(Read, 0, 1) }},
		{"Unstable", func() Fault { return Unstable(0, mib, 1) }},
		{"ReadOnly", ReadOnly},
		{"Sloppy", func() Fault { return roundUp }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, clause := range clauses {
				if err := clause.check(NewMedium(8*mib, c.fault()), 8*mib); err != nil {
					t.Logf("%s: %v", clause.name, err)
					return
				}
			}
			t.Error("no clause is broken")
		})
	}
}

// roundUp is a target that writes whole sectors, with rubbish after the end of
// what it was given.
var roundUp = FaultFunc(func(op Op, next Next) (int, error) {
	if op.Kind != Write || len(op.Data)%512 == 0 {
		return next(op)
	}
	n := len(op.Data)
	op.Data = append(append([]byte(nil), op.Data...), make([]byte, 512-n%512)...)
	_, err := next(op)
	return n, err
})

// disorder is an async that carries requests out in the opposite order.
type disorder struct {
	*Medium
	begun []func() error
}

func (d *disorder) StartWrite(p []byte, off int64) error {
	d.begun = append(d.begun, func() error { return write(d.Medium, p, off) })
	return nil
}

func (d *disorder) StartRead(p []byte, off int64) error {
	d.begun = append(d.begun, func() error { _, err := d.ReadAt(p, off); return err })
	return nil
}

func (d *disorder) Wait() error {
	f := d.begun[len(d.begun)-1]
	d.begun = d.begun[:len(d.begun)-1]
	return f()
}

// order carries them out as it should.
type order struct{ disorder }

func (o *order) Wait() error {
	f := o.begun[0]
	o.begun = o.begun[1:]
	return f()
}

func TestTheContractCoversRequestsInFlight(t *testing.T) {
	if err := checkAsync(&order{disorder{Medium: NewMedium(8 * mib)}}, 8*mib); err != nil {
		t.Error(err)
	}
	if err := checkAsync(&disorder{Medium: NewMedium(8 * mib)}, 8*mib); err == nil {
		t.Error("requests carried out in the wrong order pass")
	}
}
