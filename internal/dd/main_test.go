package dd

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// asProgram makes the test binary behave as the program does with dd's words.
const asProgram = "MULTIDD_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(runAsProgram(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func runAsProgram(args []string) int {
	job, err := Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "multidd: %v\n", err)
		return 1
	}
	run := NewRun(job, os.Stderr)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGINT)
	go func() {
		for sig := range signals {
			run.PrintStats()
			if sig == syscall.SIGINT {
				Die(syscall.SIGINT)
			}
		}
	}()
	status := run.Copy(context.Background())
	if status == BrokenPipe {
		Die(syscall.SIGPIPE)
	}
	return status
}
