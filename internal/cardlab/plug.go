package cardlab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Plug plugs in the reader of a card, with all its cards.
func (vm *VM) Plug(card int) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	s, err := vm.slot(card)
	if err != nil {
		return err
	}
	if s.MMC {
		return fmt.Errorf("the reader of card %d is built in: try Insert", card)
	}
	if s.plugged {
		return fmt.Errorf("card %d is plugged in already", card)
	}
	vm.logf("plug %d", card)
	reader := readerID(s.reader)
	bus, port := vm.port(s.reader)
	// With usb-bot, QEMU spoils the sense data of all LUNs but the first.
	driver := "usb-bot"
	if vm.cfg.UAS || vm.cfg.Slots > 1 {
		driver = "usb-uas"
	}
	err = vm.qmp.do("device_add", obj{"driver": driver, "id": reader, "serial": vm.slots[vm.mates(s)[0]].Serial,
		"bus": fmt.Sprintf("xhci%d.0", bus), "port": port}, nil)
	if err != nil {
		return err
	}
	for _, i := range vm.mates(s) {
		m := &vm.slots[i]
		dev := obj{"driver": "scsi-hd", "id": cardID(i), "bus": reader + ".0", "scsi-id": 0, "lun": m.lun,
			"drive": nodeID(i), "removable": true, "vendor": m.Vendor, "product": m.Product,
			"serial": fmt.Sprintf("%s-%d", m.Serial, m.lun), "ver": "1.00",
			"werror": "report", "rerror": "report"} // as a card does, rather than stop the machine
		if m.BlockSize != 0 {
			dev["logical_block_size"], dev["physical_block_size"] = m.BlockSize, m.BlockSize
		}
		if err := vm.qmp.do("device_add", dev, nil); err != nil {
			return err
		}
		m.plugged = true
		if !m.inserted {
			if err := vm.takeOut(i); err != nil {
				return err
			}
		}
	}
	// The guest sees the reader from now on.
	return vm.qmp.do("qom-set", obj{"path": "/machine/peripheral/" + reader, "property": "attached", "value": true}, nil)
}

// Pull pulls out the reader of a card, with all its cards, without notice. If one
// of them is being written Config.UAS must not be set.
func (vm *VM) Pull(card int) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	s, err := vm.slot(card)
	if err != nil {
		return err
	}
	if s.MMC || !s.plugged {
		return fmt.Errorf("the reader of card %d is not plugged in, or built in", card)
	}
	now, err := vm.liveStats()
	if err != nil {
		return err
	}
	vm.logf("pull %d", card)
	mark := vm.qmp.mark()
	if err := vm.qmp.do("device_del", obj{"id": readerID(s.reader)}, nil); err != nil {
		return err
	}
	for _, i := range vm.mates(s) {
		m := &vm.slots[i]
		m.past, m.plugged = m.past.plus(now[i]), false
	}
	// The names may be used again only when the devices have gone.
	return vm.qmp.wait(mark, 20*time.Second, func(event string, data json.RawMessage) bool {
		var d struct{ Device string }
		json.Unmarshal(data, &d)
		return event == "DEVICE_DELETED" && d.Device == readerID(s.reader)
	})
}

// Insert puts a card back into its slot.
func (vm *VM) Insert(card int) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	s, err := vm.slot(card)
	if err != nil {
		return err
	}
	if s.inserted {
		return fmt.Errorf("card %d is in its slot already", card)
	}
	vm.logf("insert %d", card)
	s.inserted = true
	if !s.plugged {
		return nil
	}
	id := cardID(card)
	err = vm.qmp.do("blockdev-insert-medium", obj{"id": id, "node-name": nodeID(card)}, nil)
	if err == nil && !s.MMC {
		err = vm.qmp.do("blockdev-close-tray", obj{"id": id}, nil)
	}
	return err
}

// Eject takes a card out of its slot, without notice; its reader stays. For
// a card that is being written Config.UAS must be set.
func (vm *VM) Eject(card int) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	s, err := vm.slot(card)
	if err != nil {
		return err
	}
	if !s.inserted {
		return fmt.Errorf("card %d is not in its slot", card)
	}
	vm.logf("eject %d", card)
	s.inserted = false
	if !s.plugged {
		return nil
	}
	return vm.takeOut(card)
}

func (vm *VM) takeOut(card int) error {
	if !vm.slots[card].MMC { // has no tray
		// force: a card can be taken out even if the guest asked to lock the door.
		if err := vm.qmp.do("blockdev-open-tray", obj{"id": cardID(card), "force": true}, nil); err != nil {
			return err
		}
	}
	return vm.qmp.do("blockdev-remove-medium", obj{"id": cardID(card)}, nil)
}

// Slow limits the speed of writing to a card; 0 lifts the limit.
func (vm *VM) Slow(card int, bytesPerSecond int64) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	s, err := vm.slot(card)
	if err != nil {
		return err
	}
	if bytesPerSecond != 0 && bytesPerSecond < minBPS {
		return fmt.Errorf("a speed of less than %d bytes per second: try Stall", minBPS)
	}
	vm.logf("slow %d %d", card, bytesPerSecond)
	s.WriteBPS = bytesPerSecond
	return vm.setLimits(s, card, s.limits())
}

