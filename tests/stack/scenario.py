"""Scripted traffic with known trouble: overlaps, inversions, stalls, refusals, failures, departures, time-outs.

Owns what the clients and the provider do; how often each thing happens is `KNOWN` in `scenario_known.py`. What comes
before what is decided by conditions and gates, never by how fast the machine is; only the timers that are meant to
fire take their time. It reads no telemetry. A panel that shows trouble is held against it.

    with Scenario(environ) as scenario:
        scenario.play(rounds=3)
        for fact in KNOWN:
            assert ask(fact.promql(service)) == fact.per_round * scenario.rounds
"""

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from types import TracebackType
from typing import Any, Self

from sidecar.testing import (
    Chunk,
    End,
    Gate,
    LastChunk,
    Pause,
    RawClient,
    Received,
    RunningSidecar,
    Script,
    ScriptedUpstream,
    Wait,
    chat_chunk,
    chat_completion,
    chat_request,
    json_answer,
    request_bytes,
    sse,
    sse_event,
    sse_head,
)
from tests.stack.scenario_known import INPUT, OUTPUT

SETTINGS = {
    "STALL_AFTER": "1s",
    "IDLE_TIMEOUT": "4s",
    "CLIENT_BODY_TIMEOUT": "4s",
    "FIRST_BYTE_TIMEOUT": "8s",
    "SESSION_IDLE": "5s",
}
"""Timers short enough to fire in a round, and far enough apart that a slow machine confuses none with another: the
crowd is held until the first two have fired, and must not wait for the third."""

PATIENCE = 20.0
"""Seconds that a step may take before the scenario fails."""

CHAT = "/v1/chat/completions"
MODEL = "scenario-model"
PIECE = Chunk(sse_event(chat_chunk("Hel", model=MODEL)))
"""A stream's first output."""

_CASE = "X-Scenario-Case"


def streamed(reason: str = "stop") -> Script:
    """A whole streamed answer: two pieces, the reason, the tokens, the end."""
    usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
    return sse(
        [
            chat_chunk("Hel", model=MODEL),
            chat_chunk("lo", model=MODEL),
            chat_chunk(finish_reason=reason, model=MODEL),
            chat_chunk(model=MODEL, usage=usage),
        ]
    )


def whole(reason: str = "stop") -> Script:
    """A whole answer in one piece."""
    return json_answer(chat_completion(model=MODEL, finish_reason=reason, usage=(INPUT, OUTPUT)))


def rejected(status: int) -> Script:
    """The provider says no."""
    return json_answer({"error": {"message": "no", "code": "no"}}, status=status, reason=b"No")


