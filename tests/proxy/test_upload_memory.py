"""A request's body: the memory that it takes while it is held and read."""

import json
from types import SimpleNamespace
from typing import cast

from sidecar.apis import Steps, at_once
from sidecar.core.digests import Digester
from sidecar.core.exchange import RequestHead
from sidecar.core.facts import RequestFacts, Route
from sidecar.core.headers import Headers
from sidecar.proxy.bodies import Upload
from sidecar.proxy.request_reader import Inbound
from sidecar.proxy.shared import Admission, Shared

CHAT = Route("/v1/chat/completions", api="openai.chat", operation="chat", turn=True)
MESSAGES = [{"role": "user", "content": "some words of a text " * 20}] * 2000
BODY = json.dumps({"model": "m", "messages": MESSAGES}).encode()


def upload(memory: int) -> tuple[Upload, Admission]:
    """A large body that has come, and what is held of so much memory."""
    inbound = Inbound(1)
    inbound.head = RequestHead(
        "POST", b"/v1/chat/completions", "1.1", Headers([(b"Content-Type", b"application/json")])
    )
    inbound.length, inbound.ended = len(BODY), True
    inbound.gather(BODY)
    admission = Admission(memory)
    shared = SimpleNamespace(
        admission=admission, limits=SimpleNamespace(inspect=len(BODY)), digester=Digester(b"key")
    )
    one = Upload(inbound, cast("Shared", shared))
    assert one.hold()
    return one, admission


def test_the_copies_of_a_body_that_is_read_in_pieces_count() -> None:
    """As long as it is read; then the body itself is all that is held."""
    one, admission = upload(3 * len(BODY))
    held = admission.memory
    most = 0

    def steps() -> Steps[RequestFacts]:
        nonlocal most
        reading = one.read(CHAT, ())
        while True:
            try:
                next(reading)
            except StopIteration as end:
                facts: RequestFacts = end.value
                return facts
            most = max(most, admission.memory)
            yield

    assert at_once(steps()).messages == 2000
    assert most == held + len(BODY)
    assert (one.state, admission.memory) == ("read", held)
    one.release()
    assert admission.memory == 0


def test_a_body_without_memory_for_them_passes_unread() -> None:
    """And nothing stays counted."""
    one, admission = upload(len(BODY) + 1000)
    assert at_once(one.read(CHAT, ())).messages is None
    assert one.state == "memory_full"
    one.release()
    assert admission.memory == 0


def test_what_is_held_already_needs_no_room() -> None:
    """Uploads that had to be kept come on top of the limit: then nobody gets more, and nobody loses what it has."""
    admission = Admission(100)
    admission.memory = 150
    assert [admission.hold(size) for size in (1, 0, -10)] == [False, True, True]
    assert admission.memory == 140
