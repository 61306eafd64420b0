"""Header fields as they stood on the wire: names, order and case kept.

Owns lookup only; it never changes a field. What may change on the wire is `proxy/wire.py`.
Made by the relay's two parsing sides, read by everybody.
"""

from collections.abc import Iterator

Field = tuple[bytes, bytes]
"""One header line: name and value as received, without the line's end."""


class Headers:
    """An ordered list of header fields with case-insensitive lookup."""

    __slots__ = ("_index", "fields")

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self._index: dict[bytes, list[bytes]] | None = None

    def _values(self, name: bytes) -> list[bytes]:
        index = self._index
        if index is None:
            index = self._index = {}
            for field, value in self.fields:
                index.setdefault(field.lower(), []).append(value)
        return index.get(name, [])

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field called `name` (given in lower case), or None."""
        values = self._values(name)
        return values[0] if values else None

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of the field called `name` (given in lower case), in order."""
        return self._values(name)

    def text(self, name: bytes) -> str | None:
        """The first value as text (latin-1, as RFC 9110 reads bytes), or None."""
        value = self.get(name)
        return None if value is None else value.decode("latin-1")

    def tokens(self, name: bytes) -> list[bytes]:
        """The comma-separated members of every field called `name`, stripped and lower-cased."""
        return [
            token
            for value in self._values(name)
            for part in value.split(b",")
            if (token := part.strip().lower())
        ]

    def __contains__(self, name: bytes) -> bool:
        return bool(self._values(name))

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)
