package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"multidd/internal/build"
	"multidd/internal/image"
	"multidd/internal/station"
)

// buildOptions are what `multidd build` was asked for.
type buildOptions struct {
	image, scratch, fiasco string
	force, asJSON          bool
}

func newBuild(c console) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build [flags] RECIPE -o IMAGE",
		Short: "Make an image of trees of files, as a recipe says",
		Long: `Make a card image, or a flashable root, of directories, tars and other images:
partition table, file systems, boot loaders, and a text that says which
revision it is. RECIPE is a TOML file; docs/build.md describes it.

Neither root nor a mount is needed. The same recipe with the same trees gives
the same bytes, if SOURCE_DATE_EPOCH says the time; without it that of now is
used.

IMAGE is packed as its name says: .bz2 .gz .xz .zst .lz4, not at all for .img
.raw .bin .dd .iso, any other name as zst; - is standard output. Its map
(.bmap) and digests (.sha256) come beside it. A root of JFFS2 or UBIFS without
a table is to be flashed: it is not packed unless its name says so, and has no
map.

File systems are made by the tools that make them everywhere; one that is
missing is named with its package.

The exit status is 0 if the image is made, 2 if the recipe or the command line
is wrong, 7 if a tool or a permission is missing, 1 for anything else, 130 and
143 if it was interrupted. Unless it is 0 there is no image.`,
		Example: `  multidd build n810.toml -o moz-ref-v2.img.bz2
  multidd build root.toml -o root.jffs2 --fiasco root.fiasco
  SOURCE_DATE_EPOCH=1700000000 multidd build pi.toml -o pi.img.zst`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || o.image == "" {
				return errors.New("build: name one recipe, and with -o the image to make of it")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runBuild(c, &o, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.image, "output", "o", "", "the `IMAGE` to make")
	f.StringVar(&o.fiasco, "fiasco", "", "pack a root of JFFS2 for a Nokia flasher, too, as `FILE`")
	f.StringVar(&o.scratch, "scratch", "", "where file systems are made, as large as what is in them, `DIR` (default: $TMPDIR)")
	f.BoolVar(&o.force, "force", false, "overwrite what is there")
	f.BoolVar(&o.asJSON, "json", false, "one JSON object instead of a table")
	return cmd
}

// runBuild is `multidd build`.
func runBuild(c console, o *buildOptions, recipe string) error {
	now, err := buildTime()
	if err != nil {
		return &exitError{station.ExitUsage, err}
	}
	if o.image == "-" && o.asJSON {
		return quit(station.ExitUsage, "standard output takes the image, so that there is no place for --json")
	}
	r, err := build.ReadRecipe(recipe)
	if err != nil {
		return &exitError{station.ExitUsage, err}
	}
	ctx, stop := onSignals(context.Background(), func() {})
	defer stop()
	begin := time.Now()
	rep, err := build.Build(ctx, r, o.image, build.Options{
		Now: now, Scratch: o.scratch, Fiasco: o.fiasco, Create: image.CreateOptions{Force: o.force, Stdout: c.out},
		Step: func(what string) { say(c.err, "%s", what) },
	})
	switch {
	case ctx.Err() != nil:
		return interrupted(ctx)
	case errors.Is(err, build.ErrTool), errors.Is(err, os.ErrPermission):
		return &exitError{station.ExitPermission, err}
	case err != nil:
		return &exitError{station.ExitError, err}
	}
	if o.asJSON {
		err = buildJSON(c.out, o, rep)
	} else {
		out := c.out
		if o.image == "-" {
			out = c.err
		}
		err = showBuilt(out, o, rep, time.Since(begin))
	}
	if err != nil {
		return &exitError{station.ExitError, err}
	}
	return nil
}

// interrupted returns the error of a command that a signal ended.
func interrupted(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), station.ErrTerminated) {
		return quit(station.ExitTerminated, "ended by SIGTERM: nothing was made")
	}
	return quit(station.ExitInterrupted, "interrupted: nothing was made")
}

// buildTime is the time of all that is made: SOURCE_DATE_EPOCH, or now.
// https://reproducible-builds.org/specs/source-date-epoch/
func buildTime() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(time.Now().Unix(), 0), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<32 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s: it is the seconds since 1970", text)
	}
	return time.Unix(n, 0), nil
}

// showBuilt prints what was built, for people.
func showBuilt(w io.Writer, o *buildOptions, rep build.Report, took time.Duration) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NO\tSTART\tSIZE\tFILE SYSTEM\tLABEL\tNAMES\tIN FILES")
	for _, p := range rep.Parts {
		number, names, bytes := strconv.Itoa(p.Number), "", ""
		if len(rep.Parts) == 1 && p.Off == 0 {
			number = "-"
		}
		if p.Totals.Names > 0 {
			names, bytes = strconv.Itoa(p.Totals.Names), station.Amount(p.Totals.Bytes)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", number, station.Amount(p.Off), station.Amount(p.Size), p.FS, station.Clean(p.Label), names, bytes)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s is made in %.1f s: %d bytes, %s of it used, %s as a file.\n", o.image, took.Seconds(), rep.Size, station.Amount(rep.Used), station.Amount(rep.Made.Packed))
	if o.fiasco != "" {
		fmt.Fprintf(w, "%s is the same for a Nokia flasher.\n", o.fiasco)
	}
	fmt.Fprintf(w, "SHA-256 of the file:   %s\nSHA-256 of the inputs: %s\n", rep.Made.SHA256, rep.Digest)
	_, err := fmt.Fprint(w, indent("Revision", rep.Revision))
	return err
}

// indent returns a text below a heading; none if there is no text.
func indent(heading, text string) string {
	if text == "" {
		return ""
	}
	s := heading + "\n"
	for line := range strings.Lines(text) {
		s += "  " + station.Clean(strings.TrimSpace(line)) + "\n"
	}
	return s
}

// builtPart is a partition in the JSON of `multidd build`.
type builtPart struct {
	Number int    `json:"number"` // 0: there is no table
	Start  int64  `json:"start"`  // bytes
	Size   int64  `json:"size"`   // bytes
	FS     string `json:"fs"`
	Label  string `json:"label"`
	UUID   string `json:"uuid"`
	Names  int    `json:"names"`
	Files  int    `json:"files"`
	Bytes  int64  `json:"bytes"` // in files
}

func buildJSON(w io.Writer, o *buildOptions, rep build.Report) error {
	parts := []builtPart{}
	for _, p := range rep.Parts {
		if len(rep.Parts) == 1 && p.Off == 0 {
			p.Number = 0
		}
		parts = append(parts, builtPart{p.Number, p.Off, p.Size, p.FS, p.Label, p.UUID, p.Totals.Names, p.Totals.Files, p.Totals.Bytes})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Schema   int         `json:"schema"`
		Image    string      `json:"image"`
		Beside   []string    `json:"beside"`
		Fiasco   string      `json:"fiasco,omitempty"`
		Size     int64       `json:"size"`
		Used     int64       `json:"used"`
		Packed   int64       `json:"packed_size"`
		SHA256   string      `json:"sha256"`
		Inputs   string      `json:"inputs"`
		Revision string      `json:"revision"`
		Parts    []builtPart `json:"partitions"`
	}{1, o.image, append([]string{}, rep.Made.Beside...), o.fiasco, rep.Size, rep.Used, rep.Made.Packed, rep.Made.SHA256, rep.Digest, rep.Revision, parts})
}
