package dd

import (
	"bytes"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// exactly rounds n·from/to/base^power to so many decimals, halves to even.
func exactly(n, from, to, base uint64, power, decimals int) string {
	x := new(big.Rat).SetFrac(new(big.Int).SetUint64(from), new(big.Int).SetUint64(to))
	x.Mul(x, new(big.Rat).SetInt(new(big.Int).SetUint64(n)))
	unit := new(big.Int).Exp(new(big.Int).SetUint64(base), big.NewInt(int64(power)), nil)
	x.Quo(x, new(big.Rat).SetInt(unit))
	x.Mul(x, big.NewRat(int64(map[int]int{0: 1, 1: 10}[decimals]), 1))
	whole, rest := new(big.Int).QuoRem(x.Num(), x.Denom(), new(big.Int))
	twice := new(big.Int).Lsh(rest, 1)
	if c := twice.Cmp(x.Denom()); c > 0 || c == 0 && whole.Bit(0) == 1 {
		whole.Add(whole, big.NewInt(1))
	}
	s := whole.String()
	if decimals == 0 {
		return s
	}
	if len(s) == 1 {
		s = "0" + s
	}
	return s[:len(s)-1] + "." + s[len(s)-1:]
}

func TestAmountsAreRoundedToTheNearest(t *testing.T) {
	seed := uint64(3)
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 20000 {
		n := rnd.Uint64() >> rnd.IntN(64)
		for _, base := range []uint64{1000, 1024} {
			power, x := 0, n
			for ; x >= base; power++ {
				x /= base
			}
			want := exactly(n, 1, 1, base, power, 0)
			if power > 0 && len(exactly(n, 1, 1, base, power, 1)) < len("10.0") {
				want = exactly(n, 1, 1, base, power, 1)
			}
			if want == fmt.Sprint(base) {
				want, power = "1.0", power+1
			}
			if got := human(n, 1, 1, base); got != want+prefix(power, base) {
				t.Errorf("%d: %s, want %s", n, got, want+prefix(power, base))
			}
		}
	}
}

func TestRatesAreSaidAsDDDoes(t *testing.T) {
	for _, c := range []struct {
		bytes int64
		took  time.Duration
		want  string
	}{
		// As dd 9.1 said, time being what it was.
		{0, 29975, "0 bytes copied, 2.9975e-05 s, 0.0 kB/s"},
		{512, 53345, "512 bytes copied, 5.3345e-05 s, 9.6 MB/s"},
		{1024, 429186, "1024 bytes (1.0 kB, 1.0 KiB) copied, 0.000429186 s, 2.4 MB/s"},
		{588895, 36908800, "588895 bytes (589 kB, 575 KiB) copied, 0.0369088 s, 16.0 MB/s"},
		{12, 1397530000, "12 bytes copied, 1.39753 s, 0.0 kB/s"},
		{1073741824, 2792250000, "1073741824 bytes (1.1 GB, 1.0 GiB) copied, 2.79225 s, 385 MB/s"},
		// What the rounding rules make of the rest.
		{1000, 1000000000, "1000 bytes (1.0 kB) copied, 1 s, 1.0 kB/s"},
		{5, 2000000000, "5 bytes copied, 2 s, 2 B/s"},
		{7, 2000000000, "7 bytes copied, 2 s, 4 B/s"},
		{999, 1000000000, "999 bytes copied, 1 s, 999 B/s"},
		{99949, 1000000001, "99949 bytes (100 kB, 98 KiB) copied, 1 s, 99.9 kB/s"},
		{99951, 1000000001, "99951 bytes (100 kB, 98 KiB) copied, 1 s, 100 kB/s"},
		{1, 0, "1 byte copied, 0 s, Infinity B/s"},
		{1 << 40, 123456789012345, "1099511627776 bytes (1.1 TB, 1.0 TiB) copied, 123457 s, 8.9 MB/s"},
	} {
		begun := time.Unix(1, 0)
		r := report{begun: begun}
		if got := r.transfer(c.bytes, begun.Add(c.took), false); got != c.want {
			t.Errorf("%d bytes in %v: %s, want %s", c.bytes, c.took, got, c.want)
		}
	}
}

func TestProgressIsOneLineThatIsWrittenOver(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1, 0)
	r := report{level: StatusProgress, now: func() time.Time { return now }, w: &b, shown: -1}
	r.in.whole = 1 << 20
	out := &counts{whole: 1 << 20}
	r.count(out)
	r.start()
	said := func(want string) {
		t.Helper()
		if b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
		b.Reset()
	}
	r.tick()
	said("")
	now = now.Add(1100 * time.Millisecond)
	out.record(1 << 20)
	r.tick()
	said("\r1048576 bytes (1.0 MB, 1.0 MiB) copied, 1 s, 953 kB/s")
	r.tick()
	said("") // once a second, on the second
	now = now.Add(900*time.Millisecond + 1)
	r.tick()
	said("\r1048576 bytes (1.0 MB, 1.0 MiB) copied, 2 s, 524 kB/s")
	now = now.Add(100*time.Second + 1) // a whole number of seconds is rounded in another way
	r.tick()
	said("\r1048576 bytes (1.0 MB, 1.0 MiB) copied, 102 s, 10.3 kB/s")
	out.record(1 << 19)
	r.beforeSync()
	said("\r1572864 bytes (1.6 MB, 1.5 MiB) copied, 102 s, 15.4 kB/s")
	r.beforeSync()
	said("") // nothing new
	out.bytes.Store(7)
	now = now.Add(time.Hour)
	r.tick()
	said("\r7 bytes copied, 3702 s, 0.0 kB/s" + strings.Repeat(" ", len("1572864 bytes (1.6 MB, 1.5 MiB) copied, 102 s, 15.4 kB/s")-len("7 bytes copied, 3702 s, 0.0 kB/s")))
	r.say("it is over")
	said("\nmultidd: it is over\n")
	r.say("really")
	said("multidd: really\n")
}

func TestNamesCannotUpsetATerminal(t *testing.T) {
	for name, want := range map[string][2]string{
		"a b":               {"'a b'", "'a b'"},
		"it's":              {`"it's"`, `"it's"`},
		"":                  {"''", "''"},
		"x":                 {"'x'", "x"},
		"Karte 1 – größer":  {"'Karte 1 – größer'", "'Karte 1 – größer'"},
		"\x1b[31mred":       {`''$'\033''[31mred'`, `''$'\033''[31mred'`},
		"a\u202egnp.exe":    {`'a'$'\342\200\256''gnp.exe'`, `'a'$'\342\200\256''gnp.exe'`},
		"a\xffb":            {`'a'$'\377''b'`, `'a'$'\377''b'`},
		"line\nmultidd: ok": {`'line'$'\n''multidd: ok'`, `'line'$'\n''multidd: ok'`},
	} {
		if got := [2]string{quoteName(name), quoteBare(name)}; got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
