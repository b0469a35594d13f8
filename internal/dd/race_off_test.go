//go:build !race

package dd

const underRace = false
