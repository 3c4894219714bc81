"""The rows that criterion measures: runs its benches, reads what it wrote, as lines for the results."""

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

BENCHES = ["plan", "guest", "limit"]

# Row, what criterion calls it, and what has to be taken off, because the figure is what is added.
ROWS = [
    ("P7", "plan/latency", None),
    ("P8", "route hook, six fields, a plan (P8)", "visit alone"),
    ("P9", "three hooks, six host calls (P9)", "visit alone"),
    ("P10", "event hook, one event (P10)", None),
    ("P11", "plugin, request and route, two headers, one host call (P11)", "visit alone"),
    ("P11", "the same with a fresh instance (P11)", "visit alone"),
    ("P13", "plugin from the compiled cache (P13)", None),
    ("P15", "limit/5 rules, reserve and settle", None),
    ("P15", "limit on redis/5 rules, reserve and settle", None),
    ("P15", "limit on redis/a ping", None),
]


def target(root):
    return Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))


def run(root, core, build):
    """Runs all benches on one core, built now or the last time; gives what they estimated."""
    began = time.time()
    if build:
        chosen = [word for bench in BENCHES for word in ("--bench", bench)]
        subprocess.run(["cargo", "bench", "--no-run", *chosen], cwd=root, check=True)
    for bench in BENCHES:
        built = [path for path in (target(root) / "release/deps").glob(f"{bench}-*") if os.access(path, os.X_OK) and not path.suffix]
        if not built:
            raise SystemExit(f"cargo bench --bench {bench} has not been built; leave out --no-build")
        newest = max(built, key=lambda path: path.stat().st_mtime)
        env = {**os.environ, "CARGO_MANIFEST_DIR": str(root), "CRITERION_HOME": str(target(root) / "criterion")}
        subprocess.run(["taskset", "-c", core, newest, "--bench", "--noplot"], cwd=root, env=env, check=True)
    # What an earlier run left there is not this one's: a bench may have gone, or have had no redis-server.
    return {name: found for name, found in read(target(root) / "criterion").items() if found["at"] >= began}


def read(folder):
    """Every estimate under criterion's folder: median, least and most of its samples, in nanoseconds."""
    found = {}
    for about in Path(folder).glob("**/new/benchmark.json"):
        name = json.loads(about.read_text())["full_id"]
        sample = json.loads((about.parent / "sample.json").read_text())
        each = [spent / runs for spent, runs in zip(sample["times"], sample["iters"])]
        median = json.loads((about.parent / "estimates.json").read_text())["median"]["point_estimate"]
        found[name] = {"median": median, "low": min(each), "high": max(each), "samples": len(each), "at": about.stat().st_mtime}
    return found


def lines(found):
    """One line a row that was measured."""
    for row, name, less in ROWS:
        if name not in found or (less and less not in found):
            continue
        off = found[less]["median"] if less else 0
        figures = {key: found[name][key] - off for key in ("median", "low", "high")}
        yield {"micro": name, "row": row, "less": less, **figures}


def gather(results):
    """The newest line of each, and over several runs the median and the widest range."""
    rows = {}
    for line in results:
        rows.setdefault(line["micro"], []).append(line)
    return {name: (statistics.median(line["median"] for line in found), min(line["low"] for line in found), max(line["high"] for line in found))
            for name, found in rows.items()}
