"""Which routes are recognised behind which prefixes, and that templates stay few."""

import re
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import apis
from sidecar.apis.base import Path
from sidecar.apis.catalog import Catalog
from sidecar.core.facts import Route
from tests.pace import within

READ = [
    ("/v1/chat/completions", "/v1/chat/completions", "openai.chat", "chat", True),
    ("/chat/completions", "/chat/completions", "openai.chat", "chat", True),
    ("/api/v1/chat/completions", "/api/v1/chat/completions", "openai.chat", "chat", True),
    (
        "/compatible-mode/v1/chat/completions/",
        "/compatible-mode/v1/chat/completions",
        "openai.chat",
        "chat",
        True,
    ),
    ("/openai/v1/responses", "/openai/v1/responses", "openai.responses", "chat", True),
    ("/openai/v1/chat/completions/", "/openai/v1/chat/completions", "openai.chat", "chat", True),
    ("/%761/chat/completions", "/v1/chat/completions", "openai.chat", "chat", True),
    ("/acme/team-7/chat/completions", "/{prefix}/chat/completions", "openai.chat", "chat", True),
    ("/v1/completions", "/v1/completions", "openai.completions", "text_completion", True),
    ("/completion", "/completion", "openai.completions", "text_completion", True),
    ("/infill", "/infill", "openai.completions", "text_completion", True),
    ("/completions", "/completions", "openai.completions", "text_completion", True),
    ("/v1/responses", "/v1/responses", "openai.responses", "chat", True),
    ("/backend-api/codex/responses", "/backend-api/codex/responses", "openai.responses", "chat", True),
    ("/v1/embeddings", "/v1/embeddings", "openai.embeddings", "embeddings", False),
    ("/v1/responses/compact", "/v1/responses/compact", "openai.responses", "chat", False),
    (
        "/backend-api/codex/responses/compact",
        "/backend-api/codex/responses/compact",
        "openai.responses",
        "chat",
        False,
    ),
]


@pytest.mark.parametrize("path, template, api, operation, turn", READ)
def test_openai_routes(path: str, template: str, api: str, operation: str, turn: bool) -> None:
    """OpenAI's suffixes behind any prefix."""
    expected = Route(template=template, api=api, operation=operation, turn=turn, provider="openai")
    assert apis.match("POST", path) == expected


def test_anthropic_routes() -> None:
    """Messages behind any prefix, and on Vertex."""
    for prefix in ("/v1", "", "/anthropic/v1", "/api/anthropic/v1"):
        assert apis.match("POST", prefix + "/messages") == Route(
            prefix + "/messages", "anthropic.messages", "chat", turn=True, provider="anthropic"
        )
    base = "/v1/projects/p/locations/us-east5/publishers/anthropic/models/"
    template = "/{version}/projects/{project}/locations/{location}/publishers/anthropic/models/{model}:"
    assert apis.match("POST", base + "claude-sonnet-4@20250514:streamRawPredict") == Route(
        template + "streamRawPredict",
        "anthropic.messages",
        "chat",
        turn=True,
        provider="gcp.vertex_ai",
        model="claude-sonnet-4@20250514",
        streaming=True,
    )
    assert apis.match("POST", base + "count-tokens@x:rawPredict") == Route(template + "rawPredict")


def test_azure_routes() -> None:
    """A deployment stands for the model and is no part of the template."""
    assert apis.match("POST", "/openai/deployments/my%20gpt/chat/completions") == Route(
        "/openai/deployments/{deployment}/chat/completions",
        "openai.chat",
        "chat",
        turn=True,
        provider="azure.ai.openai",
        model="my gpt",
    )


