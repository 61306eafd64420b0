"""What a real collector answers, and what the ledger makes of it, over HTTP and gRPC."""

import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.telemetry import exporters, pipeline
from sidecar.telemetry.exporters import ItemEncoding, OtlpSender
from sidecar.telemetry.ledger import State
from sidecar.telemetry.transports import Attempt
from sidecar.testing import OtlpSink, SinkAnswer
from tests.telemetry.way_out import COUNTER, PROTOCOLS, SLOW, WayOut, exporting, started, until


async def sent(settings: dict[str, str], count: int = 3) -> WayOut:
    """`count` spans through a pipeline, which then is shut down."""
    out = started(settings)
    for number in range(1, count + 1):
        out.pipeline.span(out.span(number))
    assert await out.pipeline.flush(30)
    assert await out.pipeline.shutdown(30)
    return out


async def test_all_signals_arrive(sink: OtlpSink) -> None:
    """What the ledger calls exported is what the collector took, for all three signals."""
    out = started(exporting(sink))
    for number in range(1, 6):
        out.pipeline.span(out.span(number))
        out.pipeline.log(out.record(number))
    out.store.add(COUNTER, 2, (("k", "a"),))
    out.store.add(COUNTER, 3, (("k", "b"),))
    assert await out.pipeline.shutdown(30)
    assert out.states("traces") == {"created": 5, "exported": 5}
    assert out.states("logs") == {"created": 5, "exported": 5}
    assert out.states("metrics") == {"created": 2, "exported": 2}
    assert [sink.accepted(signal) for signal in ("traces", "logs", "metrics")] == [5, 5, 2]
    assert [one.name for one in sink.spans] == [f"span {number}" for number in range(1, 6)]
    assert [(one.metric, one.value, one.attributes) for one in sink.points] == [
        ("requests", 2, {"k": "a"}),
        ("requests", 3, {"k": "b"}),
    ]
    assert out.events == []
    assert sink.errors == []


async def test_logs_of_several_pieces_arrive_in_order(sink: OtlpSink) -> None:
    """They are encoded piece by piece, and leave as one export."""
    out = started(exporting(sink))
    for number in range(1, 51):
        out.pipeline.log(out.record(number))
    assert await out.pipeline.shutdown(30)
    assert [line.time for line in sink.logs] == list(range(1, 51))
    assert [call.items for call in sink.calls] == [50]


async def test_a_refusal_is_failed(sink: OtlpSink) -> None:
    """A 400 or INVALID_ARGUMENT is final: not tried again, and said once with the reason."""
    sink.answer("traces", SinkAnswer(status=400, code="INVALID_ARGUMENT", message="no such tenant"))
    out = await sent(exporting(sink))
    assert out.states() == {"created": 3, "failed": 3}
    assert len(sink.calls) == 1
    (line,) = out.lines
    assert (line["event"], line["signal"], line["lost"]) == ("sidecar.telemetry.failing", "traces", 3)
    assert line["reason"] in {"HTTP 400 Bad Request: no such tenant", "gRPC INVALID_ARGUMENT: no such tenant"}


