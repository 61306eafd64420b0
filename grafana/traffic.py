"""LLM traffic: rates, errors, durations, tokens, models.

Owns its panels, from general to specific. Where the settings choose the latest conventions, the same panels read
their metrics. Written by `write.py`.
"""

from grafana import queries as q
from grafana.names import label
from grafana.overview import start
from grafana.panels import Json, Panel, Query, Row, dashboard, laid_out
from grafana.variables import annotations, variables
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metrics import Metric

UID = "sidecar-traffic"

_BROKE_AT = label(n.BROKE_AT)
_PHASE = label(n.REQUEST_PHASE)
_EACH = f'{_PHASE}="body"'
"""The phase that each request has which asks its upstream."""
_IF_TOLD = "only where a provider tells it"
_ONLY_LATEST = "only with SIDECAR_SEMCONV=latest or both"


def _named(attribute: str) -> str:
    return q.named(label(attribute))


def _latency(share: float, shipped: Metric, latest: Metric, by: str = "") -> str:
    return q.either(q.quantile(share, shipped, by), shipped, latest)


def _tokens(kind: str, latest: Metric, by: str = q.UPSTREAM) -> str:
    shipped = q.rate(metrics.TOKEN_USAGE, by, "_sum", where=f'{label(n.TOKEN_TYPE)}="{kind}"')
    return f"({shipped}) or ({q.rate(latest, by)})"


def _details(detail: str, latest: Metric, by: str = "") -> str:
    shipped = q.rate(metrics.TOKEN_DETAILS, by, where=f'{label(n.TOKEN_DETAIL)}="{detail}"')
    return f"({shipped}) or ({q.rate(latest, by)})"


def _call_tokens(kind: str, latest: Metric) -> tuple[Query, ...]:
    where = f'{label(n.TOKEN_TYPE)}="{kind}"'

    def of(share: float) -> str:
        shipped = q.quantile(share, metrics.TOKEN_USAGE, where=where)
        return f"({shipped}) or ({q.quantile(share, latest)})"

    return Query(of(0.5), "median"), Query(of(0.95), "p95")


def _three(shipped: Metric, latest: Metric) -> tuple[Query, ...]:
    return (
        Query(_latency(0.5, shipped, latest), "p50", exemplars=True),
        Query(_latency(0.95, shipped, latest), "p95"),
        Query(_latency(0.99, shipped, latest), "p99"),
    )


_BY_MODEL = q.rate(metrics.REQUESTS, q.MODEL, where=f'{q.MODEL}!=""')
_MISTAKES = q.rate(
    metrics.REQUESTS,
    q.MODEL,
    where=f'{q.OUTCOME}="upstream_rejected", {label(n.ERROR_TYPE)}=~"4..", {label(n.ERROR_TYPE)}!="429"',
)
_UNWELL = q.rate(metrics.REQUESTS, q.MODEL, where=f'{q.OUTCOME}!~"completed|client_left|refused|shutdown"')
"""Client errors by model, and bad answers with them: sidecar.results has them apart, and knows no model."""
_UPSTREAM = _named(n.UPSTREAM)
_LIMIT = f"{q.UPSTREAM}, {q.MODEL}, {label(n.RATELIMIT_KIND)}"
_EXPLORER = (("Session explorer", "/d/sidecar-explorer?${datasource:queryparam}&${__url_time_range}"),)
_NO_STREAM = "no stream in this range"
_NO_USAGE = "no usage reported in this range"


def _of_each(share: float, shipped: Metric, latest: Metric) -> tuple[Query, ...]:
    return (Query(_latency(share, shipped, latest, q.UPSTREAM), _UPSTREAM, exemplars=True),)


def _bands(shipped: Metric, latest: Metric) -> tuple[Query, ...]:
    return (Query(q.either(q.cells(shipped), shipped, latest), "{{le}}"),)


