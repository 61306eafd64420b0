"""What waits of an answer in flight, to be digested or parsed: little, or counted as the memory that it takes."""

import json
from sys import getsizeof

import pytest

from sidecar.core.digests import Digester
from sidecar.core.echo import Echo

KEY = Digester(b"a key of some bytes")
WORDS = "So the river rises in the hills. " * 2000
VALUE = json.dumps({"steps": [*map(str, range(6000))]})
CALL = '{"prompt": "Find the source of that river, and %s."}' % ("then its mouth " * 3000)


class Memory:
    """So many bytes, of which some are taken."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = self.most = 0

    def room(self, change: int) -> bool:
        """As the relay's admission has it."""
        if change > 0 and self.taken + change > self.limit:
            return False
        self.taken += change
        self.most = max(self.most, self.taken)
        return True


def pieces(text: str, size: int) -> list[str]:
    """The text in pieces of that size."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def waiting(echo: Echo) -> int:
    """Bytes of memory that its texts and calls take."""
    texts = [piece for text in echo._texts.values() for piece in text.pieces]
    return sum(map(getsizeof, [*texts, *(piece for call in echo._arguments.values() for piece in call)]))


@pytest.mark.parametrize("choices", [1, 8, 64])
def test_plain_texts_wait_in_kilobytes(choices: int) -> None:
    """Over all choices, in however small pieces they come; and are known by what they are as a whole."""
    memory = Memory(0)
    echo, most = Echo(KEY, room=memory.room), 0
    for piece in pieces(WORDS, 3):
        for choice in range(choices):
            echo.text(choice, piece)
    for choice in range(choices):
        echo.text(choice, "end")
        most = max(most, waiting(echo))
    assert most < 2 * 4096 + choices * 64 * 64
    whole = Echo(KEY)
    for choice in range(choices):
        whole.text(choice, WORDS + "end")
    assert (echo.marks(), memory.most) == (whole.marks(), 0)


def test_texts_that_may_be_json_count() -> None:
    """As long as they wait to be parsed."""
    memory = Memory(1 << 20)
    echo = Echo(KEY, room=memory.room)
    for piece in pieces(VALUE, 7):
        echo.text(0, piece)
        assert waiting(echo) <= max(memory.taken, 4096) + 64 * 64
    marks = echo.marks()
    assert len(marks[0]) == 2
    assert len(VALUE) < memory.taken == echo.held
    echo.close()
    assert (memory.taken, echo.held) == (0, 0)


def test_texts_that_may_be_json_without_room() -> None:
    """They are digested as what they are else: a text."""
    memory = Memory(10_000)
    echo = Echo(KEY, room=memory.room)
    for piece in pieces(VALUE, 7):
        echo.text(0, piece)
    assert echo.marks()[0] == (KEY.text(VALUE),)
    assert 0 < memory.most <= 10_000
    assert memory.taken == 0


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_arguments_count(size: int) -> None:
    """In however small pieces they come; what they say to a sub-agent is known."""
    memory = Memory(1 << 20)
    echo = Echo(KEY, room=memory.room)
    for piece in pieces(CALL, size):
        echo.arguments(0, 0, piece)
        assert waiting(echo) <= max(memory.taken, 4096) + size
    assert echo.marks()[2]
    echo.close()
    assert memory.taken == 0


def test_arguments_without_room() -> None:
    """Nobody is known by them, and nothing of them waits."""
    memory = Memory(10_000)
    echo = Echo(KEY, room=memory.room)
    for piece in pieces(CALL, 7):
        echo.arguments(0, 0, piece)
    assert (waiting(echo), echo.marks()[2], memory.taken) == (0, False, 0)
