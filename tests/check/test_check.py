"""`sidecar check` against real ports, upstreams and collectors: what is well, what is not, and what it ends with."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest

from sidecar import cli
from sidecar.testing import (
    Garbage,
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    SinkAnswer,
    answer,
    self_signed,
)

FREE = ("--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0")


def checked(
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
    environ: dict[str, str] | None = None,
    collector: bool = False,
) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the findings by what they are of."""
    left_out = () if collector else ("--no-collector",)
    code = cli.main(["check", "--json", *left_out, *arguments], environ or {})
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    return code, {one["what"]: one for one in found}


def test_all_is_well(upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer of 401 to a request without a key is what a provider gives."""
    upstream.answer(*answer(status=401, reason=b"Unauthorized", headers=[f"Date: {formatdate()}".encode()]))
    code, found = checked(capsys, *FREE, upstream.url)
    assert code == 0
    assert found["upstream default"]["state"] == "ok"
    assert "answers 401" in found["upstream default"]["says"]
    assert found["clock"]["state"] == found["settings"]["state"] == "ok"
    (asked,) = upstream.requests
    assert asked.message.start_line == b"GET / HTTP/1.1"
    assert {name.lower() for name, _ in asked.message.fields} == {
        b"host",
        b"user-agent",
        b"accept",
        b"connection",
    }


def test_as_text(upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each, what to do below it, and a sentence at the end."""
    code = cli.main(["check", "--no-collector", *FREE, "http://127.0.0.1:1"], {})
    out, err = capsys.readouterr()
    assert code == 1
    assert "fail  upstream default      http://127.0.0.1:1 by a direct connection: 127.0.0.1:1 refused" in out
    assert "-> check host and port" in out
    assert "1 of" in err


def test_bad_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """As `sidecar run` has them: all at once, and 2."""
    assert cli.main(["check", "--listen=x"], {"SIDECAR_IDLE_TIMEOUT": "soon"}) == 2
    said = capsys.readouterr().err
    assert "--listen=x" in said
    assert "SIDECAR_IDLE_TIMEOUT=soon" in said


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """By a sidecar, or by something else."""
    switched_off = {"OTEL_SDK_DISABLED": "true"}
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        RunningSidecar(upstream="http://127.0.0.1:1", environ=switched_off) as sidecar,
    ):
        taken = other.getsockname()[1]
        arguments = (f"--listen=127.0.0.1:{taken}", f"--admin-listen=127.0.0.1:{sidecar.admin_port}")
        code, found = checked(capsys, *arguments, "http://127.0.0.1:1")
    assert code == 1
    by_sidecar, by_other = found[f"port {sidecar.admin_port}"], found[f"port {taken}"]
    assert (by_sidecar["state"], by_other["state"]) == ("fail", "fail")
    assert "a running sidecar" in by_sidecar["fix"]
    assert "SIDECAR_ADMIN_LISTEN=" in by_sidecar["fix"]
    assert "stop what uses it" in by_other["fix"]


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


UPSTREAMS: list[tuple[str, Any, str, str]] = [
    ("5xx", answer(status=503), "warn", "answers 503"),
    ("no HTTP", (Garbage(b"220 mail ready\r\n\r\n"),), "fail", "220 mail ready"),
    ("redirect", answer(status=301), "ok", "answers 301"),
]


@pytest.mark.parametrize(
    "script,state,says", [row[1:] for row in UPSTREAMS], ids=[row[0] for row in UPSTREAMS]
)
def test_what_an_upstream_answers(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], script: Any, state: str, says: str
) -> None:
    """Any HTTP is an answer; its own troubles are a warning."""
    upstream.answer(*script)
    code, found = checked(capsys, *FREE, upstream.url)
    assert found["upstream default"]["state"] == state
    assert says in found["upstream default"]["says"]
    assert code == (state == "fail")


