// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/sha256"
	"hash"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"dragonfly"
)

const (
	// admitted is how long a source's yes, or its no to everybody, counts.
	admitted = 5 * time.Minute
	// keptPublic is how long a place counts as public while its source cannot
	// be asked.
	keptPublic = 24 * time.Hour
	// maxChecks bounds the questions at work to one host; more wait for as long
	// as checkPatience.
	maxChecks     = 64
	checkPatience = 2 * time.Second
	// maxCredentials bounds what is remembered of one place.
	maxCredentials = 100_000
	// doorTidy is how often what has run out is dropped.
	doorTidy = time.Minute
)

// Door knows who may have a content that is kept here: whoever its source gives
// it to. What a source gives to everybody is public and costs one question, each
// other credential costs one, both for five minutes and for all of a
// registry's repository (design 9). Its methods may be called from several
// goroutines.
type Door struct {
	allowed func(context.Context, dragonfly.Request) error
	ctx     context.Context // of all questions
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex // guards all below
	places map[place]*rights
	lines  map[string]line // by host
	tidied time.Time
}

// NewDoor makes a Door that asks by allowed, as Client.Allowed does.
func NewDoor(allowed func(context.Context, dragonfly.Request) error) *Door {
	d := &Door{allowed: allowed, places: map[place]*rights{}, lines: map[string]line{}, tidied: time.Now()}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Close ends all questions; who waits for an answer gets ErrUnasked.
func (d *Door) Close() {
	d.mu.Lock()
	d.cancel()
	d.mu.Unlock()
	d.wg.Wait()
}

// ErrUnasked says that nobody could be asked who may have a content.
var ErrUnasked = &dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "the source cannot be asked whether it gives the content to this requester"}

// place is what one right to read covers: a repository of a registry, else one
// task.
type place struct {
	host, repository string // with what is before it in the path
	content          [sha256.Size]byte
}

// credential stands for everything that a source may decide by. The zero value
// is that of everybody.
type credential [sha256.Size]byte

// rights are what is known about a place. Door.mu guards them.
type rights struct {
	public  time.Time // until then the source gives it to everybody
	private time.Time // until then it does not
	granted map[credential]time.Time
	checks  map[credential]*check
}

// check is one question to a source at work. err is set before done is closed.
type check struct {
	done chan struct{}
	err  error
}

// line holds the checks of one host.
type line chan struct{}

