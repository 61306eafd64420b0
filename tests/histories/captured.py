"""Conversations of real clients, as they were captured: heads and bodies, and what a scripted provider answered.

Texts stand cut in them, equal ones equal. The ids of an answer's calls, signatures and items are those that come back in
the run's next requests, which is where they are taken from.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sidecar import apis
from tests.histories.shown import CHAT, GEMINI, RESPONSES, Answer

HERE = Path(__file__).parent / "captures"
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.json")))


@dataclass
class Asked:
    """One captured request, and the answer that it was given."""

    number: int
    run: str
    at: float
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: dict[str, Any] | None
    api: str | None
    answer: Answer


@cache
def captured(name: str) -> tuple[Asked, ...]:
    """A capture's requests, in the order in which they came."""
    requests = json.loads((HERE / f"{name}.json").read_text())["requests"]
    asked = []
    for number, one in enumerate(requests):
        path = one["path"].partition("?")[0]
        api = apis.match(one["method"], path).api
        headers = [(field, value) for field, value in one["headers"]]
        told = one["answered_as"]
        answer = Answer(text=told["answer"] or "")
        asked.append(
            Asked(number, one["run"], one["at"], one["method"], path, headers, one["body"], api, answer)
        )
    _give_ids(asked, [one["answered_as"]["calls"] or [] for one in requests])
    return tuple(asked)


def _give_ids(asked: list[Asked], called: list[list[str]]) -> None:
    """Gives each answer the ids that come back first in a later request of its run."""
    used: set[str] = set()
    for one, names in zip(asked, called, strict=True):
        if one.api is None or one.body is None:
            continue
        for later in asked[one.number + 1 :]:
            message = _answer_in(later, one, names) if _follows(later, one) else None
            if message is not None and not used & {call[0] for call in message.calls}:
                message.text = one.answer.text
                message.calls = [(made, name, _closed(arguments)) for made, name, arguments in message.calls]
                one.answer = message
                used.update(call[0] for call in message.calls)
                break
    for one in asked:
        if one.body is not None and one.body.get("previous_response_id"):
            asked[one.number - 1].answer.response = one.body["previous_response_id"]


def _closed(arguments: str) -> str:
    """A call's arguments, closed again where they were cut."""
    try:
        json.loads(arguments)
    except ValueError:
        return arguments + '"}'
    return arguments


def _follows(later: Asked, one: Asked) -> bool:
    """True if a later request can hold an earlier one's answer: it has what that said before."""
    return later.api == one.api and len(_asked(later)) >= len(_asked(one)) and _first(later) == _first(one)


def _asked(one: Asked) -> list[Any]:
    body = one.body or {}
    found = body.get("messages") or body.get("input") or body.get("contents") or []
    return list(found)


def _first(one: Asked) -> str:
    """The first text of a user that no client wrote by itself."""
    for message in _asked(one):
        if message.get("role") != "user":
            continue
        content = message.get("content", message.get("parts"))
        blocks = [content] if isinstance(content, str) else [block.get("text", "") for block in content]
        for text in blocks:
            if text and not text.startswith("<"):
                return str(text)
    return ""


def _answer_in(later: Asked, one: Asked, names: list[str]) -> Answer | None:
    """What stands in a later request as an earlier one's answer: its text or its calls, or its thought where they are cut."""
    told = list(_said(later))
    for message in told:
        if one.answer.text and message.text == one.answer.text:
            return message
    for message in told[len(list(_said(one))) :][:1]:
        if not one.answer.text and [call[1] for call in message.calls] == names:
            return message
        if one.answer.text and message.thought and not message.text and not message.calls:
            return message
    return None


def _said(one: Asked) -> Iterator[Answer]:
    body = one.body or {}
    if one.api == RESPONSES:
        yield from _items(body["input"])
    elif one.api == GEMINI:
        for content in body["contents"]:
            if content["role"] == "model":
                yield _content(content["parts"])
    else:
        for message in body.get("messages", ()):
            if message["role"] == "assistant":
                yield _message(message) if one.api == CHAT else _blocks(message["content"])


def _message(message: dict[str, Any]) -> Answer:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(block["text"] for block in content)
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]
    return Answer(text, calls)


def _blocks(content: Any) -> Answer:
    answer = Answer()
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if block["type"] == "text":
            answer.text += block["text"]
        elif block["type"] == "tool_use":
            answer.calls.append((block["id"], block["name"], json.dumps(block["input"])))
        elif block["type"] == "thinking":
            answer.thought, answer.signature = block["thinking"], block["signature"]
    return answer


def _content(parts: Any) -> Answer:
    answer = Answer()
    for part in parts:
        answer.signature = part.get("thoughtSignature", answer.signature)
        answer.text += part.get("text", "")
        if "functionCall" in part:
            call = part["functionCall"]
            answer.calls.append((call["id"], call["name"], json.dumps(call["args"])))
    return answer


def _items(items: Any) -> Iterator[Answer]:
    """Several items are one answer, until something else than the model speaks."""
    answer = Answer()
    for item in items:
        kind = item.get("type", "message")
        if kind == "reasoning":
            answer.thought = item.get("id", "rs_").removeprefix("rs_")
            answer.signature = item["encrypted_content"]
        elif kind == "function_call":
            answer.calls.append((item["call_id"], item["name"], item["arguments"]))
        elif item.get("role") == "assistant":
            content = item["content"]
            answer.text += (
                content if isinstance(content, str) else "".join(block["text"] for block in content)
            )
            answer.response = item.get("id", "").removeprefix("msg_")
        elif answer != Answer():
            yield answer
            answer = Answer()
    if answer != Answer():
        yield answer
