"""What a transport does with a receiver that changes, is gone, refuses for size, or says more than yes and no."""

import base64
import math
import os
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from sidecar.telemetry import exporters
from sidecar.telemetry.ledger import Signal, State
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.metrics import Metric, MetricKind
from sidecar.telemetry.otel_settings import read
from sidecar.telemetry.transports import HttpTransport
from sidecar.testing import (
    End,
    Garbage,
    OtlpSink,
    ReadBody,
    Reset,
    Script,
    ScriptedUpstream,
    SinkAnswer,
    answer,
)
from sidecar.ways_out import Trust
from tests.conftest import black_hole
from tests.telemetry.way_out import COUNTER, SLOW, WayOut, exporting, started


async def flushed(out: WayOut, count: int = 1) -> None:
    """`count` more spans, exported or lost."""
    for number in range(1, count + 1):
        out.pipeline.span(out.span(number))
    assert await out.pipeline.flush(30)


def http_transport(receiver: ScriptedUpstream, headers: str = "", user: str = "") -> HttpTransport:
    """One that sends spans there; `user` is the endpoint's, with an at sign."""
    endpoint = receiver.url.replace("://", f"://{user}")
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_HEADERS": headers}
    target = read(environ).targets[Signal.TRACES]
    return HttpTransport(Signal.TRACES, target, Trust({}))


# --- what a receiver says


async def test_its_words_on_a_refusal_reach_the_log(sink: OtlpSink) -> None:
    """As one line that may be shown, 200 characters at most, and without what looks like a key."""
    words = "tenant \x1b[31mred\n needs sk-abcdefghijklmnop1234 " + "x" * 300
    sink.answer("traces", SinkAnswer(status=400, code="INVALID_ARGUMENT", message=words))
    out = started(exporting(sink))
    await flushed(out)
    reason = out.lines[0]["reason"]
    assert "tenant" in reason
    assert "red needs REDACTED xxx" in reason
    assert len(reason) < 240
    assert reason.isprintable() or "\ufffd" in reason
    await out.pipeline.shutdown(30)


@pytest.mark.parametrize(
    "media, body, said",
    [
        ("application/json", b'{"code": 3, "message": "no such tenant"}', "no such tenant"),
        ("application/json", b'{"error": "no such tenant"}', '{"error": "no such tenant"}'),
        ("text/plain; charset=utf-8", b"no such\ntenant", "no such tenant"),
        ("text/html", b"<p>no</p>", "<p>no</p>"),
        ("application/x-protobuf", b"\x12\x0eno such tenant", "no such tenant"),
        ("application/json", b'{"message": ["no", "tenant"]}', '{"message": ["no", "tenant"]}'),
        ("application/json", b'{"message": {"no": "tenant"}}', '{"message": {"no": "tenant"}}'),
        ("application/json", b'{"message": null}', '{"message": null}'),
        ("application/json", b'["no tenant"]', '["no tenant"]'),
        ("application/json", b"[" * 50_000, "[" * 200),
    ],
)
async def test_its_words_in_any_form(media: str, body: bytes, said: str) -> None:
    """A `google.rpc.Status` as protobuf or JSON, or any text."""
    with OtlpSink() as sink:
        sink.answer("traces", SinkAnswer(status=403, garbage=body, headers={"Content-Type": media}))
        out = started(exporting(sink))
        await flushed(out)
        assert out.lines[0]["reason"] == f"HTTP 403 Forbidden: {said}"
        await out.pipeline.shutdown(30)


