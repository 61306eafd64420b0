"""Who is talking: the session and conversation of a request, by the first rule that gives a valid value.

Owns the order of the rules, and which text may be an id. Ids are unauthenticated hints: nothing is ever allowed or
denied by them, and a value that is no valid id is counted and passed over. What is too long for an id, or looks like a credential, is replaced by a digest: an id stands on every span.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from urllib.parse import unquote_to_bytes

from sidecar.core.facts import Anomaly, record
from sidecar.core.headers import Headers
from sidecar.core.shown import is_credential


class Source(StrEnum):
    """Where a session id came from (`sidecar.session.source`)."""

    __hash__ = str.__hash__  # an Enum's own is a call of Python

    OWN_HEADER = "own_header"
    CONFIGURED_HEADER = "configured_header"
    KNOWN_HEADER = "known_header"
    VENDOR_HEADER = "vendor_header"
    BAGGAGE = "baggage"
    BODY = "body"
    RESPONSE_CHAIN = "response_chain"
    CACHE_KEY = "cache_key"
    HISTORY = "history"
    GENERATED = "generated"
    UNINSPECTED = "uninspected"


MADE_UP = frozenset((Source.GENERATED, Source.UNINSPECTED))
"""The sources of ids that no caller named."""

MAIN = "main"
"""The one conversation of a session whose caller tells no finer word."""

OWN_SESSION_HEADER = b"x-sidecar-session-id"
OWN_CONVERSATION_HEADER = b"x-sidecar-conversation-id"

CODEX_METADATA_HEADER = b"x-codex-turn-metadata"

KNOWN_SESSION_HEADERS = (
    b"x-claude-code-session-id",
    b"session-id",
    b"session_id",
    CODEX_METADATA_HEADER,
    b"x-opencode-session",
    b"x-qwen-code-session-id",
    b"agent-session-id",
    b"x-session-id",
    b"x-litellm-session-id",
    b"x-litellm-trace-id",
    b"x-bf-session-id",
    b"helicone-session-id",
    b"x-portkey-trace-id",
    b"x-session-affinity",
    b"x-openwebui-chat-id",
)
"""Of the turn metadata, the `session_id` inside it counts."""

KNOWN_CONVERSATION_HEADERS = (
    b"thread-id",
    b"thread_id",
    b"conversation_id",
    CODEX_METADATA_HEADER,
    b"x-claude-code-agent-id",
)
"""Of the turn metadata, the `thread_id` inside it counts."""

SESSION_BAGGAGE = ("session.id", "langfuse_session_id")
CONVERSATION_BAGGAGE = "gen_ai.conversation.id"

PARENT_SESSION_HEADER = b"x-parent-session-id"
"""OpenCode's: a sub-agent has a session id of its own, and is a conversation of its parent's session."""

PARENT_CONVERSATION_HEADER = b"x-codex-parent-thread-id"
AGENT_KIND_HEADER = b"x-openai-subagent"
INTERACTION_HEADER = b"x-interaction-type"
INITIATOR_HEADER = b"x-initiator"
_CLAUDE_AGENT_HEADER = b"x-claude-code-agent-id"

SESSION_FIELDS = (
    "session_id",
    "litellm_session_id",
    "litellm_trace_id",
    "metadata.session_id",
    "metadata.sessionId",
    "request.session_id",
)
CACHE_KEY_FIELD = "prompt_cache_key"
PROMPT_FIELD = "metadata.promptId"
USER_FIELD = "metadata.user_id"
CONVERSATION_FIELD = "conversation"
CONVERSATION_FIELDS = ("metadata.conversation_id", CONVERSATION_FIELD)
CHAIN_FIELD = "previous_response_id"

_NONE: Mapping[str, str] = {}

LONGEST_TEXT = 4096
"""Characters of a text that may name somebody: of a longer one only its beginning is looked at."""

_LONGEST_ID = 200
_DIGITS = 32
"""Hex digits of the digest that replaces a longer id, or one that looks like a credential."""

_MAX_MEMBERS = 180
"""Members read of one request's baggage; further ones are left alone."""

_SHORTEST_VENDOR_VALUE = 8
_LONGEST_JSON = 16 * 1024
_USER_SUFFIX = re.compile(r"(?:^|_)session_([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$")


_UNIQUE = re.compile(
    r"(?<![0-9a-f])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})(?![0-9a-f])", re.IGNORECASE
)
"""What a cache key holds that is one session's: a uuid, or 32 hex digits."""

