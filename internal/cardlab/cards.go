package cardlab

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// portsPerBus is what one xHCI controller has.
const portsPerBus = 15

// slot is a card's place: a LUN of a reader, which is a USB device, or a slot
// built into the machine.
type slot struct {
	Card
	reader   int // negative for a built-in one
	lun      int
	plugged  bool  // the reader is plugged in
	inserted bool  // the card is in its slot
	swaps    int   // how many cards were here before this one
	past     Stats // of the times before the last pull
}

// Stats counts what happened to a card, as seen by the card. Only completed
// requests count.
type Stats struct {
	WriteBytes, ReadBytes     int64
	Writes, Reads, Flushes    int64
	FailedWrites, FailedReads int64
}

func (s Stats) plus(t Stats) Stats {
	return Stats{
		s.WriteBytes + t.WriteBytes, s.ReadBytes + t.ReadBytes,
		s.Writes + t.Writes, s.Reads + t.Reads, s.Flushes + t.Flushes,
		s.FailedWrites + t.FailedWrites, s.FailedReads + t.FailedReads,
	}
}

func cardID(i int) string   { return fmt.Sprintf("card%d", i) }
func readerID(r int) string { return fmt.Sprintf("reader%d", r) }
func nodeID(i int) string   { return fmt.Sprintf("node%d", i) }
func groupID(i int) string  { return fmt.Sprintf("group%d", i) }

// makeSlots fills in the defaults and makes the backing files.
func (vm *VM) makeSlots() error {
	usb, builtIn := 0, 0
	for i, c := range vm.cfg.Cards {
		c.File = cmp.Or(c.File, filepath.Join(vm.Dir, fmt.Sprintf("card%02d.img", i)))
		c.Size = cmp.Or(c.Size, 64<<20)
		c.Vendor = cmp.Or(c.Vendor, "Generic")
		c.Product = cmp.Or(c.Product, "SD/MMC")
		s := slot{Card: c, inserted: !c.Empty}
		if c.MMC {
			builtIn++
			s.reader, s.plugged, s.inserted = -builtIn, true, !c.Empty && !c.Absent
		} else {
			perReader := cmp.Or(vm.cfg.Slots, 1)
			s.reader, s.lun = usb/perReader, usb%perReader
			usb++
		}
		s.Serial = cmp.Or(c.Serial, fmt.Sprintf("CARDLAB-%04d", s.reader))
		if err := c.make(); err != nil {
			return fmt.Errorf("card %d: %w", i, err)
		}
		vm.slots = append(vm.slots, s)
	}
	return nil
}

// make makes the backing file of a card unless it is there.
func (c *Card) make() error {
	if n := c.WriteBPS; n > 0 && n < minBPS || c.ReadBPS > 0 && c.ReadBPS < minBPS {
		return fmt.Errorf("a speed of less than %d bytes per second", minBPS)
	}
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(c.Size), f.Close())
}

// PCI addresses: the USB controllers are at 10, 11, …, the built-in slots at 18, 19, …
const (
	pciUSB = 0x10
	pciMMC = 0x18
)

// port returns the controller and the port path of reader r.
func (vm *VM) port(r int) (bus int, port string) {
	if vm.cfg.Hub { // hubs of 8 ports, the first reader on port 1.1
		hub := r / 8
		return hub / portsPerBus, fmt.Sprintf("%d.%d", hub%portsPerBus+1, r%8+1)
	}
	return r / portsPerBus, fmt.Sprint(r%portsPerBus + 1)
}

