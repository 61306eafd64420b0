"""What the relay may hold at once: requests, and memory for bodies that are read.

Owns two numbers and their bounds. A request that finds no slot is refused; a body that finds no memory
streams through unread.
"""


class Admission:
    """Slots for requests and bytes for inspection, both bounded."""

    __slots__ = ("_max_requests", "_memory_limit", "active", "draining", "memory")

    def __init__(self, max_requests: int, memory_limit: int) -> None:
        self._max_requests = max_requests
        self._memory_limit = memory_limit
        self.active = 0
        """Requests that hold a slot."""
        self.memory = 0
        """Bytes held for inspection over all requests."""
        self.draining = False

    def enter(self) -> bool:
        """Takes a slot if one is free."""
        if self.active >= self._max_requests:
            return False
        self.active += 1
        return True

    def leave(self) -> None:
        """Gives a slot back."""
        self.active -= 1

    def hold(self, size: int) -> bool:
        """Takes memory for `size` bytes if there is room."""
        if self.memory + size > self._memory_limit:
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
