"""What can go wrong with a request, as a small family: each error knows how to be told to everybody.

Owns, per error: the HTTP status, the provider-style code, the telemetry word, and a hint for the operator that
names the setting behind it. It decides nothing, sends nothing and logs nothing: the relay decides the outcome
and answers with `render`; `CannotListenError` is for the command line.
"""

import errno
import json
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, Self

from sidecar.core.headers import Field

Shape = Literal["openai", "anthropic", "gemini"]
"""Whose error bodies a client expects."""


class CannotListenError(Exception):
    """A port cannot be had; the text is one clear line."""

    def __init__(self, address: str, setting: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address} ({setting}): {reason}")

    @classmethod
    def because(cls, error: OSError, address: str, setting: str) -> Self:
        """From what the operating system said when the port was asked for."""
        if error.errno == errno.EADDRINUSE:
            return cls(address, setting, "the port is in use")
        if error.errno in {errno.EACCES, errno.EPERM}:
            return cls(address, setting, "not allowed; ports below 1024 need a privilege")
        return cls(address, setting, "the host is no address of this machine")


class SidecarError(Exception):
    """An error the sidecar answers with. What is the same for every case stands on the class.

    `status` is HTTP's; `code` is the word for programs in an OpenAI-shaped body; `word` is telemetry's
    `error.type`, short and fixed; `hint` tells the operator what to look at; `setting` is the variable behind
    the error, if there is one; `fields` are header fields that the answer needs.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    word: str
    hint: str | None = None
    setting: ClassVar[str | None] = None
    fields: ClassVar[tuple[Field, ...]] = ()

    @property
    def text(self) -> str:
        """The message with its hint, as the caller reads it."""
        return f"sidecar: {self}" + (f" ({self.hint})" if self.hint else "")


class MalformedRequestError(SidecarError):
    """What came is not HTTP as RFC 9110 and 9112 have it: a bad head, or a body whose end cannot be told."""

    status = 400
    code = "malformed_request"
    word = "malformed"
    hint = "the connection is closed"


class HeadTooLargeError(SidecarError):
    """A head with more bytes or fields than is allowed."""

    status = 431
    code = "head_too_large"
    word = "head_too_large"
    hint = "SIDECAR_HEAD_LIMIT and SIDECAR_HEAD_FIELDS set the limits"
    setting = "SIDECAR_HEAD_LIMIT"

    def __init__(self) -> None:
        super().__init__("the request's head has too many bytes or fields")


class UpgradeRefusedError(SidecarError):
    """A protocol upgrade, such as WebSocket's: not offered; clients fall back to plain HTTP on 426.

    RFC 9110 (15.5.22) has a 426 name a protocol in `Upgrade`: HTTP/1.1, the one that is served.
    """

    status = 426
    code = "upgrade_not_offered"
    word = "upgrade"
    hint = "send the request as plain HTTP"
    fields = ((b"Upgrade", b"HTTP/1.1"), (b"Connection", b"Upgrade"))

    def __init__(self) -> None:
        super().__init__("upgrades, WebSocket's among them, are not offered here")


class OverloadError(SidecarError):
    """As many requests are in flight as are allowed."""

    status = 503
    code = "overloaded"
    word = "overload"
    hint = "SIDECAR_MAX_REQUESTS sets the limit"
    setting = "SIDECAR_MAX_REQUESTS"
    fields = ((b"Retry-After", b"1"),)

    def __init__(self) -> None:
        super().__init__("too many requests are in flight")


class DrainingError(SidecarError):
    """The sidecar is shutting down and takes nothing new."""

    status = 503
    code = "draining"
    word = "draining"
    fields = ((b"Retry-After", b"1"),)

    def __init__(self) -> None:
        super().__init__("shutting down, no new requests are taken")


class ShutdownError(SidecarError):
    """A request that had no answer yet when the drain ended."""

    status = 503
    code = "shutdown"
    word = "shutdown"
    hint = "SIDECAR_SHUTDOWN_TIMEOUT sets how long requests may still run"
    setting = "SIDECAR_SHUTDOWN_TIMEOUT"
    fields = ((b"Retry-After", b"1"),)

    def __init__(self) -> None:
        super().__init__("shut down before an answer had come")


class UnknownUpstreamError(SidecarError):
    """The path's first segment names no upstream, and there is no default one. `known` are those there are."""

    status = 404
    code = "unknown_upstream"
    word = "unknown_upstream"
    hint = "SIDECAR_UPSTREAMS names them, SIDECAR_UPSTREAM is the default"
    setting = "SIDECAR_UPSTREAMS"

    def __init__(self, known: Iterable[str]) -> None:
        super().__init__(f"the path must begin with the name of an upstream: {', '.join(sorted(known))}")


