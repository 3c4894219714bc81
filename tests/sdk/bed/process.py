"""Child processes with a port: started, waited for, stopped. Never left behind, never waited for without a bound."""

import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

# Below the kernel's ephemeral range, so that no outgoing connection can take a port between the look and the bind.
PORTS = range(20_000, 32_000)

# A killed test run leaves nothing behind.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]


def free_port() -> int:
    """A port nobody listens on, from this worker's own share of the range."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    share = [port for port in PORTS if port % 8 == int(worker) % 8]
    for port in random.sample(share, len(share)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


def until(what: str, check, seconds: float = 10.0, every: float = 0.01):
    """Polls `check` until it gives something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        got = check()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(every)


class Process:
    """One server. `ready` is a path that answers below 500 as soon as the server is up."""

    def __init__(self, name: str, argv: list, port: int, ready: str, logs: Path, env: dict | None = None):
        self.name, self.port, self.url = name, port, f"http://127.0.0.1:{port}"
        self.output = logs / f"{name}.out"
        with self.output.open("wb") as out:
            self.child = subprocess.Popen(
                [*DIES_WITH_US, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=env or clean_env(), start_new_session=True,
            )
        try:
            until(f"{name} on port {port}", lambda: self._answers(ready), seconds=60)
        except BaseException:
            self.stop()
            raise

    def _answers(self, path: str) -> bool:
        if self.child.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.child.returncode}:\n{self.tail()}")
        try:
            with urllib.request.urlopen(self.url + path, timeout=5):
                return True
        except urllib.error.HTTPError as refused:
            return refused.code < 500
        except OSError:
            return False

    def tail(self, size: int = 4000) -> str:
        return self.output.read_text(errors="replace")[-size:]

    def stop(self) -> None:
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait(5)


def clean_env(**more: str) -> dict:
    """An environment without keys, proxies or homes: nothing of the machine can leak into a test."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "NO_COLOR": "1", **more}
