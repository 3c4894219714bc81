"""What the runs of `benches/run` come to, as Markdown and plots. Reads results only; measures nothing."""

import statistics
from pathlib import Path

import plot

# What each peer does with a request, for those who compare.
PEERS = {
    "portcullis": "checks the key, reads model and usage, meters, prices, logs",
    "nginx": "reverse proxy with an access log; reads no body",
    "nginx-lua": "decodes the body in Lua, picks the upstream by model; access log",
    "haproxy": "reverse proxy; reads no body, no log",
    "envoy": "reverse proxy with an access log; reads no body",
    "vllm-router": "parses the body, balances over workers; no key, no usage, no cost",
    "smg": "parses the body, one OpenAI back end; no key, no usage, no cost",
    "portkey": "parses and maps the body; provider by header; no key, no cost",
    "litellm": "parses, maps, counts usage and cost; no key check without its database",
}

HEADS = {
    "request": ("Whole answers", ["row", "load", "pass-through CPU µs/request", "gateway", "ratio", "gateway requests/s", "p50 over it, µs", "p99 over it, µs", "bad"]),
    "chunk": ("Streams: 50 at once, 64 chunks 10 ms apart", ["row", "load", "pass-through CPU µs/chunk", "gateway", "ratio", "first token p50 over it, µs", "p99", "chunk delay p50 over it, µs", "p99", "bad"]),
    "memory": ("Memory", ["row", "load", "pass-through", "gateway", "ratio", "gateway idle MB", "peak MB", "bad"]),
    "startup": ("Start", ["row", "load", "pass-through ms", "gateway ms", "gateway idle MB"]),
    "with": ("With one more in use, beside the gateway without it", ["row", "load", "without, CPU µs/request", "with", "ratio", "p50 over it, µs", "p99 over it, µs", "p99 ratio", "bad"]),
}


def line(case, result):
    """One measurement, for the terminal."""
    floor, own = result["floor"], result["own"]
    name = f"{case.name:10} {result['entry']:12}"
    if case.kind == "startup":
        return f"{name} {floor['startup_ms']} / {own['startup_ms']} ms, idle {own['rss_idle_kb'] // 1024} MB"
    text = f"{name} load {result['load']:.1f}"
    if case.kind == "memory":
        text += f"  peak {floor['rss_peak_kb']} / {own['rss_peak_kb']} KB"
    else:
        unit = f"cpu_us_per_{case.kind}"
        text += f"  {floor[unit]} / {own[unit]} µs = {own[unit] / max(floor[unit], 0.01):.2f} ×"
        what = "first_us" if case.kind == "chunk" else "latency_us"
        text += f"  p50 {floor[what]['p50']} / {own[what]['p50']}, p99 {floor[what]['p99']} / {own[what]['p99']} µs"
    wrong = [side["bad"] for side in (floor, own) if side["bad"]]
    return text + (f"  BAD {wrong}" if wrong else "")


def spread(values, digits):
    """Median and range."""
    if not values:
        return "–"
    shown = f"{statistics.median(values):.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.{digits}f}…{max(values):.{digits}f})"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


class Pairs:
    """The measurements of one case and program, each beside its yardstick."""

    def __init__(self, results):
        self.sides = [(result["floor"], result["own"]) for result in results]

    def each(self, side, *keys):
        def get(of):
            for key in keys:
                of = of[key]
            return of
        return [get(pair[side]) for pair in self.sides]

    def med(self, side, *keys):
        return statistics.median(self.each(side, *keys))

    def over(self, *keys):
        return [own - floor for floor, own in zip(self.each(0, *keys), self.each(1, *keys))]

    def ratios(self, *keys):
        return [own / floor for floor, own in zip(self.each(0, *keys), self.each(1, *keys)) if floor]

    def grown(self, side):
        return statistics.median(peak - before for peak, before in zip(self.each(side, "rss_peak_kb"), self.each(side, "rss_before_kb")))

    def bad(self):
        return sum(side.get(key, 0) for pair in self.sides for side in pair for key in ("refused", "errors", "incomplete"))


def row(case, pairs):
    """The case's row in the table of its kind."""
    if case.kind == "startup":
        return [case.row, case.title, f"{pairs.med(0, 'startup_ms'):.0f}", f"{pairs.med(1, 'startup_ms'):.0f}", f"{pairs.med(1, 'rss_idle_kb') / 1024:.1f}"]
    bad = str(pairs.bad())
    if case.kind == "memory":
        count, body = pairs.med(1, "conc"), pairs.med(1, "ask_bytes") / 1024
        grown = [pairs.grown(side) for side in (0, 1)]
        each = [f"{kb / count:.1f} KB" for kb in grown] if count > 1 else [f"{kb / body:.2f} × body" for kb in grown]
        return [case.row, case.title, *each, f"{grown[1] / max(grown[0], 1):.2f}",
                f"{pairs.med(1, 'rss_before_kb') / 1024:.1f}", f"{pairs.med(1, 'rss_peak_kb') / 1024:.1f}", bad]
    unit = f"cpu_us_per_{case.kind}"
    cells = [case.row, case.title, f"{pairs.med(0, unit):.1f}", f"{pairs.med(1, unit):.1f}", f"**{spread(pairs.ratios(unit), 2)}**"]
    over = lambda what, share: spread(pairs.over(what, share), 0)
    if case.kind == "chunk":
        return [*cells, over("first_us", "p50"), over("first_us", "p99"), over("chunk_us", "p50"), over("chunk_us", "p99"), bad]
    if case.against == "hyper":
        cells.append(f"{pairs.med(1, 'rps'):.0f}")
    cells += [over("latency_us", "p50"), over("latency_us", "p99")]
    if case.against != "hyper":
        cells.append(spread(pairs.ratios("latency_us", "p99"), 2))
    return [*cells, bad]


