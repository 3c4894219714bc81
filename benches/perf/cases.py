"""The loads of `benches/run`: what is asked, of which program, beside which other. Starts and measures nothing."""

import os
import resource
from dataclasses import dataclass, field

REFERENCE = "hyper"
# Cores enough for two workers, the mock and the generator.
ROOMY = os.cpu_count() >= 4
OPENAI, ANTHROPIC, COHERE, OLLAMA = "/v1/chat/completions", "/v1/messages", "/v2/chat", "/api/chat"


@dataclass
class Case:
    """One load. `options` go to the generator; `path` is the client's wire form."""

    name: str
    row: str
    title: str
    path: str = OPENAI
    options: list = field(default_factory=list)
    kind: str = "request"  # request, chunk, memory or startup: what its figures are per
    secs: float | None = None  # of one turn; the run's when not set
    turns: str = "ABBA"  # A is the yardstick; what lasts long has one turn each
    entry: str | None = None  # another file in perf/gateways/ than the run's
    against: str = REFERENCE  # what it is paired with
    other: tuple | None = None  # path and options of the yardstick, where it has to be asked in another form
    disturb: str | None = None  # what happens once a second, or to the log, while the gateway is measured
    spread: bool = False  # on all cores rather than on one
    more: bool = False  # only with --more, or when named


def descriptors():
    """Files that a process may open: as many as the hard limit allows, which root may raise."""
    wanted = 65536
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (wanted, min(hard, wanted)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), max(hard, most)))
            return most
        except (ValueError, PermissionError):
            continue
    return soft


