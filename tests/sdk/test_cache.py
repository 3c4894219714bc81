"""Answers that are given again: every SDK accepts them, in whatever dialect and form they were made."""

import threading
import uuid

import pytest

from bed.cells import CLOCK, INVOICE, MOCK, WEATHER, at, both_ways, everybody
from bed.gateway import Gateway
from bed.speak import SPEAKERS, Result, User

MODEL = "mock-fast:chunks=7"


@pytest.fixture(scope="module")
def cached(servers, tmp_path_factory):
    """A gateway that keeps answers."""
    it = Gateway(servers, tmp_path_factory.mktemp("cached"), cache={"exact": {"ttl": "10m"}})
    yield it
    it.stop()


@pytest.fixture(scope="module")
def joined(servers, tmp_path_factory):
    """One that gives a text in one piece, and takes its time."""
    replay = {"pieces": "joined", "pace": "5ms"}
    it = Gateway(servers, tmp_path_factory.mktemp("joined"), cache={"exact": {"replay": replay}})
    yield it
    it.stop()


@pytest.fixture
def client():
    clients = []

    def make(gateway, speaker: str, provider: str):
        clients.append(SPEAKERS[speaker](gateway.url, gateway.key, provider + "/"))
        if speaker == "responses":
            # An answer that is not to be stored is another one: nobody may name it later.
            as_it_is = clients[-1].client.responses.create
            clients[-1].client.responses.create = lambda store=None, **ask: as_it_is(**ask)
        return clients[-1]

    yield make
    for it in clients:
        it.close()


def same(again, first) -> None:
    """Nothing that a user of either SDK reads differs."""
    assert again.text == first.text
    assert again.reasoning == first.reasoning
    assert [(call.name, call.args) for call in again.calls] == [(call.name, call.args) for call in first.calls]
    assert again.finish == first.finish
    assert (again.usage.input, again.usage.output) == (first.usage.input, first.usage.output)


def hit(speaker, said, gateway) -> None:
    assert speaker.headers["x-portcullis-cache"] == "hit", speaker.name
    assert speaker.headers["x-portcullis-cost"] == "0"
    line = gateway.log.of(speaker.exchange)
    assert (line["cache"], line["attempts"], line.get("cost_usd")) == ("hit", [], 0)
    assert said.usage


@everybody
@both_ways
@at(*MOCK)
def test_what_one_dialect_made_every_sdk_is_given_in_both_forms(cached, client, speaker, provider, stream):
    turns = [User(f"Grüße! 東京 🚀 {uuid.uuid4().hex}")]
    maker = client(cached, speaker, provider)
    first = maker.ask(MODEL, turns, stream=stream)
    assert maker.headers["x-portcullis-cache"] == "miss"
    assert first.text and first.finish == "stop"
    for name in SPEAKERS:
        for again_stream in (False, True):
            other = client(cached, name, provider)
            again = other.ask(MODEL, turns, stream=again_stream)
            hit(other, again, cached)
            same(again, first)
            if again_stream and stream:
                assert again.pieces > 1, "the pieces are kept"


@everybody
@both_ways
@at(*MOCK)
@pytest.mark.parametrize("what", ["tools", "thought", "schema"])
def test_tools_thoughts_and_objects_are_given_again_in_the_other_form(cached, client, speaker, provider, stream, what):
    marker = uuid.uuid4().hex
    text, more = {
        "tools": ("Please use get_weather for me", {"tools": (WEATHER, CLOCK)}),
        "thought": ("Think hard", {"think": True}),
        "schema": ("as an invoice", {"schema": INVOICE}),
    }[what]
    turns = [User(f"{text} {marker}")]
    one = client(cached, speaker, provider)
    first = one.ask("mock-fast", turns, stream=stream, **more)
    assert one.headers["x-portcullis-cache"] == "miss"
    assert what != "tools" or [call.name for call in first.calls] == ["get_weather"]
    for again_stream in (stream, not stream):
        again = one.ask("mock-fast", turns, stream=again_stream, **more)
        hit(one, again, cached)
        same(again, first)
    if what == "tools":
        # The conversation goes on from what was given again.
        [call] = again.calls
        last = one.ask("mock-fast", [*turns, again, Result(call, "21 degrees")], tools=(WEATHER, CLOCK))
        assert last.text and last.finish == "stop"


@everybody
@at(*MOCK)
def test_joined_pieces_are_accepted(joined, client, speaker, provider):
    turns = [User(f"Hello {uuid.uuid4().hex}")]
    one = client(joined, speaker, provider)
    first = one.ask(MODEL, turns, stream=True)
    again = one.ask(MODEL, turns, stream=True)
    hit(one, again, joined)
    same(again, first)
    # Gemini's streams close with a piece that is empty.
    assert first.pieces > 2 and again.pieces <= 2


@everybody
@at(*MOCK)
def test_who_listens_to_another_is_given_a_whole_stream(cached, client, speaker, provider):
    turns = [User(f"Hello {uuid.uuid4().hex}")]
    model = "mock-fast:chunks=12,delay=15ms,head=200ms"
    speakers = [client(cached, name, provider) for name in (speaker, *SPEAKERS)]
    said = [None] * len(speakers)

    def ask(at: int) -> None:
        said[at] = speakers[at].ask(model, turns, stream=at % 2 == 0)

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(speakers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(said), "somebody hangs"
    for one in said[1:]:
        same(one, said[0])
    found = sorted(one.headers["x-portcullis-cache"] for one in speakers)
    assert found.count("miss") == 1 and set(found) <= {"miss", "coalesced", "hit"}, found
