"""What a request's method and path mean, whatever stands in front of the part that tells.

Owns the table of routes and their templates. Providers, gateways and upstream URLs put different
prefixes before the same suffix (`/v1`, nothing, `/api/v1`, `/openai/deployments/...`), so the suffix
decides. Templates come from this file only, never from a path's own words: they are a metric's label.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from sidecar.core.facts import Route

UNKNOWN = Route(template="/{provider path}")


class _Read(NamedTuple):
    """A suffix or verb that is read in depth when it is posted to."""

    api: str | None
    operation: str
    turn: bool
    provider: str
    streaming: bool = False


_POSTED = {
    "chat/completions": _Read("openai.chat", "chat", True, "openai"),
    "fim/completions": _Read("openai.chat", "text_completion", True, "mistral_ai"),
    "agents/completions": _Read("openai.chat", "chat", True, "mistral_ai"),
    "completions": _Read("openai.completions", "text_completion", True, "openai"),
    "responses": _Read("openai.responses", "chat", True, "openai"),
    "embeddings": _Read("openai.embeddings", "embeddings", False, "openai"),
    "messages": _Read("anthropic.messages", "chat", True, "anthropic"),
}
_BY_ID = re.compile(
    r"(?P<prefix>.*?)/(?:responses/(?P<response>[^/]+)(?P<cancel>/cancel)?|chat/completions/(?P<completion>[^/]+))"
)
_OWN_IDS = ("resp_", "chatcmpl-")
"""What an id begins with that is known to be one behind any prefix."""

_SUFFIX = re.compile(r"(.*?)/((?:chat/|fim/|agents/)?completions|responses|embeddings|messages)")
_NOT_BEFORE = re.compile(r"/(?:threads|conversations|batches)/")
"""Collections whose members have `messages` of their own that are no Anthropic messages."""

_VERBS = {
    "generateContent": _Read("gemini.generate_content", "generate_content", True, "gcp.gemini"),
    "streamGenerateContent": _Read("gemini.generate_content", "generate_content", True, "gcp.gemini", True),
    "embedContent": _Read(None, "embeddings", False, "gcp.gemini"),
    "batchEmbedContents": _Read(None, "embeddings", False, "gcp.gemini"),
}
_ANTHROPIC_VERBS = {
    "rawPredict": _Read("anthropic.messages", "chat", True, "gcp.vertex_ai"),
    "streamRawPredict": _Read("anthropic.messages", "chat", True, "gcp.vertex_ai", True),
}
_OTHER_VERBS = frozenset(("countTokens", "computeTokens", "predict"))
_GOOGLE = re.compile(
    r"(?P<prefix>.*?)(?P<publisher>/publishers/(?:google|anthropic))?"
    r"/(?P<kind>models|tunedModels|dynamic|endpoints)/(?P<model>.+)",
    re.DOTALL,
)
"""What stands before a verb's colon, which is the last one: a model's name may hold slashes and colons."""

_WRITTEN_DOWN = """
    /v1 /v2 /v3 /v4 /v1alpha /v1beta /v1beta1 /beta /api /api/v1 /api/v3 /api/anthropic /api/anthropic/v1
    /api/openai/v1 /api/paas/v4 /anthropic /anthropic/v1 /backend-api/codex /compatible-mode/v1 /inference
    /inference/v1 /models /openai /openai/v1 /v1/openai /v1beta/openai
"""
_PREFIXES = frozenset(_WRITTEN_DOWN.split()) | {""}
_AZURE = re.compile(r".*?/openai/deployments/(?P<model>.+?)(?:/extensions)?", re.DOTALL)
_VERTEX = re.compile(r".*/projects/[^/]+/locations/[^/]+(?P<endpoint>/endpoints/[^/]+)?")

_OTHERS = (
    "/models",
    "/models/{model}",
    "/messages/count_tokens",
    "/messages/batches",
    "/messages/batches/{batch}",
    "/messages/batches/{batch}/results",
    "/messages/batches/{batch}/cancel",
    "/chat/completions",
    "/chat/completions/{completion}",
    "/chat/completions/{completion}/messages",
    "/responses/input_tokens",
    "/responses/compact",
    "/responses/{response}",
    "/responses/{response}/cancel",
    "/responses/{response}/input_items",
    "/responses",
    "/conversations",
    "/conversations/{conversation}",
    "/conversations/{conversation}/items",
    "/files",
    "/files/{file}",
    "/files/{file}/content",
    "/batches",
    "/batches/{batch}",
    "/batches/{batch}/cancel",
    "/moderations",
    "/rerank",
    "/images/generations",
    "/images/edits",
    "/images/variations",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
)
_OTHER_PATTERNS = tuple(
    (
        re.compile(
            "(.*?)"
            + re.sub(
                r"\\{(\w+)\\}",
                lambda found: ".+" if found[1] == "model" else "[^/]+",
                re.escape(template),
            )
        ),
        template,
    )
    for template in _OTHERS
)


_SHORT = 256


def match(method: str, path: str) -> Route:
    """What a request is. `path` is the raw path without its query, the upstream's name taken off."""
    return _remembered(method, path) if len(path) <= _SHORT else _match(method, path)


