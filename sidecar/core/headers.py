"""Header fields as they stood on the wire: names, order and case kept.

Owns lookup only; it never changes a field. What may change on the wire is `proxy/wire.py`.
"""

from collections.abc import Iterator, Mapping

from sidecar.core.shown import readable

Field = tuple[bytes, bytes]
"""One header line: name and value as received, without the line's end."""


class Headers:
    """An ordered list of header fields with case-insensitive lookup.

    `first` has the first value of every field, by name in lower case. Where only it is known it was made of fields whose
    names, as they are written, are `names`, and no name stands twice.
    """

    __slots__ = ("_fields", "_names", "first", "who")

    def __init__(
        self,
        fields: list[Field] | None,
        first: Mapping[bytes, bytes] | None = None,
        names: tuple[bytes, ...] = (),
        who: object = None,
    ) -> None:
        self._fields = fields
        self._names = names
        if first is None:
            first = {name.lower(): value for name, value in fields or ()}
            if fields and len(first) < len(fields):  # a name that stands twice: its first value counts
                first = {name.lower(): value for name, value in reversed(fields)}
        self.first = first
        self.who = who
        """Equal for heads that say the same of who is talking; None: not known."""

    @property
    def fields(self) -> list[Field]:
        """The fields in order."""
        if self._fields is None:
            self._fields = list(zip(self._names, self.first.values(), strict=True))
        return self._fields

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field called `name` (given in lower case), or None."""
        return self.first.get(name)

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of the field called `name` (given in lower case), in order."""
        value = self.first.get(name)
        if value is None:
            return []
        if self._fields is None or len(self.first) == len(self._fields):  # no name stands twice
            return [value]
        return [value for field, value in self.fields if field.lower() == name]

    def joined(self, name: bytes) -> bytes | None:
        """Every value of the field called `name` (given in lower case) as one list (RFC 9110, 5.3), or None."""
        return b", ".join(self.get_all(name)) if name in self.first else None

    def text(self, name: bytes) -> str | None:
        """The first value as text (latin-1, as RFC 9110 reads bytes), or None."""
        value = self.first.get(name)
        return None if value is None else value.decode("latin-1")

    def readable(self, name: bytes) -> str | None:
        """The first value as a person should read it (as UTF-8 if it is that, else as latin-1), or None."""
        value = self.first.get(name)
        return None if value is None else readable(value)

    def tokens(self, name: bytes) -> list[bytes]:
        """The comma-separated members of every field called `name`, stripped and lower-cased."""
        if name not in self.first:
            return []
        return [
            token
            for value in self.get_all(name)
            for part in value.split(b",")
            if (token := part.strip().lower())
        ]

    def __contains__(self, name: bytes) -> bool:
        return name in self.first

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)
