//go:build race

package dd

// underRace tells whether the race detector is in the programs: they take a
// hundred times as long to start then.
const underRace = true
