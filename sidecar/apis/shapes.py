"""What is read of a JSON object: the fields that a struct names, and nothing of the rest.

Owns the one way in which requests, chunks and bodies are decoded, and the bounds of that work. First typed and strict,
which is fast. What is large, or of another type than its API says, is read field by field, in steps, within a budget: a
step costs the event loop some milliseconds, whatever a value holds, and between two steps others have their turn. What
exceeds the budget is left out and listed. A field that no struct names is passed over without being decoded.
"""

import re
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, get_args, get_origin

import msgspec

from sidecar.core.echo import HALVES

V = TypeVar("V")
T = TypeVar("T", bound=msgspec.Struct)
T_co = TypeVar("T_co", bound=msgspec.Struct, covariant=True)

Word = Annotated[str, msgspec.Meta(max_length=256)]
"""A short text that may stand on a span: a model's name, a finish reason."""

Ident = Annotated[str, msgspec.Meta(max_length=2048)]
"""A provider's id of an answer; some providers' ids are long."""

MOST = 2**32
"""The largest count that is believed: the sums of two billion answers that tell it fit the 64 bits of OTLP."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
"""A number of tokens or of choices."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What an integer attribute can hold."""


class Thing(msgspec.Struct, gc=False):
    """Any JSON object, of which nothing is read: good for counting messages and telling that one is there."""


Steps: TypeAlias = Generator[None, None, V]
"""Work that yields between its steps and returns its result."""

LARGE = 128 * 1024
"""Bytes of a value from which on it is taken apart and not decoded in one go."""

_COUNTED = 1024 * 1024
"""Bytes up to which a list of objects is counted by making them, however many they are."""

_BRACES = 300_000
"""Opening braces, texts included, up to which a longer one is counted in that way."""

_ITEMS = 4096
"""Elements up to which a list is read that is large, or holds elements of another type than its API says."""

_BUDGET = 50_000
"""Objects that are made in all: whoever reads the result goes through them one by one."""

_MANY = 2 * 1024 * 1024
_MARKS = 1_000_000
"""Quotation marks in an object of `_MANY` bytes from which on its fields are looked for `_FEW` at a time."""

_FEW = 6

_PAUSE = 1024 * 1024
"""Bytes of work between two pauses."""

_OBJECT_WORK = 8192
"""Bytes that an object counts at least: as long as its fields take to be looked at."""

_PIECE = 256 * 1024
"""Bytes in which halves of surrogate pairs are looked for between two pauses."""

_REPLACED = rb"\\ufffd"
"""The replacement character, as `re.sub` takes it."""

WHOLE = "$"
"""Stands in a list of ignored fields for the body itself: it is JSON, but no object."""


class UnreadableBody(ValueError):  # noqa: N818 - says what is wrong with the body, as its callers speak of it
    """What was given is not JSON, or is nested absurdly deep."""


def at_once(steps: Steps[V]) -> V:
    """The result of all steps, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: V = end.value
            return result


class Shape(Generic[T_co]):
    """What is read of one kind of JSON object: the fields of a struct, each of which has a default."""

    __slots__ = ("_struct", "decode")

    def __init__(self, struct: type[T_co]) -> None:
        self._struct = struct
        self.decode: Callable[[bytes | bytearray], T_co] = msgspec.json.Decoder(struct).decode
        """The strict way; raises ValueError or RecursionError for anything unexpected."""

    def read(self, data: bytes) -> tuple[T_co, tuple[str, ...]]:
        """The object, and the dotted paths of fields that were left out because of their type or their size.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        return at_once(self.steps(data))

    def steps(self, data: bytes | bytearray) -> Steps[tuple[T_co, tuple[str, ...]]]:
        """The same with pauses, between which a large object costs some milliseconds.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        if len(data) <= LARGE:
            try:
                return self.decode(data), ()
            except (ValueError, RecursionError):
                pass
        return (yield from _salvaged(self._struct, data))

    def salvage(self, data: bytes) -> Steps[tuple[T_co, tuple[str, ...]]]:
        """What `steps` falls back to: every field on its own. It is a part of an answer, of which halves of surrogate pairs
        are kept, and a number may stand in quotes.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        return _salvaged(self._struct, data, HALVES, digits=True)


