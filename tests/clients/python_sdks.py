"""The Python clients, each told to do one of the same few things, as an app would write it.

Each gives what it understood, and the exact bytes that its HTTP layer was given. None knows of the sidecar. Two of the
packages take seconds to be imported: they are where they are used.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx2
import openai

from tests.clients.apis import CHAT, GEMINI, MESSAGES, QUESTION, TOOL, Api

KEY = "sk-secret"

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For all clients, which call nobody by TLS: to read the system's certificates takes longer than the calls."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing to do: `plain`, `stream`, `tools`, `tools-stream`, `early-stop` or `retry`; `timeout` in seconds."""

    kind: str
    base_url: str
    headers: Mapping[str, str]
    timeout: float = 30.0

    @property
    def streams(self) -> bool:
        """Whether the answer is asked for as a stream."""
        return self.kind in {"stream", "tools-stream", "early-stop"}

    @property
    def tools(self) -> bool:
        """Whether a tool is offered."""
        return self.kind.startswith("tools")

    @property
    def early(self) -> bool:
        """Whether to stop after the first event."""
        return self.kind == "early-stop"

    @property
    def retries(self) -> int:
        """How often to try again."""
        return int(self.kind == "retry")


@dataclass(slots=True)
class Answer:
    """One answer as the client's HTTP layer had it: the payload is not unpacked yet, if it is packed."""

    status: int
    fields: list[tuple[str, str]]
    payload: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Heard:
    """What came of it: the text, the calls of tools, the client's own error, and every answer."""

    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    error: str = ""
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Client:
    """A client. `unpacks`: the payloads it records are unpacked; `records` is False if it can record none.

    `timeouts` are its own errors for a time-out before the answer and in a stream (empty: it has none there).
    """

    name: str
    api: Api
    run: Callable[[Ask], Heard]
    timeouts: tuple[str, str]
    marks_retries: bool = True
    unpacks: bool = False
    records: bool = True


class _Stream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The bytes of an answer, copied as they are read."""

    def __init__(self, stream: Any, payload: bytearray) -> None:
        self._stream = stream
        self._payload = payload

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._payload.extend(piece)
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._payload.extend(piece)
            yield piece

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _record(response: httpx2.Response, heard: Heard) -> httpx2.Response:
    fields = [(name.decode(), value.decode()) for name, value in response.headers.raw]
    answer = Answer(response.status_code, fields)
    heard.answers.append(answer)
    response.stream = _Stream(response.stream, answer.payload)
    return response


class Recording(httpx2.HTTPTransport):
    """The transport of a client, with a copy of every answer."""

    def __init__(self, heard: Heard) -> None:
        super().__init__(verify=TLS)
        self._heard = heard

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends."""
        return _record(super().handle_request(request), self._heard)


