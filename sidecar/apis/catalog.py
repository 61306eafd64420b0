"""Everything that is made of the APIs' records: which request is whose, and what reads its body and its answer.

Owns the choice by a route's API, and the reading of the operator's own fields. It reads bodies that an app sent, whatever
they hold: wrong types are listed, and only what is no JSON at all is refused. Routes of no API have no reader.
"""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from typing import Any, get_args

import msgspec

from sidecar.apis.base import (
    DONE,
    Api,
    BodyReader,
    EventParser,
    ReadHistory,
    RequestBody,
    StreamReader,
    within_bounds,
)
from sidecar.apis.history import MOST_MESSAGES, Past, Written, in_steps
from sidecar.apis.history import at_once as past_at_once
from sidecar.apis.json_array import JsonArrayParser
from sidecar.apis.pieces import CROWD, PIECE, crowd, rest_of
from sidecar.apis.routes import Routes
from sidecar.apis.shapes import LARGE, Shape, Steps, Thing, at_once
from sidecar.core.digests import Digester, History
from sidecar.core.facts import RequestFacts, ResponseFacts, Route
from sidecar.core.identity import LONGEST_TEXT
from sidecar.core.sse import SseParser

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
"""What an event stream begins with."""

_OBJECT_TYPES = frozenset(
    f"application/{name}" for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonlines", "jsonlines", "json-seq")
)
"""Types of one JSON object on each line."""

_is_json = msgspec.json.Decoder(msgspec.Raw).decode

_TYPE = re.compile(rb'\s*\{\s*("type"\s*:\s*"[\w.]{1,100}")\s*[,}]')

_NAMING = RequestBody.__struct_fields__
"""The fields of every request that may name its session."""

_UNNAMED = (None,) * len(_NAMING)

_COUNTED = 1 << 20
"""Bytes in which brackets are counted between two pauses."""

_REMEMBERED, _LONGEST = 1024, 2048
"""How many kinds of request are remembered (a process asks for the same few again and again), and how long one may be."""

_Tree = dict[str, "_Tree"]
_LEAF = ""
"""Stands in a tree of paths where a path ends."""


class Form(Enum):
    """How an answer's bytes are cut into what is read."""

    EVENTS = "events"
    """Server-sent events."""
    OBJECTS = "objects"
    """JSON objects, in an array or one after another."""
    WHOLE = "whole"
    """Its whole body at once, or not at all."""


class _Requests:
    """What is read of the requests of one kind."""

    __slots__ = ("decode", "decode_whole", "naming", "rest", "shape")

    def __init__(self, body: type[RequestBody], whole: type[RequestBody] | None = None) -> None:
        self.shape: Shape[Any] = Shape(body)
        self.decode = self.shape.decode
        self.decode_whole = self.decode if whole is None else Shape[Any](whole).decode
        """The same with its messages as they came, whatever each is."""
        self.naming = attrgetter(*_NAMING)
        fields = msgspec.structs.fields(body)
        rest = [field.name for field in fields if field.name not in _NAMING and not _counted(field.type)]
        self.rest: Callable[[Any], object] = attrgetter(*rest) if rest else type
        """All that makes the facts of a request, but what names its session and how many messages it has."""

    def fits(self, body: bytes) -> bool:
        """True if each message is an object, where nobody has looked at them yet."""
        if self.decode_whole is not self.decode:
            try:
                self.decode(body)
            except (ValueError, RecursionError):
                return False
        return True


def _counted(kind: Any) -> bool:
    """True for the type of a field of which only the number of its members is told."""
    return list[Thing] in (kind, *get_args(kind))


_ANY = _Requests(RequestBody)


