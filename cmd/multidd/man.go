package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan returns the command that writes the man pages, from the same texts as
// --help.
func newMan(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a directory",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return &exitError{1, err}
			}
			err := doc.GenManTree(root, &doc.GenManHeader{Title: "MULTIDD", Section: "1", Source: "multidd", Manual: "multidd"}, args[0])
			if err != nil {
				return &exitError{1, err}
			}
			return nil
		},
	}
}
