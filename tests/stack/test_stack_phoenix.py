"""What Arize Phoenix makes of a sidecar's spans, with the settings that docs/backends.md gives."""

from collections.abc import Iterator

import pytest

from sidecar.testing import (
    RunningSidecar,
    ScriptedUpstream,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
)
from tests.stack.backends import Phoenix
from tests.stack.build import at_hand
from tests.stack.programs import eventually
from tests.test_docs_examples import example, exported

INPUT, OUTPUT = 11, 7
ASKED = {"visit-7": ("trains", "hotels", "trains"), "visit-8": ("main",)}
"""The conversations of each session's requests."""
REQUESTS = sum(map(len, ASKED.values()))


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    """A running Phoenix, where it is installed."""
    if at_hand("phoenix") is None:
        pytest.skip(
            "Phoenix: not run. It is not installed: put `phoenix` on PATH, or name it in STACK_PHOENIX"
        )
    running = Phoenix(tmp_path_factory.mktemp("phoenix"))
    try:
        running.backend.start()
        yield running
    finally:
        running.backend.kill()


@pytest.fixture(scope="module")
def sidecar(phoenix: Phoenix) -> Iterator[RunningSidecar]:
    """A sidecar with the recipe's settings, after the requests; its sessions have ended."""
    told = exported(example("to phoenix"), "http://127.0.0.1:6006", phoenix.url)
    environ = told | {"OTEL_BSP_SCHEDULE_DELAY": "200"}
    with (
        ScriptedUpstream() as upstream,
        RunningSidecar(upstream=upstream.url, settings={"SESSION_IDLE": "1s"}, environ=environ) as running,
    ):
        upstream.answer_always(json_answer(chat_completion(usage=(INPUT, OUTPUT))))
        for session, conversations in ASKED.items():
            for conversation in conversations:
                names = (f"X-Sidecar-Session-Id: {session}", f"X-Sidecar-Conversation-Id: {conversation}")
                lines = tuple(name.encode() for name in names)
                assert exchange(running.port, chat_request(headers=lines)).status == 200
        running.wait_until(lambda: running.stats()["sessions"]["active"] == 0, timeout=20)
        yield running


def test_sessions_and_tokens_are_counted_right(phoenix: Phoenix, sidecar: RunningSidecar) -> None:
    """Sessions by their id; every token once, although session and conversation have spans with sums of their own."""
    sums = "tokenCountPrompt tokenCountCompletion"
    each = "sessions(first: 9) {edges {node {sessionId numTraces tokenUsage {prompt completion}}}}"

    def all_there() -> dict[str, object]:
        found = phoenix.project("agents", f"recordCount traceCount {sums} {each}")
        created = sidecar.stats()["telemetry"]["traces"]["created"]
        return found if found.get("recordCount") == created else {}

    found = eventually(all_there)
    assert (found["tokenCountPrompt"], found["tokenCountCompletion"]) == (INPUT * REQUESTS, OUTPUT * REQUESTS)
    sessions = {edge["node"].pop("sessionId"): edge["node"] for edge in found["sessions"]["edges"]}  # type: ignore[index]
    assert sessions == {
        session: {
            # One for each request, one for each conversation, and the session's own.
            "numTraces": len(asked) + len({*asked}) + 1,
            "tokenUsage": {"prompt": INPUT * len(asked), "completion": OUTPUT * len(asked)},
        }
        for session, asked in ASKED.items()
    }


def test_calls_are_seen_as_such(phoenix: Phoenix, sidecar: RunningSidecar) -> None:
    """The call's span is of the kind `llm`, and only that."""
    query = "spans(first: 100) {edges {node {name spanKind}}}"
    spans = [edge["node"] for edge in phoenix.project("agents", query)["spans"]["edges"]]
    assert {span["name"] for span in spans if span["spanKind"] == "llm"} == {"chat gpt-4o"}
    assert {span["spanKind"] for span in spans if span["name"] != "chat gpt-4o"} == {"unknown"}


def test_nothing_is_refused(sidecar: RunningSidecar) -> None:
    """The recipe sends traces alone: Phoenix takes nothing else."""
    for account in sidecar.stats()["telemetry"].values():
        assert account["created"] == account["exported"] + account["queued"]
    assert sidecar.find_logs("sidecar.telemetry.failing") == []
