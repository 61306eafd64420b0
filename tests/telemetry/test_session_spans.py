"""The spans of ended conversations and sessions, compared whole."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind

from sidecar.core.facts import Outcome
from sidecar.core.sessions import ConversationSummary, SessionSummary, Totals
from sidecar.telemetry import names as n
from sidecar.telemetry.queues import LINE, SIZE
from tests.telemetry.world import ListPipeline, MakeWorld, World, ms, ref

TOTALS = Totals(
    requests={Outcome.COMPLETED: 3, Outcome.CLIENT_LEFT: 1, Outcome.REFUSED: 0},
    turns=4,
    input_tokens=100,
    output_tokens=None,
    overlaps=2,
    most_at_once=3,
    out_of_order=1,
    waits_known=3,
    wait_avoided=2_500_000_000,
    waits_unknown=1,
    model_time=9_000_000_000,
    think_time=500_000_000,
    models=("gpt-4o", "o3"),
)
SUMS = {
    "sidecar.total.requests": 4,
    "sidecar.total.requests.completed": 3,
    "sidecar.total.requests.client_left": 1,
    "sidecar.total.turns": 4,
    "sidecar.total.overlaps": 2,
    "sidecar.total.most_at_once": 3,
    "sidecar.total.out_of_order": 1,
    "sidecar.total.waits_known": 3,
    "sidecar.total.wait_avoided": 2.5,
    "sidecar.total.waits_unknown": 1,
    "sidecar.total.model_time": 9.0,
    "sidecar.total.think_time": 0.5,
    "sidecar.total.tokens.input": 100,
    "sidecar.models": ("gpt-4o", "o3"),
}
CONVERSATION = ConversationSummary(
    session_id="s1",
    conversation_id="main",
    source="own_header",
    supplied=False,
    started_at=ms(1),
    ended_at=ms(900),
    totals=TOTALS,
    links=(("first", ref(1)), ("last", ref(4)), ("failed", ref(2))),
    links_dropped=5,
)
SESSION = SessionSummary("s1", "own_header", ms(1), ms(950), 1, TOTALS)


def test_a_made_up_session_is_no_conversation_id(world: World) -> None:
    """One that a response chain continued: nobody supplied an id, so none is told as if somebody had."""
    world.recorder.listener.conversation_ended(replace(CONVERSATION, session_supplied=False))
    (span,) = world.pipeline.spans
    assert "gen_ai.conversation.id" not in (span.attributes or {})


def test_a_conversation_and_its_session_whole(world: World) -> None:
    """Two traces of their own; the session links to the conversation, the conversation to its requests."""
    listener = world.recorder.listener
    listener.conversation_ended(CONVERSATION)
    listener.session_ended(SESSION)
    conversation, session = world.pipeline.spans
    assert (conversation.name, conversation.kind, conversation.parent) == (
        "conversation",
        SpanKind.INTERNAL,
        None,
    )
    assert (conversation.start_time, conversation.end_time) == (ms(1), ms(900))
    assert dict(conversation.attributes or {}) == {
        "session.id": "s1",
        "sidecar.session.source": "own_header",
        "sidecar.conversation.id": "main",
        "gen_ai.conversation.id": "s1",
        "sidecar.links.dropped": 5,
        **SUMS,
    }
    assert [
        (
            link.context.trace_id,
            link.context.span_id,
            int(link.context.trace_flags),
            dict(link.attributes or {}),
        )
        for link in conversation.links
    ] == [
        (0x1001, 0x2001, 3, {"sidecar.link": "first"}),
        (0x1004, 0x2004, 3, {"sidecar.link": "last"}),
        (0x1002, 0x2002, 3, {"sidecar.link": "failed"}),
    ]
    assert (session.name, session.start_time, session.end_time) == ("session", ms(1), ms(950))
    assert dict(session.attributes or {}) == {
        "session.id": "s1",
        "sidecar.session.source": "own_header",
        "sidecar.total.conversations": 1,
        **SUMS,
    }
    own, other = session.get_span_context(), conversation.get_span_context()
    assert own is not None
    assert other is not None
    assert own.trace_id != other.trace_id
    assert [(link.context, dict(link.attributes or {})) for link in session.links] == [
        (other, {"sidecar.link": "conversation"})
    ]


def test_a_supplied_conversation_is_the_gen_ai_one(world: World) -> None:
    """What the caller named."""
    world.recorder.listener.conversation_ended(replace(CONVERSATION, conversation_id="c9", supplied=True))
    assert (world.pipeline.spans[0].attributes or {})["gen_ai.conversation.id"] == "c9"


def test_links_are_capped(world: World) -> None:
    """32 of a conversation's, 32 of a session's, the rest counted; a session that returns begins anew."""
    listener = world.recorder.listener
    many = tuple(("overlapping", ref(n)) for n in range(40))
    for _ in range(35):
        listener.conversation_ended(replace(CONVERSATION, links=many, links_dropped=0))
    listener.session_ended(SESSION)
    listener.session_ended(SESSION)
    conversation, first, second = world.pipeline.spans[0], *world.pipeline.spans[-2:]
    assert (len(conversation.links), (conversation.attributes or {})["sidecar.links.dropped"]) == (32, 8)
    assert (len(first.links), (first.attributes or {})["sidecar.links.dropped"]) == (32, 3)
    assert len(second.links) == 0


@pytest.mark.parametrize(
    "sampler, taken",
    [(ALWAYS_OFF, 0), (ParentBased(ALWAYS_OFF), 2), (TraceIdRatioBased(0), 2)],
    ids=["off", "parent off", "ratio 0"],
)
def test_always_taken_unless_always_off(make_world: MakeWorld, sampler: object, taken: int) -> None:
    """Whatever became of the requests; what was not taken is counted."""
    world = make_world(sampler=sampler)
    world.recorder.listener.conversation_ended(CONVERSATION)
    world.recorder.listener.session_ended(SESSION)
    assert len(world.pipeline.spans) == taken
    assert world.pipeline.unsampled == 2 - taken


def test_a_session_that_comes_back_while_its_replay_waits(make_world: MakeWorld) -> None:
    """Two replays under one id, each with its own request."""
    world = make_world(replay_limit=100, pipeline=ListPipeline(roomy=False))
    for sequence in (1, 2):
        exchange = world.begin()
        world.arrive(exchange, sequence=sequence)
        exchange.decide(Outcome.COMPLETED, ms(100))
        world.settle(exchange, 100)
        world.recorder.listener.session_ended(SESSION)
    world.pipeline.spans.clear()
    world.pipeline.roomy = True
    assert world.recorder.make_replays()
    told = [(span.name, (span.attributes or {}).get(n.SEQUENCE)) for span in world.pipeline.spans]
    one = [("replay session", None), ("replay conversation", None)]
    name = "replay POST /v1/chat/completions"
    assert told == [*one, (name, 1), *one, (name, 2)]


@pytest.fixture
def behind(make_world: MakeWorld) -> Iterator[tuple[World, threading.Event]]:
    """A recorder whose worker stands still until it is told to go on. A session has come and ended, and come again."""
    world = make_world(replay_limit=100, pipeline=ListPipeline(roomy=False))
    worker, go, began = world.recorder._worker, threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert go.wait(60)

    world.recorder.start()
    worker.put(LINE, wait)
    assert began.wait(60)
    for sequence, size in ((1, 0), (2, SIZE)):
        exchange = world.begin()
        world.arrive(exchange, sequence=sequence)
        exchange.decide(Outcome.COMPLETED, ms(100))
        world.settle(exchange, 100)
        worker._size = size
        world.recorder.listener.session_ended(SESSION)
        worker._size = SIZE
    yield world, go
    go.set()


def _ended(world: World, go: threading.Event) -> None:
    ended = threading.Event()
    world.recorder._worker.finish(ended.set)
    go.set()
    assert ended.wait(60)


def test_a_session_that_comes_back_while_the_worker_is_behind(behind: tuple[World, threading.Event]) -> None:
    """It had no room for another call when the session ended: each replay has its own request all the same."""
    world, go = behind
    _ended(world, go)
    world.pipeline.spans.clear()
    world.pipeline.roomy = True
    assert world.recorder.make_replays()
    told = [(span.attributes or {}).get(n.SEQUENCE) for span in world.pipeline.spans]
    assert told == [None, None, 1, None, None, 2]


def test_replays_that_are_given_up_while_the_worker_is_behind(behind: tuple[World, threading.Event]) -> None:
    """They are made behind what waits, and so counted as what they are: a session, a conversation, a request each."""
    world, go = behind
    world.recorder._worker.finish(int)
    world.recorder.make_replays(most=0)
    _ended(world, go)
    assert world.pipeline.ledger.snapshot()["traces"]["dropped"] == 6
