package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"multidd/internal/device"
	"multidd/internal/station"
	"multidd/internal/tui"
)

func newDevices(c console) *cobra.Command {
	var all, asJSON bool
	var guards guardFlags
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List slots and cards, which may be written, and why not",
		Long: `List the slots of this computer with what is in them, a line each: the place
(for a USB reader its port path, which stays when the card changes), the device,
its size, model and serial number. Below it stand the partitions that are on it,
and the reasons if 'multidd write' would refuse it.

Nothing is written, and nothing is opened for writing. What is inside a card
is seen only by those who may read it, which mostly means root.

A SIZE is in bytes or with a suffix, as dd has it: 64G, 64GB.

The exit status is 0 if the list could be made, whatever is in it.`,
		Example: `  multidd devices
  multidd devices --all
  multidd devices --json | jq -r '.devices[] | select(.allowed) | .slot'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, err := guards.policy()
			if err != nil {
				return err
			}
			policy.Named = all // a loop device may be written if somebody names it
			targets, err := station.Survey(cmd.Context(), device.System{}, policy, all)
			if err != nil {
				return &exitError{station.ExitError, err}
			}
			if asJSON {
				return listJSON(c, targets)
			}
			if err := tui.Devices(c.out, targets, tui.OptionsFor(c.out)); err != nil {
				return &exitError{station.ExitError, err}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list loop devices, too, and disks that the system makes out of others (LVM, RAID, memory)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object instead of a table")
	guards.add(cmd)
	return cmd
}

// A jsonDevice is a line of `multidd devices --json`. The names are stable.
type jsonDevice struct {
	Slot     string        `json:"slot"`
	Device   string        `json:"device"`
	Model    string        `json:"model"`
	Serial   string        `json:"serial"`
	Bus      string        `json:"bus"`
	Size     int64         `json:"size"`
	Contents []string      `json:"contents"`
	Allowed  bool          `json:"allowed"`
	Refusals []jsonRefusal `json:"refusals"`
}

type jsonRefusal struct {
	Reason string `json:"reason"`
	Text   string `json:"text"`
}

func listJSON(c console, targets []station.Target) error {
	list := struct {
		Schema  int          `json:"schema"`
		Devices []jsonDevice `json:"devices"`
	}{1, []jsonDevice{}}
	for _, t := range targets {
		list.Devices = append(list.Devices, jsonTarget(t))
	}
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(list); err != nil {
		return &exitError{station.ExitError, err}
	}
	return nil
}

func jsonTarget(t station.Target) jsonDevice {
	d := jsonDevice{
		Slot: t.Slot, Device: t.Device, Model: t.Model, Serial: t.Serial, Bus: t.Bus, Size: t.Size,
		Contents: append([]string{}, t.Contents...), Allowed: len(t.Refusals) == 0, Refusals: []jsonRefusal{},
	}
	for _, r := range t.Refusals {
		d.Refusals = append(d.Refusals, jsonRefusal{r.Reason, r.Text})
	}
	return d
}
