"""The series that a request counts on, and the words that their labels may have.

Owns the attributes of these series, and the bounds on what others choose: the words for errors, results and finish
reasons, and the cap on models. A series is found once for all requests that are alike. And the gauges of what a provider
says is left, with the names of the header fields that say it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from sidecar.apis import FINISH_REASONS, KNOWN_ERRORS
from sidecar.core.clock import MILLISECOND, SECOND, Clock
from sidecar.core.exchange import Exchange, Verdict
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.headers import Headers
from sidecar.core.shown import OTHER_HTTP, is_credential, shown
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metric_store import (
    Attributes,
    ByKind,
    CounterSeries,
    HistogramSeries,
    MetricStore,
    Observations,
    Rows,
    Seconds,
    Share,
    Words,
)

OTHER = "other"
"""Stands for every value beyond a cap or outside a list."""
MISSING = "missing"
"""The finish reason of a response that gave none."""

_NO_ERRORS = (Outcome.COMPLETED, Outcome.CLIENT_LEFT)

UNUSED = 3600 * SECOND
"""After so long without use a place may be taken by somebody who has earned it, ns."""
UNTRIED = 24 * UNUSED
"""After so long a name that only failed may be followed by another one, ns: each may be a series that stays."""


def finish_reason(reasons: list[str]) -> str:
    """One word for a response: its first choice's reason if it is known (any case), `other`, or `missing`."""
    if not reasons:
        return MISSING
    reason = reasons[0]
    if reason in FINISH_REASONS:
        return reason
    lower = reason.lower()
    return lower if lower in FINISH_REASONS else OTHER


def error_type(verdict: Verdict) -> str | None:
    """Why it went wrong, from a fixed set; None for what did not.

    Only an error inside a stream brings words that are not ours; without any word, the outcome is the word.
    """
    word, outcome = verdict.error_type, verdict.outcome
    if outcome in _NO_ERRORS:
        return None
    if outcome is Outcome.ERROR_IN_STREAM and word is not None and word not in KNOWN_ERRORS:
        return OTHER_HTTP
    return word or outcome.value


RESULTS = (
    *("completed", "client_left", "client_error", "rate_limited", "server_error", "upstream_failed"),
    *("error_in_stream", "timed_out", "refused", "shutdown", "internal_error"),
)
"""The words of `sidecar.result`: the outcomes, and in place of `upstream_rejected` which kind of answer it was."""
BAD = ("rate_limited", "server_error", "upstream_failed", "error_in_stream", "timed_out", "internal_error")
"""Those that are trouble: neither a client's own mistakes nor departures."""


def result(outcome: Outcome, status: int | None) -> str:
    """What became of a request, by its outcome and the status that the client was told."""
    if outcome is not Outcome.UPSTREAM_REJECTED:
        return outcome.value
    if status == 429:
        return "rate_limited"
    return "server_error" if (status or 0) >= 500 else "client_error"


def provider_word(word: str | None) -> str | None:
    """A provider's error code as an attribute: only if it is one short word, so that no prose can pass."""
    if (
        not word
        or len(word) > 64
        or not word.isascii()
        or not word.replace("_", "").replace(".", "").isalnum()
        or is_credential(word)
    ):
        return None
    return word


