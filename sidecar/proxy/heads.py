"""Plans: what a first line means is found once, and where the fields of heads of one shape are by one match.

A shape is the names of all fields, in order; its pattern is matched with every message, so it says where to look, never
what stands there. Owns which messages may go by a plan: those whose head came in one
read, of which nothing is unusual, not even a blank, so that what goes on is what the other way would write. All others are read field by field (`request_reader.py`, `answer_reader.py`), from their first byte.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Generic, TypeVar

import httptools

from sidecar.core.exchange import RequestHead
from sidecar.core.headers import Headers
from sidecar.core.identity import IdentityRules, names_who
from sidecar.core.sse import UNCOUNTED
from sidecar.proxy.request_reader import HOST, Inbound
from sidecar.proxy.wire import BODILESS, AnswerHead, Routes, Target, head_memory, passes_down, passes_up

_HEAD_END = b"\r\n\r\n"

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

_VALUE = rb"((?:[^\r \t][^\r]*+(?<![ \t]))?+)"
"""A field's value, without blanks around it; the parser has the last word on what is in it."""
_USUAL = re.compile(rb"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]++: " + _VALUE + rb")++")
"""The fields of a head that a shape may be made for."""

_SHAPES = 8
"""How many shapes with as many fields are remembered in each direction."""

_LEARNT, _PATIENCE = 32, 1000
"""How many shapes are learnt at once in each direction, and after how many heads of none of them one more: that takes
milliseconds, and whoever invents names must not have others wait."""

_LINES = 512
"""How many first lines are remembered in each direction."""

_FIELDS, _NAMES = 64, 2048
"""What a shape may have: fields, and bytes of names; a first line may have as many."""


class Shape:
    """Heads whose fields have these names in this order, each written as `Name: value`.

    `passes` says by a name (lower case) which lines go on as they are, and for which (None) another one stands.
    """

    __slots__ = ("came_again", "ends", "lower", "match", "names", "passing", "values")

    def __init__(self, names: tuple[bytes, ...], passes: Callable[[bytes], bool | None]) -> None:
        self.came_again = False
        """A head with the same first line as the one before had it, since the last shape was learnt."""
        self.names = names
        self.ends = 2 * len(names)
        """The bytes between its lines."""
        self.lower = tuple(name.lower() for name in names)
        values: list[int] = []
        passing, groups, pattern = [-2], 0, b""
        for goes_on, run in groupby(zip(names, map(passes, self.lower), strict=True), itemgetter(1)):
            lines = [re.escape(name) + b": " + _VALUE for name, _ in run]
            if goes_on:
                passing.append(groups)
                groups += 1
                pattern += b"\r\n(" + b"\r\n".join(lines) + b")"
            else:
                pattern += b"".join(b"\r\n" + line for line in lines)
                passing += [-1] if goes_on is None else []
            values += range(groups, groups := groups + len(lines))
        self.match = re.compile(pattern).fullmatch
        """Finds such a head's values, and each stretch of lines that go on."""
        self.values: _Pick = _pick(values)
        """Takes the values from what was found."""
        self.passing: _Pick = _pick(passing)
        """Takes what goes on from what was found, the first line, and the line that stands for another one."""


_Pick = Callable[[tuple[bytes, ...]], tuple[bytes, ...]]


