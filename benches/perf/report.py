"""What the runs of `benches/run` come to, as Markdown and plots. Reads results only; measures nothing."""

import statistics
from pathlib import Path

import bars
import micro
import plot
import quiet

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
    "request": ("Whole answers", ["row", "load", "pass-through CPU µs/request", "gateway", "ratio", "gateway requests/s", "core busy", "p50 over it, µs", "p99 over it, µs", "bad"]),
    "chunk": ("Streams: 50 at once, 64 chunks 10 ms apart", ["row", "load", "pass-through CPU µs/chunk", "gateway", "ratio", "first token p50 over it, µs", "p99", "chunk delay p50 over it, µs", "p99", "bad"]),
    "memory": ("Memory", ["row", "load", "pass-through", "gateway", "ratio", "gateway idle MB", "peak MB", "chunk delay p99 over it, µs", "bad"]),
    "startup": ("Start", ["row", "load", "pass-through ms", "gateway ms", "gateway idle MB"]),
    "with-chunk": ("Streams with one more in use, beside the gateway without it", ["row", "load", "without, CPU µs/chunk", "with", "ratio", "first token p50 over it, µs", "p99", "chunk delay p50 over it, µs", "p99", "bad"]),
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
        text += f"  {floor[unit]:.2f} / {own[unit]:.2f} µs = {own[unit] / max(floor[unit], 0.01):.2f} ×"
        what = "first_us" if case.kind == "chunk" else "latency_us"
        text += f"  p50 {floor[what]['p50']:.0f} / {own[what]['p50']:.0f}, p99 {floor[what]['p99']:.0f} / {own[what]['p99']:.0f} µs"
    wrong = [side["bad"] for side in (floor, own) if side["bad"]]
    text += f"  BAD {wrong}" if wrong else ""
    return text + (f"  RESTLESS: {', '.join(result['restless'])}" if result["restless"] else "")


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
    """The blocks of one case and program, each beside its yardstick: those that can be trusted, or where there is none, all."""

    def __init__(self, results):
        calm = [result for result in results if not result["restless"]]
        self.restless = bool(results) and not calm
        used = calm or results
        self.sides = [(result["floor"], result["own"]) for result in used]
        self.by = [result["by"] for result in used]

    def each(self, side, *keys):
        def get(of):
            for key in keys:
                of = of[key]
            return of
        return [get(pair[side]) for pair in self.sides]

    def med(self, side, *keys):
        return statistics.median(self.each(side, *keys))

    def over(self, *keys):
        """Differences; a figure of 0 is one that nothing was measured for."""
        return [own - floor for floor, own in zip(self.each(0, *keys), self.each(1, *keys)) if floor and own]

    def ratios(self, *keys):
        return [own / floor for floor, own in zip(self.each(0, *keys), self.each(1, *keys)) if floor and own]

    def grew(self, side):
        """KB over what it had before the load."""
        return [peak - before for peak, before in zip(self.each(side, "rss_peak_kb"), self.each(side, "rss_before_kb"))]

    def growths(self):
        return [own / max(floor, 1) for floor, own in zip(self.grew(0), self.grew(1))]

    def grown(self, side):
        return statistics.median(self.grew(side))

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
        delay = spread(pairs.over("chunk_us", "p99"), 0) if case.options[0] == "--sse" else "–"
        return [case.row, case.title, *each, spread(pairs.growths(), 2),
                f"{pairs.med(1, 'rss_before_kb') / 1024:.1f}", f"{pairs.med(1, 'rss_peak_kb') / 1024:.1f}", delay, bad]
    unit = f"cpu_us_per_{case.kind}"
    title = case.title + (" (restless)" if pairs.restless else "")
    cells = [case.row, title, f"{pairs.med(0, unit):.1f}", f"{pairs.med(1, unit):.1f}", f"**{spread(pairs.ratios(unit), 2)}**"]
    over = lambda what, share: spread(pairs.over(what, share), 0)
    if case.kind == "chunk":
        return [*cells, over("first_us", "p50"), over("first_us", "p99"), over("chunk_us", "p50"), over("chunk_us", "p99"), bad]
    if bare(case):
        # Where "as fast as it goes" leaves the core idle, mock and generator were the slower side.
        cells += [f"{pairs.med(1, 'rps'):.0f}", " / ".join(f"{pairs.med(side, 'cpu_share'):.0%}" for side in (0, 1))]
    cells += [over("latency_us", "p50"), over("latency_us", "p99")]
    if not bare(case):
        cells.append(spread(pairs.ratios("latency_us", "p99"), 2))
    return [*cells, bad]