class Cap:
    """Which names are told: at most `limit` have a place of their own, every other is `other`.

    A call that completed earns its name a place, from one that only failed if need be, else from one that has not
    completed a call for `UNUSED`. Names that only failed have at most half of the places, as long as nobody earns them,
    and give them to others of their kind after `UNTRIED`. `report` is called for each name told as `other`.
    """

    __slots__ = ("_earned", "_failed", "_limit", "_report", "changes")

    def __init__(self, limit: int, report: Callable[[Anomaly], None]) -> None:
        self._limit = limit
        self._report = report
        self.changes = 0
        """How often a name has got a place; until the next time all are told as they were, but for those without one."""
        self._earned: dict[str, int] = {}
        """By name, when it last completed a call; the longest ago stands first."""
        self._failed: dict[str, int] = {}
        """The names that only failed: when they were last tried, likewise."""

    def __call__(self, value: str, at: int, *, completed: bool) -> str:
        """The name as it may be shown, or `other`, for a call that ended at `at` (ns)."""
        earned, failed = self._earned, self._failed
        name = value if value in earned or value in failed else shown(value)
        if name in earned and not completed:
            return name
        known = earned.pop(name, None) is not None or failed.pop(name, None) is not None
        if not known:
            if not (self._earn(at) if completed else self._lend(at)):
                self._report(Anomaly.MODEL_CAP)
                return OTHER
            self.changes += 1
        (earned if completed else failed)[name] = at
        return name

    def has(self, value: str) -> bool:
        """Whether this name has a place."""
        return value in self._earned or value in self._failed

    def _earn(self, at: int) -> bool:
        """Whether there is a place for one more name that completed a call."""
        if len(self._earned) + len(self._failed) < self._limit:
            return True
        return _yields(self._failed, at, 0) or _yields(self._earned, at, UNUSED)

    def _lend(self, at: int) -> bool:
        """Whether there is one for a name that failed."""
        free = self._limit - len(self._earned) - len(self._failed)
        if free > 0 and len(self._failed) < (self._limit + 1) // 2:
            return True
        return _yields(self._failed, at, UNTRIED)


def _yields(places: dict[str, int], at: int, after: int) -> bool:
    """Whether the place used longest ago has been unused for so long (ns); then it is given up."""
    for name, used in places.items():
        if at - used < after:
            return False
        del places[name]
        return True
    return False


_LATEST_TOKENS = {
    "input": metrics.INFERENCE_INPUT_TOKENS,
    "output": metrics.INFERENCE_OUTPUT_TOKENS,
    "cache_read": metrics.INFERENCE_CACHE_READ_TOKENS,
    "cache_write": metrics.INFERENCE_CACHE_WRITE_TOKENS,
    "reasoning": metrics.INFERENCE_REASONING_TOKENS,
}

_DETAILS = ("cache_read", "cache_write", "reasoning")

NO_BREAK = "none"
"""Where nothing broke, in `sidecar.prompt.read_anew`."""

PHASES = ("body", "connect", "wait", "stream")
"""What a request's time goes to (`sidecar.request.phase`), in their order."""


Pairs = tuple[tuple[str, str | bool | int | None], ...]


def attribute_set(*pairs: tuple[str, str | bool | int | None]) -> Attributes:
    """The pairs whose value is known, sorted by name: the key of one series."""
    return tuple(sorted((name, value) for name, value in pairs if value is not None))


class Alike(NamedTuple):
    """What requests have in common that are counted on the same series."""

    upstream: str | None
    template: str
    operation: str | None
    provider: str | None
    asked: str | None
    answered: str | None
    streaming: bool
    method: str
    scheme: str
    status: int | None
    outcome: str
    result: str
    phase: str | None
    error: str | None
    failed: bool
    reason: str
    stopped: bool
    """It tells why generation stopped, or was to."""
    host: str | None
    port: int | None
    turn: bool


class CommonSeries:
    """The series of all requests, whatever their upstream."""

    __slots__ = ("after", "before", "breaks", "identity", "loop", "read_anew", "related")

    def __init__(self, store: MetricStore) -> None:
        self.before, self.after, self.loop = (
            store.histogram(metrics.OVERHEAD, ((n.OVERHEAD_PART, part),))
            for part in ("before", "after", "loop")
        )
        self.identity = Words(store, metrics.IDENTITY, n.SESSION_SOURCE)
        self.related = Words(store, metrics.TURNS_RELATED, n.TURN_RELATION)
        self.breaks = Words(store, metrics.PROMPT_BREAKS, n.BROKE_AT)
        self.read_anew = Words(store, metrics.READ_ANEW, n.BROKE_AT)


