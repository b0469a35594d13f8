package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrTool is the error of a tool that is not installed.
var ErrTool = errors.New("a tool is missing")

// packages are where Debian keeps the tools.
var packages = map[string]string{
	"mke2fs": "e2fsprogs", "e2fsck": "e2fsprogs", "mkfs.vfat": "dosfstools", "sfdisk": "fdisk", "mkswap": "util-linux",
	"mkfs.jffs2": "mtd-utils", "sumtool": "mtd-utils", "mkfs.ubifs": "mtd-utils", "ubinize": "mtd-utils", "sqfstar": "squashfs-tools", "0xFFFF": "0xffff",
}

// A tool runs other people's programs, all with the same clock.
type tool struct {
	now   time.Time
	stdin io.Reader
	dir   string // where they run; "": here
}

// find returns where a program is: tools that make file systems are often not where
// users' programs are looked for.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: there is no %s; install the package %s", ErrTool, name, packages[name])
}

// run runs a program and returns what it printed. An exit status that is not in ok, or
// 0, is an error with the last of it.
func (t tool) run(ctx context.Context, name string, args []string, ok ...int) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Dir = t.stdin, t.dir
	cmd.Env = t.environment()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	exit, isExit := errors.AsType[*exec.ExitError](err)
	for _, status := range ok {
		if isExit && exit.ExitCode() == status {
			err = nil
		}
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %s", name, lastWords(out.String(), err))
	}
	return out.String(), nil
}

// environment returns the environment of a program.
func (t tool) environment() []string {
	const now = "SOURCE_DATE_EPOCH="
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, now) })
	return append(env, "LC_ALL=C.UTF-8", "TZ=UTC", "E2FSPROGS_FAKE_TIME="+t.seconds(), "E2FSCK_TIME="+t.seconds(), now+t.seconds())
}

func (t tool) seconds() string { return strconv.FormatInt(max(1, t.now.Unix()), 10) }

// lastWords makes a sentence of what a program printed before it failed.
func lastWords(out string, err error) string {
	lines := strings.FieldsFunc(out, func(r rune) bool { return r == '\n' || r == '\r' })
	var last []string
	for _, l := range lines {
		if l = strings.TrimSpace(l); l != "" {
			last = append(last, l)
		}
	}
	if len(last) == 0 {
		return err.Error()
	}
	return strings.Join(last[max(0, len(last)-3):], "; ")
}
