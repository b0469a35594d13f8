package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A card that hangs can hold a thread in the kernel for ever, and a process with
// such a thread cannot end, not even by SIGKILL. So that the run can always end,
// cards are written by a child, the worker, and the process that the user
// started only waits for it. The worker tells its exit status through a pipe as
// soon as it is known; if it then does not end, it is left behind.

// workerEnv marks a worker; its value is the file descriptor of the pipe.
const workerEnv = "MULTIDD_WORKER"

// lastWords is how long a worker may take to end after telling its status.
const lastWords = time.Second

// sameSignal is how far apart two signals are at least that are meant as two: a
// terminal sends Ctrl-C to both processes, and the first passes it on as well.
const sameSignal = 200 * time.Millisecond

// supervise runs the program again as a worker and returns its exit status.
func supervise(args []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find the program's own file: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make a pipe: %w", err)
	}
	defer r.Close()
	// The worker dies with the thread that started it.
	runtime.LockOSThread()
	worker := exec.Command(self, args...)
	worker.Args[0] = os.Args[0]
	worker.Stdin, worker.Stdout, worker.Stderr = os.Stdin, os.Stdout, os.Stderr
	worker.ExtraFiles = []*os.File{w}
	worker.Env = append(os.Environ(), workerEnv+"=3")
	worker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGQUIT)
	if err := worker.Start(); err != nil {
		return 0, fmt.Errorf("start the worker: %w", err)
	}
	w.Close()
	told := make(chan int, 1)
	go func() {
		b, _ := io.ReadAll(r)
		if status, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			told <- status
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- worker.Wait() }()
	return await(worker, signals, told, ended)
}

// await passes signals on until the worker has ended or has told its status.
func await(worker *exec.Cmd, signals <-chan os.Signal, told <-chan int, ended <-chan error) (int, error) {
	var late <-chan time.Time
	status := -1
	for {
		select {
		case s := <-signals:
			_ = worker.Process.Signal(s) // it may just have ended
		case status = <-told:
			told, late = nil, time.After(lastWords)
		case err := <-ended:
			var exit *exec.ExitError
			switch {
			case err == nil:
				return 0, nil
			case status >= 0:
				return status, nil
			case errors.As(err, &exit) && exit.Exited():
				return exit.ExitCode(), nil
			case errors.As(err, &exit):
				if ws, ok := exit.Sys().(syscall.WaitStatus); ok {
					return 128 + int(ws.Signal()), fmt.Errorf("the worker was ended by %v: the cards it was writing are not usable as they are", ws.Signal())
				}
			}
			return 1, err
		case <-late:
			return status, nil
		}
	}
}

// isWorker tells whether this process is a worker.
func isWorker() bool { return os.Getenv(workerEnv) != "" }

// leave ends the process with a status. The supervisor, if there is one, is told
// before, and the output is closed: the process may not end for a long time, and who
// reads what it printed is not to wait for that.
func leave(status int) {
	if fd, err := strconv.Atoi(os.Getenv(workerEnv)); err == nil {
		f := os.NewFile(uintptr(fd), "supervisor")
		fmt.Fprintln(f, status)
		f.Close()
	}
	os.Stdout.Close()
	os.Stderr.Close()
	os.Exit(status)
}
