package cardlab

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// launch starts QEMU, stopped before the first instruction of the guest.
func (vm *VM) launch(cache *cache) error {
	qemu, err := qemuPath()
	if err != nil {
		return err
	}
	qmpSock, qmpFile, err := socketpair()
	if err != nil {
		return err
	}
	defer qmpFile.Close() // only QEMU is to hold it: its end is the end of the connection
	guestSock, guestFile, err := socketpair()
	if err != nil {
		qmpSock.Close()
		return err
	}
	defer guestFile.Close()
	if err := vm.startQEMU(qemu, vm.qemuArgs(cache), qmpFile, guestFile); err != nil {
		qmpSock.Close()
		guestSock.Close()
		return err
	}
	vm.guest = newGuestConn(guestSock)
	if vm.qmp, err = newQMP(qmpSock); err != nil {
		return vm.explain(err)
	}
	return nil
}

// qemuArgs returns the arguments of the machine. It finds the connections to
// QMP and to init in the guest at file descriptors 3 and 4.
func (vm *VM) qemuArgs(cache *cache) []string {
	args := append(machineArgs(vm.Accel), "-S",
		"-smp", fmt.Sprint(cmp.Or(vm.cfg.CPUs, 2)),
		"-m", fmt.Sprint(cmp.Or(vm.cfg.Memory, 1024)),
		"-kernel", cache.kernel(), "-initrd", cache.initramfs(),
		"-append", strings.Join(append(kernelArgs(), vm.cfg.KernelArgs...), " "),
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=guest,fd=4", "-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=guest,name=cardlab",
		"-chardev", "file,id=console,path="+commas(filepath.Join(vm.Dir, "kernel.log")),
		"-serial", "chardev:console",
		"-device", "virtio-rng-pci",
	)
	args = append(args, share9p("root", "/", ",readonly=on")...)
	args = append(args, share9p("extra", cache.extra(), ",readonly=on")...)
	for i, dir := range vm.cfg.Shares {
		args = append(args, share9p(fmt.Sprintf("share%d", i), dir, "")...)
	}
	return append(args, vm.cardArgs()...)
}

// startQEMU starts QEMU such that it ends when this process does.
func (vm *VM) startQEMU(qemu string, args []string, files ...*os.File) error {
	log, err := os.Create(filepath.Join(vm.Dir, "qemu.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(qemu, args...)
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	exited, started := make(chan struct{}), make(chan error)
	vm.started = time.Now()
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread, which must live on
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(exited)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	vm.qemu, vm.exited = cmd, exited
	return nil
}

// await waits until the guest has got so far.
func (vm *VM) await(op string, limit time.Duration) error {
	var err error
	select {
	case m := <-vm.guest.status:
		if m.Op == op && m.Text == "" {
			return nil
		}
		err = fmt.Errorf("the guest is %s instead of %s: %s", m.Op, op, m.Text)
	case <-vm.exited:
		err = errors.New("QEMU ended while the guest booted")
	case <-time.After(limit):
		err = fmt.Errorf("the guest was not %s within %v", op, limit)
	}
	if op == "up" {
		err = fmt.Errorf("%w: %w", errNotUp, err)
	}
	return vm.explain(err)
}

// explain adds the ends of the logs to an error of the machine itself.
func (vm *VM) explain(err error) error {
	for _, name := range []string{"qemu.log", "kernel.log"} {
		b, _ := os.ReadFile(filepath.Join(vm.Dir, name))
		if lines := strings.Split(strings.TrimSpace(string(b)), "\n"); lines[0] != "" {
			err = fmt.Errorf("%w\n%s:\n%s", err, name, strings.Join(lines[max(0, len(lines)-8):], "\n"))
		}
	}
	return err
}

func qemuPath() (string, error) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", errors.New("qemu-system-x86_64 not found: run 'cardlab setup' as root, or 'apt-get install qemu-system-x86'")
	}
	return path, nil
}

// machineArgs are the arguments that don't depend on the configuration.
func machineArgs(accel string) []string {
	cpu := "max,la57=off" // five-level page tables slow TCG down
	if accel == "kvm" {
		cpu = "host,-arch-capabilities" // which nested KVM often lacks
	}
	return []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", accel, "-cpu", cpu}
}

// kernelArgs make the boot quick, and the guest act as a machine with udev does
// where the kernel leaves that to user space (the polling of removable media).
// Without no_timer_check the kernel panics now and then when the host is busy.
func kernelArgs() []string {
	return []string{"console=ttyS0", "quiet", "loglevel=6", "panic=-1", "mitigations=off", "no_timer_check",
		"cryptomgr.notests", "random.trust_cpu=on", "block.events_dfl_poll_msecs=2000"}
}

func share9p(tag, dir, opts string) []string {
	return []string{
		"-fsdev", "local,id=" + tag + ",path=" + commas(dir) + ",security_model=none,multidevs=remap" + opts,
		"-device", "virtio-9p-pci,fsdev=" + tag + ",mount_tag=" + tag,
	}
}

// commas doubles the commas in s, as QEMU's option parser wants them.
func commas(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// socketpair returns the two ends of a connection, the second for a child
// process. They are files rather than a net.Conn: a program that does without
// package net is linked statically, and the guest's init must be.
func socketpair() (mine, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil { // so that Close wakes a reader
		return nil, nil, errors.Join(err, syscall.Close(fds[0]), syscall.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "cardlab"), os.NewFile(uintptr(fds[1]), "qemu"), nil
}