_FAMILIES = 4096
"""Sub-agents with sessions of their own of which it is known whose they are."""

_SIDE_AGENT = re.compile(r"#([^#]+)#+\d+$")
"""What Qwen Code's prompt id has behind the session's id where a side agent asks: its name, and a number."""


@record
class AgentTurn:
    """What an agent's client says of its turn: its id, those that led to it, and who began its thread; None: nothing."""

    turn: str | None = None
    parent: str | None = None
    root: str | None = None
    thread_source: str | None = None


@record
class Identity:
    """The resolved ids of one request."""

    session_id: str
    source: Source
    conversation_id: str = MAIN
    conversation_supplied: bool = False
    agent: str | None = None
    parent_agent: str | None = None
    request_kind: str | None = None
    anomalies: tuple[Anomaly, ...] = ()
    session_supplied: bool = True
    """False for made-up ids, also for one that a response chain or a history continues."""
    parent_conversation: str | None = None
    """The conversation, of the same session, whose agent started this one's."""
    agent_kind: str | None = None
    initiator: str | None = None
    """Whether a user asks or an agent goes on by itself, as the client says."""
    agent_turn: AgentTurn | None = None

    @property
    def named(self) -> bool:
        """True when a caller named the session; False for ids made up by the sidecar."""
        return self.source not in MADE_UP


@record
class ChainEntry:
    """Whose answer a response id is: what `previous_response_id` leads to.

    `generated` says that its session id was made up and that no request has continued it yet;
    `session_supplied` that somebody named it, for good. `ref` is what links name.
    """

    response_id: str
    session_id: str
    conversation_id: str
    conversation_supplied: bool
    generated: bool
    ref: bytes
    session_supplied: bool = True


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """The operator's own rules: header names in lower case, body fields as dotted paths."""

    session_headers: tuple[str, ...] = ()
    conversation_headers: tuple[str, ...] = ()
    session_fields: tuple[str, ...] = ()
    conversation_fields: tuple[str, ...] = ()
    session_header_names: tuple[bytes, ...] = field(init=False, repr=False)
    conversation_header_names: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for kind in ("session", "conversation"):
            names = tuple(name.lower().encode("latin-1") for name in getattr(self, f"{kind}_headers"))
            object.__setattr__(self, f"{kind}_header_names", names)


@record
class HeadIdentity:
    """What a request's head says of its identity; None where it says nothing."""

    session_id: str | None = None
    source: Source | None = None
    conversation_id: str | None = None
    agent: str | None = None
    parent_agent: str | None = None
    request_kind: str | None = None
    anomalies: tuple[Anomaly, ...] = ()
    parent_conversation: str | None = None
    agent_kind: str | None = None
    initiator: str | None = None
    agent_turn: AgentTurn | None = None
    child: str | None = None
    """The session id of a sub-agent's own, beside its parent's, which `session_id` is then."""

    @property
    def complete(self) -> bool:
        """True if the body can add nothing: the request may arrive at its head."""
        return self.session_id is not None and self.conversation_id is not None


_VENDOR_PREFIX, _VENDOR_SUFFIX = b"x-", b"-session-id"

_OTHERS = frozenset(
    (
        OWN_SESSION_HEADER,
        OWN_CONVERSATION_HEADER,
        b"baggage",
        b"x-claude-code-parent-agent-id",
        _CLAUDE_AGENT_HEADER,
        PARENT_SESSION_HEADER,
        PARENT_CONVERSATION_HEADER,
        AGENT_KIND_HEADER,
        INTERACTION_HEADER,
        INITIATOR_HEADER,
    )
)

_REMEMBERED, _LONG = 4096, 1024
"""How many heads are remembered, and how long the key of one may be."""


def names_who(name: bytes, rules: IdentityRules) -> bool:
    """True for a field (in lower case) that may say who is talking: `from_head` looks at no other."""
    return (
        name in _OTHERS
        or name in KNOWN_SESSION_HEADERS
        or name in KNOWN_CONVERSATION_HEADERS
        or name in rules.session_header_names
        or name in rules.conversation_header_names
        or name.endswith(_VENDOR_SUFFIX)
    )


