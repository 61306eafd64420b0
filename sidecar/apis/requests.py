"""What a request's body tells, for any route.

Owns which shape is read for which API, and the operator's own fields. It reads bodies that an app sent,
whatever they hold: wrong types are listed, and only what is no JSON at all is refused.
"""

from functools import lru_cache
from typing import Any

import msgspec

from sidecar.apis.anthropic_messages import MessagesRequest
from sidecar.apis.base import RequestBody
from sidecar.apis.decode import Shape
from sidecar.apis.gemini import GenerateRequest
from sidecar.apis.openai_chat import ChatRequest
from sidecar.apis.openai_completions import CompletionRequest
from sidecar.apis.openai_embeddings import EmbeddingsRequest
from sidecar.apis.openai_responses import ResponsesRequest
from sidecar.apis.salvage import LARGE, Steps, at_once
from sidecar.core.facts import RequestFacts, Route

_ANY: Shape[Any] = Shape(RequestBody)
_SHAPES: dict[str | None, Shape[Any]] = {
    "openai.chat": Shape(ChatRequest),
    "openai.completions": Shape(CompletionRequest),
    "openai.responses": Shape(ResponsesRequest),
    "openai.embeddings": Shape(EmbeddingsRequest),
    "anthropic.messages": Shape(MessagesRequest),
    "gemini.generate_content": Shape(GenerateRequest),
}

_Tree = dict[str, "_Tree"]
_LEAF = ""
"""Stands in a tree of paths where a path ends."""


def read_request(route: Route, body: bytes, fields: tuple[str, ...] = ()) -> RequestFacts:
    """The facts of a request's JSON body. `fields` are the operator's dotted paths: texts or integers.

    Raises:
        UnreadableBody: the body is not JSON, or is nested absurdly deep.
    """
    return at_once(request_steps(route, body, fields))


def request_steps(route: Route, body: bytes, fields: tuple[str, ...] = ()) -> Steps[RequestFacts]:
    """The same with pauses, between which a large body costs some milliseconds.

    Raises:
        UnreadableBody: the body is not JSON, or is nested absurdly deep.
    """
    shape = _SHAPES.get(route.api, _ANY)
    request: RequestBody
    request, ignored = yield from shape.steps(body)
    hints = request.hints()
    if fields:
        if len(body) > LARGE:
            yield
        own, unfit = yield from _read_fields(body, fields)
        hints.update(own)
        ignored += tuple(path for path in unfit if path not in ignored)
    return RequestFacts(
        model=request.asked_model() or route.model,
        streaming=route.streaming or request.asks_stream(),
        messages=request.message_count(),
        hints=hints,
        attributes=request.attributes(),
        ignored=ignored,
        stored=request.asks_store(),
    )


def _read_fields(body: bytes, fields: tuple[str, ...]) -> Steps[tuple[dict[str, str], tuple[str, ...]]]:
    """The operator's own fields that are there, and those that are neither text nor integer."""
    shape = _own_shape(fields)
    found, ignored = yield from shape.steps(body)
    hints: dict[str, str] = {}
    _collect(found, "", hints)
    return hints, tuple(path for path in ignored if path in fields)


@lru_cache(maxsize=8)
def _own_shape(fields: tuple[str, ...]) -> Shape[Any]:
    """The shape that reads all of the operator's paths in one pass."""
    tree: _Tree = {}
    for path in fields:
        node = tree
        for name in path.split("."):
            node = node.setdefault(name, {})
        node[_LEAF] = {}
    return Shape(_struct(tree))


def _struct(tree: _Tree) -> type[msgspec.Struct]:
    """A struct with one field per member of the tree."""
    names = [name for name in tree if name != _LEAF]
    members: list[tuple[str, Any, Any]] = []
    for index, name in enumerate(names):
        kind: Any = None
        if _LEAF in tree[name]:
            kind = str | int | kind
        if tree[name].keys() - {_LEAF}:
            kind = _struct(tree[name]) | kind
        members.append((f"f{index}", kind, None))
    rename = {f"f{index}": name for index, name in enumerate(names)}
    return msgspec.defstruct("OwnFields", members, rename=rename)


def _collect(found: msgspec.Struct, prefix: str, hints: dict[str, str]) -> None:
    """Keeps the values at the ends of the paths."""
    for field in msgspec.structs.fields(found):
        value = getattr(found, field.name)
        path = prefix + field.encode_name
        if isinstance(value, msgspec.Struct):
            _collect(value, path + ".", hints)
        elif value is not None:
            hints[path] = str(value)
