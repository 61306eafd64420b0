"""What a request's method and path mean, whatever stands in front of the part that tells.

Owns the prefixes, the models of Google's paths, and what is known of no API in particular; what ends a path stands with
its API. Providers, gateways and upstream URLs put different prefixes before the same end (`/v1`, nothing, `/api/v1`,
`/openai/deployments/...`), so the end decides, the longest one that fits. Templates are made of what is written down here
and in the records, never of a path's own words: they are a metric's label.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import unquote

from sidecar.apis.base import Api, Path
from sidecar.core.facts import Route
from sidecar.core.identity import LONGEST_TEXT
from sidecar.core.shown import SEEN

UNKNOWN = Route(template="/{provider path}")

_NOT_BEFORE = re.compile(r"/(?:threads|conversations|batches)/")
"""Collections whose members have `messages` of their own that are no Anthropic messages."""

_APART = {"/publishers/anthropic": "anthropic"}
"""Publishers whose models have verbs of their own."""

_OTHER_VERBS = frozenset(("countTokens", "computeTokens", "predict"))
_GOOGLE = re.compile(
    r"(?P<prefix>.*?)(?P<publisher>/publishers/(?:google|anthropic))?"
    r"/(?P<kind>models|tunedModels|dynamic|endpoints)/(?P<model>.+)",
    re.DOTALL,
)
"""What precedes a verb's colon, which is the last one: a model's name may hold slashes and colons."""

_WRITTEN_DOWN = """
    /v1 /v2 /v3 /v4 /v1alpha /v1beta /v1beta1 /beta /api /api/v1 /api/v3 /api/anthropic /api/anthropic/v1
    /api/openai/v1 /api/paas/v4 /anthropic /anthropic/v1 /backend-api/codex /compatible-mode/v1 /inference
    /inference/v1 /models /openai /openai/v1 /v1/openai /v1beta/openai
"""
_PREFIXES = frozenset(_WRITTEN_DOWN.split()) | {""}
_ONE_OF_THEM = f"({'|'.join(map(re.escape, sorted(_PREFIXES, key=len)))})"
_AZURE = re.compile(r".*?/openai/deployments/(?P<model>.+?)(?:/extensions)?", re.DOTALL)
_VERTEX = re.compile(r".*/projects/[^/]+/locations/[^/]+(?P<endpoint>/endpoints/[^/]+)?")

_OTHERS = (
    "/models",
    "/models/{model}",
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

_SHORT = 256


def _pattern(template: str) -> str:
    """The regular expression for what a template stands for; only a model's name may hold slashes."""
    return re.sub(
        r"\\{(\w+)\\}",
        lambda found: "(.+)" if found[1] == "model" else "([^/]+)",
        re.escape(template),
    )


class Routes:
    """Finds what a request means by its method and path. The order of the APIs makes no difference."""

    def __init__(self, apis: Iterable[Api]) -> None:
        apis = tuple(apis)
        paths = [(api, path) for api in apis for path in api.paths]
        self._verbs = {(path.publisher, path.end): (api, path) for api, path in paths if path.verb}
        """By the publisher whose models alone have the verb, and the verb with its colon."""
        self._ends = {f"end{at}": (api, path) for at, (api, path) in enumerate(paths) if not path.verb}
        """By the end's name in its pattern."""
        self._patterns = {
            method: _ending({name: path for name, (_, path) in self._ends.items() if path.method == method})
            for method in {path.method for _, path in self._ends.values()}
        }
        self._own_ids = tuple(api.own_ids for api in apis if api.own_ids)
        self._others = [
            (re.compile(_ONE_OF_THEM + _pattern(template)), template)
            for template in (*_OTHERS, *(template for api in apis for template in api.others))
        ]
        self._remembered = lru_cache(maxsize=1024)(self._match)

    def match(self, method: str, path: str) -> Route:
        """What a request is. `path` is the raw path without its query, the upstream's name taken off."""
        return self._remembered(method, path) if len(path) <= _SHORT else self._match(method, path)

    def _match(self, method: str, path: str) -> Route:
        text = (unquote(path) if "%" in path else path).rstrip("/")
        pattern = self._patterns.get(method)
        found = pattern.fullmatch(text) if pattern else None
        if found and (route := self._by_end(found)):
            return route
        name, _, verb = text.rpartition(":")
        google = _GOOGLE.fullmatch(name)
        if google and verb.isascii() and verb.isalpha() and (route := self._by_verb(method, google, verb)):
            return route
        for other, template in self._others:
            found = other.fullmatch(text)
            if found:
                return Route(template=found[1] + template)
        return UNKNOWN if text else Route(template="/")

    def _by_end(self, found: re.Match[str]) -> Route | None:
        """The route of a path that ends as one of an API; None if what precedes it rules that out."""
        api, path = self._ends[found.lastgroup or ""]
        prefix = found["prefix"]
        if path.bare and prefix:
            return None
        template = _prefix_template(prefix) + path.end
        provider = _provider(prefix, path.provider)
        if path.fetches:
            answer_id = found[(found.lastindex or 0) + 1]
            if prefix not in _PREFIXES and not answer_id.startswith(self._own_ids):
                return None
            return Route(template, api.name, provider=provider, fetches=answer_id[:LONGEST_TEXT])
        if _NOT_BEFORE.search(found.string):
            return None
        azure = _AZURE.fullmatch(prefix)
        return Route(
            template,
            api.name if path.read else None,
            path.operation,
            path.turn,
            "azure.ai.openai" if azure else provider,
            azure["model"][:SEEN] if azure else None,
            path.streaming,
        )

    def _by_verb(self, method: str, found: re.Match[str], verb: str) -> Route | None:
        """The route of a verb on one of Google's models; None when it is not a verb but the end of a model's name."""
        publisher, model = found["publisher"] or "", found["model"]
        api, path = self._verbs.get((_APART.get(publisher, ""), ":" + verb), (None, None))
        if path is None and verb not in _OTHER_VERBS:
            return UNKNOWN if method == "POST" else None
        template = f"{_prefix_template(found['prefix'])}{publisher}/{found['kind']}/{{model}}:{verb}"
        if api is None or path is None or method != path.method or model.startswith("count-tokens"):
            return Route(template=template)
        return Route(
            template,
            api.name if path.read else None,
            path.operation,
            path.turn,
            "gcp.vertex_ai" if publisher else path.provider,
            model[:SEEN],
            path.streaming,
        )


def _ending(ends: Mapping[str, Path]) -> re.Pattern[str]:
    """A pattern for all ends, each a group of its name; the id in an end is the group behind it."""
    groups = "|".join(f"(?P<{name}>{_pattern(path.end)})" for name, path in ends.items())
    return re.compile(f"(?P<prefix>.*?)(?:{groups})")


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
