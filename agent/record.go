// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/internal/logfile"
	"dragonfly/peer"
)

// record writes what happens to one job as v1 did: its log lines, and the
// lines for the user (v1-protocol 9).
type record struct {
	a     *Agent
	job   Job
	out   *outbox
	log   *slog.Logger
	ip    string
	cid   string
	began time.Time

	mu       sync.Mutex // guards below
	node     string     // that took the task last
	attempts int
	started  bool // the user was told that the swarm is at work
}

var _ peer.Observer = (*record)(nil)

// v1's numbers in log lines (v1-protocol 2.3).
const (
	statusStarted = 700
	statusRunning = 701
	resultFailed  = 500
	resultInvalid = 502 // nothing to report
	resultWritten = 503
	wrapperBytes  = 5
)

func (a *Agent) newRecord(job Job, out *outbox) *record {
	var w io.Writer = a.o.JobLog
	if job.Console {
		w = io.MultiWriter(w, consoleWriter{out})
	}
	level := slog.LevelInfo
	if job.Verbose {
		level = slog.LevelDebug
	}
	r := &record{a: a, job: job, out: out, log: logfile.New(w, level, job.Sign), began: time.Now()}
	r.ip = cmp.Or(job.IP, a.o.IP)
	if r.ip == "" {
		r.ip = localIP(job.Nodes)
	}
	r.cid = r.ip + "-" + job.Sign
	return r
}

// consoleWriter shows a job's log lines to its client.
type consoleWriter struct{ out *outbox }

func (w consoleWriter) Write(line []byte) (int, error) {
	w.out.put(parcel{news: news{Log: string(line)}}, false)
	return len(line), nil
}

// localIP is this host's address towards the first node that has one; nothing
// is sent to find out.
func localIP(nodes []dragonfly.Member) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var dialer net.Dialer
	for _, node := range nodes {
		conn, err := dialer.DialContext(ctx, "udp", node.Addr)
		if err != nil {
			continue
		}
		defer conn.Close()
		if addr, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			return addr.IP.String()
		}
	}
	return "127.0.0.1"
}

func (r *record) begin() {
	if len(r.job.Argv) > 0 {
		quoted := make([]string, len(r.job.Argv))
		for i, arg := range r.job.Argv {
			quoted[i] = strconv.Quote(arg)
		}
		r.log.Info("get cmd params:[" + strings.Join(quoted, " ") + "]")
	}
	if len(r.job.Config) > 0 {
		r.log.Info("get init config:" + string(r.job.Config))
	}
	r.log.Info("target file path:" + r.job.Target)
	r.log.Info("runtimeVariable: " + r.variables())
	if r.a.o.Port > 0 && r.job.Pattern == peer.PatternP2P {
		r.log.Info("use peer server on port:" + strconv.Itoa(r.a.o.Port))
	}
	if r.job.Pattern == peer.PatternSource {
		return
	}
	group := "config"
	if r.job.Preset {
		group = "default"
	}
	nodes := make([]string, len(r.job.Nodes))
	for i, m := range r.job.Nodes {
		nodes[i] = m.String()
	}
	r.log.Info(fmt.Sprintf("do register to one of %s:[%s]", group, strings.Join(nodes, " ")))
}

// base is the name of the target in lines about the source.
func (r *record) base() string { return filepath.Base(r.job.Target) }

// variables is v1's line of what it found out at its start.
func (r *record) variables() string {
	return compact(struct {
		MetaPath, SystemDataDir, DataDir, RealTarget string
		StreamMode                                   bool
		TargetDir, TempTarget, Cid, TaskURL          string
		TaskFileName, LocalIP                        string
		PeerPort                                     int
		FileLength                                   int64
		DataExpireTime, ServerAliveTime              time.Duration
	}{
		filepath.Join(r.a.o.Meta, "host.meta"), r.a.o.Data, r.a.o.Data, r.job.Target,
		r.job.Stream,
		filepath.Dir(r.job.Target), r.job.TempTarget, r.cid, RedactURL(cmp.Or(r.job.Request.TaskURL, r.job.Request.URL)),
		r.base() + "-" + r.job.Sign, r.ip,
		r.a.o.Port, dragonfly.UnknownLength, r.a.o.Expire, r.a.o.Alive,
	})
}

