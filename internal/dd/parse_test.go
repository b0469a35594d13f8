package dd

import (
	"math"
	"math/big"
	"strings"
	"testing"
)

func TestOperandsAreToldFromCommands(t *testing.T) {
	for args, want := range map[string]bool{
		"if=x of=y": true, "bs=4M": true, "foo=": true, "conv=a=b": true,
		"": false, "write": false, "--help": false, "=x": false, "--if=x": false, "a.img=x": false, "/dev/a=b": false, "write if=x": false,
	} {
		if got := IsOperands(strings.Fields(args)); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}

func TestWhatIsNotTakenIsRefusedByName(t *testing.T) {
	for _, arg := range strings.Fields(`cbs=80 conv=ascii conv=ebcdic conv=ibm conv=block conv=unblock conv=lcase conv=ucase conv=swab
		iflag=append iflag=directory iflag=dsync iflag=sync iflag=noatime iflag=nocache iflag=noctty iflag=nofollow iflag=nonblock iflag=seek_bytes
		oflag=append oflag=directory oflag=noatime oflag=nocache oflag=noctty oflag=nofollow oflag=nonblock oflag=count_bytes oflag=skip_bytes`) {
		name, _, _ := strings.Cut(arg, "80")
		_, err := Parse([]string{"if=x", arg, "of=y"})
		if err == nil || !strings.HasPrefix(err.Error(), name+" is not taken: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", arg, err)
		}
	}
	for _, arg := range []string{"hash=crc", "verify=maybe", "iflag=foo", "status=loud"} {
		if _, err := Parse([]string{arg}); err == nil || !strings.Contains(err.Error(), "'multidd --help'") {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestAPackedOutputIsWrittenFromItsBeginning(t *testing.T) {
	for args, ok := range map[string]bool{
		"of=x.bz2 bs=1M": true, "of=x.gz conv=fsync,excl": true, "of=x.xz seek=0": true, "of=x.zip seek=1": true, "of=x.img conv=notrunc": true,
		"of=x.bz2 seek=1 oflag=raw": true, "if=y.bz2 of=x.bz2 seek=1": true,
		"of=x.bz2 seek=1": false, "of=a of=x.GZ seek=1B": false, "of=x.xz conv=notrunc": false, "of=x.zst conv=sparse": false,
		"if=y.bz2 of=x.bz2 of=x seek=1": false,
	} {
		if _, err := Parse(strings.Fields(args)); (err == nil) != ok {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// reference computes a number in the words of the grammar, slowly.
func reference(s string) *big.Int {
	product := big.NewInt(1)
	for factor := range strings.SplitSeq(s, "x") {
		n := new(big.Int)
		digits := factor[:len(factor)-len(strings.TrimLeft(factor, "0123456789"))]
		if _, ok := n.SetString(digits, 10); !ok {
			n.SetInt64(1)
		}
		rest := strings.TrimPrefix(factor, digits)
		for unit, bytes := range map[string]int64{"c": 1, "w": 2, "b": 512} {
			if rest == unit {
				n.Mul(n, big.NewInt(bytes))
			}
		}
		base := int64(1024)
		if len(rest) == 2 {
			base = 1000
		}
		if rest != "" {
			power := strings.Index("kMGTPEZYRQ", strings.ReplaceAll(rest[:1], "K", "k")) + 1
			n.Mul(n, new(big.Int).Exp(big.NewInt(base), big.NewInt(int64(power)), nil))
		}
		product.Mul(product, n)
	}
	return product
}

func TestNumbersMeanWhatTheirGrammarSays(t *testing.T) {
	var factors []string
	for _, digits := range []string{"", "0", "1", "7", "1023", "9007199254740993", "9223372036854775807", "36893488147419103232"} {
		for _, unit := range []string{"", "c", "w", "b", "k", "K", "kB", "KiB", "MB", "M", "GiB", "T", "PB", "E", "EiB", "Z", "YB", "R", "QB"} {
			if digits+unit != "" {
				factors = append(factors, digits+unit)
			}
		}
	}
	for _, a := range factors {
		for _, b := range append(factors[:len(factors):len(factors)], "") {
			s := strings.TrimSuffix(a+"x"+b, "x")
			want := reference(s)
			got, err := parseNumber(s)
			switch {
			case want.IsInt64() && (err != nil || got != want.Int64()):
				t.Errorf("%s: %d, %v, want %v", s, got, err, want)
			case !want.IsInt64() && err != errOverflow:
				t.Errorf("%s: %d, %v, want too large", s, got, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tr := range trials() {
		f.Add(strings.ReplaceAll(tr.args, " ", "\n"))
	}
	f.Add("if=a.bz2\nof=b.gz\nof=c\nhash=sha256,md5\nverify=none\niflag=raw,skip_bytes\nskip=9x9xkB\nbs=7")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\n")
		j, err := Parse(args)
		if err != nil {
			if j != nil || err.Error() == "" {
				t.Fatalf("%v with the error %q", j, err)
			}
			return
		}
		within := func(what string, a Amount, record int64) {
			if a.Records < 0 || a.Bytes < 0 || a.Bytes >= record {
				t.Errorf("%s is %v of %d bytes", what, a, record)
			}
			if n, ok := a.length(record); n < 0 || !ok && n != math.MaxInt64 {
				t.Errorf("%s is %d bytes long", what, n)
			}
		}
		if j.IBS < 1 || j.OBS < 1 || j.IBS > maxSize || j.OBS > maxSize {
			t.Errorf("records of %d and %d bytes", j.IBS, j.OBS)
		}
		within("count", j.Count, j.IBS)
		within("skip", j.Skip, j.IBS)
		within("seek", j.Seek, j.OBS)
		if j.Excl && j.NoCreat {
			t.Error("a file that must and must not be there")
		}
		for _, name := range j.Outputs {
			if j.Packs(name) != "raw" && (!j.Seek.Zero() || j.NoTrunc || j.Sparse) {
				t.Errorf("%q is packed in the middle", name)
			}
		}
	})
}
