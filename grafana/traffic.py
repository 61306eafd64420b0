"""LLM traffic: rates, errors, durations, tokens, models.

Owns its panels, from general to specific. Where the settings choose the latest conventions, the same panels read
their metrics. Written by `write.py`.
"""

from grafana import queries as q
from grafana.names import label, series
from grafana.panels import Json, Panel, Query, Row, dashboard, laid_out
from grafana.variables import variables
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metrics import Metric

UID = "sidecar-traffic"

FAILED = f'{q.OUTCOME}=~"upstream_failed|error_in_stream|timed_out|internal_error|shutdown"'
_RATE = q.rate(metrics.REQUESTS)
_BROKE_AT = label(n.BROKE_AT)
_IF_TOLD = "only where a provider tells it"
_ONLY_LATEST = "only with SIDECAR_SEMCONV=latest or both"


def _named(attribute: str) -> str:
    return f"{{{{{label(attribute)}}}}}"


def _either(expression: str, shipped: Metric, latest: Metric) -> str:
    """The expression on the shipped metric, or on the one that the latest conventions have in its place."""
    return f"({expression}) or ({expression.replace(series(shipped), series(latest))})"


def _latency(share: float, shipped: Metric, latest: Metric, by: str = "") -> str:
    return _either(q.quantile(share, shipped, by), shipped, latest)


def _tokens(kind: str, latest: Metric) -> str:
    shipped = q.rate(metrics.TOKEN_USAGE, "", "_sum", where=f'{label(n.TOKEN_TYPE)}="{kind}"')
    return f"({shipped}) or ({q.rate(latest)})"


def _details(detail: str, latest: Metric) -> str:
    shipped = q.rate(metrics.TOKEN_DETAILS, where=f'{label(n.TOKEN_DETAIL)}="{detail}"')
    return f"({shipped}) or ({q.rate(latest)})"


def _call_tokens(kind: str, latest: Metric) -> tuple[Query, ...]:
    return (
        Query(q.quantile(0.5, latest), f"{kind}, median", quiet=_ONLY_LATEST),
        Query(q.quantile(0.95, latest), f"{kind}, p95", quiet=_ONLY_LATEST),
    )


def _three(shipped: Metric, latest: Metric) -> tuple[Query, ...]:
    return (
        Query(_latency(0.5, shipped, latest), "p50", exemplars=True),
        Query(_latency(0.95, shipped, latest), "p95"),
        Query(_latency(0.99, shipped, latest), "p99"),
    )