// answer is v1's answer to a registration (v1-protocol 2.2).
type answer struct {
	Code int        `json:"code"`
	Msg  string     `json:"msg"`
	Data answerTask `json:"data"`
}

type answerTask struct {
	TaskID     dragonfly.TaskID `json:"taskId"`
	FileLength int64            `json:"fileLength"`
	PieceSize  int64            `json:"pieceSize"`
	CDNSource  string           `json:"cdnSource"`
	AsSeed     bool             `json:"asSeed"`
	SeedTaskID string           `json:"seedTaskID"`
}

func (r *record) Registered(node dragonfly.Member, info dragonfly.TaskInfo, cost time.Duration, err error) {
	r.mu.Lock()
	r.attempts++
	first := err == nil && !r.started && info.Grant == dragonfly.GrantNone
	if err == nil {
		r.node = node.Addr
		r.started = r.started || first
	}
	r.mu.Unlock()
	if err != nil {
		r.log.Info(fmt.Sprintf("do register to %s, res:null error:%v", node.Addr, err))
		return
	}
	res := compact(answer{200, "success", answerTask{TaskID: info.Task, FileLength: info.Layout.Length,
		PieceSize: pieceSize(info.Layout), CDNSource: "supernode"}})
	r.log.Info(fmt.Sprintf("do register to %s, res:%s error:<nil>", node.Addr, res))
	r.log.Info(fmt.Sprintf("do register result:%s and cost:%.3fs", res, cost.Seconds()))
	if first {
		r.out.line(fmt.Sprintf("client:%s connected to node:%s", r.ip, node.Addr))
		r.out.line("start download by dragonfly...")
	}
	r.downloading(pieceLine{TaskID: info.Task, SuperNode: superNode(node.Addr), Result: resultInvalid, Status: statusStarted})
}

func (r *record) Migrated(node dragonfly.Member) {
	r.out.line("migrated to node:" + node.Addr)
	r.log.Info("migrated to node:" + node.Addr)
}

// pieceLine is what users look for: where each piece came from (FAQ: check if
// block piece is distributed). The order of its members is v1's.
type pieceLine struct {
	TaskID    dragonfly.TaskID   `json:"taskID"`
	SuperNode string             `json:"superNode"`
	DstCid    string             `json:"dstCid"`
	Range     string             `json:"range"`
	Result    int                `json:"result"`
	Status    int                `json:"status"`
	PieceSize int64              `json:"pieceSize"`
	PieceNum  dragonfly.PieceNum `json:"pieceNum"`
}

func (r *record) downloading(l pieceLine) { r.log.Info("downloading piece:" + compact(l)) }

// superNode names a supernode in piece lines as users wrote it: without the
// port that is everybody's (FAQ: check if block piece is distributed), with
// any other, as v1's later logs show it.
func superNode(addr string) string {
	if host, port, err := net.SplitHostPort(addr); err == nil && port == strconv.Itoa(dragonfly.DefaultControlPort) {
		return host
	}
	return addr
}

// pieceLine describes an assignment in v1's wrapped coordinates. There is one
// line per assignment: of a piece that came in parts each part's line says
// whom it came from, which is what a user looks for. All of them show the
// range of the whole piece, as v1 did: by it and pieceNum lines of several
// hosts and of both versions are joined, and a part's own range would be none
// of these pieces.
func (r *record) pieceLine(p peer.PieceDone, result int) pieceLine {
	r.mu.Lock()
	node := r.node
	r.mu.Unlock()
	size, n := pieceSize(p.Layout), int64(p.Assignment.Piece)
	return pieceLine{TaskID: p.Assignment.Task, SuperNode: superNode(node), DstCid: r.dstCid(p.Assignment, node),
		Range:  fmt.Sprintf("%d-%d", n*size, (n+1)*size-1),
		Result: result, Status: statusRunning, PieceSize: size, PieceNum: p.Assignment.Piece}
}

