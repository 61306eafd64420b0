"""Header fields as they stood on the wire: names, order and case kept.

Owns lookup only; it never changes a field. What may change on the wire is `proxy/wire.py`.
"""

from collections.abc import Iterator, Mapping

from sidecar.core.shown import readable

Field = tuple[bytes, bytes]
"""One header line: name and value as received, without the line's end."""


class Headers:
    """An ordered list of header fields with case-insensitive lookup."""

    __slots__ = ("_index", "fields")

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self._index: dict[bytes, bytes] | None = None

    @property
    def first(self) -> Mapping[bytes, bytes]:
        """The first value of every field, by name in lower case. Made once; the fields may no more change then."""
        index = self._index
        if index is None:
            fields = self.fields
            index = {name.lower(): value for name, value in fields}
            if len(index) < len(fields):  # a name that stands twice: its first value counts
                index = {name.lower(): value for name, value in reversed(fields)}
            self._index = index
        return index

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field called `name` (given in lower case), or None."""
        return (self._index or self.first).get(name)

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of the field called `name` (given in lower case), in order."""
        index = self._index or self.first
        value = index.get(name)
        if value is None:
            return []
        if len(index) == len(self.fields):  # no name stands twice
            return [value]
        return [value for field, value in self.fields if field.lower() == name]

    def text(self, name: bytes) -> str | None:
        """The first value as text (latin-1, as RFC 9110 reads bytes), or None."""
        value = (self._index or self.first).get(name)
        return None if value is None else value.decode("latin-1")

    def readable(self, name: bytes) -> str | None:
        """The first value as a person should read it (UTF-8 where it is that, else latin-1), or None."""
        value = (self._index or self.first).get(name)
        return None if value is None else readable(value)

    def tokens(self, name: bytes) -> list[bytes]:
        """The comma-separated members of every field called `name`, stripped and lower-cased."""
        if name not in (self._index or self.first):
            return []
        return [
            token
            for value in self.get_all(name)
            for part in value.split(b",")
            if (token := part.strip().lower())
        ]

    def __contains__(self, name: bytes) -> bool:
        return name in (self._index or self.first)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)
