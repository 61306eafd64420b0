"""Which provider error codes may become a label: a fixed list of words, whatever a provider sends.

Owns the list and how an error object is read. A word that is not listed is never passed on, so
`error.type` stays bounded; an error's message is not read at all.
"""

import msgspec

from sidecar.apis.decode import Shape
from sidecar.apis.salvage import LARGE, UnreadableBody
from sidecar.core.facts import Route

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

KNOWN_ERRORS = frozenset(f"{_OPENAI} {_ANTHROPIC} {_GOOGLE}".split())
"""Every word that may be passed on: codes and types of OpenAI, Anthropic, Google and compatible servers."""

_ABSENT = frozenset((b"", b"null", b"{}", b'""', b"false", b"[]"))


class _Words(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None
    status: str | int | None = None


class _Answer(_Words):
    error: msgspec.Raw = msgspec.Raw()


_ERROR = Shape(_Words)
_ERROR_BODY = Shape(_Answer)


def is_error(error: msgspec.Raw) -> bool:
    """True when an `error` member says something: it is neither absent nor empty."""
    return bytes(error) not in _ABSENT if error else False


def error_word(error: bytes | msgspec.Raw) -> str:
    """The known word of an error member (an object or anything else), an HTTP status it names, or `error`."""
    if len(error) > LARGE:
        return UNKNOWN_ERROR
    try:
        found, _ = _ERROR.read(bytes(error))
    except UnreadableBody:
        return UNKNOWN_ERROR
    return _known(found) or _status(found) or UNKNOWN_ERROR


def error_code(route: Route, body: bytes) -> str | None:  # noqa: ARG001 - asked per route; all share one list
    """The provider's error code, type or status in the body of an answer >= 400, if it is a known word."""
    text = body.strip()
    if text.startswith(b"["):
        # A Gemini stream that is not asked for as events answers with an array of one error.
        text = text[1:].removesuffix(b"]")
    try:
        found, _ = _ERROR_BODY.read(text)
        inner, _ = _ERROR.read(bytes(found.error)) if found.error else (None, ())
    except UnreadableBody:
        return None
    return (_known(inner) if inner else None) or _known(found)


def _known(error: _Words) -> str | None:
    """The most telling word first: OpenAI's code says more than its type."""
    for word in (error.code, error.type, error.status):
        if word in KNOWN_ERRORS:
            return str(word)
    return None


def _status(error: _Words) -> str | None:
    """An HTTP status that stands in an error object as a number or as digits."""
    for word in (error.code, error.status):
        text = str(word)
        if len(text) == 3 and text.isdecimal() and text.isascii() and "400" <= text <= "599":
            return text
    return None
