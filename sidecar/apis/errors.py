"""Which provider error codes may become a label: a fixed list of words, whatever a provider sends.

Owns the list and how an error is read: the object of an `error` member, and what other families of APIs
send in place of an answer. A word that is not listed is never passed on, so `error.type` stays bounded; an
error's message is not read at all.
"""

import re

import msgspec

from sidecar.apis.shapes import LARGE, Shape, Steps, UnreadableBody
from sidecar.core.facts import ResponseFacts

UNKNOWN_ERROR = "error"
"""What an error is called whose own words are not in the list."""

_OPENAI = """
    api_connection_error authentication_error bad_gateway billing_hard_limit_reached billing_not_active
    bio_policy cancelled content_filter content_policy_violation context_length_exceeded
    data_residency_mismatch deactivated_workspace DeploymentNotFound empty_image_file engine_overloaded
    failed_to_download_image image_content_policy_violation image_file_not_found image_file_too_large
    image_parse_error image_too_large image_too_small incorrect_api_key insufficient_quota internal_error
    internal_server_error invalid_api_key invalid_base64_image invalid_function_parameters invalid_image
    invalid_image_format invalid_image_mode invalid_image_url invalid_json invalid_prompt
    invalid_request_error invalid_type invalid_value ip_not_authorized json_validate_failed
    misalignment_policy_violation missing_required_parameter model_not_found not_found not_found_error
    organization_deactivated organization_restricted overloaded permission_denied permission_error
    previous_response_not_found rate_limit_error rate_limit_exceeded rate_limit_reached request_timeout
    requests requests_limit server_error server_is_overloaded service_unavailable slow_down
    string_above_max_length timeout token_limit_exceeded tokens tokens_limit_reached tool_use_failed
    unknown_parameter unknown_url unsupported_country_region_territory unsupported_image_media_type
    unsupported_parameter unsupported_value upstream_error usage_limit_reached usage_not_included
    validation_error vector_store_timeout websocket_connection_limit_reached
"""

_ANTHROPIC = """
    api_error billing_error conflict_error overloaded_error request_too_large timeout_error
"""

_GOOGLE = """
    ABORTED ALREADY_EXISTS CANCELLED DATA_LOSS DEADLINE_EXCEEDED FAILED_PRECONDITION INTERNAL
    INVALID_ARGUMENT NOT_FOUND OUT_OF_RANGE PERMISSION_DENIED RESOURCE_EXHAUSTED UNAUTHENTICATED
    UNAVAILABLE UNIMPLEMENTED UNKNOWN
"""

_COMPATIBLE = """
    abort AccessDenied Arrearage BadRequestError DataInspectionFailed InternalError InternalServerError
    InvalidApiKey InvalidParameter ModelNotFound Throttling Throttling.AllocationQuota Throttling.RateQuota
    exceed_context_size_error insufficient_permissions insufficient_system_resource network_error
"""

_WORDS = frozenset(f"{_OPENAI} {_ANTHROPIC} {_GOOGLE} {_COMPATIBLE}".split())

KNOWN_ERRORS = _WORDS | {UNKNOWN_ERROR} | {str(status) for status in range(400, 600)}
"""Every word that may be passed on: codes and types of OpenAI, Anthropic, Google and compatible servers, the
statuses of HTTP, and what stands for any other word."""

_ABSENT = frozenset((b"", b"null", b"{}", b'""', b"false", b"[]", b"0"))

_BLANK = re.compile(
    rb'\{(?:\s*"[^"\\]*"\s*:\s*(?:null|"(?:0|200|(?i:ok|success))?"|false|0|200|\{\s*\}|\[\s*\])\s*,?)*+\s*\}',
    re.DOTALL,
)
"""An object whose members are all empty, or say that all went well: some relays send it where there was no error."""

ERROR_IN_TEXT = "error_finish"
"""A finish reason that says that the choice's text is an error's message (DashScope)."""

_INTERRUPTED = ("network_error", "abort", "insufficient_system_resource")
_FAILURES = {"error": UNKNOWN_ERROR, ERROR_IN_TEXT: UNKNOWN_ERROR} | {word: word for word in _INTERRUPTED}
"""Finish reasons that say that generating failed, and the error they are (OpenRouter, Mistral, Cohere; DashScope; then Z.ai;
vLLM and SGLang, whose engine gave the request up; DeepSeek)."""

_WENT_WELL = frozenset(("", "0", "200", "ok", "success"))
_WENT_WRONG = frozenset(("error", "fail", "failed", "failure"))


