"""What request bodies tell: facts, hints, and what happens to what does not fit."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import apis
from sidecar.core.digests import Digester
from sidecar.core.facts import RequestFacts, Route
from sidecar.core.identity import LONGEST_TEXT
from sidecar.core.shown import ITEMS, SEEN
from tests.pace import within

CHAT = apis.match("POST", "/v1/chat/completions")
RESPONSES = apis.match("POST", "/v1/responses")
MESSAGES = apis.match("POST", "/v1/messages")
GEMINI = apis.match("POST", "/v1beta/models/m:generateContent")
UNKNOWN = apis.match("POST", "/something/else")


def read(route: Route, body: Any, *fields: str) -> RequestFacts:
    """The facts of a body given as a value; the short way tells the same of it, whatever it has seen before."""
    data = json.dumps(body).encode()
    facts = apis.read_request(route, data, fields)
    if not fields:
        assert apis.small_request(route, data) in (None, facts)
        known = Digester(b"known")
        for digester in (Digester(b"new"), known, known):
            whole = apis.at_once(apis.request_steps(route, data, (), digester))
            short = apis.small_request(route, data, digester)
            assert with_history(short) in (None, with_history(whole))
        assert (short is None) is (apis.small_request(route, data) is None)
    return facts


def with_history(facts: RequestFacts | None) -> object:
    """The facts, and what of the history is digested."""
    if facts is None or facts.history is None:
        return facts
    history, end = facts.history, facts.history.end
    told = (end.count, end.full, end.reduced, end.spoken, history.digests, history.tools, history.system)
    return replace(facts, history=None), told, history.previous, history.titles, history.answered_at


def test_messages_that_are_none() -> None:
    """They are counted as they are everywhere, with histories and without, and whatever has come before."""
    messages: list[Any] = [{"role": "user", "content": "What is the weather?"}, 7, "x", None, [{}], True]
    for odd in messages:
        bodies: list[dict[str, Any]] = [
            {"messages": [messages[0], odd]},
            {"contents": [odd, {"parts": []}]},
            {"input": [odd]},
        ]
        for body in bodies:
            for route in (CHAT, MESSAGES, GEMINI, RESPONSES):
                read(route, {"model": "m", "system": "S", "response_format": None, **body})


def test_bodies_that_differ_in_one_field() -> None:
    """What is remembered of a request is never told of another, in whichever field they differ."""
    bodies: list[dict[str, Any]] = [{"model": "m", "input": "x"}]
    for name, value in (
        ("previous_response_id", "a"),
        ("previous_response_id", "b"),
        ("conversation", "c"),
        ("metadata", {"user_id": "u"}),
        ("prompt_cache_key", "k"),
        ("session_id", "s"),
        ("stream", True),
        ("store", True),
        ("store", False),
        ("temperature", 0.5),
        ("max_output_tokens", 3),
        ("text", {"format": {"type": "json_schema"}}),
        ("input", [{}, {}]),
        ("messages", [{}, {}, {}]),
    ):
        bodies += [{**bodies[0], name: value}, bodies[0]]
    for route in (RESPONSES, CHAT, MESSAGES, GEMINI, UNKNOWN):
        for body in bodies:
            read(route, body)


def test_openai_chat() -> None:
    """Everything that is read of a chat completion request."""
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text"}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "max_completion_tokens": 100,
        "temperature": 1,
        "top_p": 0.5,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "seed": 7,
        "n": 2,
        "stop": ["END"],
        "response_format": {"type": "json_schema", "json_schema": {}},
        "service_tier": "flex",
        "user": "u-1",
        "metadata": {"session_id": "s-1", "other": "x"},
    }
    assert read(CHAT, body) == RequestFacts(
        model="gpt-4o",
        streaming=True,
        messages=2,
        hints={"metadata.session_id": "s-1"},
        attributes={
            "gen_ai.request.max_tokens": 100,
            "gen_ai.request.temperature": 1.0,
            "gen_ai.request.top_p": 0.5,
            "gen_ai.request.frequency_penalty": 0.1,
            "gen_ai.request.presence_penalty": -0.1,
            "gen_ai.request.seed": 7,
            "gen_ai.request.choice.count": 2,
            "gen_ai.request.stop_sequences": ["END"],
            "gen_ai.output.type": "json",
            "openai.request.service_tier": "flex",
        },
    )


@pytest.mark.parametrize(
    "path, body, sequences",
    [
        ("/v1/chat/completions", {"stop": "END"}, ["END"]),
        ("/v1/completions", {"stop": ["a", "b"]}, ["a", "b"]),
        ("/v1/completions", {"stop": "END"}, ["END"]),
        ("/v1/chat/completions", {"stop": None}, None),
        ("/v1/chat/completions", {"stop": []}, None),
        ("/v1/messages", {"stop_sequences": []}, None),
        ("/v1beta/models/m:generateContent", {"generationConfig": {"stopSequences": []}}, None),
    ],
)
def test_stop_sequences(path: str, body: dict[str, object], sequences: list[str] | None) -> None:
    """One text or a list, under each API's name; none is absent."""
    told = read(apis.match("POST", path), body).attributes
    assert told.get("gen_ai.request.stop_sequences") == sequences