# A stream takes two descriptors of the gateway; where the system allows fewer, the largest load is what fits.
MANY = min(10_000, descriptors() // 2 - 100)


def streams(count, model, chunks, think=300):
    load = ["--sse", "--conc", str(count), "--model", model, "--expect-chunks", str(chunks)]
    return [*load, "--think-ms", str(think)] if think else load


def slow(count, every):
    """Many open streams that say little, for as long as memory takes to settle."""
    return [*streams(count, f"mock-c4-d{every}", 4, think=0), "--ramp-ms", str(count)]


def steady(rate, most=256):
    return ["--rate", str(rate), "--conc", str(most)]


# Tails need more turns than means: a burst of a neighbour spoils the 99th percentile of the one turn that it hits.
TAIL = {"options": steady(1000), "secs": 3, "turns": "ABBAABBA"}
SSE = streams(50, "mock-c64-d10", 64)


def full(form="mock"):
    """Streams as fast as they come: the core never sleeps between two chunks, as in `raw`."""
    return streams(50, f"{form}-c64", 64, think=0)


BURST = streams(64, "mock-c64-d10", 64, think=0)
# Each stream says twenty chunks, one a second; they begin over ten seconds.
OPEN_CHUNKS, OPEN_RAMP = 20, 10_000
OPEN = [*streams(MANY, f"mock-c{OPEN_CHUNKS}-d1000", OPEN_CHUNKS, think=0), "--ramp-ms", str(OPEN_RAMP), "--requests", str(MANY)]

CONTROL = [
    Case("control", "control", "pass-through beside itself, whole", entry=REFERENCE),
    Case("control-sse", "control", "the same, streams", options=SSE, kind="chunk", entry=REFERENCE),
    Case("control-rate", "control", "the same, 1,000 a second", entry=REFERENCE, **TAIL),
]

ROWS = [
    Case("raw", "P1", "raw, whole, 0.2 KB ask"),
    Case("raw-limited", "P1", "the same with two limits", entry="portcullis+two-rules"),
    Case("raw-even", "P1", "the same, 10,000 a second on both sides", options=steady(10_000)),
    Case("raw-100k", "P1", "raw, whole, 100 KB ask", options=["--pad", "100000"]),
    Case("raw-10m", "P6", "raw, whole, 10 MB ask, one after the other", options=["--pad", "10000000", "--conc", "1"]),
    Case("raw-10m-4", "P6", "the same, 4 at once", options=["--pad", "10000000", "--conc", "4"]),
    Case("sse", "P2", "raw stream", options=SSE, kind="chunk"),
    Case("sse-full", "P2", "raw stream, as fast as it comes", options=full(), kind="chunk"),
    Case("rate", "P3", "raw, whole, 1,000 a second", **TAIL),
    Case("a2o", "P4", "anthropic in, openai out", path=ANTHROPIC, options=["--form", "anthropic"]),
    Case("o2a", "P4", "openai in, anthropic out", options=["--model", "claude"]),
    Case("sse-a2o", "P4", "stream, anthropic in, openai out", path=ANTHROPIC, kind="chunk", options=[*SSE, "--form", "anthropic"]),
    Case("sse-o2a", "P4", "stream, openai in, anthropic out", options=streams(50, "claude-c64-d10", 64), kind="chunk"),
    Case("sse-o2a-full", "P4", "the same, as fast as it comes", options=full("claude"), kind="chunk"),
    Case("mem-1k", "P5", "1,000 open slow streams", options=slow(1000, 2000), kind="memory", secs=9, turns="AB"),
    Case("mem-10k", "P5", f"{MANY:,} open slow streams", options=slow(MANY, 8000), kind="memory", secs=36, turns="AB"),
    Case("streams-10k", "P5", f"{MANY:,} streams of {OPEN_CHUNKS} chunks, one a second", options=OPEN, kind="memory", secs=58, turns="AB"),
    Case("mem-10m", "P6", "one 10 MB ask after the other", options=["--pad", "10000000", "--conc", "1"], kind="memory", secs=4, turns="AB"),
    Case("startup", "P6", "start to first served request", kind="startup", turns="AB"),
    Case("with-unused", "P7", "configured and not used: limits, a policy, a cache", entry="portcullis+unused", against="portcullis"),
    Case("with-lua", "P8", "a Lua policy that reads six fields and plans", entry="portcullis+lua", against="portcullis"),
    Case("with-three", "P9", "a Lua policy with three hooks and six host calls", entry="portcullis+three", against="portcullis"),
    Case("with-event", "P10", "streams, a Lua policy called at every event", options=SSE, kind="chunk", entry="portcullis+event", against="portcullis"),
    Case("with-event-full", "P10", "the same, as fast as they come", options=full(), kind="chunk", entry="portcullis+event", against="portcullis"),
    Case("with-eventless", "P10", "streams, a Lua policy that looks at requests only", options=SSE, kind="chunk", entry="portcullis+eventless", against="portcullis"),
    Case("with-wasm", "with", "a policy in a plugin, called at its six phases", entry="portcullis+wasm", against="portcullis"),
    Case("wasm-request", "P12", "an adapter in a plugin (Cohere)", options=["--model", "cohere"], entry="portcullis+adapters", other=(COHERE, [])),
    Case("wasm-sse", "P12", "stream through it", options=streams(50, "cohere-c64-d10", 64), kind="chunk", entry="portcullis+adapters",
         other=(COHERE, [*SSE, "--form", "cohere"])),
    Case("wasm-sse-full", "P12", "the same, as fast as it comes", options=full("cohere"), kind="chunk", entry="portcullis+adapters",
         other=(COHERE, [*full(), "--form", "cohere"])),
    Case("lua-request", "adapter", "an adapter in Lua (Ollama)", options=["--model", "ollama"], entry="portcullis+adapters", other=(OLLAMA, [])),
    Case("lua-sse", "adapter", "stream through it", options=streams(50, "ollama-c64-d10", 64), kind="chunk", entry="portcullis+adapters",
         other=(OLLAMA, [*SSE, "--form", "ollama"])),
    Case("reload", "P13", "a reload every second", against="portcullis", disturb="reload", **TAIL),
    Case("blocked-log", "steady", "a log that nobody reads", against="portcullis", disturb="blocked-log", **TAIL),
    Case("scrape", "steady", "all metrics read every second", against="portcullis", disturb="scrape", **TAIL),
    Case("cache-hit", "P14", "exact cache hit, 4 KB ask and answer", entry="portcullis+cached", options=["--pad", "4000", "--model", "mock-s4"]),
    Case("separate", "P16", "64 streams, each asked for itself", kind="chunk", options=BURST),
    Case("coalesce", "P16", "64 identical streams, one upstream call", kind="chunk", options=BURST, entry="portcullis+coalesced"),
    Case("two-workers", "P17", "two workers beside one", entry="portcullis+two", against="portcullis", spread=True,
         options=["--conc", "128"] if ROOMY else steady(8000)),
    Case("with-many", "P17", "1,000 keys, 1,000 models, 100 targets beside one of each", entry="portcullis+many", against="portcullis"),
    Case("tls", "tls", "TLS in", entry="portcullis+tls", against="hyper-tls"),
    Case("tls-sse", "tls", "TLS in, streams", kind="chunk", options=SSE, entry="portcullis+tls", against="hyper-tls"),
    Case("h2", "h2", "HTTP/2 in: 64 at once over 4 connections with TLS", options=["--h2", "4"], entry="portcullis+tls", against="hyper-tls"),
    Case("h2-sse", "h2", "HTTP/2 in, 50 streams over 4 connections", kind="chunk", options=[*SSE, "--h2", "4"], entry="portcullis+tls", against="hyper-tls"),
]

MORE = [
    *[Case(f"ask-{name}", "ask", f"ask of {name.upper()}", options=["--pad", str(size)])
      for name, size in (("0.5kb", 300), ("4kb", 4096), ("64kb", 65536), ("1mb", 1 << 20))],
    *[Case(f"answer-{kb}kb", "answer", f"answer of {kb} KB", options=["--model", f"mock-s{kb}"]) for kb in (1, 16)],
    *[Case(f"stream-{chunks}", "stream", f"streams of {chunks} chunks, 5 ms apart", kind="chunk", secs=secs, turns=turns,
           options=streams(50, f"mock-c{chunks}-d5", chunks, think=0)) for chunks, secs, turns in ((16, 2, "ABBA"), (64, 3, "ABBA"), (1024, 12, "AB"))],
    *[Case(f"conns-{count}", "conns", f"{count:,} connection{'s' * (count > 1)}", options=["--conc", str(count)]) for count in (1, 64, 1000)],
    Case("fresh", "fresh", "a connection a request", options=["--fresh", "--conc", "16"]),
    Case("tls-fresh", "fresh", "a connection and a TLS handshake a request", options=["--fresh", "--conc", "16"], entry="portcullis+tls", against="hyper-tls"),
    *[Case(f"with-{name}", "with", title, entry=f"portcullis+{name}", against="portcullis", options=options)
      for name, title, options in (("limits", "five limits, in memory", []), ("trace", "the decision trace in every log line", []),
                                   ("cached", "a cache that never hits", ["--vary"]))],
]
for case in MORE:
    case.more = True

CASES = [*CONTROL, *ROWS, *MORE]

# What peers are compared by.
COMPARED = ["raw", "raw-100k", "sse", "rate", "mem-1k", "startup"]