@pytest.mark.parametrize("status, code", [(429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE")])
async def test_a_busy_collector_gets_it_again(sink: OtlpSink, status: int, code: str) -> None:
    """Refused for now, then taken: exported, once."""
    sink.answer("traces", SinkAnswer(status=status, code=code, headers={"Retry-After": "0"}))
    out = await sent(exporting(sink))
    assert out.states() == {"created": 3, "exported": 3}
    assert len(sink.calls) == 2
    assert sink.accepted("traces") == 3


async def test_a_collector_that_stays_busy_is_failed(sink: OtlpSink) -> None:
    """Retries end with the time-out."""
    sink.answer_always("traces", SinkAnswer(status=503, code="UNAVAILABLE"))
    out = await sent(exporting(sink, OTEL_EXPORTER_OTLP_TIMEOUT="2000"))
    assert out.states() == {"created": 3, "failed": 3}


async def test_silence_is_unknown(sink: OtlpSink) -> None:
    """No answer in time: it may have arrived, and nobody claims to know."""
    sink.answer_always("traces", SinkAnswer(hang=True))
    out = await sent(exporting(sink, OTEL_EXPORTER_OTLP_TIMEOUT="2000"))
    assert out.states() == {"created": 3, "unknown": 3}
    assert out.lines[0]["reason"] == "no answer in time"


async def test_partial_success_is_read(sink: OtlpSink) -> None:
    """What the collector took and did not take of one batch is told apart."""
    sink.answer("traces", SinkAnswer(rejected=2, message="too old"))
    out = await sent(exporting(sink))
    assert out.states() == {"created": 3, "exported": 1, "rejected": 2}
    assert sink.accepted("traces") == 1
    assert out.lines[0]["reason"] == "rejected by the collector: too old"


@pytest.mark.parametrize("signal", ["logs", "metrics"])
async def test_partial_success_of_the_other_signals(sink: OtlpSink, signal: str) -> None:
    """Logs and data points have fields of their own for it."""
    sink.answer(signal, SinkAnswer(rejected=1))
    out = started(exporting(sink))
    for number in range(3):
        out.pipeline.log(out.record(number))
        out.store.add(COUNTER, 1, (("k", str(number)),))
    assert await out.pipeline.flush(30)
    assert out.states(signal) == {"created": 3, "exported": 2, "rejected": 1}
    await out.pipeline.shutdown(30)


async def test_more_rejected_than_sent_is_all(sink: OtlpSink) -> None:
    """A collector that cannot count does not unbalance the ledger."""
    sink.answer("traces", SinkAnswer(rejected=99))
    out = await sent(exporting(sink))
    assert out.states() == {"created": 3, "rejected": 3}


@pytest.mark.parametrize(
    "media, body, state",
    [
        ("application/x-protobuf", b"", "exported"),
        ("text/plain", b" ", "exported"),
        ("application/json", b"{}", "exported"),
        ("application/json; charset=utf-8", b'{"partialSuccess":{}}', "exported"),
        ("application/x-protobuf", b"\xff\xfe<html>", "unconfirmed"),
        ("application/json", b'{"partial_success":null}', "exported"),
        ("application/json", b"[1]", "unconfirmed"),
        ("application/json", b"[]", "unconfirmed"),
        ("application/json", b'"OK"', "unconfirmed"),
        ("application/json", b"null", "unconfirmed"),
        ("application/json", b'{"status":"ok"}', "unconfirmed"),
        ("application/json", b'{"error":"unauthorized"}', "unconfirmed"),
        ("application/json", b'{"partialSuccess":1}', "unconfirmed"),
        ("application/json", b"[" * 50_000, "unconfirmed"),
        ("application/json", b"\xff", "unconfirmed"),
        ("text/html", b"<html>Log in</html>", "unconfirmed"),
        ("text/plain", b"OK", "unconfirmed"),
        ("image/png", b"\x89PNG", "unconfirmed"),
    ],
)
async def test_exported_means_that_a_receiver_said_so(media: str, body: bytes, state: str) -> None:
    """An OTLP answer or an empty one; any other 2xx is a state of its own, and a line says what answered."""
    with OtlpSink() as sink:
        sink.answer("traces", SinkAnswer(garbage=body, headers={"Content-Type": media}))
        out = await sent(exporting(sink))
        assert out.states() == {"created": 3, state: 3}
    if state == "unconfirmed":
        assert out.lines[0]["reason"].startswith(f"HTTP 200 OK, but not from an OTLP receiver ({media}): ")
    else:
        assert out.lines == []


async def test_a_json_answer_is_read_too() -> None:
    """Some back ends answer JSON to protobuf."""
    with OtlpSink() as sink:
        body = b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "dup"}, "more": 1}'
        sink.answer("traces", SinkAnswer(garbage=body, headers={"Content-Type": "application/json"}))
        out = await sent(exporting(sink))
        assert out.states() == {"created": 3, "exported": 2, "rejected": 1}
        assert out.lines[0]["reason"] == "rejected by the collector: dup"


async def test_a_redirect_is_no_export() -> None:
    """The exporters call a 302 a success; nothing was taken."""
    with OtlpSink() as sink:
        sink.answer("traces", SinkAnswer(status=302, headers={"Location": "/elsewhere"}))
        out = await sent(exporting(sink))
        assert out.states() == {"created": 3, "failed": 3}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_nobody_there_is_failed(protocol: str) -> None:
    """A refused connection is not unknown: nothing can have arrived."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2000",
            **SLOW,
        }
        out = await sent(settings)
    assert out.states() == {"created": 3, "failed": 3}
    assert out.lines[0]["reason"].startswith("cannot connect: ")


async def test_a_connection_lost_after_sending_is_unknown() -> None:
    """The request had left when the collector went away."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "2000", **SLOW}
        out = await sent(settings)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert out.states() == {"created": 3, "unknown": 3}


async def test_compression_and_headers_arrive(sink: OtlpSink) -> None:
    """Compressed on the wire, and the headers of the settings with every export."""
    out = await sent(
        exporting(
            sink, OTEL_EXPORTER_OTLP_COMPRESSION="gzip", OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20t"
        ),
        200,
    )
    assert out.states() == {"created": 200, "exported": 200}
    (call,) = sink.calls
    assert call.headers["authorization"] == "Bearer t"
    if sink.protocol == "http/protobuf":
        assert call.headers["content-encoding"] == "gzip"
        assert call.size < 200 * 20


async def test_the_process_environment_stays_out(
    sink: OtlpSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Proxies, headers, certificates and a .netrc of the process change nothing: the mapping is all there is."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    for name, value in {
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "NETRC": str(netrc),
        "OTEL_EXPORTER_OTLP_HEADERS": "surprise=1",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "surprise=2",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.001",
    }.items():
        monkeypatch.setenv(name, value)
    out = await sent(exporting(sink))
    assert out.states() == {"created": 3, "exported": 3}
    headers = sink.calls[0].headers
    assert {"surprise", "authorization", "content-encoding"} & set(headers) == set()


async def test_a_batch_that_cannot_be_encoded_is_failed(sink: OtlpSink) -> None:
    """A span that is none costs its batch, and the worker goes on."""
    out = started(exporting(sink))
    out.pipeline.span("no span")  # type: ignore[arg-type]
    assert await out.pipeline.flush(30)
    out.pipeline.span(out.span())
    assert await out.pipeline.shutdown(30)
    assert out.states() == {"created": 2, "exported": 1, "failed": 1}
    assert out.events == ["sidecar.telemetry.failing", "sidecar.telemetry.recovered"]


@pytest.mark.parametrize("gone", [False, True], ids=["taken", "refused"])
def test_a_message_that_cannot_be_encoded_says_nothing_of_those_before_it(
    gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was exported is."""
    monkeypatch.setattr(exporters, "MESSAGE_ITEMS", 64)
    bodies: list[bytes] = []

    class Taking:
        def attempt(self, body: bytes, _deadline: float) -> Attempt:
            bodies.append(body)
            return Attempt(State.FAILED if gone else State.EXPORTED, "no" if gone else "")

        def close(self) -> None:
            pass

    def encode(items: Sequence[int]) -> bytes:
        return bytes(items)  # of one beyond 255 a ValueError

    sender = OtlpSender(Taking(), ItemEncoding(encode), 10)
    delivery = sender.send(range(300), 300)
    assert [len(body) for body in bodies] == [64] * 3
    if gone:
        assert (delivery.counts, delivery.reason) == ({State.FAILED: 300}, "no")
    else:
        assert delivery.counts == {State.EXPORTED: 192, State.FAILED: 108}
        assert delivery.reason.startswith("ValueError: ")


def test_messages_behind_a_refusal_for_now_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver wants nothing more; they are given back as the refused one is."""
    monkeypatch.setattr(exporters, "MESSAGE_ITEMS", 64)
    bodies: list[bytes] = []

    class Busy:
        def attempt(self, body: bytes, _deadline: float) -> Attempt:
            bodies.append(body)
            return Attempt(State.FAILED, "HTTP 429", again=3600.0)

        def close(self) -> None:
            pass

    delivery = OtlpSender(Busy(), ItemEncoding(bytes), 10).send(range(200), 200)
    assert len(bodies) == 1
    assert (delivery.counts, delivery.reason) == ({State.FAILED: 200}, "HTTP 429")
    assert (delivery.returned, delivery.silence) == (tuple(range(200)), 60)


async def test_console_exporters_write_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """The SDK's JSON, for all three signals."""
    out = started({f"OTEL_{name}_EXPORTER": "console" for name in ("TRACES", "METRICS", "LOGS")})
    out.pipeline.span(out.span())
    out.pipeline.log(out.record())
    out.store.add(COUNTER, 1)
    assert await out.pipeline.shutdown(30)
    for signal in ("traces", "metrics", "logs"):
        assert out.states(f"console_{signal}") == {"created": 1, "exported": 1}
        assert out.states(signal) == {}
    text = capfd.readouterr().out
    assert '"name": "span 1"' in text
    assert '"name": "requests"' in text
    assert '"hello"' in text


async def test_differences_that_standard_output_did_not_take_are_told_with_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A full disk for a while costs no count."""
    path = tmp_path / "out"
    full, free = os.open("/dev/full", os.O_WRONLY), os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        monkeypatch.setattr(pipeline, "STDOUT", full)
        settings = {
            "OTEL_METRICS_EXPORTER": "console",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        }
        out = started({**SLOW, **settings})
        out.store.add(COUNTER, 3)
        assert await out.pipeline.flush(30)
        await until(lambda: not out.pipeline._metrics[0]._under_way)
        os.dup2(free, full)
        out.store.add(COUNTER, 4)
        assert await out.pipeline.shutdown(30)
    finally:
        os.close(full)
        os.close(free)
    assert out.states("console_metrics") == {"created": 2, "failed": 1, "exported": 1}
    assert '"value": 7' in path.read_text()
