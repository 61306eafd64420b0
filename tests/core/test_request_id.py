"""The format of request ids: what is allowed, what is refused and why."""

import pytest

from sidecar import SessionManager
from sidecar.core.turns import RequestIdFormat, RequestIdFormatError


def compose(template: str) -> str:
    """An id by a template, of fixed parts."""
    given: dict[str, str | int] = {"session": "s:1", "conversation": "c", "counter": 7, "random": "000000ab"}
    return RequestIdFormat(template).compose({**given, "timestamp": 1_700_000_000_123})


@pytest.mark.parametrize(
    "template,expected",
    [
        ("{session}:{conversation}:{counter}:{timestamp}:{random}", "s:1:c:7:1700000000123:000000ab"),
        ("seq{counter:04d}-{random}", "seq0007-000000ab"),
        ("{random}", "000000ab"),
        ("{{{random}}}", "{000000ab}"),
        ("100%{random}%s", "100%000000ab%s"),
        ("{random}{random}", "000000ab000000ab"),
        ("{counter:d}/{timestamp:014}/{random}", "7/01700000000123/000000ab"),
    ],
)
def test_formats(template: str, expected: str) -> None:
    """Every field, padding of numbers, braces as text."""
    assert compose(template) == expected


@pytest.mark.parametrize(
    "template,wrong",
    [
        ("", "without {random}"),
        ("{session}", "without {random}"),
        ("{random}{user}", "unknown field {user}"),
        ("{random}{}", "unknown field {}"),
        ("{random}{0}", "unknown field {0}"),
        ("{random.__class__}", "unknown field {random.__class__}"),
        ("{random}{session[0]}", "unknown field {session[0]}"),
        ("{random!r}", "{random} cannot be formatted"),
        ("{random:>9}", "{random} cannot be formatted"),
        ("{random}{counter:999999999d}", "{counter} cannot be formatted"),
        ("{random}{counter:4}", "{counter} cannot be formatted"),
        ("{random}{counter:{session}}", "{counter} cannot be formatted"),
        ("{random", "expected '}'"),
        ("{random}\r\nX-Evil: 1", "printable ASCII"),
        ("{random} x", "printable ASCII"),
        ("{random}é", "printable ASCII"),
        ("{random}" + "x" * 200, "longer than 200"),
    ],
)
def test_refused_formats_say_why(template: str, wrong: str) -> None:
    """The error names the template, what is wrong with it, and what is allowed."""
    with pytest.raises(RequestIdFormatError) as caught:
        RequestIdFormat(template)
    assert wrong in str(caught.value)
    assert "{random} is needed" in str(caught.value)


def test_the_manager_refuses_a_bad_format_at_once() -> None:
    """It does not wait for the first request."""
    with pytest.raises(RequestIdFormatError):
        SessionManager(request_id_format="{session}")
