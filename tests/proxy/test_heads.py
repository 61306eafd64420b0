"""Plans against reading field by field: whatever goes by a plan is the same, and all else is left to the long way."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.exchange import Upstream
from sidecar.core.headers import Headers
from sidecar.core.identity import HeadIdentities, HeadIdentity, IdentityRules, from_head, names_who
from sidecar.proxy import wire
from sidecar.proxy.answer_reader import AnswerReader
from sidecar.proxy.heads import AnswerPlans, RequestPlans
from sidecar.proxy.request_reader import Inbound, RequestReader
from sidecar.proxy.wire import Routes
from tests.hostility import answers, requests_bodies, requests_fields, requests_lines
from tests.hostility.rows import Row

UPSTREAM = Upstream("default", "http", "upstream", 80)
RULES = IdentityRules(session_headers=("x-my-session",))
SIZE, FIELDS = 16 * 1024, 64
ROWS = [*requests_lines.ROWS, *requests_fields.ROWS, *requests_bodies.ROWS]

USUAL = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"X-Sidecar-Session-Id: s\r\nTraceParent: 00-1-2-01\r\nContent-Length: 2\r\n\r\n{}"
)


def plans() -> RequestPlans:
    """Fresh ones."""
    return RequestPlans(Routes(UPSTREAM, {}), RULES, SIZE, FIELDS)


def long_way(data: bytes) -> list[Inbound]:
    """The requests in these bytes, as they are read field by field."""
    reader = RequestReader(SIZE, FIELDS)
    reader.feed(data, 1, 0)
    while reader.behind:
        reader.read_on()
    return list(reader.ready)


def told(one: Inbound) -> object:
    """What matters of a request."""
    assert one.head is not None
    head = (one.head.method, one.head.target, one.head.version, one.head.headers.fields)
    body = (b"".join(one.pieces), one.size, list(one.trailers), one.chunked, one.length)
    return head, body, (one.ended, one.broken, one.keep_alive, one.expects_continue, one.refusal)


def holds(known: RequestPlans, data: bytes) -> bool:
    """Whether the bytes go by a plan; what comes of it must be the long way's one request."""
    planned = known.take(data, 1, 0, None)
    if planned is not None:
        assert [told(one) for one in long_way(data)] == [told(planned)]
        assert planned.head is not None
        assert planned.target is not None
        ours = wire.request_head(planned.head, planned.target, (), planned.passing)
        assert ours == wire.request_head(planned.head, planned.target, (), ())
    return planned is not None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_attacks(row: Row) -> None:
    """What is refused, or is more or less than one request, never goes by a plan, not even the second time."""
    known = plans()
    for _ in range(2):
        if holds(known, row.data) and not row.waits:
            assert len(row.passed) == 1
        holds(known, row.data + row.data)
        holds(known, row.data[:-1])


@given(st.integers(0, len(USUAL)), st.binary(max_size=3), st.integers(0, 3))
def test_a_head_that_has_been_touched(at: int, put: bytes, cut: int) -> None:
    """Anything may stand anywhere in a head that has a plan already: the plan is verified on every message."""
    known = plans()
    assert holds(known, USUAL)
    holds(known, USUAL[:at] + put + USUAL[at + cut :])
    assert holds(known, USUAL)


@pytest.mark.parametrize("row", answers.ROWS, ids=lambda row: row.name)
def test_answers_go_on_alike(row: answers.AnswerRow) -> None:
    """By a plan that is known already, too, an answer's head is what the long way makes of it, and so is what goes on."""
    known = AnswerPlans(SIZE, FIELDS)
    for _ in range(2):
        planned = known.take(row.data)
        if planned is None:
            continue
        head, begin, length = planned
        reader = AnswerReader(AnswerPlans(SIZE, FIELDS))
        for at in range(begin):
            reader.feed(row.data[at : at + 1])
        assert reader.head is not None
        assert not reader.head.lines
        assert reader.head.headers.fields == head.headers.fields
        assert (length is None) == (b"transfer-encoding" in head.headers)
        ways = [
            wire.answer_head(one, request_id="r", chunked=length is None, close=False)
            for one in (head, reader.head)
        ]
        assert ways[0] == ways[1]


PARTS = st.text(st.sampled_from("Ab: \t\r\n\x00é"), max_size=8).map(lambda text: text.encode("latin-1"))


@given(st.lists(st.lists(st.tuples(PARTS, PARTS), min_size=1, max_size=3), min_size=2, max_size=4))
def test_heads_that_look_alike(heads: list[list[tuple[bytes, bytes]]]) -> None:
    """A value may be written like fields, and a field like a value: neither is taken for the other."""
    known = plans()
    for fields in heads * 2:
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        holds(known, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines)


