package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The reasons this package gives, in refusals and in errors. They are stable: they
// appear in JSON and in the journal.
const (
	ReasonMounted        = "mounted"          // a file system or swap on the disk is in use
	ReasonSystemDisk     = "system-disk"      // the running system needs the disk
	ReasonSourceOnTarget = "source-on-target" // what is being read lies on the disk
	ReasonBusy           = "busy"             // another process or device holds it
	ReasonReadOnly       = "read-only"        // write-protected
	ReasonTooSmall       = "too-small"        // the image does not fit
	ReasonTooBig         = "too-big"          // above Policy.MaxSize
	ReasonNotRemovable   = "not-removable"    // built in, and not allowed by Policy.AllowFixed
	ReasonNotACard       = "not-a-card"       // nothing that can be a target
	ReasonEmpty          = "empty"            // no card in the slot
	ReasonNoSuchDevice   = "no-such-device"   // there is none of that name
	ReasonSameDevice     = "same-device"      // given twice, under two names
	ReasonNoDirectIO     = "no-direct-io"     // Options.Strict cannot be kept
	ReasonNoDiscard      = "no-discard"       // what it discards need not read as zeros; see Card.CanDiscard
	ReasonUnknown        = "unknown"          // a fact that matters cannot be had

	ReasonTargetChanged = "target-changed" // another card sits where the checked one sat
	ReasonRemoved       = "removed"        // the card or its reader was pulled
	ReasonForeignWrite  = "foreign-write"  // somebody else wrote to it
	ReasonWriteEIO      = "write-eio"      // it refuses to be written somewhere
	ReasonReadEIO       = "read-eio"       // it cannot read some of its bytes
	ReasonFlush         = "flush"          // it could not empty its cache
)

// DefaultMaxSize is the size in bytes above which a disk is refused if
// Policy.MaxSize says nothing: nobody means to image the disk with the backups.
const DefaultMaxSize = 256 << 30

// A Policy is what the user allows. The zero value allows the least.
type Policy struct {
	MaxSize int64 // in bytes; 0: DefaultMaxSize
	// AllowFixed lists built-in disks that are meant all the same, each by its
	// serial number or full path as the user typed it. It lifts ReasonNotRemovable
	// and nothing else.
	AllowFixed []string
	// Images are the paths of all that is read in this run.
	Images []string
	// Named says that the user named the disk, rather than some rule choosing it.
	// Only then may it be a loop device.
	Named bool
}

// A Refusal is a reason why a disk may not be written.
type Refusal struct {
	Reason string // one of the constants
	Text   string // what is wrong and what to do about it, in one sentence
}

// Judge decides whether a disk may be written: it may if there are no refusals. The
// most telling refusal comes first. All of multidd's guards are in here and in
// what it calls; a fact that cannot be had is a refusal too. What the computer
// does with the disk is looked up anew; the disk's own size and kind are taken
// from d.
func (s System) Judge(d Disk, p Policy) []Refusal { return s.JudgeAll([]Disk{d}, p)[0] }

// JudgeAll is Judge for each of some disks, by one look at the computer for all of
// them.
func (s System) JudgeAll(disks []Disk, p Policy) [][]Refusal {
	verdicts := make([][]Refusal, len(disks))
	t, err := s.load()
	for i, d := range disks {
		if err != nil {
			verdicts[i] = []Refusal{unseen(d, err)}
			continue
		}
		verdicts[i] = t.judge(d, p)
	}
	return verdicts
}

// unseen is the refusal of a disk since nothing can be known of what the computer
// does with it.
func unseen(d Disk, err error) Refusal {
	return refusal(ReasonUnknown, "%s is not touched: %v", d.Path, err)
}

func (t *tree) judge(d Disk, p Policy) []Refusal {
	j := judgement{t: t, d: d, p: p}
	if d.Bus == BusFile {
		j.file()
		return j.refusals
	}
	n := t.byName[d.Name]
	if n == nil || n.dev != d.devno() || n.disk != n {
		return []Refusal{refusal(ReasonNoSuchDevice, "%s is not there any more; look at the list of devices again", d.Path)}
	}
	j.stack = t.above(n)
	j.known()
	j.inUse()
	j.source()
	j.held(n)
	if j.card(n) {
		j.removable()
		j.size()
	}
	return j.refusals
}

func refusal(reason, format string, args ...any) Refusal {
	return Refusal{reason, fmt.Sprintf(format, args...)}
}

// A judgement is one disk being judged.
type judgement struct {
	t        *tree
	d        Disk
	p        Policy
	stack    []*node // the disk and all that stands on it
	refusals []Refusal
}

func (j *judgement) refuse(reason, format string, args ...any) {
	j.refusals = append(j.refusals, refusal(reason, format, args...))
}

