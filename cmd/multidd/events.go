package main

import (
	"encoding/json"
	"time"

	"multidd/internal/station"
	"multidd/internal/tui"
)

// The events of a run are package tui's; these are those around it.

// planJSON writes the event that says what a run would do.
func planJSON(c console, plan *station.Plan) error {
	type target struct {
		jsonDevice
		FloorSeconds *float64 `json:"floor_seconds"`
		FloorFrom    string   `json:"floor_from,omitempty"`
	}
	event := struct {
		Schema int       `json:"schema"`
		Event  string    `json:"event"`
		Time   time.Time `json:"time"`
		Image  any       `json:"image"`
		Target []target  `json:"targets"`
	}{tui.Schema, "plan", time.Now(), map[string]any{
		"name": plan.Image.Name, "format": plan.Image.Format, "size": known(plan.Image.Size), "used": known(plan.Image.Used),
	}, []target{}}
	for _, t := range plan.Targets {
		j := target{jsonDevice: jsonTarget(t), FloorFrom: t.FloorFrom}
		if t.Floor >= 0 {
			s := t.Floor.Seconds()
			j.FloorSeconds = &s
		}
		event.Target = append(event.Target, j)
	}
	if err := json.NewEncoder(c.out).Encode(event); err != nil {
		return &exitError{station.ExitError, err}
	}
	return nil
}

// known returns a number of bytes, nil if it is not known.
func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// endJSON writes the last line of a run that did not begin.
func endJSON(c console, e *exitError) error {
	return json.NewEncoder(c.out).Encode(map[string]any{
		"schema": tui.Schema, "event": "run-end", "time": time.Now(), "elapsed_seconds": nil, "exit": e.status, "error": e.Error(), "lanes": []any{},
	})
}
