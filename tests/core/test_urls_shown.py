"""Paths and queries as they may be shown."""

import pytest

from sidecar.apis import match
from sidecar.core.shown import redact_path, redact_query


@pytest.mark.parametrize(
    "query, shown",
    [
        ("key=abc", "key=REDACTED"),
        ("alt=sse&key=abc&limit=5", "alt=sse&key=REDACTED&limit=5"),
        ("api-version=2024-10-21", "api-version=2024-10-21"),
        ("sk-abc", "REDACTED"),
        ("a=1&&b=2", "a=REDACTED&&b=REDACTED"),
        ("a=b=c", "a=REDACTED"),
        ("alt=sse;key=abc&limit=5%26key=abc", "alt=REDACTED&limit=REDACTED"),
        ("c2stYWJj==", "REDACTED"),
    ],
)
def test_redaction(query: str, shown: str) -> None:
    """Names are kept, values only of a short list."""
    assert redact_query(query) == shown


_SECRETS = (
    *("sk-live-0123456789abcdef", "0f3a9c1b7e5d2a8046b1c9d3e7f5a210", "bot123:ABC-DEF1234ghIkl"),
    *("8d3e1f5a-1b2c-4d5e-8f90-123456789abc", "AIzaSyA1b2C3d4E5f6G7h8I9j0", "user:pass@h", "tok%3Den@h"),
    *("%73k-live-0123456789abcdef", "v1;key=abc", "a=b", "QWxhZGRpbjpvcGVuU2VzYW1l", "x" * 300),
)


@pytest.mark.parametrize("secret", _SECRETS)
@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/{}/v1/chat/completions"),
        ("POST", "/v1/{}/messages"),
        ("POST", "/v1/x/{}/y/embeddings/"),
        ("GET", "/api/{}"),
        ("GET", "/{}"),
        ("GET", "/{}/"),
        ("GET", "/v9/{}/pot"),
        ("POST", "/{}/openai/deployments/gpt-4o/chat/completions"),
        ("POST", "/{}/v1beta/models/gemini-2.5-flash:generateContent"),
    ],
)
def test_a_secret_in_a_path_is_not_shown(method: str, path: str, secret: str) -> None:
    """In any segment that no template names by a parameter, whatever service it opens."""
    route = match(method, path.format(secret))
    for named in (None, "named"):
        told = redact_path(path.format(secret), route.template, named)
        assert told in {path.format("REDACTED"), path.format("v1;REDACTED")}


@pytest.mark.parametrize("secret", [_SECRETS[0], _SECRETS[4], "%73k-live-0123456789abcdef"])
@pytest.mark.parametrize(
    "path",
    ["/v1/models/{}", "/v1/responses/{}/cancel", "/v1/files/{}/content", "/v1beta/models/{}:countTokens"],
)
def test_a_key_in_the_place_of_an_id_is_not_shown(path: str, secret: str) -> None:
    """Of what a template does name, all but keys is shown."""
    route = match("POST" if path.endswith("countTokens") else "GET", path.format(secret))
    assert route.template != "/{provider path}"
    assert secret not in redact_path(path.format(secret), route.template)


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/named/v1/chat/completions/"),
        ("POST", "/openai/deployments/my-Gpt-4o_2024/chat/completions"),
        ("POST", "/v1beta/models/gemini-2.5-flash-preview-05-20:streamGenerateContent"),
        (
            "POST",
            "/v1/projects/my-project-0123456789/locations/us-east5/publishers/google/models/gemini-2.0:predict",
        ),
        ("GET", "/v1/responses/resp_0f3a9c1b7e5d2a8046b1c9d3e7f5a2100f3a9c1b7e5d2a80"),
        ("GET", "/v1/models/meta-llama%2FLlama-3.3-70B-Instruct"),
        ("GET", "/v1/models/meta-llama/Llama-3.3-70B-Instruct"),
        ("POST", "/model/anthropic.claude-3-sonnet-20240229-v1:0/invoke"),
        ("POST", "/v1/audio/transcriptions"),
        ("GET", "/up-0123456789abcdef/healthz"),
        ("GET", "/"),
        ("GET", "//a//b/"),
        ("OPTIONS", "*"),
    ],
)
def test_paths_of_words_and_ids_are_shown_whole(method: str, path: str) -> None:
    """What the providers' own routes look like."""
    assert redact_path(path, match(method, path).template, "up-0123456789abcdef") == path


@pytest.mark.parametrize("secret", _SECRETS)
def test_a_secret_in_a_query_is_not_shown(secret: str) -> None:
    """As a name, as a value of any name, and alone."""
    for query in (
        f"{secret}=1",
        f"key={secret}",
        f"alt={secret}",
        f"alt=sse&{secret}",
        f"X-Amz-Signature={secret}",
    ):
        assert secret not in redact_query(query)


def test_paths_are_bounded() -> None:
    """An absolute target shows its path only."""
    assert redact_path("http://u:p@h/a/b") == "/a/b"
    assert redact_path("*") == "*"
    assert len(redact_path("/x" * 9999)) == 1024