def test_what_is_not_told_is_absent() -> None:
    """Defaults are not invented; null is like absent; one choice and tier `auto` are not worth telling."""
    assert read(CHAT, {}) == RequestFacts()
    nulls = {
        "model": None,
        "messages": None,
        "n": 1,
        "service_tier": "auto",
        "stream": None,
        "metadata": None,
    }
    assert read(CHAT, nulls) == RequestFacts()
    assert read(CHAT, {"response_format": {"type": "new"}}) == RequestFacts()


def test_openai_completions() -> None:
    """Everything that is read of a text completion request; prompts are no messages."""
    facts = read(apis.match("POST", "/completions"), {"model": "m", "prompt": ["a"], "max_tokens": 9, "n": 3})
    attributes = {"gen_ai.request.max_tokens": 9, "gen_ai.request.choice.count": 3}
    assert facts == RequestFacts(model="m", attributes=attributes)
    route = apis.match("POST", "/completion")  # llama.cpp's own names
    assert read(route, {"prompt": "a", "n_predict": 8, "stream": True}) == RequestFacts(
        streaming=True, attributes={"gen_ai.request.max_tokens": 8}
    )
    assert read(route, {"prompt": "a", "n_predict": -1}) == RequestFacts()


def test_openai_responses() -> None:
    """Everything that is read of a responses request; a text is one item."""
    body = {
        "model": "gpt-5",
        "input": [{"role": "user", "content": "x"}, {"type": "function_call_output"}],
        "stream": True,
        "max_output_tokens": 64,
        "temperature": 0,
        "top_p": 1,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "service_tier": "priority",
        "previous_response_id": "resp_1",
        "reasoning": {"effort": "low"},
        "conversation": {"id": "conv_1"},
        "prompt_cache_key": "not a session",
    }
    assert read(RESPONSES, body) == RequestFacts(
        model="gpt-5",
        streaming=True,
        messages=2,
        hints={
            "previous_response_id": "resp_1",
            "conversation": "conv_1",
            "prompt_cache_key": "not a session",
        },
        attributes={
            "gen_ai.request.max_tokens": 64,
            "gen_ai.request.temperature": 0.0,
            "gen_ai.request.top_p": 1.0,
            "gen_ai.output.type": "text",
            "gen_ai.request.previous_response.id": "resp_1",
            "gen_ai.request.reasoning.level": "low",
            "openai.request.service_tier": "priority",
        },
    )
    assert read(RESPONSES, {"input": "hello", "conversation": "conv_2"}) == RequestFacts(
        messages=1, hints={"conversation": "conv_2"}
    )


@pytest.mark.parametrize(
    "route,body",
    [
        (CHAT, {"reasoning_effort": "high"}),
        (CHAT, {"reasoning": {"effort": "high"}}),
        (RESPONSES, {"reasoning": {"effort": "high"}}),
        (MESSAGES, {"output_config": {"effort": "high"}}),
        (GEMINI, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "high"}}}),
    ],
)
def test_the_level_of_reasoning(route: Route, body: dict[str, object]) -> None:
    """Wherever an API has it."""
    assert read(route, body).attributes["gen_ai.request.reasoning.level"] == "high"


def test_openai_embeddings() -> None:
    """Everything that is read of an embeddings request."""
    body = {"model": "e", "input": [[1, 2], [3]], "dimensions": 256, "encoding_format": "base64"}
    assert read(apis.match("POST", "/v1/embeddings"), body) == RequestFacts(
        model="e",
        attributes={"gen_ai.embeddings.dimension.count": 256, "gen_ai.request.encoding_formats": ["base64"]},
    )


def test_anthropic_messages() -> None:
    """Everything that is read of a messages request, with the user id that Claude Code sends."""
    user = json.dumps({"device_id": "d", "session_id": "5b7e"})
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 1024,
        "temperature": 0.2,
        "top_p": 0.9,
        "top_k": 40,
        "stop_sequences": ["x"],
        "messages": [{"role": "user", "content": "x"}],
        "output_config": {"format": {"type": "json_schema"}},
        "metadata": {"user_id": user},
        "stream": False,
    }
    assert read(apis.match("POST", "/v1/messages"), body) == RequestFacts(
        model="claude-sonnet-4-5",
        messages=1,
        hints={"metadata.user_id": user},
        attributes={
            "gen_ai.request.max_tokens": 1024,
            "gen_ai.request.temperature": 0.2,
            "gen_ai.request.top_p": 0.9,
            "gen_ai.request.top_k": 40.0,
            "gen_ai.request.stop_sequences": ["x"],
            "gen_ai.output.type": "json",
        },
    )


