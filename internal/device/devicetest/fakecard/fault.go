package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"multidd/internal/device/devicetest"
)

// An apply gives a medium a fault.
type apply func(*devicetest.Medium)

// A rule says how one fault is written on the command line.
type rule struct {
	form  string // the name, what follows it, and what it does
	build func(argument string) (apply, error)
}

// parse understands a fault as listed by grammar.
func parse(spec string) (apply, error) {
	name, argument := spec, ""
	if i := strings.IndexAny(spec, "=@"); i >= 0 {
		name, argument = spec[:i], spec[i+1:]
	}
	r, ok := rules()[name]
	if !ok {
		return nil, fmt.Errorf("%q: there is no such fault", spec)
	}
	a, err := r.build(argument)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", spec, err)
	}
	return a, nil
}

// grammar lists the faults, one a line.
func grammar() string {
	var lines []string
	for _, r := range rules() {
		lines = append(lines, "  "+r.form)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func rules() map[string]rule {
	return map[string]rule{
		"drop":       {"drop[=BYTES]: keep nothing that is written [after so many bytes]", optional(0, devicetest.DropAfter)},
		"flip":       {"flip@OFFSET: a bad bit", at(func(off int64) devicetest.Fault { return devicetest.Flip(off) })},
		"flip-once":  {"flip-once@OFFSET: a bit that is bad for the first write only", at(func(off int64) devicetest.Fault { return devicetest.FlipOnce(off) })},
		"limbo":      {"limbo=BYTES: the true capacity; zeros past it", at(devicetest.Limbo)},
		"stale":      {"stale=BYTES: the true capacity; nothing changes past it", at(devicetest.Stale)},
		"wrap":       {"wrap=BYTES: the true capacity; addresses wrap around", wrap},
		"cache":      {"cache=BYTES: keep only what was written last", at(devicetest.Cache)},
		"eio-write":  {"eio-write@OFFSET[+LENGTH]: writes there fail", span(failAt(devicetest.Write))},
		"eio-read":   {"eio-read@OFFSET[+LENGTH]: reads there fail", span(failAt(devicetest.Read))},
		"eio-sync":   {"eio-sync: flushes fail", none(devicetest.Fail(devicetest.Sync, 0, devicetest.Always))},
		"unstable":   {"unstable@OFFSET[+LENGTH]: reads there differ each time", span(func(off, n int64) devicetest.Fault { return devicetest.Unstable(off, n, 1) })},
		"hang-write": {"hang-write@OFFSET[+LENGTH]: writes there never complete", span(hangAt(devicetest.Write))},
		"hang-read":  {"hang-read@OFFSET[+LENGTH]: reads there never complete", span(hangAt(devicetest.Read))},
		"hang-sync":  {"hang-sync: flushes never complete", none(devicetest.Hang(devicetest.Sync))},
		"slow":       {"slow=WRITE[/READ]: bytes per second at most", rate},
		"volatile":   {"volatile=SEED: what was not flushed is lost in part when the card is pulled", volatile},
		"delay":      {"delay=DURATION: every operation takes longer, by 10ms for instance", delay},
		"read-only":  {"read-only: the write-protect tab is set", none(devicetest.ReadOnly())},
		"pull":       {"pull@OFFSET: the card is pulled when a write gets there", pull},
		"soil":       {"soil=SEED: the card is used, not blank", soil},
	}
}

func inject(f devicetest.Fault) apply { return func(m *devicetest.Medium) { m.Inject(f) } }

func failAt(k devicetest.Kind) func(off, n int64) devicetest.Fault {
	return func(off, n int64) devicetest.Fault { return devicetest.FailAt(k, off, n, devicetest.Always) }
}

func hangAt(k devicetest.Kind) func(off, n int64) devicetest.Fault {
	return func(off, n int64) devicetest.Fault { return devicetest.HangAt(k, off, n) }
}

func none(f devicetest.Fault) func(string) (apply, error) {
	return func(argument string) (apply, error) {
		if argument != "" {
			return nil, errors.New("it takes no argument")
		}
		return inject(f), nil
	}
}

func at(f func(int64) devicetest.Fault) func(string) (apply, error) {
	return func(argument string) (apply, error) {
		n, err := parseBytes(argument)
		return inject(f(n)), err
	}
}

func optional(n int64, f func(int64) devicetest.Fault) func(string) (apply, error) {
	return func(argument string) (apply, error) {
		return at(f)(cmp.Or(argument, strconv.FormatInt(n, 10)))
	}
}

// span takes OFFSET[+LENGTH]; the length is a sector's if not given.
func span(f func(off, n int64) devicetest.Fault) func(string) (apply, error) {
	return func(argument string) (apply, error) {
		from, length, _ := strings.Cut(argument, "+")
		off, err := parseBytes(from)
		if err != nil {
			return nil, err
		}
		n, err := parseBytes(cmp.Or(length, "512"))
		return inject(f(off, n)), err
	}
}

func wrap(argument string) (apply, error) {
	n, err := parseBytes(argument)
	if err == nil && n == 0 {
		err = errors.New("a card of 0 bytes has no addresses")
	}
	return inject(devicetest.Wrap(n)), err
}

func rate(argument string) (apply, error) {
	w, r, two := strings.Cut(argument, "/")
	if !two {
		r = w
	}
	write, err := parseBytes(w)
	if err != nil {
		return nil, err
	}
	read, err := parseBytes(r)
	return inject(devicetest.Rate(write, read)), err
}

func delay(argument string) (apply, error) {
	d, err := time.ParseDuration(argument)
	return inject(devicetest.Delay(devicetest.Any, d)), err
}

func pull(argument string) (apply, error) {
	off, err := parseBytes(argument)
	return func(m *devicetest.Medium) {
		pulled := sync.OnceFunc(func() { go m.Pull() })
		m.Inject(devicetest.On(func(op devicetest.Op) error {
			if op.Kind == devicetest.Write && op.End() > off {
				pulled()
				return syscall.ENODEV // it is the first that fails
			}
			return nil
		}))
	}, err
}

func volatile(argument string) (apply, error) {
	seed, err := strconv.ParseUint(argument, 10, 64)
	return inject(devicetest.Volatile(seed)), err
}

func soil(argument string) (apply, error) {
	seed, err := strconv.ParseUint(argument, 10, 64)
	return func(m *devicetest.Medium) { m.Soil(seed) }, err
}

// bytesValue is a number of bytes as a flag.
type bytesValue int64

func (b *bytesValue) String() string { return strconv.FormatInt(int64(*b), 10) }

func (b *bytesValue) Set(s string) error {
	n, err := parseBytes(s)
	*b = bytesValue(n)
	return err
}

// parseBytes understands a number of bytes with, possibly, K, M or G for powers
// of 1024.
func parseBytes(s string) (int64, error) {
	digits, unit := s, int64(1)
	for i, suffix := range []string{"K", "M", "G"} {
		if d, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = d, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a number of bytes", s)
	}
	return n * unit, nil
}
