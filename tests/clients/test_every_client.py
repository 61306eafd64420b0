"""What every official client gets through the sidecar: byte for byte what the upstream said, and what is told of it.

Each case runs twice, once straight to the scripted provider and once through the sidecar. The client must not be
able to tell the difference, and neither must the provider; the spans and metrics are the sidecar's.
"""

import gzip
from collections.abc import Callable, Iterator, Mapping

import pytest

from sidecar.testing import Gate, OtlpSink, RunningSidecar, ScriptedUpstream, Span, Wait
from sidecar.testing.player import Received
from tests.blackbox.conftest import Measure, Measured
from tests.clients.apis import ARGUMENTS, TEXT, TOOL, held, streamed, whole
from tests.clients.node_sdk import at_hand, node_client
from tests.clients.python_sdks import KEY, PYTHON_CLIENTS, Ask, Client, Heard

BY_NAME = {client.name: client for client in PYTHON_CLIENTS}
NODE = pytest.param(
    "openai-node", marks=pytest.mark.skipif(not at_hand(), reason="node and npm are not at hand")
)
SOON = 2.0
"""The time-out of a client that is to run into it, in seconds."""


@pytest.fixture(scope="module")
def node() -> Iterator[Client]:
    """The client for Node, once for the module."""
    with node_client() as client:
        yield client


@pytest.fixture(params=[*BY_NAME, NODE])
def client(request: pytest.FixtureRequest) -> Client:
    """One client after the other."""
    found: Client = BY_NAME.get(request.param) or request.getfixturevalue("node")
    return found


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> str:
    """A session of this test alone."""
    return str(request.node.name).replace("[", "-").removesuffix("]")


def named(session_id: str) -> Mapping[str, str]:
    """The header fields that name it."""
    return {"X-Sidecar-Session-Id": session_id, "X-Sidecar-Conversation-Id": "sums"}


Requests = Callable[[int], list[Span]]


@pytest.fixture
def requests(sink: OtlpSink, session_id: str) -> Requests:
    """Waits until so many requests of the test's session have been told of, and gives their spans in order."""

    def spans(count: int) -> list[Span]:
        wanted = {"session.id": session_id}
        sink.wait_for(lambda: len(sink.find_spans(kind="SERVER", attributes=wanted)) == count)
        found = sink.find_spans(kind="SERVER", attributes=wanted)
        assert [span.attributes["sidecar.request.sequence"] for span in found] == [*range(1, count + 1)]
        for span in found:
            assert span.attributes["sidecar.session.source"] == "own_header"
            assert span.attributes["sidecar.conversation.id"] == "sums"
        return found

    return spans


def fields(request: Received) -> list[tuple[bytes, bytes]]:
    """What a request tells the provider, without what the sidecar is there to change."""
    ours = (b"host", b"traceparent", b"x-sidecar-session-id", b"x-sidecar-conversation-id")
    hop = (b"connection", b"content-length", b"transfer-encoding")
    return [(name, value) for name, value in request.fields if name.lower() not in (*ours, *hop)]


def same_requests(upstream: ScriptedUpstream) -> None:
    """The provider was asked the same twice."""
    direct, through = upstream.request(0), upstream.request(1)
    assert (through.method, through.target, through.body) == (direct.method, direct.target, direct.body)
    assert fields(through) == fields(direct)
    assert not [name for name, _ in through.fields if name.lower().startswith(b"x-sidecar-")]


def same_answers(direct: Heard, through: Heard) -> None:
    """The client heard the same twice, but for the one field that the sidecar adds."""
    assert [len(heard.answers) for heard in (direct, through)] in ([1, 1], [0, 0])
    for answer in through.answers:
        added = [pair for pair in answer.fields if pair[0].lower() == "x-sidecar-request-id"]
        assert len(added) == 1
        answer.fields.remove(added[0])
    assert through == direct


def call_of(sink: OtlpSink, request: Span) -> Span:
    """The span of the upstream call that a request led to."""
    return sink.span(kind="CLIENT", trace_id=request.trace_id)


def told(span: Span) -> dict[str, object]:
    """What a span says in the words of the GenAI conventions."""
    return {key: value for key, value in span.attributes.items() if key.startswith("gen_ai.")}


def counted(measured: Measured, *outcomes: str) -> None:
    """The requests are counted by outcome, once each, and so are their calls."""
    requests = [change for change in measured.changes if change.metric == "sidecar.requests"]
    assert sorted(str(change.attributes["sidecar.outcome"]) for change in requests) == sorted(outcomes)
    assert {change.value for change in requests} == {1}
    calls = [change for change in measured.changes if change.metric == "gen_ai.client.operation.duration"]
    assert sum(change.count for change in calls) == len(outcomes)


def token_usage(measured: Measured) -> dict[object, float]:
    """Tokens by type."""
    return {
        change.attributes["gen_ai.token.type"]: change.sum
        for change in measured.changes
        if change.metric == "gen_ai.client.token.usage"
    }