PANELS: tuple[Panel | Row, ...] = (
    *start(UID, model=True),
    Row(106, "Requests and errors"),
    Panel(
        150,
        "Bad answers by upstream",
        "Share of each upstream's answers: failed, timed out, an error in the stream, 5xx, 429. Over 25 % it is critical in "
        "minutes, over 3 % after an hour. Metric: sidecar.results.",
        (
            Query(
                q.share(
                    q.rate(metrics.RESULTS, q.UPSTREAM, where=q.BAD), q.rate(metrics.RESULTS, q.UPSTREAM)
                ),
                _UPSTREAM,
            ),
        ),
        unit="percentunit",
        links=_EXPLORER,
    ),
    Panel(
        111,
        "Answers other than completed",
        "Per second, by what they were and whose. client_error: 4xx but 429, the app's own; client_left: the app went away. "
        "Metric: sidecar.results.",
        (
            Query(
                q.happening(
                    q.rate(metrics.RESULTS, f"{q.RESULT}, {q.UPSTREAM}", where=f'{q.RESULT}!="completed"')
                ),
                f"{q.named(q.RESULT)} {_UPSTREAM}",
                quiet="nothing ended otherwise",
            ),
        ),
        unit="reqps",
        stacked=True,
        no_data="nothing but completed requests, or none at all",
        colours=q.RESULTS,
    ),
    Panel(
        114,
        "In flight",
        "Requests that are running now, by upstream. Growing without end: nothing settles. Metric: sidecar.requests.active.",
        (Query(q.now(metrics.REQUESTS_ACTIVE, q.UPSTREAM), _UPSTREAM),),
        stacked=True,
    ),
    Panel(
        110,
        "Requests by upstream and operation",
        "Settled per second, by what was asked for, and of whom. Metric: sidecar.requests.",
        (
            Query(
                q.rate(metrics.REQUESTS, f"{q.UPSTREAM}, {label(n.OPERATION)}"),
                f"{_UPSTREAM} {_named(n.OPERATION)}",
            ),
        ),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        169,
        "Longest running, by upstream",
        "The oldest request in flight. Old and not silent: a long stream. Metric: sidecar.requests.oldest.age.",
        (Query(q.now(metrics.OLDEST_AGE, q.UPSTREAM, how="max"), _UPSTREAM),),
        unit="s",
        links=_EXPLORER,
    ),
    Panel(
        163,
        "Longest silent, by upstream",
        "How long a request in flight has heard nothing. As old as the longest running: it hangs. "
        "Metric: sidecar.requests.silence.",
        (Query(q.now(metrics.SILENCE, q.UPSTREAM, how="max"), _UPSTREAM),),
        unit="s",
        links=_EXPLORER,
    ),
    Panel(
        115,
        "Finish reasons",
        "Why generation stopped, per second. length: answers are cut by a token limit; missing: nobody said. "
        "Metric: sidecar.finish_reasons.",
        (
            Query(
                q.rate(metrics.FINISH_REASONS, f"{q.UPSTREAM}, {label(n.FINISH_REASON)}"),
                f"{_UPSTREAM}: {_named(n.FINISH_REASON)}",
            ),
        ),
        unit="cps",
        stacked=True,
        width=24,
    ),
    Panel(
        165,
        "What the provider says is left",
        "Share of its limit, by upstream, model and kind, as its latest answers said. Below a tenth: the 429s are near. "
        "Metrics: sidecar.ratelimit.remaining, sidecar.ratelimit.limit.",
        (
            Query(
                f"min by ({_LIMIT}) ({q.fresh(metrics.RATELIMIT_REMAINING)} / ({q.fresh(metrics.RATELIMIT_LIMIT)} > 0))",
                f"{_UPSTREAM}, {_named(n.REQUEST_MODEL)}, {_named(n.RATELIMIT_KIND)}",
                quiet=_IF_TOLD,
            ),
        ),
        unit="percentunit",
        no_data="no provider said what is left in this range",
        width=24,
    ),
    Row(107, "Latency"),
    Panel(
        121,
        "Time to first chunk, p95",
        "Of streams, by upstream: how long a reader waits for the first word. Rising alone: the provider queues; rising with "
        "the duration: longer prompts, or a slower model. Read to the bounds of its buckets, 40 % apart. "
        "Metric: gen_ai.client.operation.time_to_first_chunk.",
        _of_each(0.95, metrics.OPERATION_FIRST_CHUNK, metrics.INFERENCE_FIRST_CHUNK),
        unit="s",
        no_data=_NO_STREAM,
    ),
    Panel(
        167,
        "Time to first chunk, median",
        "Half of the readers wait no longer. Far below the p95: a few streams are slow; near it: all are. "
        "Metric: gen_ai.client.operation.time_to_first_chunk.",
        _of_each(0.5, metrics.OPERATION_FIRST_CHUNK, metrics.INFERENCE_FIRST_CHUNK),
        unit="s",
        no_data=_NO_STREAM,
    ),
    Panel(
        120,
        "Duration of a call, p95",
        "By upstream, from asking for a connection to the answer's end; of streams that is the whole stream. Dots are requests: "
        "they lead to their traces. Metric: gen_ai.client.operation.duration.",
        (
            *_of_each(0.95, metrics.OPERATION_DURATION, metrics.INFERENCE_DURATION),
            Query(
                q.quantile(0.95, metrics.EMBEDDINGS_DURATION, q.UPSTREAM),
                f"{_UPSTREAM}, embeddings",
                quiet=_ONLY_LATEST,
            ),
        ),
        unit="s",
    ),
    Panel(
        168,
        "Duration of a call, median",
        "Half of the calls take no longer. Metric: gen_ai.client.operation.duration.",
        _of_each(0.5, metrics.OPERATION_DURATION, metrics.INFERENCE_DURATION),
        unit="s",
    ),
    Panel(
        160,
        "First words",
        "How many streams began after how long: two bands are two kinds of answers, which a p95 hides. "
        "Metric: gen_ai.client.operation.time_to_first_chunk.",
        _bands(metrics.OPERATION_FIRST_CHUNK, metrics.INFERENCE_FIRST_CHUNK),
        unit="s",
        kind="heatmap",
        no_data=_NO_STREAM,
    ),
    Panel(
        161,
        "Durations",
        "How many calls took how long. Metric: gen_ai.client.operation.duration.",
        _bands(metrics.OPERATION_DURATION, metrics.INFERENCE_DURATION),
        unit="s",
        kind="heatmap",
    ),
    Panel(
        162,
        "Where the time goes",
        "Mean time of a request that asked its upstream, by phase; one that had none of a phase counts as 0: body is the app sending, connect the way to the provider, wait the provider thinking, "
        "stream the answer. Metric: sidecar.request.phase.duration.",
        (
            Query(
                f"{q.rate(metrics.PHASE_DURATION, _PHASE, '_sum')} / on () group_left () "
                f"({q.rate(metrics.PHASE_DURATION, '', '_count', where=_EACH)} > 0)",
                _named(n.REQUEST_PHASE),
            ),
        ),
        unit="s",
        stacked=True,
        colours={"body": "purple", "connect": "yellow", "wait": "orange", "stream": "green"},
    ),
    Panel(
        123,
        "Duration as the app sees it, by route",
        "The whole request at the sidecar's door, p95. Far above the call's own: look at Sidecar health and cost. "
        "Metric: http.server.request.duration.",
        (Query(q.quantile(0.95, metrics.HTTP_DURATION, label(n.ROUTE)), _named(n.ROUTE), exemplars=True),),
        unit="s",
    ),
    Panel(
        122,
        "Time per output chunk",
        "Of streams: between one piece of output and the next. Metric: gen_ai.client.operation.time_per_output_chunk.",
        _three(metrics.OPERATION_PER_CHUNK, metrics.INFERENCE_PER_CHUNK),
        unit="s",
        no_data=_NO_STREAM,
        width=24,
    ),
    Row(108, "Models and tokens"),
    Panel(
        151,
        "Bad answers and client errors by model",
        "Shares of each model's requests. One model alone: it is overloaded, or (client errors) removed, or not granted to this app. "
        "Metric: sidecar.requests.",
        (
            Query(
                q.share(f"{_UNWELL} - ({q.at_least_zero(_MISTAKES, _UNWELL)})", _BY_MODEL),
                f"{q.named(q.MODEL)}, bad",
            ),
            Query(q.share(_MISTAKES, _BY_MODEL), f"{q.named(q.MODEL)}, client errors"),
        ),
        unit="percentunit",
        width=24,
        no_data="no request named a model in this range",
    ),
    Panel(
        130,
        "Requests by model",
        "Settled per second, by the model asked for; after 100 models the rest is `other`. Metric: sidecar.requests.",
        (Query(q.rate(metrics.REQUESTS, q.MODEL, where=f'{q.MODEL}!=""'), q.named(q.MODEL)),),
        unit="reqps",
        stacked=True,
        no_data="no request named a model in this range",
    ),
    Panel(
        131,
        "Duration by model, p95",
        "From asking for a connection to the answer's end. Metric: gen_ai.client.operation.duration.",
        (
            Query(
                _latency(0.95, metrics.OPERATION_DURATION, metrics.INFERENCE_DURATION, q.MODEL),
                q.named(q.MODEL),
                exemplars=True,
            ),
        ),
        unit="s",
        logarithmic=True,
    ),
    Panel(
        132,
        "Tokens per second",
        "As the providers reported them, by upstream; details of all together. Metrics: gen_ai.client.token.usage and "
        "sidecar.tokens.details; "
        "gen_ai.client.inference.usage.input_tokens and its siblings.",
        (
            Query(_tokens("input", metrics.INFERENCE_INPUT_TOKENS), f"{_UPSTREAM}, input"),
            Query(_tokens("output", metrics.INFERENCE_OUTPUT_TOKENS), f"{_UPSTREAM}, output"),
            Query(
                q.rate(metrics.EMBEDDINGS_CALL_INPUT_TOKENS, "", "_sum"),
                "input of embeddings",
                quiet=_ONLY_LATEST,
            ),
            Query(
                _details("cache_read", metrics.INFERENCE_CACHE_READ_TOKENS), "from the cache", quiet=_IF_TOLD
            ),
            Query(
                _details("cache_write", metrics.INFERENCE_CACHE_WRITE_TOKENS), "to the cache", quiet=_IF_TOLD
            ),
            Query(_details("reasoning", metrics.INFERENCE_REASONING_TOKENS), "reasoning", quiet=_IF_TOLD),
        ),
        no_data=_NO_USAGE,
    ),
    Panel(
        133,
        "Tokens of a call: input",
        "Input that grows from day to day: conversations get longer, and each turn pays for all of it. "
        "Metrics: gen_ai.client.token.usage; gen_ai.client.inference.operation.input_tokens.",
        _call_tokens("input", metrics.INFERENCE_CALL_INPUT_TOKENS),
        no_data=_NO_USAGE,
    ),
    Panel(
        139,
        "Tokens of a call: output",
        "Output that grows: answers take longer, and cost more. "
        "Metrics: gen_ai.client.token.usage; gen_ai.client.inference.operation.output_tokens.",
        _call_tokens("output", metrics.INFERENCE_CALL_OUTPUT_TOKENS),
        no_data=_NO_USAGE,
    ),
    Panel(
        135,
        "Input from the provider's cache",
        "Share of the reported input tokens, by model; those of turns that a provider keeps no cache for count as none. A fall: "
        "look at Where prompts break. Metrics: sidecar.tokens.details, gen_ai.client.token.usage.",
        (
            Query(
                q.share(
                    _details("cache_read", metrics.INFERENCE_CACHE_READ_TOKENS, q.MODEL),
                    _tokens("input", metrics.INFERENCE_INPUT_TOKENS, q.MODEL),
                ),
                q.named(q.MODEL),
                quiet=_IF_TOLD,
            ),
        ),
        unit="percentunit",
        no_data=_NO_USAGE,
    ),
    Panel(
        138,
        "Cached input of a turn, lowest tenth",
        "Of the turns' shares that came from the provider's cache, the tenth percentile, by model. Low beside a high median: some "
        "turns lose the cache and the rest keep it. Metric: sidecar.prompt.cached.",
        (Query(q.quantile(0.1, metrics.CACHED_SHARE, q.MODEL), q.named(q.MODEL)),),
        unit="percentunit",
        no_data=_NO_USAGE,
    ),
    Panel(
        152,
        "Cached input of a turn, median",
        "Half of the turns had a smaller share of their input from the provider's cache, by model. Metric: sidecar.prompt.cached.",
        (Query(q.quantile(0.5, metrics.CACHED_SHARE, q.MODEL), q.named(q.MODEL)),),
        unit="percentunit",
        no_data=_NO_USAGE,
    ),
    Panel(
        136,
        "Where prompts break",
        "Turns per second whose prompt is another one than that of the turn before, and where: the provider's cache ends "
        "there. tools or system: something in them changes from turn to turn. Metric: sidecar.prompt.breaks.",
        (Query(q.happening(q.rate(metrics.PROMPT_BREAKS, _BROKE_AT)), q.named(_BROKE_AT)),),
        unit="cps",
        stacked=True,
        no_data="no prompt broke in this range",
    ),
    Panel(
        137,
        "Tokens that were read anew",
        "Reported input tokens per second that did not come from the provider's cache, where the prompt went on (none), and "
        "those of the turn before, where it broke. Metric: sidecar.prompt.read_anew.",
        (Query(q.happening(q.rate(metrics.READ_ANEW, _BROKE_AT)), q.named(_BROKE_AT)),),
        stacked=True,
        no_data="no turn with a turn before it told its usage in this range",
    ),
    Panel(
        134,
        "Requests by answering model in the range",
        "The ten models that answered most, by the name they gave themselves. Metric: gen_ai.client.operation.duration.",
        (
            Query(
                "topk(10, "
                + q.either(
                    q.grown(
                        metrics.OPERATION_DURATION,
                        label(n.RESPONSE_MODEL),
                        "_count",
                        where=f'{label(n.RESPONSE_MODEL)}!=""',
                    ),
                    metrics.OPERATION_DURATION,
                    metrics.INFERENCE_DURATION,
                )
                + ")",
                _named(n.RESPONSE_MODEL),
            ),
        ),
        kind="bargauge",
        unit="none",
        width=24,
        height=6,
        decimals=0,
    ),
    Row(105, "Nothing wrong here", collapsed=True),
    Panel(
        112,
        "Errors by type in the range",
        "The ten most frequent. A status is the provider's; timeout.* names the setting that was reached; cut_short, "
        "connection_reset: something between breaks connections. Metric: sidecar.requests.",
        (
            Query(
                f"topk(10, {q.grown(metrics.REQUESTS, label(n.ERROR_TYPE), where=f'{label(n.ERROR_TYPE)}!=' + chr(34) * 2)})",
                _named(n.ERROR_TYPE),
                quiet="nothing failed",
            ),
        ),
        kind="bargauge",
        unit="none",
        steps=(("red", 1),),
        no_data="no error, or no traffic, in this range",
        decimals=0,
    ),
    Panel(
        166,
        "Wait that the provider asks for",
        "By upstream and model, what is left of its latest retry-after. While it lasts, every try is refused. "
        "Metric: sidecar.ratelimit.retry_after.",
        (
            Query(
                q.now(metrics.RETRY_AFTER, f"{q.UPSTREAM}, {q.MODEL}", how="max"),
                f"{_UPSTREAM}, {_named(n.REQUEST_MODEL)}",
                quiet="only where a provider asks for it",
            ),
        ),
        unit="s",
        no_data="no provider asked to wait in this range",
    ),
    Panel(
        113,
        "Retries",
        "Arrivals per second that their client marked as a retry, and their share of all. Much: the provider is rate "
        "limiting or failing; see Errors by type. Metrics: sidecar.retries, sidecar.identity.",
        (Query(q.at_least_zero(q.rate(metrics.RETRIES), q.rate(metrics.IDENTITY)), "retries per second"),),
        unit="reqps",
        width=24,
    ),
)


def traffic() -> Json:
    """The dashboard."""
    about = "What is asked of the models, what comes of it, and how long it takes."
    return dashboard(
        UID,
        "Sidecar: LLM traffic",
        about,
        panels=laid_out(PANELS),
        variables=variables(model=True),
        annotations=annotations(),
    )