class HeadIdentities:
    """What heads say of who is talking; of those that are known to say the same it is found once.

    A sub-agent that names its parent's session belongs to that session's own parent, if it has one and was here before.
    """

    __slots__ = ("_families", "_known", "_rules")

    def __init__(self, rules: IdentityRules) -> None:
        self._rules = rules
        self._known: dict[object, tuple[HeadIdentity, Identity | None]] = {}
        self._families: dict[str, tuple[str, str]] = {}
        """By a sub-agent's own session the one that it belongs to, and its conversation there."""

    def of(self, headers: Headers) -> tuple[HeadIdentity, Identity | None]:
        """What these say, and what that comes to where the body adds nothing; None if the session is still unknown."""
        who = headers.who
        found = self._known.get(who)
        if found is None:
            head = from_head(headers, self._rules)
            alone = None if head.session_id is None else self._alone(headers, head)
            found = head, alone
            if who is not None and len(repr(who)) <= _LONG:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[who] = found
        return found if found[0].child is None else self._in_family(headers, found[0])

    def _in_family(self, headers: Headers, head: HeadIdentity) -> tuple[HeadIdentity, Identity | None]:
        """The same of a sub-agent: its session is that of the first of those that started each other."""
        families, child, family = self._families, head.child or "", head.session_id or ""
        root, parent = family, head.parent_conversation or MAIN
        if family != child and family in families:
            root, parent = families[family] = families.pop(family)
        families.pop(child, None)
        if len(families) >= _FAMILIES:
            del families[next(iter(families))]
        families[child] = root, head.conversation_id or child
        head = replace(head, session_id=root, parent_conversation=parent)
        return head, self._alone(headers, head)

    def _alone(self, headers: Headers, head: HeadIdentity) -> Identity:
        return resolve(headers, self._rules, None, chain=_unchained, generate=str, inspected=True, head=head)


def _unchained(_response_id: str) -> None:
    """No body, no `previous_response_id`."""


class _Judge:
    """Takes the first valid value it is offered, and notes what was wrong with others."""

    __slots__ = ("anomalies",)

    def __init__(self, anomalies: tuple[Anomaly, ...] = ()) -> None:
        self.anomalies = list(anomalies)

    def text(self, value: str | None) -> str | None:
        """The id a value gives; an empty one is as good as absent."""
        stripped = value[:LONGEST_TEXT].strip(" \t") if value else ""
        if not stripped:
            return None
        known = tidy(stripped)
        if known is None:
            self.anomalies.append(Anomaly.ID_INVALID)
        elif known != stripped:
            self.anomalies.append(Anomaly.ID_HASHED)
        return known

    def header(self, headers: Headers, name: bytes) -> str | None:
        """The id a header field gives."""
        return self.text(headers.text(name))

    def first(self, headers: Headers, names: tuple[bytes, ...]) -> str | None:
        """The id of the first of these header fields that gives one."""
        values = headers.first
        for name in names:
            if name in values and (found := self.header(headers, name)) is not None:
                return found
        return None

    def first_hint(self, hints: Mapping[str, str], paths: tuple[str, ...]) -> str | None:
        """The id of the first of these body fields that gives one."""
        for path in paths:
            found = self.text(hints.get(path))
            if found is not None:
                return found
        return None


def from_head(headers: Headers, rules: IdentityRules) -> HeadIdentity:
    """What the headers alone say. Cheap; `resolve` takes it on from there."""
    judge = _Judge()
    metadata = _json_texts(headers.text(CODEX_METADATA_HEADER))
    baggage = _baggage(headers.get_all(b"baggage")) if b"baggage" in headers else _NONE
    session_id, source = _session_in_head(judge, headers, rules, metadata, baggage)
    conversation_id = (
        judge.header(headers, OWN_CONVERSATION_HEADER)
        or judge.first(headers, rules.conversation_header_names)
        or _known(judge, headers, KNOWN_CONVERSATION_HEADERS, metadata.get("thread_id"))
        or judge.text(baggage.get(CONVERSATION_BAGGAGE))
    )
    parent_agent, parent = judge.header(headers, b"x-claude-code-parent-agent-id"), None
    child = None
    if source is Source.KNOWN_HEADER and (family := judge.header(headers, PARENT_SESSION_HEADER)):
        child, session_id, parent = session_id, family, MAIN
        conversation_id = conversation_id or child
    elif _CLAUDE_AGENT_HEADER in headers:
        parent = parent_agent or MAIN
    else:
        parent = judge.text(metadata.get("parent_thread_id")) or judge.header(
            headers, PARENT_CONVERSATION_HEADER
        )
    initiator = headers.text(INITIATOR_HEADER)
    return HeadIdentity(
        session_id,
        source,
        conversation_id,
        judge.text(metadata.get("agent_name")) or judge.header(headers, _CLAUDE_AGENT_HEADER),
        parent_agent,
        judge.text(metadata.get("request_kind")) or judge.header(headers, INTERACTION_HEADER),
        tuple(judge.anomalies),
        parent,
        judge.header(headers, AGENT_KIND_HEADER) or judge.text(metadata.get("subagent_kind")),
        initiator if initiator in _INITIATORS else None,
        _agent_turn(judge, metadata) if metadata else None,
        child,
    )


