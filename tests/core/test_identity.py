"""Every rule that names a session or conversation, their order, and what bad values do."""

import json
from collections.abc import Mapping
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.facts import Anomaly
from sidecar.core.headers import Headers
from sidecar.core.identity import (
    LONGEST_TEXT,
    ChainEntry,
    HeadIdentity,
    Identity,
    IdentityRules,
    Source,
    from_head,
    resolve,
    tidy,
)

UUID = "0198c0de-1234-7abc-8def-0123456789ab"
RULES = IdentityRules(
    session_headers=("x-visit", "X-Second-Choice"),
    conversation_headers=("x-thread",),
    session_fields=("app.visit", "user"),
    conversation_fields=("app.thread",),
)
GENERATED = ChainEntry("resp_g", "made-up", "main", False, True, bytes(24), False)
NAMED = ChainEntry("resp_n", "named", "thread-9", True, False, bytes(24))


def headers(fields: Mapping[str, str] | list[tuple[str, str]]) -> Headers:
    """Header fields from text."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return Headers([(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs])


def identify(
    fields: Mapping[str, str] | list[tuple[str, str]] | None = None,
    hints: Mapping[str, str] | None = None,
    *,
    inspected: bool = True,
    rules: IdentityRules = RULES,
) -> Identity:
    """Resolves, with two response ids known and generated ids called `gen`."""
    return resolve(
        headers(fields or {}),
        rules,
        hints,
        chain={"resp_g": GENERATED, "resp_n": NAMED}.get,
        generate=lambda: "gen",
        inspected=inspected,
    )


SESSION_IN_HEAD = [
    ("X-Sidecar-Session-Id", Source.OWN_HEADER),
    ("X-Visit", Source.CONFIGURED_HEADER),
    ("x-second-choice", Source.CONFIGURED_HEADER),
    ("X-Claude-Code-Session-Id", Source.KNOWN_HEADER),
    ("session-id", Source.KNOWN_HEADER),
    ("session_id", Source.KNOWN_HEADER),
    ("x-opencode-session", Source.KNOWN_HEADER),
    ("X-Qwen-Code-Session-Id", Source.KNOWN_HEADER),
    ("agent-session-id", Source.KNOWN_HEADER),
    ("x-session-id", Source.KNOWN_HEADER),
    ("x-litellm-session-id", Source.KNOWN_HEADER),
    ("x-litellm-trace-id", Source.KNOWN_HEADER),
    ("x-bf-session-id", Source.KNOWN_HEADER),
    ("Helicone-Session-Id", Source.KNOWN_HEADER),
    ("x-portkey-trace-id", Source.KNOWN_HEADER),
    ("x-session-affinity", Source.KNOWN_HEADER),
    ("X-OpenWebUI-Chat-Id", Source.KNOWN_HEADER),
    ("X-Acme-Session-Id", Source.VENDOR_HEADER),
]


@pytest.mark.parametrize("name,source", SESSION_IN_HEAD)
def test_session_headers(name: str, source: Source) -> None:
    """Each row of the table that is a header, in any case."""
    for spelled in (name, name.upper(), name.lower()):
        identity = identify({spelled: "visit:1x"})
        assert (identity.session_id, identity.source) == ("visit:1x", source)
        assert identity.named
        assert (identity.conversation_id, identity.conversation_supplied) == ("main", False)


@pytest.mark.parametrize("position", range(len(SESSION_IN_HEAD)))
def test_the_first_rule_wins(position: int) -> None:
    """Whatever the order on the wire, an earlier rule beats all later ones, baggage and body."""
    fields = [(name, f"value-from-{number}") for number, (name, _) in enumerate(SESSION_IN_HEAD)][position:]
    fields.append(("baggage", "session.id=from-baggage"))
    identity = identify(fields[::-1], {"session_id": "from-body"})
    assert identity.session_id == f"value-from-{position}"
    assert identity.source is SESSION_IN_HEAD[position][1]


@pytest.mark.parametrize(
    "name", ["x--session-id", "x-acme-session", "acme-session-id", "session", "x-session-id-2"]
)
def test_headers_that_name_no_session(name: str) -> None:
    """Only `x-<vendor>-session-id` is taken for a vendor's header."""
    assert identify({name: "12345678"}).source is Source.GENERATED


