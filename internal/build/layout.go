package build

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A place is where a partition lies, in bytes.
type place struct{ off, size int64 }

// layout says where everything goes. sizes are those of the partitions, of which one
// may be Rest. It returns the places and the size of the image.
func (r *Recipe) layout(sizes []int64) ([]place, int64, error) {
	if r.Table == "none" {
		size := sizes[0]
		if Size(size) == Rest {
			size = int64(r.Size)
		}
		return []place{{0, size}}, max(size, int64(r.Size)), nil
	}
	align := int64(r.Align)
	const backup = 33 * 512 // of a gpt, at the end
	end := int64(r.Size)
	if r.Table == "gpt" {
		end -= backup
	}
	var places []place
	at := align
	for i := range r.Partitions {
		p := &r.Partitions[i]
		if r.isLogical(i) {
			at += align // room for the sector that describes it
		}
		if p.Start > 0 {
			if int64(p.Start) < at && i > 0 || p.Start < 34*512 && r.Table == "gpt" || p.Start < 512 {
				return nil, 0, fmt.Errorf("partition %d: it starts at byte %d, and what is before it ends at byte %d", i+1, p.Start, at)
			}
			at = int64(p.Start)
		}
		size := sizes[i]
		if Size(size) == Rest {
			after, err := r.after(sizes, i)
			if err != nil {
				return nil, 0, err
			}
			if size = (end - after - at) / align * align; size <= 0 {
				return nil, 0, fmt.Errorf("partition %d: nothing is left for it of %d bytes", i+1, r.Size)
			}
		}
		size = (size + 511) / 512 * 512
		places = append(places, place{at, size})
		at = (at + size + align - 1) / align * align
	}
	last := places[len(places)-1]
	switch need := last.off + last.size; {
	case r.Size == 0 && r.Table == "gpt":
		return places, (need + backup + align - 1) / align * align, nil
	case r.Size == 0:
		return places, (need + align - 1) / align * align, nil
	case need > end:
		return nil, 0, fmt.Errorf("the partitions take %d bytes, and the image has %d", need+int64(r.Size)-end, r.Size)
	}
	return places, int64(r.Size), nil
}

// after returns what the partitions behind number i take.
func (r *Recipe) after(sizes []int64, i int) (int64, error) {
	align, n := int64(r.Align), int64(0)
	for k := i + 1; k < len(sizes); k++ {
		if r.Partitions[k].Start > 0 {
			return 0, fmt.Errorf("partition %d takes the rest, so partition %d behind it cannot have a start", i+1, k+1)
		}
		n += (sizes[k] + align - 1) / align * align
		if r.isLogical(k) {
			n += align
		}
	}
	return n, nil
}

// isLogical tells whether a partition of an MBR goes into an extended one: from the
// fourth on, if there are more than four.
func (r *Recipe) isLogical(i int) bool {
	return r.Table == "mbr" && len(r.Partitions) > 4 && i >= 3
}

// checkRaw makes sure that a boot loader overwrites nothing.
func (r *Recipe) checkRaw(places []place, size int64) error {
	taken := []area{{"the partition table", 440, 512}}
	switch r.Table {
	case "gpt":
		taken = []area{{"the partition table", 440, 34 * 512}, {"the partition table", size - 33*512, size}}
	case "none":
		taken = nil
	}
	for i, p := range places {
		from := p.off
		if r.isLogical(i) {
			from -= int64(r.Align) // where the sector is that describes it
		}
		taken = append(taken, area{fmt.Sprintf("partition %d", i+1), from, p.off + p.size})
	}
	for _, x := range r.Raw {
		st, err := os.Stat(r.path(x.File))
		if err != nil {
			return fmt.Errorf("raw: %w", err)
		}
		off, end := int64(x.Offset), int64(x.Offset)+st.Size()
		if end > size {
			return fmt.Errorf("raw %s: it ends at byte %d, and the image at %d", x.File, end, size)
		}
		for _, a := range taken {
			if off < a.to && a.from < end {
				return fmt.Errorf("raw %s: bytes %d to %d lie over %s at %d to %d", x.File, off, end, a.what, a.from, a.to)
			}
		}
		taken = append(taken, area{x.File, off, end})
	}
	return nil
}

// An area of the image, in bytes.
type area struct {
	what     string
	from, to int64
}

// table has sfdisk write the partition table into the image's file.
func (r *Recipe) table(ctx context.Context, t tool, file string, places []place, ids identities) error {
	if r.Table == "none" {
		return nil
	}
	var s strings.Builder
	label, id := "gpt", ids.disk
	if r.Table == "mbr" {
		label, id = "dos", "0x"+ids.disk[:8]
	}
	fmt.Fprintf(&s, "label: %s\nlabel-id: %s\nunit: sectors\n", label, id)
	if r.Table == "gpt" {
		s.WriteString("first-lba: 34\n")
	}
	s.WriteString("\n")
	for i, pl := range places {
		p := &r.Partitions[i]
		if r.isLogical(i) && i == 3 {
			last := places[len(places)-1]
			from := pl.off - int64(r.Align)
			fmt.Fprintf(&s, "start=%d, size=%d, type=5\n", from/512, (last.off+last.size-from)/512)
		}
		kind := kinds[p.FS]
		typ := p.Type
		if typ == "" {
			typ = kind.gpt
			if r.Table == "mbr" {
				typ = kind.mbr
			}
		}
		fmt.Fprintf(&s, "start=%d, size=%d, type=\"%s\"", pl.off/512, pl.size/512, typ)
		if r.Table == "gpt" {
			fmt.Fprintf(&s, ", uuid=%s", ids.parts[i])
			if p.Name != "" {
				fmt.Fprintf(&s, ", name=\"%s\"", p.Name)
			}
			flags := slices.Clone(p.Flags)
			if p.Boot && !slices.Contains(flags, "LegacyBIOSBootable") {
				flags = append(flags, "LegacyBIOSBootable")
			}
			if len(flags) > 0 {
				fmt.Fprintf(&s, ", attrs=\"%s\"", strings.Join(flags, " "))
			}
		} else if p.Boot {
			s.WriteString(", bootable")
		}
		s.WriteString("\n")
	}
	t.stdin = strings.NewReader(s.String())
	if _, err := t.run(ctx, "sfdisk", []string{"--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", file}); err != nil {
		return fmt.Errorf("write the partition table: %w", err)
	}
	return nil
}
