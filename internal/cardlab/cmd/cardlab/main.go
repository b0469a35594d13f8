// Command cardlab runs programs in a virtual machine with a rack of USB card readers.
// See the README of package cardlab.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"multidd/internal/cardlab"
)

const usage = `usage:
  cardlab setup [--again]          install QEMU, make the kernel and the initramfs
                                   unless they are there
  cardlab run [FLAGS] -- CMD ARG…  run a command in a machine with cards
  cardlab run -h                   explain the flags

Exit status of run: that of the command; 124 after --timeout, 125 if the lab
or an event of the plan failed, 126 after a power cut.
`

// Exit statuses of run that are not the command's.
const (
	exitUsage    = 2
	exitTimeout  = 124
	exitLab      = 125
	exitPowerCut = 126
)

func main() {
	cardlab.GuestMain()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(exitUsage)
	}
	switch os.Args[1] {
	case "setup":
		os.Exit(setup(os.Args[2:]))
	case "run":
		os.Exit(run(os.Args[2:]))
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(exitUsage)
	}
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "cardlab: "+format+"\n", args...)
}

func setup(args []string) int {
	flags := flag.NewFlagSet("cardlab setup", flag.ExitOnError)
	again := flags.Bool("again", false, "set the lab up even if it is: a newer kernel, another machine")
	flags.Parse(args)
	if !*again && cardlab.Available() == nil {
		logf("the lab is set up")
		return 0
	}
	if err := cardlab.Setup(logf); err != nil {
		logf("the lab cannot be set up: %v", err)
		return exitLab
	}
	return 0
}

// report is what --json writes.
type report struct {
	Exit    int
	Outcome string // "exit", "power cut", "timeout" or what went wrong
	Accel   string
	Boot    float64 // seconds
	Run     float64 // seconds
	Events  []cardlab.Happened
	Cards   []cardlab.Stats // at the end
}

func run(args []string) int {
	o, err := parseOptions(args)
	if err != nil {
		logf("%v", err)
		return exitLab
	}
	if len(o.command) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	vm, err := cardlab.Start(o.cfg)
	if err != nil {
		logf("%v", err)
		return exitLab
	}
	rep := o.runIn(vm)
	if err := vm.Close(); err != nil {
		logf("%v", err)
	}
	if err := rep.write(o.jsonFile); err != nil {
		logf("write the report: %v", err)
		return exitLab
	}
	return rep.Exit
}

// runIn runs the command in the machine, under the plan.
func (o *options) runIn(vm *cardlab.VM) report {
	rep := report{Accel: vm.Accel, Boot: vm.Boot.Seconds(), Outcome: "exit"}
	cmd := vm.Command(o.command...)
	cmd.TTY, cmd.Stdout, cmd.Stderr = o.tty, os.Stdout, os.Stderr
	if o.stdin {
		cmd.Stdin = os.Stdin
	}
	late := time.AfterFunc(o.timeout, func() {
		logf("timeout after %v", o.timeout)
		vm.Kill()
	})
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		logf("%v", <-interrupt)
		vm.Close()
		os.Exit(exitLab)
	}()
	start := time.Now()
	var err error
	rep.Events, err = cmd.RunPlan(o.plan)
	rep.Run = time.Since(start).Seconds()
	inTime := late.Stop()
	exit, isExit := errors.AsType[*cardlab.ExitError](err)
	switch {
	case err == nil:
	case isExit:
		rep.Exit = exit.Code
	case err == cardlab.ErrGone && !inTime:
		rep.Exit, rep.Outcome = exitTimeout, "timeout"
	case err == cardlab.ErrGone:
		rep.Exit, rep.Outcome = exitPowerCut, "power cut"
	default:
		logf("%v", err)
		rep.Exit, rep.Outcome = exitLab, err.Error()
	}
	for _, e := range rep.Events {
		if e.Error != "" {
			logf("plan: %s: %s", e.Event, e.Error)
			rep.Exit = exitLab
		}
	}
	rep.Cards, _ = vm.Stats() // as of the end, even if the machine has gone
	return rep
}

// write writes the report to a file, if one is named.
func (r report) write(file string) error {
	if file == "" {
		return nil
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "\t")
	if err := enc.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(b.String()), 0o666)
}
