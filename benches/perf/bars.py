"""What every row P1 to P17 has to come to, and whether it did: one table. Reads results only.

A figure is the median over the blocks of turns, or over criterion's samples, with the least and the most of them.
"""

import statistics
from dataclasses import dataclass
from typing import Callable


@dataclass
class Bar:
    row: str
    what: str
    # None: told beside the row it belongs to, and not judged.
    bound: float | None
    unit: str
    # From all that was found to a list of figures, one a block; empty when it was not measured.
    figure: Callable
    least: bool = False  # the bound is from below

    def held(self, value):
        return value >= self.bound if self.least else value <= self.bound


def ratio(case, *keys):
    return lambda found: found.pairs(case).ratios(*keys)


def over(case, *keys):
    return lambda found: found.pairs(case).over(*keys)


def own(case, key, scale):
    return lambda found: [value / scale for value in found.pairs(case).each(1, key)]


def micro(name, scale=1000):
    """Criterion's nanoseconds in another unit."""
    return lambda found: [value / scale for value in found.micro(name)]


def grown(case):
    return lambda found: found.pairs(case).growths()


def bodies(case):
    """Memory in bodies."""
    return lambda found: [kb * 1024 / size for kb, size in zip(found.pairs(case).grew(1), found.pairs(case).each(1, "ask_bytes"))]


def broken(case):
    return lambda found: [found.pairs(case).bad()] if found.pairs(case).sides else []


def quotient(case, other, key):
    """Of two cases' ratios, each to its own yardstick, round by round."""
    return lambda found: [mine / its for mine, its in zip(found.pairs(case).ratios(key), found.pairs(other).ratios(key))]


def beyond(case, other, key):
    """How much more one case is over its yardstick than another, round by round."""
    return lambda found: [mine - its for mine, its in zip(found.pairs(case).over(key), found.pairs(other).over(key))]


def calls(case, streams):
    """Upstream calls for so many streams."""
    def figure(found):
        pairs = found.pairs(case)
        return [asks * streams / begun for asks, begun in zip(pairs.each(1, "asks"), pairs.each(1, "begun")) if begun]
    return figure


def growth(case):
    """Of two cores over one: served in the same time, or where there are no cores for it, what the CPU time allows."""
    def figure(found):
        pairs = found.pairs(case)
        rates, costs = pairs.ratios("rps"), pairs.ratios("cpu_us_per_request")
        return [rate if by == "throughput" else 2 / cost for by, rate, cost in zip(pairs.by, rates, costs)]
    return figure


REQUEST, CHUNK = "cpu_us_per_request", "cpu_us_per_chunk"

