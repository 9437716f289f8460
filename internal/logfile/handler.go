// SPDX-License-Identifier: Apache-2.0

package logfile

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// SignKey is the attribute that names the job or process a line belongs to.
const SignKey = "sign"

// Sign is v1's name of one process run: "<pid>-<unix seconds with 3 decimals>"
// (v1-protocol 4.2).
func Sign(pid int, start time.Time) string {
	ms := start.UnixMilli()
	s := strconv.Itoa(pid) + "-" + strconv.FormatInt(ms/1000, 10) + "."
	return s + string(rune('0'+ms/100%10)) + string(rune('0'+ms/10%10)) + string(rune('0'+ms%10))
}

// Handler writes records as
//
//	2006-01-02 15:04:05.000 LEVL sign:<sign> : message key=value
//
// in local time. The attribute SignKey is the sign; all others follow the
// message, which v1's lines had none of.
type Handler struct {
	w     io.Writer
	level slog.Leveler
	sign  string
	group string // prefix of keys, with its dot
	attrs string // written, each with a blank before it
}

var _ slog.Handler = (*Handler)(nil)

// NewHandler writes to w what is at least as severe as level; nil means Info.
func NewHandler(w io.Writer, level slog.Leveler) *Handler {
	if level == nil {
		level = slog.LevelInfo
	}
	return &Handler{w: w, level: level}
}

// New is a logger for one sign.
func New(w io.Writer, level slog.Leveler, sign string) *slog.Logger {
	return slog.New(NewHandler(w, level)).With(SignKey, sign)
}

func (h *Handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	line := make([]byte, 0, 256)
	line = r.Time.Local().AppendFormat(line, "2006-01-02 15:04:05.000")
	line = append(line, ' ')
	line = append(line, levelName(r.Level)...)
	line = append(line, " sign:"...)
	sign, attrs := h.sign, h.attrs
	r.Attrs(func(a slog.Attr) bool {
		h.add(&sign, &attrs, h.group, a)
		return true
	})
	line = append(line, sign...)
	line = append(line, " : "...)
	line = append(line, oneLine(r.Message)...)
	line = append(line, attrs...)
	line = append(line, '\n')
	_, err := h.w.Write(line)
	return err
}

func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		h.add(&c.sign, &c.attrs, h.group, a)
	}
	return &c
}

func (h *Handler) WithGroup(name string) slog.Handler {
	c := *h
	if name != "" {
		c.group += name + "."
	}
	return &c
}

// add writes one attribute behind attrs, or keeps it as the sign.
func (h *Handler) add(sign, attrs *string, group string, a slog.Attr) {
	value := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
		return
	case a.Key == SignKey && group == "":
		*sign = oneLine(value.String())
		return
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, inner := range value.Group() {
			h.add(sign, attrs, group, inner)
		}
		return
	}
	text := value.String()
	if text == "" || strings.ContainsAny(text, " \"=") || oneLine(text) != text {
		text = strconv.Quote(text)
	}
	*attrs += " " + oneLine(group+a.Key) + "=" + text
}

// levelName is the first four letters of v1's level names.
func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "DEBU"
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARN"
	case l < slog.LevelError+4:
		return "ERRO"
	}
	return "FATA"
}

// oneLine escapes what could end a line or forge another one.
func oneLine(s string) string {
	s = strings.TrimRight(s, "\n")
	clean := func(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) && r != '\t' }
	if strings.IndexFunc(s, clean) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if clean(r) {
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
