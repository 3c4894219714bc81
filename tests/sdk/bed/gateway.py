"""The gateway under test: its configuration, its process, its access log."""

import json
import threading
from pathlib import Path

from .process import Process, clean_env, free_port, until
from .upstreams import binary

KEY = "sk-matrix-7f3a9c51e2"
NARROW_KEY = "sk-narrow-0b6d2f84aa"

# provider name -> (which server, dialect, path below the server)
PROVIDERS = {
    "llama": ("llama", "openai_chat", "/v1"),
    "llama-chat": ("llama", "openai_chat", "/v1"),
    "llama-responses": ("llama", "openai_responses", "/v1"),
    "llama-anthropic": ("llama", "anthropic", ""),
    "llama-embed": ("llama-embedding", "openai_chat", "/v1"),
    "aimock-openai": ("aimock", "openai_chat", "/v1"),
    "aimock-responses": ("aimock", "openai_responses", "/v1"),
    "aimock-anthropic": ("aimock", "anthropic", ""),
    "aimock-gemini": ("aimock", "gemini", "/v1beta"),
    "llmock-openai": ("llmock", "openai_chat", "/v1"),
    "llmock-responses": ("llmock", "openai_responses", "/v1"),
    "llmock-anthropic": ("llmock", "anthropic", "/anthropic"),
    "llmock-gemini": ("llmock", "gemini", "/gemini/v1beta"),
    "mock-chat": ("mock", "openai_chat", "/v1"),
    "mock-responses": ("mock", "openai_responses", "/v1"),
    "mock-anthropic": ("mock", "anthropic", ""),
    "mock-gemini": ("mock", "gemini", "/v1beta"),
    "script-chat": ("script", "openai_chat", "/v1"),
    "script-responses": ("script", "openai_responses", "/v1"),
    "script-anthropic": ("script", "anthropic", ""),
    "script-gemini": ("script", "gemini", "/v1beta"),
}

# What a provider speaks besides its first dialect: same-dialect traffic then goes through as it is.
ALSO = {"llama": ["openai_responses", "anthropic"]}

# Short enough that a stalling upstream is a test and not a pause.
TIMEOUTS = {"connect": "2s", "head": "1s", "first_token": "1s", "idle": "1s", "total": "30s"}

# llama.cpp computes on a shared core, and a scripted fault may ask for a wait: neither is a stall.
PATIENT = {"connect": "5s", "head": "30s", "first_token": "30s", "idle": "30s", "total": "60s"}


# A fault at the first target, an answer at the second: what `after-FAULT` stands for.
FIRST_FAULTS = [
    "429", "500", "529", "400", "401", "cut-head", "cut-first", "cut-mid", "stall-first", "error-first", "malformed-first",
]


def config(servers: dict, port: int, admin_port: int, log: Path) -> dict:
    """The configuration as an operator would write it; JSON is YAML."""
    providers = {}
    for name, (server, dialect, path) in PROVIDERS.items():
        providers[name] = {
            "dialect": dialect,
            "base_url": servers[server].url + path,
            "api_key": "upstream-secret",
            "timeouts": PATIENT if server.startswith("llama") else TIMEOUTS,
        }
        if name in ALSO:
            providers[name]["dialects"] = ALSO[name]
    providers["nobody-home"] = {"dialect": "openai_chat", "base_url": "http://127.0.0.1:9/v1", "api_key": "upstream-secret"}
    # The first target of the fallbacks has the same faults again and again; a rest would hide them.
    providers["mock-chat"]["breaker"] = "off"
    models = {"house-model": {"target": "mock-chat/mock-fast"}}
    for fault in FIRST_FAULTS:
        models[f"after-{fault}"] = {"fallback": [f"mock-chat/mock-fast:chunks=8,fault={fault}", "mock-anthropic/mock-fast"]}
    for name, (server, *_) in PROVIDERS.items():
        if server == "llmock":
            models[f"crowd-{name}/*"] = {"fallback": [f"{name}/*", "mock-anthropic/mock-fast"]}
    return {
        "listen": {"address": f"127.0.0.1:{port}"},
        "admin": {"address": f"127.0.0.1:{admin_port}"},
        "providers": providers,
        "models": models,
        "keys": [
            {"name": "matrix", "key": KEY, "project": "tests"},
            {"name": "narrow", "key": NARROW_KEY, "project": "tests", "models": ["house-model"]},
        ],
        "log": {"file": str(log), "stdout": "off"},
    }


class Gateway:
    """The running gateway and everything a test may ask about it."""

    def __init__(self, servers: dict, logs: Path, **sections: dict):
        self.logs, self.log = logs, AccessLog(logs / "access.jsonl")
        self.port, admin_port = free_port(), free_port()
        self.url, self.admin_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{admin_port}"
        self.key, self.narrow_key = KEY, NARROW_KEY
        self.file = logs / "portcullis.yaml"
        written = config(servers, self.port, admin_port, self.log.path) | sections
        self.file.write_text(json.dumps(written, indent=1))
        self.start()

    def start(self) -> None:
        argv = [binary(), "serve", "--config", self.file]
        env = clean_env(RUST_BACKTRACE="1", HOME=str(self.logs))
        self.process = Process("portcullis", argv, self.port, "/readyz", self.logs, env)

    def where(self, provider: str, dialect: str) -> tuple[str, str]:
        """The root that a client of `dialect` is pointed at, and what stands before the model's name."""
        return self.url, provider + "/"

    def stop(self) -> None:
        self.process.stop()


class Direct:
    """No gateway: clients talk to the upstreams. Proves the tests themselves, in the cells where both speak alike."""

    def __init__(self, servers: dict, logs: Path):
        self.servers, self.key, self.log = servers, "any-key", None

    def where(self, provider: str, dialect: str) -> tuple[str, str]:
        server, _, path = PROVIDERS[provider]
        return self.servers[server].url + path.removesuffix("/v1").removesuffix("/v1beta"), ""

    def stop(self) -> None:
        pass


def speaks(provider: str, dialect: str) -> bool:
    first = PROVIDERS[provider][1] if provider in PROVIDERS else None
    return dialect == first or dialect in ALSO.get(provider, [])


class AccessLog:
    """The gateway's own record: one JSON line an exchange, found by the id in the answer's head."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._read = 0
        self._lines: dict[str, list[dict]] = {}

    def _catch_up(self) -> None:
        with self._lock:
            if not self.path.exists():
                return
            with self.path.open("rb") as file:
                file.seek(self._read)
                while (line := file.readline()).endswith(b"\n"):
                    self._read += len(line)
                    entry = json.loads(line)
                    self._lines.setdefault(entry["id"], []).append(entry)

    def of(self, exchange: str, seconds: float = 5) -> dict:
        """The one line of an exchange."""

        def found():
            self._catch_up()
            return self._lines.get(exchange)

        lines = until(f"the log line of {exchange}", found, seconds)
        assert len(lines) == 1, f"{len(lines)} log lines for {exchange}"
        return lines[0]

    def with_request_id(self, id: str) -> dict | None:
        """The line of an exchange whose answer nobody saw, by the id that the caller chose."""
        self._catch_up()
        found = [line for lines in list(self._lines.values()) for line in lines if line["request_id"] == id]
        assert len(found) <= 1, f"{len(found)} log lines for {id}"
        return found[0] if found else None

    def all(self) -> dict[str, list[dict]]:
        self._catch_up()
        return self._lines
