"""llmock breaks on demand and judges its client: the gateway and the SDK behind it, seen from the upstream."""

import uuid

import pytest

from bed.cells import DIALECTS, LLMOCK, at, every_dialect
from bed.speak import User
from bed.upstreams import get_json, post_json

HELLO = [User("one two three four five six seven eight")]


class Judge:
    """One test's own part of llmock: a model name that only it uses."""

    def __init__(self, url: str):
        self.url, self.model = url + "/_llmock", "judged-" + uuid.uuid4().hex[:12]

    def order(self, behaviour: str, **how) -> None:
        behaviour = {"type": behaviour, "match": {"model": self.model}, **how}
        post_json(self.url + "/scenario", {"behaviors": [behaviour]})

    def requests(self) -> list[dict]:
        return [one for one in get_json(self.url + "/requests")["requests"] if one["model"] == self.model]

    def findings(self) -> list[str]:
        mine = {one["seq"] for one in self.requests()}
        verdict = get_json(self.url + "/verdict")
        return [found["code"] for found in verdict["findings"] if mine & set(found["requests"])]


@pytest.fixture
def judge(servers) -> Judge:
    return Judge(servers["llmock"].url)


# google-genai waits as it sees fit, whatever it is told.
obedient = pytest.mark.parametrize("speaker", [name for name in DIALECTS if name != "gemini-v1beta"])


@obedient
@at(*LLMOCK)
def test_a_wait_is_waited_for_by_who_was_told_to(speak, judge, speaker, provider):
    judge.order("fail", status=429, retry_after=1)
    client = speak(speaker, provider, retries=2)
    assert client.ask(judge.model, HELLO).text
    assert [one["status"] for one in judge.requests()] == [429, 200]
    assert judge.findings() == []


@every_dialect
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@at(*LLMOCK)
def test_what_cannot_succeed_is_asked_once(speak, judge, speaker, provider, status):
    judge.order("fail", status=status, times=None)
    client = speak(speaker, provider)
    with pytest.raises(Exception):
        client.ask(judge.model, HELLO)
    assert client.status == (502 if status == 401 else status)
    if status != 401:
        assert client.headers["x-should-retry"] == "false"
    assert len(judge.requests()) == 1
    assert judge.findings() == []


@obedient
@at(*LLMOCK)
def test_an_outage_is_no_storm(speak, judge, speaker, provider):
    judge.order("fail", status=503, times=None)
    with pytest.raises(Exception):
        speak(speaker, provider, retries=2).ask(judge.model, HELLO)
    assert len(judge.requests()) == 3, "the SDK's tries, and none of the gateway's own on top"


@every_dialect
@pytest.mark.parametrize("kind", ["disconnect", "truncate", "malformed"])
@at(*LLMOCK)
def test_half_a_stream_is_never_taken_for_a_whole_one(speak, judge, log_of, speaker, provider, kind):
    judge.order("stream_fault", kind=kind, after_chunks=5)
    client = speak(speaker, provider)
    with pytest.raises(Exception):
        client.ask(judge.model, HELLO, stream=True)
    line = log_of(client)
    assert line["status"] >= 500 and line["error"]["side"] == "upstream"
    assert len(judge.requests()) == 1


@every_dialect
@at(*LLMOCK)
def test_a_stalled_stream_is_given_up_on(speak, judge, log_of, speaker, provider):
    judge.order("stream_fault", kind="stall", after_chunks=5, stall_seconds=20)
    client = speak(speaker, provider)
    with pytest.raises(Exception):
        client.ask(judge.model, HELLO, stream=True)
    assert log_of(client)["error"]["code"] in ("idle_timeout", "first_token_timeout")
    assert "no_read_timeout" not in judge.findings()
