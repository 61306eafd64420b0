"""How a request id is composed: `session:conversation:counter:timestamp:random`, or the operator's own way.

Owns the check of `SIDECAR_REQUEST_ID_FORMAT` and the composing. An id is never parsed back: session and
conversation ids may hold the same punctuation.
"""

import re
from string import Formatter

DEFAULT_FORMAT = "{session}:{conversation}:{counter}:{timestamp}:{random}"

FIELDS = ("session", "conversation", "counter", "timestamp", "random")
"""What a format may name. `timestamp` is Unix milliseconds, `random` 8 hex digits, `counter` the sequence."""

_NUMBERS = ("counter", "timestamp")
_NUMBER_SPEC = re.compile(r"(0[1-9][0-9]?)?d?")
_LONGEST = 200
_ALLOWED = (
    f"literal text and the fields {', '.join('{' + name + '}' for name in FIELDS)}; {{random}} is needed"
)


class RequestIdFormatError(ValueError):
    """A request id format that cannot be used; the text says what is wrong and what is allowed."""

    def __init__(self, template: str, wrong: str) -> None:
        super().__init__(f"request id format {template[:_LONGEST]!r}: {wrong}; allowed: {_ALLOWED}")


class RequestIdFormat:
    """A checked format. Numbers may be padded (`{counter:04d}`); the literal text is printable ASCII without blanks.

    Raises:
        RequestIdFormatError: the template names an unknown field, lacks `{random}` or is malformed.
    """

    __slots__ = ("_compose", "template")

    def __init__(self, template: str = DEFAULT_FORMAT) -> None:
        _check(template)
        self.template = template
        self._compose = template.format

    def compose(self, *, session: str, conversation: str, counter: int, timestamp: int, random: int) -> str:
        """The id; `timestamp` in Unix milliseconds, `random` of 32 bits."""
        return self._compose(
            session=session,
            conversation=conversation,
            counter=counter,
            timestamp=timestamp,
            random=f"{random & 0xFFFFFFFF:08x}",
        )


def _check(template: str) -> None:
    if len(template) > _LONGEST:
        raise RequestIdFormatError(template, f"longer than {_LONGEST} characters")
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise RequestIdFormatError(template, str(error)) from None
    named = set()
    for literal, name, spec, conversion in parts:
        if not (literal.isascii() and literal.isprintable()) or " " in literal:
            raise RequestIdFormatError(template, "its text must be printable ASCII without blanks")
        if name is None:
            continue
        if name not in FIELDS:
            raise RequestIdFormatError(template, f"unknown field {{{name}}}")
        if conversion or (spec and not (name in _NUMBERS and _NUMBER_SPEC.fullmatch(spec))):
            raise RequestIdFormatError(template, f"{{{name}}} cannot be formatted that way")
        named.add(name)
    if "random" not in named:
        raise RequestIdFormatError(template, "without {random} two requests could share an id")