// card refuses what can be no card, whatever is on it, and tells whether it may be
// one.
func (j *judgement) card(n *node) bool {
	d, before := j.d, len(j.refusals)
	switch {
	case d.Bus == BusLoop && n.loop != nil && n.loop.disk != nil:
		j.refuse(ReasonNotACard, "%s is only another name for %s; name that instead", d.Path, j.t.sys.node(n.loop.disk.name))
	case d.Bus == BusLoop && n.loop == nil && d.Size > 0:
		j.refuse(ReasonUnknown, "%s has a size but it cannot be told what is behind it; detach it and attach it again", d.Path)
	case d.Bus == BusLoop && !j.p.Named:
		j.refuse(ReasonNotACard, "%s is a file attached as a disk, not a card; name it if it is meant", d.Path)
	case d.Bus == BusMMC && strings.Trim(strings.TrimPrefix(d.Name, "mmcblk"), "0123456789") != "":
		// mmcblk0boot0, mmcblk0gp1, mmcblk0rpmb
		j.refuse(ReasonNotACard, "%s is a special area of a built-in memory chip, not a card; choose another", d.Path)
	case d.Bus == BusVirtual:
		j.refuse(ReasonNotACard, "%s is not a card but made by the system out of other disks, memory or the network; choose the card itself", d.Path)
	case d.Bus == "":
		j.refuse(ReasonNotACard, "%s is attached in a way that no card is known to be; choose another", d.Path)
	case isSCSI(d.Bus) && d.kind != "0" && d.kind != "14":
		j.refuse(ReasonNotACard, "%s is a SCSI device of type %q, not a disk; choose another", d.Path, cleanName(d.kind))
	}
	return len(j.refusals) == before
}

func isSCSI(bus string) bool { return bus == BusUSB || bus == BusSATA || bus == BusSCSI }