def test_a_vendor_value_must_be_long_enough() -> None:
    """Seven characters are too few to be an id of an unknown vendor; the next such header may do."""
    assert identify({"x-acme-session-id": "1234567"}).source is Source.GENERATED
    two = identify([("x-acme-session-id", "1"), ("x-other-session-id", "12345678")])
    assert (two.session_id, two.source) == ("12345678", Source.VENDOR_HEADER)


def test_known_headers_are_no_vendor_headers() -> None:
    """An invalid known header is not read a second time under another rule."""
    identity = identify([("x-bf-session-id", "caf\xe9 caf\xe9"), ("x-sidecar-session-id", "\x01" * 9)])
    assert identity.source is Source.GENERATED
    assert identity.anomalies == (Anomaly.ID_INVALID, Anomaly.ID_INVALID)


@pytest.mark.parametrize(
    "baggage,expected",
    [
        ("session.id=abc", "abc"),
        ("langfuse_session_id=lf", "lf"),
        ("langfuse_session_id=lf,session.id=abc", "abc"),
        ("other=1 , session.id = a%20b%3A1 ;ttl=3;x", "a b:1"),
        ("broken,=,=x,session.id=abc", "abc"),
        ("session.id=first,session.id=second", "first"),
    ],
)
def test_baggage(baggage: str, expected: str) -> None:
    """Members in any order, percent-decoded, properties left out, malformed ones passed over."""
    identity = identify({"Baggage": baggage})
    assert (identity.session_id, identity.source) == (expected, Source.BAGGAGE)


def test_baggage_that_names_nothing_valid() -> None:
    """Control characters that hide behind percent signs, and text that is not ASCII, are no ids."""
    for value in ("a%0D%0AX-Evil:1", "caf%C3%A9", "%FF"):
        identity = identify({"baggage": f"session.id={value}"})
        assert identity.source is Source.GENERATED
        assert identity.anomalies == (Anomaly.ID_INVALID,)
    assert identify({"baggage": "session.id="}).anomalies == ()


def test_baggage_in_several_fields_is_bounded() -> None:
    """Members may be spread over fields; after 180 the rest is left alone."""
    spread = identify([("baggage", "a=1"), ("baggage", "session.id=abc")])
    assert spread.session_id == "abc"
    many = ",".join(f"k{number}=1" for number in range(400))
    assert identify({"baggage": f"{many},session.id=abc"}).source is Source.GENERATED


@pytest.mark.parametrize(
    "hints,expected,source",
    [
        ({"app.visit": "v"}, "v", Source.BODY),
        ({"user": "u"}, "u", Source.BODY),
        ({"session_id": "s"}, "s", Source.BODY),
        ({"litellm_session_id": "l"}, "l", Source.BODY),
        ({"metadata.session_id": "m"}, "m", Source.BODY),
        ({"request.session_id": "g"}, "g", Source.BODY),
        ({"metadata.user_id": json.dumps({"device_id": "d", "session_id": UUID})}, UUID, Source.BODY),
        ({"metadata.user_id": f"user_ab12_account_{UUID[::-1]}_session_{UUID}"}, UUID, Source.BODY),
        ({"conversation": "conv_1"}, "conv_1", Source.BODY),
        ({"previous_response_id": "resp_g"}, "made-up", Source.RESPONSE_CHAIN),
        ({"previous_response_id": "resp_n"}, "named", Source.RESPONSE_CHAIN),
        ({"previous_response_id": "resp_x"}, "gen", Source.GENERATED),
        ({"prompt_cache_key": "k"}, "gen", Source.GENERATED),
        ({}, "gen", Source.GENERATED),
    ],
)
def test_body_fields(hints: Mapping[str, str], expected: str, source: Source) -> None:
    """Each row of the table that is a field of the body."""
    identity = identify(hints=hints)
    assert (identity.session_id, identity.source) == (expected, source)


@pytest.mark.parametrize("previous, supplied", [("resp_g", False), ("resp_n", True), ("resp_x", False)])
def test_a_chain_hands_on_whether_the_session_was_supplied(previous: str, supplied: bool) -> None:
    """A made-up id stays made up, however often it is continued."""
    assert identify(hints={"previous_response_id": previous}).session_supplied is supplied


def test_body_fields_in_order() -> None:
    """The operator's fields first, then the known ones, the user id, the conversation, the chain."""
    everything = {
        "app.visit": "1",
        "user": "2",
        "session_id": "3",
        "litellm_session_id": "4",
        "metadata.session_id": "5",
        "metadata.user_id": json.dumps({"session_id": "6"}),
        "conversation": "7",
        "previous_response_id": "resp_n",
    }
    for expected in ("1", "2", "3", "4", "5", "6", "7", "named"):
        assert identify(hints=everything).session_id == expected
        del everything[next(iter(everything))]