@pytest.mark.parametrize("kind", ["plain", "packed", "stream", "packed-stream", "tools", "tools-stream"])
def test_whole(
    client: Client,
    kind: str,
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    measure: Measure,
    session_id: str,
    requests: Requests,
) -> None:
    """An answer and a stream, as they are and packed, with text and with a call of a tool."""
    api, packed, tools = client.api, kind.startswith("packed"), kind.startswith("tools")
    if kind.endswith("stream"):
        script, payload = streamed(api.tool_events if tools else api.events, packed=packed)
    else:
        script, payload = whole(api.tool if tools else api.plain, packed=packed)
    upstream.answer(script)
    upstream.answer(script)
    asked = {"packed": "plain", "packed-stream": "stream"}.get(kind, kind)
    direct = client.run(Ask(asked, upstream.url, named(session_id)))
    with measure() as measured:
        through = client.run(Ask(asked, sidecar.url, named(session_id)))
        (request,) = requests(1)

    same_requests(upstream)
    same_answers(direct, through)
    assert (through.text, through.error) == ("" if tools else TEXT, "")
    assert through.calls == ([(TOOL, ARGUMENTS)] if tools else [])
    wanted = gzip.decompress(payload) if packed and client.unpacks else payload
    assert [bytes(answer.payload) for answer in through.answers] == [wanted] * client.records

    assert request.attributes["sidecar.outcome"] == "completed"
    facts = told(call_of(sink, request))
    assert facts.pop("gen_ai.conversation.id") == "sums"
    streams = {"gen_ai.request.stream": True} if kind.endswith("stream") else {}
    assert [*facts].count("gen_ai.response.time_to_first_chunk") == len(streams)
    facts.pop("gen_ai.response.time_to_first_chunk", None)
    assert facts == {
        **api.facts,
        **streams,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.response.finish_reasons": [api.tool_finish if tools else api.finish],
    }
    assert not [span for span in sink.spans if KEY in str(span)]
    counted(measured, "completed")
    assert token_usage(measured) == {"input": 5, "output": 7}


@pytest.mark.parametrize("status", [429, 500])
def test_retry(
    client: Client,
    status: int,
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    measure: Measure,
    session_id: str,
    requests: Requests,
) -> None:
    """A rejection, then an answer: two requests; the second is marked and linked where the client says that it is one."""
    refused = client.api.rejection(status)
    script, payload = whole(client.api.plain)
    upstream.answer(refused)
    upstream.answer(script)
    with measure() as measured:
        heard = client.run(Ask("retry", sidecar.url, named(session_id)))
        first, second = requests(2)
    assert (heard.text, heard.error) == (TEXT, "")
    assert [answer.status for answer in heard.answers] == [status, 200] * client.records
    assert [bytes(answer.payload) for answer in heard.answers][1:] == [payload] * client.records
    assert first.attributes["sidecar.outcome"] == "upstream_rejected"
    assert call_of(sink, first).attributes["error.type"] == str(status)
    assert second.attributes["sidecar.outcome"] == "completed"
    links = {link.attributes["sidecar.link"]: link.span_id for link in second.links}
    retried = (
        {"sidecar.request.retry": True, "sidecar.request.retry_count": 1} if client.marks_retries else {}
    )
    assert {key: value for key, value in second.attributes.items() if "retry" in key} == retried
    assert links.get("retry_of") == (first.span_id if client.marks_retries else None)
    counted(measured, "upstream_rejected", "completed")
    retries = [change.value for change in measured.changes if change.metric == "sidecar.retries"]
    assert retries == ([1] if client.marks_retries else [])


def test_early_stop(
    client: Client,
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    measure: Measure,
    session_id: str,
    requests: Requests,
) -> None:
    """A client that breaks out of a stream got its first event, and the upstream's connection ends."""
    gate = Gate()
    script, first = held(client.api.events, gate)
    upstream.answer(script)
    with measure() as measured:
        heard = client.run(Ask("early-stop", sidecar.url, named(session_id)))
        upstream.closed(upstream.request())
        (request,) = requests(1)
    gate.open()
    assert heard.error == ""
    assert [bytes(answer.payload) for answer in heard.answers] == [first] * client.records
    assert request.attributes["sidecar.outcome"] == "client_left"
    assert request.attributes["sidecar.outcome.phase"] == "mid_stream"
    counted(measured, "client_left")


def test_timeout(
    client: Client,
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    measure: Measure,
    session_id: str,
    requests: Requests,
) -> None:
    """A client's own time-out before the answer."""
    gate = Gate()
    upstream.answer(Wait(gate))
    with measure() as measured:
        heard = client.run(Ask("plain", sidecar.url, named(session_id), SOON))
        upstream.closed(upstream.request())
        (request,) = requests(1)
    gate.open()
    assert heard.error == client.timeouts[0]
    assert request.attributes["sidecar.outcome"] == "client_left"
    assert request.attributes["sidecar.outcome.phase"] == "before_headers"
    counted(measured, "client_left")


@pytest.mark.parametrize("client", BY_NAME, indirect=True)
def test_timeout_in_a_stream(
    client: Client,
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    measure: Measure,
    session_id: str,
    requests: Requests,
) -> None:
    """A client's own time-out in the middle of an answer. The client for Node has none there."""
    gate = Gate()
    upstream.answer(held(client.api.events, gate)[0])
    with measure() as measured:
        heard = client.run(Ask("stream", sidecar.url, named(session_id), SOON))
        upstream.closed(upstream.request())
        (request,) = requests(1)
    gate.open()
    assert heard.error == client.timeouts[1]
    assert request.attributes["sidecar.outcome"] == "client_left"
    assert request.attributes["sidecar.outcome.phase"] == "mid_stream"
    counted(measured, "client_left")
