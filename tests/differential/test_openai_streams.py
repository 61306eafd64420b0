"""The openai package, sync and async, and the streams of its two APIs: directly and through the sidecar.

Whole, cut, and with an error in them: the same events come out, and the same error.
"""

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2
import openai
import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    End,
    Header,
    Informational,
    LastChunk,
    Pause,
    Reset,
    RunningSidecar,
    Script,
    ScriptedUpstream,
    Status,
    Step,
    chat_chunk,
    json_answer,
    sse_event,
    sse_head,
)
from tests.clients.test_openai_python import MESSAGES, RESPONSE

DONE = b"data: [DONE]\n\n"
ERROR = {"message": "no more", "type": "server_error", "code": "overloaded", "param": None}


@dataclass(frozen=True, slots=True)
class Api:
    """One of the APIs: the call, the events of a whole stream, how it ends, and the errors that it may hold."""

    call: Callable[[Any], Any]
    events: tuple[bytes, ...]
    done: bytes
    errors: dict[str, bytes]


def _delta(number: int, text: str) -> bytes:
    placed = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": text, "logprobs": []}
    return _response_event("response.output_text.delta", number, **placed)


def _response_event(kind: str, number: int, **more: object) -> bytes:
    return sse_event({"type": kind, "sequence_number": number, **more}, event=kind)


_FAILED = RESPONSE | {"status": "failed", "error": {"code": "server_error", "message": "no"}, "output": []}
APIS = {
    "chat": Api(
        lambda client: client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True),
        (
            *(sse_event(chat_chunk(text)) for text in ("Hél", "lo ", "日本", "\u2028 \U0001f600")),
            sse_event(chat_chunk(finish_reason="stop")),
            sse_event(chat_chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})),
        ),
        DONE,
        {
            "an error": sse_event({"error": ERROR}),
            "an error event": sse_event({"error": ERROR}, event="error"),
            "an error that is text": sse_event({"error": "no more"}),
            "what is not JSON": b"data: {no\n\n",
        },
    ),
    "responses": Api(
        lambda client: client.responses.create(model="gpt-4o", input="Hi", stream=True),
        (
            _response_event(
                "response.created", 0, response=RESPONSE | {"status": "in_progress", "output": []}
            ),
            _delta(1, "Hél"),
            _delta(2, "lo 日本"),
            _response_event("response.completed", 3, response=RESPONSE),
        ),
        b"",
        {
            "an error": _response_event("error", 2, code="server_error", message="no", param=None),
            "an error of chat's shape": sse_event({"error": ERROR}),
            "a failed response": _response_event("response.failed", 2, response=_FAILED),
            "what is not JSON": b"event: error\ndata: no\n\n",
        },
    ),
}


def pieces(*parts: bytes, end: Step | None = None, between: Step | None = None) -> Script:
    """A stream in these chunks, with its last one, or with this end in its place."""
    steps: list[Step] = [*sse_head()]
    for part in parts:
        steps += [Chunk(part), *([] if between is None else [between])]
    return [*steps, LastChunk() if end is None else end]


def wholes(api: Api) -> dict[str, Script]:
    """A whole stream, as upstreams say it."""
    parts = [part for part in (*api.events, api.done) if part]
    text = b"".join(parts)
    head = (Status(), Header(b"Content-Type: text/event-stream"))
    coded = (Header(b"Content-Encoding: gzip"), Header(b"Content-Length: %d" % len(gzip.compress(text))))
    comments = (part for one in parts for part in (b": ping\n\n", one))
    return {
        "an event a chunk": pieces(*parts),
        "slow": pieces(*parts, between=Pause(0.02)),
        "in one": pieces(text),
        "in pieces of seven": pieces(*(text[at : at + 7] for at in range(0, len(text), 7))),
        "a byte at a time": pieces(*(text[at : at + 1] for at in range(len(text)))),
        "comments": pieces(*comments),
        "CRLF": pieces(text.replace(b"\n", b"\r\n")),
        "CR": pieces(text.replace(b"\n", b"\r")),
        "a mark in front": pieces(b"\xef\xbb\xbf" + text),
        "a length": (*head, Header(b"Content-Length: %d" % len(text)), Bytes(text)),
        "until the end": (*head, Bytes(text), End()),
        "gzip": (*head, *coded, Bytes(gzip.compress(text))),
        "behind a hint": (Informational(103), *pieces(*parts)),
        "something behind the end": pieces(*parts, sse_event({"more": 1})),
        "no end of its own": pieces(*api.events),
        "nothing": pieces(),
        "its end alone": pieces(api.done or b"\n"),
    }