def test_user_and_cache_key_mean_nothing_unless_the_operator_says_so() -> None:
    """`user` is often one per end user, `prompt_cache_key` one per prompt."""
    hints = {"user": "u", "prompt_cache_key": "k"}
    assert identify(hints=hints, rules=IdentityRules()).source is Source.GENERATED
    named = identify(hints=hints, rules=IdentityRules(session_fields=("prompt_cache_key",)))
    assert named.session_id == "k"


@pytest.mark.parametrize(
    "user_id",
    [
        "user-1",
        "{",
        "[" * 10_000,
        '{"a":' * 3000,
        '{"session_id": 5}',
        '{"session_id": null}',
        '["session_id"]',
        '{"session_id": ""}',
        "x_session_notauuid",
        '{"pad": "' + "x" * 20_000 + '", "session_id": "s"}',
    ],
)
def test_user_ids_that_name_no_session(user_id: str) -> None:
    """Plain users, broken, nested, huge or mistyped JSON: not an id, and no anomaly either."""
    identity = identify(hints={"metadata.user_id": user_id})
    assert (identity.source, identity.anomalies) == (Source.GENERATED, ())


def test_a_body_that_was_not_read_is_uninspected() -> None:
    """Unless the headers name the session."""
    assert identify(inspected=False).source is Source.UNINSPECTED
    assert not identify(inspected=False).named
    assert identify({"x-session-id": "s"}, inspected=False).source is Source.KNOWN_HEADER


@pytest.mark.parametrize(
    "fields,hints,expected",
    [
        ({"X-Sidecar-Conversation-Id": "c"}, {}, "c"),
        ({"x-thread": "c"}, {}, "c"),
        ({"thread-id": "c"}, {}, "c"),
        ({"thread_id": "c"}, {}, "c"),
        ({"conversation_id": "c"}, {}, "c"),
        ({"x-codex-turn-metadata": '{"thread_id": "c"}'}, {}, "c"),
        ({"x-claude-code-agent-id": "c"}, {}, "c"),
        ({"baggage": "gen_ai.conversation.id=c"}, {}, "c"),
        ({}, {"app.thread": "c"}, "c"),
        ({}, {"metadata.conversation_id": "c"}, "c"),
        ({}, {"conversation": "c"}, "c"),
        ({}, {"previous_response_id": "resp_n"}, "thread-9"),
    ],
)
def test_conversation_rules(fields: Mapping[str, str], hints: Mapping[str, str], expected: str) -> None:
    """Each rule that names a conversation."""
    identity = identify({"x-session-id": "s", **fields}, hints)
    assert identity.session_id == "s"
    assert (identity.conversation_id, identity.conversation_supplied) == (expected, True)


def test_conversation_rules_in_order() -> None:
    """An earlier rule beats all later ones."""
    fields = {
        "x-sidecar-conversation-id": "1",
        "x-thread": "2",
        "thread-id": "3",
        "thread_id": "4",
        "conversation_id": "5",
        "x-codex-turn-metadata": '{"thread_id": "6"}',
        "x-claude-code-agent-id": "7",
        "baggage": "gen_ai.conversation.id=8",
    }
    hints = {"app.thread": "9", "metadata.conversation_id": "10", "conversation": "11"}
    hints["previous_response_id"] = "resp_n"
    for expected in range(1, 13):
        identity = identify(dict(reversed(fields.items())), hints)
        assert identity.conversation_id == (str(expected) if expected < 12 else "thread-9")
        rest = fields or hints
        del rest[next(iter(rest))]
    assert identify(fields, hints).conversation_id == "main"


def test_a_made_up_conversation_stays_made_up() -> None:
    """Continuing a request that named no conversation supplies none."""
    identity = identify(hints={"previous_response_id": "resp_g"})
    assert (identity.conversation_id, identity.conversation_supplied) == ("main", False)


