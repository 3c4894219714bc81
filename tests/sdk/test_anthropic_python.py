"""What users of the anthropic package do beyond a turn."""

import asyncio

import anthropic
import pytest

from bed.cells import AIMOCK, MOCK, at

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(speak):
    def make(provider: str):
        speaker = speak("messages", provider)
        return speaker, speaker.client, speaker.prefix

    return make


@at(*MOCK, *AIMOCK)
def test_the_stream_helper_follows_every_event(client, provider):
    _, sdk, prefix = client(provider)
    with sdk.messages.stream(model=prefix + "mock-fast", messages=HELLO, max_tokens=4096) as stream:
        events = [event for event in stream]
        message = stream.get_final_message()
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(message.content)
    assert "".join(event.text for event in events if event.type == "text") == message.content[0].text
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    assert message.stop_reason == "end_turn"


@at(*MOCK, "llama-anthropic")
def test_tokens_are_counted(client, log_of, provider):
    speaker, sdk, prefix = client(provider)
    model = prefix + ("tiny-random" if provider.startswith("llama") else "mock-fast")
    short = sdk.messages.count_tokens(model=model, messages=HELLO)
    long = sdk.messages.count_tokens(model=model, system="Be brief. " * 40, messages=HELLO)
    assert 0 < short.input_tokens < long.input_tokens
    assert log_of(speaker)["operation"] == "count_tokens"


def run_tools(client, provider: str, **more) -> None:
    _, sdk, prefix = client(provider)
    asked = []

    @anthropic.beta_tool
    def get_weather(city: str, unit: str = "celsius") -> str:
        """The weather of a city.

        Args:
            city: Where.
            unit: Of the temperature.
        """
        asked.append(city)
        return "21 degrees"

    runner = sdk.beta.messages.tool_runner(
        model=prefix + "mock-fast", max_tokens=4096, tools=[get_weather], **more,
        messages=[{"role": "user", "content": "what is the weather in Paris? Use get_weather."}],
    )
    last = runner.until_done()
    assert last.stop_reason == "end_turn"
    assert len(asked) == 1
    assert "21" in last.content[0].text


@at(*MOCK, *AIMOCK)
def test_a_tool_runner_runs_to_its_end(client, provider):
    run_tools(client, provider, thread=False)


@at(*(provider for provider in [*MOCK, *AIMOCK] if not provider.endswith("anthropic")))
def test_a_thread_that_nobody_holds_is_refused_so_that_the_runner_goes_on_without(client, provider):
    """By default the runner has the server keep the conversation and sends what is new: lost, if that is overlooked."""
    run_tools(client, provider)


@at("mock-anthropic")
def test_a_signature_comes_down_and_goes_up_unchanged(client, servers, provider):
    speaker, sdk, prefix = client(provider)
    ask = {"model": prefix + "mock-reasoning", "max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    first = sdk.messages.create(messages=HELLO, **ask)
    thinking = first.content[0]
    assert thinking.type == "thinking" and thinking.signature
    again = sdk.messages.create(
        messages=[*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": "go on"}], **ask
    )
    assert again.content


def test_models_are_listed_in_this_dialect(client):
    _, sdk, _ = client("mock-anthropic")
    page = sdk.models.list(limit=1000)
    assert "house-model" in {model.id for model in page.data}
    assert page.data[0].type == "model"
    assert sdk.models.retrieve("house-model").id == "house-model"
    with pytest.raises(anthropic.NotFoundError):
        sdk.models.retrieve("unheard-of")


@at(*MOCK)
def test_the_async_client(gateway, provider):
    async def ask():
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as sdk:
            async with sdk.messages.stream(model=f"{provider}/mock-fast", messages=HELLO, max_tokens=4096) as stream:
                text = "".join([piece async for piece in stream.text_stream])
            return text, await stream.get_final_text()

    streamed, final = asyncio.run(ask())
    assert streamed == final != ""


@at(*MOCK)
def test_the_beta_flag_in_the_query_changes_nothing(client, provider):
    _, sdk, prefix = client(provider)
    answer = sdk.beta.messages.create(
        model=prefix + "mock-fast", messages=HELLO, max_tokens=4096, betas=["interleaved-thinking-2025-05-14"]
    )
    assert answer.content[0].text