def test_upstreams_that_are_not_there(capsys: pytest.CaptureFixture[str], blackhole: int) -> None:
    """Each has a name in the output, and each its own way to be mended."""
    with silent() as url:
        named = f"name=http://no.such.name.invalid,silent={url},hole=http://127.0.0.1:{blackhole},v1=http://127.0.0.1:1/v1"
        code, found = checked(capsys, *FREE, "--connect-timeout=1s", f"--upstreams={named}")
    assert code == 1
    assert "could not be resolved" in found["upstream name"]["says"]
    assert "no answer within SIDECAR_CONNECT_TIMEOUT (1 s)" in found["upstream silent"]["says"]
    assert "no connection within SIDECAR_CONNECT_TIMEOUT (1 s)" in found["upstream hole"]["says"]
    assert "refused the connection" in found["upstream v1"]["says"]
    assert all(one["fix"] for name, one in found.items() if name.startswith("upstream"))


def test_a_certificate_that_is_not_trusted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Unless it is."""
    certificate = self_signed(tmp_path)
    with ScriptedUpstream(tls=certificate.server_context()) as upstream:
        upstream.answer_always(*answer(status=401))
        _, found = checked(capsys, *FREE, upstream.url)
        assert "is not trusted" in found["upstream default"]["says"]
        assert "SSL_CERT_FILE" in found["upstream default"]["fix"]
        _, found = checked(
            capsys, *FREE, upstream.url, environ={"SSL_CERT_FILE": str(certificate.certificate)}
        )
        assert found["upstream default"]["state"] == "ok", found


def test_the_way_out_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The proxy of the environment, without its credentials; one that is not there is what fails."""
    environ = {"HTTPS_PROXY": "http://user:secret-word@127.0.0.1:1"}
    _, found = checked(capsys, *FREE, "https://api.test", environ=environ)
    said = found["upstream default"]["says"]
    assert "https://api.test by HTTPS_PROXY (***@127.0.0.1:1)" in said
    assert "secret-word" not in json.dumps(found)


@pytest.mark.parametrize("ahead,state", [(-3600, "warn"), (3600, "warn"), (0, "ok")])
def test_the_clock(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], ahead: int, state: str
) -> None:
    """Compared with what upstreams say."""
    date = formatdate(time() - ahead, usegmt=True)
    upstream.answer(*answer(status=401, headers=[f"Date: {date}".encode()]))
    code, found = checked(capsys, *FREE, upstream.url)
    assert (found["clock"]["state"], code) == (state, 0)
    if ahead:
        assert ("ahead of" if ahead > 0 else "behind") in found["clock"]["says"]


@pytest.mark.parametrize("date", ["soon", "Tue, 14 Nov 99999999999 22:13:50 GMT"])
def test_a_date_that_is_none(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], date: str
) -> None:
    """It tells no time, and nothing else is amiss."""
    upstream.answer(*answer(status=401, headers=[f"Date: {date}".encode()]))
    code, found = checked(capsys, *FREE, upstream.url)
    assert (found["upstream default"]["state"], code) == ("ok", 0)
    assert "nothing to compare" in found["clock"]["says"]