def _salvaged(
    struct: type[T], data: bytes | bytearray, alone: bytes = _REPLACED, *, digits: bool = False
) -> Steps[tuple[T, tuple[str, ...]]]:
    """The object, and the dotted paths of fields that were left out because of their type or their size.

    `alone` takes the place of halves of surrogate pairs; `digits` in quotes are a number, where one is expected.

    Raises:
        UnreadableBody: it is not JSON at all.
    """
    try:
        is_object = _OBJECT.match(data) is not None
        if len(data) > LARGE:
            yield
        if not is_object:
            _check(data)
            return struct(), (WHOLE,)
        try:
            return (yield from _Salvage(digits=digits).whole(struct, data))
        except msgspec.DecodeError:
            data = yield from _mended(data, alone)
            return (yield from _Salvage(digits=digits).whole(struct, data))
    except (ValueError, RecursionError) as error:
        raise UnreadableBody(str(error)) from None


class _ExhaustedError(ValueError):
    """So many objects are not made."""


class _Salvage:
    """One object's reading. `ignored` are the paths of what was left out."""

    def __init__(self, *, digits: bool) -> None:
        self.ignored: dict[str, None] = {}
        self._digits = digits
        self._budget = _BUDGET
        self._since = 0

    def whole(self, struct: type[T], data: bytes | bytearray) -> Steps[tuple[T, tuple[str, ...]]]:
        """The whole object."""
        found = yield from self._object(struct, data, "")
        return found, tuple(self.ignored)

    def _object(self, struct: type[T], data: bytes | bytearray | msgspec.Raw, prefix: str) -> Steps[T]:
        """One object, field by field."""
        many = False
        if len(data) > _MANY:
            many = bytes(data).count(b'"') > _MARKS
            yield
        values: dict[str, object] = {}
        for decoder, fields in _raw_twins(struct, few=many):
            raw = decoder.decode(data)
            yield from self._worked(len(data) + _OBJECT_WORK)
            for field in fields:
                value: msgspec.Raw = getattr(raw, field.name)
                if value:
                    path = prefix + field.encode_name
                    try:
                        values[field.name] = yield from self._value(field.type, value, path)
                    except (ValueError, RecursionError):
                        self.ignored[path] = None
        return struct(**values)

    def _value(self, kind: Any, data: msgspec.Raw, path: str) -> Steps[object]:
        """One value: as its type says, else as much of its objects as fits.

        Raises:
            ValueError: nothing of it fits.
        """
        if kind is msgspec.Raw:
            return data
        opening = bytes(memoryview(data)[:1])
        members = get_args(kind) if get_origin(kind) is UnionType else (kind,)
        shape = next((member for member in members if _opens(member) == opening), None)
        try:
            if len(data) <= LARGE or opening == b'"' or (yield from self._light(shape, data)):
                if _has_lists(shape):
                    self._spend(bytes(data).count(b"{"))
                value: object = msgspec.json.decode(data, type=kind)
                yield from self._worked(len(data))
                return value
        except _ExhaustedError:
            raise
        except (ValueError, RecursionError):
            if _FLOAT.fullmatch(data) or (self._digits and _DIGITS.fullmatch(data)):
                return msgspec.json.decode(data, type=kind, strict=False)
            if shape is None:
                raise
        if opening == b"{" and shape is not None:
            return (yield from self._object(shape, data, path + "."))
        if opening == b"[" and shape is not None:
            return (yield from self._list(get_args(shape)[0], data, path))
        raise ValueError(path)

    def _list(self, kind: Any, data: msgspec.Raw, path: str) -> Steps[list[object]]:
        """The elements that fit, of a list that is not too long."""
        found: list[object] = []
        cost = 0 if _blank(kind) else 1
        for part in msgspec.structs.astuple(_items().decode(data)):
            if not part:
                break
            self._spend(cost)
            try:
                found.append((yield from self._value(kind, part, path + "[]")))
            except (ValueError, RecursionError):
                if not _is_struct(kind):
                    raise
                self.ignored[path] = None
        return found

    def _worked(self, size: int) -> Iterator[None]:
        """A pause after every so much work."""
        self._since += size
        if self._since > _PAUSE:
            self._since = 0
            yield

    def _light(self, shape: Any, data: msgspec.Raw) -> Steps[bool]:
        """True if a large value can be decoded in one go: little is made of it, or it does not fit anyway."""
        if get_origin(shape) is not list:
            return shape is not None and _blank(shape)
        if not _blank(get_args(shape)[0]):
            return False
        if len(data) > _COUNTED:
            few = bytes(data).count(b"{") <= _BRACES
            yield
            return few
        return True

    def _spend(self, objects: int) -> None:
        """Takes objects that somebody will go through off the budget.

        Raises:
            _ExhaustedError: it is used up.
        """
        self._budget -= objects
        if self._budget < 0:
            raise _ExhaustedError


