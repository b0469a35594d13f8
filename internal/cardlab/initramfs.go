package cardlab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// makeKernel takes the ELF kernel out of the bzImage: QEMU starts it directly
// (PVH), which spares the slow decompression in the guest.
func (c *cache) makeKernel(bzImage string) error {
	b, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	// The setup header: Documentation/arch/x86/boot.rst.
	setupSects := int64(b[0x1f1])
	offset, length := binary.LittleEndian.Uint32(b[0x248:]), binary.LittleEndian.Uint32(b[0x24c:])
	start := (setupSects+1)*512 + int64(offset)
	payload := b[start:][:length]
	var unpacker []string
	switch {
	case bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")):
		unpacker = []string{"xz", "-dc", "--single-stream"}
	case bytes.HasPrefix(payload, []byte("\x28\xb5\x2f\xfd")):
		unpacker = []string{"zstd", "-dcq"}
	default:
		return os.WriteFile(c.kernel(), b, 0o666) // slower, but it works
	}
	cmd := exec.Command(unpacker[0], unpacker[1:]...)
	cmd.Stdin = bytes.NewReader(payload)
	out, err := cmd.Output()
	if _, eerr := elf.NewFile(bytes.NewReader(out)); eerr != nil {
		return fmt.Errorf("unpack the kernel with %s: %w", unpacker[0], errors.Join(err, eerr))
	}
	return os.WriteFile(c.kernel(), out, 0o666)
}

// bootModules are loaded at boot, guestModules when something asks for them
// (modprobe, or the mounting of a file system).
var (
	bootModules = []string{
		"virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay",
		"sd_mod", "mmc_block", "sdhci_pci", "usb_storage", "uas", "xhci_pci", // last: the cards show up while the root is mounted
	}
	guestModules = []string{
		"vfat", "exfat", "ext4", "btrfs", "f2fs", "squashfs", "isofs", "udf", "xfs", "ntfs3",
		"nls_ascii", "nls_cp437", "nls_iso8859_1", "nls_utf8", "crc32c_generic",
		"jffs2", "ubifs", "deflate", "lzo", "zstd", "mtdblock", "mtdram", "block2mtd", "nandsim", // UBIFS wants all its packers
		"loop", "brd", "null_blk", "scsi_debug", "sg", "nbd", "zram",
		"dm_mod", "dm_flakey", "dm_delay", "dm_log_writes", "dm_snapshot",
		"virtio_blk", "fuse",
	}
)

// makeInitramfs packs init, busybox and the modules.
func (c *cache) makeInitramfs(tree, tmp string) error {
	self, err := staticSelf()
	if err != nil {
		return err
	}
	modules, err := c.findModules(tree)
	if err != nil {
		return err
	}
	boot, err := closure(modules, bootModules)
	if err != nil {
		return err
	}
	all, err := closure(modules, slices.Concat(bootModules, guestModules))
	if err != nil {
		return err
	}
	busybox := filepath.Join(tree, "bin/busybox")
	slim := filepath.Join(tmp, "slim")
	if err := c.slimModules(tree, slim, busybox, all); err != nil {
		return err
	}
	f, err := os.Create(c.initramfs())
	if err != nil {
		return err
	}
	defer f.Close()
	w := &cpioWriter{w: f}
	if err := addPrograms(w, self, busybox); err != nil {
		return err
	}
	var list strings.Builder
	for _, file := range boot {
		fmt.Fprintln(&list, "/"+inUsr(tree, file))
	}
	w.add("boot.modules", cpioFile|0o644, []byte(list.String()))
	err = filepath.WalkDir(slim, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(slim, path)
			w.addFile(rel, path)
		}
		return err
	})
	return errors.Join(err, w.close(), f.Close())
}

// staticSelf returns the path of this program, which is to be the guest's init.
func staticSelf() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := elf.Open(self)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if libs, _ := f.ImportedLibraries(); len(libs) > 0 {
		return "", errors.New("this program is not statically linked and cannot be the guest's init: build it with CGO_ENABLED=0")
	}
	return self, nil
}

// inUsr returns the path of a file in a tree's /usr, from there.
func inUsr(tree, file string) string {
	rel, _ := filepath.Rel(filepath.Join(tree, "usr"), file)
	return rel
}

// slimModules makes a tree of the given modules alone, with depmod's tables.
func (c *cache) slimModules(tree, slim, busybox string, modules []string) error {
	copyFile := func(rel, from string) error {
		to := filepath.Join(slim, rel)
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o644)
	}
	for _, file := range modules {
		if err := copyFile(inUsr(tree, file), file); err != nil {
			return err
		}
	}
	for _, name := range []string{"modules.builtin", "modules.order"} {
		rel := filepath.Join("lib/modules", c.Kernel, name)
		if err := copyFile(rel, filepath.Join(tree, rel)); err != nil {
			return err
		}
	}
	return command(busybox, "depmod", "-b", slim, c.Kernel)
}

// addPrograms adds init, busybox with a link for each applet, and the helpers.
func addPrograms(w *cpioWriter, self, busybox string) error {
	w.addFile("init", self)
	w.addFile("bin/busybox", busybox)
	applets, err := output("", busybox, "--list")
	if err != nil {
		return err
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			w.add("bin/"+applet, cpioLink|0o777, []byte("busybox"))
		}
	}
	w.addFile("bin/card", self)
	w.add("bin/cards", cpioLink|0o777, []byte("card"))
	helpers, err := guestFiles.ReadDir("guest")
	if err != nil {
		return err
	}
	for _, h := range helpers {
		data, err := guestFiles.ReadFile("guest/" + h.Name())
		if err != nil {
			return err
		}
		w.add("bin/"+h.Name(), cpioFile|0o755, data)
	}
	return nil
}

// findModules maps the names of all modules to their files.
func (c *cache) findModules(tree string) (map[string]string, error) {
	modules := map[string]string{}
	err := filepath.WalkDir(filepath.Join(tree, "usr/lib/modules", c.Kernel), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			modules[moduleName(path)] = path
		}
		return err
	})
	if err == nil && len(modules) == 0 {
		err = errors.New("the modules in the kernel package are compressed, and the card lab can load only those that are not, as in Debian 12")
	}
	return modules, err
}

// closure returns the files of modules and of what they depend on, in the order
// in which they can be loaded. Names that are not modules of this kernel are
// left out, since they may be built in; only USB mass storage must be there.
func closure(modules map[string]string, names []string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = moduleName(name)
		file, ok := modules[name]
		if seen[name] || !ok {
			return nil
		}
		seen[name] = true
		info, err := modinfo(file)
		if err != nil {
			return err
		}
		for _, dep := range append(strings.Split(info["depends"], ","), strings.Fields(info["softdep"])...) {
			if dep != "pre:" && dep != "post:" && dep != "" {
				if err := visit(dep); err != nil {
					return err
				}
			}
		}
		files = append(files, file)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	if !seen["usb_storage"] {
		return nil, errors.New("the kernel package holds no usb-storage module")
	}
	return files, nil
}

// modinfo returns what a module says about itself.
func modinfo(file string) (map[string]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s: no .modinfo", file)
	}
	data, err := section.Data()
	info := map[string]string{}
	for field := range bytes.SplitSeq(data, []byte{0}) {
		if k, v, ok := strings.Cut(string(field), "="); ok {
			info[k] = v
		}
	}
	return info, err
}