def test_mistral_fim_and_vertex_endpoints() -> None:
    """Chat-shaped routes with names of their own."""
    assert apis.match("POST", "/v1/fim/completions") == Route(
        "/v1/fim/completions", "openai.chat", "text_completion", turn=True, provider="mistral_ai"
    )
    assert apis.match("POST", "/v1/agents/completions") == Route(
        "/v1/agents/completions", "openai.chat", "chat", turn=True, provider="mistral_ai"
    )
    assert apis.match("POST", "/v1/projects/p/locations/l/endpoints/openapi/chat/completions") == Route(
        "/{version}/projects/{project}/locations/{location}/endpoints/{endpoint}/chat/completions",
        "openai.chat",
        "chat",
        turn=True,
        provider="gcp.vertex_ai",
    )


GOOGLE = [
    (
        "/v1beta/models/gemini-2.5-pro:generateContent",
        "/v1beta/models/{model}:generateContent",
        False,
        "gcp.gemini",
    ),
    ("/v1/models/g%3AstreamGenerateContent", "/v1/models/{model}:streamGenerateContent", True, "gcp.gemini"),
    (
        "/v1beta/tunedModels/t:generateContent",
        "/v1beta/tunedModels/{model}:generateContent",
        False,
        "gcp.gemini",
    ),
    (
        "/v1/projects/p/locations/global/publishers/google/models/g:streamGenerateContent",
        "/{version}/projects/{project}/locations/{location}/publishers/google/models/{model}:streamGenerateContent",
        True,
        "gcp.vertex_ai",
    ),
    (
        "/v1/publishers/google/models/g:generateContent",
        "/v1/publishers/google/models/{model}:generateContent",
        False,
        "gcp.vertex_ai",
    ),
]


@pytest.mark.parametrize("path, template, streaming, provider", GOOGLE)
def test_gemini_routes(path: str, template: str, streaming: bool, provider: str) -> None:
    """Google's verbs, with the model from the path."""
    route = apis.match("POST", path)
    assert (route.template, route.streaming, route.provider) == (template, streaming, provider)
    assert (route.api, route.operation, route.turn) == ("gemini.generate_content", "generate_content", True)
    assert route.model in {"gemini-2.5-pro", "g", "t"}


@pytest.mark.parametrize("verb, streaming", [("generateContent", False), ("streamGenerateContent", True)])
def test_code_assist(verb: str, streaming: bool) -> None:
    """What the Gemini CLI asks when somebody has logged in (code_assist/server.ts); the model stands in the body."""
    route = apis.match("POST", f"/v1internal:{verb}")
    assert route == Route(
        f"/v1internal:{verb}",
        "gemini.generate_content",
        "generate_content",
        turn=True,
        provider="gcp.gen_ai",
        streaming=streaming,
    )
    assert apis.match("POST", "/v1internal:loadCodeAssist") == Route("/{provider path}")


LONG_NAMES = [
    (
        "/v1beta/models/vertex/gemini-2.5-flash:generateContent",
        "vertex/gemini-2.5-flash",
        "/v1beta/models/{model}",
    ),
    (
        "/v1beta/models/vertex%2Fgemini-2.5-flash%3AgenerateContent/",
        "vertex/gemini-2.5-flash",
        "/v1beta/models/{model}",
    ),
    ("/v1beta/models/ollama:llama3:8b:generateContent", "ollama:llama3:8b", "/v1beta/models/{model}"),
    ("/genai/v1beta/models/a/b%3Ac/d:streamGenerateContent", "a/b:c/d", "/{prefix}/models/{model}"),
    ("/v1/publishers/google/models/g@001:generateContent", "g@001", "/v1/publishers/google/models/{model}"),
    (
        "/v1/projects/p/locations/l/publishers/google/models/team/g:streamGenerateContent",
        "team/g",
        "/{version}/projects/{project}/locations/{location}/publishers/google/models/{model}",
    ),
    (
        "/v1/projects/p/locations/l/endpoints/123:generateContent",
        "123",
        "/{version}/projects/{project}/locations/{location}/endpoints/{model}",
    ),
    (
        "/v1/projects/p/locations/l/publishers/anthropic/models/eu/claude%404:rawPredict",
        "eu/claude@4",
        "/{version}/projects/{project}/locations/{location}/publishers/anthropic/models/{model}",
    ),
    ("/openai/deployments/team/gpt-4o/chat/completions", "team/gpt-4o", "/openai/deployments/{deployment}"),
    ("/openai/deployments/team%2Fgpt%3A4o/completions/", "team/gpt:4o", "/openai/deployments/{deployment}"),
    ("/gw/openai/deployments/g/extensions/chat/completions", "g", "/openai/deployments/{deployment}"),
]


