"""Recorded shapes of streams: cut in every way, each gives the same kinds of events and the same facts."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import apis
from sidecar.core.facts import EventKind, ResponseFacts, Route
from sidecar.core.sse import unbounded
from tests.apis.example import facts_of
from tests.matrix.matrix_apis import EXAMPLES

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.suffix in {".sse", ".body"})


def observe(path: str, content_type: str, pieces: list[bytes]) -> dict[str, Any]:
    """What the parser and the reader make of an answer's pieces."""
    facts = ResponseFacts()
    route = apis.match("POST", path)
    form = apis.form(route, content_type)
    if form is apis.Form.EVENTS or route.streaming:
        assert apis.form(route, None, b"".join(pieces).removeprefix(b"\xef\xbb\xbf").lstrip()) is form
    parser = apis.event_parser(form, 1 << 20, unbounded)
    reader = apis.stream_reader(route, facts)
    assert reader is not None
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    kinds = [reader.event(name, data).name for name, data in events]
    return {"kinds": kinds, "facts": facts_of(facts), "keep_alives": parser.keep_alives}


def golden(name: str) -> tuple[bytes, str, str, dict[str, Any]]:
    """A recorded stream: its bytes, its path, its content type and what is expected of it."""
    expected = json.loads((GOLDEN / name).with_suffix(".expected.json").read_text())
    return (GOLDEN / name).read_bytes(), expected.pop("path"), expected.pop("content_type"), expected


@pytest.mark.parametrize("name", NAMES)
def test_golden_whole_and_byte_by_byte(name: str) -> None:
    """The whole stream in one piece, and one byte at a time."""
    stream, path, content_type, expected = golden(name)
    assert observe(path, content_type, [stream]) == expected
    assert observe(path, content_type, [stream[i : i + 1] for i in range(len(stream))]) == expected


@pytest.mark.parametrize("name", NAMES)
def test_golden_at_every_split(name: str) -> None:
    """Every way to cut the stream in two."""
    stream, path, content_type, expected = golden(name)
    for at in range(len(stream) + 1):
        assert observe(path, content_type, [stream[:at], stream[at:]]) == expected, at


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_golden_at_random_splits(name: str, data: st.DataObject) -> None:
    """Many pieces of random lengths."""
    stream, path, content_type, expected = golden(name)
    ends = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=40))})
    pieces = [stream[start:end] for start, end in pairwise(ends)]
    assert observe(path, content_type, pieces) == expected


READ = tuple(api.name for api in apis.APIS if api.stream is not None)
"""Every API whose streams are read."""
WORDS = """
    id model object choices usage error type delta response message candidates content parts index
    finish_reason prompt_tokens x_groq status promptFeedback usageMetadata iterations promptTokenCount input_tokens
    incomplete_details reason code stop_reason text
"""
FIELDS = st.sampled_from(WORDS.split())
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)


def test_no_api_is_forgotten() -> None:
    """Each has golden streams, if it streams, and a row in the matrix of whole calls."""
    assert {api.name for api in apis.APIS} == {apis.match("POST", api.path).api for api in EXAMPLES}
    assert {*READ} == {apis.match("POST", golden(name)[1]).api for name in NAMES}
    streams = [api.stream.path.partition("?")[0] for api in EXAMPLES if api.stream is not None]
    assert {*READ} == {apis.match("POST", path).api for path in streams}


@given(api=st.sampled_from(READ), value=ODD, name=st.sampled_from([b"", b"error", b"x.delta", b"\xff"]))
def test_no_json_is_too_odd(api: str, value: object, name: bytes) -> None:
    """Whatever JSON an upstream sends in place of a chunk or a body, no reader raises."""
    data = json.dumps(value).encode()
    for facts in (ResponseFacts(), ResponseFacts()):
        stream = apis.stream_reader(Route("/", api=api), facts)
        body = apis.body_reader(Route("/", api=api), facts)
        assert stream is not None
        assert body is not None
        assert stream.event(name, data) in EventKind
        body.body(data)
        assert all(isinstance(word, str) for word in facts.finish_reasons)