// dstCid names a parent as v1 did, and is never empty; a seed whose bytes came
// with an answer is the node that gave it.
func (r *record) dstCid(a dragonfly.Assignment, node string) string {
	if a.Parent.CID != "" {
		return a.Parent.CID
	}
	switch a.Parent.Kind {
	case dragonfly.ParentSeed:
		host, _, err := net.SplitHostPort(node)
		if err != nil {
			host = node
		}
		return "cdnnode:" + host + "~" + a.Task.String()
	case dragonfly.ParentSource:
		if u, err := url.Parse(r.job.Request.URL); err == nil {
			return "source:" + u.Host
		}
	}
	if len(a.Parent.Addrs) > 0 { // a peer that left
		return a.Parent.Addrs[0].String()
	}
	return cmp.Or(string(a.Parent.Kind), "unknown")
}

func (r *record) Piece(p peer.PieceDone) { r.downloading(r.pieceLine(p, resultWritten)) }

func (r *record) PieceFailed(p peer.PieceDone, reason dragonfly.FailReason, err error) {
	l := r.pieceLine(p, resultFailed)
	if reason == dragonfly.FailCanceled {
		r.log.Debug("downloading piece cancelled:" + compact(l))
		return
	}
	dst := l.DstCid
	if addrs := p.Assignment.Parent.Addrs; len(addrs) > 0 {
		dst = addrs[0].String()
	}
	// v1 waited a moment here; the swarm gives another parent at once.
	r.log.Error(fmt.Sprintf("failed to read piece cont(%s) from dst:%s, wait 0 ms: %s: %v", l.Range, dst, reason, err))
	r.downloading(l)
}

func (r *record) Fallback(reason int, err error) {
	r.mu.Lock()
	attempts := r.attempts
	r.mu.Unlock()
	if err != nil || attempts > 0 {
		text := compact(struct {
			Code int
			Msg  string
		}{-100, cmp.Or(messageOf(err), "empty response, unknown error")})
		switch reason % peer.ReasonNoSource {
		case peer.ReasonRegister:
			r.log.Error("register fail:" + text)
			if reason < peer.ReasonNoSource {
				r.log.Warn(fmt.Sprintf("register fail but try to download from source, reason:%d(%s)", reason, text))
			}
		case peer.ReasonNone, peer.ReasonDownload:
			r.log.Error("failed to download piece: " + text)
			if reason < peer.ReasonNoSource {
				line := fmt.Sprintf("failed to download by dragonfly: failed to download with p2p pattern, reason: %d, and start try to download from source", reason)
				r.log.Error(line)
				r.out.line(line)
			}
		}
	}
	if reason < peer.ReasonNoSource {
		line := "start download " + r.base() + " from the source station"
		r.log.Info(line)
		r.out.line(line)
	}
}

// moved ends the record of a job that goes to the next agent.
func (r *record) moved() {
	r.log.Info("another dfget server takes over, the download goes on there")
}

// end writes the last lines. placed is the client's word, nil if it has gone.
func (r *record) end(result Result, placed *Placed) {
	cost, failure := time.Since(r.began), messageOf(plainOrNil(result.Error))
	if placed != nil {
		cost = placed.Cost
		failure = cmp.Or(failure, placed.Error)
	} else if failure == "" {
		failure = errLeft.Message
	}
	if placed != nil && placed.Source != "" {
		r.log.Info(fmt.Sprintf("move src:%s to dst:%s result:%t cost:%.3f", placed.Source, placed.Target, placed.Error == "", placed.Moved.Seconds()))
	}
	if failure != "" {
		r.log.Info(fmt.Sprintf("download FAIL cost:%.3fs length:%d reason:%d error:%s", cost.Seconds(), result.Length, result.Reason, failure))
		return
	}
	if result.Reason == peer.ReasonNone {
		r.log.Info("download successfully from dragonfly")
	}
	r.log.Info(fmt.Sprintf("download SUCCESS cost:%.3fs length:%d", cost.Seconds(), result.Length))
}

func plainOrNil(e *dragonfly.Error) error {
	if e == nil {
		return nil
	}
	return e
}

func messageOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// pieceSize is v1's piece size, which includes its wrapper. Where pieces have
// none they are whole MiB.
func pieceSize(l dragonfly.Layout) int64 {
	if l.PieceLen%(1<<20) == 0 {
		return l.PieceLen
	}
	return l.PieceLen + wrapperBytes
}

// compact is v as JSON in one line, with v1's freedom to leave <, > and & as
// they are.
func compact(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(b.String(), "\n")
}
