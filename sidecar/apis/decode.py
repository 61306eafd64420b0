"""Typed JSON decoding that takes what is asked for and skips the rest.

Owns the one way in which every API's bodies and chunks are decoded: typed and strict first, which is
fast, and field by field when a provider or an app sends something of another type than its API says.
It keeps no content: a field that no shape names is passed over without being decoded.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

import msgspec

Word = Annotated[str, msgspec.Meta(max_length=256)]
"""A short text that may stand on a span: a model's name, a finish reason."""

Ident = Annotated[str, msgspec.Meta(max_length=2048)]
"""A provider's id of an answer; some providers' ids are long."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A number of tokens or of choices."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What an integer attribute can hold."""

WHOLE = "$"
"""Stands in a list of ignored fields for the body itself: it is JSON, but no object."""


class UnreadableBody(ValueError):  # noqa: N818 - says what is wrong with the body, as its callers speak of it
    """What was given is not JSON, or is nested absurdly deep."""


class Thing(msgspec.Struct, gc=False):
    """Any JSON object, of which nothing is read: good for counting messages and telling that one is there."""


_SURROGATES = re.compile(
    rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""Every escape in a JSON text; the group is half of a pair that stands alone, as texts cut in the middle of
an emoji have it. That is valid JSON (RFC 8259, section 8.2), but no Unicode, and the decoder refuses it."""

_check = msgspec.json.Decoder(msgspec.Raw).decode

T = TypeVar("T", bound=msgspec.Struct)


class Shape(Generic[T]):
    """What is read of one kind of JSON object: the fields of a struct, each of which has a default."""

    __slots__ = ("_struct", "decode")

    def __init__(self, struct: type[T]) -> None:
        self._struct = struct
        self.decode: Callable[[bytes], T] = msgspec.json.Decoder(struct).decode
        """The strict way; raises ValueError or RecursionError for anything unexpected."""

    def read(self, data: bytes) -> tuple[T, tuple[str, ...]]:
        """The object, and the dotted paths of fields that were left out because of their type.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        try:
            return self.decode(data), ()
        except (ValueError, RecursionError):
            return self.salvage(data)

    def salvage(self, data: bytes) -> tuple[T, tuple[str, ...]]:
        """What `read` falls back to: every field on its own.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        try:
            try:
                _check(data)
            except ValueError:
                data = _SURROGATES.sub(_mended, data)
                _check(data)
        except (ValueError, RecursionError) as error:
            raise UnreadableBody(str(error)) from None
        if data.lstrip()[:1] != b"{":
            return self._struct(), (WHOLE,)
        ignored: dict[str, None] = {}
        return _salvage_struct(self._struct, data, "", ignored), tuple(ignored)


def _mended(found: re.Match[bytes]) -> bytes:
    """Half of a surrogate pair becomes the replacement character; every other escape stays."""
    return b"\\ufffd" if found[1] else found[0]


def _salvage_struct(struct: type[T], data: bytes | msgspec.Raw, prefix: str, ignored: dict[str, None]) -> T:
    """One object, field by field. The names of fields that do not fit are added to `ignored`."""
    raw = _raw_twin(struct).decode(data)
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(struct):
        value: msgspec.Raw = getattr(raw, field.name)
        if value:
            path = prefix + field.encode_name
            try:
                values[field.name] = _salvage_value(field.type, value, path, ignored)
            except (ValueError, RecursionError):
                ignored[path] = None
    return struct(**values)


def _salvage_value(kind: Any, data: msgspec.Raw, path: str, ignored: dict[str, None]) -> object:
    """One field's value: as its type says, else as much of its objects as fits.

    Raises:
        ValueError: nothing of it fits.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError):
        opening = bytes(data)[:1]
        for member in get_args(kind) if get_origin(kind) is UnionType else (kind,):
            if opening == b"{" and _is_struct(member):
                return _salvage_struct(member, data, path + ".", ignored)
            items = get_args(member)
            if opening == b"[" and get_origin(member) is list and _is_struct(items[0]):
                parts = msgspec.json.decode(data, type=list[msgspec.Raw])
                inside = path + "[]."
                return [
                    _salvage_struct(items[0], part, inside, ignored)
                    for part in parts
                    if bytes(part)[:1] == b"{" or ignored.setdefault(path, None)
                ]
        raise


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@lru_cache(maxsize=256)
def _raw_twin(struct: type[msgspec.Struct]) -> "msgspec.json.Decoder[Any]":
    """A decoder for the same fields, each left undecoded."""
    fields = msgspec.structs.fields(struct)
    twin = msgspec.defstruct(
        struct.__name__ + "Raw",
        [(field.name, msgspec.Raw, msgspec.Raw()) for field in fields],
        rename={field.name: field.encode_name for field in fields},
    )
    return msgspec.json.Decoder(twin)
