"""Claude Code and Codex complete whole turns: a plain one, and one in which they run a tool and report on it."""

import pytest

from bed.agents import AGENTS, claude_code, codex
from bed.cells import AIMOCK, MOCK, at
from bed.gateway import speaks

RUN = {"claude-code": claude_code, "codex": codex}
SHELL = {"claude-code": "Bash", "codex": "exec_command"}

every_agent = pytest.mark.parametrize("agent", AGENTS)


@pytest.fixture
def ask(gateway, tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "note.txt").write_text("the owl flies at noon\n")

    def go(agent: str, provider: str, model: str, prompt: str) -> dict:
        root, prefix = gateway.where(provider, AGENTS[agent])
        return RUN[agent](root, gateway.key, prefix + model, prompt, home, work)

    return go


@every_agent
@at(*AIMOCK)
def test_a_plain_turn(ask, agent, provider):
    said = ask(agent, provider, "some-model", "PING")
    assert not said["failed"], said["raw"]
    assert said["text"] == "PONG from aimock"


@every_agent
@at(*AIMOCK)
def test_a_turn_in_which_a_command_runs(ask, agent, provider):
    said = ask(agent, provider, "some-model", f"read the note with {SHELL[agent]}")
    assert not said["failed"], said["raw"]
    assert said["text"].endswith("The note speaks of an owl.")


@every_agent
@at(*MOCK)
def test_a_plain_turn_at_a_server_that_refuses_unknown_fields(ask, agent, provider):
    # An agent may send its own provider more than is documented.
    model = "mock-fast" if speaks(provider, AGENTS[agent]) else "mock-fast:strict=1"
    said = ask(agent, provider, model, "Say something.")
    assert not said["failed"], said["raw"]
    assert said["text"]
