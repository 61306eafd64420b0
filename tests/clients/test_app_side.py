"""`sidecar.client`: what an app gets by using it, in threads and tasks alike, with and without a trace of its own."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest
from opentelemetry import propagate, trace

from sidecar.client import (
    AsyncOpenAI,
    OpenAI,
    add_session_headers,
    add_session_headers_async,
    session,
    session_headers,
)
from sidecar.testing import (
    Gate,
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    Span,
    Wait,
    chat_completion,
    json_answer,
)

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)
IDS = {"X-Sidecar-Session-Id": "visit", "X-Sidecar-Conversation-Id": "trains"}
HOOKS: Any = {"event_hooks": {"request": [add_session_headers]}}
ASYNC_HOOKS: Any = {"event_hooks": {"request": [add_session_headers_async]}}


@pytest.fixture
def client(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> Iterator[openai.OpenAI]:
    """A client of ours, as an app makes it, before a provider that says hello to everybody."""
    upstream.answer_always(json_answer(chat_completion()))
    with OpenAI(base_url=f"{sidecar.url}/v1", api_key="k") as made:
        yield made


def ask(client: openai.OpenAI, text: str = "Hi") -> str:
    """One call; what came back."""
    messages: Any = [{"role": "user", "content": text}]
    made = client.chat.completions.create(model="gpt-4o", messages=messages)
    return made.choices[0].message.content or ""


def request_span(sink: OtlpSink, session_id: str, conversation: str = "main") -> Span:
    """The span of the one request of a conversation."""
    return sink.span(
        kind="SERVER", attributes={"session.id": session_id, "sidecar.conversation.id": conversation}
    )


@contextmanager
def app_span(number: int) -> Iterator[None]:
    """Inside, a span of the app's own is active, in a trace of its own, both with this number for an id."""
    own = trace.SpanContext(number, number, is_remote=False, trace_flags=SAMPLED)
    with trace.use_span(trace.NonRecordingSpan(own)):
        yield


def traceparent(number: int) -> str:
    """The header field that says so."""
    return f"00-{number:032x}-{number:016x}-01"


def parents(span: Span) -> tuple[int, int]:
    """The trace that a span is in, and its parent, as numbers."""
    return int(span.trace_id, 16), int(span.parent or "0", 16)


# --- the block


def test_ids_on_every_call_inside(client: openai.OpenAI, sink: OtlpSink) -> None:
    """The calls inside belong to the session and the conversation; those before and after to none."""
    with app_span(5):
        ask(client)
        with session("app-block", conversation="trains"):
            assert ask(client) == "Hello"
        ask(client)
    span = request_span(sink, "app-block", "trains")
    assert span.attributes["sidecar.session.source"] == "own_header"

    def sources() -> list[object]:
        spans = sink.find_spans(kind="SERVER", trace_id=f"{5:032x}")
        return [one.attributes["sidecar.session.source"] for one in spans]

    sink.wait_for(lambda: len(sources()) == 3)
    assert sources() == ["generated", "own_header", "generated"]


def test_nested_blocks() -> None:
    """The innermost block counts, as a whole; when it ends, the one around it is back, also after an error."""
    with session("outer", conversation="trains"):
        with session("inner"):
            assert session_headers() == {"X-Sidecar-Session-Id": "inner"}
        with pytest.raises(KeyError), session("broken"):
            raise KeyError
        assert session_headers() == {
            "X-Sidecar-Session-Id": "outer",
            "X-Sidecar-Conversation-Id": "trains",
        }
    assert session_headers() == {}


@pytest.mark.parametrize("bad", ["", "  ", "Zürich", "two\nlines"])
def test_ids_that_are_none(bad: str) -> None:
    """What no header can carry is said at the block, not in the middle of a call."""
    with pytest.raises(ValueError, match="session id"), session(bad):
        pass
    with pytest.raises(ValueError, match="conversation id"), session("fine", conversation=bad):
        pass