PANELS: tuple[Panel | Row, ...] = (
    Row(105, "Overview"),
    Panel(
        101,
        "Requests per second",
        "Requests that settled, whatever their outcome. Metric: sidecar.requests.",
        (Query(_RATE),),
        unit="reqps",
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        102,
        "Failed share",
        "Requests that failed by nobody's choice: upstream failed, error in the stream, timed out, shut down. Rejections and "
        "departures are not among them. Over 1 %: look at Errors by type. Metric: sidecar.requests.",
        (Query(q.share(q.rate(metrics.REQUESTS, where=FAILED), _RATE)),),
        unit="percentunit",
        kind="stat",
        width=6,
        height=5,
        decimals=2,
        steps=(("orange", 0.01), ("red", 0.05)),
    ),
    Panel(
        103,
        "Duration of a call, p95",
        "From asking for a connection to the answer's end; of streams that is the whole stream. "
        "Metric: gen_ai.client.operation.duration.",
        (Query(_latency(0.95, metrics.OPERATION_DURATION, metrics.INFERENCE_DURATION)),),
        unit="s",
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        104,
        "Output tokens per second",
        "As the providers reported them. Metric: gen_ai.client.token.usage.",
        (Query(_tokens("output", metrics.INFERENCE_OUTPUT_TOKENS)),),
        kind="stat",
        width=6,
        height=5,
        no_data="no usage reported in this range",
    ),
    Row(106, "Requests and errors"),
    Panel(
        110,
        "Requests by operation",
        "Settled per second, by what was asked for. Metric: sidecar.requests.",
        (Query(q.rate(metrics.REQUESTS, label(n.OPERATION)), _named(n.OPERATION)),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        111,
        "Outcomes other than completed",
        "Settled per second, by outcome. upstream_rejected: the provider said no (4xx, 5xx); client_left: the app went away. "
        "Metric: sidecar.requests.",
        (
            Query(
                q.rate(metrics.REQUESTS, q.OUTCOME, where=f'{q.OUTCOME}!="completed"'),
                f"{{{{{q.OUTCOME}}}}}",
                quiet="nothing ended otherwise",
            ),
        ),
        unit="reqps",
        stacked=True,
        no_data="nothing but completed requests, or none at all",
        colours=q.OUTCOMES,
    ),
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
        no_data="no error, or no traffic, in this range",
        decimals=0,
    ),
    Panel(
        113,
        "Retries",
        "Arrivals per second that their client marked as a retry, and their share of all. Much: the provider is rate "
        "limiting or failing; see Errors by type. Metrics: sidecar.retries, sidecar.identity.",
        (Query(q.at_least_zero(q.rate(metrics.RETRIES), q.rate(metrics.IDENTITY)), "retries per second"),),
        unit="reqps",
    ),
    Panel(
        114,
        "In flight",
        "Requests that are running now, by upstream. Growing without end: nothing settles. Metric: sidecar.requests.active.",
        (Query(q.now(metrics.REQUESTS_ACTIVE, q.UPSTREAM), f"{{{{{q.UPSTREAM}}}}}"),),
        stacked=True,
    ),
    Panel(
        115,
        "Finish reasons",
        "Why generation stopped, per second. length: answers are cut by a token limit; missing: nobody said. "
        "Metric: sidecar.finish_reasons.",
        (Query(q.rate(metrics.FINISH_REASONS, label(n.FINISH_REASON)), _named(n.FINISH_REASON)),),
        unit="ops",
        stacked=True,
    ),
    Row(107, "Latency"),
    Panel(
        120,
        "Duration of a call",
        "From asking for a connection to the answer's end. Dots are requests: they lead to their traces. "
        "Metric: gen_ai.client.operation.duration.",
        (
            *_three(metrics.OPERATION_DURATION, metrics.INFERENCE_DURATION),
            Query(q.quantile(0.95, metrics.EMBEDDINGS_DURATION), "embeddings, p95", quiet=_ONLY_LATEST),
        ),
        unit="s",
    ),
    Panel(
        121,
        "Time to first chunk",
        "Of streams: how long a reader waits for the first word. Rising alone: the provider queues; rising with the duration: "
        "longer prompts, or a slower model. Metric: gen_ai.client.operation.time_to_first_chunk.",
        _three(metrics.OPERATION_FIRST_CHUNK, metrics.INFERENCE_FIRST_CHUNK),
        unit="s",
        no_data="no stream in this range",
    ),
    Panel(
        122,
        "Time per output chunk",
        "Of streams: between one piece of output and the next. Metric: gen_ai.client.operation.time_per_output_chunk.",
        _three(metrics.OPERATION_PER_CHUNK, metrics.INFERENCE_PER_CHUNK),
        unit="s",
        no_data="no stream in this range",
    ),
    Panel(
        123,
        "Duration as the app sees it, by route",
        "The whole request at the sidecar's door, p95. Far above the call's own: look at Is the sidecar innocent? "
        "Metric: http.server.request.duration.",
        (Query(q.quantile(0.95, metrics.HTTP_DURATION, label(n.ROUTE)), _named(n.ROUTE), exemplars=True),),
        unit="s",
    ),
    Row(108, "Models and tokens"),
    Panel(
        130,
        "Requests by model",
        "Settled per second, by the model asked for; after 100 models the rest is `other`. Metric: sidecar.requests.",
        (Query(q.rate(metrics.REQUESTS, q.MODEL, where=f'{q.MODEL}!=""'), f"{{{{{q.MODEL}}}}}"),),
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
                f"{{{{{q.MODEL}}}}}",
                exemplars=True,
            ),
        ),
        unit="s",
    ),
    Panel(
        132,
        "Tokens per second",
        "As the providers reported them. Metrics: gen_ai.client.token.usage and sidecar.tokens.details; "
        "gen_ai.client.inference.usage.input_tokens and its siblings.",
        (
            Query(_tokens("input", metrics.INFERENCE_INPUT_TOKENS), "input"),
            Query(_tokens("output", metrics.INFERENCE_OUTPUT_TOKENS), "output"),
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
        no_data="no usage reported in this range",
    ),
    Panel(
        133,
        "Tokens of a call",
        "Median and p95, input and output. Input that grows from day to day: conversations get longer, and each turn pays for "
        "all of it. Metrics: gen_ai.client.token.usage; gen_ai.client.inference.operation.input_tokens and output_tokens.",
        (
            Query(
                q.quantile(0.5, metrics.TOKEN_USAGE, label(n.TOKEN_TYPE)), f"{_named(n.TOKEN_TYPE)}, median"
            ),
            Query(q.quantile(0.95, metrics.TOKEN_USAGE, label(n.TOKEN_TYPE)), f"{_named(n.TOKEN_TYPE)}, p95"),
            *_call_tokens("input", metrics.INFERENCE_CALL_INPUT_TOKENS),
            *_call_tokens("output", metrics.INFERENCE_CALL_OUTPUT_TOKENS),
        ),
        no_data="no usage reported in this range",
    ),
    Panel(
        135,
        "Input from the provider's cache",
        "Share of the reported input tokens, by model; those of turns that a provider keeps no cache for count as none. A fall: "
        "look at Where prompts break. Metrics: sidecar.tokens.details, gen_ai.client.token.usage.",
        (
            Query(
                q.share(
                    q.rate(metrics.TOKEN_DETAILS, q.MODEL, where=f'{label(n.TOKEN_DETAIL)}="cache_read"'),
                    q.rate(metrics.TOKEN_USAGE, q.MODEL, "_sum", where=f'{label(n.TOKEN_TYPE)}="input"'),
                ),
                f"{{{{{q.MODEL}}}}}",
                quiet=_IF_TOLD,
            ),
        ),
        unit="percentunit",
        no_data="no usage reported in this range",
    ),
    Panel(
        136,
        "Where prompts break",
        "Turns per second whose prompt is another one than that of the turn before, and where: the provider's cache ends "
        "there. tools or system: something in them changes from turn to turn. Metric: sidecar.prompt.breaks.",
        (Query(q.rate(metrics.PROMPT_BREAKS, _BROKE_AT), f"{{{{{_BROKE_AT}}}}}"),),
        unit="ops",
        width=12,
        stacked=True,
        no_data="no prompt broke in this range",
    ),
    Panel(
        137,
        "Tokens that were read anew",
        "Reported input tokens per second that did not come from the provider's cache, where the prompt went on (none), and "
        "those of the turn before, where it broke. Metric: sidecar.prompt.read_anew.",
        (Query(q.rate(metrics.READ_ANEW, _BROKE_AT), f"{{{{{_BROKE_AT}}}}}"),),
        width=12,
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
                + _either(
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
        width=24,
        height=6,
        decimals=0,
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
    )
