"""The programs under test, as the files in gateways/ start them, and the environment that these are told. Measures nothing."""

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PERF = Path(__file__).resolve().parent
ROOT = PERF.parent.parent
MOCK_PORT = "9100"
GATEWAY_CORE = "0"


def environment(gateway, folder):
    """What the files in gateways/ are told, by way of the environment. `folder` is the run's own."""
    compiled = PERF / "target/compiled"
    compiled.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PERF": str(PERF), "BIN": str(PERF / "target/release"), "GATEWAY": gateway, "MOCK_PORT": MOCK_PORT,
           "PEERS": str(PERF / "target/peers"), "RUN": str(folder / "run"), "PLUGINS": str(ROOT / "plugins/prebuilt"),
           "SCRIPTS": str(ROOT / "scripts"), "COMPILED": str(compiled), **certificate(folder)}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        env.pop(name, None), env.pop(name.upper(), None)
    return env


def certificate(folder):
    """Made for this run, for 127.0.0.1, and no authority: the generator trusts this one and no other."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=bench", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", key, "-out", cert], check=True, stderr=subprocess.DEVNULL)
    return {"TLS_CERT": str(cert), "TLS_KEY": str(key)}


class Entry:
    """A program under test, as its file in gateways/ says. `NAME+FEATURE` is NAME-with.sh with WITH=FEATURE. Two sides of a pair
    live at the same time, so side 1 has ports of its own."""

    def __init__(self, name, env, side=0):
        self.name, self.side = name, side
        base, _, feature = name.partition("+")
        self.env = {**env, "WITH": feature, "SIDE": str(side), "RUN": f"{env['RUN']}/{name}-{side}"}
        Path(self.env["RUN"]).mkdir(parents=True, exist_ok=True)
        self.file = PERF / "gateways" / f"{base}{'-with' if feature else ''}.sh"
        shown = self.shell('printf "%s\\n" "$PORT" "${ADMIN_PORT:-}" "${SCHEME:-http}" "${RATE:-}" "${SSE_CONC:-}" "${HEADERS[@]}"', stdout=subprocess.PIPE, text=True)
        self.port, self.admin, scheme, self.rate, self.streams, *headers = shown.communicate()[0].split("\n")
        self.base, self.secure = f"{scheme}://127.0.0.1:{self.port}", scheme == "https"
        self.headers = [header for header in headers if header]

    def shell(self, then, **options):
        script = f'set -eu; HEADERS=(); . "{self.file}"; {then}'
        return subprocess.Popen(["bash", "-c", script], env=self.env, **options)

    def command(self, cores=GATEWAY_CORE):
        return ["taskset", "-c", cores, "bash", "-c", f'set -eu; HEADERS=(); . "{self.file}"; start']

    def load(self, case, floor):
        """The address, and the case's options as far as the program can bear it: some say themselves what they can."""
        path, options = case.other if floor and case.other else (case.path, case.options)
        options = ["--url", self.base + path, *(["--ca", self.env["TLS_CERT"]] if self.secure else []), *options]
        for flag, most in (("--rate", self.rate), ("--conc", self.streams if case.kind == "chunk" else None)):
            if most and flag in options:
                options[options.index(flag) + 1] = most
        return options

    def start(self, logs, stdout=None, cores=GATEWAY_CORE):
        log = open(logs / f"{self.name}-{self.side}.log", "wb")
        self.process = subprocess.Popen(self.command(cores), env=self.env, stdout=stdout or log, stderr=log, start_new_session=True)
        log.close()
        body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
        request = urllib.request.Request(f"{self.base}/v1/chat/completions", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        for header in self.headers:
            request.add_header(*header.split(": ", 1))
        trust = ssl.create_default_context(cafile=self.env["TLS_CERT"]) if self.secure else None
        why = None
        # Under valgrind a plugin that is not compiled yet takes minutes.
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=10, context=trust):
                    return self
            except OSError as error:
                why = error
            time.sleep(0.05)
        self.stop()
        sys.exit(f"{self.name} does not answer: {why}; see {logs}/{self.name}-{self.side}.log")

    def stop(self):
        stop(self.process)


def stop(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