@pytest.mark.parametrize(
    "after, wait",
    [
        ("2", 2.0),
        (" 2 ", 2.0),
        ("0.5", 0.5),
        ("Mon, 30 Nov 2026 08:00:07 GMT", 7.0),
        ("Monday, 30-Nov-26 08:00:07 GMT", 7.0),
        ("Mon, 30 Nov 2026 07:59:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_606_275_199.0),
        ("9" * 400, math.inf),
        ("-5", 0.0),
        ("Mon, 30 Nov 0000 08:00:00 GMT", 0.0),
        ("Mon, 30 Nov 2026 08:00:00 +9999", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("1_0", 0.0),
        ("soon", 0.0),
        ("Mon, 99 Nov 2026 08:00:07 GMT", 0.0),
        ("", 0.0),
    ],
)
def test_how_long_a_receiver_wants_to_be_left_alone(after: str, wait: float) -> None:
    """A number of seconds, or a date, which its own clock judges; what is neither asks for nothing."""
    with ScriptedUpstream() as receiver:
        date = b"Date: Mon, 30 Nov 2026 08:00:00 GMT"
        receiver.answer_always(*answer(status=503, headers=(date, b"Retry-After: " + after.encode())))
        transport = http_transport(receiver)
        assert transport.attempt(b"", time.monotonic() + 30).again == wait
        transport.close()


def test_a_date_of_an_answer_without_one_is_judged_by_the_clock_here() -> None:
    """A server may leave its own out when it fails."""
    with ScriptedUpstream() as receiver:
        after = b"Retry-After: " + formatdate(time.time() + 100, usegmt=True).encode()
        receiver.answer_always(*answer(status=503, headers=(after,)))
        transport = http_transport(receiver)
        assert 50 < (transport.attempt(b"", time.monotonic() + 30).again or 0) <= 100
        transport.close()


def test_headers_of_the_settings_stand_in_place_of_our_own() -> None:
    """A field that says who we are is sent once: as it was set."""
    headers = "Authorization=Bearer%20t,user-agent=me,host=elsewhere,x-tenant=1"
    with ScriptedUpstream() as receiver:
        receiver.answer_always(*answer())
        transport = http_transport(receiver, headers, user="u:p@")
        assert transport.attempt(b"abc", time.monotonic() + 30).state is State.EXPORTED
        transport.close()
        fields = [(name.lower(), value) for name, value in receiver.request().fields]
    assert sorted(fields) == [
        (b"accept-encoding", b"identity"),
        (b"authorization", b"Bearer t"),
        (b"content-length", b"3"),
        (b"content-type", b"application/x-protobuf"),
        (b"host", b"elsewhere"),
        (b"user-agent", b"me"),
        (b"x-tenant", b"1"),
    ]


@pytest.mark.parametrize(
    "user, credentials",
    [("u:p%40ss@", b"u:p@ss"), ("token@", b"token:"), (":p@", b":p"), ("u:a:b@", b"u:a:b")],
)
def test_a_user_of_the_endpoint_is_basic_authentication(user: str, credentials: bytes) -> None:
    """Which has its colon, with no password too."""
    with ScriptedUpstream() as receiver:
        receiver.answer_always(*answer())
        transport = http_transport(receiver, user=user)
        assert transport.attempt(b"", time.monotonic() + 30).state is State.EXPORTED
        transport.close()
        said = dict(receiver.request().fields)[b"authorization"]
    assert said == b"Basic " + base64.b64encode(credentials)


# --- size


async def test_a_large_batch_leaves_in_messages_of_bounded_size(
    sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bytes and of items; each is counted, in order."""
    monkeypatch.setattr(exporters, "MESSAGE_BYTES", 20_000)
    out = started(exporting(sink))
    await flushed(out, 500)
    assert out.states() == {"created": 500, "exported": 500}
    assert len(sink.calls) > 1
    assert max(call.size for call in sink.calls) <= 20_000
    assert [one.name for one in sink.spans] == [f"span {number}" for number in range(1, 501)]
    await out.pipeline.shutdown(30)


@pytest.mark.parametrize("signal", ["traces", "metrics"])
async def test_a_refusal_for_size_divides_once(sink: OtlpSink, signal: str) -> None:
    """Both halves are tried; one that is refused as well has failed."""
    large = SinkAnswer(
        status=413, code="RESOURCE_EXHAUSTED", message="grpc: received message larger than max (9 vs. 4)"
    )
    sink.answer(signal, large, SinkAnswer(), large)
    out = started(exporting(sink))
    for number in range(10):
        out.pipeline.span(out.span(number))
        out.store.add(COUNTER, 1, (("k", str(number)),))
    assert await out.pipeline.flush(30)
    assert out.states(signal) == {"created": 10, "exported": 5, "failed": 5}
    assert len([call for call in sink.calls if call.signal == signal]) == 3
    await out.pipeline.shutdown(30)


async def test_one_item_that_is_too_large_has_failed(sink: OtlpSink) -> None:
    """It cannot be divided."""
    sink.answer(
        "traces", SinkAnswer(status=413, code="RESOURCE_EXHAUSTED", message="message larger than max")
    )
    out = started(exporting(sink))
    await flushed(out)
    assert out.states() == {"created": 1, "failed": 1}
    await out.pipeline.shutdown(30)


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("side", [False, True], ids=["at once", "its own side first"])
@pytest.mark.parametrize("status", [413, 400, 503])
def test_an_answer_that_comes_before_the_end_of_the_message_is_read(
    status: int, side: bool, kept: bool
) -> None:
    """A receiver that reads no more than its limit says so, and hangs up while the rest is still being sent."""
    early = b"HTTP/1.1 %d No\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nenough" % status
    heads: list[bytes] = []

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            heads.append(connection.recv(4096))
            if kept:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                connection.recv(4096)
            connection.sendall(early)
            if side:
                connection.shutdown(socket.SHUT_WR)
                connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces"
        target = read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}).targets[Signal.TRACES]
        transport = HttpTransport(Signal.TRACES, target, Trust({}))
        if kept:
            assert transport.attempt(b"", time.monotonic() + 30).state is State.EXPORTED
        refused = transport.attempt(b"x" * (32 << 20), time.monotonic() + 30)
        thread.join(30)
        transport.close()
    assert (refused.state, refused.reason) == (State.FAILED, f"HTTP {status} No: enough")
    assert (refused.too_large, refused.again) == (status == 413, 0 if status == 503 else None)
    assert len(heads) == 1


# --- differences


async def test_differences_that_failed_are_in_the_next_export(sink: OtlpSink) -> None:
    """Counters and histograms, with their beginnings; what may have arrived is not told twice."""
    histogram = Metric("took", MetricKind.HISTOGRAM, "s", "time", (), (1.0, 2.0))
    out = started(exporting(sink, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta"))
    out.store.metrics += (histogram,)
    out.store._buckets[histogram] = {}
    refused = SinkAnswer(status=400, code="INVALID_ARGUMENT")
    sink.answer("metrics", SinkAnswer(), refused, refused)
    for _ in range(4):
        out.store.add(COUNTER, 10, (("k", "a"),))
        out.store.record(histogram, 1.5)
        assert await out.pipeline.flush(30)
    counts = [(one.value, one.start) for one in sink.points if one.metric == "requests"]
    assert [value for value, _ in counts] == [10, 30]
    took = [one for one in sink.points if one.metric == "took"]
    assert [(one.count, one.sum) for one in took] == [(1, 1.5), (3, 4.5)]
    first, second = [one for one in sink.points if one.metric == "requests"]
    assert second.start == first.time
    await out.pipeline.shutdown(30)


async def test_differences_that_may_have_arrived_are_not_told_twice(sink: OtlpSink) -> None:
    """`unknown` is no reason to count again."""
    out = started(
        exporting(
            sink,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            OTEL_EXPORTER_OTLP_TIMEOUT="2000",
        )
    )
    sink.answer("metrics", SinkAnswer(hang=True))
    for _ in range(2):
        out.store.add(COUNTER, 10)
        assert await out.pipeline.flush(30)
    assert [one.value for one in sink.points] == [10]
    assert out.states("metrics") == {"created": 2, "unknown": 1, "exported": 1}
    await out.pipeline.shutdown(30)


def test_what_came_back_is_merged_with_what_was_counted_since() -> None:
    """A store's own view: sums, buckets, exemplars and observed totals."""
    now = [1_000]
    observed = Metric("seen", MetricKind.COUNTER, "1", "seen", ())
    store = MetricStore([COUNTER, observed], clock=lambda: now[0])
    store.observe(observed, lambda: [(now[0], ())])
    reader = store.reader(read({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}).temporality)

    def collected() -> dict[str, tuple[Any, int]]:
        points: dict[str, Any] = {one.name: one.data.data_points[0] for one in latest}
        return {name: (point.value, point.start_time_unix_nano) for name, point in points.items()}

    store.add(COUNTER, 1)
    now[0] = 2_000
    latest = store.collect(reader)
    first = collected()
    store.give_back(reader, latest)
    store.add(COUNTER, 2)
    now[0] = 3_000
    latest = store.collect(reader)
    assert first == {"requests": (1, 1_000), "seen": (2_000, 1_000)}
    assert collected() == {"requests": (3, 1_000), "seen": (3_000, 1_000)}
    now[0] = 4_000
    store.add(COUNTER, 4)
    latest = store.collect(reader)
    assert collected() == {"requests": (4, 3_000), "seen": (1_000, 3_000)}


# --- answers that break off

_TAKEN = answer()
_BROKEN = (
    ("an answer too short", (ReadBody(), Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\n"), End())),
    ("a reset", (ReadBody(), Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\n"), Reset())),
    (
        "chunks that end too soon",
        (ReadBody(), Garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n\n"), End()),
    ),
    (
        "a chunk of no size",
        (ReadBody(), Garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-9\r\n\n"), End()),
    ),
)


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("broken", [script for _, script in _BROKEN], ids=[name for name, _ in _BROKEN])
async def test_what_was_answered_in_part_is_unknown_and_sent_once(broken: Script, kept: bool) -> None:
    """It has been taken, perhaps; on a kept connection too, which had not been closed meanwhile."""
    with ScriptedUpstream() as receiver:
        receiver.answer_always(*_TAKEN)
        out = started({**SLOW, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url})
        if kept:
            await flushed(out)
        receiver.answer(*broken)
        await flushed(out)
        assert out.states() == {"created": 1 + kept, "unknown": 1} | ({"exported": 1} if kept else {})
        assert len(receiver.requests) == 1 + kept
        await out.pipeline.shutdown(30)


async def test_what_a_kept_connection_took_before_nobody_was_there_is_unknown() -> None:
    """It ended without a word, and then nobody could be reached: what it got may have been taken."""
    with ScriptedUpstream() as receiver:
        receiver.answer_always(*_TAKEN)
        limit = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3000"}
        out = started({**SLOW, **limit, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url})
        await flushed(out)
        receiver.refuse()
        receiver.answer(ReadBody(), End())
        await flushed(out)
        assert out.states() == {"created": 2, "exported": 1, "unknown": 1}
        assert out.lines[0]["reason"] == "cannot connect: Connection refused"
        await out.pipeline.shutdown(30)


async def test_a_kept_connection_that_ended_with_the_request_is_made_anew() -> None:
    """As when it had been closed meanwhile."""
    with ScriptedUpstream() as receiver:
        receiver.answer_always(*_TAKEN)
        out = started({**SLOW, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url})
        await flushed(out)
        receiver.answer(ReadBody(), End())
        await flushed(out)
        assert out.states() == {"created": 2, "exported": 2}
        await out.pipeline.shutdown(30)


# --- connections and certificates


@pytest.mark.parametrize("alarm", [False, True], ids=["of the name", "of the alarm"])
def test_a_thread_that_cannot_be_had_costs_one_attempt(alarm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may be short of them for a while; it is no reason never to look the name up again."""
    start = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if isinstance(thread, threading.Timer) is alarm:
            raise RuntimeError("can't start new thread")
        start(thread)

    with ScriptedUpstream() as receiver:
        receiver.answer_always(*_TAKEN)
        transport = http_transport(receiver)
        with monkeypatch.context() as short:
            short.setattr(threading.Thread, "start", none_left)
            for _ in range(2):
                lost = transport.attempt(b"", time.monotonic() + 30)
                assert (lost.state, lost.again) == (State.FAILED, 0)
                assert lost.reason == "cannot connect: can't start new thread"
        assert transport.attempt(b"", time.monotonic() + 30).state is State.EXPORTED
        transport.close()


async def test_a_receiver_that_comes_back_is_found_within_the_time_out(sink: OtlpSink) -> None:
    """Nobody listens, then somebody does: it is tried again, and nothing is lost."""
    port = sink.port
    sink.stop()
    out = started(exporting(sink, OTEL_EXPORTER_OTLP_TIMEOUT="20000"))
    out.pipeline.span(out.span())
    timer = threading.Timer(0.5, sink.start)
    timer.start()
    assert await out.pipeline.flush(30)
    timer.join()
    assert sink.port == port
    assert out.states() == {"created": 1, "exported": 1}
    await out.pipeline.shutdown(30)


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_a_unix_socket(tmp_path: Path, form: str) -> None:
    """With gRPC."""
    taken: list[bytes] = []

    def take(body: bytes, _context: Any) -> bytes:
        taken.append(body)
        return b""

    class Services(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(take)

    path = tmp_path / "otlp.sock"
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=(Services(),))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        settings = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": form.format(path),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
        out = started({**SLOW, **settings})
        await flushed(out)
        assert out.states() == {"created": 1, "exported": 1}
        assert await out.pipeline.shutdown(30)
        server.stop(0).wait()
    assert len(taken) == 1


async def test_a_query_reaches_the_receiver() -> None:
    """That of the common endpoint goes behind the signal's path."""
    with OtlpSink() as sink:
        out = started(exporting(sink, OTEL_EXPORTER_OTLP_ENDPOINT=f"{sink.endpoint}/?a=b"))
        await flushed(out)
        assert await out.pipeline.shutdown(30)
        assert out.states()["failed"] == 1  # the sink looks at the whole target, and knows none with a query
    assert out.lines[0]["reason"].startswith("HTTP 404")


@pytest.mark.parametrize("silent", [1, 2])
def test_an_address_that_stays_silent_leaves_time_for_the_next(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may have several, the first of a machine that is gone, or of a network that leads nowhere."""
    with ScriptedUpstream() as receiver, black_hole("127.0.0.1") as hole:
        receiver.answer_always(*_TAKEN)
        transport = http_transport(receiver)
        known = socket.getaddrinfo

        def several(host: str, port: int, **more: Any) -> list[Any]:
            return [found for one in (*[hole] * silent, port) for found in known(host, one, **more)]

        monkeypatch.setattr(socket, "getaddrinfo", several)
        attempt = transport.attempt(b"", time.monotonic() + 6)
        assert (attempt.state, attempt.reason) == (State.EXPORTED, "")
        transport.close()


@pytest.mark.parametrize("host", ["[2001:db8::1]:4318", "collector.example:4318", "192.0.2.1:4318"])
def test_a_proxy_is_asked_for_the_receiver(host: str) -> None:
    """An IPv6 address has its brackets there too."""
    with ScriptedUpstream() as proxy:
        proxy.answer_always(*answer(status=502, reason=b"no way"))
        environ = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"https://{host}/v1/traces",
            "HTTPS_PROXY": proxy.url,
        }
        transport = HttpTransport(Signal.TRACES, read(environ).targets[Signal.TRACES], Trust({}))
        lost = transport.attempt(b"", time.monotonic() + 30)
        assert lost.reason == "cannot connect: the proxy answered CONNECT with 502 no way"
        asked = proxy.request()
        assert (asked.method, asked.target) == ("CONNECT", host.encode())
        assert (b"Host", host.encode()) in asked.fields
        transport.close()


async def test_a_kept_connection_may_have_any_descriptor() -> None:
    """A busy sidecar has thousands of them open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with OtlpSink() as sink:
            out = started(exporting(sink))
            for _ in range(2):
                await flushed(out)
            assert out.states() == {"created": 2, "exported": 2}
            assert await out.pipeline.shutdown(30)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
