"""Plans: what heads of one shape have in common is found once, and each later one of that shape by one look-up.

A plan belongs to a first line and a number of lines, and is verified on every message by the names of all its fields, in
order; it says where to look, never what stands there. Owns which messages may go by a plan: those whose head came in one
read, of which nothing is unusual, not even a blank, so that what goes on is what the other way would write. All others are read field by field (`request_reader.py`, `answer_reader.py`), from their first byte.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Generic, TypeVar

import httptools

from sidecar.core.exchange import RequestHead
from sidecar.core.headers import Headers
from sidecar.core.identity import IdentityRules, names_who
from sidecar.proxy.request_reader import HOST, Inbound
from sidecar.proxy.wire import BODILESS, AnswerHead, Lines, Routes, Target, passes_down, passes_up

_HEAD_END = b"\r\n\r\n"

_PLANS, _FIELDS, _NAMES = 512, 64, 2048
"""How many plans are remembered in each direction, and what one may have: fields, and bytes of first line and names."""

_CONNECTION = (b"keep-alive", b"close")
_DIGITS = 18

_UNUSUAL = frozenset((b"transfer-encoding", b"upgrade", b"expect", b"proxy-connection", b"te", b"trailer"))
"""Fields of requests that are read field by field."""

TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"
STRICT_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (" + TEXT + rb"))?\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:" + TEXT + rb"\r\n)*+)\r\n"
)
"""A head as RFC 9112 writes it."""

FORBIDDEN = bytes((*range(9), *range(10, 32), 127))
"""What no reason phrase and no field's value may hold (RFC 9112, section 4; RFC 9110, section 5.5)."""

P = TypeVar("P", bound="_Shape")

_starts = bytes.startswith
_pick_all: Callable[[Sequence[bytes]], Lines] = tuple


class _Shape:
    """The lines of a head whose fields have these names in this order; `passes` says by a name (lower case) which go on."""

    __slots__ = ("before", "lower", "names", "passing", "prefixes")

    def __init__(self, lines: list[bytes], passes: Callable[[bytes], bool]) -> None:
        self.names = tuple(line.partition(b":")[0] for line in lines[1:])
        self.lower = tuple(name.lower() for name in self.names)
        self.before = tuple(name + b": " for name in self.names)
        self.prefixes = (lines[0], *self.before)
        self.passing = _pick([0, *(at for at, name in enumerate(self.lower, 1) if passes(name))], len(lines))


class _Plan(_Shape):
    """What requests of one shape have in common."""

    __slots__ = ("host", "host_at", "host_line", "method", "path", "target", "told", "who")

    def __init__(self, lines: list[bytes], target: Target, rules: IdentityRules) -> None:
        super().__init__(lines, passes_up)
        method, path, _ = lines[0].split(b" ")
        self.method, self.path, self.target = method.decode("latin-1"), path, target
        at = self.lower.index(b"host")
        self.host_at, self.host_line = at + 1, self.names[at] + b": " + target.host
        self.host: bytes | None = None
        """The value that has been found good last."""
        self.who = tuple(name for name in self.lower if names_who(name, rules))
        """The fields that may say who is talking."""
        self.told: Callable[[Mapping[bytes, bytes]], object] = itemgetter(*self.who) if self.who else len
        """What they say; for heads of this shape, where there are none, always the same."""


def _pick(places: list[int], size: int) -> Callable[[Sequence[bytes]], Lines]:
    """What takes the lines at these places; the first is always one of them, and the Host."""
    return _pick_all if len(places) == size else itemgetter(*places)


def _fit(first: bytes, names: list[bytes], most: int) -> bool:
    """True for a head that a plan may be made for: no name stands twice, and a plan stays small."""
    few = len(names) <= min(_FIELDS, most) and len(set(names)) == len(names)
    return few and b"" not in names and len(first) + sum(map(len, names)) <= _NAMES


class _Plans(Generic[P]):
    """The plans of one direction. `max_size` in bytes, `max_fields` in fields, of a head."""

    def __init__(self, max_size: int, max_fields: int) -> None:
        self.max_size = max_size
        self.max_fields = max_fields
        self._plans: dict[tuple[bytes, int], P] = {}

    def _remember(self, lines: list[bytes], plan: P) -> P | None:
        """Keeps the plan, if the head that it is made of is written as a plan wants it."""
        if not all(map(_starts, lines, plan.prefixes)):
            return None
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[lines[0], len(lines)] = plan
        return plan


def _is_more(length: bytes | None, size: int) -> bool:
    """True for a length, written as one, that is more than has come."""
    return length is not None and length.isdigit() and len(length) <= _DIGITS and int(length) > size