def test_more_shapes_than_are_remembered() -> None:
    """Once some have been learnt, what is new goes the long way, for a while; what comes often stays."""
    known = plans()
    heads = [b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: 1\r\n\r\n" % at for at in range(40)]
    assert [holds(known, head) for head in heads] == [True] * 32 + [False] * 8
    taken = [known.take(heads[39], 1, 0, None) is not None for _ in range(1000)]
    assert taken.index(True) == 1000 - 40 - 1
    assert [holds(known, head) for head in (*heads[:8], heads[39])] == [True] * 7 + [False, True]


def test_what_invents_heads_has_nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """To learn a shape takes milliseconds: a head that could not go by one costs none of them, however often it comes."""
    made: list[object] = []
    monkeypatch.setattr("sidecar.proxy.heads.Shape.__init__", lambda *given: made.append(given))
    known = plans()
    for at in range(100):
        assert not holds(known, b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: 1\r\nY:1\r\n\r\n" % at)
        assert not holds(known, b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: 1 \r\n\r\n" % at)
    assert not made


def test_what_goes_by_a_plan() -> None:
    """The usual request does, by its lines as they came, less what stays here; its Host is the upstream's."""
    known = plans()
    one = known.take(USUAL, 7, 3, ("::1", 5))
    assert one is not None
    assert one.passing == (
        b"POST /v1/chat/completions HTTP/1.1",
        b"Host: upstream",
        b"Content-Type: application/json",
        b"Content-Length: 2",
    )
    assert one.head is not None
    assert (one.start, one.waited, one.head.client_address, one.head.client_port) == (7, 3, "::1", 5)
    assert holds(known, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
    assert holds(known, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        USUAL + USUAL,
        USUAL + b"G",
        b"\r\n" + USUAL,
        USUAL.replace(b"HTTP/1.1", b"HTTP/1.0"),
        USUAL.replace(b"Length: 2", b"Length: 02"),
        USUAL.replace(b"Host: a", b"Host: a b"),
        USUAL.replace(b"Content-Type: ", b"Content-Type:"),
        USUAL.replace(b"Content-Type: ", b"Content-Type:  "),
        USUAL.replace(b"Id: s", b"Id: s\t"),
        USUAL.replace(b"Host: a", b"Host: a\r\nhost: a"),
        USUAL.replace(b"Host: a", b"Host: a\r\nConnection: close"),
        USUAL.replace(b"Host: a", b"Host: a\r\nExpect: 100-continue"),
        USUAL.replace(b"Host: a", b"Host: a\r\nUpgrade: websocket\r\nConnection: upgrade"),
        USUAL.replace(b"Host: a", b"Host: a\r\nTransfer-Encoding: chunked"),
        USUAL.replace(
            b"Host: a", b"Host: a\r\n" + b"".join(b"a%d: 1\r\n" % at for at in range(FIELDS)) + b"b: 1"
        ),
        USUAL.replace(b"Host: a", b"Host: a\r\nb: " + b"x" * SIZE),
        USUAL.replace(b"/v1/chat/completions", b"http://a/v1/chat/completions"),
    ],
)
def test_what_does_not(data: bytes) -> None:
    """Whatever is not one whole usual request is read from its first byte by the long way."""
    known = plans()
    assert not holds(known, data)
    assert holds(known, USUAL)


@given(st.lists(st.integers(0, len(USUAL) + 60), max_size=4))
def test_a_body_in_pieces(cuts: list[int]) -> None:
    """A head that came whole goes by a plan; its body follows in any pieces, and so do other requests."""
    data = USUAL + USUAL.replace(b"Length: 2\r\n\r\n{}", b"Length: 10\r\n\r\n" + b"x" * 10) + USUAL
    places = sorted({0, *cuts, len(data)})
    known, reader, found = plans(), RequestReader(SIZE, FIELDS), list[Inbound]()
    for start, end in pairwise(places):
        piece = data[start:end]
        planned = known.take(piece, 1, 0, None) if reader.fresh else None
        if planned is not None:
            reader.ready.append(planned)
            if not planned.ended:
                reader.follow(planned)
        else:
            reader.feed(piece, 1, 0)
        while reader.behind:
            reader.read_on()
        found.extend(reader.ready)
        reader.ready.clear()
    assert [told(one) for one in found] == [told(one) for one in long_way(data)]


NAMES = [
    "X-Sidecar-Session-Id",
    "x-my-session",
    "Session-Id",
    "X-Acme-Session-Id",
    "baggage",
    "X-Codex-Turn-Metadata",
]


@given(
    st.dictionaries(
        st.sampled_from(NAMES), st.sampled_from(["a", "session.id=12345678", '{"session_id":"z"}'])
    )
)
def test_who_is_talking(fields: dict[str, str]) -> None:
    """Whoever has been recognised once is recognised by the same fields again, and by no others."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
    known, identities = plans(), HeadIdentities(RULES)
    found: list[HeadIdentity] = []
    for _ in range(2):
        one = known.take(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines, 1, 0, None)
        assert one is not None
        assert one.head is not None
        found.append(identities.of(one.head.headers)[0])
    assert found[0] is found[1]
    plain = long_way(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines)[0].head
    assert plain is not None
    assert found[0] == from_head(plain.headers, RULES)


class Watched(dict[bytes, bytes]):
    """Fields that note by which names they are asked for."""

    def __init__(self, fields: dict[bytes, bytes], asked: set[bytes]) -> None:
        super().__init__(fields)
        self._asked = asked

    def get(self, name: bytes, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        """The value, of a name that is noted."""
        self._asked.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, bytes)
        self._asked.add(name)
        return super().__contains__(name)


def test_no_other_field_says_who() -> None:
    """All that is looked at to tell who is talking is part of what heads are known by."""
    asked: set[bytes] = set()
    for fields in (
        {b"x-acme-session-id": b"12345678"},
        {b"x-claude-code-session-id": b"a", b"x-claude-code-agent-id": b"b"},
        {b"session-id": b"a", b"x-parent-session-id": b"b"},
        {b"baggage": b"a=b"},
    ):
        from_head(Headers(None, Watched(fields, asked), tuple(fields)), RULES)
    assert {name for name in asked if not names_who(name, RULES)} == set()
    assert len(asked) > 20
