"""What of a text that others chose may be shown in a span, a metric, a line or a document.

Owns three rules: what looks like a credential is replaced, characters that steer a terminal or reorder a line
are too, and a text has a bound. Each is linear in the text. Paths and queries are shown by the same rules, part by part:
what is not known to be harmless is replaced, not passed. docs/decisions/credentials-in-text.md has the reasons.
"""

import re
from functools import lru_cache
from unicodedata import category
from urllib.parse import unquote

REDACTED = "REDACTED"
"""Stands for what looks like a credential."""

OTHER_HTTP = "_OTHER"
"""Stands for a word that is not on a list, as OpenTelemetry's conventions for HTTP and errors have it."""

TEXT_LIMIT = 256
"""Characters kept of a text that the other side chose."""

_BEYOND = 256
"""Characters looked at beyond a limit, so that a key which the limit would cut is still recognised."""

SEEN = TEXT_LIMIT + _BEYOND
"""Characters of such a text that make a difference to what is shown of it."""

ITEMS = 32
"""Members of a list that are shown."""

_CREDENTIAL = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    # OpenAI, Anthropic, OpenRouter, DeepSeek and many others; Stripe
    r"sk-[A-Za-z0-9_-]{12,}|[prs]k_(?:live|test|prod)_[A-Za-z0-9]{8,}"
    # a short word, then one long stretch: Groq, Hugging Face, Replicate, xAI, Perplexity, GitHub, Slack, ...
    r"|(?:gsk|hf|r8|fw|tgp|csk|nvapi|xai|pplx|jina|tvly|lsv2|npm|pypi|glpat|gh[oprsu]|github_pat|dop_v1|shpat"
    r"|rpa|xapp|xox[abeprs])[-_](?:[A-Za-z0-9]{1,15}[-_]){0,4}[A-Za-z0-9]{16,}[A-Za-z0-9_-]*"
    # Google, Amazon, SendGrid
    r"|AIza[A-Za-z0-9_-]{16,}|(?:ya29|AQ)\.[A-Za-z0-9_-]{16,}|A[KS]IA[A-Z0-9]{16}"
    r"|SG\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    # a JSON web token; a bot's token; a private key; a user and a password before a host
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_=-]{4,}(?:\.[A-Za-z0-9_=-]*)?"
    r"|bot[0-9]+:[A-Za-z0-9_-]+|[0-9]{6,}:[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN[ A-Z]{0,40}PRIVATE KEY-----[^-]*|(?<=//)[^\s/@\"']{1,256}(?=@)"
    # what is called so
    r"|[Bb]earer +(?=[^\s]{0,64}[0-9])[^\s\"',;]{8,}"
    r"|(?i:(?:api)?key|token|secret|password|passwd|signature|sig)=[^\s&\"'<>]{4,}"
    r")"
)

_STEERS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that are not seen but act: controls, marks of direction, surrogates, breaks of lines."""
_JOINER = "\u200d"
"""It makes one sign of several, in emoji and in scripts of India."""

_PLAIN = re.compile(r"[A-Za-z0-9._:~*+-]*")
_PLAIN_LENGTH = 80
_WORD = re.compile(r"[A-Za-z0-9]+")
_HUMP = re.compile(r"[a-z][A-Z]")
_STRETCH = re.compile(r"[A-Za-z0-9+_=-]{16,}")
_MASKED = "***"
_NUMBERED = re.compile(r"[0-9]+:")

_SHORT_PATH = 256
_PATH_LIMIT = 1024
_QUERY_LIMIT = 1024
_NAME_LIMIT = 40

HARMLESS_QUERY = frozenset(
    {
        *("alt", "api-version", "api_version", "beta", "limit", "order", "stream", "pageSize", "page_size"),
        *("purpose", "include", "include[]", "include_obfuscation", "starting_after"),
    }
)
"""Names in a query whose values are shown, if they are one plain word: behind a `;` there may be another member."""
_HARMLESS_VALUE = re.compile(r"[0-9A-Za-z._-]{0,64}")

KNOWN_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)


def is_credential(text: str) -> bool:
    """Whether a key, a token or a password of a known form is in the text."""
    return _CREDENTIAL.search(text) is not None


def is_plain(text: str) -> bool:
    """Whether a text is made of words and short numbers, as a path's fixed segments and models' names are.

    What was drawn at random is not: a stretch of letters and digits is either letters (24 at most, not in mixed
    case throughout), digits (10 at most), or short; of longer mixed ones there are 12 characters at most.
    """
    if len(text) > _PLAIN_LENGTH or not _PLAIN.fullmatch(text) or _NUMBERED.match(text):
        return False
    mixed = 0
    for word in _WORD.findall(text):
        if word.isdigit():
            if len(word) > 10:
                return False
        elif word.isalpha():
            if len(word) > 24 or len(_HUMP.findall(word)) > 3:
                return False
        elif len(word) > 4:
            mixed += len(word)
    return mixed <= 12 and not is_credential(text)


def readable(value: bytes) -> str:
    """A header's or a path's bytes as text: UTF-8 where they are that, else latin-1, as RFC 9110 has it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def clean(text: str) -> str:
    """The text without control characters, lone surrogates, and marks that reorder what follows: U+FFFD for each."""
    if text.isprintable():
        return text
    return "".join("\ufffd" if category(char) in _STEERS and char != _JOINER else char for char in text)


