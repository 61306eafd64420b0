"""Reading a body costs the event loop some milliseconds in one go, whatever it holds; and everyday ones tell all they can."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from sidecar import apis
from sidecar.apis.base import RequestBody
from sidecar.apis.shapes import Shape
from sidecar.core.digests import Digester
from sidecar.core.echo import Echo
from sidecar.core.facts import RequestFacts, ResponseFacts
from sidecar.core.sse import SseParser
from tests.pace import least

MIB = 1 << 20
SIZE = 8 * MIB
OWN = ("a.b", "foo", "metadata.x")


def filled(before: bytes, unit: bytes, after: bytes, size: int = SIZE) -> bytes:
    """A text of some size, most of it the same again and again."""
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def said(begin: bytes, unit: bytes) -> bytes:
    """A chat request whose one message says that."""
    return filled(b'{"model":"m","messages":[{"role":"user","content":"' + begin, unit, b'"}]}')


READ = RequestFacts(model="m", messages=1)
NOTHING = RequestFacts(model="m")

EVERYDAY: dict[str, tuple[Callable[[], bytes], RequestFacts]] = {
    "plain prompt": (lambda: said(b"", b"word "), READ),
    "prose": (lambda: said(b"", b"Some words, and \\u00e9.\\n"), READ),
    "Chinese": (lambda: said(b"", "\u6f22".encode()), READ),
    "JSON in a text": (lambda: said(b"", b'{\\"a\\":1,\\"b\\":\\"cd\\"},'), READ),
    "JSON in JSON in a text": (lambda: said(b"", rb"{\\\"a\\\":\\\"\\ud83d\\ude00\\\"}"), READ),
    "a cut emoji": (lambda: said(rb"\ud83d", b"word, "), READ),
    "a cut emoji among whole ones": (lambda: said(rb"\ude00", rb"and \ud83d\ude00\n"), READ),
    "10,000 messages": (
        lambda: filled(
            b'{"model":"m","messages":[{}', b',{"role":"user","content":"%b"}' % (b"x" * 800), b"]}"
        ),
        RequestFacts(model="m", messages=10_119),
    ),
    "tokens": (lambda: filled(b'{"model":"m","input":[[1', b",12345", b"]]}"), NOTHING),
    "floats nobody asked for": (lambda: filled(b'{"model":"m","x":[1', b",1e9", b"]}"), NOTHING),
}

HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty messages": ("chat", lambda: filled(b'{"model":"m","messages":[{}', b",{}", b"]}")),
    "mixed messages": ("chat", lambda: filled(b'{"model":"m","messages":[1', b",{}", b"]}")),
    "no messages": ("chat", lambda: filled(b'{"model":"m","messages":[1', b",1", b"]}")),
    "mixed input": ("responses", lambda: filled(b'{"model":"m","input":[1', b",{}", b"]}")),
    "mixed contents": ("gemini", lambda: filled(b'{"contents":[1', b",{}", b"]}")),
    "modalities": (
        "gemini",
        lambda: filled(b'{"generationConfig":{"responseModalities":["A"', b',"A"', b"]}}"),
    ),
    "escapes and half a pair": ("chat", lambda: said(rb"\ud800", rb"\n")),
    "backslashes and half a pair": ("chat", lambda: said(rb"\ud800", rb"\\")),
    "halves": ("chat", lambda: said(b"", rb"\ud800")),
    "other halves": ("chat", lambda: said(b"", rb"\udc00")),
    "pairs and a half": ("chat", lambda: said(rb"\ud800x", rb"\ud83d\ude00")),
    "the same member": ("chat", lambda: filled(b'{"model":1', b',"model":1', b"}")),
    "members without names": ("chat", lambda: filled(b'{"model":"m"', b',"":0', b"}")),
    "metadata": ("chat", lambda: filled(b'{"model":1,"metadata":{"a":1', b',"b":1', b"}}")),
    "own fields": ("other", lambda: filled(b'{"a":{"b":[1', b",{}", b"]}}")),
    "own members": ("other", lambda: filled(b'{"a":{"c":1', b',"":0', b"}}")),
    "empty lists": ("chat", lambda: filled(b'{"model":"m","x":[1', b",[]", b"]}")),
    "depth": ("chat", lambda: filled(b'{"x":[1', b"," + b"[" * 900 + b"]" * 900, b"]}")),
    "too much depth": ("chat", lambda: b'{"x":' + b"[" * (SIZE // 2)),
    "digits": ("chat", lambda: filled(b'{"seed":1', b"9", b"}")),
    "decimals": ("chat", lambda: filled(b'{"temperature":0.', b"9", b"}")),
    "an exponent": ("chat", lambda: filled(b'{"temperature":1e', b"9", b"}")),
    "blanks": ("chat", lambda: filled(b"", b" ", b"[1]")),
    "blanks before an object": ("chat", lambda: filled(b"", b" ", b"{}")),
    "a model": ("chat", lambda: filled(b'{"model":"', b"m", b'"}')),
    "a session": ("chat", lambda: filled(b'{"session_id":"', "\u00e9".encode(), b'"}')),
    "a user": ("messages", lambda: filled(b'{"metadata":{"user_id":"', rb"\"", b'"}}')),
    "messages inside of one": (
        "chat",
        lambda: filled(
            b'{"model":"m","messages":[{"role":"user","x":[[1',
            b",1",
            b'],{"role":1},{"type":1},{"parts":1}]}]}',
        ),
    ),
    "no JSON at its end": ("chat", lambda: filled(b'{"messages":[1', b",{}", b"]x")),
    "no JSON": ("chat", lambda: filled(b"", b"x", b"")),
}

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/g:generateContent",
    "embeddings": "/v1/embeddings",
    "completions": "/v1/completions",
    "other": "/v1/other",
}


ONE_GO = 0.04 if sys.version_info < (3, 12) else 0.06
"""Seconds that one go may take. From Python 3.12 on the decoder takes twice as long for what is nested deeply."""


def longest(make: Callable[[], apis.Steps[Any]]) -> tuple[float, Any]:
    """The longest step (s of CPU on a quiet machine), at best of some runs, and the result."""
    result = None

    def run() -> float:
        nonlocal result
        steps, most = make(), 0.0
        while True:
            begin = time.thread_time()
            try:
                next(steps)
            except (StopIteration, apis.UnreadableBody) as end:
                result = end.value if isinstance(end, StopIteration) else None
                return max(most, time.thread_time() - begin)
            most = max(most, time.thread_time() - begin)

    return least(run, ONE_GO), result


@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_requests(name: str) -> None:
    """8 MiB of what apps send: read in short steps, with all facts."""
    make, facts = EVERYDAY[name]
    route = apis.match("POST", PATHS["embeddings" if name == "tokens" else "chat"])
    body = make()
    took, found = longest(lambda: apis.request_steps(route, body, OWN))
    assert found == facts
    assert took < ONE_GO


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests(name: str) -> None:
    """8 MiB of what nobody sends who means well."""
    route, make = HOSTILE[name]
    body = make()
    took, _ = longest(lambda: apis.request_steps(apis.match("POST", PATHS[route]), body, OWN))
    assert took < ONE_GO


USAGE = b',"usage":{"prompt_tokens":7,"input_tokens":7,"completion_tokens":1},"usageMetadata":{"promptTokenCount":7}}'

ANSWERS: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "choices": ("chat", b'{"choices":[{}', b",{}", b"]"),
    "mixed choices": ("chat", b'{"choices":[1', b",{}", b"]"),
    "no choices": ("chat", b'{"choices":[1', b",1", b"]"),
    "reasons": ("chat", b'{"choices":[{}', b',{"finish_reason":"stop"},{"finish_reason":"length"}', b"]"),
    "choices of completions": ("completions", b'{"choices":[1', b",{}", b"]"),
    "candidates": ("gemini", b'{"candidates":[1', b",{}", b"]"),
    "parts": ("gemini", b'{"candidates":[{"content":{"parts":[{}', b",{}", b"]}}]"),
    "candidates of parts": (
        "gemini",
        b'{"candidates":[1',
        b',{"content":{"parts":[%b]}}' % (b"{}," * 40_000 + b"{}"),
        b"]",
    ),
    "an error": ("chat", b'{"error":{"a":1', b',"":0', b"}"),
    "an error's code": ("messages", b'{"error":{"code":[1', b",{}", b"]}"),
    "vectors": ("embeddings", b'{"data":[{"embedding":[0.1', b",-0.0123", b"]}]"),
    "output": ("responses", b'{"output":[{}', b",{}", b"]"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    """8 MiB of an answer: its tokens are found all the same."""
    api, before, unit, after = ANSWERS[name]
    body = filled(before, unit, after + USAGE)
    made: list[ResponseFacts] = []

    def reading() -> apis.Steps[None]:
        made.append(ResponseFacts())
        reader = apis.body_reader(apis.match("POST", PATHS[api]), made[-1])
        assert reader is not None
        yield from reader.prepare(body)
        yield
        reader.body(body)

    took, _ = longest(reading)
    assert made[-1].tokens["input"] == 7
    assert took < ONE_GO


def many(before: bytes, unit: bytes, after: bytes, objects: int) -> bytes:
    """An event with so many objects, in a MiB at most."""
    count = min(objects // unit.count(b"{"), (MIB - 256) // len(unit)) - 8
    return b"data: " + before + unit * count + after + b"\n\n"


EVENTS: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "calls": ("chat", b'{"choices":[{"delta":{"tool_calls":[{}', b',{"id":"a"}', b"]}}]}"),
    "calls of functions": (
        "chat",
        b'{"choices":[{"delta":{"tool_calls":[{}',
        b',{"id":"a","function":{"arguments":"{"}}',
        b"]}}]}",
    ),
    "choices of calls": ("chat", b'{"choices":[{}', b',{"delta":{"tool_calls":[{},{},{},{},{}]}}', b"]}"),
    "choices": ("chat", b'{"choices":[{}', b',{"delta":{"content":"a"}}', b"]}"),
    "words": ("chat", b'{"choices":[{"delta":{"content":[{}', b',{"text":"a"}', b"]}}]}"),
    "texts": ("completions", b'{"choices":[{}', b',{"text":"a"}', b"]}"),
    "parts": ("gemini", b'{"candidates":[{"content":{"parts":[{}', b',{"text":"a"}', b"]}}]}"),
    "calls in parts": (
        "gemini",
        b'{"candidates":[{"content":{"parts":[{}',
        b',{"functionCall":{"name":"a"}}',
        b"]}}]}",
    ),
    "candidates of calls": (
        "gemini",
        b'{"candidates":[{}',
        b',{"content":{"parts":[{"functionCall":{"name":"a"}}]}}',
        b"]}",
    ),
    "output": ("responses", b'{"type":"response.completed","response":{"output":[{}', b',{"id":"a"}', b"]}}"),
    "content": ("messages", b'{"type":"message_start","message":{"content":[{}', b',{"type":"text"}', b"]}}"),
}


@pytest.mark.parametrize("objects", [1 << 15, 1 << 16], ids=["that are read", "that are too many"])
@pytest.mark.parametrize("name", EVENTS)
def test_events_of_many_objects(name: str, objects: int) -> None:
    """Also while it is noted by what the answer will be recognised."""
    api, before, unit, after = EVENTS[name]
    data = many(before, unit, after, objects)

    def reading() -> apis.Steps[None]:
        facts = ResponseFacts()
        facts.echo = Echo(Digester(bytes(32)))
        reader = apis.stream_reader(apis.match("POST", PATHS[api]), facts)
        assert reader is not None
        events = SseParser().feed(data)
        assert events
        for event in events:
            yield
            reader.event(*event)

    took, _ = longest(reading)
    assert took < ONE_GO


@pytest.mark.parametrize("line", [b"error: x", b'{"error":1}', b"data: {", b"x", b"{"])
def test_events_of_many_lines(line: bytes) -> None:
    """One of more lines than are read tells nothing; what is read of others is told in one go, but soon."""

    def reading() -> apis.Steps[None]:
        parser = SseParser()
        for _ in range(4):
            parser.feed(b"data: x\n" + (line + b"\n") * 8000)
            yield
            parser.feed(b"\n")
            yield
        assert not parser.oversized

    took, _ = longest(reading)
    assert took < ONE_GO


LARGE_ANSWERS = {
    "a text": b'{"choices":[{"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}]}',
    "a voice": (
        b'{"choices":[{"message":{"role":"assistant","content":null,"audio":{"id":"audio_0123456789abcdef",'
        b'"data":"%b","transcript":"Yes."}},"finish_reason":"stop"}]}'
    ),
}


@pytest.mark.parametrize("size", [1000, 200_000, 3 * MIB])
@pytest.mark.parametrize("name", LARGE_ANSWERS)
def test_a_large_answer_is_read_as_a_small_one(name: str, size: int) -> None:
    """Nothing of it is told to be unreadable, and it is recognised when it comes back."""
    facts, body = ResponseFacts(), LARGE_ANSWERS[name] % (b"word" * (size // 4))
    facts.echo = Echo(Digester(bytes(32)))
    reader = apis.body_reader(apis.match("POST", PATHS["chat"]), facts)
    assert reader is not None
    if len(body) > apis.LARGE:
        apis.at_once(reader.prepare(body))
    assert reader.body(body)
    assert (facts.finish_reasons, facts.unreadable) == (["stop"], 0)
    found, _, _ = facts.echo.marks()
    assert len(found) == 1


NO_TEXTS = {
    "a text that does not end": b'\\"',
    "backslashes": b"\\",
    "what is no number": b"NaN",
    "minus signs": b"-",
}


@pytest.mark.parametrize("unit", NO_TEXTS.values(), ids=NO_TEXTS)
def test_an_event_that_is_nearly_json(unit: bytes) -> None:
    """Whatever stands beside a NaN, the event is looked through once."""
    data = filled(b'{"x":NaN,', unit, b"", 32 * 1024)

    def reading() -> apis.Steps[None]:
        reader = apis.stream_reader(apis.match("POST", PATHS["chat"]), ResponseFacts())
        assert reader is not None
        reader.event(b"", data)
        yield

    took, _ = longest(reading)
    assert took < ONE_GO


def test_halves_of_pairs_are_mended_exactly() -> None:
    """In a large body as in a small one: only what stands alone is replaced, whatever is beside it."""
    texts = [
        rb"\ud83d\ude00",
        rb"\ud83d",
        rb"\ude00",
        rb"\\ud83d",
        rb"\\\ud83d",
        rb"\ud83d\ud83d\ude00\ude00",
        b"x",
    ]
    for text in texts:
        body = b'{"session_id":"%b","x":"\\ud800"%b}' % (text, b" " * 300_000)
        expected = (
            json.loads(b'"%b"' % text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        )
        hints = apis.read_request(apis.match("POST", "/x"), body).hints
        assert hints["session_id"] == expected.replace("\ufffd\ufffd", "\ufffd"), text


def test_halves_of_pairs_at_every_cut() -> None:
    """Large texts are looked through in pieces; a pair between two of them stays one."""
    for lead in range(12):
        text = b"x" * lead + rb"\ud83d\ude00" * 30_000
        body = b'{"session_id":"%b","x":"\\ud800"}' % text
        found, _ = Shape(RequestBody).read(body)
        assert found.session_id == "x" * lead + "\U0001f600" * 30_000