// cardArgs returns QEMU's arguments for all that can't be plugged in later: the
// controllers, the hubs, the built-in slots, and the cards' block nodes.
func (vm *VM) cardArgs() []string {
	var args []string
	add := func(option string, o obj) {
		b, _ := json.Marshal(o)
		args = append(args, option, string(b))
	}
	seen := map[string]bool{}
	once := func(id string, o obj) {
		if !seen[id] {
			seen[id] = true
			o["id"] = id
			add("-device", o)
		}
	}
	for i := range vm.slots {
		s := &vm.slots[i]
		add("-object", obj{"qom-type": "throttle-group", "id": groupID(i), "limits": s.limits()})
		for _, node := range s.nodes(i) {
			add("-blockdev", node)
		}
		if s.MMC {
			sdhci := fmt.Sprintf("sdhci%d", -s.reader)
			once(sdhci, obj{"driver": "sdhci-pci", "addr": fmt.Sprintf("%#x", s.pci())})
			once(cardID(i), obj{"driver": "sd-card", "bus": "/q35-pcihost/pcie.0/" + sdhci + "/sd-bus", "drive": nodeID(i)})
			continue
		}
		bus, port := vm.port(s.reader)
		xhci := fmt.Sprintf("xhci%d", bus)
		once(xhci, obj{"driver": "qemu-xhci", "addr": fmt.Sprintf("%#x", pciUSB+bus), "p2": portsPerBus, "p3": portsPerBus})
		if hub, _, ok := strings.Cut(port, "."); ok {
			once(fmt.Sprintf("hub%d-%s", bus, hub), obj{"driver": "usb-hub", "bus": xhci + ".0", "port": hub})
		}
	}
	return args
}

// pci returns the PCI address of a built-in slot.
func (s *slot) pci() int { return pciMMC - s.reader - 1 }

// topology tells, for each card, where the guest finds it: the PCI address of
// the controller, the port path, the LUN.
func (vm *VM) topology() []string {
	var t []string
	for i := range vm.slots {
		s := &vm.slots[i]
		if s.MMC {
			t = append(t, fmt.Sprintf("0000:00:%02x.0/mmc/0", s.pci()))
			continue
		}
		bus, port := vm.port(s.reader)
		t = append(t, fmt.Sprintf("0000:00:%02x.0/%s/%d", pciUSB+bus, port, s.lun))
	}
	return t
}

// plugged counts the block devices that the guest should see.
func (vm *VM) plugged() (n int) {
	for _, s := range vm.slots {
		if s.plugged && (s.inserted || !s.MMC) {
			n++
		}
	}
	return n
}

// emptySlots takes out what built-in slots are not to hold at boot.
func (vm *VM) emptySlots() error {
	for i, s := range vm.slots {
		if s.MMC && !s.inserted {
			if err := vm.takeOut(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// plugAll plugs in the readers that are to be there at first.
func (vm *VM) plugAll() error {
	for i, s := range vm.slots {
		if !s.Absent && !vm.slots[i].plugged {
			if err := vm.Plug(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// nodes returns a card's block nodes, each on top of the one before it: the
// file, the bad sectors, the limits of speed.
func (s *slot) nodes(i int) []obj {
	top := fmt.Sprintf("file%d", i)
	all := []obj{{"driver": "file", "filename": s.File, "node-name": top, "read-only": s.ReadOnly}}
	if len(s.FailWrites)+len(s.FailReads) > 0 {
		var rules []obj
		for iotype, sectors := range map[string][]int64{"write": s.FailWrites, "read": s.FailReads} {
			for _, sector := range sectors {
				rules = append(rules, obj{"event": "none", "iotype": iotype, "sector": sector, "errno": 5})
			}
		}
		file := top
		top = fmt.Sprintf("errors%d", i)
		all = append(all, obj{"driver": "blkdebug", "image": file, "inject-error": rules, "node-name": top, "read-only": s.ReadOnly})
	}
	return append(all, obj{"driver": "throttle", "throttle-group": groupID(i), "file": top, "node-name": nodeID(i), "read-only": s.ReadOnly})
}

func (s *slot) limits() obj {
	return obj{"bps-write": s.WriteBPS, "bps-read": s.ReadBPS}
}

// minBPS keeps the requests of a slow card, which are of up to 128 KiB, well
// below the guest's SCSI timeout of 30 s: QEMU can't cancel a throttled request,
// and would stop the whole machine until it is done.
const minBPS = 8 << 10

const maxStall = 25 * time.Second

func (vm *VM) slot(card int) (*slot, error) {
	if card < 0 || card >= len(vm.slots) {
		return nil, fmt.Errorf("there is no card %d", card)
	}
	return &vm.slots[card], nil
}

// mates returns the indexes of all cards in the reader of s.
func (vm *VM) mates(s *slot) (all []int) {
	for i := range vm.slots {
		if vm.slots[i].reader == s.reader {
			all = append(all, i)
		}
	}
	return all
}
