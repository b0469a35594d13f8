package cardlab

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// SetupCommand is what a person types to set the lab up.
const SetupCommand = "go run ./internal/cardlab/cmd/cardlab setup"

// kernelPackage stands for the newest kernel. Its cloud flavour lacks USB and MTD.
const kernelPackage = "linux-image-amd64"

// hostPrograms must be there to make the guest and to run it; the packages that
// hold them are installed if they are not.
var hostPrograms = []struct{ name, pkg string }{
	{"qemu-system-x86_64", "qemu-system-x86"},
	{"xz", "xz-utils"}, // the kernel is packed with it
}

// extraPackages are unpacked beside the host's files, for the guest alone.
var extraPackages = []string{"udev", "libudev1", "libkmod2", "dmsetup", "libdevmapper1.02.1",
	"mtd-utils", "liblzo2-2", "attr", "libattr1", "dosfstools"}

// guestFiles are what the initramfs is made of and by: when they change, it has
// to be made again.
//
//go:embed guest init.go serve.go disks.go cpio.go initramfs.go setup.go
var guestFiles embed.FS

// cache is the directory that Setup makes.
type cache struct {
	dir    string
	Stamp  string // stands for the source of what was made
	Kernel string // release
	Accel  string // what works here
}

// stamp tells whether a cache was made by this version of the lab.
func stamp() string {
	h := sha256.New()
	fs.WalkDir(guestFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			data, _ := guestFiles.ReadFile(path)
			fmt.Fprintf(h, "%s %d\n%s", path, len(data), data)
		}
		return nil
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

func (c *cache) kernel() string    { return filepath.Join(c.dir, "vmlinux") }
func (c *cache) initramfs() string { return filepath.Join(c.dir, "initramfs.cpio") }
func (c *cache) extra() string     { return filepath.Join(c.dir, "extra") }

// CacheDir returns where Setup puts the kernel and the rest.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir() // knows XDG_CACHE_HOME
	return filepath.Join(dir, "cardlab"), err
}

func openCache() (*cache, error) {
	dir, err := CacheDir()
	if err != nil {
		return nil, err
	}
	c := &cache{dir: dir}
	b, err := os.ReadFile(filepath.Join(dir, "cache.json"))
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("the card lab is not set up in %s: run '%s'", dir, SetupCommand)
	case c.Stamp != stamp():
		return nil, fmt.Errorf("the card lab in %s was set up by another version: run '%s' again", dir, SetupCommand)
	}
	return c, nil
}

// Available returns nil if virtual machines can be started here: tests call it
// to know whether to skip. It looks at two files and takes no time.
func Available() error {
	if _, err := qemuPath(); err != nil {
		return err
	}
	_, err := openCache()
	return err
}

// Setup installs QEMU if it is absent, and makes the cache directory: the
// kernel and its modules from Debian's package, and an initramfs whose init is
// this very program, which must be statically linked and call GuestMain first.
// The first line of its error is a sentence that says what is missing.
func Setup(logf func(format string, args ...any)) error {
	dir, err := CacheDir()
	if err != nil {
		return err
	}
	if err := checkHost(); err != nil {
		return err
	}
	if err := installPrograms(logf); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	os.Remove(filepath.Join(dir, "cache.json"))
	tmp, err := os.MkdirTemp(dir, "setup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	c := &cache{dir: dir, Stamp: stamp()}
	if err := c.make(tmp, logf); err != nil {
		return err
	}
	if err := c.probe(logf); err != nil {
		return err
	}
	b, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cache.json"), append(b, '\n'), 0o666)
}

// make downloads the packages and makes all that a machine is started from.
func (c *cache) make(tmp string, logf func(string, ...any)) error {
	logf("downloading packages")
	image, err := kernelImage()
	if err != nil {
		return err
	}
	c.Kernel = strings.TrimPrefix(image, "linux-image-")
	debs, err := download(tmp, append([]string{image, "busybox-static"}, extraPackages...))
	if err != nil {
		return err
	}
	logf("unpacking kernel %s", c.Kernel)
	tree := filepath.Join(tmp, "tree")
	for _, p := range []string{image, "busybox-static"} {
		if err := unpack(debs[p], tree); err != nil {
			return err
		}
	}
	if err := c.makeKernel(filepath.Join(tree, "boot", "vmlinuz-"+c.Kernel)); err != nil {
		return err
	}
	logf("making the initramfs")
	if err := c.makeInitramfs(tree, tmp); err != nil {
		return err
	}
	os.RemoveAll(c.extra())
	for _, p := range extraPackages {
		if err := unpack(debs[p], c.extra()); err != nil {
			return err
		}
	}
	return nil
}

// checkHost refuses what is no Debian on amd64.
func checkHost() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the card lab needs an amd64 machine, this one is %s", runtime.GOARCH)
	}
	for _, name := range []string{"apt-get", "apt-cache", "dpkg-deb", "tar"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("the card lab is made of Debian's packages, and the program %s is missing: set it up on Debian 12", name)
		}
	}
	return nil
}