def bare(case):
    """Whether the yardstick is the pass-through."""
    return case.against.startswith("hyper")


class Found:
    """All results of the gateway, by case and by criterion's names. `restless` notes whether a case was asked for that has no calm
    block."""

    def __init__(self, results):
        self.cases, self.restless = {}, False
        for result in results:
            if "case" in result and result["entry"] not in PEERS.keys() - {"portcullis"}:
                self.cases.setdefault(result["case"], []).append(result)
        self.micros = micro.gather([result for result in results if "micro" in result])

    def pairs(self, case):
        pairs = Pairs(self.cases.get(case, []))
        self.restless |= pairs.restless
        return pairs

    def micro(self, name):
        """Median, least and most, in nanoseconds; empty when it was not measured."""
        return self.micros.get(name, ())


def trust(cases, found):
    """How quiet the machine was, and what two runs of the same program differed by: how far the rest can be believed."""
    blocks = [result for results in found.cases.values() for result in results if result["turns"]]
    if not blocks:
        return ""
    turns = [turn for result in blocks for turn in result["turns"]]
    restless = [result for result in blocks if result["restless"]]
    share = lambda what: f"{statistics.fmean(turn[what] for turn in turns):.1%} ({max(turn[what] for turn in turns):.0%} at most)"
    load = [result["load"] for result in blocks]
    text = (f"Of the cores' time the hypervisor took {share('steal')}, programs that are not of the run {share('foreign')}; load average"
            f" {min(load):.1f} to {max(load):.1f}. Of {len(blocks)} blocks {len(restless)} were restless: steal over {quiet.MAX_STEAL:.0%}, others over"
            f" {quiet.MAX_FOREIGN:.0%}, or a program's own turns more than {quiet.MAX_DRIFT:.0%} apart. They are left out where there are calm ones.\n\n")
    rows = []
    for case in cases:
        pairs = found.pairs(case.name)
        if case.row != "control" or not pairs.sides:
            continue
        what = "first_us" if case.kind == "chunk" else "latency_us"
        rows.append([case.title, spread(pairs.ratios(f"cpu_us_per_{case.kind}"), 2), spread(pairs.over(what, "p50"), 0), spread(pairs.over(what, "p99"), 0),
                     spread(pairs.ratios(what, "p99"), 2)])
    head = ["control", "CPU ratio", "p50 (of a stream the first token) over, µs", "p99 over, µs", "p99 ratio"]
    return text + (f"What differs by less than the control does is not told apart by this run.\n\n{table(head, rows)}" if rows else "")


def verdicts(found):
    return table(["row", "what", "bar", "figure", "range", "verdict"], bars.rows(found))


def comparison(results, others):
    """The ratios of two runs, of two machines or two builds, side by side."""
    return table(["row", "what", "there", "here", "quotient", f"within {bars.SAME_WITHIN:.0%}"], bars.compared(Found(results), Found(others)))


def summary(cases, results):
    """The gateway's tables."""
    found = Found(results)
    rows = {kind: [] for kind in HEADS}
    for case in cases:
        pairs = found.pairs(case.name)
        if pairs.sides and case.row != "control":
            kind = case.kind if bare(case) else "with-chunk" if case.kind == "chunk" else "with"
            rows[kind].append(row(case, pairs))
    tables = [f"## {title}\n\n" + table(head, rows[kind]) for kind, (title, head) in HEADS.items() if rows[kind]]
    small = [[name, *(f"{value / 1000:,.2f}" for value in found.micro(name)), less or "–"] for _, name, less in micro.ROWS if found.micro(name)]
    if small:
        tables.append("## Inside: criterion's, in µs\n\n" + table(["what", "median", "least", "most", "taken off"], small))
    return "\n".join(["## Rows and bars\n\n" + verdicts(found), "## How quiet it was\n\n" + trust(cases, found), *tables])


def peers(cases, results):
    """One row a program, each figure as a multiple of, or beyond, the pass-through in its own pairs."""
    of = {case.name: case for case in cases}
    results = [result for result in results if "case" in result]
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

    results = [result for result in results if "case" in result]

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
