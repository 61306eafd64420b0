"""One request opened in the page: the call that it copies, and what it says of a trace that was never sent."""

import json
import re
from typing import Any

import pytest

from sidecar.testing import RunningSidecar
from tests.conftest import StartSidecar
from tests.ui.pages import OpenPage, one, wait_for

SAID = [{"role": "user", "content": "..."}]
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.request.stream": True}
EMBEDS = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "m"}
ANTHROPIC: dict[str, Any] = {**CHAT, "gen_ai.provider.name": "anthropic"}
VERTEX = {**CHAT, "gen_ai.provider.name": "gcp.vertex_ai"}
GEMINI = {**CHAT, "gen_ai.provider.name": "gcp.gemini"}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "..."}]}]}
BODIES: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ("/v1/chat/completions", CHAT, {"model": "m", "stream": True, "messages": SAID}),
    ("/groq/openai/v1/chat/completions/", CHAT, {"model": "m", "stream": True, "messages": SAID}),
    ("/v1/agents/completions", CHAT, {"agent_id": "...", "stream": True, "messages": SAID}),
    ("/v1/completions", CHAT, {"model": "m", "stream": True, "prompt": "..."}),
    ("/v1/responses", CHAT, {"model": "m", "stream": True, "input": "..."}),
    ("/v1/embeddings", EMBEDS, {"model": "m", "input": "..."}),
    (
        "/v1/messages",
        {**ANTHROPIC, "gen_ai.request.max_tokens": 77},
        {"model": "m", "stream": True, "max_tokens": 77, "messages": SAID},
    ),
    ("/v1/messages", ANTHROPIC, {"model": "m", "stream": True, "max_tokens": 1024, "messages": SAID}),
    (
        "/v1/projects/p/locations/l/publishers/anthropic/models/m:streamRawPredict",
        VERTEX,
        {"anthropic_version": "vertex-2023-10-16", "stream": True, "max_tokens": 1024, "messages": SAID},
    ),
    ("/v1beta/models/m:streamGenerateContent", GEMINI, CONTENTS),
    ("/v1beta/models/m:generateContent", GEMINI, CONTENTS),
    ("/v1beta/models/m:embedContent", EMBEDS, {"content": {"parts": [{"text": "..."}]}}),
    ("/v1beta/models/m:batchEmbedContents", EMBEDS, None),
    ("/v1internal:generateContent", GEMINI, None),
    ("/v1/audio/transcriptions", {}, None),
    ("/v1/threads/t/messages", {}, None),
    ("/v1/responses/r/cancel", {}, None),
]

COPIED = """(all) => import('/live/detail.js').then(({ curl }) =>
  all.map((facts) => curl({ named: false }, { 'http.request.method': 'POST', ...facts }, 'http://there')))"""


def test_a_copied_call_has_the_body_of_its_api(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """With the model and what the API wants besides, and none where nobody knows what it is; what was asked for stays POST."""
    page = open_page(sidecar)
    copied = page.evaluate(COPIED, [{**facts, "url.path": path} for path, facts, _ in BODIES])
    for line, (path, _, body) in zip(copied, BODIES, strict=True):
        sent = re.search("-d '(.*)'$", line)
        assert (sent and json.loads(sent[1])) == body, path
        assert ("-X POST" in line) == (body is None), path
        assert f"curl 'http://there{path}'" in line


@pytest.mark.parametrize(
    "query,kept",
    [
        ("alt=sse", "?alt=sse"),
        ("key=REDACTED&alt=sse", "?alt=sse"),
        ("api-version=2024-10-21&REDACTED", "?api-version=2024-10-21"),
        ("key=REDACTED", ""),
    ],
)
def test_a_copied_call_has_what_is_known_of_its_query(
    sidecar: RunningSidecar, open_page: OpenPage, query: str, kept: str
) -> None:
    """Without it an API streams in another form, or refuses; what was not kept is left out."""
    page = open_page(sidecar)
    (line,) = page.evaluate(COPIED, [{"url.path": "/x", "url.query": query}])
    assert line.startswith(f"curl 'http://there/x{kept}'")


def test_no_way_to_a_trace_that_was_not_sent(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """The sampler did not want it: the page says so, and its id is there all the same, for logs."""
    settings = {"TRACE_LINKS": "Jaeger=http://127.0.0.1:1/trace/{trace_id}"}
    sidecar = start_sidecar(settings=settings, environ={"OTEL_TRACES_SAMPLER": "always_off"})
    one(sidecar, "unsampled")
    page = open_page(sidecar)
    wait_for(page, "measured.rows().length === 1")
    page.focus("#lanes")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail code")
    assert "Not sampled: no trace was sent." in page.inner_text("#detail")
    assert page.locator("#detail a").count() == 0
    assert page.locator("text=Copy trace id").count() == 1