// installPrograms installs the packages of the programs that are missing.
func installPrograms(logf func(string, ...any)) error {
	var names, pkgs []string
	for _, p := range hostPrograms {
		if _, err := exec.LookPath(p.name); err != nil {
			names, pkgs = append(names, p.name), append(pkgs, p.pkg)
		}
	}
	if len(pkgs) == 0 {
		return nil
	}
	missing := strings.Join(names, " and ")
	hint := "apt-get install " + strings.Join(pkgs, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing in PATH: %s; run '%s' as root, or this as root", missing, hint)
	}
	logf("installing %s", strings.Join(pkgs, " "))
	if err := updateLists(); err != nil {
		return err
	}
	if err := command("apt-get", append([]string{"install", "-y", "--no-install-recommends"}, pkgs...)...); err != nil {
		return fmt.Errorf("missing in PATH: %s, and '%s' did not install it: %w", missing, hint, err)
	}
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("missing in PATH: %s, even after '%s'", name, hint)
		}
	}
	return nil
}

// updateLists fetches the lists of packages, of which a fresh system has none.
func updateLists() error {
	if os.Geteuid() != 0 {
		return errors.New("the lists of Debian's packages are missing or out of date, and only root can fetch them: run 'apt-get update' as root")
	}
	if err := command("apt-get", "update"); err != nil {
		return fmt.Errorf("the lists of Debian's packages cannot be fetched; see to the network and to /etc/apt: %w", err)
	}
	return nil
}

// command runs a program; the lines of its error after the first hold the end of
// what the program said.
func command(name string, args ...string) error {
	_, err := output("", name, args...)
	return err
}

func output(dir, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	var stdout, all bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &all), &all
	if err := cmd.Run(); err != nil {
		said := all.Bytes()
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, said[max(0, len(said)-1000):])
	}
	return stdout.Bytes(), nil
}

// kernelImage returns the package that the newest kernel is in.
func kernelImage() (string, error) {
	image, err := dependency(kernelPackage)
	if err == nil {
		return image, nil
	}
	if err := updateLists(); err != nil {
		return "", err
	}
	if image, err = dependency(kernelPackage); err != nil {
		return "", fmt.Errorf("the package %s is missing from the lists of Debian's packages; see to /etc/apt: %w", kernelPackage, err)
	}
	return image, nil
}

// dependency returns what an empty package stands for.
func dependency(pkg string) (string, error) {
	out, err := output("", "apt-cache", "depends", "--important", pkg)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if _, dep, ok := strings.Cut(line, "Depends: "); ok {
			return strings.TrimSpace(dep), nil
		}
	}
	return "", fmt.Errorf("apt-cache knows of nothing that %s depends on", pkg)
}

// download gets packages without installing them, and returns their files.
func download(dir string, pkgs []string) (map[string]string, error) {
	args := append([]string{"-o", "APT::Sandbox::User=root", "download"}, pkgs...)
	if _, err := output(dir, "apt-get", args...); err != nil {
		// The lists may name versions that the mirror has no more.
		if uerr := updateLists(); uerr != nil {
			return nil, errors.Join(uerr, err)
		}
		if _, err := output(dir, "apt-get", args...); err != nil {
			return nil, fmt.Errorf("the packages of Debian cannot be downloaded; see to the network and to /etc/apt: %w", err)
		}
	}
	debs := map[string]string{}
	for _, p := range pkgs {
		found, _ := filepath.Glob(filepath.Join(dir, p+"_*.deb"))
		if len(found) != 1 {
			return nil, fmt.Errorf("apt-get download left %d files of the package %s instead of one", len(found), p)
		}
		debs[p] = found[0]
	}
	return debs, nil
}

// unpack unpacks a package into a tree whose /bin, /lib and so on are links
// into /usr, as in Debian.
func unpack(deb, dir string) error {
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(dir, "usr", d), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+d, filepath.Join(dir, d)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return command("sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink --no-same-owner -C "$2"`, "sh", deb, dir)
}

// probe finds out what runs the guest here. KVM may be there and yet be unable
// to run a stock kernel, or be slower than TCG, QEMU's own emulation.
func (c *cache) probe(logf func(string, ...any)) error {
	qemu, err := qemuPath()
	if err != nil {
		return err
	}
	for _, accel := range []string{"kvm", "tcg"} {
		limit := 2 * time.Minute
		if accel == "kvm" {
			limit = 10 * time.Second
			f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
			if err != nil {
				logf("kvm: %v", err)
				continue
			}
			f.Close()
		}
		took, err := c.tryBoot(qemu, accel, limit)
		if err == nil {
			logf("%s: the kernel and init are up and down in %.1f s", accel, took.Seconds())
			c.Accel = accel
			return nil
		}
		logf("%s: %v", accel, err)
	}
	return errors.New("the guest boots neither with KVM nor with TCG, QEMU's own emulation")
}

func (c *cache) tryBoot(qemu, accel string, limit time.Duration) (time.Duration, error) {
	args := append(machineArgs(accel), "-smp", "2", "-m", "512", "-serial", "stdio",
		"-kernel", c.kernel(), "-initrd", c.initramfs(),
		"-append", strings.Join(append(kernelArgs(), "cardlab.probe"), " "))
	cmd := exec.Command(qemu, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	took := time.Since(start)
	if strings.Contains(out.String(), "cardlab: probe ok") {
		return took, nil
	}
	said := strings.Fields(out.String())
	return took, fmt.Errorf("does not boot the guest (ended after %.0f s; the last words: %q)",
		took.Seconds(), strings.Join(said[max(0, len(said)-12):], " "))
}
