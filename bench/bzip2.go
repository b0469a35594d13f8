package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// packing: making a .bz2 on 1 and on 2 cores: processor seconds, wall time and size,
// beside the tools that do nothing else. What multidd made is unpacked again by bzip2.
func (b *bench) packing() error {
	made := filepath.Join(b.dir, "made.bz2")
	defer os.Remove(made)
	for _, cores := range []int{1, 2} {
		on := "taskset -c " + []string{"", "0", "0,1"}[cores] + " "
		then := fmt.Sprintf(" && stat -c %%s %s", made)
		commands := []command{
			{name: "multidd if= of=x.bz2", line: on + fmt.Sprintf("%s if=%s of=%s bs=1M status=none", b.multidd, b.image, made) + then, env: []string{fmt.Sprintf("GOMAXPROCS=%d", cores)}},
			{name: "lbzip2 -9", line: on + fmt.Sprintf("lbzip2 -9 -n %d -c %s > %s", cores, b.image, made) + then},
			{name: "pbzip2 -9", line: on + fmt.Sprintf("pbzip2 -9 -p%d -c %s > %s", cores, b.image, made) + then},
			{name: "bzip2 -9", line: on + fmt.Sprintf("bzip2 -9 -c %s > %s", b.image, made) + then},
		}
		figures, err := rounds(b.rounds, commands, func() error { return os.RemoveAll(made) })
		if err != nil {
			return err
		}
		check := command{name: "bzip2 | cmp", line: commands[0].line + fmt.Sprintf(" && bzip2 -dc %s | cmp - %s", made, b.image)}
		if _, err := measure(check); err != nil {
			return err
		}
		b.title("packing the card image as .bz2 on %d core(s)", cores)
		b.row("", "CPU s", "lbzip2's CPU ÷ its own", "wall s", "MB/s", "bytes", "÷ bzip2's", "MiB")
		least := packedSize(figures[len(figures)-1])
		for i, c := range commands {
			b.row(c.name, span(figures[i], cpu, "%.2f"), fmt.Sprintf("%.2f", median(figures[1], cpu)/median(figures[i], cpu)),
				fmt.Sprintf("%.2f", median(figures[i], wall)), fmt.Sprintf("%.0f", float64(b.size)/1e6/median(figures[i], wall)),
				fmt.Sprintf("%.0f", packedSize(figures[i])), fmt.Sprintf("%.4f", packedSize(figures[i])/least), fmt.Sprintf("%.0f", median(figures[i], rss)))
		}
	}
	return nil
}

// packedSize returns the size that the command told, in bytes.
func packedSize(figures []figure) float64 {
	return median(figures, func(f figure) float64 {
		n, _ := strconv.ParseFloat(strings.TrimSpace(string(f.out)), 64)
		return n
	})
}