// known refuses a disk that some device stands on of which nothing else is known.
func (j *judgement) known() {
	for _, n := range j.stack {
		entries, err := os.ReadDir(filepath.Join(n.dir, "holders"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.refuse(ReasonUnknown, "%s is not touched, since it cannot be told what stands on it: %v", j.d.Path, err)
			return
		}
		for _, e := range entries {
			if !slices.Contains(j.stack, j.t.byName[e.Name()]) {
				j.refuse(ReasonBusy, "%s is part of %s; take that apart first (LVM, RAID or encryption)", j.d.Path, cleanName(e.Name()))
				return
			}
		}
	}
}

// inUse refuses a disk on which, or on whose parts, a file system is mounted or
// swap is turned on.
func (j *judgement) inUse() {
	var system, mounted []string
	hint := ""
	for _, n := range j.stack {
		for _, u := range j.t.uses[n] {
			what := fmt.Sprintf("%s is mounted at %s", j.t.sys.node(n.name), Clean(u.where))
			undo := "unmount it first: umount " + Clean(u.where)
			if u.swap {
				what = fmt.Sprintf("%s is in use as swap", Clean(u.where))
				undo = "turn it off first: swapoff " + Clean(u.where)
			}
			if u.system() {
				system = append(system, what)
				continue
			}
			if len(mounted) == 0 {
				hint = undo
			}
			mounted = append(mounted, what)
		}
	}
	if len(system) > 0 {
		j.refuse(ReasonSystemDisk, "%s is needed by the running system (%s); choose another disk", j.d.Path, someOf(system))
	}
	if len(mounted) > 0 {
		j.refuse(ReasonMounted, "%s is in use (%s); %s", j.d.Path, someOf(mounted), hint)
	}
}

// source refuses a disk that holds what is being read.
func (j *judgement) source() {
	for _, image := range j.p.Images {
		p := j.t.locate(image)
		if p.disk == nil && p.file == (fileID{}) {
			j.refuse(ReasonUnknown, "%s is not touched, since it cannot be told where the image %s lies; check its path", j.d.Path, Clean(image))
			continue
		}
		if j.holds(p) {
			j.refuse(ReasonSourceOnTarget, "the image %s lies on %s, which would overwrite it; copy it to another disk first", Clean(image), j.d.Path)
		}
	}
}

// holds tells whether writing the disk would write what is at p.
func (j *judgement) holds(p place) bool {
	if p.file != (fileID{}) && p.file == j.d.file {
		return true
	}
	for _, on := range p.on {
		for _, n := range j.t.below(on) {
			if slices.Contains(j.stack, n) {
				return true
			}
			if n.loop != nil && n.loop.file != (fileID{}) && n.loop.file == j.d.file {
				return true
			}
		}
	}
	return false
}

// held refuses a disk that other devices of the kernel are made of.
func (j *judgement) held(n *node) {
	for _, h := range j.stack {
		switch {
		case h.disk == n:
		case h.loop != nil:
			j.refuse(ReasonBusy, "%s is attached to %s; detach it first: losetup -d %s", Clean(h.loop.path), h.name, j.t.sys.node(h.name))
			return
		default:
			j.refuse(ReasonBusy, "%s is part of %s; take that apart first (LVM, RAID or encryption)", j.d.Path, h.name)
			return
		}
	}
}

// removable refuses disks that are built in, or are disks in a box. Readers of SD cards that are built in
// too say that their medium cannot be removed, so cards are known by their bus.
func (j *judgement) removable() {
	d := j.d
	what := "a built-in disk"
	switch {
	case d.Bus == BusLoop, d.Bus == BusUSB && d.Removable:
		return
	case d.Bus == BusUSB:
		// Readers and sticks say that their medium can be removed; disks in a USB
		// box, the ones with the backups, do not.
		what = "a USB disk that says it is no removable medium"
	case d.Bus == BusMMC && (d.kind == "SD" || d.kind == "SDcombo"):
		return
	case d.Bus == BusMMC:
		what = "a built-in memory chip (eMMC)"
	case d.Removable:
		return
	}
	for _, a := range j.p.AllowFixed {
		if a != "" && a == d.Serial || filepath.IsAbs(a) && j.same(a) {
			return
		}
	}
	by := "its full path, " + d.Path
	if d.Serial != "" {
		by = "its serial number, " + d.Serial
	}
	j.refuse(ReasonNotRemovable, "%s (%s) is %s, not a card; if it is meant all the same, allow it (--allow-fixed) by %s", d.Path, d.what(), what, by)
}

// same tells whether a path is that of the disk being judged.
func (j *judgement) same(path string) bool {
	p := j.t.locate(path)
	return path == j.d.Path || p.disk != nil && p.disk.dev == j.d.devno()
}

// size refuses slots without a card, cards that cannot be written, and disks too
// big to be cards.
func (j *judgement) size() {
	d := j.d
	limit := j.p.MaxSize
	if limit == 0 {
		limit = DefaultMaxSize
	}
	switch {
	case d.Size == 0 && d.Bus == BusLoop:
		j.refuse(ReasonEmpty, "no file is attached to %s; attach one first: losetup %s FILE", d.Path, d.Path)
		return
	case d.Size == 0:
		j.refuse(ReasonEmpty, "there is no card in slot %s (%s); put one in", d.Slot, d.Path)
		return
	case d.Size < 0:
		j.refuse(ReasonUnknown, "the size of %s cannot be told; take the card out and put it in again", d.Path)
	case d.Size > limit:
		j.refuse(ReasonTooBig, "%s has %s, above the limit of %s; raise the limit if it is meant all the same", d.Path, amount(d.Size), amount(limit))
	}
	if d.ReadOnly {
		j.refuse(ReasonReadOnly, "%s is write-protected; %s", d.Path, tabHint)
	}
}

const tabHint = "move the tab at the side of the card and put it in again"

// file judges a plain file that stands for a card.
func (j *judgement) file() {
	d := j.d
	if d.file != (fileID{}) && slices.Contains(j.t.swapFiles, d.file) {
		j.refuse(ReasonMounted, "%s is in use as swap; turn it off first: swapoff %s", d.Path, d.Path)
	}
	j.source()
	for _, n := range j.t.attached(d.file) {
		j.refuse(ReasonBusy, "%s is attached to %s; write to that, or detach it first: losetup -d %s", d.Path, n.name, j.t.sys.node(n.name))
	}
}

// SameDevice returns a refusal for every disk that is the same as an earlier one
// of the list.
func SameDevice(disks []Disk) []Refusal {
	var refusals []Refusal
	for i, d := range disks {
		for _, e := range disks[:i] {
			if d.is(e) {
				refusals = append(refusals, refusal(ReasonSameDevice, "%s was named before, as %s; name it once", d.Slot, e.Path))
				break
			}
		}
	}
	return refusals
}

// is tells whether writing d would write e.
func (d Disk) is(e Disk) bool {
	if d.file != (fileID{}) && d.file == e.file {
		return true
	}
	if d.Bus == BusFile || e.Bus == BusFile {
		return d.Bus == e.Bus && d.Path == e.Path
	}
	return d.devno() == e.devno()
}

// Fits returns an error, with ReasonTooSmall, if the disk ends before byte end: the
// end of an image's last used extent.
func (d Disk) Fits(end int64) error {
	if d.Size < 0 || end <= d.Size {
		return nil
	}
	return newError(ReasonTooSmall, nil, "%s is too small by %s: it has %d bytes and the image needs %d; take a bigger card", d.Path, amount(end-d.Size), d.Size, end)
}

// what describes a disk in a few words.
func (d Disk) what() string {
	return strings.Join(strings.Fields(strings.Join([]string{d.Bus, d.Vendor, d.Model, amount(d.Size)}, " ")), " ")
}

// amount writes a number of bytes for people.
func amount(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d bytes", n)
	}
	f, i := float64(n)/1000, 0
	for ; f >= 999.95 && i < len(units)-1; i++ {
		f /= 1000
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}

// someOf joins a list of clauses, and cuts it after the third.
func someOf(list []string) string {
	if len(list) > 3 {
		return strings.Join(list[:3], ", ") + fmt.Sprintf(" and %d more", len(list)-3)
	}
	return strings.Join(list, ", ")
}
