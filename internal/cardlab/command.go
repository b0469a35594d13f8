package cardlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// guestConn is the host's end of the line to the guest.
type guestConn struct {
	conn   io.ReadWriteCloser
	status chan message // up, ready

	mu   sync.Mutex
	enc  *json.Encoder
	cmds map[int]*Cmd
	next int
	err  error
}

func newGuestConn(conn io.ReadWriteCloser) *guestConn {
	a := &guestConn{conn: conn, enc: json.NewEncoder(conn), status: make(chan message, 2), cmds: map[int]*Cmd{}}
	go a.read()
	return a
}

func (a *guestConn) send(m message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	return a.enc.Encode(m)
}

func (a *guestConn) read() {
	dec := json.NewDecoder(a.conn)
	for {
		var m message
		if err := dec.Decode(&m); err != nil {
			a.mu.Lock()
			a.err = ErrGone
			for _, c := range a.cmds {
				c.finish(0, ErrGone)
			}
			a.cmds = nil
			a.mu.Unlock()
			return
		}
		if m.ID == 0 {
			a.status <- m
			continue
		}
		a.mu.Lock()
		c := a.cmds[m.ID]
		if m.Op == "exit" {
			delete(a.cmds, m.ID)
		}
		a.mu.Unlock()
		switch {
		case c == nil:
		case m.Op == "out" && c.Stdout != nil:
			c.Stdout.Write(m.Data)
		case m.Op == "err" && c.Stderr != nil:
			c.Stderr.Write(m.Data)
		case m.Op == "exit" && m.Text != "":
			c.finish(0, errors.New(m.Text))
		case m.Op == "exit":
			c.finish(m.Code, nil)
		}
	}
}

// ErrGone is the error of a command whose machine ended before the command did.
var ErrGone = errors.New("the virtual machine has ended")

// ExitError is the error of a command that failed.
type ExitError struct {
	Code int // exit status, or 128 + the number of the signal that ended it
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// Cmd is a command that runs in the guest. It is used like exec.Cmd.
type Cmd struct {
	Args   []string
	Env    []string // default: the host's environment
	Dir    string   // default: the host's current directory
	TTY    bool     // run on a terminal of 80x24; all output goes to Stdout
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	vm        *VM
	id        int
	keepStdin bool // a plan will send text
	done      chan struct{}
	err       error
}

// Command prepares a command for the guest.
func (vm *VM) Command(args ...string) *Cmd {
	return &Cmd{Args: args, vm: vm, done: make(chan struct{})}
}

// Start starts the command.
func (c *Cmd) Start() error {
	if len(c.Args) == 0 {
		return errors.New("no command")
	}
	m := message{Op: "run", Args: c.Args, Env: c.Env, Dir: c.Dir, TTY: c.TTY, In: c.Stdin != nil || c.keepStdin}
	if m.Env == nil {
		m.Env = os.Environ()
	}
	if m.Dir == "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		m.Dir = dir
	}
	a := c.vm.guest
	a.mu.Lock()
	if a.err != nil {
		a.mu.Unlock()
		return a.err
	}
	a.next++
	c.id, m.ID = a.next, a.next
	a.cmds[c.id] = c
	a.mu.Unlock()
	if err := a.send(m); err != nil {
		return err
	}
	if c.Stdin != nil {
		go c.feed()
	}
	return nil
}

func (c *Cmd) feed() {
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Stdin.Read(buf)
		if n > 0 && c.vm.guest.send(message{Op: "stdin", ID: c.id, Data: buf[:n]}) != nil {
			return
		}
		if err != nil {
			if !c.keepStdin {
				c.vm.guest.send(message{Op: "eof", ID: c.id})
			}
			return
		}
	}
}

func (c *Cmd) finish(code int, err error) {
	if err == nil && code != 0 {
		err = &ExitError{code}
	}
	c.err = err
	close(c.done)
}

// Wait waits until the command ends. Its error is an *ExitError if the command
// failed, ErrGone if the machine ended first.
func (c *Cmd) Wait() error {
	<-c.done
	return c.err
}

// Run is Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Signal sends a signal to the command's process group.
func (c *Cmd) Signal(sig syscall.Signal) error {
	c.vm.logf("signal %v", sig)
	return c.vm.guest.send(message{Op: "signal", ID: c.id, Code: int(sig)})
}