_INITIATORS = ("user", "agent")
_AGENT_TURN = ("turn_id", "parent_turn_id", "root_turn_id", "thread_source")


def _agent_turn(judge: _Judge, metadata: Mapping[str, str]) -> AgentTurn | None:
    told = [judge.text(metadata.get(name)) for name in _AGENT_TURN]
    return AgentTurn(*told) if any(told) else None


def _session_in_head(
    judge: _Judge,
    headers: Headers,
    rules: IdentityRules,
    metadata: Mapping[str, str],
    baggage: Mapping[str, str],
) -> tuple[str | None, Source | None]:
    if found := judge.header(headers, OWN_SESSION_HEADER):
        return found, Source.OWN_HEADER
    if found := judge.first(headers, rules.session_header_names):
        return found, Source.CONFIGURED_HEADER
    if found := _known(judge, headers, KNOWN_SESSION_HEADERS, metadata.get("session_id")):
        return found, Source.KNOWN_HEADER
    if found := _vendor(judge, headers):
        return found, Source.VENDOR_HEADER
    for name in SESSION_BAGGAGE:
        if found := judge.text(baggage.get(name)):
            return found, Source.BAGGAGE
    return None, None


def _known(judge: _Judge, headers: Headers, names: tuple[bytes, ...], in_metadata: str | None) -> str | None:
    values = headers.first
    for name in names:
        if name in values:
            value = in_metadata if name is CODEX_METADATA_HEADER else headers.text(name)
            if found := judge.text(value):
                return found
    return None


def _vendor(judge: _Judge, headers: Headers) -> str | None:
    """Any other `x-<vendor>-session-id` of 8 characters or more."""
    if not any(name.endswith(_VENDOR_SUFFIX) for name in headers.first):
        return None
    for name, value in headers:
        lowered = name.lower()
        if len(name) <= len(b"x--session-id") or not lowered.endswith(_VENDOR_SUFFIX):
            continue
        if (
            not lowered.startswith(_VENDOR_PREFIX)
            or lowered == OWN_SESSION_HEADER
            or lowered in KNOWN_SESSION_HEADERS
        ):
            continue
        text = value.decode("latin-1").strip(" \t")
        if len(text) >= _SHORTEST_VENDOR_VALUE and (found := judge.text(text)):
            return found
    return None


def _json_texts(text: str | None) -> Mapping[str, str]:
    """The string members of a JSON object; nothing if it is none, or absurdly long or deep."""
    if text is None or len(text) > _LONGEST_JSON or not text.lstrip().startswith("{"):
        return _NONE
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {name: member for name, member in value.items() if isinstance(member, str)}


def resolve(
    headers: Headers,
    rules: IdentityRules,
    hints: Mapping[str, str] | None,
    *,
    chain: Callable[[str], ChainEntry | None],
    generate: Callable[[], str],
    inspected: bool,
    head: HeadIdentity | None = None,
) -> Identity:
    """The identity of a request.

    `hints` maps dotted paths of the body's identity fields to their text (None: there is no body that was
    read). `chain` finds what a `previous_response_id` continues, `generate` makes up an id. `inspected` is
    False if there was a body that was not read. `head` is what `from_head` said, if it was asked before.
    """
    if head is None:
        head = from_head(headers, rules)
    judge = _Judge(head.anomalies)
    hints = hints or _NONE
    previous = hints.get(CHAIN_FIELD)
    entry = chain(previous) if previous else None
    session_id, source, named = head.session_id, head.source, True
    if (session_id is None or source is None) and hints:
        session_id, source = _session_in_body(judge, hints, rules)
    if session_id is None or source is None:
        if entry is not None:
            session_id, source, named = entry.session_id, Source.RESPONSE_CHAIN, entry.session_supplied
        elif cached := judge.text(_session_of_cache_key(hints.get(CACHE_KEY_FIELD))):
            session_id, source = cached, Source.CACHE_KEY
        else:
            source, named = Source.GENERATED if inspected else Source.UNINSPECTED, False
            session_id = generate()
    conversation_id = head.conversation_id
    if conversation_id is None and hints:
        conversation_id = judge.first_hint(hints, (*rules.conversation_fields, *CONVERSATION_FIELDS))
        if conversation_id is None and PROMPT_FIELD in hints:
            conversation_id = judge.text(_side_agent(hints[PROMPT_FIELD]))
    supplied = conversation_id is not None
    if conversation_id is None and entry is not None:
        conversation_id, supplied = entry.conversation_id, entry.conversation_supplied
    return Identity(
        session_id,
        source,
        conversation_id or MAIN,
        supplied,
        head.agent,
        head.parent_agent,
        head.request_kind,
        tuple(judge.anomalies),
        named,
        head.parent_conversation,
        head.agent_kind,
        head.initiator,
        head.agent_turn,
    )


