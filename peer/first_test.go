// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"dragonfly"
)

// introduced is a supernode that notes what it was told at the opening of the
// session and in the registration behind it.
type introduced struct {
	*script
	hello        dragonfly.Hello
	registration dragonfly.Registration
}

func (s *introduced) Open(_ context.Context, h dragonfly.Hello) (dragonfly.Session, error) {
	s.hello = h
	return s, nil
}

func (s *introduced) Register(_ context.Context, r dragonfly.Registration) (dragonfly.TaskInfo, error) {
	s.registration = r
	return dragonfly.TaskInfo{Task: s.info.Task, Grant: dragonfly.GrantDirect}, nil
}

// TestSessionIsOpenedWithItsFirstTask: what is registered first is said with
// the opening already, word for word, so that the answer can come along.
func TestSessionIsOpenedWithItsFirstTask(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = random(1, 1000)
		s := &introduced{script: w.script("introduced")}
		m := w.machine(nodeA, filepath.Join(w.dir, nodeA), options{dial: func(dragonfly.Member) dragonfly.Tracker { return s }})
		j := job()
		j.Nodes = []dragonfly.Member{{ID: "script", Addr: "script:8002", Weight: 1}}
		w.succeed(m.start(j), w.origin.content)
		first, err := json.Marshal(s.hello.First)
		if err != nil {
			t.Fatal(err)
		}
		registered, err := json.Marshal(&s.registration)
		if err != nil {
			t.Fatal(err)
		}
		if string(first) != string(registered) {
			t.Errorf("opened with %s, registered %s", first, registered)
		}
	})
}
