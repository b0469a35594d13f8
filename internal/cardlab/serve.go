package cardlab

// This file is the guest's side: init, once it has booted, carries out what the
// host sends.

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// server runs the host's commands.
type server struct {
	mu   sync.Mutex
	enc  *json.Encoder
	cmds map[int]*guestCmd
	udev bool // udevd runs
}

type guestCmd struct {
	cmd   *exec.Cmd
	stdin chan []byte // what to write to it; nil ends it
}

// feed writes to a command's standard input without keeping the server from
// other work.
func (c *guestCmd) feed(w io.WriteCloser) {
	c.stdin = make(chan []byte, 1<<10)
	go func() {
		for data := range c.stdin {
			if data == nil {
				w.Close()
				return
			}
			w.Write(data)
		}
	}()
}

func (s *server) send(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enc.Encode(m)
}

func (s *server) serve(dec *json.Decoder) {
	for {
		var m message
		if dec.Decode(&m) != nil {
			return
		}
		s.mu.Lock()
		c := s.cmds[m.ID]
		s.mu.Unlock()
		switch {
		case m.Op == "hello":
			text := ""
			s.udev = m.Udev
			if err := prepare(m); err != nil {
				text = err.Error()
			}
			s.send(message{Op: "ready", Text: text})
		case m.Op == "run":
			if err := s.run(m); err != nil {
				s.send(message{Op: "exit", ID: m.ID, Text: err.Error()})
			}
		case c == nil:
		case m.Op == "stdin":
			c.stdin <- m.Data
		case m.Op == "eof":
			c.stdin <- nil
		case m.Op == "signal":
			syscall.Kill(-c.cmd.Process.Pid, syscall.Signal(m.Code))
		}
	}
}

// prepare makes the root and what else the host asks for, then waits for the cards.
func prepare(m message) error {
	if err := makeRoot(); err != nil {
		return err
	}
	if err := os.WriteFile(guestDir+"/topology", []byte(strings.Join(m.Topology, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	for i, dir := range m.Shares {
		tag := fmt.Sprintf("share%d", i)
		if err := syscall.Mount(tag, dir, "9p", 0, opts9p+"cache=mmap"); err != nil {
			return fmt.Errorf("mount share %s: %w", dir, err)
		}
	}
	if m.Udev {
		for _, c := range []string{"/lib/systemd/systemd-udevd --daemon", "udevadm trigger --action=add"} {
			if err := simpleCommand(c); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		n := len(blockDevices())
		if n >= m.Cards {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d cards showed up within a minute", n, m.Cards)
		}
	}
	if m.Udev {
		return simpleCommand("udevadm settle --timeout=60")
	}
	return nil
}

func simpleCommand(line string) error {
	args := strings.Fields(line)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// run starts a command; what becomes of it is sent to the host.
func (s *server) run(m message) error {
	env := s.environment(m.Env) // first: it sets where exec.Command looks
	cmd := exec.Command(m.Args[0], m.Args[1:]...)
	cmd.Dir, cmd.Env = m.Dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // don't wait for daemons that keep the pipes open
	c := &guestCmd{cmd: cmd}
	afterwards := func() {}
	if m.TTY {
		master, slave, err := openPTY()
		if err != nil {
			return err
		}
		defer slave.Close()
		afterwards = s.onTerminal(c, m.ID, master, slave)
	} else {
		cmd.Stdout = &sender{s, "out", m.ID}
		cmd.Stderr = &sender{s, "err", m.ID}
		if m.In {
			in, err := cmd.StdinPipe()
			if err != nil {
				return err
			}
			c.feed(in)
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.mu.Lock()
	s.cmds[m.ID] = c
	s.mu.Unlock()
	go func() {
		cmd.Wait()
		afterwards()
		s.mu.Lock()
		delete(s.cmds, m.ID)
		s.mu.Unlock()
		s.send(message{Op: "exit", ID: m.ID, Code: exitCode(cmd.ProcessState)})
	}()
	return nil
}

// environment returns a command's environment, given the host's; the helpers
// are last in its PATH.
func (s *server) environment(env []string) []string {
	env = append(env, "CARDLAB=1")
	if !s.udev {
		env = append(env, "DM_DISABLE_UDEV=1") // for dmsetup, which would wait for it
	}
	for i, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			env[i] = e + ":" + guestDir + "/bin"
			os.Setenv("PATH", path+":"+guestDir+"/bin") // for exec.Command to find programs by
		}
	}
	return env
}

// onTerminal lets a command that is about to be started run on a terminal. The
// function it returns is to be called when the command has ended, and returns
// when all that was printed has been sent.
func (s *server) onTerminal(c *guestCmd, id int, master, slave *os.File) func() {
	c.feed(ttyStdin{master})
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	c.cmd.SysProcAttr.Setctty = true
	copied := make(chan struct{})
	go func() {
		io.Copy(&sender{s, "out", id}, master) // ends with EIO
		close(copied)
	}()
	return func() {
		select {
		case <-copied:
		case <-time.After(time.Second): // a daemon keeps the terminal open
		}
		master.Close()
	}
}

func exitCode(state *os.ProcessState) int {
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

type sender struct {
	s  *server
	op string
	id int
}

func (w *sender) Write(p []byte) (int, error) {
	w.s.send(message{Op: w.op, ID: w.id, Data: p})
	return len(p), nil
}

// ttyStdin ends the input as the key ^D does.
type ttyStdin struct{ *os.File }

func (t ttyStdin) Close() error {
	_, err := t.Write([]byte{4})
	return err
}

// openPTY returns the two ends of a terminal of 80x24.
func openPTY() (master, slave *os.File, err error) {
	fd, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	var n, unlock int32
	size := [4]uint16{24, 80}
	for _, call := range []struct {
		request uintptr
		arg     unsafe.Pointer
	}{
		{syscall.TIOCSPTLCK, unsafe.Pointer(&unlock)},
		{syscall.TIOCGPTN, unsafe.Pointer(&n)},
		{syscall.TIOCSWINSZ, unsafe.Pointer(&size)},
	} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), call.request, uintptr(call.arg)); errno != 0 {
			return nil, nil, errno
		}
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	return master, slave, err
}