class RequestPlans(_Plans[_Plan]):
    """The plans of one relay's requests."""

    def __init__(self, routes: Routes, rules: IdentityRules, max_size: int, max_fields: int) -> None:
        super().__init__(max_size, max_fields)
        self._routes = routes
        self._rules = rules
        self._begin()

    def _begin(self) -> None:
        """A fresh parser, which makes no call for anything but a message's end."""
        self._ended: list[int] = []
        self._parser = httptools.HttpRequestParser(_Ends(self._ended))

    def take(self, data: bytes, at: int, waited: int, peer: tuple[str, int] | None) -> Inbound | None:
        """The one request that these bytes are, or begin with its whole head; None if they are anything else or unusual.

        They came at `at` (ns since the epoch) and had waited (ns) for their turn. `peer` is who sent them.
        """
        end = data.find(_HEAD_END)
        if not 0 < end <= self.max_size:
            return None
        lines = data[:end].split(b"\r\n")
        plan = self._plans.get((lines[0], len(lines)))
        if plan is None or not all(map(_starts, lines, plan.prefixes)):
            plan = self._learn(lines)
            if plan is None:
                return None
        values = list(map(bytes.removeprefix, lines[1:], plan.before))
        if values != list(map(bytes.strip, values)):
            return None
        first = dict(zip(plan.lower, values, strict=True))
        size, length = len(data) - end - 4, first.get(b"content-length")
        whole = length == b"%d" % size or not (length or size)
        if not (whole or _is_more(length, size)):
            return None
        host, connection = first[b"host"], first.get(b"connection")
        if host != plan.host:
            if not HOST.fullmatch(host):
                return None
            plan.host = host
        if connection is not None and connection.lower() != b"keep-alive":
            return None
        if not self._is_http(data, whole=whole):
            return None
        lines[0], lines[plan.host_at] = plan.target.line, plan.host_line
        headers = Headers(None, first, plan.names, (plan.who, plan.told(first)))
        inbound = Inbound(at, waited, at)
        inbound.head = RequestHead(plan.method, plan.path, "1.1", headers, "http", *(peer or (None, None)))
        inbound.keep_alive, inbound.target, inbound.passing = True, plan.target, plan.passing(lines)
        inbound.ended, inbound.size = whole, size
        if length is not None:
            inbound.length = int(length)
        if size:
            inbound.pieces.append(data[end + 4 :])
        return inbound

    def _is_http(self, data: bytes, *, whole: bool) -> bool:
        """True if the parser finds one whole request in the bytes, or else a head and nothing behind its body."""
        ended = self._ended
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._begin()
            return False
        if not whole or len(ended) != 1:
            self._begin()
            return not whole and not ended
        ended.clear()
        return True

    def _learn(self, lines: list[bytes]) -> _Plan | None:
        """Makes a plan for heads like this one, if nothing in it is unusual."""
        words = lines[0].split(b" ")
        if len(words) != 3 or words[2] != b"HTTP/1.1" or words[1][:1] != b"/":
            return None
        if not words[0].isalpha() or words[0] == b"CONNECT":
            return None
        names = [line.partition(b":")[0].lower() for line in lines[1:]]
        if not _fit(lines[0], names, self.max_fields) or b"host" not in names or _UNUSUAL.intersection(names):
            return None
        target = self._routes.target(words[0].decode("latin-1"), words[1])
        if target.upstream is None:
            return None
        return self._remember(lines, _Plan(lines, target, self._rules))


class _AnswerPlan(_Shape):
    """What answers of one shape have in common."""

    __slots__ = ("chunked", "reason", "status")

    def __init__(self, lines: list[bytes], first: re.Match[bytes]) -> None:
        super().__init__(lines, passes_down)
        self.status, self.reason = int(first[2]), first[3] or b""
        self.chunked = b"transfer-encoding" in self.lower


class AnswerPlans(_Plans[_AnswerPlan]):
    """The plans of one relay's answers."""

    def take(self, data: bytes) -> tuple[AnswerHead, int, int | None] | None:
        """The head with which these bytes begin, where the body begins, and its length (None: chunks).

        None if the head is not whole, or anything about it is unusual.
        """
        end = data.find(_HEAD_END)
        if not 0 < end <= self.max_size:
            return None
        block = data[:end]
        lines = block.split(b"\r\n")
        plan = self._plans.get((lines[0], len(lines)))
        if plan is None or not all(map(_starts, lines, plan.prefixes)):
            plan = self._learn(lines, data)
            if plan is None:
                return None
        if len(block.translate(None, FORBIDDEN)) + 2 * len(lines) - 2 != end:
            return None  # there is a control character besides the ends of its lines
        values = list(map(bytes.removeprefix, lines[1:], plan.before))
        if values != list(map(bytes.strip, values)):
            return None
        first = dict(zip(plan.lower, values, strict=True))
        length, connection = first.get(b"content-length", b""), first.get(b"connection")
        if connection is not None and connection.lower() not in _CONNECTION:
            return None
        if plan.chunked:
            if first[b"transfer-encoding"] != b"chunked":
                return None
        elif not length.isdigit() or len(length) > _DIGITS:
            return None
        head = AnswerHead(
            plan.status, plan.reason, "1.1", Headers(None, first, plan.names), plan.passing(lines)
        )
        return head, end + 4, None if plan.chunked else int(length)

    def _learn(self, lines: list[bytes], data: bytes) -> _AnswerPlan | None:
        """Makes a plan for heads like this one, if nothing in it is unusual."""
        strict = STRICT_HEAD.match(data)
        names = [line.partition(b":")[0].lower() for line in lines[1:]]
        framed = (b"content-length" in names) + (b"transfer-encoding" in names)
        if (
            strict is None
            or strict[1] != b"1"
            or strict[3] is None
            or framed != 1
            or not _fit(lines[0], names, self.max_fields)
        ):
            return None
        if int(strict[2]) < 200 or int(strict[2]) in BODILESS:
            return None
        return self._remember(lines, _AnswerPlan(lines, strict))


class _Ends:
    """Notes the ends of messages, by a call that is not one of Python."""

    __slots__ = ("on_message_complete",)

    def __init__(self, ended: list[int]) -> None:
        self.on_message_complete = partial(ended.append, 1)
