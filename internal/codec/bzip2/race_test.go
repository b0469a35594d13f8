//go:build race

package bzip2

const raceOn = true
