package cardlab

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// qmp is a minimal client of the QEMU Machine Protocol: one request at a
// time, and events kept for those who wait for them.
type qmp struct {
	conn io.ReadWriteCloser
	call sync.Mutex      // one request at a time
	resp chan qmpMessage // answers, in order

	mu     sync.Mutex
	events []qmpMessage  // every event seen so far
	more   chan struct{} // closed and replaced when an event arrives
	err    error         // why the connection ended
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// obj is a JSON object.
type obj = map[string]any

func newQMP(conn io.ReadWriteCloser) (*qmp, error) {
	q := &qmp{conn: conn, resp: make(chan qmpMessage, 1), more: make(chan struct{})}
	go q.read()
	if err := q.do("qmp_capabilities", nil, nil); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *qmp) read() {
	dec := json.NewDecoder(q.conn)
	for {
		var m qmpMessage
		err := dec.Decode(&m)
		switch {
		case err != nil:
			q.mu.Lock()
			q.err = fmt.Errorf("QMP connection ended: %w", err)
			close(q.more)
			q.mu.Unlock()
			close(q.resp)
			return
		case m.Event != "":
			q.mu.Lock()
			q.events = append(q.events, m)
			close(q.more)
			q.more = make(chan struct{})
			q.mu.Unlock()
		case m.Return != nil || m.Error != nil:
			q.resp <- m
		} // anything else is the greeting
	}
}

// do runs one command and decodes its answer into out, unless out is nil.
func (q *qmp) do(command string, args obj, out any) error {
	q.call.Lock()
	defer q.call.Unlock()
	req := obj{"execute": command}
	if args != nil {
		req["arguments"] = args
	}
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	m, ok := <-q.resp
	switch {
	case !ok:
		return fmt.Errorf("QMP %s: %w", command, q.err)
	case m.Error != nil:
		return fmt.Errorf("QMP %s: %s", command, m.Error.Desc)
	case out != nil:
		return json.Unmarshal(m.Return, out)
	}
	return nil
}

// mark returns a position in the event log, for wait.
func (q *qmp) mark() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events)
}

// wait blocks until an event that came after mark satisfies match.
func (q *qmp) wait(mark int, timeout time.Duration, match func(event string, data json.RawMessage) bool) error {
	deadline := time.After(timeout)
	for {
		q.mu.Lock()
		for ; mark < len(q.events); mark++ {
			if match(q.events[mark].Event, q.events[mark].Data) {
				q.mu.Unlock()
				return nil
			}
		}
		more, err := q.more, q.err
		q.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-more:
		case <-deadline:
			return fmt.Errorf("no QMP event within %v", timeout)
		}
	}
}