@pytest.mark.parametrize("api", READ)
@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[" * 100_000, b'{"x":' * 100_000, b'{"id":"\\ud800"} x']
)
def test_what_is_no_json_is_counted(api: str, data: bytes) -> None:
    """Malformed events and bodies are counted, and tell nothing."""
    facts = ResponseFacts()
    stream = apis.stream_reader(Route("/", api=api), facts)
    body = apis.body_reader(Route("/", api=api), facts)
    assert stream is not None
    assert body is not None
    assert stream.event(b"", data) is EventKind.EVENT
    body.body(data)
    assert facts == ResponseFacts(unreadable=2)


QUIET = [
    ("openai.chat", b'{"choices":[{"delta":{"content":"a"}}],"error":null}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"audio":{"transcript":"a"}}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"audio":{"expires_at":1}}}]}', EventKind.EVENT),
    ("openai.chat", b'{"choices":[{"delta":{"function_call":{"name":"f"}}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":null}', EventKind.EVENT),
    ("openai.chat", b'{"choices":[{"delta":{"content":"\\ud83d"}}]}', EventKind.CHUNK),
    ("openai.responses", b'{"type":"response.output_text.delta","delta":"\\\\ \\ude00"}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":null,"finish_reason":""}],"error":{}}', EventKind.EVENT),
    ("openai.responses", b'{"type":"response.image_generation_call.partial_image"}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"images":[{"image_url":{"url":"data:"}}]}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"images":[]}}]}', EventKind.EVENT),
    ("openai.chat", b'{"choices":[{"delta":{"audio":{"data":"UklG"}}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"reasoning":"a"}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"reasoning_content":"a"}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"reasoning_details":[{"data":"a"}]}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"refusal":"a"}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"content":[{"type":"image"}]}}]}', EventKind.CHUNK),
    ("openai.responses", b'{"type":"response.output_audio.delta","delta":"UklG"}', EventKind.CHUNK),
    ("openai.responses", b'{"type":"response.refusal.delta","delta":"a"}', EventKind.CHUNK),
    ("openai.responses", b'{"type":"response.reasoning_summary_text.delta","delta":"a"}', EventKind.CHUNK),
    ("openai.responses", b'{"type":"response.output_item.done","item":{"result":"iVBO"}}', EventKind.CHUNK),
    ("openai.responses", b'{"type":"response.output_item.done","item":{"result":null}}', EventKind.EVENT),
    ("openai.responses", b'{"type":"response.output_item.done","item":{"id":"m"}}', EventKind.EVENT),
    ("openai.responses", b'{"type":"response.output_item.added","item":{"result":""}}', EventKind.EVENT),
    (
        "anthropic.messages",
        b'{"type":"content_block_start","content_block":{"type":"redacted_thinking","data":"a"}}',
        EventKind.CHUNK,
    ),
    (
        "anthropic.messages",
        b'{"type":"content_block_start","content_block":{"type":"web_search_tool_result","content":[{}]}}',
        EventKind.CHUNK,
    ),
    (
        "anthropic.messages",
        b'{"type":"content_block_start","content_block":{"type":"text","text":""}}',
        EventKind.EVENT,
    ),
    (
        "anthropic.messages",
        b'{"type":"content_block_delta","delta":{"type":"citations_delta","citation":{"url":"u"}}}',
        EventKind.CHUNK,
    ),
    (
        "anthropic.messages",
        b'{"type":"content_block_delta","delta":{"type":"compaction_delta","content":"a"}}',
        EventKind.CHUNK,
    ),
    (
        "anthropic.messages",
        b'{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"a"}}',
        EventKind.EVENT,
    ),
    (
        "gemini.generate_content",
        b'{"candidates":[{"content":{"parts":[{"text":"a","thought":true}]}}]}',
        EventKind.CHUNK,
    ),
    (
        "gemini.generate_content",
        b'{"candidates":[{"content":{"parts":[{"text":"","thoughtSignature":"a"}]}}]}',
        EventKind.EVENT,
    ),
    ("openai.responses", b'{"type":"keepalive","sequence_number":3}', EventKind.IDLE),
    # Copilot (litellm#35021, mnfst/llm-gateway#2125)
    ("openai.chat", b'{"choices":[{"delta":{"reasoning_text":"a"}}]}', EventKind.CHUNK),
    ("openai.chat", b'{"choices":[{"delta":{"audio":{"id":"audio_1"}}}]}', EventKind.EVENT),
    # llama.cpp's own form (tools/server/README.md)
    ("openai.completions", b'{"index":0,"content":" Mars","stop":false}', EventKind.CHUNK),
    ("openai.completions", b'{"content":"","stop":true,"stop_type":"eos"}', EventKind.EVENT),
    ("openai.responses", b"[DONE]", EventKind.END),
    ("openai.completions", b" [DONE]", EventKind.END),
    ("openai.chat", b" [DONE] ", EventKind.END),
    ("anthropic.messages", b"[DONE]", EventKind.EVENT),
    ("gemini.generate_content", b" [DONE]", EventKind.EVENT),
    ("anthropic.messages", b'{"type":"ping"}', EventKind.IDLE),
    ("gemini.generate_content", b'{"candidates":[{"content":{}}]}', EventKind.EVENT),
    ("openai.chat", b'{"choices":[{"finish_reason":"stop","error":null}]}', EventKind.EVENT),
    ("openai.chat", b'{"choices":null,"base_resp":{"status_code":0,"status_msg":""}}', EventKind.EVENT),
    *((api, b'{"status":"queued","msg":"wait","code":0}', EventKind.EVENT) for api in READ),
    *((api, b'{"code":200,"msg":"ok"}', EventKind.EVENT) for api in READ),
    *((api, b'{"success":true,"msg":"x"}', EventKind.EVENT) for api in READ),
    (
        "gemini.generate_content",
        b'{"candidates":[{"content":{"parts":[{"inlineData":{}}]}}]}',
        EventKind.CHUNK,
    ),
]