class UpstreamSeries:
    """The series of requests to one upstream."""

    __slots__ = (
        "arrivals",
        "attributes",
        "blocked",
        "bytes",
        "distance",
        "events",
        "out_of_order",
        "overlaps",
        "phases",
        "results",
        "retries",
        "stalls",
        "turns",
        "waits",
    )

    def __init__(self, store: MetricStore, name: str | None, common: CommonSeries) -> None:
        self.attributes = attributes = attribute_set((n.UPSTREAM, name))
        self.blocked = store.histogram(metrics.BACKPRESSURE, attributes)
        self.bytes = store.counter(metrics.STREAM_BYTES, attributes)
        self.distance = store.histogram(metrics.DISTANCE, attributes)
        self.events = store.counter(metrics.STREAM_EVENTS, attributes)
        self.out_of_order = store.counter(metrics.OUT_OF_ORDER, attributes)
        self.overlaps = store.counter(metrics.OVERLAPS, attributes)
        self.retries = store.counter(metrics.RETRIES, attributes)
        self.stalls = store.counter(metrics.STREAM_STALLS, attributes)
        self.turns = store.counter(metrics.TURNS, attributes)
        self.waits = store.histogram(metrics.WAIT_AVOIDED, attributes)
        self.phases = [
            store.histogram(
                metrics.PHASE_DURATION, attribute_set((n.REQUEST_PHASE, phase), (n.UPSTREAM, name))
            )
            for phase in PHASES
        ]
        self.results = {
            word: store.counter(metrics.RESULTS, attribute_set((n.RESULT, word), (n.UPSTREAM, name)))
            for word in RESULTS
        }
        self.arrivals = Rows(
            store,
            (),
            (
                (common.identity,),
                (store.histogram(metrics.CONCURRENCY, attributes),),
                (Seconds(store.histogram(metrics.THINK_TIME, attributes)),),
                (Seconds(self.waits),),
                (self.overlaps,),
                (self.retries,),
            ),
        )
        """Who it is; of a turn that is told of: turns in flight, time to think and wait (ns), 1 if it overlaps; 1 if it retries."""

    def begin(self) -> None:
        """What is counted is told from now on, as 0: whoever looks for more than there was sees the first one too."""
        streams = self.bytes, self.events, self.stalls
        turns = self.out_of_order, self.overlaps, self.retries, self.turns
        for counter in (*streams, *turns, *self.results.values()):
            counter.add(0)


