"""What real clients sent, with and without their ids: which turns join which, and what each is to its past."""

import json
import sys
from collections.abc import Sequence
from functools import partial

import pytest

from sidecar import apis
from sidecar.core.facts import Route
from sidecar.core.headers import Headers
from sidecar.core.identity import IdentityRules, resolve
from tests.histories.captured import NAMES, Asked, captured
from tests.histories.shown import Memory, Shown

THREADS: dict[str, str] = {
    "ai-sdk-7.0.173": "ab ab ba",
    "claude-code-2.1.332-print": "aaaa bbb b",
    "claude-code-2.1.332-tui": "ab cb b db b ef fe bb b gb hi",
    "cline-3.0.65": "aaa aa a bb",
    "codex-0.171.0-compaction": "aa bb",
    "codex-0.171.0-subagents": "aa aaa b",
    "codex-0.171.0-subagents-v2": "aaaaaa",
    "continue-1.5.47": "aa bbb",
    "gemini-cli-0.61.0": "aaa bb bb",
    "kimi-code-2.1.0": "aaa bbb bb b cc dd",
    "litellm-client-1.108.7": "ab ab ab",
    "litellm-proxy-upstream": "abcdef ghijkl",
    "llama-index-0.14.25": "ab ab cd",
    "openai-agents-chain": "aaaaa bbb",
    "opencode-1.18.33": "ab cde ed",
    "opencode-1.18.33-responses": "abb",
    "pi-responses": "aa bb",
    "qwen-code-0.24.4": "aaaa bcd b",
}
"""The session of each request that carries a history, in their order, where its ids are hidden: a letter each.

Those of forks are the session that was forked: it is their past. Sub-agents belong to their parent's, where that had not
gone on when they began, and their task stands whole in the capture.
"""

RELATIONS: dict[str, str] = {
    "ai-sdk-7.0.173": "FFCCCC",
    "claude-code-2.1.332-print": "FCCC FFFC",
    "claude-code-2.1.332-tui": "FF FC C FC C FFCC CC B FW FF",
    "cline-3.0.65": "FFFCCC FC",
    "codex-0.171.0-compaction": "FC FC",
    "codex-0.171.0-subagents": "FFCCC F",
    "codex-0.171.0-subagents-v2": "FCBBCC",
    "continue-1.5.47": "FC FCC",
    "gemini-cli-0.61.0": "FCC FF CC",
    "kimi-code-2.1.0": "FCC FFF CC C FC FC",
    "litellm-client-1.108.7": "FFCCCC",
    "litellm-proxy-upstream": "FFFFFF FFFFFF",
    "llama-index-0.14.25": "FFCCFF",
    "openai-agents-chain": "FCCCC FCC",
    "opencode-1.18.33": "FF FFF CC",
    "opencode-1.18.33-responses": "FFC",
    "pi-responses": "FC FC",
    "qwen-code-0.24.4": "FCCC FFFC",
}
"""What each of them is to its past."""

LANES: dict[str, str] = {
    "claude-code-2.1.332-print": "mmm mmabm",
    "claude-code-2.1.332-tui": "tm tm m tm m ab ba mm m tm tm",
    "cline-3.0.65": "mab ab m mm",
    "codex-0.171.0-compaction": "aa aa",
    "codex-0.171.0-subagents": "ab aaa c",
    "codex-0.171.0-subagents-v2": "abacaa",
    "gemini-cli-0.61.0": "mmm ma am",
    "kimi-code-2.1.0": "mmm mab ab m mm mm",
    "opencode-1.18.33": "m1 tm aa m",
    "opencode-1.18.33-responses": "m11",
    "qwen-code-0.24.4": "m1mm mmm m",
}
"""The lane of each request with its ids: `m` the main one, `t` titles, a number a side lane, a letter another conversation."""

_LETTERS = {"first": "F", "continues": "C", "branches": "B", "races": "X", "repeats": "R", "rewritten": "W"}


def play(asked: Sequence[Asked], memory: Memory, *, streamed: bool) -> list[Shown]:
    """Shows all requests that carry a history to a memory, one after another, ids hidden."""
    shown = []
    for one in asked:
        if one.api is not None and one.body is not None:
            shown.append(memory.ask(one.api, one.body))
            memory.answer(one.api, shown[-1], one.answer, streamed=streamed)
    return shown


def lettered(sessions: Sequence[str]) -> str:
    """A letter for each session, in order of appearance."""
    letters = {session: chr(ord("a") + at) for at, session in enumerate(dict.fromkeys(sessions))}
    return "".join(letters[session] for session in sessions)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("name", NAMES)
def test_sessions_that_nobody_named(name: str, streamed: bool) -> None:
    """Every continuation joins its own session, and no turn another; parallel runs of one agent stay apart."""
    memory = Memory()
    shown = play(captured(name), memory, streamed=streamed)
    expected = THREADS[name].replace(" ", "")
    assert lettered([one.session for one in shown]) == lettered(expected)
    assert "".join(_LETTERS[one.past.relation] for one in shown) == RELATIONS[name].replace(" ", "")
    assert memory.anomalies == []
    joined = sum(one.place.joins for one in shown)
    sys.stdout.write(f"{name}: {joined} of {len(shown)} turns joined, {len(set(expected))} sessions\n")


@pytest.mark.parametrize("name", LANES)
def test_lanes_of_sessions_that_somebody_named(name: str) -> None:
    """With their ids, side calls and sub-agents have lanes of their own, and the main thread stays in one."""
    memory, lanes = Memory(), []
    for number, one in enumerate(captured(name)):
        if one.api is None or one.body is None:
            continue
        headers = Headers([(field.encode(), value.encode()) for field, value in one.headers])
        hints = apis.read_request(Route("", one.api, turn=True), json.dumps(one.body).encode()).hints
        identity = resolve(
            headers,
            IdentityRules(),
            hints,
            chain=lambda _: None,
            generate=partial("made-up-{}".format, number),
            inspected=True,
        )
        shown = memory.ask(one.api, one.body, identity=identity)
        memory.answer(one.api, shown, one.answer)
        lanes.append(shown.lane)
    others = [lane for lane in dict.fromkeys(lanes) if not lane.startswith(("main", "side:t", "side:1"))]
    letters = dict(zip(others, "abcdefgh", strict=False)) | {"main": "m", "side:title": "t", "side:1": "1"}
    assert "".join(letters[lane] for lane in lanes) == LANES[name].replace(" ", "")


def test_all_at_once() -> None:
    """In one memory no client's turn joins another client's session."""
    memory = Memory()
    together: dict[str, list[str]] = {name: [] for name in NAMES}
    for at in range(20):
        for name in NAMES:
            for one in captured(name)[at : at + 1]:
                if one.api is not None and one.body is not None:
                    shown = memory.ask(one.api, one.body)
                    memory.answer(one.api, shown, one.answer)
                    together[name].append(shown.session)
    seen: dict[str, str] = {}
    for name, sessions in together.items():
        assert {session: seen.setdefault(session, name) for session in sessions} == dict.fromkeys(
            sessions, name
        )