def _pick(places: list[int]) -> _Pick:
    """Takes what stands at these places."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda found: (found[places[0]],)


S = TypeVar("S", bound=Shape)
L = TypeVar("L")


class _Line(Generic[S, L]):
    """A first line: what it means, and the shape of the head that had it last."""

    __slots__ = ("means", "own", "shape")

    def __init__(self, means: L) -> None:
        self.means = means
        self.shape: S | None = None
        self.own: tuple[bytes, bytes] = (b"", b"")
        """The first line that goes on, and the line that stands for another one, as `Shape.passing` takes them."""


class _Plans(Generic[S, L]):
    """The plans of one direction. `max_size` in bytes, `max_fields` in fields, of a head."""

    def __init__(self, max_size: int, max_fields: int) -> None:
        self.max_size = max_size
        self.max_fields = max_fields
        self._shapes: dict[int, list[S]] = {}
        self._missed = 0
        self._to_learn = _LEARNT
        self._lines: dict[bytes, _Line[S, L]] = {}

    def _line(self, line: bytes) -> _Line[S, L] | None:
        """A first line that is not known yet; None if there is anything unusual about it."""
        means = self._read_line(line)
        if means is None:
            return None
        known = _Line[S, L](means)
        if len(line) <= _NAMES:
            if len(self._lines) >= _LINES:
                self._lines.clear()
            self._lines[line] = known
        return known

    def _read_line(self, line: bytes) -> L | None:
        raise NotImplementedError

    def _shape(self, names: tuple[bytes, ...]) -> S | None:
        raise NotImplementedError

    def _own_lines(self, line: bytes, means: L, shape: S) -> tuple[bytes, bytes]:
        raise NotImplementedError

    def _find(self, data: bytes, begin: int, end: int) -> tuple[_Line[S, L], S, tuple[bytes, ...]] | None:
        """The first line, which ends at `begin`, the shape of the fields up to `end`, and what its `match` finds.

        None if there is anything unusual.
        """
        line = self._lines.get(data[:begin]) or self._line(data[:begin])
        if line is None:
            return None
        shape = line.shape
        found = None if shape is None else shape.match(data, begin, end)
        if shape is None or found is None:
            other = self._search(data, begin, end)
            if other is None:
                return None
            shape, found = other
            line.shape = shape
            line.own = self._own_lines(data[:begin], line.means, shape)
        else:
            shape.came_again = True
        return line, shape, found.groups()

    def _search(self, data: bytes, begin: int, end: int) -> tuple[S, re.Match[bytes]] | None:
        """The shape of the fields, with what its `match` finds, if it is known or can be learnt."""
        count = data.count(b"\r\n", begin, end)
        shapes = self._shapes.get(count, [])
        for at, shape in enumerate(shapes):
            found = shape.match(data, begin, end)
            if found is not None:
                if at:  # what comes often is looked at first, and stays
                    shapes[at - 1 : at + 1] = shape, shapes[at - 1]
                return shape, found
        self._missed += 1
        if self._missed % _PATIENCE == 0:
            self._to_learn += 1
        return self._learn(data, begin, end, count) if self._to_learn else None

    def _learn(self, data: bytes, begin: int, end: int, count: int) -> tuple[S, re.Match[bytes]] | None:
        """Makes a plan for heads like this one, if nothing in it is unusual."""
        if count > min(_FIELDS, self.max_fields) or _USUAL.fullmatch(data, begin, end) is None:
            return None
        names = tuple(line.partition(b":")[0] for line in data[begin + 2 : end].split(b"\r\n"))
        if len({name.lower() for name in names}) < count or sum(map(len, names)) > _NAMES:
            return None
        shape = self._shape(names)
        found = None if shape is None else shape.match(data, begin, end)
        if shape is None or found is None:
            return None
        self._to_learn -= 1
        shapes = self._shapes.setdefault(count, [])
        shapes.sort(key=_seldom)
        for known in shapes:
            known.came_again = False
        shapes[_SHAPES - 1 :] = [shape]
        return shape, found


def _seldom(shape: Shape) -> bool:
    """Puts shapes last that have not come again."""
    return not shape.came_again


def _is_more(length: bytes | None, size: int) -> bool:
    """True for a length, written as one, that is more than has come."""
    return length is not None and length.isdigit() and len(length) <= _DIGITS and int(length) > size


class _RequestShape(Shape):
    """What requests of one shape have in common."""

    __slots__ = ("host", "host_name", "told", "who")

    def __init__(self, names: tuple[bytes, ...], rules: IdentityRules) -> None:
        super().__init__(names, lambda name: None if name == b"host" else passes_up(name))
        self.host_name = names[self.lower.index(b"host")] + b": "
        self.host: bytes | None = None
        """The value that has been found good last."""
        self.who = tuple(name for name in self.lower if names_who(name, rules))
        """The fields that may say who is talking."""
        self.told: Callable[[Mapping[bytes, bytes]], object] = itemgetter(*self.who) if self.who else len
        """What they say; for heads of this shape, where there are none, always the same."""


class RequestPlans(_Plans[_RequestShape, tuple[str, bytes, Target]]):
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
        if end < 0 or end > self.max_size:
            return None
        planned = self._find(data, data.find(b"\r\n"), end)
        if planned is None:
            return None
        line, shape, found = planned
        method, path, target = line.means
        first = dict(zip(shape.lower, shape.values(found)))  # noqa: B905 - `strict` costs as much as all of it
        size, length = len(data) - end - 4, first.get(b"content-length")
        whole = length == b"%d" % size or not (length or size)
        if not (whole or _is_more(length, size)):
            return None
        host, connection = first[b"host"], first.get(b"connection")
        if host != shape.host:
            if not HOST.fullmatch(host):
                return None
            shape.host = host
        if connection is not None and connection.lower() != b"keep-alive":
            return None
        if not self._is_http(data, whole=whole):
            return None
        headers = Headers(None, first, shape.names, (shape.who, shape.told(first)))
        inbound = Inbound(at, waited, at)
        inbound.head = RequestHead(method, path, "1.1", headers, "http", *(peer or (None, None)))
        inbound.passing = shape.passing(found + line.own)
        inbound.keep_alive, inbound.target = True, target
        inbound.ended, inbound.size = whole, size
        if length is not None:
            inbound.length = int(length)
        if end > UNCOUNTED:
            inbound.head_memory = head_memory(end)
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

    def _read_line(self, line: bytes) -> tuple[str, bytes, Target] | None:
        words = line.split(b" ")
        if len(words) != 3 or words[2] != b"HTTP/1.1" or words[1][:1] != b"/":
            return None
        if not words[0].isalpha() or words[0] == b"CONNECT":
            return None
        method = words[0].decode("latin-1")
        target = self._routes.target(method, words[1])
        return None if target.upstream is None else (method, words[1], target)

    def _own_lines(
        self, line: bytes, means: tuple[str, bytes, Target], shape: _RequestShape
    ) -> tuple[bytes, bytes]:
        del line
        target = means[2]
        return target.line, shape.host_name + target.host

    def _shape(self, names: tuple[bytes, ...]) -> _RequestShape | None:
        lower = {name.lower() for name in names}
        usual = b"host" in lower and not _UNUSUAL.intersection(lower)
        return _RequestShape(names, self._rules) if usual else None


class AnswerPlans(_Plans[Shape, tuple[int, bytes]]):
    """The plans of one relay's answers."""

    def take(self, data: bytes) -> tuple[AnswerHead, int, int | None] | None:
        """The head with which these bytes begin, where the body begins, and its length (None: chunks).

        None if the head is not whole, or anything about it is unusual.
        """
        end = data.find(_HEAD_END)
        if end < 0 or end + 4 > self.max_size:
            return None
        planned = self._find(data, data.find(b"\r\n"), end)
        if planned is None:
            return None
        line, shape, found = planned
        status, reason = line.means
        if len(data[:end].translate(None, FORBIDDEN)) + shape.ends != end:
            return None  # there is a control character besides the ends of its lines
        first = dict(zip(shape.lower, shape.values(found)))  # noqa: B905 - `strict` costs as much as all of it
        length, connection = first.get(b"content-length"), first.get(b"connection")
        if connection is not None and connection.lower() not in _CONNECTION:
            return None
        if length is None:
            if first[b"transfer-encoding"] != b"chunked":
                return None
        elif not length.isdigit() or len(length) > _DIGITS:
            return None
        passing = shape.passing(found + line.own)
        head = AnswerHead(status, reason, "1.1", Headers(None, first, shape.names), passing)
        return head, end + 4, None if length is None else int(length)

    def _read_line(self, line: bytes) -> tuple[int, bytes] | None:
        strict = STRICT_HEAD.match(line + b"\r\n\r\n")
        if strict is None or strict[1] != b"1" or strict[3] is None:
            return None
        status = int(strict[2])
        return None if status < 200 or status in BODILESS else (status, strict[3])

    def _own_lines(self, line: bytes, means: tuple[int, bytes], shape: Shape) -> tuple[bytes, bytes]:
        del means, shape
        return line, b""

    def _shape(self, names: tuple[bytes, ...]) -> Shape | None:
        lower = {name.lower() for name in names}
        framed = (b"content-length" in lower) + (b"transfer-encoding" in lower)
        return Shape(names, passes_down) if framed == 1 else None


class _Ends:
    """Notes the ends of messages, by a call that is not one of Python."""

    __slots__ = ("on_message_complete",)

    def __init__(self, ended: list[int]) -> None:
        self.on_message_complete = partial(ended.append, 1)