class Catalog:
    """The APIs that are read in depth."""

    def __init__(self, apis: Sequence[Api]) -> None:
        self.match = Routes(apis).match
        """What a request is, by method and path: `Routes.match`."""
        self.finish_reasons = frozenset(word for api in apis for word in api.finish_reasons.split())
        """Why an answer may have ended, in lower case."""
        self._requests: dict[str | None, _Requests] = {
            api.name: _Requests(api.request, api.whole) for api in apis
        }
        self._facts: dict[object, RequestFacts] = {}
        self._bodies = {api.name: api.body for api in apis}
        self._streams = {api.name: api.stream for api in apis if api.stream is not None}
        self._histories: dict[str | None, ReadHistory] = {
            api.name: api.history for api in apis if api.history is not None
        }
        self._lists: dict[str | None, str] = {api.name: api.messages for api in apis if api.messages}
        self._prompts = frozenset(api.name for api in apis if api.prompts)
        self._objects = frozenset(api.name for api in apis if api.objects)

    def read_request(self, route: Route, body: bytes, fields: tuple[str, ...] = ()) -> RequestFacts:
        """The facts of a request's JSON body. `fields` are the operator's dotted paths: texts or integers.

        Raises:
            UnreadableBody: the body is not JSON, or is nested absurdly deep.
        """
        return at_once(self.request_steps(route, body, fields))

    def small_request(
        self, route: Route, body: bytes, digester: Digester | None = None
    ) -> RequestFacts | None:
        """The same of a body of `LARGE` bytes at most that is as its API says, without own fields; None for any other."""
        requests = self._requests.get(route.api, _ANY)
        try:
            request = (requests.decode_whole if digester is not None else requests.decode)(body)
            kind = (route.api, route.model, route.streaming, requests.rest(request), request.message_count())
            facts = self._facts.get(kind)
        except (ValueError, RecursionError, TypeError):
            return None
        history = None
        if digester is not None:
            try:
                past = self._past(route, body, kind[-1], request)
                if past is not None:
                    history = past_at_once(past, digester)
            except (ValueError, RecursionError):
                pass
            if history is None and kind[-1] and not requests.fits(body):
                return None
        if request.previous_response_id is not None:
            facts = _facts(route, request, {}, (), None, kind[-1])  # it is an attribute as well
        elif facts is None:
            facts = self._remember(kind, _facts(route, request, {}, (), None, kind[-1]))
        named = requests.naming(request) != _UNNAMED
        if history is None and not named:
            return facts
        return RequestFacts(
            facts.model,
            facts.streaming,
            facts.messages,
            request.hints() if named else facts.hints,
            facts.attributes,
            (),
            facts.stored,
            history,
        )

    def _remember(self, kind: object, facts: RequestFacts) -> RequestFacts:
        if len(self._facts) >= _REMEMBERED:
            self._facts.clear()
        if len(repr(kind)) <= _LONGEST:
            self._facts[kind] = facts
        return facts

    def request_steps(
        self,
        route: Route,
        body: bytes | bytearray,
        fields: tuple[str, ...] = (),
        digester: Digester | None = None,
    ) -> Steps[RequestFacts]:
        """The same with pauses, between which a large body costs some milliseconds; with its history if there is a digester.

        Raises:
            UnreadableBody: the body is not JSON, or is nested absurdly deep.
        """
        shape = self._requests.get(route.api, _ANY).shape
        taken: list[msgspec.Raw] = []
        request: RequestBody
        if len(body) > PIECE // 2 and route.api in self._lists:
            secret = 0 if digester is None else digester.salt[0]
            rest = yield from rest_of(body, self._lists[route.api], MOST_MESSAGES, secret)
            request, ignored = yield from shape.steps(rest.body)
            if ignored:  # what is odd is read as it is everywhere
                request, ignored = yield from shape.steps(body)
            else:
                body, taken = rest.body, rest.taken
        else:
            request, ignored = yield from shape.steps(body)
        hints = request.hints()
        if fields:
            if len(body) > LARGE:
                yield
            own, unfit = yield from _read_fields(body, fields)
            hints.update(own)
            ignored += tuple(path for path in unfit if path not in ignored)
        history, count = None, request.message_count()
        count = None if count is None else count + len(taken)
        if digester is not None:
            history = yield from self._history(route, body, count, digester, taken)
        return _facts(route, request, hints, ignored, history, count)

    def _history(
        self,
        route: Route,
        body: bytes | bytearray,
        messages: int | None,
        digester: Digester,
        taken: list[msgspec.Raw],
    ) -> Steps[History | None]:
        """A request's past, behind the messages that were taken out; none of a body that has too much beside its messages."""
        if not route.turn or route.api not in self._histories:
            return None
        if len(body) > LARGE and (yield from _crowded(body, digester.salt[0])):
            return None
        try:
            past = self._past(route, body, messages)
            if past is None:
                return None
            if taken and isinstance(past, Written):
                past = msgspec.structs.replace(past, messages=taken + past.messages)
            return (yield from in_steps(past, digester))
        except (ValueError, RecursionError):
            return None

    def _past(
        self, route: Route, body: bytes | bytearray, messages: int | None, whole: RequestBody | None = None
    ) -> Past | None:
        """A request's past as it is written; none of a body in which no messages were found, or too many.

        `whole` is what was read of it, if all of it was.

        Raises:
            ValueError, RecursionError: it is not as its API says.
        """
        find = self._histories.get(route.api) if route.turn else None
        if find is None:
            return None
        if messages is None:
            if route.api not in self._prompts:
                return None
        elif messages > MOST_MESSAGES:
            return None
        past = find(body, whole)
        return None if isinstance(past, Written) and len(past.messages) > MOST_MESSAGES else past

    def stream_reader(self, route: Route, facts: ResponseFacts) -> StreamReader | None:
        """A reader for the events of a streamed answer, None when the route's streams are not read."""
        make = self._streams.get(route.api or "")
        return None if make is None else make(facts)

    def body_reader(self, route: Route, facts: ResponseFacts) -> BodyReader | None:
        """A reader for a whole answer, None when the route's answers are not read."""
        make = self._bodies.get(route.api or "")
        return None if make is None else make(facts)

    def streams_are_read(self, route: Route) -> bool:
        """True when the events of the route's streams are read, so that its first bytes matter more than its type."""
        return route.api in self._streams

    def form(
        self, route: Route, content_type: str | None, start: bytes = b"", *, rejected: bool = False
    ) -> Form:
        """What an answer is, by its type, and by its first bytes (blanks left out) where its route is read in depth.

        An event stream is one on any route. Objects are a stream where the path asked for one and its API sends them so,
        unless the answer says why there is none (`rejected`: a status of 400 or more), and where the type says that there
        is one on each line.
        """
        kind = (content_type or "").partition(";")[0].strip().lower()
        read = self.streams_are_read(route)
        array = route.streaming and route.api in self._objects
        objects = read and not rejected and (array or kind in _OBJECT_TYPES)
        if read and start.startswith(_FIELDS):
            return Form.EVENTS
        if read and start.startswith((b"{", b"[")):
            return Form.OBJECTS if objects else Form.WHOLE
        if kind == "text/event-stream":
            return Form.EVENTS
        return Form.OBJECTS if objects and kind in _OBJECT_TYPES | {"application/json"} else Form.WHOLE


