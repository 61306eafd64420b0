"""The errors a client can meet: statuses, bodies in each provider's shape, and hints that name a setting."""

import errno
import json

import pytest

from sidecar.core.facts import Outcome
from sidecar.errors import (
    CannotListenError,
    ClientBodyTimeoutError,
    ClientHeadTimeoutError,
    ConnectTimeoutError,
    DrainingError,
    ExhaustedError,
    FirstByteTimeoutError,
    FramingError,
    HeadsMemoryError,
    HeadTooLargeError,
    IdleTimeoutError,
    InternalError,
    MalformedError,
    OverloadError,
    ShutdownError,
    SidecarError,
    UnknownUpstreamError,
    UpgradeRefusedError,
    UpstreamFailedError,
    render,
    shape_of,
)
from sidecar.settings import TABLE

CASES = [
    (MalformedError("no host"), 400, "malformed", Outcome.REFUSED),
    (FramingError("two lengths"), 400, "body_framing", Outcome.REFUSED),
    (HeadTooLargeError("SIDECAR_HEAD_LIMIT", 65536), 431, "head_too_large", Outcome.REFUSED),
    (HeadTooLargeError("SIDECAR_HEAD_FIELDS", 256), 431, "head_too_large", Outcome.REFUSED),
    (UpgradeRefusedError("websocket"), 426, "upgrade", Outcome.REFUSED),
    (OverloadError(10), 503, "overload", Outcome.REFUSED),
    (HeadsMemoryError(), 503, "overload", Outcome.REFUSED),
    (DrainingError(), 503, "draining", Outcome.REFUSED),
    (UnknownUpstreamError("x", ["b", "a"]), 404, "unknown_upstream", Outcome.REFUSED),
    (UpstreamFailedError("dns", "no such name"), 502, "dns", Outcome.UPSTREAM_FAILED),
    (ClientHeadTimeoutError(30), 408, "timeout.client_head", Outcome.TIMED_OUT),
    (ClientBodyTimeoutError(60), 408, "timeout.client_body", Outcome.TIMED_OUT),
    (ConnectTimeoutError(10), 504, "timeout.connect", Outcome.TIMED_OUT),
    (FirstByteTimeoutError(600), 504, "timeout.first_byte", Outcome.TIMED_OUT),
    (IdleTimeoutError(0.5), 504, "timeout.idle", Outcome.TIMED_OUT),
    (ShutdownError(), 503, "shutdown", Outcome.SHUTDOWN),
    (ExhaustedError("no connection"), 503, "out_of_resources", Outcome.INTERNAL_ERROR),
    (InternalError(), 500, "internal_error", Outcome.INTERNAL_ERROR),
]


@pytest.mark.parametrize("error,status,word,outcome", CASES, ids=lambda case: getattr(case, "word", None))
def test_every_error(error: SidecarError, status: int, word: str, outcome: Outcome) -> None:
    """Each knows its status, its telemetry word and the outcome it is part of."""
    assert (error.status, error.word, error.outcome) == (status, word, outcome)
    assert str(error) == error.message


@pytest.mark.parametrize("error", [case[0] for case in CASES], ids=lambda error: type(error).__name__)
def test_settings_that_are_named_exist(error: SidecarError) -> None:
    """A setting that an error blames is in the table, and in the text the caller reads."""
    if error.setting is not None:
        assert error.setting in {setting.variable for setting in TABLE}
        assert error.setting in error.text


def test_a_timer_names_its_setting_and_its_time() -> None:
    """Whoever reads a 504 knows which knob it was."""
    assert IdleTimeoutError(0.5).text == (
        "sidecar: the upstream sent nothing more within 0.5 s (SIDECAR_IDLE_TIMEOUT sets the time)"
    )


def test_fields() -> None:
    """Overload says when to come back; 426 names what is served instead."""
    assert OverloadError(1).fields == ((b"Retry-After", b"1"),)
    assert (b"Upgrade", b"HTTP/1.1") in UpgradeRefusedError("websocket").fields
    assert MalformedError("x").closes
    assert not OverloadError(1).closes


def test_unknown_upstream_lists_the_known_ones() -> None:
    """The names are sorted, and a hostile one is repeated harmlessly and in part."""
    error = UnknownUpstreamError("évil\r\n" + "x" * 1000, ["b", "a"])
    assert "known: a, b" in error.text
    assert "\r" not in error.text
    assert len(error.text) < 300


@pytest.mark.parametrize(
    "provider,shape",
    [
        (None, "openai"),
        ("openai", "openai"),
        ("anthropic", "anthropic"),
        ("gcp.gemini", "gemini"),
        ("x_ai", "openai"),
    ],
)
def test_shapes(provider: str | None, shape: str) -> None:
    """Providers without a shape of their own get OpenAI's."""
    assert shape_of(provider) == shape


def test_openai_body() -> None:
    """As the openai client reads it."""
    assert json.loads(render(UpstreamFailedError("connection_refused", "h:1 refused"), "openai")) == {
        "error": {
            "message": "sidecar: h:1 refused (is it running, and is SIDECAR_UPSTREAM right?)",
            "type": "server_error",
            "param": None,
            "code": "upstream_failed",
        }
    }
    assert json.loads(render(MalformedError("x"), "openai"))["error"]["type"] == "invalid_request_error"


def test_anthropic_body() -> None:
    """As the anthropic client reads it."""
    body = json.loads(render(OverloadError(1), "anthropic"))
    assert body["type"] == "error"
    assert body["error"]["type"] == "overloaded_error"
    assert body["error"]["message"].startswith("sidecar: ")


def test_gemini_body() -> None:
    """As Google's clients read it."""
    body = json.loads(render(FirstByteTimeoutError(1), "gemini"))
    assert (body["error"]["code"], body["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
    assert (
        json.loads(render(HeadTooLargeError("SIDECAR_HEAD_LIMIT", 1), "gemini"))["error"]["status"]
        == "INVALID_ARGUMENT"
    )


@pytest.mark.parametrize(
    "number,reason",
    [
        (errno.EADDRINUSE, "in use"),
        (errno.EACCES, "privilege"),
        (errno.EADDRNOTAVAIL, "not an address of this machine"),
    ],
)
def test_cannot_listen(number: int, reason: str) -> None:
    """One clear line, with the setting to change."""
    text = str(CannotListenError.because(OSError(number, "x"), "h:1", "SIDECAR_LISTEN"))
    assert text.startswith("cannot listen on h:1 (SIDECAR_LISTEN): ")
    assert reason in text
