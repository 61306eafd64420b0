"""A map that forgets its oldest entry when it is full, and says so.

Owns the cap of what the session manager remembers of the past: response ids and idempotency keys.
It never grows over its cap.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedMap(Generic[Key, Value]):
    """At most `cap` entries; `evicted` is called once for each that had to go. A cap of 0 keeps nothing."""

    __slots__ = ("_cap", "_entries", "_evicted")

    def __init__(self, cap: int, evicted: Callable[[], None]) -> None:
        self._cap = cap
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._evicted = evicted

    def get(self, key: Key) -> Value | None:
        """What was last put under `key`, if it is still remembered."""
        return self._entries.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Remembers `value` under `key`, as the newest entry."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._cap:
            self._entries.popitem(last=False)
            self._evicted()

    def amend(self, key: Key, value: Value) -> None:
        """Changes what is remembered under `key`, if anything still is, which makes it no newer."""
        if key in self._entries:
            self._entries[key] = value