def test_a_calls_own_word_wins(client: openai.OpenAI, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """`extra_headers` of the call, then the block, then the client's `default_headers`; never two of a kind."""
    wide = client.with_options(default_headers={"x-sidecar-session-id": "app-wide", "X-Mine": "yes"})
    assert isinstance(wide, OpenAI)
    with session("app-narrow"):
        ask(wide)
        wide.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, extra_headers={"x-sidecar-session-id": "app-call"}
        )
    ask(wide)
    for one in ("app-narrow", "app-call", "app-wide"):
        request_span(sink, one)
    assert [request.get("x-mine") for request in upstream.requests] == [b"yes"] * 3


# --- threads and tasks


def in_thread(call: Callable[[], str]) -> str:
    """By `threading.Thread`."""
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(call()))
    thread.start()
    thread.join()
    return said[0]


def in_thread_of_a_kind_of_its_own(call: Callable[[], str]) -> str:
    """By a subclass that has its own `run`."""

    class Own(threading.Thread):
        said = ""

        def run(self) -> None:
            self.said = call()

    thread = Own()
    thread.start()
    thread.join()
    return thread.said


def in_timer(call: Callable[[], str]) -> str:
    """By `threading.Timer`."""
    said: list[str] = []
    timer = threading.Timer(0, lambda: said.append(call()))
    timer.start()
    timer.join()
    return said[0]


def in_pool(call: Callable[[], str]) -> str:
    """By a pool that is made inside the block."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def in_pool_map(call: Callable[[], str]) -> str:
    """By a pool's `map`."""
    with ThreadPoolExecutor(1) as pool:
        (said,) = pool.map(lambda _: call(), [1])
        return said


def in_thread_of_a_thread(call: Callable[[], str]) -> str:
    """By a pool inside a thread."""
    return in_thread(lambda: in_pool(call))


def in_to_thread(call: Callable[[], str]) -> str:
    """By `asyncio.to_thread`."""

    async def main() -> str:
        return await asyncio.to_thread(call)

    return asyncio.run(main())


def in_run_in_executor(call: Callable[[], str]) -> str:
    """By the loop's executor."""

    async def main() -> str:
        return await asyncio.get_running_loop().run_in_executor(None, call)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "way",
    [
        in_thread,
        in_thread_of_a_kind_of_its_own,
        in_timer,
        in_pool,
        in_pool_map,
        in_thread_of_a_thread,
        in_to_thread,
        in_run_in_executor,
    ],
)
def test_threads(client: openai.OpenAI, sink: OtlpSink, way: Callable[[Callable[[], str]], str]) -> None:
    """A call in a thread that was started inside carries ids and the app's trace; one after the block neither."""
    with app_span(7), session(f"app-{way.__name__}", conversation="trains"):
        assert way(lambda: ask(client)) == "Hello"
    assert way(lambda: str(session_headers())) == "{}"
    span = request_span(sink, f"app-{way.__name__}", "trains")
    assert parents(span) == (7, 7)


def test_a_pool_from_before_and_after(client: openai.OpenAI, sink: OtlpSink) -> None:
    """What is submitted counts, not when the worker was started: neither worker keeps a session."""

    def headers(pool: Executor) -> dict[str, str]:
        return pool.submit(session_headers).result()

    with ThreadPoolExecutor(1) as early, ThreadPoolExecutor(1) as late:
        assert headers(early) == {}
        with session("app-pool"):
            early.submit(ask, client, text="keywords pass").result()
            assert headers(early) == headers(late) == {"X-Sidecar-Session-Id": "app-pool"}
        assert headers(early) == headers(late) == {}
    request_span(sink, "app-pool")


def test_a_thread_outlives_the_block() -> None:
    """What was started inside belongs to the session, also when it goes on after the block."""
    ended = threading.Event()
    said: Future[dict[str, str]] = Future()

    def late() -> None:
        ended.wait(60)
        said.set_result(session_headers())

    with session("outliving"):
        thread = threading.Thread(target=late)
        thread.start()
    ended.set()
    thread.join()
    assert said.result() == {"X-Sidecar-Session-Id": "outliving"}


def test_threads_outside_a_block_are_left_alone() -> None:
    """Where no block is, a thread and a pool are what they always were; errors come out as they do."""
    with session("somebody"):
        pass

    def fail() -> None:
        raise KeyError("mine")

    with ThreadPoolExecutor(1) as pool:
        outside = pool.submit(fail)
        with session("inside"):
            inside = pool.submit(fail)
        for future in (outside, inside):
            with pytest.raises(KeyError, match="mine"):
                future.result()
    with pytest.raises(RuntimeError, match="after shutdown"), session("inside"):
        pool.submit(fail)
    thread = threading.Thread(target=session_headers)
    thread.start()
    thread.join()
    assert "run" not in vars(thread)