class Scenario:
    """A production sidecar between scripted clients and a scripted provider. Use it as a context manager.

    `environ` says where it exports to, as `Stack.environ` or `OtlpSink.environ` gives it.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.upstream = ScriptedUpstream()
        self._environ = dict(environ)
        self._open = ExitStack()
        self.rounds = 0
        """How many rounds have been played."""

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.enter_context(self.upstream)
            # Bound and not listening: nobody else gets this port, and who connects is refused.
            dead = opening.enter_context(socket.socket())
            dead.bind(("127.0.0.1", 0))
            settings = {**SETTINGS, "UPSTREAMS": f"dead=http://127.0.0.1:{dead.getsockname()[1]}"}
            running = RunningSidecar(upstream=self.upstream.url, settings=settings, environ=self._environ)
            self.sidecar = opening.enter_context(running)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def play(self, rounds: int = 1) -> None:
        """Plays so many rounds, one after another; each has settled when the next begins."""
        for _ in range(rounds):
            self.rounds += 1
            with Round(self.sidecar, self.upstream, self.rounds) as playing:
                playing.play()
            self.sidecar.wait_until(
                lambda: self.sidecar.stats()["requests"]["in_flight"] == 0, timeout=PATIENCE
            )
            self.upstream.clear()

    def wait_sessions_ended(self) -> None:
        """Returns once every session has ended: their spans are made, their figures recorded."""
        self.sidecar.wait_until(lambda: self.sidecar.stats()["sessions"]["active"] == 0, timeout=PATIENCE)


class Round:
    """Every story once, in sessions `<story>-<number>`. Use it as a context manager: it closes its connections."""

    def __init__(self, sidecar: RunningSidecar, upstream: ScriptedUpstream, number: int) -> None:
        self._sidecar = sidecar
        self._upstream = upstream
        self._number = number
        self._cases = count(1)
        self._scripts: dict[bytes, Script] = {}
        self._connections = ExitStack()
        self._gates: list[Gate] = []

    def __enter__(self) -> Self:
        self._upstream.answer_with(self._script)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for gate in self._gates:
            gate.open()
        self._connections.close()

    def play(self) -> None:
        """All stories. Those that wait for a timer begin first; the others happen meanwhile."""
        deadlines = self.deadlines_begin()
        crowd = self.crowd_gathers()
        for story in (
            self.polite,
            self.reasons,
            self.no_turns,
            self.impatient,
            self.turned_away,
            self.broken,
            self.nameless,
            self.refused,
            self.odd,
        ):
            story()
        body, silent, mute = deadlines
        assert body.read_answer("POST").status == 408
        _to_the_end(silent)
        self.crowd_leaves(crowd)
        slow = self.slow_reader_begins()
        self.stalls()
        self.slow_reader_ends(slow)
        assert mute.read_answer("POST").status == 504

    # --- stories

    def polite(self) -> None:
        """Three turns, each after the one before: nothing overlaps."""
        for _ in range(3):
            self.ask("polite", streamed(), stream=True)

    def crowd_gathers(self) -> list[tuple[RawClient, Gate]]:
        """Three turns of one conversation at once: the queue would be holding two of them."""
        crowd = []
        for _ in range(3):
            gate = self._gate()
            client, case = self.send("crowd", (Wait(gate), *whole()))
            self._reached(case)
            crowd.append((client, gate))
        return crowd

    def crowd_leaves(self, crowd: Sequence[tuple[RawClient, Gate]]) -> None:
        """They end in the order 3, 1, 2, so that two are out of order; then a fourth sums them up."""
        for index, left in ((2, 2), (0, 1), (1, 0)):
            client, gate = crowd[index]
            gate.open()
            assert client.read_answer("POST").status == 200
            self._settled("crowd", left)
        self.ask("crowd", whole())

    def reasons(self) -> None:
        """Generation stops for other reasons than the usual one."""
        for reason in ("length", "tool_calls", "content_filter"):
            self.ask("reasons", whole(reason))

    def no_turns(self) -> None:
        """Requests that generate nothing: a list of models, and embeddings."""
        listed = json_answer({"object": "list", "data": []})
        self.ask("no-turns", listed, method="GET", path="/v1/models")
        vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
        embedded = {
            "object": "list",
            "model": MODEL,
            "data": [vector],
            "usage": {"prompt_tokens": INPUT, "total_tokens": INPUT},
        }
        self.ask("no-turns", json_answer(embedded), path="/v1/embeddings", input="x")

    def stalls(self) -> None:
        """A stream that is silent for longer than `STALL_AFTER`, and goes on."""
        script = list(streamed())
        script.insert(len(sse_head()) + 1, Pause(1.6))
        self.ask("stalls", script, stream=True)

    def impatient(self) -> None:
        """The client goes away: while the provider still thinks, and in the middle of an answer."""
        gate = self._gate()
        client, case = self.send("impatient", (Wait(gate), *whole()))
        self._reached(case)
        client.reset()
        self._settled("impatient")
        client, _ = self.send(
            "impatient", (*sse_head(), Chunk(b"data: {}\n\n"), Wait(gate), LastChunk()), stream=True
        )
        client.read_until(b"data: {}\n\n")
        client.reset()
        self._settled("impatient")

    def turned_away(self) -> None:
        """429, the same again as a retry, which comes through; then a 500."""
        self.ask("turned-away", rejected(429), status=429)
        self.ask("turned-away", whole(), headers=(b"x-stainless-retry-count: 1",))
        self.ask("turned-away", rejected(500), status=500)

    def broken(self) -> None:
        """A stream cut short, a stream with an error inside, and a provider where nobody listens."""
        client, _ = self.send("broken", (*sse_head(), PIECE, End()), stream=True)
        _to_the_end(client)
        self._settled("broken")
        failing = Chunk(b'data: {"error": {"message": "no", "code": "server_error"}}\n\n')
        client, _ = self.send("broken", (*sse_head(), PIECE, failing, LastChunk()), stream=True)
        client.read_answer("POST")
        self._settled("broken")
        self.ask("broken", (), path=f"/dead{CHAT}", status=502)

    def nameless(self) -> None:
        """Two turns that name no session."""
        for _ in range(2):
            self.ask(None, whole())

    def refused(self) -> None:
        """What the sidecar itself says no to: bytes that are no HTTP, and a WebSocket."""
        upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
        key = (*upgrade, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        for data, status in (
            (b"NO HTTP\r\n\r\n", 400),
            (request_bytes("GET", "/v1/responses", headers=key), 426),
        ):
            client = self._connect()
            client.send(data)
            assert client.read_answer("GET").status == status

    def odd(self) -> None:
        """An id that is too long, and a body that is not the JSON it says it is."""
        self.ask("odd" * 100, whole())
        client, case = self._connect(), self._case(whole())
        lines = (*self._lines("odd", case), b"Content-Type: application/json")
        client.send(request_bytes("POST", CHAT, headers=lines, body=b"{not json"))
        assert client.read_answer("POST").status == 200
        self._settled("odd")

    def deadlines_begin(self) -> tuple[RawClient, RawClient, RawClient]:
        """An upload that breaks off, a stream that falls silent for good, a provider that says nothing."""
        gate = self._gate()
        body = self._connect()
        lines = (*self._lines("deadline-body", self._case(())), b"Content-Type: application/json")
        body.send(request_bytes("POST", CHAT, headers=(*lines, b"Content-Length: 100")) + b"{")
        silent, _ = self.send("deadline-idle", (*sse_head(), PIECE, Wait(gate), LastChunk()), stream=True)
        silent.read_until(b"\r\n\r\n")
        mute, case = self.send("deadline-first-byte", (Wait(gate), *whole()))
        self._reached(case)
        return body, silent, mute

    def slow_reader_begins(self) -> RawClient:
        """A client that takes nothing of a long stream, so that the stream is held back, as it is on return."""
        long = chat_chunk("x" * 131_072, model=MODEL)
        client = self._connect(receive_buffer=65536)
        case = self._case(sse([long] * 64 + [chat_chunk(finish_reason="stop", model=MODEL)]))
        client.send(chat_request(stream=True, model=MODEL, headers=self._lines("slow-reader", case)))
        client.read_until(b"\r\n\r\n")
        self._sidecar.wait_until(lambda: client.unread() > 32_768, timeout=PATIENCE)
        return client

    def slow_reader_ends(self, client: RawClient) -> None:
        """It takes all of it in the end."""
        client.read_until(b"[DONE]")
        self._settled("slow-reader")

    # --- what stories are made of

    def ask(
        self, story: str | None, script: Script, *, status: int = 200, method: str = "POST", **more: Any
    ) -> None:
        """One request and its whole answer; the sidecar has settled it when this returns."""
        client, _ = self.send(story, script, method=method, **more)
        assert client.read_answer(method).status == status
        if story is not None:
            self._settled(story)

    def send(
        self,
        story: str | None,
        script: Script,
        *,
        method: str = "POST",
        path: str = CHAT,
        headers: tuple[bytes, ...] = (),
        **body: Any,
    ) -> tuple[RawClient, bytes]:
        """One request on a connection of its own; gives the connection, and the case's name."""
        client, case = self._connect(), self._case(script)
        lines = (*self._lines(story, case), *headers)
        if method == "GET":
            client.send(request_bytes(method, path, headers=lines))
        else:
            client.send(chat_request(path=path, headers=lines, model=MODEL, **body))
        return client, case

    def _connect(self, *, receive_buffer: int | None = None) -> RawClient:
        client = RawClient(self._sidecar.port, timeout=PATIENCE, receive_buffer=receive_buffer)
        return self._connections.enter_context(client)

    def _gate(self) -> Gate:
        """A gate that is open at the latest when the round ends."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def _case(self, script: Script) -> bytes:
        case = b"%d-%d" % (self._number, next(self._cases))
        self._scripts[case] = script
        return case

    def _script(self, request: Received) -> Script:
        return self._scripts[request.get(_CASE) or b""]

    def _lines(self, story: str | None, case: bytes) -> tuple[bytes, ...]:
        lines = (f"{_CASE}: ".encode() + case,)
        return lines if story is None else (*lines, f"X-Sidecar-Session-Id: {self._session(story)}".encode())

    def _session(self, story: str) -> str:
        return f"{story}-{self._number}"

    def _reached(self, case: bytes) -> None:
        """Waits until the provider has the whole request, which is after its arrival in the conversation."""
        self._upstream.wait_for(
            lambda: any(one.complete and one.get(_CASE) == case for one in self._upstream.requests), PATIENCE
        )

    def _settled(self, story: str, left: int = 0) -> None:
        """Waits until so many requests of the story's session are in flight."""

        def in_flight() -> bool:
            status, session = self._sidecar.admin("GET", f"/sessions/{self._session(story)}")
            return status != 200 or session["in_flight"] == left

        self._sidecar.wait_until(in_flight, timeout=PATIENCE)


def _to_the_end(client: RawClient) -> None:
    """Reads whatever comes until the connection is closed, one way or another."""
    try:
        client.read_to_end()
    except ConnectionResetError:
        return
