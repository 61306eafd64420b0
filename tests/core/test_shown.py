"""What of others' texts may be shown: keys of every known form are not, models' names and ids are."""

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.identity import tidy
from sidecar.core.shown import REDACTED, clean, is_credential, is_plain, mask, readable, shown
from tests.pace import within

HEX = "0f3a9c1b7e5d2a8046b1c9d3e7f5a210"
MIXED = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"

KEYS = (
    "sk-live-0123456789abcdef",
    f"sk-proj-{MIXED}_{MIXED}",
    f"sk-ant-api03-{MIXED}-{MIXED}AA",
    f"sk-or-v1-{HEX}{HEX}",
    f"sk_live_{MIXED}",
    f"rk_test_{MIXED}",
    f"gsk_{MIXED}{MIXED}",
    f"hf_{MIXED}abcdefg",
    f"r8_{MIXED}",
    f"xai-{MIXED}{MIXED}",
    f"pplx-{HEX}",
    f"nvapi-{MIXED}_{MIXED}",
    f"ghp_{MIXED}",
    f"github_pat_11ABCDEFG0_{MIXED}",
    f"xoxb-123456789012-1234567890123-{MIXED}",
    f"AIzaSy{MIXED}",
    f"ya29.a0{MIXED}",
    f"AQ.Ab8{MIXED}",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    f"SG.{MIXED}.{MIXED}",
    f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{MIXED}",
    "bot123:ABC",
    f"123456789:AA{MIXED}",
    "Bearer abc123def456",
    "http://user:password@host",
    "api_key=abcd1234",
    "access_token=abcd1234",
)

NAMES = (
    *(
        "gpt-4o-mini-2024-07-18",
        "gpt-4.1-nano",
        "o3-mini",
        "chatgpt-4o-latest",
        "ft:gpt-4o:acme:run:9abc1234",
    ),
    *("claude-3-5-sonnet-20241022", "claude-opus-4-5-20251101", "anthropic.claude-3-sonnet-20240229-v1:0"),
    *("gemini-2.5-flash-preview-05-20", "models/gemini-2.0-flash-exp", "text-embedding-004"),
    *("meta-llama/Llama-3.3-70B-Instruct-Turbo", "mixtral-8x7b-32768", "Qwen/Qwen2.5-Coder-32B-Instruct"),
    *(
        "qwen3-coder:480b-cloud",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
        "pplx-70b-online",
        "xai-grok-4-fast",
    ),
    *("hf:zai-org/GLM-4.6", "jina-embeddings-v3", "jina-reranker-v2-base-multilingual", "sk-learn-v2"),
    *(
        "accounts/fireworks/models/llama-v3p1-405b-instruct",
        "phi-3-mini-4k-instruct-q4_K_M.gguf",
        "token-counter",
    ),
    *("openai/whisper-large-v3-turbo", "black-forest-labs/FLUX.1-schnell", "risk-assessment-model-2024"),
)