class _Words(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None
    status: str | int | None = None
    error_code: str | int | None = None
    error_type: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class _BaseResponse(msgspec.Struct):
    status_code: str | int | None = None


class _Foreign(_Words):
    object: str | None = None
    message: msgspec.Raw = msgspec.Raw()
    msg: msgspec.Raw = msgspec.Raw()
    detail: msgspec.Raw = msgspec.Raw()
    errors: msgspec.Raw = msgspec.Raw()
    fault: msgspec.Raw = msgspec.Raw()
    error_message: msgspec.Raw = msgspec.Raw()
    success: bool | None = None
    base_resp: _BaseResponse | None = None
    """MiniMax tells its errors here."""


_ERROR = Shape(_Words)
_FOREIGN = Shape(_Foreign)


def is_error(error: msgspec.Raw) -> bool:
    """True when an `error` member says that something went wrong: more than nothing in all of its members, or success."""
    return bool(error) and bytes(error) not in _ABSENT and _BLANK.fullmatch(error) is None


def failure(reason: str | None, error: msgspec.Raw) -> str | None:
    """The error that a choice tells by its finish reason or in a member of its own; None when it did not fail."""
    if error and is_error(error):
        return error_word(error)
    return _FAILURES.get(reason.lower()) if reason else None


def error_word(error: bytes | msgspec.Raw) -> str:
    """The known word of an error member (an object or anything else), an HTTP status it names, or `error`."""
    return _error_word(bytes(error)) or UNKNOWN_ERROR if len(error) <= LARGE else UNKNOWN_ERROR


class RejectionReader:
    """Reads the provider's error code, type or status out of the body of an answer >= 400, if it is a known word."""

    __slots__ = ("facts",)

    def __init__(self, facts: ResponseFacts) -> None:
        self.facts = facts

    def prepare(self, data: bytes) -> Steps[None]:  # noqa: ARG002 - it is all in `body`
        """Nothing: no such body is large."""
        yield from ()

    def body(self, data: bytes) -> bool:
        """Takes the body; one that tells no known word tells nothing."""
        try:
            found, _ = _ERROR.read(_first(data))
            inner, _ = _ERROR.read(_first(bytes(found.error))) if found.error else (None, ())
        except UnreadableBody:
            return True
        self.facts.error = (_known(inner) if inner else None) or _known(found)
        return True


def foreign_error(data: bytes) -> str | None:
    """The error that a body or event is which is nothing of its API's answer; None when it does not say so.

    It reads what gateways and other families of APIs send with a good status: `{"code":..,"message":..}`,
    `{"detail":..}`, `{"success":false}`, `{"base_resp":{"status_code":1004}}`, `{"errors":[..]}`,
    `{"error_type":..,"error_message":..}`, `{"error_code":336003,"error_msg":..}`.
    """
    if len(data) > LARGE:
        return None
    try:
        found, _ = _FOREIGN.read(_first(data))
    except UnreadableBody:
        return None
    for error in (found.error, found.errors, found.fault):
        if is_error(error):
            return error_word(error)
    if not (_says_error(found) or (_bad_code(found) and (is_error(found.message) or is_error(found.msg)))):
        return None
    return _known(found) or _status(found) or UNKNOWN_ERROR


def _says_error(found: _Foreign) -> bool:
    base = found.base_resp
    return (
        "error" in (found.type, found.object)
        or found.success is False
        or is_error(found.detail)
        or is_error(found.error_message)
        or bool(found.error_type)
        or _told(found.error_code) not in _WENT_WELL
        or (base is not None and _told(base.status_code) not in _WENT_WELL)
    )


def _bad_code(found: _Foreign) -> bool:
    """A code other than those of success, or a status that is one of failure: others tell how far a job has come."""
    return (
        _told(found.code) not in _WENT_WELL
        or _told(found.status) in _WENT_WRONG
        or _status(found) is not None
    )


def _told(code: str | int | None) -> str:
    return "" if code is None else str(code).lower()


def _first(text: bytes) -> bytes:
    """The one object of an array: a Gemini stream that is not asked for as events tells its error so."""
    text = text.strip()
    return text[1:].removesuffix(b"]") if text.startswith(b"[") else text


def _error_word(error: bytes, depth: int = 2) -> str | None:
    """As `error_word`, None when there is no such word; errors inside errors are read `depth` deep."""
    text = _first(error)
    if text.startswith(b'"'):
        try:
            text = msgspec.json.decode(text, type=str).encode()
        except ValueError:
            return None
    if not text.startswith(b"{"):
        word = text.decode("latin-1")
        return word if word in KNOWN_ERRORS else None
    try:
        found, _ = _ERROR.read(text)
    except UnreadableBody:
        return None
    inner = _error_word(bytes(found.error), depth - 1) if depth and is_error(found.error) else None
    return _known(found) or inner or _status(found)


def _known(error: _Words) -> str | None:
    """The most telling word first: OpenAI's code says more than its type."""
    for word in (error.code, error.error_code, error.type, error.error_type, error.status):
        if word in _WORDS:
            return str(word)
    return None


def _status(error: _Words) -> str | None:
    """An HTTP status that stands in an error object as a number or as digits."""
    for word in (error.code, error.error_code, error.status):
        text = str(word)
        if len(text) == 3 and text.isdecimal() and text.isascii() and "400" <= text <= "599":
            return text
    return None