def test_gemini() -> None:
    """Everything that is read of a generateContent request; model and stream stand in the path."""
    config = {
        "temperature": 0.1,
        "topP": 0.2,
        "topK": 3,
        "maxOutputTokens": 50,
        "candidateCount": 2,
        "stopSequences": ["y", "z"],
        "seed": 1,
        "presencePenalty": 0.5,
        "frequencyPenalty": 0.6,
        "responseMimeType": "application/json",
    }
    route = apis.match("POST", "/v1beta/models/gemini-2.5-flash:streamGenerateContent")
    assert read(route, {"contents": [{}, {}, {}], "generationConfig": config}) == RequestFacts(
        model="gemini-2.5-flash",
        streaming=True,
        messages=3,
        attributes={
            "gen_ai.request.max_tokens": 50,
            "gen_ai.request.temperature": 0.1,
            "gen_ai.request.top_p": 0.2,
            "gen_ai.request.top_k": 3.0,
            "gen_ai.request.frequency_penalty": 0.6,
            "gen_ai.request.presence_penalty": 0.5,
            "gen_ai.request.seed": 1,
            "gen_ai.request.choice.count": 2,
            "gen_ai.request.stop_sequences": ["y", "z"],
            "gen_ai.output.type": "json",
        },
    )
    asked = {"contents": [{}, {}, {}], "generationConfig": config, "session_id": "s"}
    wrapped = {"model": "gemini-2.5-pro", "project": "p", "user_prompt_id": "s####1", "request": asked}
    assert read(apis.match("POST", "/v1internal:generateContent"), wrapped) == RequestFacts(
        model="gemini-2.5-pro",
        messages=3,
        hints={"request.session_id": "s"},
        attributes=read(route, asked).attributes,
    )
    assert read(route, {"contents": [{}], "model": "models/other"}).model == "gemini-2.5-flash"
    for modalities, kind in (
        (["IMAGE"], "image"),
        (["AUDIO"], "speech"),
        (["TEXT", "IMAGE"], None),
        (["X"], None),
        ([2], "image"),
        ([9], None),
    ):
        facts = read(route, {"generationConfig": {"responseModalities": modalities}})
        assert facts.attributes.get("gen_ai.output.type") == kind


@pytest.mark.parametrize("route", [CHAT, UNKNOWN, Route("/v1/images/generations")])
def test_hints_on_any_route(route: Route) -> None:
    """Identity fields are read of every JSON body, known route or not."""
    body = {
        "session_id": "a",
        "litellm_session_id": "b",
        "metadata": {"session_id": "c", "user_id": "d", "conversation_id": "e"},
        "conversation": "f",
        "previous_response_id": "g",
    }
    assert read(route, body).hints == {
        "session_id": "a",
        "litellm_session_id": "b",
        "metadata.session_id": "c",
        "metadata.user_id": "d",
        "metadata.conversation_id": "e",
        "conversation": "f",
        "previous_response_id": "g",
    }


def test_own_fields() -> None:
    """The operator's dotted paths: texts and integers, whatever stands beside or below them."""
    body = {
        "chat-id": 42,
        "user": "u",
        "extra": {"a": {"b": "deep", "c": None}, "n": 1.5},
        "both": {"inner": "i"},
        "metadata": {"tenant": "t", "session_id": "s"},
    }
    fields = (
        "chat-id",
        "user",
        "extra.a.b",
        "extra.a.c",
        "extra.n",
        "both",
        "both.inner",
        "metadata.tenant",
        "no",
    )
    facts = read(UNKNOWN, body, *fields)
    assert facts.hints == {
        "metadata.session_id": "s",
        "chat-id": "42",
        "user": "u",
        "extra.a.b": "deep",
        "both.inner": "i",
        "metadata.tenant": "t",
    }
    assert facts.ignored == ("extra.n",)
    assert read(UNKNOWN, {"both": "text"}, *fields).hints == {"both": "text"}
    assert read(UNKNOWN, {"both": True, "user": []}, *fields).ignored == ("user", "both")


WRONG = [
    ({"model": 5}, ("model",)),
    ({"model": "m" * 1_000_000}, ("model",)),
    ({"messages": "hello"}, ("messages",)),
    ({"messages": [1, 2]}, ("messages",)),
    ({"stream": "true"}, ("stream",)),
    ({"temperature": "hot", "seed": 2**70, "n": True}, ("temperature", "seed", "n")),
    ({"session_id": 5}, ("session_id",)),
    ({"session_id": ["a"], "conversation": 7}, ("session_id", "conversation")),
    ({"conversation": {"id": 7}}, ("conversation.id",)),
    ({"metadata": "text"}, ("metadata",)),
    ({"metadata": {"session_id": {}, "user_id": 1}}, ("metadata.session_id", "metadata.user_id")),
    ({"response_format": {"type": []}}, ("response_format.type",)),
]


