"""What an operator does: checks a file, reloads it, drains a process, reads metrics and records."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import httpx2
import pytest

from bed.gateway import Gateway
from bed.process import clean_env, until
from bed.speak import SPEAKERS, User
from bed.upstreams import binary

HELLO = [User("Hello")]


@pytest.fixture
def own(servers, tmp_path):
    """A gateway of this test's own."""
    it = Gateway(servers, tmp_path)
    yield it
    it.stop()


@pytest.fixture
def ask():
    clients = []

    def make(gateway, model: str, stream: bool = False):
        clients.append(SPEAKERS["chat"](gateway.url, gateway.key))
        return clients[-1].ask(model, HELLO, stream=stream)

    yield make
    for client in clients:
        client.close()


def get(url: str, **headers: str):
    with httpx2.Client(trust_env=False, timeout=5) as http:
        return http.get(url, headers=headers)


def with_model(gateway, name: str) -> str:
    written = json.loads(gateway.file.read_text())
    written["models"][name] = {"target": "mock-chat/mock-fast"}
    return json.dumps(written)


def serves(gateway, model: str) -> bool:
    answer = get(gateway.url + f"/v1/models/{model}", authorization=f"Bearer {gateway.key}")
    return answer.status_code == 200


def test_a_good_file_passes_the_check_and_a_bad_one_is_told_all_its_errors(gateway, tmp_path):
    def check(text: str):
        file = tmp_path / "portcullis.yaml"
        file.write_text(text)
        return subprocess.run([binary(), "check", file], capture_output=True, text=True, timeout=20, env=clean_env())

    assert check(gateway.file.read_text()).returncode == 0
    bad = check("lisen: {}\nproviders:\n  x: { dialect: openai_chatt, base_url: 'http://x/v1' }\nkeys:\n  - { nam: a }\n")
    assert bad.returncode == 2
    told = bad.stdout + bad.stderr
    for word in ("lisen", "listen", "openai_chatt", "nam", "portcullis.yaml:1", "portcullis.yaml:3"):
        assert word in told, told


def test_a_changed_file_is_taken_over_and_a_broken_one_is_not(own, ask):
    assert not serves(own, "brand-new")
    own.file.write_text(with_model(own, "brand-new"))
    until("the new model", lambda: serves(own, "brand-new"), 10, 0.05)
    good = own.file.read_text()
    own.file.write_text(good.replace('"dialect"', '"dialekt"', 1))
    until("a word about the broken file", lambda: "dialekt" in own.process.tail(), 10, 0.05)
    assert serves(own, "brand-new")
    assert ask(own, "brand-new").text


def test_sighup_reloads(own):
    own.file.write_text(with_model(own, "by-signal"))
    os.kill(own.process.child.pid, signal.SIGHUP)
    until("the new model", lambda: serves(own, "by-signal"), 10, 0.05)


def test_a_mounted_config_map_is_taken_over_when_its_link_is_swapped(servers, tmp_path):
    """Kubernetes never writes the file: it swaps a link to the folder that holds it."""
    made = Gateway(servers, tmp_path)
    made.stop()
    for version, text in (("v1", made.file.read_text()), ("v2", with_model(made, "mounted"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "portcullis.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    made.file.unlink()
    made.file.symlink_to("..data/portcullis.yaml")
    made.start()
    try:
        assert not serves(made, "mounted")
        (tmp_path / "..data_tmp").symlink_to("v2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        until("the new model", lambda: serves(made, "mounted"), 10, 0.05)
    finally:
        made.stop()


def test_a_drain_finishes_what_has_begun_and_ends_well(own, ask):
    said = []
    slow = threading.Thread(target=lambda: said.append(ask(own, "mock-chat/mock-fast:chunks=20,delay=50ms", stream=True)))
    slow.start()
    until("the stream to begin", lambda: "portcullis_" in get(own.admin_url + "/metrics").text, 5)
    time.sleep(0.2)  # the stream lasts a second; it is under way now
    os.kill(own.process.child.pid, signal.SIGTERM)
    until("the drain", lambda: refused(own), 5)
    slow.join(10)
    assert said and said[0].finish == "stop", "the stream was cut by the drain"
    assert own.process.child.wait(10) == 0


def refused(gateway) -> bool:
    try:
        return get(gateway.url + "/readyz").status_code == 503
    except httpx2.HTTPError:
        return True


def test_reloads_under_load_lose_nothing(own, ask):
    errors, stop = [], threading.Event()

    def hammer():
        client = SPEAKERS["chat"](own.url, own.key)
        while not stop.is_set():
            try:
                assert client.ask("mock-chat/mock-fast", HELLO, stream=True).text
            except Exception as error:  # noqa: BLE001, every kind counts
                errors.append(error)
        client.close()

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(5):
        own.file.write_text(with_model(own, f"model-{number}"))
        os.kill(own.process.child.pid, signal.SIGHUP)
        until("the reload", lambda number=number: serves(own, f"model-{number}"), 10, 0.02)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not errors


def test_health_and_metrics(gateway, ask):
    before = ask(gateway, "mock-chat/mock-fast")
    assert before.text
    assert get(gateway.url + "/livez").status_code == 200
    assert get(gateway.url + "/readyz").status_code == 200
    assert get(gateway.url + "/health").json()
    text = get(gateway.admin_url + "/metrics").text
    for name in ("gen_ai_client_operation_duration_seconds_bucket", "gen_ai_client_token_usage", "portcullis_"):
        assert name in text
    assert gateway.key not in text and "upstream-secret" not in text


def test_a_finished_exchange_can_be_looked_up(gateway):
    client = SPEAKERS["chat"](gateway.url, gateway.key)
    said = client.ask("mock-chat/mock-fast", HELLO)
    url = f"{gateway.url}/v1/generation?id={client.exchange}"
    record = get(url, authorization=f"Bearer {gateway.key}").json()
    text = json.dumps(record)
    assert client.exchange in text and "mock-chat" in text and str(said.usage.input) in text
    assert get(f"{gateway.url}/v1/generation?id=gen-{uuid.uuid4().hex[:24]}", authorization=f"Bearer {gateway.key}").status_code == 404
    assert get(url, authorization=f"Bearer {gateway.narrow_key}").status_code == 404, "another key's record"
    assert get(url).status_code == 401
    client.close()


def test_without_file_and_keys_the_mock_answers_and_the_terminal_says_what_to_try(tmp_path):
    """The first minute, in a network of its own, where the default ports are free."""
    script = Path(__file__).parent / "bed" / "first_minute.py"
    argv = ["unshare", "--net", sys.executable, script, binary(), tmp_path]
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["exit"] is None, found["told"]
    assert found["answer"]["choices"][0]["message"]["content"]
    assert "curl" in found["told"] and "4100" in found["told"]