@pytest.mark.parametrize("path, model, template", LONG_NAMES)
def test_a_models_name_may_hold_slashes_and_colons(path: str, model: str, template: str) -> None:
    """The verb stands behind the last colon, the suffix at the end; all between is the model, which no template shows."""
    route = apis.match("POST", path)
    assert (route.model, route.turn) == (model, True)
    assert route.template.startswith(template)
    assert model not in route.template


FETCHED = [
    ("GET", "/v1/responses/resp_1", "/v1/responses/{response}", "resp_1"),
    ("GET", "/responses/6e1f/", "/responses/{response}", "6e1f"),
    ("GET", "/openai/v1/responses/resp%5F1", "/openai/v1/responses/{response}", "resp_1"),
    ("GET", "/acme/team-7/v1/responses/resp_1", "/{prefix}/responses/{response}", "resp_1"),
    ("POST", "/v1/responses/resp_1/cancel", "/v1/responses/{response}/cancel", "resp_1"),
    ("GET", "/v1/chat/completions/x", "/v1/chat/completions/{completion}", "x"),
    ("GET", "/acme/chat/completions/chatcmpl-1", "/{prefix}/chat/completions/{completion}", "chatcmpl-1"),
]


@pytest.mark.parametrize("method, path, template, fetches", FETCHED)
def test_answers_that_are_fetched_by_their_ids(method: str, path: str, template: str, fetches: str) -> None:
    """They are read, and are no turns."""
    api = "openai.responses" if "{response}" in template else "openai.chat"
    assert apis.match(method, path) == Route(template, api, provider="openai", fetches=fetches)


NOT_TURNS = [
    ("GET", "/v1/models", "/v1/models"),
    ("GET", "/models/gpt-4o", "/models/{model}"),
    ("HEAD", "/", "/"),
    ("GET", "", "/"),
    ("POST", "/v1/messages/count_tokens", "/v1/messages/count_tokens"),
    ("POST", "/v1/messages/batches", "/v1/messages/batches"),
    ("GET", "/v1/messages/batches/b1/results", "/v1/messages/batches/{batch}/results"),
    ("GET", "/v1/chat/completions", "/v1/chat/completions"),
    ("DELETE", "/v1/responses/resp_1", "/v1/responses/{response}"),
    ("GET", "/v1/responses/resp_1/cancel", "/v1/responses/{response}/cancel"),
    ("GET", "/v1/responses/resp_1/input_items", "/v1/responses/{response}/input_items"),
    ("POST", "/v1/chat/completions/chatcmpl-1", "/v1/chat/completions/{completion}"),
    ("GET", "/v1/chat/completions/chatcmpl-1/messages", "/v1/chat/completions/{completion}/messages"),
    ("GET", "/forms/7/responses/12", "/{provider path}"),
    ("POST", "/acme/v1/responses/resp_1/cancelled", "/{provider path}"),
    ("POST", "/v1/responses/input_tokens", "/v1/responses/input_tokens"),
    ("GET", "/v1/responses", "/v1/responses"),
    ("POST", "/v1/audio/transcriptions", "/v1/audio/transcriptions"),
    ("POST", "/v1beta/models/g:countTokens", "/v1beta/models/{model}:countTokens"),
    ("GET", "/v1beta/models/g:generateContent", "/v1beta/models/{model}:generateContent"),
    ("POST", "/v1beta/models/g:somethingElse", "/{provider path}"),
    ("POST", "/v1/threads/t1/messages", "/{provider path}"),
    ("POST", "/v1/weird/thing", "/{provider path}"),
    ("POST", "/api/v1/apps/a1/completion", "/{provider path}"),  # DashScope's apps answer otherwise
    ("GET", "/acme/models", "/{provider path}"),
    ("GET", "/v1/models/meta-llama/Llama-3.3-70B", "/v1/models/{model}"),
    ("GET", "/v1/models/llama3%3A8b", "/v1/models/{model}"),
    ("GET", "/v1/models/llama3:latest", "/v1/models/{model}"),
    ("GET", "/v1/models/ollama/llama3:latest/", "/v1/models/{model}"),
    ("POST", "/v1beta/models/vertex/g:somethingElse", "/{provider path}"),
]