class RequestSeries:
    """The series of requests that are alike, under the conventions chosen; those never recorded on cost only a handle."""

    __slots__ = (
        "_durations",
        "bad",
        "betweens",
        "details",
        "firsts",
        "gap",
        "headroom",
        "rows",
        "upstream",
        "usage",
    )

    def __init__(
        self, store: MetricStore, alike: Alike, upstream: UpstreamSeries, common: CommonSeries, semconv: str
    ) -> None:
        self.upstream = upstream
        told = alike.upstream is not None and alike.asked != OTHER
        self.headroom = (alike.upstream or "", alike.asked) if told else None
        """Whose headroom its answers tell."""
        self.bad = alike.result in BAD
        asked = (n.PROVIDER, alike.provider), (n.REQUEST_MODEL, alike.asked)
        models = (*asked, (n.UPSTREAM, alike.upstream))
        self.gap = store.histogram(metrics.STREAM_GAP, attribute_set(*models))
        self.firsts: list[HistogramSeries] = []
        self.betweens: list[HistogramSeries] = []
        self._durations: list[HistogramSeries] = []
        self.usage: dict[str, list[HistogramSeries]] = {"input": [], "output": []}
        self.details: dict[str, list[CounterSeries]] = {kind: [] for kind in _LATEST_TOKENS}
        """By the kind of token: where its count is a measurement, and where it is counted."""
        shared = (*models, (n.OPERATION, alike.operation), (n.STREAMING, alike.streaming))
        self._find(store, alike, shared, semconv)
        cached = Share(store.histogram(metrics.CACHED_SHARE, attribute_set(*models)), "cache_read", "input")
        tokens = {kind: (*self.usage.get(kind, ()), *counters) for kind, counters in self.details.items()}
        self.rows = Rows(
            store,
            (*_counted(store, alike, shared, models), upstream.results[alike.result]),
            server=(
                (Seconds(_http(store, alike)),),
                *((common.related,), (common.breaks,), (common.read_anew.of(NO_BREAK),)),
                (upstream.turns,),
                *((Seconds(part),) for part in (common.before, common.after, common.loop)),
            ),
            client=(
                *((Seconds(phase),) for phase in upstream.phases),
                (Seconds(*self._durations),),
                (*((cached,) if alike.turn else ()), ByKind(tokens)),
            ),
        )
        """Its duration; what it is to its past, where its prompt broke, the tokens read anew where none did; 1 if it is a
        turn that is told of and completed. Of its upstream call: the overhead before, after and of the loop; the phases;
        the whole; the tokens by their kind. Times in ns."""

    def _find(self, store: MetricStore, alike: Alike, shared: Pairs, semconv: str) -> None:
        call = (
            *shared,
            (n.SERVER_ADDRESS, alike.host),
            (n.SERVER_PORT, alike.port),
            (n.RESPONSE_MODEL, alike.answered),
        )
        chunks, whole = attribute_set(*call), attribute_set(*call, (n.ERROR_TYPE, alike.error))
        if semconv != "latest":
            self._shipped(store, call, chunks, whole)
        if semconv != "shipped" and metrics.is_inference(alike.operation or ""):
            self._inference(store, call, chunks, whole)
        elif semconv != "shipped":
            self._durations.append(store.histogram(metrics.EMBEDDINGS_DURATION, whole))
            self.usage["input"].append(store.histogram(metrics.EMBEDDINGS_CALL_INPUT_TOKENS, chunks))

    def _shipped(self, store: MetricStore, call: Pairs, chunks: Attributes, whole: Attributes) -> None:
        self._durations.append(store.histogram(metrics.OPERATION_DURATION, whole))
        self.firsts.append(store.histogram(metrics.OPERATION_FIRST_CHUNK, chunks))
        self.betweens.append(store.histogram(metrics.OPERATION_PER_CHUNK, chunks))
        for kind in ("input", "output"):
            told = attribute_set(*call, (n.TOKEN_TYPE, kind))
            self.usage[kind].append(store.histogram(metrics.TOKEN_USAGE, told))
        for kind in _DETAILS:
            told = attribute_set(*call, (n.TOKEN_DETAIL, kind))
            self.details[kind].append(store.counter(metrics.TOKEN_DETAILS, told))

    def _inference(self, store: MetricStore, call: Pairs, chunks: Attributes, whole: Attributes) -> None:
        self._durations.append(store.histogram(metrics.INFERENCE_DURATION, whole))
        self.firsts.append(store.histogram(metrics.INFERENCE_FIRST_CHUNK, chunks))
        self.betweens.append(store.histogram(metrics.INFERENCE_PER_CHUNK, chunks))
        self.usage["input"].append(store.histogram(metrics.INFERENCE_CALL_INPUT_TOKENS, whole))
        self.usage["output"].append(store.histogram(metrics.INFERENCE_CALL_OUTPUT_TOKENS, whole))
        modality = attribute_set(*call, (n.TOKEN_MODALITY, "unknown"))
        for kind, metric in _LATEST_TOKENS.items():
            self.details[kind].append(store.counter(metric, modality))


def _counted(store: MetricStore, alike: Alike, shared: Pairs, models: Pairs) -> Iterator[CounterSeries]:
    """What each of these requests counts on."""
    ended = (n.OUTCOME, alike.outcome), (n.PHASE, alike.phase), (n.ERROR_TYPE, alike.error)
    yield store.counter(metrics.REQUESTS, attribute_set(*shared, *ended))
    if alike.stopped:
        stopped = (n.FINISH_REASON, alike.reason), (n.OPERATION, alike.operation)
        yield store.counter(metrics.FINISH_REASONS, attribute_set(*models, *stopped))


