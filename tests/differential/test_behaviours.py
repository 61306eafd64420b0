"""Four public clients, and what upstreams do with connections and with time: directly and through the sidecar.

Each row and client has an upstream address of its own, so that no connection is kept from one to another. What is
excepted, and why, is a table of docs/wire.md here as well.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from sidecar.testing import RunningSidecar, ScriptedUpstream
from tests.differential.behaviours import BEHAVIOURS, Behaviour
from tests.differential.four_clients import CLIENTS, Ask, Said
from tests.differential.test_differential import differs, excepted

TABLE = "What ends otherwise than without the sidecar"

JOBS = [
    (f"127.{number // 200 + 1}.{number % 200 + 1}.{place + 1}", behaviour, client)
    for number, behaviour in enumerate(BEHAVIOURS)
    for place, client in enumerate(CLIENTS)
    if not (behaviour.waits and client == "curl")  # which can't wait between its calls
]
"""The upstream's address, and who asks for what."""

Calls = list[Said | None]
_numbers = count()


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[ScriptedUpstream]:
    """A provider with all addresses of the machine's own."""
    with ScriptedUpstream(host="0.0.0.0") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def sidecar_settings(module_upstream: ScriptedUpstream) -> dict[str, str]:
    """An upstream for every row and client."""
    return {"UPSTREAMS": ",".join(f"{at}=http://{at}:{module_upstream.port}" for at, *_ in JOBS)}


def make(upstream: ScriptedUpstream, base: str, behaviour: Behaviour, client: str) -> tuple[Calls, int]:
    """The behaviour's calls, to a path that is theirs, and how many POSTs came of them."""
    path = f"/x{next(_numbers)}"
    upstream.answer_with(behaviour.says, path=path)

    def in_turn() -> Iterator[Ask]:
        for number, ask in enumerate(behaviour.asks):
            if number and behaviour.waits and number % behaviour.waits == 0:
                wait_for_ends(upstream, path, behaviour.waits)
            yield ask

    call, url = CLIENTS[client], base + path
    if behaviour.anew:
        said = [one for ask in behaviour.asks for one in call(url, [ask])]
    else:
        said = call(url, in_turn())
    return said, sum(one.path == path and one.method == "POST" for one in upstream.requests)


def wait_for_ends(upstream: ScriptedUpstream, path: str, after: int) -> None:
    """Returns once no connection is open that has brought so many requests to this path: who waits brings no other meanwhile.

    One that has brought fewer stays, because a call before it failed.
    """
    asked = Counter(request.connection for request in upstream.requests if request.path == path)
    theirs = {connection for connection, requests in asked.items() if requests >= after}
    upstream.wait_for(lambda: not any(player.connection in theirs for player in upstream._players))


Called = dict[tuple[str, str], list[tuple[Said | None, Said | None]]]


@pytest.fixture(scope="module")
def called(module_upstream: ScriptedUpstream, sidecar: RunningSidecar) -> Called:
    """All calls, made once: what the direct ones gave, and those through the sidecar."""

    def play(job: tuple[str, Behaviour, str]) -> list[tuple[Said | None, Said | None]]:
        at, behaviour, client = job
        direct, _ = make(module_upstream, f"http://{at}:{module_upstream.port}", behaviour, client)
        direct = [None if said and said.status == behaviour.nobodys else said for said in direct]
        if not any(direct):
            return []
        through, posts = make(module_upstream, f"{sidecar.url}/{at}", behaviour, client)
        assert posts <= sum(ask.method == "POST" for ask in behaviour.asks), (behaviour.name, client)
        return list(zip(direct, through, strict=True))

    with ThreadPoolExecutor(12) as threads:
        said = list(threads.map(play, JOBS))
    for number, (job, both) in enumerate(zip(JOBS, said, strict=True)):
        if any(direct and not through for direct, through in both):  # or the machine was too busy
            said[number] = play(job)
    return {(behaviour.name, client): both for (_, behaviour, client), both in zip(JOBS, said, strict=True)}


def test_what_works_directly_works_through_the_sidecar(called: Called) -> None:
    """The same status, fields and bytes, for each client, each call and each row that is not excepted."""
    names = {behaviour.name for behaviour in BEHAVIOURS if not behaviour.but}
    assert len({behaviour.name for behaviour in BEHAVIOURS}) == len(BEHAVIOURS)
    odd = {case: calls for case, calls in called.items() if case[0] in names and any(map(differs, calls))}
    assert odd == {}


def test_no_client_gets_another_answer(called: Called) -> None:
    """What is excepted is an error of ours, or the upstream's answer to a request without `Expect`."""
    statuses = {
        name: {through.status for _, through in calls if through is not None}
        for (name, _), calls in called.items()
        if any(map(differs, calls))
    }
    for behaviour in BEHAVIOURS:
        if behaviour.but and behaviour.name in statuses:
            assert statuses[behaviour.name] <= {200, 502}, behaviour.name


def test_exceptions_are_those_of_the_docs(called: Called) -> None:
    """Each line of the table has a row that ends otherwise for a client, and each excepted row stands in it."""
    needed = {
        behaviour.but
        for behaviour in BEHAVIOURS
        if any(any(map(differs, called.get((behaviour.name, client), []))) for client in CLIENTS)
    }
    assert {behaviour.but for behaviour in BEHAVIOURS} - {""} == excepted(TABLE)
    assert needed - {""} == excepted(TABLE)


def test_most_rows_work_for_somebody(called: Called) -> None:
    """The comparison compares something: what works for no client is a row that says nothing about the sidecar."""
    idle = {
        behaviour.name
        for behaviour in BEHAVIOURS
        if not any(called.get((behaviour.name, c)) for c in CLIENTS)
    }
    assert idle == {
        "a length, its side ended in the middle",
        "no answer, ended",
        "no answer, its side ended",
        "no answer, reset",
    }
