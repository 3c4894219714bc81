"""The Node.js clients: openai, and ai with four providers, each against every upstream dialect."""

import pytest

from bed.cells import AIMOCK, at
from bed.node import CLIENTS, NodeClients

HELLO = 'Hi! Naïve café, 東京, 🚀 and a "quoted" \\ backslash.'

every_client = pytest.mark.parametrize("client", CLIENTS)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="session")
def node_clients(logs):
    clients = NodeClients(logs)
    yield clients
    clients.stop()


@pytest.fixture
def run(node_clients, gateway):
    """Runs a task and gives what the client made of the answer."""

    def go(client: str, provider: str, task: str, model: str = "any-model", **job) -> dict:
        root, prefix = gateway.where(provider, CLIENTS[client])
        if client == "ai-google":
            # It takes a name with a slash for a whole path.
            prefix = "models/" + prefix
        return node_clients.run(client=client, task=task, root=root, key=gateway.key, model=prefix + model, **job)

    return go


def ok(result: dict) -> dict:
    assert "ok" in result, result["error"]
    return result["ok"]


@every_client
@at(*AIMOCK)
def test_text(run, client, provider):
    said = ok(run(client, provider, "text", prompt="hello"))
    assert said["text"] == HELLO
    assert said["finish"] in ("stop", "completed")
    assert said["usage"] == {"input": 11, "output": 17}


@every_client
@at(*AIMOCK)
def test_stream(run, client, provider):
    said = ok(run(client, provider, "stream", prompt="hello"))
    assert said["text"] == HELLO
    assert said["pieces"] > 1
    assert said["finish"] in ("stop", "completed")
    assert said["usage"] == {"input": 11, "output": 17}


@every_client
@both_ways
@at(*AIMOCK)
def test_a_tool_loop_runs_to_its_end(run, client, provider, stream):
    said = ok(run(client, provider, "tools", prompt="what is the weather in Paris?", stream=stream))
    assert [(call["name"], call["args"]) for call in said["calls"]] == [
        ("get_weather", {"city": "Paris", "unit": "celsius"})
    ]
    if (client, provider) != ("ai-google", "aimock-gemini"):
        # aimock ends a Gemini call with a finish reason that Gemini does not have, and the client stops there.
        assert said["text"] == "It is 21 °C in Paris."


@every_client
@at(*AIMOCK)
def test_structured_output(run, client, provider):
    said = ok(run(client, provider, "object", prompt="as an invoice"))
    assert said["object"] == {"number": "A-17", "total": 42.5, "lines": ["paper", "ink"]}


@pytest.mark.parametrize("client", ["openai-chat", "ai-compatible"])
@at("aimock-openai")
def test_embeddings(run, client, provider):
    said = ok(run(client, provider, "embeddings", model="text-embedding-3-small", prompt="embed me"))
    assert said["vector"] == [0.25, -0.5, 0.125, 1.0]