def _http(store: MetricStore, alike: Alike) -> HistogramSeries:
    return store.histogram(
        metrics.HTTP_DURATION,
        attribute_set(
            (n.METHOD, alike.method),
            (n.SCHEME, alike.scheme),
            (n.STATUS, alike.status),
            (n.ROUTE, alike.template),
            (n.ERROR_TYPE, alike.error if alike.failed else None),
            (n.UPSTREAM, alike.upstream),
        ),
    )


Key = tuple[str, str | None]
"""An upstream's name, and a model as it may be told."""
Head = tuple[int, Headers, int]
"""When an answer's head came (ns), its fields, and what makes that the wall's time (ns)."""

STALE = 120 * SECOND
"""So long a figure is told, ns; the windows of rate limits are mostly a minute."""
MOST = 500
"""Pairs of upstream and model of which figures are kept."""
_LONGEST = 24 * 3600 * SECOND
"""The longest time to wait that is believed, ns."""
_DIGITS = 15

KINDS = ("requests", "tokens", "input_tokens", "output_tokens")
"""The values of `sidecar.ratelimit.kind`."""


def _fields(which: str) -> dict[str, tuple[bytes, ...]]:
    """Where `remaining` or `limit` stands, by kind; the first that is there counts.

    OpenAI's names are also Azure's and Groq's; behind them Mistral's, Cerebras' and Fireworks', which name a window or a side;
    then Anthropic's; and last those that name no kind, and Together's for tokens. Where each is documented stands in
    docs/telemetry.md.
    """
    own, anthropic = f"x-ratelimit-{which}-", "anthropic-ratelimit-"
    names = {
        "requests": (
            *(f"{own}requests", f"{own}req-minute", f"{own}requests-minute", f"{own}requests-day"),
            *(f"{anthropic}requests-{which}", f"x-ratelimit-{which}", f"ratelimit-{which}"),
        ),
        "tokens": (
            *(f"{own}tokens", f"{own}tokens-minute", f"{anthropic}tokens-{which}", f"x-tokenlimit-{which}"),
        ),
        "input_tokens": (f"{own}input-tokens", f"{own}tokens-prompt", f"{anthropic}input-tokens-{which}"),
        "output_tokens": (
            *(f"{own}output-tokens", f"{own}tokens-generated", f"{anthropic}output-tokens-{which}"),
        ),
    }
    return {kind: tuple(name.encode() for name in names[kind]) for kind in KINDS}


_REMAINING, _LIMIT = _fields("remaining"), _fields("limit")
TELLING = frozenset(
    (
        *(b"retry-after", b"retry-after-ms"),
        *(name for table in (_REMAINING, _LIMIT) for names in table.values() for name in names),
    )
)
"""The fields of a head that say something of it: one without any does not take the place of one that has not been read."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the latest answers said. Times in ns; `at` is that of the figures, `until` when the wait is over."""

    at: int = 0
    remaining: Mapping[str, int] = field(default_factory=dict)
    limit: Mapping[str, int] = field(default_factory=dict)
    until: int = 0


