"""A crowd at a target that is limited, down and limited again, with a good one behind it: nobody notices, and the judge finds nothing."""

from concurrent.futures import ThreadPoolExecutor

from bed.cells import DIALECTS, LLMOCK, at
from bed.speak import User
from bed.upstreams import get_json, post_json
from test_llmock_faults import Judge

# In this order, each as often as it says; what comes after them is answered.
FAULTS = [
    {"type": "fail", "status": 429, "retry_after": 1, "times": 6},
    {"type": "fail", "status": 503, "times": 4},
    {"type": "fail", "status": 500, "times": 4},
    {"type": "fail", "status": 429, "retry_after": 2, "times": 6},
    {"type": "fail", "status": 529, "retry_after": 1, "times": 4},
]


@at(*LLMOCK)
def test_a_crowd_is_served_and_the_judge_finds_nothing(speak, servers, provider):
    judge = Judge(servers["llmock"].url)
    match = {"model": judge.model}
    post_json(judge.url + "/scenario", {"behaviors": [{"match": match, **fault} for fault in FAULTS]})
    clients = [speak(speaker, provider) for speaker in [*DIALECTS, *DIALECTS]]
    for client in clients:
        client.prefix = f"crowd-{provider}/"

    def keep_asking(number: int) -> list[str]:
        # Each ask has words of its own: an attempt that repeats a body is a retry.
        asks = [[User(f"this is ask {turn} of client {number}")] for turn in range(15)]
        return [clients[number].ask(judge.model, words, stream=turn % 3 == 0).text for turn, words in enumerate(asks)]

    with ThreadPoolExecutor(len(clients)) as crowd:
        said = [text for texts in crowd.map(keep_asking, range(len(clients))) for text in texts]
    assert len(said) == 15 * len(clients) and all(said)
    asked = judge.requests()
    assert any(one["status"] != 200 for one in asked), "nothing failed"
    mine = {one["seq"] for one in asked}
    # `gave_up` is what falling over to another target looks like from here.
    verdict = [found for found in get_json(judge.url + "/verdict")["findings"] if mine & set(found["requests"])]
    assert [found["title"] for found in verdict if found["code"] != "gave_up"] == []