@pytest.mark.parametrize("api, data, kind", QUIET)
def test_event_kinds(api: str, data: bytes, kind: EventKind) -> None:
    """What carries output is a chunk; what only keeps alive is idle; terminators end."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=api), facts)
    assert reader is not None
    assert reader.event(b"", data) is kind
    assert facts.unreadable == 0
    assert facts.ended is (kind is EventKind.END)


NULLS = [
    ("openai.chat", b'{"choices":[{"delta":{"content":"a"},"finish_reason":"null"}]}'),
    ("openai.completions", b'{"choices":[{"text":"a","finish_reason":"null"}]}'),
    ("anthropic.messages", b'{"type":"message_delta","delta":{"stop_reason":"null"}}'),
    (
        "gemini.generate_content",
        b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"null"}]}',
    ),
]


@pytest.mark.parametrize("api, data", NULLS)
def test_null_in_quotes_is_no_finish_reason(api: str, data: bytes) -> None:
    """KoboldCpp wrote it in each chunk (AIShell#350): the choice goes on, and a stream that breaks off there is cut."""
    facts = ResponseFacts()
    stream, body = (
        apis.stream_reader(Route("/", api=api), facts),
        apis.body_reader(Route("/", api=api), facts),
    )
    assert stream is not None
    assert body is not None
    assert stream.event(b"", data) <= EventKind.CHUNK
    body.body(data)
    assert facts.finish_reasons == []


ENDED = [
    ("anthropic.messages", b'{"type":"message_delta","delta":{"stop_reason":"end_turn"}}'),
    ("gemini.generate_content", b'{"candidates":[{"finishReason":"STOP"}]}'),
    ("gemini.generate_content", b'{"candidates":[{"finishReason":1}]}'),
]


@pytest.mark.parametrize("api, data", ENDED)
def test_a_terminator_of_another_api(api: str, data: bytes) -> None:
    """Gateways put one behind any stream (zed#61627): it ends an answer that has told why, and nothing is odd about it."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=api), facts)
    assert reader is not None
    kinds = [reader.event(b"", event) for event in (b"[DONE]", data, b"[DONE] ")]
    assert kinds == [EventKind.EVENT, EventKind.EVENT, EventKind.END]
    assert facts.unreadable == 0


def test_a_terminator_behind_a_response() -> None:
    """Another's there as well: it ends nothing that has begun and has not told its end."""
    for end, kind in ((b'{"type":"response.completed"}', EventKind.END), (b"{}", EventKind.EVENT)):
        facts = ResponseFacts()
        reader = apis.stream_reader(Route("/", api="openai.responses"), facts)
        assert reader is not None
        reader.event(b"", b'{"type":"response.output_text.delta","delta":"a"}')
        assert reader.event(b"", b"[DONE]") is EventKind.EVENT
        reader.event(b"", end)
        assert reader.event(b"", b"[DONE]") is kind


APART = [
    # GLM-4.7, Kimi-K2.5 (eventsource-parser#31)
    (b'data: {"a":1}\ndata: {"b":2}\ndata: [DONE]\n\n', [b'{"a":1}', b'{"b":2}', b"[DONE]"]),
    (b'data:{"a":1}\r\ndata:{"b":[{}]} \r\n\r\n', [b'{"a":1}', b'{"b":[{}]} ']),
    (b'\xef\xbb\xbfdata: {"a":1}\ndata: {"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    (b'data: {"a":1}\nid: 7\n: x\ndata: {"b":2}\nid: 8\n\n', [b'{"a":1}', b'{"b":2}']),
    # one event as WHATWG has it, behind one that is one by itself
    (b'data: {"a":\ndata: {"b":2}}\n\n', [b'{"a":\n{"b":2}}']),
    (b'data: {"a":1}\ndata: {"b":\ndata: 2}\n\n', [b'{"a":1}', b'{"b":\n2}']),
    (b'data: {"a":1}\ndata: text\n\n', [b'{"a":1}', b"text"]),
    (b'data: {"a":1}\ndata:\n\n', [b'{"a":1}']),
    (b'data: {"a":\ndata: {}\ndata: }\n\n', [b'{"a":\n{}\n}']),
    # one that is broken off, and others behind it (sub2api#1471)
    (b'data: {"a":\ndata: {"b":2}\ndata: {"c":3}\n\n', [b'{"a":', b'{"b":2}', b'{"c":3}']),
    (b'data: {"a\nevent: error\ndata: {"b":2}', [b'{"a', b'{"b":2}']),
    (b'data: {"a\n{"b":2}\n\n', [b'{"a', b'{"b":2}']),
    (b'data: {"a":1}\nerror: x\n\n', [b'{"a":1}', b"x"]),
    (b"data: {}\n" * 1100 + b"\n", [b"{}"] * 1100),
    # raw among them, in one line and in several
    (b'data: {"a":1}\n{"error":{}}\ndata: [DONE]\n\n', [b'{"a":1}', b'{"error":{}}', b"[DONE]"]),
    (b'data: {"a":1}\n{\n"b":2}\ndata: [DONE]\n\n', [b'{"a":1}', b'{\n"b":2}', b"[DONE]"]),
    (b'{"error":{}}\n{"b":2}\n\n', [b'{"error":{}}', b'{"b":2}']),
    (b'{"error":{}}\nfoo\n\n', [b'{"error":{}}']),
    (b'data: {"a":1}\n{"b":2}\n{\n"c":3}\n\n', [b'{"a":1}', b'{"b":2}', b'{\n"c":3}']),
    # only the first line is told to be data
    (b'data: {\n "error": {\n  "code": 503\n }\n}\n\n', [b'{\n "error": {\n  "code": 503\n }\n}']),
    (b'data: {"a":1}\n "b": 2\n\n', [b'{"a":1}']),
]


@pytest.mark.parametrize("stream, datas", APART)
def test_events_without_a_blank_line_between_them(stream: bytes, datas: list[bytes]) -> None:
    """Each line that is an event by itself is one, and what is written in several lines is as well."""
    cuts = sorted({*range(min(len(stream), 60)), len(stream)})
    pieces = [[stream[:at], stream[at:]] for at in cuts]
    for fed in (*pieces, [stream[at : at + 1] for at in range(len(stream))]):
        parser = apis.event_parser(apis.Form.EVENTS, 1 << 20, unbounded)
        events = [event for piece in fed for event in parser.feed(piece)] + parser.finish()
        assert [data for _, data in events] == datas, fed
        assert parser.keep_alives == 0
    parser = apis.event_parser(apis.Form.EVENTS, 1 << 20, unbounded)
    named = b'event: a\ndata: {}\nevent: b\ndata: {"b":2}\n\n'
    assert parser.feed(named) == [(b"a", b"{}"), (b"b", b'{"b":2}')]


def test_events_without_a_blank_line_come_as_their_lines_end() -> None:
    """What has been told of a block is not told again, nor a keep-alive, and its name holds for what follows."""
    parser = apis.event_parser(apis.Form.EVENTS, 1 << 20, unbounded)
    assert parser.feed(b'event: a\ndata: {"a":1}\n') == [(b"a", b'{"a":1}')]
    assert parser.feed(b'data: {"b":2}\nda') == [(b"a", b'{"b":2}')]
    assert parser.feed(b'ta: {"c":3}\r\n') == [(b"a", b'{"c":3}')]
    assert parser.feed(b"id: 7\n") == []
    assert parser.feed(b'\ndata: {"d":4}\n') == [(b"", b'{"d":4}')]
    assert parser.feed(b"event: error\n\n") == [(b"error", b"")]
    assert parser.feed(b"data: [DONE]\n") == [(b"", b"[DONE]")]
    assert (parser.feed(b"\n"), parser.finish(), parser.keep_alives) == ([], [], 0)


def test_a_model_that_hands_over_in_the_stream() -> None:
    """The model behind the last handing over has answered (chatlas#380), and the usage at the end is its own (pi#9074)."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api="anthropic.messages"), facts)
    assert reader is not None
    begun = {"input_tokens": 7626, "cache_read_input_tokens": 21535, "cache_creation_input_tokens": 9698}
    ended = {"input_tokens": 7626, "cache_read_input_tokens": 31233, "cache_creation_input_tokens": 0}
    first = {"id": "msg_1", "model": "claude-fable-5", "usage": begun}
    reader.event(b"", json.dumps({"type": "message_start", "message": first}).encode())
    for model in ("claude-fable-5", "claude-opus-4-8"):
        before = dict(facts.tokens)
        block = {"type": "fallback", "from": {"model": "claude-fable-5"}, "to": {"model": model}}
        event = {"type": "content_block_start", "index": 1, "content_block": block}
        assert reader.event(b"", json.dumps(event).encode()) is EventKind.EVENT
        assert facts.tokens == ({} if model == "claude-opus-4-8" else before)
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": ended | {"output_tokens": 214},
    }
    reader.event(b"", json.dumps(delta).encode())
    tokens = {"input": 38859, "output": 214, "cache_read": 31233, "cache_write": 0}
    assert facts == ResponseFacts("msg_1", "claude-opus-4-8", ["end_turn"], tokens)


def test_finish_reasons_are_bounded_and_in_order_of_choices() -> None:
    """Reasons stand by choice, a later word replaces an earlier one, and a flood is cut."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api="openai.chat"), facts)
    assert reader is not None
    for index, reason in ((2, "stop"), (0, "length"), (2, "tool_calls")):
        reader.event(b"", b'{"choices":[{"index":%d,"finish_reason":"%s"}]}' % (index, reason.encode()))
    assert facts.finish_reasons == ["length", "tool_calls"]
    flood = ",".join(f'{{"index":{index},"finish_reason":"stop"}}' for index in range(1000))
    reader.event(b"", f'{{"choices":[{flood}]}}'.encode())
    assert len(facts.finish_reasons) == 128


def test_long_words_and_impossible_counts_are_not_taken() -> None:
    """A megabyte in place of a model's name, or a count below zero, is unreadable; the rest is kept."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api="openai.chat"), facts)
    assert reader is not None
    chunk = {"id": "x", "model": "m" * 1_000_000, "usage": {"prompt_tokens": -1, "completion_tokens": 3}}
    assert reader.event(b"", json.dumps(chunk).encode()) is EventKind.EVENT
    assert facts == ResponseFacts(id="x", tokens={"output": 3}, unreadable=1)


def test_an_array_parser_does_not_read_what_is_too_large() -> None:
    """An element over the limit is counted, and an event of which nothing is known, wherever the stream is cut."""
    from sidecar.apis.json_array import JsonArrayParser

    stream = b'[{"a":1},{"b":"' + b'x\\"]}' * 10 + b'"} , {"c":[{}]}, {"d":'
    for at in range(len(stream) + 1):
        parser = JsonArrayParser(limit=20)
        events = parser.feed(stream[:at]) + parser.feed(stream[at:]) + parser.finish()
        assert events == [(b"", b'{"a":1}'), (b"", b""), (b"", b'{"c":[{}]}')], at
        assert parser.oversized == 1


@given(stream=st.binary(max_size=60), at=st.integers(0, 60))
def test_an_array_parser_takes_any_bytes(stream: bytes, at: int) -> None:
    """No bytes make it raise, and a cut changes nothing."""
    from sidecar.apis.json_array import JsonArrayParser

    whole, cut = JsonArrayParser(), JsonArrayParser()
    assert cut.feed(stream[:at]) + cut.feed(stream[at:]) == whole.feed(stream)


GEMINI_STREAM = "/v1beta/models/m:streamGenerateContent"
CHAT = "/v1/chat/completions"
EVENTS, OBJECTS, WHOLE = apis.Form
FORMS = [
    # By the type alone, where nothing has come or the first bytes tell nothing.
    ("/anything", "Text/Event-Stream; charset=utf-8", b"", EVENTS),
    ("/anything", "application/json", b"", WHOLE),
    ("/anything", None, b"", WHOLE),
    (CHAT, "text/event-stream", b"", EVENTS),
    (CHAT, "TEXT/EVENT-STREAM", b"<html>", EVENTS),
    (CHAT, "text/plain", b"hello", WHOLE),
    (CHAT, "application/json", b"", WHOLE),
    (CHAT, "application/x-ndjson", b"", OBJECTS),
    (GEMINI_STREAM, "application/json", b"", OBJECTS),
    (GEMINI_STREAM, None, b"", WHOLE),
    ("/v1beta/models/m:generateContent", "application/json", b"", WHOLE),
    # By the first bytes, whatever the type says.
    *(
        (CHAT, kind, start, EVENTS)
        for kind in (None, "text/plain", "application/octet-stream", "application/json", "")
        for start in (b"data:", b"event: x", b":", b": ping", b"id:1", b"retry: 1", b"error: {}")
    ),
    ("/v1/messages", None, b"event: message_start", EVENTS),
    (GEMINI_STREAM, "application/json", b"data: {}", EVENTS),
    *((GEMINI_STREAM, kind, b"[{", OBJECTS) for kind in (None, "text/plain", "text/event-stream")),
    (GEMINI_STREAM, "text/event-stream", b"{", OBJECTS),
    (CHAT, "text/event-stream", b'{"error"', WHOLE),
    (CHAT, "text/event-stream", b"[", WHOLE),
    (CHAT, "application/jsonl; charset=utf-8", b"{", OBJECTS),
    # A route that is not read: its type is all there is.
    ("/anything", "text/plain", b"data: {}", WHOLE),
    ("/anything", "text/event-stream", b"{}", EVENTS),
    ("/anything", "application/x-ndjson", b"{}", WHOLE),
    ("/v1/embeddings", "text/plain", b"data: {}", WHOLE),
]


@pytest.mark.parametrize("path, content_type, start, form", FORMS)
def test_what_an_answer_is(path: str, content_type: str | None, start: bytes, form: apis.Form) -> None:
    """The first bytes tell where the route is read in depth, else the type."""
    assert apis.form(apis.match("POST", path), content_type, start) is form


def test_what_a_rejection_is() -> None:
    """It is no stream of objects; an event stream it may be."""
    route = apis.match("POST", GEMINI_STREAM)
    assert apis.form(route, "application/json", b"[", rejected=True) is WHOLE
    assert apis.form(route, "text/event-stream", b"{", rejected=True) is WHOLE
    assert apis.form(route, "text/event-stream", b"data: {}", rejected=True) is EVENTS
    assert apis.stream_reader(Route("/"), ResponseFacts()) is None
    assert apis.body_reader(Route("/"), ResponseFacts()) is None


def test_when_the_first_bytes_tell() -> None:
    """As soon as they can."""
    for start in (b"", b"d", b"data", b"event", b"i", b"retry", b"e"):
        assert apis.undecided(start), start
    for start in (b":", b"data:", b"data: 1", b"{", b"[", b"<", b"dat4", b"x", b"error:"):
        assert not apis.undecided(start), start


@pytest.mark.parametrize("reason", ["completed", "incomplete", "cancelled"])
@pytest.mark.parametrize("response", ["", ',"response":{}'])
def test_a_response_whose_end_is_told_by_the_event_alone(response: str, reason: str) -> None:
    """Some servers leave its status out."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api="openai.responses"), facts)
    assert reader is not None
    assert reader.event(b"", f'{{"type":"response.{reason}"{response}}}'.encode()) is EventKind.END
    assert (facts.finish_reasons, facts.ended, facts.unreadable) == ([reason], True, 0)


LARGE = [
    ("openai.responses", b"response.completed", b'{"a":1', EventKind.END),
    ("openai.responses", b"", b'{ "type" : "response.incomplete", "x', EventKind.END),
    ("openai.responses", b"", b'{"type":"response.output_text.delta","delta":"x', EventKind.EVENT),
    ("openai.responses", b"", b'{"type":"response.failed","x', EventKind.ERROR),
    ("openai.responses", b"", b'{"x":1,"type":"response.completed"', EventKind.EVENT),
    ("anthropic.messages", b"message_stop", b"", EventKind.END),
    ("anthropic.messages", b"error", b'{"x', EventKind.ERROR),
    ("anthropic.messages", b"", b'{"type":"message_stop"}', EventKind.END),
    ("openai.chat", b"", b'{"choices":[', EventKind.EVENT),
    ("openai.chat", b"error", b'{"x', EventKind.ERROR),
    ("openai.completions", b"", b'{"choices":[', EventKind.EVENT),
    ("gemini.generate_content", b"", b'{"candidates":[', EventKind.EVENT),
]


@pytest.mark.parametrize("api, name, head, kind", LARGE)
def test_what_the_beginning_of_a_large_event_tells(
    api: str, name: bytes, head: bytes, kind: EventKind
) -> None:
    """Its type, if it has come; nothing else is known, and nothing is unreadable."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=api), facts)
    assert reader is not None
    parser = apis.event_parser(EVENTS, 60, unbounded)
    named = b"event: " + name + b"\n" if name else b""
    events = parser.feed(named + b"data: " + head + b"x" * 200 + b"\n\n")
    assert [reader.event(*event) for event in events] == [kind]
    assert (parser.oversized, facts.unreadable) == (1, 0)
