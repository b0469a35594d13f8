package devicetest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// An aborter fails all that the kernel waits for from one FUSE server.
//
// It does so by itself when this process is killed: a thread that waits for a
// card that hangs cannot die, so it keeps the process's descriptors open, so the
// kernel does not notice that nobody serves the card any more, so the thread
// waits for ever. Small processes stand by, stopped, and are woken when the
// thread that began them ends. There are two of them, begun by two threads,
// because the one last thread of the process can be the one that cannot end.
type aborter struct {
	file    *os.File
	dismiss chan struct{} // closed when the processes are no longer needed
	gone    sync.WaitGroup
}

// newAborter returns the aborter of the server of an open file.
func newAborter(file int) (*aborter, error) {
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return nil, fmt.Errorf("stat the card's file: %w", err)
	}
	control, err := mountFloating("fusectl", nil)
	if err != nil {
		return nil, err
	}
	defer unix.Close(control)
	name := fmt.Sprintf("%d/abort", unix.Minor(st.Dev))
	fd, err := unix.Openat(control, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open fusectl's %s: %w", name, err)
	}
	a := &aborter{file: os.NewFile(uintptr(fd), name), dismiss: make(chan struct{})}
	for range 2 {
		if err := a.standBy(); err != nil {
			a.close()
			return nil, err
		}
	}
	return a, nil
}

// standBy begins a process that aborts when this one dies.
func (a *aborter) standBy() error {
	started := make(chan error)
	a.gone.Go(func() {
		runtime.LockOSThread() // whose end is what wakes the process
		defer runtime.UnlockOSThread()
		cmd := exec.Command("sh", "-c", "kill -STOP $$; echo 1 >&3")
		cmd.ExtraFiles = []*os.File{a.file}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGCONT}
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		<-a.dismiss
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := <-started; err != nil {
		return fmt.Errorf("stand by to abort: %w", err)
	}
	return nil
}

// now aborts.
func (a *aborter) now() error {
	if _, err := a.file.WriteString("1"); err != nil {
		return fmt.Errorf("abort a fake card: %w", err)
	}
	return nil
}

// close frees what the aborter holds.
func (a *aborter) close() {
	close(a.dismiss)
	a.gone.Wait()
	a.file.Close()
}
