package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"multidd/internal/cardlab"
)

// options are what the flags of run ask for.
type options struct {
	cfg     cardlab.Config
	plan    cardlab.Plan
	command []string

	cards    int
	size     int64
	script   string
	planFile string
	do       []string
	jsonFile string
	timeout  time.Duration
	tty      bool
	stdin    bool

	edits []func() error // of cfg.Cards, once their number is known
}

// parseOptions reads the arguments of run. A word that is no flag, or whose
// value makes no sense, ends the program with exit status 2.
func parseOptions(args []string) (*options, error) {
	o := &options{size: 64 << 20}
	flags := flag.NewFlagSet("cardlab run", flag.ExitOnError)
	o.machineFlags(flags)
	o.cardFlags(flags)
	o.commandFlags(flags)
	flags.Parse(args)
	if o.script != "" {
		abs, err := filepath.Abs(o.script)
		if err != nil {
			return nil, err
		}
		o.command = []string{"/bin/sh", abs}
	}
	o.command = append(o.command, flags.Args()...)
	for range o.cards {
		o.cfg.Cards = append(o.cfg.Cards, cardlab.Card{Size: o.size})
	}
	for _, edit := range o.edits {
		if err := edit(); err != nil {
			return nil, err
		}
	}
	text := ""
	if o.planFile != "" {
		b, err := os.ReadFile(o.planFile)
		if err != nil {
			return nil, err
		}
		text = string(b) + "\n"
	}
	var err error
	o.plan, err = cardlab.ParsePlan(text + strings.Join(o.do, "\n"))
	return o, err
}

func (o *options) machineFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.cfg.Udev, "udev", false, "run udevd in the guest")
	flags.IntVar(&o.cfg.Memory, "mem", 1024, "memory in `MiB`")
	flags.IntVar(&o.cfg.CPUs, "cpus", 2, "number of `CPUs`")
	flags.StringVar(&o.cfg.StateDir, "state", "", "`directory` for card files and logs, kept (default: a temporary one)")
	flags.StringVar(&o.cfg.Accel, "accel", os.Getenv("CARDLAB_ACCEL"), "`kvm` or tcg (default: what setup found to work)")
	flags.Func("share", "`directory` that the guest may write to; may be repeated", func(s string) error {
		abs, err := filepath.Abs(s)
		o.cfg.Shares = append(o.cfg.Shares, abs)
		return err
	})
	flags.Func("kernel-arg", "add `word` to the kernel's command line; may be repeated", func(s string) error {
		o.cfg.KernelArgs = append(o.cfg.KernelArgs, s)
		return nil
	})
	flags.BoolFunc("v", "tell what the lab does", func(string) error {
		o.cfg.Logf = logf
		return nil
	})
}

func (o *options) commandFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.script, "script", "", "run this `file` with sh instead of a command; arguments may follow --")
	flags.StringVar(&o.planFile, "plan", "", "`file` with a plan of events")
	flags.Func("do", "a `line` of a plan; may be repeated", func(s string) error {
		o.do = append(o.do, s)
		return nil
	})
	flags.StringVar(&o.jsonFile, "json", "", "write a report to this `file`")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "end the machine after this `time`")
	flags.BoolVar(&o.tty, "tty", false, "run the command on a terminal")
	flags.BoolVar(&o.stdin, "stdin", false, "pass the standard input on to the command")
}

func (o *options) cardFlags(flags *flag.FlagSet) {
	flags.IntVar(&o.cards, "cards", 1, "number of `cards`")
	flags.Func("card-size", "`size` of each card (64M)", func(s string) (err error) {
		o.size, err = cardlab.ParseSize(s)
		return err
	})
	flags.IntVar(&o.cfg.Slots, "slots", 1, "card `slots` (LUNs) in each reader")
	flags.BoolVar(&o.cfg.UAS, "uas", false, "readers that speak UAS, for cards that are ejected while they are written")
	flags.BoolVar(&o.cfg.Hub, "hub", false, "put the readers behind hubs of 8 ports")
	o.perCard(flags, "slow", "limit the speed of writing: `CARDS=BPS`, as in 3=500K or 0-6,9=2M", "=", "bps=")
	o.perCard(flags, "fail", "make a 512-byte sector fail to be written: `CARDS=SECTOR`", "=", "failw=")
	o.perCard(flags, "card", "set options: `CARDS:OPT,OPT…` of absent, empty, mmc, ro, file=, size=, bs=, bps=, bpsr=, failw=, failr=, vendor=, product=, serial=", ":", "")
}

// perCard adds a flag of the form CARDS, separator, options. The options are
// separated by commas; before the first stands prefix, unspoken.
func (o *options) perCard(flags *flag.FlagSet, name, help, separator, prefix string) {
	flags.Func(name, help, func(s string) error {
		list, value, ok := strings.Cut(s, separator)
		cards, err := cardlab.ParseCards(list)
		if err != nil || !ok {
			return fmt.Errorf("want CARDS%sVALUE", separator)
		}
		o.edits = append(o.edits, func() error {
			for _, i := range cards {
				if i >= len(o.cfg.Cards) {
					return fmt.Errorf("--%s %s: there is no card %d", name, s, i)
				}
				for opt := range strings.SplitSeq(prefix+value, ",") {
					if err := setOption(&o.cfg.Cards[i], opt); err != nil {
						return fmt.Errorf("--%s %s: %w", name, s, err)
					}
				}
			}
			return nil
		})
		return nil
	})
}

// setOption sets one option of a card.
func setOption(c *cardlab.Card, opt string) error {
	key, value, _ := strings.Cut(opt, "=")
	var err error
	number := func(p *int64) { *p, err = cardlab.ParseSize(value) }
	sector := func(p *[]int64) {
		var n int64
		n, err = strconv.ParseInt(value, 0, 64)
		*p = append(*p, n)
	}
	switch key {
	case "absent":
		c.Absent = true
	case "empty":
		c.Empty = true
	case "mmc":
		c.MMC = true
	case "ro":
		c.ReadOnly = true
	case "file":
		c.File, err = filepath.Abs(value)
	case "size":
		number(&c.Size)
	case "bs":
		c.BlockSize, err = strconv.Atoi(value)
	case "bps":
		number(&c.WriteBPS)
	case "bpsr":
		number(&c.ReadBPS)
	case "failw":
		sector(&c.FailWrites)
	case "failr":
		sector(&c.FailReads)
	case "vendor":
		c.Vendor = value
	case "product":
		c.Product = value
	case "serial":
		c.Serial = value
	default:
		err = errors.New("no such option")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", opt, err)
	}
	return nil
}