class UpstreamError(SidecarError):
    """The upstream could not be reached, or what it sent is not HTTP; `word` says which of `UPSTREAM_HINTS`."""

    status = 502
    code = "upstream_failed"
    setting = "SIDECAR_UPSTREAM"

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word
        self.hint = UPSTREAM_HINTS.get(word)


UPSTREAM_HINTS: Mapping[str, str] = {
    "connection_refused": "is it running, and is SIDECAR_UPSTREAM right?",
    "connection_reset": "the upstream or something before it broke the connection",
    "dns": "is the host in SIDECAR_UPSTREAM right, and does DNS work here?",
    "tls": "SSL_CERT_FILE names the authorities that are trusted",
    "proxy": "HTTPS_PROXY, HTTP_PROXY and NO_PROXY choose the proxy",
    "malformed": "is SIDECAR_UPSTREAM an HTTP/1.1 server, and http or https as it should be?",
    "cut_short": "the upstream or something before it broke off",
}
"""What an operator can look at, by the word of an upstream's failure."""


class TimeoutExpiredError(SidecarError):
    """One of the sidecar's own timers ran out. Subclasses say what did not come and which setting waited."""

    what: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(f"{self.what} in time")
        self.hint = f"{self.setting} sets the time"


class HeadTimeoutError(TimeoutExpiredError):
    """The request's head did not come."""

    status = 408
    code = "request_timeout"
    word = "timeout.client_head"
    setting = "SIDECAR_CLIENT_HEAD_TIMEOUT"
    what = "the request's head did not arrive"


class BodyTimeoutError(TimeoutExpiredError):
    """The request's body stopped coming."""

    status = 408
    code = "request_timeout"
    word = "timeout.client_body"
    setting = "SIDECAR_CLIENT_BODY_TIMEOUT"
    what = "nothing more of the request's body arrived"


class ConnectTimeoutError(TimeoutExpiredError):
    """No connection to the upstream stood in time."""

    status = 504
    code = "upstream_timeout"
    word = "timeout.connect"
    setting = "SIDECAR_CONNECT_TIMEOUT"
    what = "no connection to the upstream stood"


class FirstByteTimeoutError(TimeoutExpiredError):
    """The upstream did not begin to answer."""

    status = 504
    code = "upstream_timeout"
    word = "timeout.first_byte"
    setting = "SIDECAR_FIRST_BYTE_TIMEOUT"
    what = "the upstream did not begin to answer"


class IdleTimeoutError(TimeoutExpiredError):
    """An exchange that had begun fell silent."""

    status = 504
    code = "upstream_timeout"
    word = "timeout.idle"
    setting = "SIDECAR_IDLE_TIMEOUT"
    what = "nothing more came from the upstream"


class InternalError(SidecarError):
    """A bug of the sidecar's; the details are in its log, not in the answer."""

    status = 500
    code = "internal_error"
    word = "internal_error"

    def __init__(self) -> None:
        super().__init__("an internal error; the sidecar's log has the details")


_OPENAI_TYPES = {
    408: "timeout_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "timeout_error",
}
_ANTHROPIC_TYPES = {
    404: "not_found_error",
    408: "timeout_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_GEMINI_STATUSES = {
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    426: "FAILED_PRECONDITION",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def shape_of(provider: str | None) -> Shape:
    """The shape for a `gen_ai.provider.name`, or for what a route's shape tells; OpenAI's where unknown."""
    if provider == "anthropic":
        return "anthropic"
    return "gemini" if provider and provider.startswith("gcp.") else "openai"


def render(error: SidecarError, shape: Shape) -> bytes:
    """The answer's JSON body, in the form that the provider's own clients read. Content type: application/json."""
    body: dict[str, object]
    if shape == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error")
        body = {"type": "error", "error": {"type": kind, "message": error.text}}
    elif shape == "gemini":
        state = _GEMINI_STATUSES.get(error.status, "INVALID_ARGUMENT")
        body = {"error": {"code": error.status, "message": error.text, "status": state}}
    else:
        kind = _OPENAI_TYPES.get(error.status, "invalid_request_error")
        body = {"error": {"message": error.text, "type": kind, "param": None, "code": error.code}}
    return json.dumps(body).encode()