class Headroom:
    """What a provider says is left before it answers 429: read from the heads of its answers, by upstream, model and kind.

    A request costs it one entry in a map. Heads are read when a snapshot is taken, the latest of each upstream and model alone,
    and those of answers that still stream with them; of models with a place of their own in `places`. What was said too long
    ago is not told: a window of the provider's has passed since.
    """

    def __init__(
        self,
        store: MetricStore,
        clock: Clock,
        in_flight: Mapping[int, Exchange],
        places: Cap,
    ) -> None:
        self._clock = clock
        self._in_flight = in_flight
        self._places = places
        self._heard: dict[Key, Head] = {}
        """The latest heads that nobody has read, of requests that have ended; `MOST` at most."""
        self._told: dict[Key, Told] = {}
        # A snapshot asks in this order: what has come is read once for all three.
        store.observe(metrics.RATELIMIT_REMAINING, self._remaining)
        store.observe(metrics.RATELIMIT_LIMIT, lambda: self._figures("limit"))
        store.observe(metrics.RETRY_AFTER, self._waits)

    def hear(self, key: Key, exchange: Exchange, headers: Headers) -> None:
        """An answer with these fields has ended: the latest head that says something takes the place of the one before."""
        before, first = self._heard.get(key), exchange.first_byte
        if len(self._heard) < MOST if before is None else before[0] < first:
            self._heard[key] = (first, headers, exchange.correction)

    def _remaining(self) -> Observations:
        self._read()
        return self._figures("remaining")

    def _figures(self, which: str) -> Observations:
        now = self._clock()
        for key, told in self._told.items():
            if now - told.at < STALE:
                for kind, value in getattr(told, which).items():
                    yield value, _attributes(key, kind)

    def _waits(self) -> Observations:
        now = self._clock()
        for key, told in self._told.items():
            if told.until > now:
                yield (told.until - now) / SECOND, _attributes(key)

    def _read(self) -> None:
        """Reads what has come, forgets what is too old."""
        for key, head in (*self._heard.items(), *self._streaming()):
            self._learn(key, head)
        self._heard.clear()
        now = self._clock()
        for key in [key for key, told in self._told.items() if now >= max(told.at + STALE, told.until)]:
            del self._told[key]

    def _streaming(self) -> Iterator[tuple[Key, Head]]:
        """The latest head of each pair whose answer has begun and not ended."""
        latest: dict[Key, Exchange] = {}
        for exchange in self._in_flight.values():
            headers = exchange.upstream_headers
            if exchange.upstream is None or headers is None or TELLING.isdisjoint(headers.first):
                continue
            model = exchange.asked_model
            if model is None or self._places.has(model):
                key = exchange.upstream.name, model
                if key not in latest or latest[key].first_byte < exchange.first_byte:
                    latest[key] = exchange
        for key, one in latest.items():
            if one.upstream_headers is not None:
                yield key, (one.first_byte, one.upstream_headers, one.correction)

    def _learn(self, key: Key, head: Head) -> None:
        at, headers, correction = head
        before = self._told.get(key, Told())
        if at <= before.at or (key not in self._told and len(self._told) >= MOST):
            return
        remaining, limit = _numbers(headers, _REMAINING), _numbers(headers, _LIMIT)
        wait = _wait(headers, at, correction)
        if remaining or limit:
            self._told[key] = Told(at, remaining, limit, at + wait if wait else 0)
        elif wait:
            self._told[key] = Told(before.at, before.remaining, before.limit, at + wait)


def _attributes(key: Key, kind: str | None = None) -> Attributes:
    upstream, model = key
    return attribute_set((n.UPSTREAM, upstream), (n.REQUEST_MODEL, model), (n.RATELIMIT_KIND, kind))


def _numbers(headers: Headers, fields: Mapping[str, tuple[bytes, ...]]) -> dict[str, int]:
    """By kind, the first whole number; a field that holds none is passed over."""
    found: dict[str, int] = {}
    for kind, names in fields.items():
        for name in names:
            value = headers.first.get(name)
            if value is not None and value.isdigit() and len(value) <= _DIGITS:
                found[kind] = int(value)
                break
    return found


def _wait(headers: Headers, at: int, correction: int) -> int:
    """How long (ns) the client is to wait: by `retry-after-ms`, else `retry-after` in seconds or as a date; 0: not told."""
    exact, plain = headers.text(b"retry-after-ms"), headers.text(b"retry-after")
    wait = 0
    if exact is not None and _is_number(exact):
        wait = round(float(exact) * MILLISECOND)
    elif plain is not None and _is_number(plain):
        wait = round(float(plain) * SECOND)
    elif plain is not None:
        try:
            date = parsedate_to_datetime(plain)
        except (ValueError, OverflowError):
            return 0
        wait = round(date.replace(tzinfo=date.tzinfo or UTC).timestamp()) * SECOND - at - correction
    return min(max(0, wait), _LONGEST)


def _is_number(text: str) -> bool:
    whole, _, part = text.partition(".")
    return text.isascii() and whole.isdigit() and (part.isdigit() or not part) and len(text) <= _DIGITS
