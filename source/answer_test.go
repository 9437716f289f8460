// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dragonfly"
)

// raw answers each connection with text and then ends it with end.
func raw(t *testing.T, text string, end func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, text)
				if end != nil {
					end(conn.(*net.TCPConn))
				}
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "http://" + l.Addr().String() + "/f?sig=secret"
}

func TestBodiesThatEndWrongly(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	for name, test := range map[string]struct {
		text string
		end  func(*net.TCPConn)
		from int64
		cond Condition
		give string
		kind dragonfly.Kind // "" ends well
		is   error
	}{
		"truncated":                  {ok + "Content-Length: 10\r\n\r\nabcde", nil, 0, Condition{}, "abcde", dragonfly.SourceFailed, io.ErrUnexpectedEOF},
		"chunked":                    {ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", nil, 0, Condition{}, "abcde", "", nil},
		"chunked without terminator": {ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", nil, 0, Condition{}, "abcde", dragonfly.SourceFailed, io.ErrUnexpectedEOF},
		"chunk cut short":            {ok + "Transfer-Encoding: chunked\r\n\r\n9\r\nabcde", nil, 0, Condition{}, "abcde", dragonfly.SourceFailed, io.ErrUnexpectedEOF},
		"more than the length":       {ok + "Content-Length: 3\r\n\r\nabcde", nil, 0, Condition{}, "abc", "", nil},
		"end of the connection":      {"HTTP/1.0 200 OK\r\n\r\nabcde", nil, 0, Condition{}, "abcde", "", nil},
		"reset":                      {ok + "Content-Length: 10\r\n\r\nabcde", func(c *net.TCPConn) { _ = c.SetLinger(0) }, 0, Condition{}, "*", dragonfly.SourceFailed, nil},
		"empty":                      {ok + "Content-Length: 0\r\n\r\n", nil, 0, Condition{}, "", "", nil},
		"chunked 206 that is too long": {"HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 2-4/5\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", nil, 2, Condition{},
			"abc", dragonfly.SourceFailed, nil},
		"chunked 206 that is too short": {"HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 2-9/10\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", nil, 2, Condition{},
			"abcde", dragonfly.SourceFailed, io.ErrUnexpectedEOF},
		"chunked 206 without terminator": {"HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 2-6/7\r\n\r\n5\r\nabcde\r\n", nil, 2, Condition{},
			"abcde", dragonfly.SourceFailed, io.ErrUnexpectedEOF},
		"ends before the offset": {ok + "Etag: \"v1\"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", nil, 7, Condition{ETag: tag}, "", dragonfly.SourceChanged, nil},
		"ends within the window": {ok + "Etag: \"v1\"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", nil, 3, Condition{ETag: tag, To: 100}, "de", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, Options{})
			data, _, err := read(t, c, request(raw(t, test.text, test.end)), test.from, test.cond)
			if test.give != "*" && string(data) != test.give {
				t.Errorf("gave %q, want %q", data, test.give)
			}
			if test.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantKind(t, err, test.kind, "127.0.0.1")
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
		})
	}
}

func TestConnectionsThatFail(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // now nobody is there
	refused := "http://" + l.Addr().String()
	for name, test := range map[string]struct {
		url  string
		dial error
		text string
	}{
		"refused":      {refused, nil, "refuses connections"},
		"hung up":      {raw(t, "", nil), nil, "broke the connection before it answered"},
		"no http":      {raw(t, "SSH-2.0-x\r\n", nil), nil, "cannot be read"},
		"no TLS":       {strings.Replace(raw(t, "", nil), "http://", "https://", 1), nil, ""},
		"unknown name": {"http://h.test/", &net.DNSError{Err: "no such host", Name: "h.test", IsNotFound: true}, "h.test has no address: check the host name"},
		"no DNS":       {"http://h.test/", &net.DNSError{Err: "server misbehaving", Name: "h.test"}, "could not be looked up"},
		"unreachable":  {"http://h.test/", syscall.EHOSTUNREACH, "check network and routes"},
		"other":        {"http://h.test/", errors.New("odd"), "cannot be connected to"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{}
			if test.dial != nil {
				o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, test.dial }
			}
			_, _, err := read(t, newClient(t, o), request(test.url), 0, Condition{})
			wantKind(t, err, dragonfly.SourceFailed, test.text)
		})
	}
}

