// Command multidd writes one image to many cards at once: read once, decoded
// once, each card at its own speed, read back, proved. See README.md.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"multidd/internal/station"
)

// version is set by the linker when a release is built.
var version = "0.1-dev"

func main() {
	leave(run(os.Args[1:], console{os.Stdin, os.Stdout, os.Stderr}))
}

// A console is what a command talks to. They are files, since whether they are
// terminals matters.
type console struct{ in, out, err *os.File }

// An exitError ends the program with a status; err, which may be nil when all has
// been said already, says why.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// quit returns an error that ends the program with a status.
func quit(status int, format string, args ...any) error {
	return &exitError{status, fmt.Errorf(format, args...)}
}

// run is the program: it returns the exit status.
func run(args []string, c console) int {
	if isDD(args) {
		return runDD(args, c)
	}
	if len(args) > 0 && args[0] == "dd" && !wantsHelp(args[1:]) {
		return runDD(args[1:], c)
	}
	root := newRoot(c)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return station.ExitGood
	}
	var e *exitError
	if !errors.As(err, &e) {
		// What cobra itself finds wrong is the command line.
		e = &exitError{station.ExitUsage, fmt.Errorf("%w\nRun '%s --help' for what can be said", err, cmd.CommandPath())}
	}
	if e.err != nil {
		say(c.err, "%v", e.err)
	}
	return e.status
}

func wantsHelp(args []string) bool {
	return len(args) > 0 && (args[0] == "-h" || args[0] == "--help")
}

// say writes a message to people.
func say(w io.Writer, format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	fmt.Fprintf(w, "multidd: %s\n", text)
}

func newRoot(c console) *cobra.Command {
	root := &cobra.Command{
		Use:   "multidd",
		Short: "Write one image to many cards at once",
		Long: `multidd writes one image, raw or packed, to every card in the rack at once. The
image is read once and unpacked once. Each card goes at its own speed, is
flushed, read back past every cache and compared; only then is it called good.

The words of dd work as well: multidd if=IMAGE of=CARD of=CARD bs=4M
(see 'multidd help dd').`,
		Example: `  multidd devices                                    which cards are here
  multidd write -n master.img.bz2 /dev/sdb /dev/sdc  what would be lost
  multidd write master.img.bz2 /dev/sdb /dev/sdc     write and read back
  multidd if=master.img.bz2 of=/dev/sdb bs=4M status=progress
  multidd if=/dev/sdb of=backup.img.bz2              a card into an image`,
		Version:           version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("there is no command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", ".FlagUsagesWrapped 80"))
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.AddCommand(newWrite(c), newDevices(c), newCapture(c), newInspect(c), newBuild(c), newExtract(c), newDDHelp(), newMan(root), newExitCodes())
	return root
}

// newExitCodes returns the help page about exit statuses.
func newExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit status says",
		Long:  exitStatuses,
	}
}

// exitStatuses is what the exit status says, for the help of every command that
// writes cards.
const exitStatuses = `Exit status (any other is a failure, too):

      0  every requested card is good
      1  another error
      2  the command line is wrong
      3  some cards failed, at least one is good
      4  no card is good
      5  refused by a guard, nothing was written
      6  the image is bad: its digest, its packing or its size
      7  a permission or a prerequisite is missing
     10  written but not verified (--verify=none)
    130  interrupted by Ctrl-C; 143: by SIGTERM

In the words of dd (multidd if=… of=…) it is 0 or 1, as dd's.`
