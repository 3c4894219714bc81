"""Servers for the session and clients for each test. A server that does not start fails the tests: nothing skips."""

import os
import shutil
from pathlib import Path

import pytest

from bed import upstreams
from bed.agents import AGENTS
from bed.gateway import PROVIDERS, Direct, Gateway, speaks
from bed.node import CLIENTS as NODE_CLIENTS
from bed.scripted import Scripted
from bed.speak import SPEAKERS

DIRECT = os.environ.get("PORTCULLIS_DIRECT") == "1"

# The files whose cells make sense without a gateway, where client and upstream speak alike.
WITHOUT_GATEWAY = {"test_aimock", "test_llmock", "test_llama", "test_node", "test_agents", "test_pairs"}


def pytest_collection_modifyitems(config, items):
    """Without a gateway only those cells remain that do not need one."""
    if not DIRECT:
        return

    def possible(item) -> bool:
        if item.module.__name__ not in WITHOUT_GATEWAY:
            return False
        call = getattr(item, "callspec", None)
        provider = call and call.params.get("provider")
        if not provider or provider.startswith("script-") or call.params.get("speaker") == "gemini-v1":
            return False
        if provider.startswith("mock-") and not os.environ.get("PORTCULLIS_BIN"):
            return False
        named = NODE_CLIENTS | {name: kind.dialect for name, kind in SPEAKERS.items()} | AGENTS
        dialects = [named[value] for value in call.params.values() if isinstance(value, str) and value in named]
        return all(speaks(provider, dialect) for dialect in dialects)

    config.hook.pytest_deselected(items=[item for item in items if not possible(item)])
    items[:] = [item for item in items if possible(item)]


@pytest.fixture(scope="session")
def logs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bed")


@pytest.fixture(scope="session")
def servers(logs):
    """Every upstream, running: name -> something with a `url`."""
    running = {"script": Scripted()}
    starters = {
        "llama": lambda: upstreams.start_llama(logs),
        "llama-embedding": lambda: upstreams.start_llama(logs, "embedding"),
        "aimock": lambda: upstreams.start_aimock(logs),
        "llmock": lambda: upstreams.start_llmock(logs),
    }
    if not DIRECT or os.environ.get("PORTCULLIS_BIN"):
        starters["mock"] = lambda: upstreams.start_mock(logs)
    try:
        for name, start in starters.items():
            running[name] = start()
        yield running
    finally:
        for server in running.values():
            server.stop()


@pytest.fixture(scope="session")
def gateway(servers, logs):
    it = (Direct if DIRECT else Gateway)(servers, logs)
    yield it
    it.stop()
    if not DIRECT:
        # What the tests did not look at must hold all the same.
        twice = [id for id, lines in it.log.all().items() if len(lines) != 1]
        assert not twice, f"exchanges with more than one log line: {twice}"
        keep = os.environ.get("PORTCULLIS_TEST_LOGS")
        if keep:
            shutil.copytree(logs, Path(keep) / os.environ.get("PYTEST_XDIST_WORKER", "gw0"), dirs_exist_ok=True)


@pytest.fixture
def speak(gateway):
    """Makes speakers: speak("messages", "mock-chat") is an Anthropic client whose asks end at an OpenAI upstream."""
    open_clients = []

    def make(speaker: str, provider: str, key: str | None = None, **more):
        kind = SPEAKERS[speaker]
        root, prefix = gateway.where(provider, kind.dialect)
        open_clients.append(kind(root, key or gateway.key, prefix, **more))
        return open_clients[-1]

    yield make
    for client in open_clients:
        client.close()


@pytest.fixture
def native(servers):
    """Makes clients of an upstream's own dialect with nothing in between: what the provider's own SDK gives."""
    open_clients = []
    direct = Direct(servers, None)

    def make(provider: str):
        dialect = PROVIDERS[provider][1]
        kind = next(kind for kind in reversed(SPEAKERS.values()) if kind.dialect == dialect)
        root, _ = direct.where(provider, dialect)
        open_clients.append(kind(root, direct.key))
        return open_clients[-1]

    yield make
    for client in open_clients:
        client.close()


@pytest.fixture
def script(servers) -> Scripted:
    return servers["script"]


@pytest.fixture
def log_of(gateway):
    """The access-log line of a client's last exchange; None where no gateway keeps a log."""
    return lambda client: gateway.log and gateway.log.of(client.exchange)
