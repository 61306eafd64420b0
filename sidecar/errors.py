"""What can go wrong with a request, as a small family: each error knows how to be told to everybody.

Owns, per error: the HTTP status, the provider-style code, the telemetry word, the outcome, and a hint for the
operator that names the setting behind it. Pure: it sends nothing and logs nothing. The relay takes these as
values and answers with `render`; `CannotListenError` is for the command line.
"""

import errno
import json
from collections.abc import Iterable
from typing import ClassVar, Literal, Self

from sidecar.core.facts import Outcome
from sidecar.core.headers import Field
from sidecar.core.shown import REDACTED, is_plain

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
        return cls(address, setting, "the host is not an address of this machine")


class SidecarError(Exception):
    """An error the sidecar answers with. Class attributes hold what is the same for every case.

    `word` is short and fixed (telemetry's `error.type`); `closes` says that the client's connection cannot be
    used again; `fields` are header fields the answer needs; `setting` is the variable behind it, if one is.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    outcome: ClassVar[Outcome]
    closes: ClassVar[bool] = False
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init__(
        self, message: str, *, word: str, hint: str | None = None, setting: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.word = word
        self.hint = hint
        self.setting = setting

    @property
    def text(self) -> str:
        """The message with its hint, as the caller reads it."""
        return f"sidecar: {self.message}" + (f" ({self.hint})" if self.hint else "")


class RefusedError(SidecarError):
    """The sidecar itself says no."""

    outcome = Outcome.REFUSED


class MalformedError(RefusedError):
    """What came is not HTTP as RFC 9110 and 9112 have it."""

    status = 400
    code = "malformed_request"
    closes = True

    def __init__(self, message: str) -> None:
        super().__init__(
            message, word="malformed", hint="the connection is closed; the request was not passed on"
        )


class FramingError(MalformedError):
    """A body whose end cannot be told for certain: two lengths, length beside chunks, a bad chunk."""

    code = "malformed_body"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.word = "body_framing"


class HeadTooLargeError(RefusedError):
    """A head over `SIDECAR_HEAD_LIMIT` bytes or `SIDECAR_HEAD_FIELDS` fields."""

    status = 431
    code = "head_too_large"
    closes = True

    def __init__(self, setting: Literal["SIDECAR_HEAD_LIMIT", "SIDECAR_HEAD_FIELDS"], limit: int) -> None:
        unit = "bytes" if setting == "SIDECAR_HEAD_LIMIT" else "fields"
        super().__init__(
            f"the request's head is larger than {limit} {unit}",
            word="head_too_large",
            hint=f"{setting} sets the limit",
            setting=setting,
        )


class UpgradeRefusedError(RefusedError):
    """A WebSocket upgrade: not offered; clients fall back to plain HTTP on 426.

    RFC 9110 (15.5.22) wants a 426 to name a protocol in `Upgrade`: HTTP/1.1, the one that is served.
    """

    status = 426
    code = "upgrade_not_offered"
    fields = ((b"Upgrade", b"HTTP/1.1"), (b"Connection", b"Upgrade"))

    def __init__(self, protocol: str) -> None:
        super().__init__(
            f"an upgrade to {_word(protocol)} is not offered here",
            word="upgrade",
            hint="send the request as plain HTTP",
        )


class OverloadError(RefusedError):
    """More requests in flight than `SIDECAR_MAX_REQUESTS`."""

    status = 503
    code = "overloaded"
    fields = ((b"Retry-After", b"1"),)

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} requests are in flight, which is all that is allowed",
            word="overload",
            hint="SIDECAR_MAX_REQUESTS sets the limit",
            setting="SIDECAR_MAX_REQUESTS",
        )


class HeadsMemoryError(OverloadError):
    """A large head, where `SIDECAR_INSPECT_MEMORY` is used up."""

    def __init__(self) -> None:
        RefusedError.__init__(
            self,
            "no memory is left for a head of this size",
            word="overload",
            hint="SIDECAR_INSPECT_MEMORY sets the limit; heads of up to 4 KiB need none of it",
            setting="SIDECAR_INSPECT_MEMORY",
        )


class DrainingError(RefusedError):
    """The sidecar is shutting down and takes nothing new."""

    status = 503
    code = "draining"
    closes = True
    fields = ((b"Retry-After", b"1"),)

    def __init__(self) -> None:
        super().__init__("shutting down, no new requests are taken", word="draining")


class UnknownUpstreamError(RefusedError):
    """The path's first segment names no upstream, and there is no default one."""

    status = 404
    code = "unknown_upstream"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = ", ".join(sorted(known))
        super().__init__(
            f"no upstream is called {_word(name)!r}; known: {names}",
            word="unknown_upstream",
            hint="SIDECAR_UPSTREAMS names them, SIDECAR_UPSTREAM is the default",
            setting="SIDECAR_UPSTREAMS",
        )


