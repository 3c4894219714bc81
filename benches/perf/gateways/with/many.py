"""The usual configuration on its input, with 1,000 keys, 1,000 models and 100 targets, on its output."""

import sys

text = sys.stdin.read()


def after(head, rows):
    """Adds rows at the beginning of a section."""
    global text
    assert text.count(f"\n{head}:\n") == 1, head
    text = text.replace(f"\n{head}:\n", f"\n{head}:\n" + "".join(f"  {row}\n" for row in rows))


URL = "http://127.0.0.1:${MOCK_PORT:-9100}/v1"
after("providers", [f'more-{n}: {{ dialect: openai_chat, base_url: "{URL}", api_key: sk-upstream }}' for n in range(99)])
after("models", [f"mine-{n}: more-{n % 99}/mock" for n in range(996)])
after("keys", [f"- {{ name: bench-{n}, key: sk-bench-{n:032d}, project: bench }}" for n in range(999)])
sys.stdout.write(text)
