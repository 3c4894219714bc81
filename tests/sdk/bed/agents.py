"""Coding agents as their users run them: the real binaries, an empty home, nothing of this machine's environment."""

import json
import subprocess
from pathlib import Path

from .process import clean_env
from .upstreams import MODULES

# agent -> the dialect it speaks
AGENTS = {"claude-code": "anthropic", "codex": "openai_responses"}

# npm keeps packages from running install scripts, so the platform packages' own binaries are called.
CLAUDE = MODULES / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
CODEX = MODULES / "@openai" / "codex-linux-x64" / "vendor" / "x86_64-unknown-linux-musl" / "bin" / "codex"

LIMIT_SECONDS = 45


def claude_code(root: str, key: str, model: str, prompt: str, home: Path, work: Path) -> dict:
    """One headless run: what it answered, and how many turns it took."""
    env = clean_env(
        HOME=str(home),
        ANTHROPIC_BASE_URL=root,
        ANTHROPIC_AUTH_TOKEN=key,
        ANTHROPIC_DEFAULT_HAIKU_MODEL=model,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1",
    )
    argv = [CLAUDE, "-p", prompt, "--model", model, "--allowedTools", "Bash", "--output-format", "json"]
    done = run(argv, env, work)
    said = json.loads(done.stdout)
    return {"text": said["result"], "failed": said["is_error"], "turns": said["num_turns"], "raw": said}


def codex(root: str, key: str, model: str, prompt: str, home: Path, work: Path) -> dict:
    config = home / ".codex"
    config.mkdir()
    (config / "config.toml").write_text(
        f'model = {json.dumps(model)}\nmodel_provider = "gateway"\nsandbox_mode = "danger-full-access"\n'
        f'[model_providers.gateway]\nname = "gateway"\nbase_url = {json.dumps(root + "/v1")}\n'
        'env_key = "GATEWAY_KEY"\nwire_api = "responses"\nrequest_max_retries = 0\nstream_max_retries = 0\n'
    )
    argv = [CODEX, "exec", "--json", "--skip-git-repo-check", prompt]
    done = run(argv, clean_env(HOME=str(home), GATEWAY_KEY=key), work)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return {
        "text": "".join(item["text"] for item in items if item["type"] == "agent_message"),
        "commands": [item["aggregated_output"] for item in items if item["type"] == "command_execution"],
        "failed": not any(event["type"] == "turn.completed" for event in events),
        "raw": events,
    }


def run(argv, env, work: Path):
    done = subprocess.run(
        [str(part) for part in argv], env=env, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.stdout, f"no output; standard error says:\n{done.stderr[-3000:]}"
    return done
