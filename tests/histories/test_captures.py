"""What real clients sent, with and without their ids: which turns join which, and what each is to its past."""

import sys
from collections.abc import Sequence

import pytest

from tests.histories.captured import NAMES, Asked, captured
from tests.histories.shown import Memory, Shown

THREADS: dict[str, str] = {
    "ai-sdk-7.0.173": "ab ab ba",
    "claude-code-2.1.332-print": "aaaa bcd b",
    "claude-code-2.1.332-tui": "ab cb b db b ef fe bb b gb hi",
    "cline-3.0.65": "abc bc a dd",
    "codex-0.171.0-compaction": "aa bb",
    "codex-0.171.0-subagents": "ab aaa c",
    "codex-0.171.0-subagents-v2": "aaaaaa",
    "continue-1.5.47": "aa bbb",
    "gemini-cli-0.61.0": "aaa bc cb",
    "kimi-code-2.1.0": "aaa bcd cd b ee ff",
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

Those of forks are the session that was forked: it is their past. A sub-agent is one of its own as long as nothing but its
task ties it to its parent.
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
    "qwen-code-0.24.4": "FCBC FFFC",
}
"""What each of them is to its past."""

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
        assert lettered(sessions) == lettered(THREADS[name].replace(" ", ""))
        assert {session: seen.setdefault(session, name) for session in sessions} == dict.fromkeys(
            sessions, name
        )