def cuts(api: Api) -> dict[str, Script]:
    """A stream that ends too early."""
    ends: tuple[tuple[str, Step], ...] = (("ended", End()), ("reset", Reset()))
    return {
        **{
            f"{how} after {number}": pieces(*api.events[:number], end=end)
            for how, end in ends
            for number in range(len(api.events) + 1)
        },
        **{f"{how} in an event": pieces(*api.events[:2], api.events[2][:20], end=end) for how, end in ends},
        "whole chunks, half an event": pieces(*api.events[:2], api.events[2][:20]),
        "whole chunks, no last event": pieces(*api.events[:2]),
        "until the end, half": (
            Status(),
            Header(b"Content-Type: text/event-stream"),
            Bytes(api.events[0]),
            End(),
        ),
    }


def errors(api: Api) -> dict[str, Script]:
    """An error in a stream, and errors in a stream's place."""
    return {
        **{f"{name} first": pieces(error) for name, error in api.errors.items()},
        **{f"{name} between": pieces(*api.events[:2], error, api.done) for name, error in api.errors.items()},
        **{
            f"{name}, then the end": pieces(*api.events[:2], error, end=End())
            for name, error in api.errors.items()
        },
        **{
            f"{status}": json_answer({"error": ERROR}, status=status, headers=(b"x-should-retry: false",))
            for status in (400, 401, 403, 404, 409, 422, 429, 500, 503)
        },
        "JSON in its place": json_answer(json.loads(api.events[0].partition(b"data: ")[2])),
        "a page": (
            Status(502),
            Header(b"Content-Type: text/html"),
            Header(b"Content-Length: 4"),
            Bytes(b"<p>."),
        ),
    }


ROWS = [
    (name, case, script)
    for name, api in APIS.items()
    for table in (wholes, cuts, errors)
    for case, script in table(api).items()
]

PLAIN: Any = {"verify": False, "trust_env": False}
"""A client's own settings: to read the system's certificates takes longer than the calls."""

Told = tuple[list[object], str]
"""The events, and what was raised: the package's own error with its text, or that the connection broke."""
_numbers = count()


def raised(error: Exception) -> str:
    """What an app can tell errors by; how a connection broke is no matter."""
    own = isinstance(error, openai.OpenAIError)
    return f"{type(error).__name__}: {error}" if own or isinstance(error, ValueError) else "broken"


def told(base: str, api: Api) -> Told:
    """What the sync client tells an app."""
    events: list[object] = []
    plain = httpx2.Client(**PLAIN)
    with openai.OpenAI(base_url=base, api_key="k", max_retries=0, timeout=60, http_client=plain) as client:
        try:
            with api.call(client) as stream:
                events.extend(event.to_dict() for event in stream)
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
            return events, raised(error)
    return events, ""


async def told_async(base: str, api: Api) -> Told:
    """What the async client tells an app."""
    events: list[object] = []
    plain = httpx2.AsyncClient(**PLAIN)
    options: Any = {"base_url": base, "api_key": "k", "max_retries": 0, "timeout": 60, "http_client": plain}
    async with openai.AsyncOpenAI(**options) as client:
        try:
            async with await api.call(client) as stream:
                async for event in stream:
                    events.append(event.to_dict())  # noqa: PERF401 - what came before an error is told
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
            return events, raised(error)
    return events, ""


@pytest.mark.parametrize("name, case, script", ROWS, ids=[f"{name}: {case}" for name, case, _ in ROWS])
def test_a_stream(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, name: str, case: str, script: Script
) -> None:
    """The same events and the same error, from the sync client and from the async one."""
    api = APIS[name]
    upstream.answer_always(*script)
    bases = [f"{url}/r{next(_numbers)}/v1" for url in (upstream.url, sidecar.url)]
    direct, through = (told(base, api) for base in bases)
    assert through == direct
    direct, through = (asyncio.run(told_async(base, api)) for base in bases)
    assert through == direct


RETRIED: dict[str, Script] = {
    "ended": (End(),),
    "reset": (Reset(),),
    **{
        str(status): json_answer({"error": ERROR}, status=status, headers=(b"retry-after-ms: 1",))
        for status in (408, 409, 429, 500, 503)
    },
}


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize("case", RETRIED)
def test_a_second_try(sidecar: RunningSidecar, upstream: ScriptedUpstream, name: str, case: str) -> None:
    """The package as apps use it tries again, directly and through the sidecar: the upstream is asked as often."""
    api, asked, events = APIS[name], [], []
    for url in (upstream.url, sidecar.url):
        upstream.clear()
        upstream.answer_always(*wholes(api)["an event a chunk"])
        upstream.answer(*RETRIED[case])
        with (
            openai.OpenAI(
                base_url=f"{url}/v1", api_key="k", timeout=60, http_client=openai.DefaultHttpxClient(**PLAIN)
            ) as client,
            api.call(client) as stream,
        ):
            events.append([event.to_dict() for event in stream])
        asked.append(len(upstream.requests))
    assert asked == [2, 2]
    assert events[0] == events[1]
    assert events[0]