def test_codex_turn_metadata() -> None:
    """Its JSON names session, thread, agent and kind; the plain headers go first."""
    metadata = {"session_id": "s", "thread_id": "t", "agent_name": "review", "request_kind": "turn", "n": 1}
    identity = identify({"X-Codex-Turn-Metadata": json.dumps(metadata)})
    assert (identity.session_id, identity.source) == ("s", Source.KNOWN_HEADER)
    assert (identity.conversation_id, identity.agent, identity.request_kind) == ("t", "review", "turn")
    both = identify({"x-codex-turn-metadata": json.dumps(metadata), "session-id": UUID, "thread-id": UUID})
    assert (both.session_id, both.conversation_id) == (UUID, UUID)
    for broken in ("[" * 1000, "{", "null", "{}", '{"session_id": 1}', '{"a":' * 2500):
        assert identify({"x-codex-turn-metadata": broken}).source is Source.GENERATED


def test_claude_code_sub_agents() -> None:
    """A sub-agent is a conversation of its own, with its parent named."""
    identity = identify(
        {
            "X-Claude-Code-Session-Id": UUID,
            "X-Claude-Code-Agent-Id": "agent-2",
            "X-Claude-Code-Parent-Agent-Id": "agent-1",
        }
    )
    assert (identity.session_id, identity.conversation_id) == (UUID, "agent-2")
    assert (identity.agent, identity.parent_agent) == ("agent-2", "agent-1")


def test_invalid_values_are_counted_and_the_next_rule_speaks() -> None:
    """Control characters and text that is not ASCII; an empty value is as good as absent."""
    identity = identify(
        {"x-sidecar-session-id": "a\tb", "x-visit": " ", "x-session-id": "caf\xe9", "session-id": " ok "}
    )
    assert (identity.session_id, identity.source) == ("ok", Source.KNOWN_HEADER)
    assert identity.anomalies == (Anomaly.ID_INVALID,)
    body = identify(hints={"session_id": "a\r\nX-Evil: 1", "metadata.session_id": "ü", "conversation": "c"})
    assert (body.session_id, body.conversation_id) == ("c", "c")
    assert body.anomalies == (Anomaly.ID_INVALID, Anomaly.ID_INVALID)


def test_long_values_become_a_digest() -> None:
    """200 characters pass; a megabyte costs no more than its beginning, which is looked at, the same each time."""
    assert identify({"x-session-id": "x" * 200}).session_id == "x" * 200
    huge = "x" * 1_000_000
    identity = identify(hints={"session_id": huge})
    assert identity.session_id == "sha256-" + sha256(huge[:LONGEST_TEXT].encode()).hexdigest()[:32]
    assert (identity.source, identity.anomalies) == (Source.BODY, (Anomaly.ID_HASHED,))
    assert identify(hints={"session_id": "x" * 4000 + "\x00"}).anomalies == (Anomaly.ID_INVALID,)
    assert tidy(huge + "\x00") == identity.session_id


@given(st.text(max_size=400))
def test_whatever_comes_an_id_is_valid_or_absent(text: str) -> None:
    """An id is 1 to 200 printable ASCII characters without blanks around it, and settles at once."""
    known = tidy(text)
    if known is not None:
        assert 1 <= len(known) <= 200
        assert known.isascii()
        assert known.isprintable()
        assert tidy(known) == known


def test_the_head_alone() -> None:
    """Only a head that names session and conversation leaves nothing for the body to add."""
    nothing = from_head(headers({"host": "x"}), RULES)
    assert nothing == HeadIdentity()
    assert not nothing.complete
    assert not from_head(headers({"x-session-id": "s"}), RULES).complete
    assert not from_head(headers({"thread-id": "t"}), RULES).complete
    head = from_head(headers({"session-id": "s", "thread-id": "t", "x-visit": "\x01"}), RULES)
    assert head.complete
    assert (head.session_id, head.source, head.conversation_id) == ("s", Source.KNOWN_HEADER, "t")


def test_what_the_head_said_is_taken_on() -> None:
    """Resolving with the head's answer gives what resolving from nothing gives, each anomaly once."""
    fields = headers({"x-visit": "\x01", "thread-id": "t", "x-claude-code-parent-agent-id": "p"})
    hints = {"session_id": "é", "metadata.session_id": "s"}
    answers = [
        resolve(
            fields,
            RULES,
            hints,
            chain={"resp_g": GENERATED}.get,
            generate=lambda: "gen",
            inspected=True,
            head=head,
        )
        for head in (None, from_head(fields, RULES))
    ]
    assert answers[0] == answers[1]
    assert answers[0].anomalies == (Anomaly.ID_INVALID, Anomaly.ID_INVALID)
    assert (answers[0].session_id, answers[0].parent_agent) == ("s", "p")
