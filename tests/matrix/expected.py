"""What the sidecar must export of one cell of the matrix: whole spans, and every metric point it adds.

Owns the expectations, derived from the cell's table alone by the rules that docs/telemetry.md tells. Values that
differ from run to run are named as such and checked for being there.
"""

from collections.abc import Iterable
from typing import Any

from sidecar.telemetry.series import BAD
from sidecar.testing import ScriptedUpstream, Span, expect_span
from tests.matrix.cells import Cell

SERVER_VOLATILE = ("sidecar.request.id", "client.port")
JOINED_VOLATILE = ("sidecar.request.body.read_time",)
ASKED_VOLATILE = ("sidecar.overhead.before", "sidecar.overhead.after", "sidecar.overhead.loop")

CARRIES_HISTORY = (
    *("/completions", "/completion", "/responses", "/messages"),
    *(":generateContent", ":streamGenerateContent", ":rawPredict", ":streamRawPredict"),
)
"""How routes end whose requests carry their past."""

TIMED_OUT_STATUS = {"CLIENT_BODY": 408, "CONNECT": 504, "FIRST_BYTE": 504}
"""What the client is told by a time-out before the answer."""
DETAILS = {
    "cache_read": "gen_ai.usage.cache_read.input_tokens",
    "cache_write": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
}
"""`sidecar.token.detail`, and what the span has of it."""
Series = tuple[str, tuple[tuple[str, object], ...]]