PROTOCOLS = ("http/protobuf", "grpc")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_takes_it(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    """One line for each signal, with the version of the conventions; what was sent is found by its session."""
    upstream.answer_always(*answer(status=401))
    with OtlpSink(protocol) as sink:
        environ = sink.environ() | {"OTEL_LOGS_EXPORTER": "otlp"}
        code, found = checked(capsys, *FREE, upstream.url, environ=environ, collector=True)
        assert sink.span(kind="SERVER").attributes["session.id"] == "sidecar-check"
    assert not any(b"/sidecar-check" in request.message.start_line for request in upstream.requests)
    assert code == 0, found
    for name in ("traces", "metrics", "logs"):
        assert found[f"collector, {name}"]["state"] == "ok"
        assert (
            "conventions: shipped (https://opentelemetry.io/schemas/" in found[f"collector, {name}"]["says"]
        )


@pytest.mark.parametrize(
    "protocol,signal,said,told",
    [
        ("http/protobuf", "traces", SinkAnswer(status=401), ("failed", "401")),
        ("http/protobuf", "metrics", SinkAnswer(status=404), ("failed", "404")),
        ("http/protobuf", "logs", SinkAnswer(rejected=1, message="too old"), ("rejected", "too old")),
        (
            "http/protobuf",
            "traces",
            SinkAnswer(garbage=b"<html>", headers={"Content-Type": "text/html"}),
            ("unconfirmed", "not from an OTLP receiver"),
        ),
        ("grpc", "traces", SinkAnswer(code="UNAUTHENTICATED", message="no key"), ("failed", "no key")),
        ("grpc", "metrics", SinkAnswer(code="UNIMPLEMENTED"), ("failed", "UNIMPLEMENTED")),
        ("grpc", "logs", SinkAnswer(rejected=1, message="too old"), ("rejected", "too old")),
    ],
)
def test_a_collector_that_refuses(
    upstream: ScriptedUpstream,
    capsys: pytest.CaptureFixture[str],
    protocol: str,
    signal: str,
    said: SinkAnswer,
    told: tuple[str, ...],
) -> None:
    """One signal alone: why is told, and what to look at; the other two are well."""
    upstream.answer_always(*answer(status=401))
    with OtlpSink(protocol) as sink:
        sink.answer_always(signal, said)
        code, found = checked(capsys, *FREE, upstream.url, environ=sink.environ(), collector=True)
    assert code == 1
    states = {name: found[f"collector, {name}"]["state"] for name in ("traces", "metrics", "logs")}
    assert states == {name: "fail" if name == signal else "ok" for name in states}, found
    assert all(word in found[f"collector, {signal}"]["says"] for word in told), found
    assert "OTEL_EXPORTER_OTLP_HEADERS" in found[f"collector, {signal}"]["fix"]


@pytest.mark.parametrize("spoken,served", [PROTOCOLS, PROTOCOLS[::-1]], ids=["http to grpc", "grpc to http"])
def test_a_collector_of_the_other_protocol(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], spoken: str, served: str
) -> None:
    """The port is open and nothing arrives; the protocol is one of the things to look at."""
    upstream.answer_always(*answer(status=401))
    with OtlpSink(served) as sink:
        environ = sink.environ() | {
            "OTEL_EXPORTER_OTLP_PROTOCOL": spoken,
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint.replace("grpc://", "http://"),
        }
        code, found = checked(capsys, *FREE, upstream.url, environ=environ, collector=True)
    assert code == 1
    for name in ("traces", "metrics", "logs"):
        assert found[f"collector, {name}"]["state"] == "fail"
        assert "OTEL_EXPORTER_OTLP_PROTOCOL" in found[f"collector, {name}"]["fix"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_is_not_there(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    """Nobody listens: each signal is lost, in bounded time, and it is told that it could not connect."""
    upstream.answer_always(*answer(status=401))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{probe.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        code, found = checked(capsys, *FREE, upstream.url, environ=environ, collector=True)
    assert code == 1
    for name in ("traces", "metrics"):
        assert found[f"collector, {name}"]["state"] == "fail"
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" in found[f"collector, {name}"]["fix"]


def test_a_running_sidecars_recording_stays_as_it_is(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The one request that the collector is asked with is in no file of it, and none goes for it."""
    upstream.answer_always(*answer(status=401))
    with OtlpSink() as sink:
        environ = {**sink.environ(), "SIDECAR_RECORD": str(tmp_path)}
        assert checked(capsys, *FREE, upstream.url, environ=environ, collector=True)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_no_collector(upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]) -> None:
    """That is told, and is no failure."""
    upstream.answer_always(*answer(status=401))
    code, found = checked(capsys, *FREE, upstream.url, collector=True)
    assert (code, found["collector"]["state"]) == (0, "warn")
    assert "telemetry export is off" in found["collector"]["says"]
