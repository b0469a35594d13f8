package sample

import (
	"cmp"
	"testing"
)

// A trial is a test that only notes how it would have ended.
type trial struct {
	testing.TB
	end string
}

func (r *trial) Helper()      {}
func (r *trial) Skip(...any)  { r.end = cmp.Or(r.end, "skipped") }
func (r *trial) Fatal(...any) { r.end = cmp.Or(r.end, "failed") }

func TestWhatIsMissingIsOnlySkippedOutsideOfCI(t *testing.T) {
	const absent = "no-such-program"
	for _, c := range []struct {
		ci       string
		programs []string
		want     string
	}{
		{"", []string{"sh", absent}, "skipped"},
		{"1", []string{absent, "sh"}, "failed"},
		{"true", []string{absent}, "failed"},
		{"", []string{"sh"}, ""}, // the controls: nothing is missing
		{"1", []string{"sh"}, ""},
	} {
		t.Setenv("CI", c.ci)
		r := new(trial)
		if Need(r, c.programs...); r.end != c.want {
			t.Errorf("CI=%q, %v: the test is %q, want %q", c.ci, c.programs, r.end, c.want)
		}
	}
}
