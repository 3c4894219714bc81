"""Models with several targets: the next one answers, and neither client nor bill sees the ones before."""

import uuid

import pytest

from bed.cells import every_dialect
from bed.speak import User

HELLO = [User("Hello there")]


# Faults after which the same target is asked once more before the next one is.
AGAIN = {"500", "529", "cut-head", "cut-first", "malformed-first", "error-first"}
EARLY = ["429", "500", "529", "cut-head", "cut-first", "401", "stall-first", "malformed-first"]


@every_dialect
@pytest.mark.parametrize("stream, fault", [*((way, fault) for way in (False, True) for fault in EARLY), (True, "error-first")])
def test_the_next_target_answers_after_a_fault_before_content(speak, native, log_of, speaker, stream, fault):
    client = speak(speaker, "mock-chat")
    client.prefix = ""
    said = client.ask(f"after-{fault}", HELLO, stream=stream)
    assert said.text == native("mock-anthropic").ask("mock-fast", HELLO).text
    assert client.headers["x-portcullis-provider"] == "mock-anthropic"
    tries = ["mock-chat"] * (2 if fault in AGAIN else 1) + ["mock-anthropic"]
    assert client.headers["x-portcullis-attempts"] == str(len(tries))
    line = log_of(client)
    assert line["status"] == 200 and "error" not in line
    assert [attempt["provider"] for attempt in line["attempts"]] == tries
    assert line["attempts"][0]["error"] and "error" not in line["attempts"][-1]


@every_dialect
def test_a_mistake_of_the_caller_is_not_tried_elsewhere(speak, log_of, speaker):
    client = speak(speaker, "mock-chat")
    client.prefix = ""
    with pytest.raises(Exception):
        client.ask("after-400", HELLO)
    line = log_of(client)
    assert line["status"] == 400 and len(line["attempts"]) == 1


@every_dialect
def test_after_content_nothing_is_tried_elsewhere(speak, log_of, speaker):
    client = speak(speaker, "mock-chat")
    client.prefix = ""
    with pytest.raises(Exception):
        client.ask("after-cut-mid", HELLO, stream=True)
    assert client.pieces > 0
    line = log_of(client)
    assert line["error"]["code"] == "stream_broken" and len(line["attempts"]) == 1
