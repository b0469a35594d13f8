// Package cardlab runs programs inside a small QEMU virtual machine that has a
// rack of USB card readers, whose cards are plugged, pulled, slowed down and
// broken at will while the program runs.
//
// The guest boots a stock Debian kernel. It sees the whole file system of the
// host under the same paths; what it changes there is kept in its memory and
// lost at the end, except in the directories listed in Config.Shares.
//
// A cache directory with the kernel must have been made once by Setup (the
// command "cardlab setup").
package cardlab

import (
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Config describes a virtual machine.
//
// Readers are bulk-only ones, as most are, unless UAS is set. QEMU's of that kind
// now and then fail an assertion, and the machine is gone, if a card is ejected
// while it is being written; those that speak UAS do so if the reader is pulled
// then. Choose what is to be done in mid-write.
type Config struct {
	Cards      []Card   // the cards, by index
	Slots      int      // card slots (LUNs) in each reader; default 1
	Hub        bool     // put the readers behind USB hubs: port paths such as 2.3
	UAS        bool     // readers that speak USB Attached SCSI, as all with several slots do
	Shares     []string // host directories that the guest may write to
	StateDir   string   // for card files and logs; default: a temporary one, removed by Close
	Udev       bool     // run udevd in the guest
	Memory     int      // MiB; default 1024
	CPUs       int      // default 2
	Accel      string   // "kvm" or "tcg"; default: what Setup found to work
	KernelArgs []string // added to the kernel's command line; module.param=value works too

	Logf func(format string, args ...any) // told what the lab does; may be nil
}

// Card describes a card and the slot it belongs to.
type Card struct {
	File       string  // backing file; default StateDir/cardNN.img. Made, sparse, if absent
	Size       int64   // in bytes, if the file has to be made; default 64 MiB
	Absent     bool    // the reader is not plugged in at boot
	Empty      bool    // the reader is plugged in at boot, without this card
	MMC        bool    // in a slot built into the machine: /dev/mmcblkN, no USB. The size must be a power of two
	ReadOnly   bool    // the write-protect tab is on
	BlockSize  int     // logical block size; default 512
	WriteBPS   int64   // bytes per second; 0 = no limit
	ReadBPS    int64   // bytes per second; 0 = no limit
	FailWrites []int64 // 512-byte sectors that can't be written
	FailReads  []int64 // 512-byte sectors that can't be read
	Vendor     string  // of the reader; default "Generic"
	Product    string  // of the reader; default "SD/MMC"
	Serial     string  // of the reader's USB device; default CARDLAB-NNNN. The first card of a reader counts
}

// VM is a running virtual machine.
type VM struct {
	Boot  time.Duration // from the start of QEMU to the guest's being ready for commands
	Accel string        // "kvm" or "tcg"
	Dir   string        // the state directory: card files, kernel.log, qemu.log

	cfg     Config
	started time.Time
	tempDir bool
	qemu    *exec.Cmd
	exited  chan struct{} // closed when QEMU has gone
	qmp     *qmp
	guest   *guestConn

	mu    sync.Mutex // guards what follows, and plugging
	slots []slot
	last  []Stats
}

// Start boots a virtual machine and waits until the guest sees its cards.
func Start(cfg Config) (*VM, error) {
	cache, err := openCache()
	if err != nil {
		return nil, err
	}
	vm := &VM{cfg: cfg, Accel: cmp.Or(cfg.Accel, cache.Accel), Dir: cfg.StateDir}
	if vm.Dir == "" {
		if vm.Dir, err = os.MkdirTemp("", "cardlab-"); err != nil {
			return nil, err
		}
		vm.tempDir = true
	} else if err := os.MkdirAll(vm.Dir, 0o777); err != nil {
		return nil, err
	}
	err = vm.makeSlots()
	for try := 1; err == nil; try++ {
		if err = vm.boot(cache); err == nil {
			return vm, nil
		}
		if !errors.Is(err, errNotUp) || try == 3 {
			break
		}
		vm.logf("%v\ntrying again", err)
		vm.Kill() // if it hangs
		err = nil
	}
	vm.Close()
	return nil, err
}

// errNotUp is the error of a kernel that hangs or panics in its first seconds. On
// a machine with much other work its timers seem not to work now and then. No
// card has been touched by then.
var errNotUp = errors.New("the kernel did not come up")

func (vm *VM) boot(cache *cache) error {
	if err := vm.launch(cache); err != nil {
		return err
	}
	if err := vm.emptySlots(); err != nil {
		return err
	}
	if err := vm.qmp.do("cont", nil, nil); err != nil {
		return err
	}
	// The cards wait until the kernel is up: the firmware would spend a quarter
	// of a second on each, and seconds on an empty slot.
	if err := vm.await("up", time.Minute); err != nil {
		return err
	}
	if err := vm.plugAll(); err != nil {
		return err
	}
	hello := message{Op: "hello", Topology: vm.topology(), Udev: vm.cfg.Udev, Cards: vm.plugged()}
	for _, dir := range vm.cfg.Shares {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		hello.Shares = append(hello.Shares, abs)
	}
	if err := vm.guest.send(hello); err != nil {
		return vm.explain(err)
	}
	if err := vm.await("ready", 3*time.Minute); err != nil {
		return err
	}
	vm.Boot = time.Since(vm.started)
	vm.logf("booted in %.1f s (%s)", vm.Boot.Seconds(), vm.Accel)
	return nil
}

// PowerCut ends the machine at once through QMP. What the guest had not yet
// written to a card is lost; what the cards had accepted is kept.
func (vm *VM) PowerCut() error {
	vm.logf("power cut")
	return vm.quit()
}

func (vm *VM) quit() error {
	if vm.qmp != nil {
		vm.qmp.do("quit", nil, nil) // its answer may be lost: the exit counts
	}
	select {
	case <-vm.exited:
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("QEMU did not quit within 20 s; it was killed"), vm.Kill())
	}
}

// Kill is a power cut by SIGKILL to QEMU: writes in flight to the cards are lost too.
func (vm *VM) Kill() error {
	err := vm.qemu.Process.Kill()
	<-vm.exited
	return err
}

// Alive tells whether the machine still runs.
func (vm *VM) Alive() bool {
	if vm.qemu == nil {
		return false
	}
	select {
	case <-vm.exited:
		return false
	default:
		return true
	}
}

// Close ends the machine, and removes its state directory if it was temporary.
// Like PowerCut, it lets the guest write nothing more.
func (vm *VM) Close() error {
	var err error
	if vm.Alive() {
		err = vm.quit()
	}
	if vm.qmp != nil {
		vm.qmp.conn.Close()
	}
	if vm.guest != nil {
		vm.guest.conn.Close()
	}
	if vm.tempDir {
		err = errors.Join(err, os.RemoveAll(vm.Dir))
	}
	return err
}

func (vm *VM) logf(format string, args ...any) {
	if vm.cfg.Logf != nil {
		vm.cfg.Logf(format, args...)
	}
}
