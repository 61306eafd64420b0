"""What the relay may hold at once: requests, and memory for bodies that are read.

Owns two numbers, and the bound of the second. A request that finds no slot is refused by its flow; a body that finds no
memory streams through unread.
"""


class Admission:
    """Requests that hold a slot, and bytes for inspection, which are bounded here."""

    __slots__ = ("active", "draining", "memory", "memory_limit")

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.active = 0
        """Requests that hold a slot."""
        self.memory = 0
        """Bytes held for inspection over all requests."""
        self.draining = False

    def hold(self, size: int) -> bool:
        """Takes memory for `size` bytes if there is room."""
        if self.memory + size > self.memory_limit:
            return False
        self.memory += size
        return True

    def release(self, size: int) -> None:
        """Gives memory back."""
        self.memory -= size

    def room(self, change: int) -> bool:
        """Takes memory for so many bytes if there is room, or gives as many back where the number is negative."""
        if change > 0:
            return self.hold(change)
        self.release(-change)
        return True
