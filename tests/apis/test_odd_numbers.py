"""Numbers and bytes that are odd cost only themselves, in a whole body and in an event."""

import json
from typing import Any

import pytest

from sidecar import apis
from sidecar.core.facts import EventKind, ResponseFacts, Route

CHAT, MESSAGES, GEMINI = "openai.chat", "anthropic.messages", "gemini.generate_content"

HUGE = ["4294967297", "9007199254740992", "123456789012345678901234567890"]  # their sums outgrow 64 bits
ODD = [
    "-1",
    "1.5",
    '"12a"',
    '"-12"',
    '""',
    '"4294967297"',
    *HUGE,
    "NaN",
    "-Infinity",
    "true",
    "{}",
    "[]",
    "null",
]
# JSON has one kind of numbers: Java's Gson writes each as a float; protobuf writes those of 64 bits as texts (openinference#1183)
WHOLE = ["12.0", "1.2e1", "120E-1", '"12"']
READERS = [
    (
        CHAT,
        '{"id":"x","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":%s,"completion_tokens":7}}',
    ),
    (
        "openai.completions",
        '{"id":"x","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":%s,"completion_tokens":7}}',
    ),
    (
        "openai.responses",
        '{"id":"x","status":"completed","usage":{"input_tokens":%s,"output_tokens":7},"x":"NaN"}',
    ),
    (
        MESSAGES,
        '{"id":"x","type":"message","stop_reason":"stop","usage":{"input_tokens":%s,"output_tokens":7}}',
    ),
    (
        GEMINI,
        (
            '{"responseId":"x","candidates":[{"finishReason":"stop"}],'
            '"usageMetadata":{"promptTokenCount":%s,"candidatesTokenCount":7}}'
        ),
    ),
]


@pytest.mark.parametrize("odd", [*ODD, *WHOLE])
@pytest.mark.parametrize("api, body", READERS)
def test_one_odd_number_costs_only_itself(api: str, body: str, odd: str) -> None:
    """It is absent if it is not whole, and all else is told; the whole body and the event alike."""
    for way in ("body", "event"):
        facts = ResponseFacts()
        data = (body % odd).encode()
        if way == "event" and api in (MESSAGES, "openai.responses"):
            member = b'{"type":"e","message":%s}' if api == MESSAGES else b'{"type":"e","response":%s}'
            data = member % data
        make = apis.body_reader if way == "body" else apis.stream_reader
        reader: Any = make(Route("/", api=api), facts)
        read = reader.body(data) if way == "body" else reader.event(b"", data)
        assert read in (True, EventKind.EVENT)
        told = {"output": 7, **({"input": 12} if odd in WHOLE else {})}
        assert (facts.id, facts.tokens, len(facts.finish_reasons)) == ("x", told, 1)
        assert facts.unreadable == (odd not in ("null", "NaN", "-Infinity", *WHOLE))


USAGE = {"prompt_tokens": 19, "completion_tokens": 83, "total_tokens": 102}


def test_one_odd_byte_costs_nothing_else() -> None:
    """Bytes that are not UTF-8 in a text, or in a word: the rest is told."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=CHAT), facts)
    assert reader is not None
    chunk = b'{"id":"x","model":"m\xff","choices":[{"delta":{"content":"a\xff\xfe"},"finish_reason":"stop"}],"usage":%s}'
    assert reader.event(b"", chunk % json.dumps(USAGE).encode()) is EventKind.CHUNK
    assert facts == ResponseFacts("x", "m\ufffd", ["stop"], {"input": 19, "output": 83})
