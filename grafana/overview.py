"""What stands first on every dashboard that is a way in: a row that turns red, and a table of the upstreams.

Owns both. Each figure's steps have their reason in its description; what is neither good nor bad is blue. A click on an
upstream narrows the whole dashboard to it.
"""

from functools import partial

from grafana import queries as q
from grafana.panels import Column, Panel, Query, Row
from sidecar.telemetry import metrics

_ALL = q.rate(metrics.RESULTS)
_BY = q.rate(metrics.RESULTS, q.UPSTREAM)
_BAD_BY = q.share(q.rate(metrics.RESULTS, q.UPSTREAM, where=q.BAD), _BY)
_NAMED = q.named(q.UPSTREAM)
_FIRST_WORD = (("orange", 5.0), ("red", 10.0))
_SHARE_BAD = (("orange", 0.01), ("red", 0.05))


def _first_word(share: float) -> str:
    found = q.quantile(share, metrics.OPERATION_FIRST_CHUNK, q.UPSTREAM)
    return q.either(found, metrics.OPERATION_FIRST_CHUNK, metrics.INFERENCE_FIRST_CHUNK)


def _grown(where: str) -> str:
    return q.grown(metrics.RESULTS, q.UPSTREAM, where=f"{where}, {q.KNOWN}")


def _word(word: str) -> str:
    return _grown(f'{q.RESULT}="{word}"')


_tile = partial(Panel, kind="stat", width=3, height=4)


def start(uid: str, *, model: bool = False) -> tuple[Panel | Row, ...]:
    """The row and the table, for the dashboard of this uid; `model`: it has that variable as well."""
    kept = ("datasource", "job", "instance", *((q.MODEL,) if model else ()))
    return (
        _tile(
            901,
            "Bad answers",
            "Failed, timed out, an error in the stream, 5xx, 429, of all that settled. Orange from 1 %, which is a month's "
            "usual budget; red from 5 %, where people notice. Metric: sidecar.results.",
            (Query(q.share(q.rate(metrics.RESULTS, where=q.BAD), _ALL)),),
            unit="percentunit",
            decimals=1,
            steps=_SHARE_BAD,
        ),
        _tile(
            902,
            "Worst upstream",
            "The one with the largest share at the end of the range. Orange from 1 %, red from 5 %, as for all of them. One "
            "alone: its provider's trouble; all alike: look at your own network. Metric: sidecar.results.",
            (Query(q.worst(_BAD_BY), _NAMED),),
            unit="percentunit",
            decimals=1,
            steps=_SHARE_BAD,
        ),
        _tile(
            903,
            "First word, p95",
            "Of the slowest upstream: how long a stream's reader waits. Orange from 5 s, when people look away; red from 10 s, "
            "when they go. Metric: gen_ai.client.operation.time_to_first_chunk.",
            (Query(q.worst(_first_word(0.95)), _NAMED),),
            unit="s",
            decimals=1,
            steps=_FIRST_WORD,
            no_data="no stream in this range",
        ),
        _tile(
            904,
            "Longest running",
            "The oldest request in flight. Orange from a minute, when the sidecar logs it; red from five: look at Longest "
            "running and Longest silent, by upstream, on LLM traffic. Metric: sidecar.requests.oldest.age.",
            (Query(q.now(metrics.OLDEST_AGE, how="max")),),
            unit="s",
            decimals=0,
            steps=(("orange", 60.0), ("red", 300.0)),
        ),
        _tile(
            905,
            "Client errors",
            "4xx but 429, of all that settled: the app asks for what the provider does not grant. Orange from 25 %, red from 50 %: "
            "a key, a quota or a model may be gone, see Errors by type on LLM traffic. Metric: sidecar.results.",
            (Query(q.share(q.rate(metrics.RESULTS, where=f'{q.RESULT}="client_error"'), _ALL)),),
            unit="percentunit",
            decimals=1,
            steps=(("orange", 0.25), ("red", 0.5)),
        ),
        _tile(
            906,
            "Most at once",
            "The peak in the range: turns in flight in one conversation that an arriving one found, itself included; over 8 it "
            "is the end of its bucket. More than 1 is what the queue forbade. Metric: sidecar.conversation.concurrency.",
            (Query(q.quantile(1, metrics.CONCURRENCY)),),
            calc="max",
            decimals=0,
            no_data="no named session",
        ),
        _tile(
            907,
            "Overtaken",
            "Completed turns that a later turn of their conversation had overtaken. By design where tools run in parallel; a "
            "fault where an app shows answers in order. Metrics: sidecar.responses.out_of_order, sidecar.turns.",
            (Query(q.share(q.grown(metrics.OUT_OF_ORDER), q.grown(metrics.TURNS))),),
            unit="percentunit",
            decimals=1,
            no_data="no named session",
        ),
        _tile(
            908,
            "Wait avoided/day",
            "How long turns would have waited in all, one at a time, at the range's pace. Near 0: nothing runs at once, so "
            "nothing is gained. Metric: sidecar.conversation.wait_avoided.",
            (Query(f"86400 * {q.rate(metrics.WAIT_AVOIDED, '', '_sum')}"),),
            unit="s",
            calc="mean",
            decimals=1,
            no_data="no named session",
        ),
        Panel(
            910,
            "Upstreams",
            "What became of the requests to each in the range; a click on one narrows the dashboard to it. Metrics: sidecar.results, "
            "gen_ai.client.operation.time_to_first_chunk, sidecar.requests.active, sidecar.conversation.overlaps, "
            "sidecar.conversation.concurrency.",
            (
                Query(q.rate(metrics.RESULTS, q.UPSTREAM, where=q.KNOWN)),
                Query(q.share(_grown(q.BAD), q.grown(metrics.RESULTS, q.UPSTREAM, where=q.KNOWN))),
                Query(_word("server_error")),
                Query(_word("rate_limited")),
                Query(_word("timed_out")),
                Query(_word("client_left")),
                Query(_first_word(0.5), quiet="of streams"),
                Query(_first_word(0.95), quiet="of streams"),
                Query(q.now(metrics.REQUESTS_ACTIVE, q.UPSTREAM)),
                Query(
                    q.share(
                        q.grown(metrics.OVERLAPS, q.UPSTREAM),
                        q.grown(metrics.CONCURRENCY, q.UPSTREAM, "_count"),
                    ),
                    quiet="of named sessions",
                ),
            ),
            kind="table",
            width=24,
            height=6,
            label=q.UPSTREAM,
            columns=(
                Column("Upstream"),
                Column("Rate", "reqps", (), 2),
                Column("Bad", "percentunit", _SHARE_BAD, 1),
                Column("5xx", "none", (("red", 1),), 0),
                Column("429", "none", (("orange", 1),), 0),
                Column("Timed out", "none", (("orange", 1),), 0),
                Column("Clients left", "none", (), 0),
                Column("First word, p50", "s", _FIRST_WORD, 2),
                Column("First word, p95", "s", _FIRST_WORD, 2),
                Column("In flight", "none", (), 0),
                Column("Overlap share", "percentunit", (), 1),
            ),
            chosen=f"/d/{uid}?var-{q.UPSTREAM}=${{__value.text:percentencode}}"
            f"&{'&'.join(f'${{{name}:queryparam}}' for name in kept)}&${{__url_time_range}}",
        ),
    )
