"""Keeps asks about given topics away from models: answers in the operator's words, or refuses.

Topics are lists of words and phrases. Case, accents, full-width letters and what stands between words do not matter, so
that "Übernahme-Angebot" is found by "ubernahme angebot". Looks at what the user wrote last, or at the whole conversation.
"""

import json
import re
import unicodedata

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import manifest as wit
from wit_world.imports import decision, metrics

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topics"],
    "properties": {
        "topics": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 2}},
        },
        "look_at": {"enum": ["last", "all"], "default": "last"},
        "say": {"type": "string"},
    },
}

settings = {"topics": [], "look_at": "last", "say": None}


def plain(text):
    """Lower-case words without accents, one space between them."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(letter for letter in parts if not unicodedata.combining(letter))
    return " ".join(re.findall(r"\w+", letters))


class Manifest(exports.Manifest):
    def describe(self):
        found = wit.Metric("found_total", wit.MetricKind.COUNTER, "Asks about a topic.", ["topic"], [])
        return wit.Description(
            "topic-gate", "0.1.0", "Keeps asks about given topics away from models.", True, wit.StreamMode.NONE, None, None,
            [found], json.dumps(SCHEMA),
        )

    def init(self, config):
        given = json.loads(config)
        topics = []
        for name, phrases in given["topics"].items():
            words = [plain(phrase) for phrase in phrases]
            if not all(words):
                raise Err(f"the topic {name} has a phrase without a word in it")
            topics.append((name, re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b")))
        settings.update(topics=topics, look_at=given.get("look_at", "last"), say=given.get("say"))


class OnRequest(exports.OnRequest):
    def handle(self, ask):
        if settings["look_at"] == "all":
            text = " ".join(part.text for part in ask.texts())
        else:
            text = ask.last_user() or ""
        text = plain(text)
        for name, pattern in settings["topics"]:
            if pattern.search(text):
                metrics.count("found_total", 1.0, [metrics.Label("topic", name)])
                return self.refuse(name)
        return decision.RequestVerdict_Pass()

    def refuse(self, topic):
        if settings["say"]:
            return decision.RequestVerdict_Respond(decision.Respond(200, decision.ReplyBody_Say(settings["say"]), []))
        message = f"This gateway does not take asks about {topic}."
        return decision.RequestVerdict_Reject(decision.Reject("topic_refused", message, 403, None))