@pytest.mark.parametrize("method, path, template", NOT_TURNS)
def test_other_routes_are_no_turns(method: str, path: str, template: str) -> None:
    """Known or not, nothing but its template is said about them."""
    assert apis.match(method, path) == Route(template=template)


def test_embeddings_of_google_are_named_but_not_read() -> None:
    """The operation is plain; its bodies are not read."""
    route = apis.match("POST", "/v1beta/models/e:embedContent")
    assert (route.operation, route.turn, route.api) == ("embeddings", False, None)


def overlap(one: Path, other: Path) -> bool:
    """True when both mean the same requests: their ends fit one another, word by word, an id fits any word."""
    if (one.method, one.publisher) != (other.method, other.publisher):
        return False
    words, others = one.end.split("/"), other.end.split("/")
    return len(words) == len(others) and all(
        word == another or "{" in word + another for word, another in zip(words, others, strict=True)
    )


def test_no_path_means_two_things() -> None:
    """No two paths overlap, of one API or of two, and no two APIs have one name: no order of the APIs decides."""
    paths = [(api.name, path) for api in apis.APIS for path in api.paths]
    assert [(a, b) for a, b in combinations(paths, 2) if overlap(a[1], b[1])] == []
    chat = next(api for api in apis.APIS if api.name == "openai.chat").paths
    fetched = next(path for path in chat if path.fetches)
    assert overlap(fetched, replace(fetched, end="/chat/completions/latest"))
    assert len({api.name for api in apis.APIS}) == len(apis.APIS)
    backwards = Catalog(apis.APIS[::-1])
    ends = [path.end for _, path in paths] + [end for api in apis.APIS for end in api.others]
    for end in ends:
        for prefix in ("", "/v1", "/acme/x", "/v1/models/m", "/v1/publishers/anthropic/models/m"):
            path = prefix + re.sub(r"{\w+}", "id-1", end)
            for method in ("POST", "GET", "DELETE"):
                assert backwards.match(method, path) == apis.match(method, path)


WORDS = st.sampled_from(
    ["v1", "chat", "completions", "messages", "models", "openai", "deployments", "projects"]
)


@given(
    words=st.lists(WORDS | st.text("abc:%/", max_size=4), max_size=7), method=st.sampled_from(["GET", "POST"])
)
def test_templates_never_contain_foreign_words(words: list[str], method: str) -> None:
    """Whatever the path, its template is made of words of the table."""
    template = apis.match(method, "/" + "/".join(words)).template
    for segment in template.split("/"):
        known = {"", "v1", "chat", "completions", "messages", "models", "openai", "deployments"}
        assert segment in known or segment.startswith("{")


def test_a_very_long_path_is_matched_quickly() -> None:
    """No path makes the matching slow: one as long as a head may be takes some 12 ms."""
    units = (
        "/models/a",
        "/projects/a/locations/a",
        "/publishers/google",
        "/openai/deployments/x",
        "/threads",
        "/models/a:b",
        "/endpoints/",
    )
    with within(1.0):
        for unit in units:
            for end in (":x", ":9", "/", ""):
                apis.match("POST", unit * (60_000 // len(unit)) + end)