IDS = (
    "chatcmpl-9f8b7d6c5e4f3a2b1c0d9e8f7a6b5c4d",
    f"resp_{HEX}{HEX}",
    "msg_01XFDUDYJgAACzvnptvVoYEL",
    "gen-1730000000-AbCdEfGhIjKl",
    "8d3e1f5a-1b2c-4d5e-8f90-123456789abc",
    "user_abc_account__session_8d3e1f5a-1b2c-4d5e-8f90-123456789abc",
    "s1:main:1:1700000000000:0badcafe",
    "req_011CSHoEeqs5C35K2UUqR7Fy",
)


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_replaced(key: str) -> None:
    """Alone, inside a sentence, and where the limit would cut them; an id that is one becomes a digest."""
    secret = key.removeprefix("http://").removesuffix("@host").rpartition("=")[2].removeprefix("Bearer ")
    for text in (key, f"Incorrect API key provided: {key}.", f"({key})", f'"{key}"'):
        assert is_credential(text)
        assert secret not in shown(text)
        assert REDACTED in shown(text)
    for length in (240, 250, 255):
        assert secret[:8] not in shown("x " * (length // 2) + key)
    assert (tidy(key) or "").startswith("sha256-")


@pytest.mark.parametrize("name", [*NAMES, *IDS])
def test_names_and_ids_are_shown(name: str) -> None:
    """No false alarm."""
    assert shown(name) == name
    assert tidy(name) == name


@pytest.mark.parametrize("name", NAMES)
def test_models_are_plain(name: str) -> None:
    """Each part of a model's name may stand anywhere in a path."""
    assert [part for part in name.split("/") if not is_plain(part)] == []


@pytest.mark.parametrize(
    "random", [HEX, MIXED, IDS[4], "123456:word", "a@b", "QWxhZGRpbjpvcGVuU2VzYW1l", "12345678901"]
)
def test_random_stretches_are_not_plain(random: str) -> None:
    """Whatever service they open."""
    assert not is_plain(random)


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("plain ünï 日本 👩‍👧 \U0001fae9 é", "plain ünï 日本 👩‍👧 \U0001fae9 é"),
        ("\x1b[31mred\x07\r\n\t\x00", "�[31mred�����"),
        ("\x7f \x9b31m \x85", "� �31m �"),
        ("a\ud83d", "a�"),
        ("\u202eevil\u2066\u2069\u200f", "�evil���"),
        ("\u2028\u2029\ufeff\u00ad", "����"),
    ],
)
def test_controls_are_replaced(text: str, cleaned: str) -> None:
    """C0, DEL, C1, lone surrogates, and what reorders or breaks a line; letters of all scripts stay."""
    assert clean(text) == cleaned
    assert shown(text) == cleaned


@given(st.text(max_size=600))
def test_whatever_is_shown_can_be_printed(text: str) -> None:
    """It is bounded, it encodes, and it steers no terminal."""
    told = shown(text)
    assert len(told) <= 256
    assert not {category(char) for char in told.replace("\u200d", "")} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert told.encode().decode() == told


@pytest.mark.parametrize(
    "value, text",
    [
        (b"J\xc3\xbcrgen/1.0", "Jürgen/1.0"),
        (b"J\xfcrgen/1.0", "Jürgen/1.0"),
        ("日本".encode(), "日本"),
        (b"\xff", "ÿ"),
    ],
)
def test_bytes_are_read_as_they_were_meant(value: bytes, text: str) -> None:
    """UTF-8 where they are that, else latin-1."""
    assert readable(value) == text


@pytest.mark.parametrize(
    "value, told",
    [
        ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/v1/traces"),
        (
            "https://my-own-resource-name-eu.openai.azure.com",
            "https://my-own-resource-name-eu.openai.azure.com",
        ),
        ("/var/run/secrets/kubernetes.io/ca.crt", "/var/run/secrets/kubernetes.io/ca.crt"),
        ("https://u:p@h/x", "***@h/x"),
        ("http://h/?token=x", "http://h/?***"),
        ("http://h/#x", "http://h/#***"),
        ("http://h/?a#b", "http://h/?***"),
        (f"https://h/{HEX}/v1", "https://h/***/v1"),
        ("sk-live-0123456789abcdef", "***"),
        (f"-----BEGIN PRIVATE KEY-----\n{MIXED}/{MIXED}\n", "***"),
        ("\x1b[2Jx", "�[2Jx"),
        ("ab " * 200, "ab " * 66 + "ab..."),
    ],
)
def test_settings_are_masked(value: str, told: str) -> None:
    """What may be a credential is not repeated; what an operator mistyped is."""
    assert mask(value) == told


@pytest.mark.parametrize("piece", ["a", "sk-", "a:", "eyJ", "hf_a_", "Bearer ", "key=", "xox-", "//", "bot1"])
def test_the_work_is_bounded(piece: str) -> None:
    """Nothing that a peer sends costs more than a moment."""
    text = piece * 1_000_000
    with within(0.02):
        shown(text)
