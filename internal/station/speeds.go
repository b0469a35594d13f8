package station

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"multidd/internal/device"
)

// Speeds remembers how fast cards were, so that the least time of a run can be
// told before it. It is a JSON file in the user's cache directory; losing it
// costs nothing.
type Speeds struct {
	path string

	mu    sync.Mutex
	cards map[string]speed // guarded by mu
}

// A speed is what was measured of a card, in bytes per second.
type speed struct {
	Write float64   `json:"write"`
	Read  float64   `json:"read"`
	Seen  time.Time `json:"seen"`
}

// mostSpeeds is how many cards are remembered; the oldest are forgotten.
const mostSpeeds = 4096

// LoadSpeeds reads what is remembered in a file; one that is not there or not
// understood is empty.
func LoadSpeeds(path string) *Speeds {
	s := &Speeds{path: path, cards: map[string]speed{}}
	if b, err := os.ReadFile(path); err == nil {
		if json.Unmarshal(b, &s.cards) != nil || s.cards == nil {
			s.cards = map[string]speed{}
		}
	}
	return s
}

func cardKey(d device.Disk) string {
	return d.Vendor + "|" + d.Model + "|" + d.Serial + "|" + strconv.FormatInt(d.Size, 10)
}

// Of returns how fast a card writes and reads, in bytes per second, and where
// that is known from; 0: not known.
func (s *Speeds) Of(d device.Disk) (write, read float64, from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.cards[cardKey(d)]; ok && d.Serial != "" && d.Bus != device.BusFile {
		return v.Write, v.Read, "measured on " + v.Seen.Format(time.DateOnly)
	}
	if d.SpeedClass > 0 {
		return float64(d.SpeedClass) * 1e6, 0, fmt.Sprintf("the speed class promises %d MB/s", d.SpeedClass)
	}
	return 0, 0, ""
}

func (s *Speeds) learn(d device.Disk, write, read float64) {
	if d.Serial == "" || d.Bus == device.BusFile || write <= 0 || read <= 0 {
		return // it could not be told from another card
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cards[cardKey(d)] = speed{write, read, time.Now()}
	for len(s.cards) > mostSpeeds {
		oldest := ""
		for k, v := range s.cards {
			if oldest == "" || v.Seen.Before(s.cards[oldest].Seen) {
				oldest = k
			}
		}
		delete(s.cards, oldest)
	}
}

// save writes the file anew, whole or not at all.
func (s *Speeds) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cards) == 0 {
		return nil
	}
	b, err := json.MarshalIndent(s.cards, "", " ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("remember the cards' speeds: %w", err)
	}
	f, err := os.CreateTemp(dir, ".speeds-")
	if err != nil {
		return fmt.Errorf("remember the cards' speeds: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		if rm := os.Remove(f.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm)
		}
		return fmt.Errorf("remember the cards' speeds: %w", err)
	}
	return nil
}