UpstreamWord = Literal[
    "connection_refused", "connection_reset", "dns", "tls", "proxy", "malformed", "cut_short", "unreachable"
]

_UPSTREAM_HINTS: dict[UpstreamWord, str] = {
    "connection_refused": "is it running, and is SIDECAR_UPSTREAM right?",
    "connection_reset": "the upstream or something before it broke the connection",
    "dns": "is the host in SIDECAR_UPSTREAM right, and does DNS work here?",
    "tls": "SSL_CERT_FILE names the authorities that are trusted",
    "proxy": "HTTPS_PROXY, HTTP_PROXY and NO_PROXY choose the proxy",
    "malformed": "is SIDECAR_UPSTREAM an HTTP/1.1 server, and is its scheme (http or https) right?",
    "cut_short": "the upstream or something before it broke off",
    "unreachable": "is there a route to the host in SIDECAR_UPSTREAM?",
}


class UpstreamFailedError(SidecarError):
    """The upstream could not be reached, or what it sent is not HTTP. `word` says which."""

    status = 502
    code = "upstream_failed"
    outcome = Outcome.UPSTREAM_FAILED

    def __init__(self, word: UpstreamWord, message: str) -> None:
        super().__init__(message, word=word, hint=_UPSTREAM_HINTS[word], setting="SIDECAR_UPSTREAM")


class TimedOutError(SidecarError):
    """One of the sidecar's own timers ran out; its setting is named."""

    outcome = Outcome.TIMED_OUT
    what: ClassVar[str]
    timer: ClassVar[str]

    def __init__(self, seconds: float) -> None:
        setting = f"SIDECAR_{self.timer}"
        super().__init__(
            f"{self.what} within {seconds:g} s",
            word="timeout." + self.timer.removesuffix("_TIMEOUT").lower(),
            hint=f"{setting} sets the time",
            setting=setting,
        )


class ClientHeadTimeoutError(TimedOutError):
    """The request's head did not come."""

    status = 408
    code = "request_timeout"
    closes = True
    what = "the request's head did not arrive"
    timer = "CLIENT_HEAD_TIMEOUT"


class ClientBodyTimeoutError(TimedOutError):
    """The request's body stopped coming, or comes too slowly to hold a place for it."""

    status = 408
    code = "request_timeout"
    closes = True
    what = "too little of the request's body arrived"
    timer = "CLIENT_BODY_TIMEOUT"


class ConnectTimeoutError(TimedOutError):
    """No connection to the upstream stood in time."""

    status = 504
    code = "upstream_timeout"
    what = "the upstream could not be connected to"
    timer = "CONNECT_TIMEOUT"


class FirstByteTimeoutError(TimedOutError):
    """The upstream did not begin to answer."""

    status = 504
    code = "upstream_timeout"
    what = "the upstream did not begin to answer"
    timer = "FIRST_BYTE_TIMEOUT"


class IdleTimeoutError(TimedOutError):
    """An answer that had begun fell silent."""

    status = 504
    code = "upstream_timeout"
    what = "the upstream sent nothing more"
    timer = "IDLE_TIMEOUT"


class ClientIdleTimeoutError(IdleTimeoutError):
    """The client took nothing more of an answer that had begun."""

    what = "the client took nothing more of the answer"


class ShutdownError(SidecarError):
    """A request that was still running when the drain ended; told to the client only if no answer had begun."""

    status = 503
    code = "shutdown"
    outcome = Outcome.SHUTDOWN
    closes = True
    fields = ((b"Retry-After", b"1"),)

    def __init__(self) -> None:
        super().__init__(
            "shut down while the request was running",
            word="shutdown",
            hint="SIDECAR_SHUTDOWN_TIMEOUT sets how long requests may still run",
            setting="SIDECAR_SHUTDOWN_TIMEOUT",
        )


class ExhaustedError(SidecarError):
    """This process or machine has no file descriptor, port, memory or thread left for a connection to the upstream."""

    status = 503
    code = "out_of_resources"
    outcome = Outcome.INTERNAL_ERROR
    fields = ((b"Retry-After", b"1"),)

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            word="out_of_resources",
            hint="the sidecar's own limits, not the upstream's: open files (ulimit -n), local ports, memory",
        )


class InternalError(SidecarError):
    """A bug of the sidecar's; the details are in its log, not in the answer."""

    status = 500
    code = "internal_error"
    outcome = Outcome.INTERNAL_ERROR
    closes = True

    def __init__(self) -> None:
        super().__init__("an internal error; the sidecar's log has the details", word="internal_error")


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


def _word(text: str) -> str:
    """A caller's word, safe to repeat: a key may have been put in the wrong place."""
    return text if is_plain(text.replace("/", ".").replace(" ", "-")) else REDACTED