class AsyncRecording(httpx2.AsyncHTTPTransport):
    """The same for async clients."""

    def __init__(self, heard: Heard) -> None:
        super().__init__(verify=TLS)
        self._heard = heard

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends."""
        return _record(await super().handle_async_request(request), self._heard)


# --- openai


def _openai_options(ask: Ask) -> dict[str, Any]:
    return {
        "base_url": f"{ask.base_url}/v1",
        "api_key": KEY,
        "default_headers": ask.headers,
        "max_retries": ask.retries,
        "timeout": ask.timeout,
    }


def _openai_call(ask: Ask) -> dict[str, Any]:
    call: dict[str, Any] = {"model": CHAT.model, "messages": [{"role": "user", "content": QUESTION}]}
    if ask.tools:
        parameters = {"type": "object", "properties": {}}
        call["tools"] = [{"type": "function", "function": {"name": TOOL, "parameters": parameters}}]
    if ask.streams:
        call |= {"stream": True, "stream_options": {"include_usage": True}}
    return call


def _openai_whole(heard: Heard, made: Any) -> None:
    message = made.choices[0].message
    heard.text = message.content or ""
    for call in message.tool_calls or ():
        heard.calls.append((call.function.name, json.loads(call.function.arguments)))


def _openai_chunk(heard: Heard, pieces: list[str], chunk: Any) -> None:
    for choice in chunk.choices:
        heard.text += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            pieces += [call.function.name or "", call.function.arguments or ""]


def _openai_end(heard: Heard, pieces: list[str]) -> None:
    if pieces:
        heard.calls.append((pieces[0], json.loads("".join(pieces[1:]))))


def openai_sync(ask: Ask) -> Heard:
    """`openai.OpenAI`."""
    heard, pieces = Heard(), list[str]()
    http = httpx2.Client(transport=Recording(heard))
    with openai.OpenAI(http_client=http, **_openai_options(ask)) as client:
        try:
            made: Any = client.chat.completions.create(**_openai_call(ask))
            if not ask.streams:
                _openai_whole(heard, made)
                return heard
            with made as stream:
                for chunk in stream:
                    _openai_chunk(heard, pieces, chunk)
                    if ask.early:
                        break
            _openai_end(heard, pieces)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            heard.error = type(error).__name__
    return heard


async def openai_async(ask: Ask) -> Heard:
    """`openai.AsyncOpenAI`."""
    heard, pieces = Heard(), list[str]()
    http = httpx2.AsyncClient(transport=AsyncRecording(heard))
    async with openai.AsyncOpenAI(http_client=http, **_openai_options(ask)) as client:
        try:
            made: Any = await client.chat.completions.create(**_openai_call(ask))
            if not ask.streams:
                _openai_whole(heard, made)
                return heard
            async with made as stream:
                async for chunk in stream:
                    _openai_chunk(heard, pieces, chunk)
                    if ask.early:
                        break
            _openai_end(heard, pieces)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            heard.error = type(error).__name__
    return heard


# --- anthropic


def _anthropic_options(ask: Ask) -> dict[str, Any]:
    return {**_openai_options(ask), "base_url": ask.base_url}


def _anthropic_call(ask: Ask) -> dict[str, Any]:
    call: dict[str, Any] = {
        "model": MESSAGES.model,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    if ask.tools:
        call["tools"] = [{"name": TOOL, "input_schema": {"type": "object", "properties": {}}}]
    return call


def _anthropic_block(heard: Heard, block: Any) -> None:
    if block.type == "text":
        heard.text += block.text
    elif block.type == "tool_use":
        heard.calls.append((block.name, block.input))


def anthropic_sync(ask: Ask) -> Heard:
    """`anthropic.Anthropic`, with its own helper for streams."""
    import anthropic

    heard = Heard()
    http = httpx2.Client(transport=Recording(heard))
    with anthropic.Anthropic(http_client=http, **_anthropic_options(ask)) as client:
        try:
            if not ask.streams:
                for block in client.messages.create(**_anthropic_call(ask)).content:
                    _anthropic_block(heard, block)
                return heard
            with client.messages.stream(**_anthropic_call(ask)) as stream:
                for event in stream:
                    if ask.early:
                        break
                    if event.type == "content_block_stop":
                        _anthropic_block(heard, event.content_block)
        except (anthropic.AnthropicError, httpx2.HTTPError) as error:
            heard.error = type(error).__name__
    return heard


async def anthropic_async(ask: Ask) -> Heard:
    """`anthropic.AsyncAnthropic`, the same way."""
    import anthropic

    heard = Heard()
    http = httpx2.AsyncClient(transport=AsyncRecording(heard))
    async with anthropic.AsyncAnthropic(http_client=http, **_anthropic_options(ask)) as client:
        try:
            if not ask.streams:
                for block in (await client.messages.create(**_anthropic_call(ask))).content:
                    _anthropic_block(heard, block)
                return heard
            async with client.messages.stream(**_anthropic_call(ask)) as stream:
                async for event in stream:
                    if ask.early:
                        break
                    if event.type == "content_block_stop":
                        _anthropic_block(heard, event.content_block)
        except (anthropic.AnthropicError, httpx2.HTTPError) as error:
            heard.error = type(error).__name__
    return heard


# --- google-genai


def _google_options(ask: Ask, **transport: Any) -> dict[str, Any]:
    retry = {"attempts": 1 + ask.retries, "initial_delay": 0.01, "jitter": 0.0}
    return {
        "base_url": ask.base_url,
        "headers": dict(ask.headers),
        "timeout": round(ask.timeout * 1000),
        "retry_options": retry,
        "client_args": {"verify": TLS},
        "async_client_args": {"verify": TLS, "ssl": TLS},
        **transport,
    }


def _google_call(ask: Ask) -> dict[str, Any]:
    call: dict[str, Any] = {"model": GEMINI.model, "contents": QUESTION}
    if ask.tools:
        call["config"] = {"tools": [{"function_declarations": [{"name": TOOL}]}]}
    return call


def _google_part(heard: Heard, made: Any) -> None:
    for part in made.candidates[0].content.parts:
        heard.text += part.text or ""
        if part.function_call:
            heard.calls.append((part.function_call.name, part.function_call.args))


GOOGLE_ERRORS = (httpx2.HTTPError, aiohttp.ClientError, TimeoutError)
"""Beside its own."""


def google_sync(ask: Ask) -> Heard:
    """`google.genai.Client`."""
    from google import genai

    heard = Heard()
    options: Any = _google_options(ask, client_args={"verify": TLS, "transport": Recording(heard)})
    with genai.Client(api_key=KEY, http_options=options) as client:
        try:
            if not ask.streams:
                _google_part(heard, client.models.generate_content(**_google_call(ask)))
                return heard
            stream: Any = client.models.generate_content_stream(**_google_call(ask))
            for chunk in stream:
                _google_part(heard, chunk)
                if ask.early:
                    break
            stream.close()
        except (genai.errors.APIError, *GOOGLE_ERRORS) as error:
            heard.error = type(error).__name__
    return heard


async def google_async(ask: Ask) -> Heard:
    """Its async side, on httpx."""
    heard = Heard()
    recording = {"verify": TLS, "ssl": TLS, "transport": AsyncRecording(heard)}
    return await _google_async(ask, heard, async_client_args=recording)


async def google_aiohttp(ask: Ask) -> Heard:
    """Its async side on aiohttp, as it is where that is installed."""
    async with aiohttp.ClientSession() as session:
        return await _google_async(ask, Heard(), aiohttp_client=session)


async def _google_async(ask: Ask, heard: Heard, **transport: Any) -> Heard:
    from google import genai

    options: Any = _google_options(ask, **transport)
    async with genai.Client(api_key=KEY, http_options=options).aio as client:
        try:
            if not ask.streams:
                _google_part(heard, await client.models.generate_content(**_google_call(ask)))
                return heard
            stream: Any = await client.models.generate_content_stream(**_google_call(ask))
            async for chunk in stream:
                _google_part(heard, chunk)
                if ask.early:
                    break
            await stream.aclose()
        except (genai.errors.APIError, *GOOGLE_ERRORS) as error:
            heard.error = type(error).__name__
    return heard


def _run(run: Callable[[Ask], Any]) -> Callable[[Ask], Heard]:
    return lambda ask: asyncio.run(run(ask))


_OPENAI = ("APITimeoutError", "APITimeoutError")
_ANTHROPIC = ("APITimeoutError", "ReadTimeout")
_GOOGLE = ("ReadTimeout", "ReadTimeout")
_AIOHTTP = ("TimeoutError", "TimeoutError")

PYTHON_CLIENTS = (
    Client("openai", CHAT, openai_sync, _OPENAI),
    Client("openai-async", CHAT, _run(openai_async), _OPENAI),
    Client("anthropic", MESSAGES, anthropic_sync, _ANTHROPIC),
    Client("anthropic-async", MESSAGES, _run(anthropic_async), _ANTHROPIC),
    Client("google-genai", GEMINI, google_sync, _GOOGLE, marks_retries=False),
    Client("google-genai-async", GEMINI, _run(google_async), _GOOGLE, marks_retries=False),
    Client(
        "google-genai-aiohttp", GEMINI, _run(google_aiohttp), _AIOHTTP, marks_retries=False, records=False
    ),
)