def _mended(data: bytes | bytearray, alone: bytes) -> Steps[bytes | bytearray]:
    """Halves of surrogate pairs that stand alone become what is given for them; every other escape stays.

    Texts that were cut in the middle of an emoji have them. They are valid JSON (RFC 8259, section 8.2), but no
    Unicode, and the decoder refuses them.
    """
    if _MARK in data:
        return data  # a control character: it is not JSON
    yield
    # Of the same length, so that every backslash that is left begins an escape.
    data = data.replace(rb"\\", _MARK * 2)
    yield
    pieces = []
    begin = 0
    while begin < len(data):
        end = data.find(b"\\", begin + _PIECE)
        if end > 0 and _PAIR.match(data, end - _HALF):
            end = data.find(b"\\", end + 1)
        end = end if end > 0 else len(data)
        pieces.append(_ALONE.sub(alone, data[begin:end]))
        begin = end
        yield
    data = b"".join(pieces)
    yield
    data = data.replace(_MARK * 2, rb"\\")
    yield
    return data


_OBJECT = re.compile(rb"[ \t\r\n]*+\{")

_FLOAT = re.compile(rb"-?[0-9]++[.eE].*+")
"""A number that may be whole for all that: some write each as a float, and JSON has one kind of numbers."""

_DIGITS = re.compile(rb'"[0-9]{1,19}"')
"""A number that is written as a text, as protobuf's JSON has those of 64 bits."""

_MARK = b"\x01"
_HALF = len(rb"\ud83d")
_PAIR = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]", re.DOTALL)
_ALONE = re.compile(
    rb"\\u[dD](?:([89abAB])([0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB]..\\u[dD])([c-fC-F])([0-9a-fA-F]{2}))",
    re.DOTALL,
)

_check = msgspec.json.Decoder(msgspec.Raw).decode


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _blank(kind: Any) -> bool:
    """True for objects of which nothing is read."""
    return kind is msgspec.Raw or (_is_struct(kind) and not kind.__struct_fields__)


@lru_cache(maxsize=256)
def _has_lists(kind: Any) -> bool:
    """True if what is made of it has lists of objects that somebody goes through."""
    if get_origin(kind) is list:
        return not _blank(get_args(kind)[0])
    if get_origin(kind) is UnionType:
        return any(map(_has_lists, get_args(kind)))
    return _is_struct(kind) and any(_has_lists(field.type) for field in msgspec.structs.fields(kind))


def _opens(kind: Any) -> bytes:
    """How JSON of an object's or a list's type begins."""
    if get_origin(kind) is list:
        return b"["
    return b"{" if _is_struct(kind) else b""


@lru_cache(maxsize=256)
def _raw_twins(
    struct: type[msgspec.Struct], *, few: bool
) -> tuple[tuple["msgspec.json.Decoder[Any]", tuple[msgspec.structs.FieldInfo, ...]], ...]:
    """Decoders for the same fields, each left undecoded: one for all fields, or one for every few."""
    fields = msgspec.structs.fields(struct)
    size = _FEW if few else max(1, len(fields))
    return tuple(
        (_raw_twin(struct.__name__, part), part)
        for part in (fields[at : at + size] for at in range(0, len(fields), size))
    )


def _raw_twin(name: str, fields: tuple[msgspec.structs.FieldInfo, ...]) -> "msgspec.json.Decoder[Any]":
    twin = msgspec.defstruct(
        name + "Raw",
        [(field.name, msgspec.Raw, msgspec.Raw()) for field in fields],
        rename={field.name: field.encode_name for field in fields},
    )
    return msgspec.json.Decoder(twin)


@lru_cache(maxsize=1)
def _items() -> "msgspec.json.Decoder[Any]":
    """Takes a list's elements undecoded, and makes none of a list that has too many."""
    fields = [(f"item{index}", msgspec.Raw, msgspec.Raw()) for index in range(_ITEMS)]
    return msgspec.json.Decoder(
        msgspec.defstruct("Items", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    )
