"""Typed JSON decoding that takes what is asked for and skips the rest.

Owns the one way in which every API's bodies and chunks are decoded: typed and strict first, which is
fast, and field by field (`salvage.py`) what is large, or of another type than its API says.
It keeps no content: a field that no shape names is passed over without being decoded.
"""

from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

import msgspec

from sidecar.apis.salvage import LARGE, Steps, at_once, salvaged

Word = Annotated[str, msgspec.Meta(max_length=256)]
"""A short text that may stand on a span: a model's name, a finish reason."""

Ident = Annotated[str, msgspec.Meta(max_length=2048)]
"""A provider's id of an answer; some providers' ids are long."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A number of tokens or of choices."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What an integer attribute can hold."""


class Thing(msgspec.Struct, gc=False):
    """Any JSON object, of which nothing is read: good for counting messages and telling that one is there."""


T = TypeVar("T", bound=msgspec.Struct)


class Shape(Generic[T]):
    """What is read of one kind of JSON object: the fields of a struct, each of which has a default."""

    __slots__ = ("_struct", "decode")

    def __init__(self, struct: type[T]) -> None:
        self._struct = struct
        self.decode: Callable[[bytes], T] = msgspec.json.Decoder(struct).decode
        """The strict way; raises ValueError or RecursionError for anything unexpected."""

    def read(self, data: bytes) -> tuple[T, tuple[str, ...]]:
        """The object, and the dotted paths of fields that were left out because of their type or their size.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        return at_once(self.steps(data))

    def steps(self, data: bytes) -> Steps[tuple[T, tuple[str, ...]]]:
        """The same with pauses, between which a large object costs some milliseconds.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        if len(data) <= LARGE:
            try:
                return self.decode(data), ()
            except (ValueError, RecursionError):
                pass
        return (yield from salvaged(self._struct, data))

    def salvage(self, data: bytes) -> Steps[tuple[T, tuple[str, ...]]]:
        """What `steps` falls back to: every field on its own.

        Raises:
            UnreadableBody: it is not JSON at all.
        """
        return salvaged(self._struct, data)