// Stall makes a card accept and give nothing for some time, 25 s at the most,
// and returns then.
func (vm *VM) Stall(card int, d time.Duration) error {
	vm.mu.Lock()
	s, err := vm.slot(card)
	if err == nil && d > maxStall {
		err = fmt.Errorf("%v is more than %v", d, maxStall)
	}
	if err == nil {
		vm.logf("stall %d %v", card, d)
		err = vm.setLimits(s, card, obj{"bps-write": 1, "bps-read": 1})
	}
	vm.mu.Unlock()
	if err != nil {
		return err
	}
	time.Sleep(d)
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.logf("end of stall %d", card)
	return vm.setLimits(s, card, s.limits())
}

func (vm *VM) setLimits(s *slot, card int, limits obj) error {
	err := vm.qmp.do("qom-set", obj{"path": "/objects/" + groupID(card), "property": "limits", "value": limits}, nil)
	if err != nil {
		return err
	}
	// Requests that wait in the queue would wait as long as the old limits had
	// it. To open the node anew, as it was, lets them through.
	nodes := s.nodes(card)
	return vm.qmp.do("blockdev-reopen", obj{"options": nodes[len(nodes)-1:]}, nil)
}

// Blank makes a card that is not in a plugged-in reader blank, like a new one.
func (vm *VM) Blank(card int) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	s, err := vm.slot(card)
	if err != nil {
		return err
	}
	if s.plugged && s.inserted {
		return fmt.Errorf("card %d is in its reader", card)
	}
	vm.logf("blank %d", card)
	info, err := os.Stat(s.File)
	if err != nil {
		return err
	}
	if err := os.Truncate(s.File, 0); err != nil {
		return err
	}
	return os.Truncate(s.File, info.Size())
}

// Swap puts another card in the place of one that is not in a plugged-in reader:
// the next Insert or Plug brings that one in. Only the fields of c that say what
// the card itself is like count: File (by default a new one), Size, ReadOnly, the
// speeds and the bad sectors. The file of the card before stays as it is.
func (vm *VM) Swap(card int, c Card) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	s, err := vm.slot(card)
	if err != nil {
		return err
	}
	if s.plugged && s.inserted {
		return fmt.Errorf("card %d is in its reader", card)
	}
	old, next := s.nodes(card), *s
	next.swaps++
	next.File = cmp.Or(c.File, filepath.Join(vm.Dir, fmt.Sprintf("card%02d-%d.img", card, next.swaps)))
	next.Size = cmp.Or(c.Size, s.Size)
	next.ReadOnly, next.WriteBPS, next.ReadBPS = c.ReadOnly, c.WriteBPS, c.ReadBPS
	next.FailWrites, next.FailReads = c.FailWrites, c.FailReads
	if err := next.make(); err != nil {
		return fmt.Errorf("card %d: %w", card, err)
	}
	vm.logf("swap %d for %s", card, next.File)
	for _, node := range slices.Backward(old) {
		if err := vm.qmp.do("blockdev-del", obj{"node-name": node["node-name"]}, nil); err != nil {
			return err
		}
	}
	*s = next
	group := obj{"path": "/objects/" + groupID(card), "property": "limits", "value": s.limits()}
	if err := vm.qmp.do("qom-set", group, nil); err != nil {
		return err
	}
	for _, node := range s.nodes(card) {
		if err := vm.qmp.do("blockdev-add", node, nil); err != nil {
			return err
		}
	}
	return nil
}

// Stats returns what happened to each card so far. When the machine has ended
// it returns the last that was known, and an error.
func (vm *VM) Stats() ([]Stats, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	all, err := vm.liveStats()
	if err != nil {
		return vm.last, err
	}
	for i := range all {
		all[i] = all[i].plus(vm.slots[i].past)
	}
	vm.last = all
	return all, nil
}

// liveStats returns what happened to each card since it was plugged in.
func (vm *VM) liveStats() ([]Stats, error) {
	var answer []struct {
		Qdev  string
		Stats struct {
			WrBytes  int64 `json:"wr_bytes"`
			RdBytes  int64 `json:"rd_bytes"`
			WrOps    int64 `json:"wr_operations"`
			RdOps    int64 `json:"rd_operations"`
			FlushOps int64 `json:"flush_operations"`
			WrFailed int64 `json:"failed_wr_operations"`
			RdFailed int64 `json:"failed_rd_operations"`
		}
	}
	if err := vm.qmp.do("query-blockstats", nil, &answer); err != nil {
		return nil, err
	}
	all := make([]Stats, len(vm.slots))
	for _, a := range answer {
		for i := range vm.slots {
			if filepath.Base(a.Qdev) == cardID(i) {
				s := a.Stats
				all[i] = Stats{s.WrBytes, s.RdBytes, s.WrOps, s.RdOps, s.FlushOps, s.WrFailed, s.RdFailed}
			}
		}
	}
	return all, nil
}

// Backing returns the path of a card's backing file.
func (vm *VM) Backing(card int) string { return vm.slots[card].File }
