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

// Journal is where the jobs of a process are recorded. Log is required.
type Journal struct {
	Log io.Writer // takes the lines of all jobs
	// IP is this host's address in job names, "" to find out per job; Port is
	// that of the data port.
	IP   string
	Port int
	// The rest is for the log only: directories, and how long contents and the
	// process stay that nobody uses.
	Data, Meta    string
	Expire, Alive time.Duration
}

// Record writes what happens to one job as v1 did: its log lines, and the
// lines for the user (v1-protocol 9). Give it to the job as its Observer; call
// Begin before the job and End once after it.
type Record struct {
	j     Journal
	job   Job
	line  func(string) // for the user
	log   *slog.Logger
	ip    string
	cid   string
	began time.Time

	mu       sync.Mutex // guards below
	node     string     // that took the task last
	attempts int
	started  bool // the user was told that the swarm is at work
}

var _ peer.Observer = (*Record)(nil)

// v1's numbers in log lines (v1-protocol 2.3).
const (
	statusStarted = 700
	statusRunning = 701
	resultFailed  = 500
	resultInvalid = 502 // nothing to report
	resultWritten = 503
	wrapperBytes  = 5
)

// record makes the record of a job that came over the socket.
func (a *Agent) record(job Job, out *outbox) *Record {
	j := Journal{Log: a.o.JobLog, IP: a.o.IP, Port: a.o.Port, Data: a.o.Data, Meta: a.o.Meta, Expire: a.o.Expire, Alive: a.o.Alive}
	if job.Console {
		j.Log = io.MultiWriter(j.Log, consoleWriter{out})
	}
	return j.Record(job, out.line)
}

// Record makes the record of a job, which needs a sign of its own. line hears
// the lines for the user; nil: nobody does.
func (j Journal) Record(job Job, line func(string)) *Record {
	level := slog.LevelInfo
	if job.Verbose {
		level = slog.LevelDebug
	}
	if line == nil {
		line = func(string) {}
	}
	r := &Record{j: j, job: job, line: line, log: logfile.New(j.Log, level, job.Sign), began: time.Now()}
	r.ip = cmp.Or(job.IP, j.IP)
	if r.ip == "" {
		r.ip = localIP(job.Nodes)
	}
	r.cid = r.ip + "-" + job.Sign
	return r
}

// ID is the job's name at supernodes and peers.
func (r *Record) ID() dragonfly.JobID { return dragonfly.JobID(r.cid) }

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

// Begin writes the first lines.
func (r *Record) Begin() {
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
	if r.j.Port > 0 && r.job.Pattern == peer.PatternP2P {
		r.log.Info("use peer server on port:" + strconv.Itoa(r.j.Port))
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
func (r *Record) base() string { return filepath.Base(r.job.Target) }

// variables is v1's line of what it found out at its start.
func (r *Record) variables() string {
	return compact(struct {
		MetaPath, SystemDataDir, DataDir, RealTarget string
		StreamMode                                   bool
		TargetDir, TempTarget, Cid, TaskURL          string
		TaskFileName, LocalIP                        string
		PeerPort                                     int
		FileLength                                   int64
		DataExpireTime, ServerAliveTime              time.Duration
	}{
		filepath.Join(r.j.Meta, "host.meta"), r.j.Data, r.j.Data, r.job.Target,
		r.job.Stream,
		filepath.Dir(r.job.Target), r.job.TempTarget, r.cid, RedactURL(cmp.Or(r.job.Request.TaskURL, r.job.Request.URL)),
		r.base() + "-" + r.job.Sign, r.ip,
		r.j.Port, dragonfly.UnknownLength, r.j.Expire, r.j.Alive,
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

func (r *Record) Registered(node dragonfly.Member, info dragonfly.TaskInfo, cost time.Duration, err error) {
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
		r.line(fmt.Sprintf("client:%s connected to node:%s", r.ip, node.Addr))
		r.line("start download by dragonfly...")
	}
	r.downloading(pieceLine{TaskID: info.Task, SuperNode: superNode(node.Addr), Result: resultInvalid, Status: statusStarted})
}

func (r *Record) Migrated(node dragonfly.Member) {
	r.line("migrated to node:" + node.Addr)
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

func (r *Record) downloading(l pieceLine) { r.log.Info("downloading piece:" + compact(l)) }

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
func (r *Record) pieceLine(p peer.PieceDone, result int) pieceLine {
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
func (r *Record) dstCid(a dragonfly.Assignment, node string) string {
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

func (r *Record) Piece(p peer.PieceDone) { r.downloading(r.pieceLine(p, resultWritten)) }

func (r *Record) PieceFailed(p peer.PieceDone, reason dragonfly.FailReason, err error) {
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

func (r *Record) Fallback(reason int, err error) {
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
				r.line(line)
			}
		}
	}
	if reason < peer.ReasonNoSource {
		line := "start download " + r.base() + " from the source station"
		r.log.Info(line)
		r.line(line)
	}
}

// moved ends the record of a job that goes to the next agent.
func (r *Record) moved() {
	r.log.Info("another dfget server takes over, the download goes on there")
}

// End writes the last lines. placed is the client's word, nil if it has gone.
func (r *Record) End(result Result, placed *Placed) {
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