BARS = [
    Bar("P1", "raw, 0.2 KB ask: CPU per request", 1.35, "×", ratio("raw", REQUEST)),
    Bar("P1", "the same with two limits", 1.35, "×", ratio("raw-limited", REQUEST)),
    Bar("P1", "raw, 100 KB ask: CPU per request", 1.35, "×", ratio("raw-100k", REQUEST)),
    Bar("P2", "raw stream: CPU per chunk", 1.15, "×", ratio("sse", CHUNK)),
    Bar("P2", "the same as fast as it comes", 1.15, "×", ratio("sse-full", CHUNK)),
    Bar("P2", "first token of 50 streams: p50 over", 50, "µs", over("sse", "first_us", "p50")),
    Bar("P3", "1,000 a second: p50 over", 30, "µs", over("rate", "latency_us", "p50")),
    Bar("P3", "1,000 a second: p99 over", 80, "µs", over("rate", "latency_us", "p99")),
    Bar("P4", "anthropic in, openai out: CPU per request", 2.5, "×", ratio("a2o", REQUEST)),
    Bar("P4", "openai in, anthropic out: CPU per request", 2.5, "×", ratio("o2a", REQUEST)),
    Bar("P4", "anthropic in, openai out: CPU per chunk", 2.0, "×", ratio("sse-a2o", CHUNK)),
    Bar("P4", "openai in, anthropic out: CPU per chunk", 2.0, "×", ratio("sse-o2a", CHUNK)),
    Bar("P5", "memory, idle", 30, "MB", own("startup", "rss_idle_kb", 1024)),
    Bar("P5", "memory per open stream, 1,000", 1.0, "×", grown("mem-1k")),
    Bar("P5", "memory per open stream, 10,000", 1.0, "×", grown("mem-10k")),
    Bar("P5", "memory per stream, 10,000 at a chunk a second", 1.0, "×", grown("streams-10k")),
    Bar("P5", "streams broken of these, both sides", 0, "", broken("streams-10k")),
    Bar("P6", "start to first served request", 60, "ms", own("startup", "startup_ms", 1)),
    Bar("P6", "10 MB ask: CPU", 1.3, "×", ratio("raw-10m", REQUEST)),
    # Four bodies are more than the caches of most machines, and the pass-through holds none.
    Bar("P6", "four of them at once: CPU", None, "×", ratio("raw-10m-4", REQUEST)),
    Bar("P6", "10 MB ask: memory, in bodies", 2.5, "×", bodies("mem-10m")),
    Bar("P7", "plan over 10 targets, all measures read", 3, "µs", micro("plan/latency")),
    Bar("P7", "configured and not used: CPU per request", 1.03, "×", ratio("with-unused", REQUEST)),
    Bar("P8", "Lua route hook, six fields, a plan: the engine", 4, "µs", micro("route hook, six fields, a plan (P8)")),
    Bar("P8", "the same in a request: CPU over", 4, "µs", over("with-lua", REQUEST)),
    Bar("P9", "three Lua hooks, six host calls: the engine", 10, "µs", micro("three hooks, six host calls (P9)")),
    Bar("P9", "the same in a request: CPU over", 10, "µs", over("with-three", REQUEST)),
    Bar("P10", "Lua event hook, an event: the engine", 1, "µs", micro("event hook, one event (P10)")),
    Bar("P10", "the same in streams as fast as they come: CPU per chunk over", 1, "µs", over("with-event-full", CHUNK)),
    # What a core that sleeps in between pays for anything that it runs, above all; see README.
    Bar("P10", "the same in streams of a chunk in 10 ms: CPU per chunk over", None, "µs", over("with-event", CHUNK)),
    # The row says 0; what a run can tell from it is what two runs of one program differ by.
    Bar("P10", "a policy that sees no events: CPU per chunk", 1.03, "×", ratio("with-eventless", CHUNK)),
    Bar("P11", "Wasm request and route, pooled: the engine", 6, "µs", micro("plugin, request and route, two headers, one host call (P11)")),
    Bar("P11", "Wasm request and route, fresh: the engine", 25, "µs", micro("the same with a fresh instance (P11)")),
    Bar("P12", "Wasm adapter: CPU per request", 3.0, "×", ratio("wasm-request", REQUEST)),
    # What a translation may cost is the affair of P4: this is what it costs more in a plugin than built in.
    Bar("P12", "Wasm adapter, streams as fast as they come: CPU per event over a built-in translation", 4, "µs", beyond("wasm-sse-full", "sse-o2a-full", CHUNK)),
    Bar("P12", "Wasm adapter, streams of a chunk in 10 ms: CPU per event over a built-in translation", None, "µs", beyond("wasm-sse", "sse-o2a", CHUNK)),
    Bar("P13", "plugin from the compiled cache", 20, "ms", micro("plugin from the compiled cache (P13)", 1e6)),
    Bar("P13", "p99 under a reload every second", 1.10, "×", ratio("reload", "latency_us", "p99")),
    Bar("P14", "exact cache hit, 4 KB: CPU per request", 0.9, "×", ratio("cache-hit", REQUEST)),
    Bar("P15", "five rules in memory", 2, "µs", micro("limit/5 rules, reserve and settle")),
    Bar("P15", "five rules on Redis, one round trip", 300, "µs", micro("limit on redis/5 rules, reserve and settle")),
    Bar("P16", "64 identical streams: CPU, of 64 separate", 0.5, "×", quotient("coalesce", "separate", CHUNK)),
    Bar("P16", "upstream calls for 64 of them", 1.0, "", calls("coalesce", 64)),
    Bar("P17", "two workers over one", 1.8, "×", growth("two-workers"), least=True),
    Bar("P17", "1,000 keys, 1,000 models, 100 targets: CPU per request", 1.05, "×", ratio("with-many", REQUEST)),
    Bar("steady", "p99 with a log that nobody reads", 1.10, "×", ratio("blocked-log", "latency_us", "p99")),
    Bar("steady", "p99 with all metrics read every second", 1.10, "×", ratio("scrape", "latency_us", "p99")),
]

DIGITS = {"×": 2, "µs": 1, "ms": 1, "MB": 1, "": 0}


def number(value, unit):
    digits = DIGITS[unit]
    if unit == "µs":
        digits = 0 if abs(value) >= 100 else 2 if abs(value) < 10 else digits
    return f"{value:.{digits}f}"


def rows(found):
    """Row, what, bar, figure, range, verdict."""
    for bar in BARS:
        found.restless = False
        values = bar.figure(found)
        bound = "–" if bar.bound is None else f"{'≥' if bar.least else '≤'} {bar.bound:g} {bar.unit}".strip()
        if not values:
            yield [bar.row, bar.what, bound, "–", "–", "not measured"]
            continue
        median = statistics.median(values)
        shown = [number(value, bar.unit) for value in (median, min(values), max(values))]
        span = f"{shown[1]}…{shown[2]}" if len(values) > 1 else "–"
        verdict = "told" if bar.bound is None else "held" if bar.held(median) else "**not held**"
        verdict += ", restless" if found.restless else ""
        yield [bar.row, bar.what, bound, f"{shown[0]} {bar.unit}".strip(), span, verdict]


# How far a ratio may move from one machine to another.
SAME_WITHIN = 0.10


def compared(found, other):
    """Row, what, the figures of two runs, their quotient, and whether it is the same ratio. Only what is a ratio: times differ
    between machines."""
    for bar in BARS:
        values, others = bar.figure(found), bar.figure(other)
        if bar.unit == "×" and values and others:
            mine, its = statistics.median(values), statistics.median(others)
            same = abs(mine / its - 1) <= SAME_WITHIN
            yield [bar.row, bar.what, number(its, bar.unit), number(mine, bar.unit), f"{mine / its:.2f}", "same" if same else "**differs**"]