func TestStatuses(t *testing.T) {
	for status := 200; status < 600; status++ {
		kind := dragonfly.SourceFailed
		switch status {
		case 200, 203, 301, 302, 303, 304, 307, 308, 206, 416:
			continue
		case 401, 407:
			kind = dragonfly.Unauthorized
		case 402, 403, 451:
			kind = dragonfly.Forbidden
		case 404, 410:
			kind = dragonfly.NotFound
		case 429:
			kind = dragonfly.Throttled
		case 408, 421, 425:
		default:
			if status >= 400 && status < 500 {
				kind = dragonfly.Invalid
			}
		}
		o := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="r"`)
			w.Header().Set("Set-Cookie", "s=secret")
			w.WriteHeader(status)
		})
		_, _, err := read(t, newClient(t, Options{}), request(o.URL+"/f?sig=secret"), 0, Condition{})
		wantKind(t, err, kind, strconv.Itoa(status), o.URL+"/f?sig=…")
		e, _ := errors.AsType[*dragonfly.Error](err)
		cause, ok := errors.AsType[*StatusError](err)
		if e.Status != status || !ok || cause.Status != status {
			t.Errorf("%d: status %d, cause %+v", status, e.Status, cause)
			continue
		}
		if len(cause.Header) != 1 || cause.Header.Get("Www-Authenticate") != `Bearer realm="r"` {
			t.Errorf("%d: header %v", status, cause.Header)
		}
	}
}

func TestThrottled(t *testing.T) {
	for _, test := range []struct {
		status int
		header string
		want   time.Duration // 0: not throttled
	}{
		{429, "", presetRetryAfter},
		{429, "nonsense", presetRetryAfter},
		{429, "7", 7 * time.Second},
		{429, "0", minRetryAfter},
		{429, "-3", presetRetryAfter},
		{429, "999999", maxRetryAfter},
		{503, "30", 30 * time.Second},
		{503, "Mon, 02 Jan 2023 15:04:05 GMT", minRetryAfter},
		{503, "Mon, 02 Jan 2090 15:04:05 GMT", maxRetryAfter},
		{503, "", 0},
		{500, "30", 0},
	} {
		o := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", test.header)
			w.WriteHeader(test.status)
		})
		c := newClient(t, Options{})
		before := time.Now()
		_, _, err := read(t, c, request(o.URL+"/f"), 0, Condition{})
		if got := RetryAfter(err); got != test.want {
			t.Errorf("%d %q: %s, want %s", test.status, test.header, got, test.want)
		}
		until := c.ThrottledUntil(strings.ToUpper(o.URL[:4]) + o.URL[4:] + "/other")
		if test.want == 0 {
			wantKind(t, err, dragonfly.SourceFailed)
			if !until.IsZero() {
				t.Errorf("%d: remembered as throttled", test.status)
			}
			continue
		}
		wantKind(t, err, dragonfly.Throttled, "wait for "+test.want.String())
		if until.Before(before.Add(test.want)) {
			t.Errorf("%d %q: throttled until %s only", test.status, test.header, until)
		}
	}
	if until := New(Options{}).ThrottledUntil("no url"); !until.IsZero() {
		t.Error(until)
	}
}

func TestThrottledIsBounded(t *testing.T) {
	var hosts throttled
	for i := range 3 * maxThrottled {
		u, err := parseURL(fmt.Sprintf("http://h%d.test/", i))
		if err != nil {
			t.Fatal(err)
		}
		hosts.note(u, time.Hour+time.Duration(i)*time.Second)
	}
	if len(hosts.ends) > maxThrottled {
		t.Errorf("%d hosts", len(hosts.ends))
	}
}

func TestRevalidation(t *testing.T) {
	c := newClient(t, Options{})
	size := int64(len(content))
	full := Condition{ETag: tag, LastModified: date, Length: size, IfChanged: true}
	deaf := func(w http.ResponseWriter, _ *http.Request) { plain(w, nil) }
	weak := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `W/"w"`)
		modified := time.Time{}
		http.ServeContent(w, r, "", modified, bytes.NewReader(content))
	}
	dated := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", date)
		bare(w, nil)
	}
	for name, test := range map[string]struct {
		server    http.HandlerFunc
		cond      Condition
		unchanged bool
	}{
		"same":                       {file, full, true},
		"by tag":                     {file, Condition{ETag: tag, IfChanged: true}, true},
		"by date":                    {file, Condition{LastModified: date, IfChanged: true}, true},
		"other tag":                  {file, Condition{ETag: `"v0"`, LastModified: date, Length: size, IfChanged: true}, false},
		"weak tag":                   {weak, Condition{ETag: `W/"w"`, IfChanged: true}, true},
		"other weak tag":             {weak, Condition{ETag: `W/"x"`, IfChanged: true}, false},
		"no validators":              {file, Condition{IfChanged: true}, false},
		"broken validators":          {file, Condition{ETag: "v\"1\r\nX: y", LastModified: "yesterday", IfChanged: true}, false},
		"ignored, same tag":          {deaf, full, true},
		"ignored, same date, length": {dated, Condition{LastModified: date, Length: size, IfChanged: true}, true},
		"ignored, same date":         {dated, Condition{LastModified: date, IfChanged: true}, false},
		"ignored, other length":      {dated, Condition{LastModified: date, Length: size - 1, IfChanged: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := serve(t, test.server)
			data, _, err := read(t, c, request(o.URL, "If-None-Match: *", "If-Modified-Since: "+date), 0, test.cond)
			if test.unchanged {
				if !errors.Is(err, ErrNotModified) {
					t.Errorf("%d bytes, %v", len(data), err)
				}
				return
			}
			if err != nil || !bytes.Equal(data, content) {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		})
	}
	t.Run("304 to no condition", func(t *testing.T) {
		o := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) })
		_, _, err := read(t, c, request(o.URL), 0, Condition{ETag: tag})
		wantKind(t, err, dragonfly.SourceFailed, "304")
	})
}

// part answers a ranged request by hand.
func part(status int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, line := range header {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte("56789"))
	}
}

func TestContinuing(t *testing.T) {
	const later = "Tue, 03 Jan 2023 15:04:05 GMT"
	all := Condition{ETag: tag, LastModified: date, Length: 10}
	good := []string{"ETag: " + tag, "Last-Modified: " + date, "Content-Range: bytes 5-9/10"}
	but := func(header ...string) []string { return append(slices.Clone(good), header...) }
	for name, test := range map[string]struct {
		server http.HandlerFunc
		cond   Condition
		kind   dragonfly.Kind // "" continues
	}{
		"honoured":                       {part(206, good...), all, ""},
		"nothing named":                  {part(206, good...), Condition{}, ""},
		"validators left out":            {part(206, good[2]), all, ""},
		"validators and total left out":  {part(206, "Content-Range: bytes 5-9/*"), all, ""},
		"only the length is known":       {part(206, good[2]), Condition{Length: 10}, ""},
		"only a weak tag is known":       {part(206, "ETag: W/\"v1\"", good[2]), Condition{ETag: `W/"v1"`}, dragonfly.SourceChanged},
		"weak tag and length":            {part(206, "ETag: W/\"v1\"", good[2]), Condition{ETag: `W/"v1"`, Length: 10}, ""},
		"tag moved, date as before":      {part(206, but("ETag: \"v2\"")...), all, dragonfly.SourceChanged},
		"tag became weak, another one":   {part(206, but("ETag: W/\"v2\"")...), all, dragonfly.SourceChanged},
		"tag became weak":                {part(206, but("ETag: W/\"v1\"")...), all, ""},
		"same strong tag, other date":    {part(206, but("Last-Modified: "+later)...), all, ""},
		"date moved":                     {part(206, but("Last-Modified: "+later)...), Condition{LastModified: date}, dragonfly.SourceChanged},
		"total moved":                    {part(206, but("Content-Range: bytes 5-9/11")...), all, dragonfly.SourceChanged},
		"total moved, range follows":     {part(206, but("Content-Range: bytes 5-10/11")...), all, dragonfly.SourceChanged},
		"starts too early":               {part(206, but("Content-Range: bytes 4-8/10")...), all, dragonfly.SourceFailed},
		"starts too late":                {part(206, but("Content-Range: bytes 6-9/10")...), all, dragonfly.SourceFailed},
		"ends too early":                 {part(206, but("Content-Range: bytes 5-8/10")...), all, dragonfly.SourceFailed},
		"ends too early, total left out": {part(206, "Content-Range: bytes 5-8/*"), all, dragonfly.SourceFailed},
		"body too short for its range":   {part(206, but("Content-Length: 4")...), all, dragonfly.SourceFailed},
		"no Content-Range":               {part(206, good[:2]...), all, dragonfly.SourceFailed},
		"odd Content-Range":              {part(206, but("Content-Range: bytes=5-9/10")...), all, dragonfly.SourceFailed},
		"several ranges":                 {part(206, "ETag: "+tag, "Content-Type: multipart/byteranges; boundary=x"), all, dragonfly.SourceFailed},
		"ignored, same tag":              {plain, Condition{ETag: tag, Length: int64(len(content))}, ""},
		"ignored, same date":             {plain, Condition{LastModified: date}, ""},
		"ignored, other tag":             {plain, Condition{ETag: `"v0"`}, dragonfly.SourceChanged},
		"ignored, other date":            {plain, Condition{LastModified: later}, dragonfly.SourceChanged},
		"ignored, other length":          {plain, Condition{ETag: tag, Length: 10}, dragonfly.SourceChanged},
		"ignored, tag gone":              {bare, Condition{ETag: tag}, dragonfly.SourceChanged},
		"ignored, weak tag":              {part(200, "ETag: W/\"v1\""), Condition{ETag: `W/"v1"`}, dragonfly.SourceChanged},
		"ignored, no validators":         {bare, Condition{Length: int64(len(content))}, dragonfly.SourceChanged},
		"ignored, nothing named":         {bare, Condition{}, dragonfly.SourceChanged},
		"changed, If-Range heeded":       {file, Condition{ETag: `"v0"`, Length: int64(len(content))}, dragonfly.SourceChanged},
		"416, shorter":                   {part(416, "Content-Range: bytes */3"), all, dragonfly.SourceChanged},
		"416, no reason":                 {part(416), all, dragonfly.SourceChanged},
		"416, nothing named":             {part(416, "Content-Range: bytes */3"), Condition{}, dragonfly.NotFound},
		"416, just finished":             {part(416, "Content-Range: bytes */5"), Condition{ETag: tag}, ""},
		"416, finished, nothing named":   {part(416, "Content-Range: bytes */5"), Condition{}, dragonfly.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			o := serve(t, test.server)
			data, info, err := read(t, newClient(t, Options{}), request(o.URL), 5, test.cond)
			r := o.asked()[0]
			if got := r.Header.Get("Range"); got != "bytes=5-" {
				t.Errorf("Range %q", got)
			}
			if got := r.Header.Get("If-Range"); got != test.cond.ifRange() {
				t.Errorf("If-Range %q", got)
			}
			if len(o.asked()) != 1 {
				t.Errorf("%d requests", len(o.asked()))
			}
			if test.kind != "" {
				wantKind(t, err, test.kind)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := "56789"
			switch {
			case strings.HasPrefix(name, "ignored"):
				want = string(content[5:])
			case strings.HasPrefix(name, "416"):
				want = ""
			}
			if string(data) != want || info.From != 5 || info.Ranges == strings.HasPrefix(name, "ignored") {
				t.Errorf("%d bytes, %+v", len(data), info)
			}
		})
	}
}

// TestRangeRequests says what is asked for, for windows and bounds.
func TestRangeRequests(t *testing.T) {
	for _, test := range []struct {
		window   string
		from, to int64
		length   int64
		want     string
	}{
		{"", 0, 0, 0, ""},
		{"", 0, 10, 0, "bytes=0-9"},
		{"", 5, 0, 0, "bytes=5-"},
		{"", 5, 10, 0, "bytes=5-9"},
		{"bytes=100-199", 0, 0, 0, "bytes=100-199"},
		{"bytes=100-199", 5, 0, 0, "bytes=105-199"},
		{"bytes=100-199", 5, 10, 0, "bytes=105-109"},
		{"bytes=100-199", 5, 1000, 0, "bytes=105-199"},
		{"bytes=0-", 0, 0, 0, ""}, // that is all of it
		{"bytes=100-", 5, 0, 0, "bytes=105-"},
		{"bytes=100-", 5, 10, 0, "bytes=105-109"},
		{"bytes=-50", 0, 0, 0, "bytes=-50"},
		{"bytes=-50", 5, 0, 0, "bytes=-50"},
		{"bytes=-50", 5, 0, 40, "bytes=-35"},
	} {
		r := dragonfly.Request{Header: dragonfly.Header{}}
		if test.window != "" {
			r.Header["Range"] = []string{test.window}
		}
		w, err := newWish(r, test.from, Condition{To: test.to, Length: test.length})
		if err != nil || w.value != test.want {
			t.Errorf("%q %d-%d: %q, %v, want %q", test.window, test.from, test.to, w.value, err, test.want)
		}
	}
	for _, test := range []struct {
		window         string
		from, to, size int64
	}{
		{"", -1, 0, 0}, {"", 5, 5, 0}, {"", 5, 4, 0}, {"", 10, 0, 10}, {"", 1 << 62, 0, 0},
		{"bytes=0-9", 10, 0, 0}, {"bytes=-9", 9, 0, 0},
	} {
		r := dragonfly.Request{Header: dragonfly.Header{}}
		if test.window != "" {
			r.Header["Range"] = []string{test.window}
		}
		_, err := newWish(r, test.from, Condition{To: test.to, Length: test.size})
		wantKind(t, err, dragonfly.Invalid)
	}
}

func TestWindowBeyondTheContent(t *testing.T) {
	for _, h := range []http.HandlerFunc{file, plain} {
		o := serve(t, h)
		_, _, err := read(t, newClient(t, Options{}), request(o.URL, "Range: bytes=10000-"), 0, Condition{})
		wantKind(t, err, dragonfly.NotFound, "10000 bytes")
	}
}

// TestEmptyContent: an empty resource has no byte 0, which a bounded read asks
// for.
func TestEmptyContent(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"416": part(416, "Content-Range: bytes */0"),
		"200": func(http.ResponseWriter, *http.Request) {},
	} {
		o := serve(t, h)
		data, info, err := read(t, newClient(t, Options{}), request(o.URL), 0, Condition{To: 10})
		if err != nil || len(data) != 0 || info.Length != 0 {
			t.Errorf("%s: %q, %+v, %v", name, data, info, err)
		}
	}
}

// TestBoundedReadStops: a source that ignores ranges sends no more than was
// wanted and what the network holds.
func TestBoundedReadStops(t *testing.T) {
	stopped := make(chan struct{})
	o := serve(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(stopped)
		for {
			if _, err := w.Write(content); err != nil {
				return
			}
		}
	})
	data, _, err := read(t, newClient(t, Options{}), request(o.URL), 0, Condition{To: 12_000})
	if err != nil || len(data) != 12_000 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	<-stopped
}

func TestEncodedContentIsRaw(t *testing.T) {
	o := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte("\x1f\x8b not unpacked"))
	})
	data, info, err := read(t, newClient(t, Options{}), request(o.URL, "Accept-Encoding: gzip"), 0, Condition{})
	if err != nil || string(data) != "\x1f\x8b not unpacked" || info.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%q, %v, %v", data, info.Header, err)
	}
	if got := o.asked()[0].Header.Get("Accept-Encoding"); got != "identity" {
		t.Errorf("Accept-Encoding %q", got)
	}
}

func TestCancel(t *testing.T) {
	answered := make(chan struct{})
	o := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(answered)
		<-r.Context().Done()
	})
	c := newClient(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	b, err := c.Open(ctx, request(o.URL), 0, Condition{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	<-answered
	cancel()
	_, err = io.ReadAll(b)
	wantKind(t, err, dragonfly.Canceled)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_, err = c.Open(ctx, request(o.URL), 0, Condition{})
	wantKind(t, err, dragonfly.Canceled)
}

func TestCloseEndsRead(t *testing.T) {
	o := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	b, err := newClient(t, Options{}).Open(t.Context(), request(o.URL), 0, Condition{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := io.ReadAll(b); done <- err }()
	b.Close()
	wantKind(t, <-done, dragonfly.Canceled, "closed")
}

// TestSuffixesThatLie: where a suffix starts is known by the answer only, so it
// has to be right about the total.
func TestSuffixesThatLie(t *testing.T) {
	const window = "Range: bytes=-7"
	named := Condition{ETag: tag, Length: 7}
	for name, test := range map[string]struct {
		server http.HandlerFunc
		from   int64
		cond   Condition
		kind   dragonfly.Kind
	}{
		"honoured":                   {part(206, "ETag: "+tag, "Content-Range: bytes 95-99/100"), 2, named, ""},
		"another total":              {part(206, "Content-Range: bytes 96-100/101"), 2, Condition{}, dragonfly.SourceFailed},
		"shorter than the suffix":    {part(206, "ETag: "+tag, "Content-Range: bytes 0-4/5"), 2, named, dragonfly.SourceChanged},
		"total left out":             {part(206, "ETag: "+tag, "Content-Range: bytes 95-99/*"), 2, named, dragonfly.SourceFailed},
		"whole, but not so long":     {part(206, "Content-Range: bytes 0-4/5"), 6, Condition{}, dragonfly.NotFound},
		"whole, but shorter by name": {part(206, "Content-Range: bytes 0-4/5"), 6, Condition{ETag: tag}, dragonfly.SourceChanged},
	} {
		t.Run(name, func(t *testing.T) {
			o := serve(t, test.server)
			data, info, err := read(t, newClient(t, Options{}), request(o.URL, window), test.from, test.cond)
			if test.kind != "" {
				wantKind(t, err, test.kind)
				return
			}
			if err != nil || string(data) != "56789" || info.Length != 7 {
				t.Errorf("%q, %+v, %v", data, info, err)
			}
		})
	}
}

// TestClosedWindowWithoutTotal: the window's end is the content's.
func TestClosedWindowWithoutTotal(t *testing.T) {
	o := serve(t, part(206, "Content-Range: bytes 12-16/*"))
	data, info, err := read(t, newClient(t, Options{}), request(o.URL, "Range: bytes=10-16"), 2, Condition{})
	if err != nil || string(data) != "56789" || info.Length != 7 {
		t.Errorf("%q, %+v, %v", data, info, err)
	}
	o = serve(t, part(206, "Content-Range: bytes 5-9/*"))
	_, _, err = read(t, newClient(t, Options{}), request(o.URL), 5, Condition{ETag: tag, Length: 11})
	wantKind(t, err, dragonfly.SourceFailed, "5 to 10", "5 to 9")
	_, _, err = read(t, newClient(t, Options{}), request(o.URL, "Range: bytes=5-"), 0, Condition{To: 4})
	wantKind(t, err, dragonfly.SourceFailed, "5 to 8")
}

// TestWindowBehindTheTotal: a 206 for an offset that lies in the
// resource no more contradicts itself.
func TestWindowBehindTheTotal(t *testing.T) {
	o := serve(t, part(206, "Content-Range: bytes 0-4/5"))
	_, _, err := read(t, newClient(t, Options{}), request(o.URL, "Range: bytes=10-16"), 0, Condition{})
	wantKind(t, err, dragonfly.NotFound, "5 bytes")
}