def shown(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text as it may be shown: clean, credentials replaced, `limit` characters at most."""
    text = clean(_CREDENTIAL.sub(REDACTED, text[: limit + _BEYOND]))
    return text if len(text) <= limit else text[:limit]


def shown_name(text: str) -> str:
    """The same of a text that comes again and again, as a model's name does: the shorter ones are remembered."""
    return _shown_before(text) if len(text) <= TEXT_LIMIT else shown(text)


@lru_cache(1024)
def _shown_before(text: str) -> str:
    return shown(text)


def mask(text: str) -> str:
    """A setting's value without what may be a credential, and no longer than a line.

    That is all before an `@`, a query, a fragment, and every longer stretch that does not read as words.
    """
    _, at, rest = text.rpartition("@")
    plain, mark = rest, ""
    for cut in "?#":
        plain, found, _ = plain.partition(cut)
        mark = found or mark
    plain = _STRETCH.sub(lambda found: found[0] if is_plain(found[0]) else _MASKED, plain[:1024])
    plain = clean(_CREDENTIAL.sub(_MASKED, plain))
    masked = (f"{_MASKED}@" if at else "") + plain + (mark and mark + _MASKED)
    return masked if len(masked) <= 200 else masked[:200] + "..."


def known_method(method: str) -> str:
    """The method, or `_OTHER`."""
    return method if method in KNOWN_METHODS else OTHER_HTTP


def redact_path(path: str, template: str = "", upstream: str | None = None) -> str:
    """The path as it may be shown: without the authority of an absolute-form target, shortened.

    What `template` names by a parameter (an id, a model) is shown unless it looks like a credential; of all
    other segments those of plain words. `upstream` is a name that may stand in front.
    """
    if len(path) <= _SHORT_PATH:
        return _remembered_path(path, template, upstream)
    return _redact_path(path[: 2 * _PATH_LIMIT], template, upstream)[:_PATH_LIMIT]


def _redact_path(path: str, template: str, upstream: str | None) -> str:
    if not path.startswith("/") and "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    front, slash, kept = path, "", ""
    if path.endswith("/"):
        front, slash = path[:-1], "/"
    segments = front.split("/")
    wanted = template.split("/")
    while len(segments) > 1 < len(wanted) and (segments[-1] == wanted[-1] or _is_parameter(wanted[-1])):
        kept = f"/{_redact_id(segments.pop())}{kept}"
        wanted.pop()
    return (
        "/".join(segment if segment == upstream else _redact_segment(segment) for segment in segments)
        + kept
        + slash
    )


_remembered_path = lru_cache(maxsize=1024)(_redact_path)
"""An app asks for a few paths again and again."""


def _is_parameter(segment: str) -> bool:
    """Whether a template's segment stands for one of the path's own, not for any number of them."""
    return "{" in segment and segment not in {"{prefix}", "{provider path}"}


def _redact_id(segment: str) -> str:
    return REDACTED if is_credential(_decoded(segment)) else clean(segment)


def _redact_segment(segment: str) -> str:
    base, parameters, _ = segment.partition(";")
    if not all(map(is_plain, _decoded(base).split("/"))):
        return REDACTED
    return f"{base};{REDACTED}" if parameters else base


def _decoded(text: str) -> str:
    return unquote(text) if "%" in text else text


def redact_query(query: str) -> str:
    """The query as it may be shown: plain names kept, values only of `HARMLESS_QUERY`, the rest `REDACTED`."""
    return "&".join(_redact_member(member) for member in query[:_QUERY_LIMIT].split("&"))


def _redact_member(member: str) -> str:
    name, _, value = member.partition("=")
    if name in HARMLESS_QUERY and _HARMLESS_VALUE.fullmatch(value) and is_plain(value):
        return member
    # What has nothing but padding behind it is no name: a token in base64 ends so.
    if not value.strip("=") or len(name) > _NAME_LIMIT or not is_plain(_decoded(name).strip("$[]")):
        return REDACTED if member else ""
    return f"{name}={REDACTED}"
