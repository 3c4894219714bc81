#!/usr/bin/env python3
"""Tests of the harness: what it makes of measurements, and that a gateway takes every configuration it is measured with.

    PORTCULLIS_BIN=target/debug/portcullis benches/perf/tests.py
"""

import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PERF = Path(__file__).resolve().parent
sys.path.insert(0, str(PERF))
loader = importlib.machinery.SourceFileLoader("run", str(PERF.parent / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
loader.exec_module(run)

import bars  # noqa: E402
import entry  # noqa: E402
import micro  # noqa: E402
import quiet  # noqa: E402
import report  # noqa: E402
from cases import CASES  # noqa: E402


def turn(side="own", ok=100, cpu=20.0, p99=500, **other):
    spread = {"p50": 100, "p90": 200, "p99": p99, "max": 900, "mean": 120.0, "curve": [[500, 100], [990, p99]]}
    counts = {key: 0 for key in ("refused", "errors", "incomplete", "late", "chunks")}
    return {"side": side, "ok": ok, "begun": ok, "asks": ok, "secs": 2, "rps": ok / 2, "conc": 64, "ask_bytes": 200, "cpu_us_per_request": cpu, "cpu_us_per_chunk": 0.0,
            "latency_us": spread, "first_us": spread, "chunk_us": spread, "cpu_share": 0.5, "generator_share": 0.2, "rss_before_kb": 1000,
            "rss_peak_kb": 2000, "bad": "", "steal": 0.0, "foreign": 0.0, **counts, **other}


def block(case, floor, own, restless=(), entry="portcullis", **other):
    return {"case": case, "entry": entry, "against": "hyper", "round": 1, "by": "cpu", "load": 0.5, "restless": list(restless),
            "turns": [{"side": "own", "steal": 0.0, "foreign": 0.01}], "floor": floor, "own": own, **other}


def verdict(results, what):
    return next(row for row in bars.rows(report.Found(results)) if row[1] == what)


class Profile(unittest.TestCase):
    """What `benches/profile/rustc` makes of the compiler's arguments, with a compiler that says what it was given."""

    OWN = ["--crate-name", "portcullis", "-C", "opt-level=3"]

    def given(self, args, compiler="one", made_for="one", profile=None):
        with tempfile.TemporaryDirectory() as folder:
            wrapper, rustc = Path(folder, "rustc"), Path(folder, "compiler-of-the-test")
            shutil.copy(PERF.parent / "profile/rustc", wrapper)
            rustc.write_text(f'#!/bin/sh\n[ "$*" = -vV ] && echo {compiler} || printf "%s\\n" "$@"\n')
            rustc.chmod(0o755)
            Path(folder, "compiler").write_text(f"{made_for}\n")
            env = {key: value for key, value in os.environ.items() if key != "PORTCULLIS_PROFILE"}
            env |= {"PORTCULLIS_PROFILE": profile} if profile else {}
            said = subprocess.run([wrapper, rustc, *args], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
            return [word.replace(folder, "HERE") for word in said.splitlines()]

    def test_release_builds_of_the_program_are_compiled_with_it(self):
        use = ["-C", "profile-use=HERE/program.profdata", "-C", "llvm-args=-no-pgo-warn-mismatch"]
        self.assertEqual(self.given(self.OWN), self.OWN + use)

    def test_all_else_is_compiled_as_it_would_be(self):
        for args in (["--crate-name", "hyper", "-C", "opt-level=3"], ["--crate-name", "portcullis", "-C", "debuginfo=1"], ["a b", "*"]):
            self.assertEqual(self.given(args), args)

    def test_another_compiler_gets_none(self):
        self.assertEqual(self.given(self.OWN, compiler="another"), self.OWN)

    def test_it_is_left_out_and_made_where_that_is_asked_for(self):
        self.assertEqual(self.given(self.OWN, profile="off"), self.OWN)
        self.assertEqual(self.given(self.OWN, profile="generate:/counts"), [*self.OWN, "-C", "profile-generate=/counts"])


class Turns(unittest.TestCase):
    def test_cpu_time_is_summed_before_it_is_divided(self):
        whole = run.combine([turn(ok=100, cpu=10.0), turn(ok=300, cpu=30.0)])
        self.assertEqual((whole["ok"], whole["cpu_us_per_request"]), (400, 25.0))

    def test_a_burst_in_one_of_four_turns_does_not_move_the_tail(self):
        whole = run.combine([turn(p99=value) for value in (500, 520, 90_000, 480)])
        self.assertEqual(whole["latency_us"]["p99"], 510)

    def test_what_went_wrong_in_one_turn_is_kept(self):
        whole = run.combine([turn(), turn(errors=2, bad="closed in the head")])
        self.assertEqual((whole["errors"], whole["bad"]), (2, "closed in the head"))


class Quiet(unittest.TestCase):
    unit = "cpu_us_per_request"

    def test_calm_turns_are_believed(self):
        self.assertEqual(quiet.why_not([turn("floor"), turn(cpu=30.0), turn(cpu=31.0), turn("floor", cpu=21.0)], self.unit), [])

    def test_each_disturbance_is_named(self):
        turns = [turn("floor", steal=0.03), turn(cpu=30.0, foreign=0.4), turn(cpu=40.0), turn("floor")]
        self.assertEqual(quiet.why_not(turns, self.unit), ["steal 3%", "foreign 40%", "own drifts 33%"])

    def test_the_machine_can_be_looked_at(self):
        shares = quiet.Watch([], [0]).end()
        self.assertEqual(sorted(shares), ["foreign", "steal"])


class Bars(unittest.TestCase):
    what = "raw, 0.2 KB ask: CPU per request"

    def test_every_row_has_a_bar(self):
        self.assertEqual({bar.row for bar in bars.BARS} - {"steady"}, {f"P{number}" for number in range(1, 18)})

    def test_every_bar_reads_a_case_or_an_estimate_that_exists(self):
        names, micros, asked = {case.name for case in CASES}, {name for _, name, _ in micro.ROWS}, []

        class Asked(report.Found):
            def pairs(self, case):
                asked.append((case, case in names))
                return super().pairs(case)

            def micro(self, name):
                asked.append((name, name in micros))
                return super().micro(name)

        rows = list(bars.rows(Asked([])))
        self.assertEqual({row[5] for row in rows}, {"not measured"})
        self.assertGreaterEqual(len(asked), len(bars.BARS))
        self.assertEqual([what for what, known in asked if not known], [])

    def test_names_are_unique(self):
        self.assertEqual(len({case.name for case in CASES}), len(CASES))

    def test_the_median_of_the_blocks_is_judged(self):
        results = [block("raw", turn(cpu=20.0), turn(cpu=20.0 * ratio)) for ratio in (1.2, 1.3, 3.0)]
        self.assertEqual(verdict(results, self.what)[3:], ["1.30 ×", "1.20…3.00", "held"])
        self.assertEqual(verdict([block("raw", turn(), turn(cpu=30.0))], self.what)[3:], ["1.50 ×", "–", "**not held**"])

    def test_restless_blocks_are_left_out_where_there_are_calm_ones(self):
        calm, other = block("raw", turn(), turn(cpu=26.0)), block("raw", turn(), turn(cpu=60.0), ["foreign 40%"])
        self.assertEqual(verdict([other, calm, other], self.what)[3:], ["1.30 ×", "–", "held"])
        self.assertEqual(verdict([other], self.what)[5], "**not held**, restless")

    def test_peers_are_not_the_gateway(self):
        self.assertEqual(verdict([block("raw", turn(), turn(), entry="nginx")], self.what)[5], "not measured")

    def test_what_nothing_was_measured_for_is_no_figure(self):
        self.assertEqual(verdict([block("rate", turn(p99=0), turn())], "1,000 a second: p99 over")[5], "not measured")

    def test_sharing_is_the_quotient_of_two_cases_in_the_same_round(self):
        chunk = lambda cpu: turn(cpu_us_per_chunk=cpu)
        results = [block("separate", chunk(20.0), chunk(30.0)), block("coalesce", chunk(20.0), chunk(12.0))]
        self.assertEqual(verdict(results, "64 identical streams: CPU, of 64 separate")[3], "0.40 ×")

    def test_a_plugin_is_judged_by_what_it_costs_more_than_a_translation_that_is_built_in(self):
        chunk = lambda cpu: turn(cpu_us_per_chunk=cpu)
        results = [block("wasm-sse", chunk(20.0), chunk(32.0)), block("sse-o2a", chunk(18.0), chunk(27.0))]
        self.assertEqual(verdict(results, "Wasm adapter, streams of a chunk in 10 ms: CPU per event over a built-in translation")[3:], ["3.00 µs", "–", "told"])

    def test_two_workers_are_judged_by_cpu_time_where_they_have_no_cores(self):
        pair = (turn(ok=100, cpu=20.0), turn(ok=150, cpu=22.0))
        self.assertEqual(verdict([block("two-workers", *pair)], "two workers over one")[3:], ["1.82 ×", "–", "held"])
        self.assertEqual(verdict([block("two-workers", *pair, by="throughput")], "two workers over one")[3:], ["1.50 ×", "–", "**not held**"])

    def test_the_same_ratio_on_another_machine_is_within_a_tenth(self):
        here, there, other = ([block("raw", turn(cpu=cpu), turn(cpu=cpu * ratio))] for cpu, ratio in ((20.0, 1.3), (50.0, 1.4), (20.0, 1.5)))
        self.assertIn("| 1.40 | 1.30 | 0.93 | same |", report.comparison(here, there))
        self.assertIn("**differs**", report.comparison(here, other))


class Micro(unittest.TestCase):
    def test_estimates_are_read_and_what_they_come_with_is_taken_off(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, times in (("visit alone", [100.0, 220.0, 330.0]), ("route hook, six fields, a plan (P8)", [1100.0, 2400.0, 3600.0])):
                new = Path(folder) / name / "new"
                new.mkdir(parents=True)
                (new / "benchmark.json").write_text(json.dumps({"full_id": name}))
                (new / "sample.json").write_text(json.dumps({"iters": [1, 2, 3], "times": times}))
                (new / "estimates.json").write_text(json.dumps({"median": {"point_estimate": times[1] / 2}}))
            lines = list(micro.lines(micro.read(folder)))
        self.assertEqual([(line["row"], line["median"], line["low"], line["high"]) for line in lines], [("P8", 1090.0, 990.0, 1090.0)])
        self.assertEqual(verdict(lines, "Lua route hook, six fields, a plan: the engine")[3:], ["1.09 µs", "0.99…1.09", "held"])


class Report(unittest.TestCase):
    def test_all_tables_are_written_of_one_block_each(self):
        results = [block(case.name, turn(cpu_us_per_chunk=5.0, startup_ms=8.0, rss_idle_kb=4096), turn(cpu_us_per_chunk=6.0, startup_ms=9.0, rss_idle_kb=8192))
                   for case in CASES]
        text = report.summary(CASES, results)
        for title in ("Rows and bars", "How quiet it was", "Whole answers", "Memory", "Start"):
            self.assertIn(f"## {title}", text)
        for case in CASES:
            self.assertIn(case.title, text)
        for line in text.splitlines():
            self.assertNotIn("nan", line)


class Configurations(unittest.TestCase):
    def test_the_gateway_takes_each_of_them(self):
        program = os.environ.get("PORTCULLIS_BIN", str(run.ROOT / "target/debug/portcullis"))
        self.assertTrue(os.access(program, os.X_OK), f"{program} is not there: build it, or name another as PORTCULLIS_BIN")
        names = sorted({name for case in CASES for name in (case.entry, case.against) if name and name.startswith("portcullis")})
        self.assertGreater(len(names), 10)
        with tempfile.TemporaryDirectory() as folder:
            # Where the gateway would be started to serve, it is asked to check.
            checks = Path(folder) / "checks"
            checks.write_text(f'#!/bin/sh\nexec "{Path(program).resolve()}" check "$3"\n')
            checks.chmod(0o755)
            env = entry.environment(str(checks), Path(folder))
            for name in names:
                with self.subTest(name):
                    done = entry.Entry(name, env).shell("start", stdout=entry.subprocess.PIPE, stderr=entry.subprocess.STDOUT, text=True)
                    said = done.communicate()[0]
                    self.assertEqual(done.returncode, 0, said)


if __name__ == "__main__":
    unittest.main()