def _session_in_body(
    judge: _Judge, hints: Mapping[str, str], rules: IdentityRules
) -> tuple[str | None, Source | None]:
    found = (
        judge.first_hint(hints, (*rules.session_fields, *SESSION_FIELDS))
        or judge.text(_session_of_user(hints.get(USER_FIELD)))
        or judge.text(hints.get(CONVERSATION_FIELD))
    )
    return found, None if found is None else Source.BODY


def _session_of_user(user_id: str | None) -> str | None:
    """Anthropic's `metadata.user_id`: a JSON object with `session_id`, or the older `..._session_<uuid>`."""
    if user_id is None:
        return None
    suffix = _USER_SUFFIX.search(user_id[-64:])
    return suffix.group(1) if suffix else _json_texts(user_id).get("session_id")


def _session_of_cache_key(key: str | None) -> str | None:
    """The session of a cache key that can be one session's alone; a word may be shared by all users of a prompt."""
    if key is None or len(key) > _LONGEST_ID or _UNIQUE.search(key) is None:
        return None
    suffix = _USER_SUFFIX.fullmatch(key)
    return suffix.group(1) if suffix else key


def _side_agent(prompt_id: str) -> str | None:
    """Who asks, by Qwen Code's prompt id; None for the main thread."""
    found = _SIDE_AGENT.search(prompt_id[-_LONGEST_ID:])
    return None if found is None else found.group(1)


def told(session_id: str, conversation_id: str | None, *, generate: Callable[[], str]) -> Identity:
    """The identity that app code names directly: as good as our own headers."""
    judge = _Judge()
    session = judge.text(session_id)
    conversation = judge.text(conversation_id)
    return Identity(
        session_id=session or generate(),
        source=Source.OWN_HEADER if session else Source.GENERATED,
        conversation_id=conversation or MAIN,
        conversation_supplied=conversation is not None,
        anomalies=tuple(judge.anomalies),
        session_supplied=session is not None,
    )


def tidy(text: str) -> str | None:
    """The id that `text` stands for, without blanks around it; None if it is empty or no valid id.

    A longer one, and one that looks like a credential, gives `sha256-` and the first 32 hex digits of the unkeyed
    SHA-256 of its first 4,096 characters.
    """
    stripped = text[:LONGEST_TEXT].strip(" \t")
    if not stripped or not (stripped.isascii() and stripped.isprintable()):
        return None
    if len(stripped) <= _LONGEST_ID and not _looks_secret(stripped):
        return stripped
    return "sha256-" + sha256(stripped.encode("ascii")).hexdigest()[:_DIGITS]


_looks_secret = lru_cache(maxsize=4096)(is_credential)
"""A session's requests bring the same few ids again and again."""


def _baggage(fields: Iterable[bytes]) -> Mapping[str, str]:
    """The members of every `baggage` field, properties left out; of equal names the first counts.

    A member that is malformed is passed over, as the W3C's specification asks.
    """
    found: dict[str, str] = {}
    for value in fields:
        for member in value.split(b",", _MAX_MEMBERS)[:_MAX_MEMBERS]:
            name, equals, rest = member.partition(b"=")
            key = name.strip(b" \t").decode("latin-1")
            if equals and key and len(found) < _MAX_MEMBERS:
                text = unquote_to_bytes(rest.partition(b";")[0].strip(b" \t"))
                found.setdefault(key, text.decode("utf-8", "replace"))
    return found