@pytest.mark.parametrize("body, ignored", WRONG)
def test_wrong_types_are_listed_and_the_rest_is_read(body: dict[str, Any], ignored: tuple[str, ...]) -> None:
    """A field of a wrong type costs that field only."""
    facts = read(CHAT, {"top_p": 0.5, "litellm_session_id": "s"} | body)
    assert set(facts.ignored) == set(ignored)
    assert facts.hints == {"litellm_session_id": "s"}
    assert facts.attributes == {"gen_ai.request.top_p": 0.5}


def test_texts_that_are_no_unicode() -> None:
    """Bad UTF-8 costs its field only; half a surrogate pair is replaced; neither matters in what is not read."""
    body = b'{"model":"\xff","session_id":"a\\ud83d","litellm_session_id":"\\ud83d\\ude00","messages":[{"x":"\xff\\udfff"}]}'
    hints = {"session_id": "a\ufffd", "litellm_session_id": "\U0001f600"}
    assert apis.read_request(CHAT, body) == RequestFacts(messages=1, hints=hints, ignored=("model",))


@pytest.mark.parametrize("body", [b"[1,2]", b'"text"', b"7", b"null", b" [] "])
def test_json_that_is_no_object(body: bytes) -> None:
    """It is JSON, so it is not unreadable; it tells nothing, and that is said."""
    assert apis.read_request(CHAT, body) == RequestFacts(ignored=("$",))
    assert apis.read_request(UNKNOWN, body, ("a.b",)) == RequestFacts(ignored=("$",))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} x",
        b"[1,",
        b"not json",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a":1,}',
    ],
)
@pytest.mark.parametrize("route", [CHAT, UNKNOWN])
def test_what_is_no_json_is_refused(route: Route, body: bytes) -> None:
    """Malformed or absurdly nested bodies raise the one error there is."""
    with pytest.raises(apis.UnreadableBody):
        apis.read_request(route, body)


def test_deep_nesting_that_ends_is_refused_too() -> None:
    """Valid JSON, but no reader should have to descend that far."""
    deep = b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(apis.UnreadableBody):
        apis.read_request(CHAT, deep)


def test_of_a_huge_text_its_beginning_is_kept() -> None:
    """What is kept of a request is small, whatever it says: as much as identity and spans make something of."""
    huge = "x" * 1_000_000
    body = {"session_id": huge, "metadata": {"user_id": huge}, "conversation": {"id": huge}, "own": huge}
    found = read(CHAT, {**body, "stop": huge}, "own")
    assert {path: len(text) for path, text in found.hints.items()} == dict.fromkeys(
        ("session_id", "metadata.user_id", "conversation", "own"), LONGEST_TEXT
    )
    assert found.attributes["gen_ai.request.stop_sequences"] == ["x" * SEEN]
    many = read(MESSAGES, {"stop_sequences": [huge, *map(str, range(500))]})
    assert many.attributes["gen_ai.request.stop_sequences"] == ["x" * SEEN, *map(str, range(ITEMS - 1))]
    chained = read(RESPONSES, {"previous_response_id": huge})
    assert chained.attributes["gen_ai.request.previous_response.id"] == "x" * SEEN


def test_of_a_huge_name_in_a_path_its_beginning_is_kept() -> None:
    """A model's, and that of an answer which is asked for again."""
    long = "x" * 60_000
    model = apis.match("POST", f"/v1beta/models/{long}:generateContent").model
    fetched = apis.match("GET", f"/v1/responses/{long}").fetches
    assert (model, fetched) == (long[:SEEN], long[:LONGEST_TEXT])


def test_a_large_body_is_read_quickly() -> None:
    """8 MB take some milliseconds (2 measured; the bound leaves room for neighbours)."""
    messages = [{"role": "user", "content": "some words of a text " * 200} for _ in range(2000)]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    assert len(body) > 8_000_000
    with within(0.25):
        assert apis.read_request(CHAT, body).messages == 2000


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["model", "messages", "metadata", "id", "session_id", "conversation", "input", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(body=JSON, path=st.sampled_from(["/v1/chat/completions", "/v1/responses", "/v1/messages", "/x"]))
def test_no_json_is_too_odd(body: object, path: str) -> None:
    """Whatever JSON an app sends, it is read without an error, and hints are texts."""
    facts = apis.read_request(apis.match("POST", path), json.dumps(body).encode(), ("metadata.id", "id.text"))
    assert all(isinstance(hint, str) for hint in facts.hints.values())
