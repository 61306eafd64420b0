"""What the tests of the live page ask of it: a call for it to draw, how many it knows, and to wait for what it shows."""

from collections.abc import Callable
from time import monotonic
from typing import Any

from sidecar.testing import RunningSidecar, chat_request, exchange

OpenPage = Callable[..., Any]


def one(sidecar: RunningSidecar, session: str, conversation: str = "main", **body: Any) -> None:
    """A call that is answered at once, if the upstream has an answer."""
    fields = (f"X-Sidecar-Session-Id: {session}", f"X-Sidecar-Conversation-Id: {conversation}")
    exchange(sidecar.port, chat_request(headers=[field.encode() for field in fields], **body))


def count(page: Any) -> int:
    """How many requests the page knows."""
    return int(page.evaluate("measured.requests.bars.size"))


def wait_for(page: Any, condition: str) -> None:
    """Waits until an expression holds in the page, whose policy lets the driver's own way of waiting evaluate no text."""
    deadline = monotonic() + 30
    while not page.evaluate(condition):
        assert monotonic() < deadline, condition
        page.wait_for_timeout(20)


def wait_until_drawn(page: Any) -> None:
    """Waits until what the page knows now is on its picture."""
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