def _match(method: str, path: str) -> Route:
    text = (unquote(path) if "%" in path else path).rstrip("/")
    if method == "POST":
        found = _SUFFIX.fullmatch(text)
        if found and not _NOT_BEFORE.search(text):
            return _suffix_route(found[1], found[2])
    fetched = _fetched(method, text)
    if fetched is not None:
        return fetched
    name, _, verb = text.rpartition(":")
    found = _GOOGLE.fullmatch(name)
    if found and verb.isascii() and verb.isalpha():
        route = _google_route(method, found, verb)
        if route is not None:
            return route
    for pattern, template in _OTHER_PATTERNS:
        found = pattern.fullmatch(text)
        if found and found[1] in _PREFIXES:
            return Route(template=found[1] + template)
    return UNKNOWN if text else Route(template="/")


_remembered = lru_cache(maxsize=1024)(_match)
"""An app asks for a few paths again and again."""


def _suffix_route(prefix: str, suffix: str) -> Route:
    """The route of a suffix that is read in depth."""
    read = _POSTED[suffix]
    azure = _AZURE.fullmatch(prefix)
    return Route(
        template=f"{_prefix_template(prefix)}/{suffix}",
        api=read.api,
        operation=read.operation,
        turn=read.turn,
        provider="azure.ai.openai" if azure else _provider(prefix, read.provider),
        model=azure["model"] if azure else None,
    )


def _fetched(method: str, text: str) -> Route | None:
    """The route of an answer that is asked for by its id: by GET, or by cancelling it."""
    found = _BY_ID.fullmatch(text)
    if found is None or method != ("POST" if found["cancel"] else "GET"):
        return None
    answer_id = found["response"] or found["completion"]
    if found["prefix"] not in _PREFIXES and not answer_id.startswith(_OWN_IDS):
        return None
    prefix = _prefix_template(found["prefix"])
    provider = _provider(found["prefix"], "openai")
    if found["response"]:
        template = f"{prefix}/responses/{{response}}{found['cancel'] or ''}"
        return Route(template, "openai.responses", provider=provider, fetches=answer_id)
    template = f"{prefix}/chat/completions/{{completion}}"
    return Route(template, "openai.chat", provider=provider, fetches=answer_id)


def _prefix_template(prefix: str) -> str:
    """What stands for a prefix in a template: itself only if it is one that is written down here."""
    if prefix in _PREFIXES:
        return prefix
    if _AZURE.fullmatch(prefix):
        return "/openai/deployments/{deployment}"
    found = _VERTEX.fullmatch(prefix)
    if found:
        endpoint = "/endpoints/{endpoint}" if found["endpoint"] else ""
        return "/{version}/projects/{project}/locations/{location}" + endpoint
    return "/{prefix}"


def _provider(prefix: str, usual: str) -> str:
    """The provider that a prefix tells, else the one whose API it is."""
    return "gcp.vertex_ai" if _VERTEX.fullmatch(prefix) else usual


def _google_route(method: str, found: re.Match[str], verb: str) -> Route | None:
    """The route of a verb on one of Google's models; None when it is not a verb but the end of a model's name."""
    prefix, publisher = found["prefix"], found["publisher"] or ""
    read = (_ANTHROPIC_VERBS if publisher.endswith("anthropic") else _VERBS).get(verb)
    if read is None and verb not in _OTHER_VERBS:
        return UNKNOWN if method == "POST" else None
    template = f"{_prefix_template(prefix)}{publisher}/{found['kind']}/{{model}}:{verb}"
    model = found["model"]
    if read is None or method != "POST" or model.startswith("count-tokens"):
        return Route(template=template)
    return Route(
        template=template,
        api=read.api,
        operation=read.operation,
        turn=read.turn,
        provider="gcp.vertex_ai" if publisher else read.provider,
        model=model,
        streaming=read.streaming,
    )