// neutral are the headers by which no source decides who may read.
var neutral = []string{"accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "pragma", "range", "user-agent"}

// placeOf says where a request reads, and with what right. open is the request
// as everybody could make it.
func placeOf(r dragonfly.Request) (p place, c credential, open dragonfly.Request) {
	p.content = r.Name()
	open = r
	open.Header, open.TaskURL = dragonfly.Header{}, ""
	var names []string
	for name := range r.Header {
		if slices.Contains(neutral, strings.ToLower(name)) {
			open.Header[name] = r.Header[name]
		} else {
			names = append(names, name)
		}
	}
	u, err := url.Parse(r.URL)
	if err != nil { // it was validated
		return p, sha256.Sum256([]byte(r.URL)), open
	}
	repository, isRegistry := repository(u)
	if isRegistry {
		before, _, _ := strings.Cut(u.Path, "/v2/")
		p = place{host: u.Scheme + "://" + u.Host, repository: before + "/v2/" + repository}
	}
	plain := *u
	plain.User = nil
	if r.TaskURL != "" {
		plain.RawQuery = "" // filtered parameters may be a signature
		if t, err := url.Parse(r.TaskURL); err == nil {
			plain.RawQuery = t.RawQuery
		}
	}
	open.URL = plain.String()
	if len(names) == 0 && u.User == nil && plain.RawQuery == u.RawQuery {
		return p, c, open
	}
	sum := sha256.New()
	put := func(s string) { frame(sum, s) }
	put(u.User.String())
	put(u.RawQuery)
	if !isRegistry {
		put(u.Path)
	}
	slices.Sort(names)
	for _, name := range names {
		put(strings.ToLower(name))
		for _, v := range r.Header[name] {
			put(v)
		}
	}
	return p, credential(sum.Sum(nil)), open
}

// frame writes a text so that no two lists of texts give the same.
func frame(h hash.Hash, s string) {
	n := len(s)
	h.Write([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	h.Write([]byte(s))
}

// grant books that the source took the credentials.
func (a *rights) grant(c credential, now time.Time) {
	if c == (credential{}) {
		a.public, a.private = now.Add(admitted), time.Time{}
		clear(a.granted) // they need not be known any more
	} else if len(a.granted) < maxCredentials {
		a.granted[c] = now.Add(admitted)
	}
}

// knows says whether the credentials are good, as far as it was found out.
func (a *rights) knows(c credential, now time.Time) bool {
	return now.Before(a.public) || now.Before(a.granted[c])
}

// rights finds or makes the record of a place. d.mu is held.
func (d *Door) rights(p place) *rights {
	a := d.places[p]
	if a == nil {
		a = &rights{granted: map[credential]time.Time{}, checks: map[credential]*check{}}
		d.places[p] = a
	}
	return a
}

// Knows says without asking anybody that whoever asks as r does may have it.
func (d *Door) Knows(r dragonfly.Request) bool {
	if Steered(r) {
		return false
	}
	p, c, _ := placeOf(r)
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.places[p]
	return a != nil && a.knows(c, time.Now())
}

// Proved books that somebody who asked as r does was given it.
func (d *Door) Proved(r dragonfly.Request) {
	if Steered(r) {
		return
	}
	p, c, _ := placeOf(r)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tidy()
	d.rights(p).grant(c, time.Now())
}

// Admit returns nil when the source gives the content to whoever asks as r
// does; asked says that it had to be asked. Errors are the source's, and
// ErrUnasked when it was not found out, or when headers steer the request.
func (d *Door) Admit(ctx context.Context, r dragonfly.Request) (asked bool, err error) {
	if Steered(r) {
		return false, ErrUnasked
	}
	p, c, open := placeOf(r)
	everybody := credential{}
	for {
		d.mu.Lock()
		d.tidy()
		now, a := time.Now(), d.rights(p)
		if a.knows(c, now) {
			d.mu.Unlock()
			return asked, nil
		}
		// Everybody's right first: it saves asking for each requester.
		which, request := everybody, open
		if now.Before(a.private) && c != everybody {
			which, request = c, r
		}
		k := a.checks[which]
		if k == nil {
			k = d.check(p, a, which, request)
		}
		d.mu.Unlock()
		select {
		case <-k.done:
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
		asked = true
		switch {
		case k.err == nil:
			return true, nil
		case !refuses(k.err):
			d.mu.Lock()
			public := !a.public.IsZero() // as long as the source could be asked
			d.mu.Unlock()
			if public && which == everybody && away(k.err) {
				return true, nil
			}
			return true, ErrUnasked
		case which == c:
			return true, k.err
		}
	}
}

// refuses says that the source gave a clear no. Some say 404 for what they hide.
func refuses(err error) bool {
	switch dragonfly.KindOf(err) {
	case dragonfly.Unauthorized, dragonfly.Forbidden, dragonfly.NotFound:
		return true
	}
	return false
}

// away says that the source gave no answer, as far as the question was none that
// nobody can answer: who wants in could ask so on purpose.
func away(err error) bool {
	switch dragonfly.KindOf(err) {
	case dragonfly.SourceFailed, dragonfly.Throttled:
		return true
	}
	return false
}

// check asks the source in the background, for whoever wants to know: who
// leaves does not end it. d.mu is held.
func (d *Door) check(p place, a *rights, c credential, r dragonfly.Request) *check {
	k := &check{done: make(chan struct{})}
	if d.ctx.Err() != nil {
		k.err = ErrUnasked
		close(k.done)
		return k
	}
	a.checks[c] = k
	host := p.host
	if u, err := url.Parse(r.URL); err == nil {
		host = u.Host
	}
	queue := d.lines[host]
	if queue == nil {
		queue = make(line, maxChecks)
		d.lines[host] = queue
	}
	d.wg.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, checkTime)
		defer cancel()
		err := queue.enter(ctx)
		if err == nil {
			err = d.allowed(ctx, r)
			<-queue
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		defer close(k.done)
		delete(a.checks, c)
		k.err = err
		everybody := c == credential{}
		switch {
		case err == nil:
			a.grant(c, time.Now())
		case everybody && refuses(err):
			a.private = time.Now().Add(admitted)
			if dragonfly.KindOf(err) != dragonfly.NotFound {
				a.public = time.Time{}
			}
		}
	})
	return k
}

// checkTime bounds one question.
const checkTime = 20 * time.Second

// enter waits for a free place.
func (l line) enter(ctx context.Context) error {
	timer := time.NewTimer(checkPatience)
	defer timer.Stop()
	select {
	case l <- struct{}{}:
		return nil
	case <-timer.C:
		return ErrUnasked
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tidy drops what does not count any more. d.mu is held.
func (d *Door) tidy() {
	now := time.Now()
	if now.Sub(d.tidied) < doorTidy {
		return
	}
	d.tidied = now
	busy := false
	for p, a := range d.places {
		for c, until := range a.granted {
			if !now.Before(until) {
				delete(a.granted, c)
			}
		}
		if len(a.checks) > 0 {
			busy = true
			continue
		}
		// What was public is kept for a source that cannot be asked.
		if len(a.granted) == 0 && !now.Before(a.private) && (a.public.IsZero() || now.Sub(a.public) > keptPublic) {
			delete(d.places, p)
		}
	}
	if !busy {
		clear(d.lines)
	}
}

// steering are headers by which servers find the content in the place of the
// URL. No TaskID has them in it.
var steering = []string{
	"forwarded", "host", "x-forwarded-host", "x-http-method", "x-http-method-override", "x-method-override",
	"x-original-host", "x-original-url", "x-rewrite-url",
}

// Steered says that headers of the request may lead it to another content than
// its URL. Then neither is what it brings that of its task, nor does an answer to
// it say who may have that.
func Steered(r dragonfly.Request) bool {
	for name, values := range r.Header {
		name = strings.ToLower(name)
		if !slices.Contains(steering, name) {
			continue
		}
		u, err := url.Parse(r.URL)
		if err != nil || name != "host" || slices.ContainsFunc(values, func(v string) bool { return !strings.EqualFold(v, u.Host) }) {
			return true
		}
	}
	return false
}

// Fits says that the task URL is made of the URL by leaving out parameters of
// its query: who may read the URL may have the task. What is left out has
// another name than what is kept: of two values of one name servers take one.
func Fits(raw, task string) bool {
	u, query, _ := strings.Cut(raw, "?")
	t, kept, _ := strings.Cut(task, "?")
	if u != t {
		return false
	}
	items := strings.Split(query, "&")
	for item := range strings.SplitSeq(kept, "&") {
		if item != "" && !slices.Contains(items, item) {
			return false
		}
	}
	left := map[string]int{} // by name, more in the URL than in the task URL
	for _, item := range items {
		left[parameter(item)]++
	}
	for item := range strings.SplitSeq(kept, "&") {
		left[parameter(item)]--
	}
	for item := range strings.SplitSeq(kept, "&") {
		if item != "" && left[parameter(item)] != 0 {
			return false
		}
	}
	return true
}

// parameter is the name of an item of a query, as loosely as servers read it.
func parameter(item string) string {
	name, _, _ := strings.Cut(item, "=")
	if plain, err := url.QueryUnescape(name); err == nil {
		name = plain
	}
	name, _, _ = strings.Cut(name, "[")
	return strings.ToLower(strings.TrimSpace(name))
}