def _facts(
    route: Route,
    request: RequestBody,
    hints: dict[str, str],
    ignored: tuple[str, ...],
    history: History | None,
    messages: int | None,
) -> RequestFacts:
    return RequestFacts(
        model=request.asked_model() or route.model,
        streaming=route.streaming or request.asks_stream(),
        messages=messages,
        hints=hints,
        attributes=within_bounds(request.attributes()),
        ignored=ignored,
        stored=request.asks_store(),
        history=history,
    )


def _crowded(body: bytes | bytearray, secret: int) -> Steps[bool]:
    """True for a body of more objects and lists than any history has: it would take long to be looked through at once."""
    found = 0
    for start in range(0, len(body), _COUNTED):
        found += crowd(body, start, start + _COUNTED, secret)
        if found > CROWD:
            return True
        yield
    return False


def undecided(start: bytes) -> bool:
    """True while the first bytes of an answer, blanks left out, do not say what it is."""
    return any(field.startswith(start) and field != start for field in _FIELDS)


def event_parser(form: Form, limit: int, room: Callable[[int], bool]) -> EventParser:
    """What cuts an answer of this form into events of `limit` bytes at most; it asks `room` for memory."""
    if form is Form.EVENTS:
        return SseParser(limit, gist=_gist, alone=_alone, room=room)
    return JsonArrayParser(limit, gist=_gist, room=room)


def _alone(line: bytes) -> bool:
    """True for a line of data that is an event by itself: an object, or the terminator. Two of them are no JSON as one."""
    if not line.startswith(b"{"):
        return line.strip() == DONE
    try:
        _is_json(line)
    except (ValueError, RecursionError):
        return False
    return True


def _gist(head: bytes) -> bytes:
    """What the beginning of an event that is too large tells for certain: its type, where that comes first."""
    found = _TYPE.match(head)
    return b"{" + found[1] + b"}" if found else b"{}"


def _read_fields(
    body: bytes | bytearray, fields: tuple[str, ...]
) -> Steps[tuple[dict[str, str], tuple[str, ...]]]:
    """The operator's own fields that are there, and those that are neither text nor integer."""
    shape = _own_shape(fields)
    found, ignored = yield from shape.steps(body)
    hints: dict[str, str] = {}
    _collect(found, "", hints)
    return hints, tuple(path for path in ignored if path in fields)


@lru_cache(maxsize=8)
def _own_shape(fields: tuple[str, ...]) -> Shape[Any]:
    """The shape that reads all of the operator's paths in one pass."""
    tree: _Tree = {}
    for path in fields:
        node = tree
        for name in path.split("."):
            node = node.setdefault(name, {})
        node[_LEAF] = {}
    return Shape(_struct(tree))


def _struct(tree: _Tree) -> type[msgspec.Struct]:
    """A struct with one field per member of the tree."""
    names = [name for name in tree if name != _LEAF]
    members: list[tuple[str, Any, Any]] = []
    for index, name in enumerate(names):
        kind: Any = None
        if _LEAF in tree[name]:
            kind = str | int | kind
        if tree[name].keys() - {_LEAF}:
            kind = _struct(tree[name]) | kind
        members.append((f"f{index}", kind, None))
    rename = {f"f{index}": name for index, name in enumerate(names)}
    return msgspec.defstruct("OwnFields", members, rename=rename)


def _collect(found: msgspec.Struct, prefix: str, hints: dict[str, str]) -> None:
    """Keeps the values at the ends of the paths."""
    for field in msgspec.structs.fields(found):
        value = getattr(found, field.name)
        path = prefix + field.encode_name
        if isinstance(value, msgspec.Struct):
            _collect(value, path + ".", hints)
        elif value is not None:
            hints[path] = str(value)[:LONGEST_TEXT]
