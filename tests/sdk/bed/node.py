"""The Node.js clients: one worker process a session, one job a line."""

import json
import subprocess
import threading

from .process import DIES_WITH_US, clean_env
from .upstreams import SDK, node

# client -> the dialect it speaks
CLIENTS = {
    "openai-chat": "openai_chat",
    "openai-responses": "openai_responses",
    "ai-compatible": "openai_chat",
    "ai-openai": "openai_responses",
    "ai-anthropic": "anthropic",
    "ai-google": "gemini",
}

class NodeClients:
    def __init__(self, logs):
        self._errors = (logs / "node.out").open("wb")
        self._child = subprocess.Popen(
            [*DIES_WITH_US, node(), SDK / "node" / "worker.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=clean_env(), text=True, encoding="utf-8",
        )
        self._lock = threading.Lock()

    def run(self, **job) -> dict:
        """What the job gave: `ok` or `error`, the exchange's id, and how many requests it took."""
        with self._lock:
            self._child.stdin.write(json.dumps(job) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the Node worker ended with {self._child.wait(5)}")
        return json.loads(line)

    def stop(self) -> None:
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
        self._errors.close()