async def test_tasks(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """Sessions that run at the same time in tasks do not mix, nor do the calls each of them makes at once."""
    gate = Gate()
    upstream.answer_always(Wait(gate), *json_answer(chat_completion()))

    async with AsyncOpenAI(base_url=f"{sidecar.url}/v1", api_key="k") as client:

        async def visit(number: int) -> None:
            with session(f"app-task-{number}"):
                async with asyncio.TaskGroup() as group:
                    for _ in range(2):
                        group.create_task(client.chat.completions.create(model="gpt-4o", messages=MESSAGES))
            assert session_headers() == {}

        visits = asyncio.gather(*(visit(number) for number in range(3)))
        await asyncio.to_thread(upstream.wait_for, lambda: len(upstream.requests) == 6)
        gate.open()
        await visits
    sessions = [f"app-task-{number}" for number in range(3)]

    def seen() -> list[str]:
        spans = sink.find_spans(kind="SERVER")
        return sorted(str(span.attributes["session.id"]) for span in spans if "app-task" in str(span))

    await asyncio.to_thread(sink.wait_for, lambda: seen() == sorted(sessions * 2))


# --- the app's trace


def test_the_apps_trace_is_the_parent(client: openai.OpenAI, sink: OtlpSink) -> None:
    """With a span active, in a block or not, it is the parent of the request's span."""
    with app_span(11):
        ask(client)
    assert parents(sink.span(kind="SERVER", trace_id=f"{11:032x}")) == (11, 11)
    with app_span(12), session("app-traced"):
        ask(client)
    assert parents(request_span(sink, "app-traced")) == (12, 12)


def test_a_span_of_the_thread_itself_wins() -> None:
    """The place where the thread was started is the parent only if nothing nearer is."""

    def nearer() -> str:
        with app_span(14):
            return session_headers()["traceparent"]

    with app_span(13), session("app-nearer"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(nearer).result() == traceparent(14)
        assert pool.submit(session_headers).result()["traceparent"] == traceparent(13)


class Instrumented(httpx2.HTTPTransport):
    """A transport that injects the trace itself, as an instrumentation of HTTP clients does."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Injects under a span of its own, then sends."""
        with app_span(16):
            propagate.inject(request.headers)
        return super().handle_request(request)


def test_an_instrumentation_that_injects_too(upstream: ScriptedUpstream) -> None:
    """There is one `traceparent`: that of the instrumentation, whose span is nearer to the call."""
    upstream.answer(json_answer(chat_completion()))
    http = httpx2.Client(transport=Instrumented())
    with (
        OpenAI(base_url=upstream.url, api_key="k", http_client=http) as client,
        app_span(15),
        session("visit"),
    ):
        ask(client)
    assert upstream.request().message.get_all("traceparent") == [traceparent(16).encode()]


# --- where calls go, and what else there is


@pytest.mark.parametrize("make", [OpenAI, AsyncOpenAI])
def test_where_calls_go(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, the client's own variable, the address that the sidecar listens on, its default."""
    for name in ("OPENAI_BASE_URL", "SIDECAR_LISTEN"):
        monkeypatch.delenv(name, raising=False)
    assert str(make(api_key="k").base_url) == "http://127.0.0.1:7070/v1/"
    monkeypatch.setenv("SIDECAR_LISTEN", "127.0.0.1:8080")
    assert str(make(api_key="k").base_url) == "http://127.0.0.1:8080/v1/"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9090/openai/v1")
    assert str(make(api_key="k").base_url) == "http://127.0.0.1:9090/openai/v1/"
    assert str(make(api_key="k", base_url="http://127.0.0.1:1/v1").base_url) == "http://127.0.0.1:1/v1/"


@pytest.mark.parametrize("make,kind", [(OpenAI, openai.OpenAI), (AsyncOpenAI, openai.AsyncOpenAI)])
def test_it_is_the_official_client(make: Any, kind: Any) -> None:
    """What else the constructor takes is taken, and a copy of the client is one of ours, for the same place."""
    made = make(api_key="k", base_url="http://127.0.0.1:1/v1", max_retries=7, timeout=1.5, organization="org")
    assert isinstance(made, kind)
    assert (made.api_key, made.max_retries, made.timeout, made.organization) == ("k", 7, 1.5, "org")
    copy = made.with_options(max_retries=1)
    assert type(copy) is type(made)
    assert copy.base_url == made.base_url
    with session("visit"):
        assert copy.default_headers["X-Sidecar-Session-Id"] == "visit"
    with pytest.raises(TypeError, match="no_such_argument"):
        make(api_key="k", no_such_argument=1)


@pytest.mark.parametrize(
    "line,absent",
    [
        ("from sidecar import SessionManager", "openai opentelemetry aiohttp"),
        (
            "from sidecar.client import session, session_headers",
            "openai opentelemetry.sdk aiohttp sidecar.core.sessions",
        ),
        ("from sidecar import cli", "msgspec opentelemetry aiohttp sidecar.apis sidecar.core.sessions"),
    ],
)
def test_imports_are_light(line: str, absent: str) -> None:
    """The session manager and the command line need the standard library, the block OpenTelemetry's interface, nothing more."""
    code = f"{line}; import sys; print([name for name in {absent.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_there_is_nothing_else() -> None:
    """A name that it does not have is said as Python says it."""
    with pytest.raises(ImportError, match="AzureOpenAI"):
        from sidecar.client import AzureOpenAI  # noqa: F401


# --- other SDKs


def check_headers(upstream: ScriptedUpstream, number: int) -> None:
    """The one request that came (unanswered: echoed) carried the ids, once each, and the trace."""
    got = upstream.request()
    for name, value in IDS.items():
        assert got.message.get_all(name) == [value.encode()]
    assert got.message.get_all("traceparent") == [traceparent(number).encode()]


def test_hooks_anthropic(upstream: ScriptedUpstream) -> None:
    """The hook names the calls of the `anthropic` client, which injects nothing twice."""
    import anthropic

    http = anthropic.DefaultHttpxClient(**HOOKS)
    with (
        anthropic.Anthropic(base_url=upstream.url, api_key="k", http_client=http) as client,
        app_span(21),
        session("visit", conversation="trains"),
    ):
        client.messages.create(model="claude", max_tokens=1, messages=MESSAGES)
    check_headers(upstream, 21)


async def test_hooks_anthropic_async(upstream: ScriptedUpstream) -> None:
    """The same for the async client."""
    import anthropic

    http = anthropic.DefaultAsyncHttpxClient(**ASYNC_HOOKS)
    async with anthropic.AsyncAnthropic(base_url=upstream.url, api_key="k", http_client=http) as client:
        with app_span(22), session("visit", conversation="trains"):
            await client.messages.create(model="claude", max_tokens=1, messages=MESSAGES)
    check_headers(upstream, 22)


async def test_hooks_google(upstream: ScriptedUpstream) -> None:
    """Both clients of `google-genai` can be given them; the async one leaves aiohttp for httpx then."""
    from google import genai

    async with httpx2.AsyncClient(**ASYNC_HOOKS) as http:
        options: Any = {"base_url": upstream.url, "client_args": HOOKS, "httpx_async_client": http}
        with genai.Client(api_key="k", http_options=options) as client:
            with app_span(23), session("visit", conversation="trains"):
                client.models.generate_content(model="gemini", contents="Hi")
            check_headers(upstream, 23)
            upstream.clear()
            with app_span(24), session("visit", conversation="trains"):
                await client.aio.models.generate_content(model="gemini", contents="Hi")
            check_headers(upstream, 24)


def test_headers_per_call(upstream: ScriptedUpstream) -> None:
    """Any client that takes header fields per call can be told."""
    import anthropic

    with (
        anthropic.Anthropic(base_url=upstream.url, api_key="k") as client,
        app_span(25),
        session("visit", conversation="trains"),
    ):
        client.messages.create(
            model="claude", max_tokens=1, messages=MESSAGES, extra_headers=session_headers()
        )
    check_headers(upstream, 25)
