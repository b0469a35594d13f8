package main

import (
	"github.com/spf13/cobra"

	"multidd/internal/dd"
	"multidd/internal/device"
	"multidd/internal/station"
)

// guardFlags are the flags that widen what may be written. There is none that
// turns all guards off.
type guardFlags struct {
	maxSize    string
	allowFixed []string
}

func (g *guardFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.maxSize, "max-size", "256G", "refuse a disk of more than this `SIZE`: nobody means the disk with the backups")
	cmd.Flags().StringSliceVar(&g.allowFixed, "allow-fixed", nil, "allow one disk that is no removable medium, by its `SERIAL|PATH` in full; may be repeated; a disk that the system needs stays refused (default: none)")
}

func (g *guardFlags) policy() (device.Policy, error) {
	size, err := dd.ParseSize(g.maxSize)
	if err != nil {
		return device.Policy{}, quit(station.ExitUsage, "--max-size: %v", err)
	}
	return device.Policy{MaxSize: size, AllowFixed: g.allowFixed}, nil
}