def summary(cases, results):
    """The gateway's tables."""
    rows = {kind: [] for kind in HEADS}
    for case in cases:
        found = [result for result in results if result["case"] == case.name and result["entry"] not in PEERS.keys() - {"portcullis"}]
        if found:
            rows[case.kind if case.against == "hyper" else "with"].append(row(case, Pairs(found)))
    return "\n".join(f"## {title}\n\n" + table(head, rows[kind]) for kind, (title, head) in HEADS.items() if rows[kind])


def peers(cases, results):
    """One row a program, each figure as a multiple of, or beyond, the pass-through in its own pairs."""
    of = {case.name: case for case in cases}
    names = [name for name in PEERS if any(result["entry"] == name for result in results)]

    def cell(name, case, show):
        found = [result for result in results if result["entry"] == name and result["case"] == case]
        if not found or case not in of:
            return "–"
        pairs = Pairs(found)
        return show(pairs) + (f" ({pairs.bad()} bad)" if pairs.bad() else "")

    rows = [[
        f"**{name}**" if name == "portcullis" else name,
        cell(name, "raw", lambda pairs: spread(pairs.ratios("cpu_us_per_request"), 2)),
        cell(name, "raw-100k", lambda pairs: spread(pairs.ratios("cpu_us_per_request"), 2)),
        cell(name, "sse", lambda pairs: spread(pairs.ratios("cpu_us_per_chunk"), 2)),
        cell(name, "sse", lambda pairs: spread(pairs.over("first_us", "p50"), 0)),
        cell(name, "rate", lambda pairs: spread(pairs.over("latency_us", "p50"), 0)),
        cell(name, "rate", lambda pairs: spread(pairs.over("latency_us", "p99"), 0)),
        cell(name, "mem-1k", lambda pairs: f"{pairs.grown(1) / pairs.med(1, 'conc'):.0f}"),
        cell(name, "startup", lambda pairs: f"{pairs.med(1, 'startup_ms'):.0f}"),
        cell(name, "startup", lambda pairs: f"{pairs.med(1, 'rss_idle_kb') / 1024:.0f}"),
        PEERS[name],
    ] for name in names]
    head = ["program", "CPU/request, 0.2 KB, ×", "100 KB, ×", "CPU/chunk, ×", "first token over, µs", "p50 over, µs", "p99 over, µs", "KB a stream", "start, ms", "idle, MB", "what it does"]
    return table(head, rows)


def plots(folder: Path, results):
    """CPU per request, memory per stream and latency at a fixed rate, of every program that was measured."""

    def collect(case, value):
        """Each program's median of what `value` makes of its pairs."""
        found = {}
        for result in (result for result in results if result["case"] == case):
            found.setdefault(result["entry"], []).append(value(result))
        # Nothing was served: a program that refuses a load has no figure for it.
        found = {name: [value for value in values if value > 0] for name, values in found.items()}
        return {name: statistics.median(values) for name, values in found.items() if values}

    written = []

    def write(name, content):
        (folder / name).write_text(content)
        written.append(name)

    # Multiples of the pass-through in the same minute: pairs measured hours apart can stand in one plot.
    for case, name, title in (("raw", "cpu.svg", "CPU per request, 0.2 KB ask"), ("raw-100k", "cpu-100k.svg", "CPU per request, 100 KB ask")):
        ratios = collect(case, lambda result: result["own"]["cpu_us_per_request"] / max(result["floor"]["cpu_us_per_request"], 0.01))
        if ratios:
            write(name, plot.bars(f"{title}: 1 is a bare pass-through", "×", {"hyper": 1.0, **ratios}, 2))
    stream = lambda side: max(side["rss_peak_kb"] - side["rss_before_kb"], 1) / side["conc"]
    if kilobytes := collect("mem-1k", lambda result: stream(result["own"])):
        floor = statistics.median(stream(result["floor"]) for result in results if result["case"] == "mem-1k")
        write("memory.svg", plot.bars("Memory per open stream, 1,000 streams", "KB", {"hyper": floor, **kilobytes}, 0))
    curves = {}
    for result in (result for result in results if result["case"] == "rate"):
        for name, side in ((result["against"], result["floor"]), (result["entry"], result["own"])):
            # Those that cannot serve the rate were asked at another, which is no comparison.
            if "curve" in side["latency_us"] and side["rps"] > 900:
                curves[name] = side["latency_us"]["curve"]
    if curves:
        write("latency.svg", plot.curves("Latency at 1,000 requests a second", "µs", curves))
    return written
