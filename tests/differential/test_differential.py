"""Four public clients, each directly and through the sidecar: where the direct call works, the other gives the same.

What is excepted, and why, is a table of docs/wire.md, which is read here: an exception that no form needs fails.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidecar.testing import Garbage, RunningSidecar, ScriptedUpstream
from tests.differential.forms import FORMS, Form
from tests.differential.four_clients import CLIENTS, Ask, Said

WIRE = Path(__file__).parents[2] / "docs" / "wire.md"

OF_A_HOP = {
    "connection", "content-length", "date", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade",
    "x-sidecar-request-id",
}  # fmt: skip
"""Fields that belong to framing, to one connection, or to us."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BLANKS = re.compile(r"[\x00-\x20\x7f]+")


def excepted(heading: str) -> set[str]:
    """The first column of the table under its heading."""
    part = WIRE.read_text(encoding="utf-8").partition(f"### {heading}")[2].partition("\n## ")[0]
    _head, _line, *rows = (row.split("|")[1].strip() for row in part.splitlines() if row.startswith("| "))
    return set(rows)


def matters(said: Said) -> tuple[int, list[tuple[str, str]], bytes]:
    """What an app sees: the status, the fields that are not of one hop, the body."""
    fields = [
        (name, _BLANKS.sub(" ", value).strip())
        for name, value in said.fields
        if name not in OF_A_HOP and _TOKEN.fullmatch(name)
    ]
    return said.status, fields, said.body


Called = dict[tuple[str, str], tuple[Said | None, Said | None]]


def play(upstream: ScriptedUpstream, sidecar: RunningSidecar) -> Called:
    """Every form by every client: what the direct call gave, and the one through the sidecar."""
    for number, form in enumerate(FORMS):
        pieces = [form.data[at : at + 1] for at in range(len(form.data))] if form.slow else [form.data]
        end = [] if form.end is None else [form.end]
        upstream.answer_always(*(Garbage(piece) for piece in pieces), *end, path=f"/x{number}")

    def call(job: tuple[int, Form, str]) -> tuple[Said | None, Said | None]:
        number, form, client = job
        call_by, asks = CLIENTS[client], [Ask(form.method, form.body)]
        (direct,) = call_by(f"{upstream.url}/x{number}", asks)
        if direct is None:
            return None, None
        (through,) = call_by(f"{sidecar.url}/x{number}", asks)
        return direct, through

    jobs = [(number, form, client) for number, form in enumerate(FORMS) for client in CLIENTS]
    with ThreadPoolExecutor(40) as threads:
        said = list(threads.map(call, jobs))
    called = {(form.name, client): both for (_, form, client), both in zip(jobs, said, strict=True)}
    for job in jobs:
        _, form, client = job
        if not form.but and differs(called[form.name, client]):  # or the machine was too busy
            called[form.name, client] = call(job)
    return called


@pytest.fixture(scope="module")
def called(module_upstream: ScriptedUpstream, sidecar: RunningSidecar) -> Iterator[Called]:
    """All calls, made once."""
    yield play(module_upstream, sidecar)
    assert module_upstream.errors == []


def differs(both: tuple[Said | None, Said | None]) -> bool:
    """True when the direct call works and the other one gives something else."""
    direct, through = both
    return direct is not None and (through is None or matters(through) != matters(direct))


def test_what_works_directly_works_through_the_sidecar(called: Called) -> None:
    """The same status, fields and bytes, for each client and each form that is not excepted."""
    names = {form.name for form in FORMS if not form.but}
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert {case: both for case, both in called.items() if case[0] in names and differs(both)} == {}


def test_no_client_reads_something_else(called: Called) -> None:
    """What is not passed is an error, or the same answer: never another answer than the client's own reading."""
    odd = {
        case: both
        for case, both in called.items()
        if differs(both) and both[1] is not None and both[1].status != 502
    }
    assert {case[0] for case in odd} <= {"204 chunks", "space first name"}


def test_exceptions_are_those_of_the_docs() -> None:
    """Each excepted form stands in the table."""
    assert {form.but for form in FORMS} - {""} == excepted("What is not passed")


@pytest.mark.skipif("curl" not in CLIENTS, reason="curl is not installed: three clients were asked, not four")
def test_every_exception_is_needed(called: Called) -> None:
    """Each line of the table has a form that a client reads by itself and not through the sidecar."""
    needed = {form.but for form in FORMS if any(differs(called[form.name, client]) for client in CLIENTS)}
    assert needed - {""} == excepted("What is not passed")


def test_the_usual_answer_works_for_all(called: Called) -> None:
    """The comparison compares something: every client took the plain answer both ways."""
    for client in CLIENTS:
        direct, through = called["a length", client]
        assert direct is not None
        assert through is not None
        assert (direct.status, direct.body) == (through.status, through.body) == (200, b"abc")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_addresses_of_both_families(host: str) -> None:
    """By its address, and by a name."""
    with ScriptedUpstream(host="127.0.0.1" if host == "localhost" else host) as upstream:
        upstream.answer_always(Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), path="/x")
        url = f"http://localhost:{upstream.port}" if host == "localhost" else upstream.url
        with RunningSidecar(upstream=url) as sidecar:
            for client, call in CLIENTS.items():
                (direct,), (through,) = (call(f"{base}/x", [Ask()]) for base in (url, sidecar.url))
                if direct is None:
                    continue
                assert through is not None, client
                assert matters(direct) == matters(through), client
        assert upstream.requests