class Expected:
    """The expectations of one cell that was played in `session`, through the upstream called `name`."""

    def __init__(self, cell: Cell, session: str, name: str) -> None:
        self.cell = cell
        self.session = session
        self.name = name
        ending = cell.ending
        self.joined = not ending.upload
        self.asked = not ending.upload
        self.told = cell.told()

    # What it comes down to

    @property
    def status(self) -> int | None:
        """The status that the client was told."""
        ending = self.cell.ending
        return ending.status if ending.begins else TIMED_OUT_STATUS.get(ending.timer)

    @property
    def error(self) -> str | None:
        """`error.type` of what has one."""
        ending = self.cell.ending
        match ending.outcome:
            case "upstream_failed":
                return ending.error or "cut_short"
            case "error_in_stream":
                return self.cell.api.word
            case "upstream_rejected":
                return str(ending.status)
            case "timed_out":
                return f"timeout.{ending.timer.lower()}"
            case _:
                return None

    @property
    def result(self) -> str:
        """`sidecar.result`."""
        ending = self.cell.ending
        if ending.outcome != "upstream_rejected":
            return ending.outcome
        return {429: "rate_limited"}.get(
            ending.status, f"{'server' if ending.status >= 500 else 'client'}_error"
        )

    @property
    def server_failed(self) -> bool:
        """The SERVER span is an error."""
        rejected = self.cell.ending.outcome == "upstream_rejected"
        return self.error is not None and not (rejected and self.cell.ending.status < 500)

    @property
    def model(self) -> str | None:
        """The model asked for, if the body was read or the path names it."""
        in_path = "{model}" in self.cell.route
        return self.cell.api.model if self.joined or in_path else None

    @property
    def streaming(self) -> bool:
        """Known to stream, or to have been asked to."""
        by_path = self.cell.streamed and self.cell.api.operation == "generate_content"
        return by_path or (self.cell.streamed and self.joined)

    @property
    def relation(self) -> str:
        """A turn's relation to its past, of which the cells have none; some APIs carry none."""
        return "first" if self.cell.route.endswith(CARRIES_HISTORY) else "unread"

    @property
    def cached(self) -> float | None:
        """The share of the input that came from the provider's cache, where both are told."""
        given, cached = self.told.get("gen_ai.usage.input_tokens"), self.told.get(DETAILS["cache_read"])
        return None if not given or cached is None else cached / given

    # Spans

    def _who(self) -> dict[str, Any]:
        who = {
            "session.id": self.session,
            "sidecar.session.source": "own_header",
            "sidecar.conversation.id": "main",
            "gen_ai.conversation.id": self.session,
        }
        return who | ({"sidecar.request.sequence": 1} if self.joined else {})

    def server(self) -> dict[str, Any]:
        """Attributes of the SERVER span, but the volatile ones."""
        cell, ending = self.cell, self.cell.ending
        path, _, query = cell.path.partition("?")
        prefix = "" if self.name == "default" else f"/{self.name}"
        attributes = {
            **self._who(),
            "http.request.method": "POST",
            "url.scheme": "http",
            "url.path": prefix + path,
            "http.route": cell.route,
            "network.protocol.version": "1.1",
            "client.address": "127.0.0.1",
            "server.address": "sidecar.test",
            "http.request.body.size": len(cell.body) if self.sent else 0,
            "http.response.body.size": sum(map(len, cell.pieces())) if ending.begins else 0,
            "sidecar.outcome": ending.outcome,
            "sidecar.outcome.phase": ending.phase,
            "sidecar.streaming": self.streaming,
            "sidecar.request.body.state": "held" if ending.upload else "read",
            "sidecar.upstream": self.name,
            "http.response.status_code": self.status,
            "url.query": query or None,
            "error.type": self.error if self.server_failed else None,
            "sidecar.anomalies": [cell.anomaly] if cell.anomaly else None,
        }
        if cell.api.turn and self.joined:
            attributes |= {
                "sidecar.request.overlaps": 0,
                "sidecar.request.overlapped_by": 0,
                "sidecar.request.out_of_order.distance": 0,
                "sidecar.request.wait_avoided": 0.0,
                "sidecar.turn.relation": self.relation,
                "sidecar.prompt.cached": self.cached,
            }
        return {name: value for name, value in attributes.items() if value is not None}

    @property
    def sent(self) -> bool:
        """The request went to the provider."""
        return not (self.cell.ending.upload or self.cell.ending.timer == "CONNECT")

    def client(self, upstream: tuple[str, int], *, new: bool) -> dict[str, Any]:
        """Attributes of the CLIENT span; `new`: over a connection that was made for it."""
        cell, ending = self.cell, self.cell.ending
        failed = ending.outcome in ("error_in_stream", "upstream_rejected")
        attributes = {
            **self._who(),
            "http.request.method": "POST",
            "http.response.status_code": ending.status if ending.begins else None,
            "server.address": upstream[0],
            "server.port": upstream[1],
            "sidecar.upstream": self.name,
            "sidecar.connection": ("new" if new else "reused") if self.sent else None,
            "network.peer.address": upstream[0] if new and self.sent else None,
            "gen_ai.operation.name": cell.api.operation,
            "gen_ai.provider.name": cell.api.provider,
            "gen_ai.request.model": cell.api.model,
            "gen_ai.request.stream": True if cell.streamed else None,
            "openai.api.type": self._openai_api,
            "error.type": self.error,
            "sidecar.upstream.error": cell.api.word if failed else None,
            **cell.api.asked,
            **self.told,
        }
        foreign = () if cell.api.provider == "openai" else ("openai.",)
        return {
            name: value
            for name, value in attributes.items()
            if value is not None and not name.startswith(foreign)
        }

    @property
    def _openai_api(self) -> str | None:
        """Which of OpenAI's APIs it is, if it is one with a name of its own."""
        if self.cell.api.provider != "openai":
            return None
        ends = {"chat/completions": "chat_completions", "responses": "responses"}
        return next((name for end, name in ends.items() if self.cell.route.endswith(f"/{end}")), None)

    def check_spans(self, spans: list[Span], upstream: ScriptedUpstream, port: int) -> None:
        """All spans of the cell's trace, each whole."""
        cell, ending = self.cell, self.cell.ending
        by_name = {span.name: span for span in spans}
        assert len(by_name) == len(spans)
        server = by_name.pop(f"POST {cell.route}")
        volatile = SERVER_VOLATILE + (JOINED_VOLATILE if self.joined else ())
        expect_span(
            server,
            name=f"POST {cell.route}",
            kind="SERVER",
            attributes=self.server(),
            ignoring=volatile + (ASKED_VOLATILE if self.asked else ()),
            status="ERROR" if self.server_failed else "UNSET",
        )
        if not self.asked:
            assert by_name == {}
            return
        call = f"{cell.api.operation} {cell.api.model}"
        client = by_name.pop(call)
        new = client.attributes.get("sidecar.connection") != "reused"
        first = ("gen_ai.response.time_to_first_chunk",) if cell.streams and cell.outputs else ()
        expect_span(
            client,
            name=call,
            kind="CLIENT",
            attributes=self.client(("127.0.0.1", port), new=new),
            ignoring=("sidecar.request.id", *first),
            status="ERROR" if self.error else "UNSET",
        )
        parts = {"connect"} if new else set()
        parts |= {"wait"} if self.sent else set()
        parts |= {"stream"} if cell.streams else set()
        assert set(by_name) == parts
        for part in by_name.values():
            assert (part.kind, part.parent, part.trace_id) == ("INTERNAL", client.span_id, server.trace_id)
            assert {key: part.attributes.get(key) for key in self._who()} == self._who()
            failed = part.name == "connect" and ending.timer == "CONNECT"
            assert part.status == ("ERROR" if failed else "UNSET")
        assert client.parent == server.span_id
        assert server.start <= client.start <= client.end <= server.end
        if self.sent:
            parent = f"00-{client.trace_id}-{client.span_id}-03".encode()
            assert upstream.requests[0].get("traceparent") == parent
        if cell.streams:
            stream = by_name["stream"].attributes
            assert stream["sidecar.stream.events"] == cell.events
            assert stream["sidecar.stream.chunks"] == cell.outputs
            assert stream["sidecar.stream.bytes"] == sum(map(len, cell.pieces()))
            assert stream["sidecar.stream.stalls"] == 0

    # Metric points

    def figures(self, port: int) -> dict[Series, float]:
        """What the cell adds: counters' growth, histograms' numbers of values. `port` is the provider's."""
        return dict(self._figures(port))

    def _figures(self, port: int) -> Iterable[tuple[Series, float]]:
        cell, ending = self.cell, self.cell.ending
        models = {
            "gen_ai.provider.name": cell.api.provider,
            "gen_ai.request.model": self.model,
            "sidecar.upstream": self.name,
        }
        shared = {
            **models,
            "gen_ai.operation.name": cell.api.operation,
            "sidecar.streaming": self.streaming,
        }
        call = {
            **shared,
            "gen_ai.response.model": self.told.get("gen_ai.response.model"),
            "server.address": "127.0.0.1",
            "server.port": port,
        }
        error, upstream = {"error.type": self.error}, {"sidecar.upstream": self.name}
        yield (
            _series(
                "sidecar.requests",
                **shared,
                **error,
                **{"sidecar.outcome": ending.outcome, "sidecar.outcome.phase": ending.phase},
            ),
            1,
        )
        yield (
            _series(
                "http.server.request.duration",
                **{
                    "http.request.method": "POST",
                    "http.response.status_code": self.status,
                    "http.route": cell.route,
                    "url.scheme": "http",
                    "error.type": self.error if self.server_failed else None,
                    **upstream,
                },
            ),
            1,
        )
        yield from self._ended(upstream)
        if not self.joined:
            return
        counted = "own_header" if cell.api.turn else "no_turn"
        yield _series("sidecar.identity", **{"sidecar.session.source": counted}), 1
        yield _series("sidecar.sessions", **{"sidecar.session.source": "own_header"}), 1
        yield _series("gen_ai.client.operation.duration", **call, **error), 1
        yield from self._tokens(call)
        yield from self._turn(models, upstream)
        if cell.anomaly:
            yield _series("sidecar.anomalies", **{"sidecar.anomaly": cell.anomaly}), 1
        if cell.streams:
            yield from self._chunks(call)
            yield _series("sidecar.stream.gap", **models), 1
            if cell.events:
                yield _series("sidecar.stream.events", **upstream), cell.events
            yield _series("sidecar.stream.bytes", **upstream), sum(map(len, cell.pieces()))
            yield _series("sidecar.stream.backpressure", **upstream), 1

    def _ended(self, upstream: dict[str, Any]) -> Iterable[tuple[Series, float]]:
        """What became of it, and what its time went to."""
        yield _series("sidecar.results", **{"sidecar.result": self.result}, **upstream), 1
        if self.joined and self.result in BAD:
            yield _series("sidecar.sessions.with_bad_answers"), 1
        reached = [self.asked, self.asked, self.sent, self.sent and self.cell.ending.begins]
        for phase, was in zip(("body", "connect", "wait", "stream"), reached, strict=True):
            if was:
                series = {"sidecar.request.phase": phase, **upstream}
                yield _series("sidecar.request.phase.duration", **series), 1

    def _chunks(self, call: dict[str, Any]) -> Iterable[tuple[Series, float]]:
        outputs = self.cell.outputs
        if outputs:
            yield _series("gen_ai.client.operation.time_to_first_chunk", **call), 1
        if outputs > 1:
            yield _series("gen_ai.client.operation.time_per_output_chunk", **call), outputs - 1

    def _tokens(self, call: dict[str, Any]) -> Iterable[tuple[Series, float]]:
        for kind in ("input", "output"):
            if f"gen_ai.usage.{kind}_tokens" in self.told:
                yield _series("gen_ai.client.token.usage", **call, **{"gen_ai.token.type": kind}), 1
        for detail, name in DETAILS.items():
            if count := self.told.get(name):
                yield _series("sidecar.tokens.details", **call, **{"sidecar.token.detail": detail}), count

    def _turn(self, models: dict[str, Any], upstream: dict[str, Any]) -> Iterable[tuple[Series, float]]:
        cell, ending = self.cell, self.cell.ending
        if not cell.api.turn:
            return
        yield _series("sidecar.turns.related", **{"sidecar.turn.relation": self.relation}), 1
        if self.cached is not None:
            yield _series("sidecar.prompt.cached", **models), 1
        yield _series("sidecar.conversation.concurrency", **upstream), 1
        yield _series("sidecar.conversation.wait_avoided", **upstream), 1
        if ending.outcome == "completed":
            yield _series("sidecar.turns", **upstream), 1
        reasons = self.told.get("gen_ai.response.finish_reasons")
        answered = ending.begins and ending.status < 400 and ending.outcome != "client_left"
        if reasons or answered:
            reason = {"sidecar.finish_reason": reasons[0].lower() if reasons else "missing"}
            operation = {"gen_ai.operation.name": cell.api.operation}
            yield _series("sidecar.finish_reasons", **models, **operation, **reason), 1


def _series(metric: str, **attributes: object) -> Series:
    return metric, tuple(sorted((name, value) for name, value in attributes.items() if value is not None))
