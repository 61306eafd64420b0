"""What a settled exchange comes down to: its outcome, whose error it was, whether there was a call and until when.

Owns these few answers, so that spans, metrics and log lines give the same ones. It reads a frozen exchange and
never changes it.
"""

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome

_ERRORS = frozenset(
    {
        *(Outcome.UPSTREAM_FAILED, Outcome.ERROR_IN_STREAM, Outcome.TIMED_OUT),
        *(Outcome.SHUTDOWN, Outcome.INTERNAL_ERROR),
    }
)


def outcome_of(exchange: Exchange) -> Outcome:
    """The settled exchange's outcome; one without a verdict is a bug of ours, and is called so."""
    return exchange.verdict.outcome if exchange.verdict else Outcome.INTERNAL_ERROR


def server_failed(exchange: Exchange) -> bool:
    """True when the SERVER span is an error: everything but completed, left, and answers below 500."""
    verdict = exchange.verdict
    if verdict is not None and verdict.outcome is Outcome.COMPLETED:
        return False
    outcome = outcome_of(exchange)
    if outcome in (Outcome.UPSTREAM_REJECTED, Outcome.REFUSED):
        return (exchange.status or 0) >= 500
    return outcome in _ERRORS


def client_failed(exchange: Exchange) -> bool:
    """True when the CLIENT span is an error: as the SERVER span, and every answer of 400 or more."""
    verdict = exchange.verdict
    if verdict is not None and verdict.outcome is Outcome.COMPLETED:
        return False
    outcome = outcome_of(exchange)
    return outcome in _ERRORS or outcome is Outcome.UPSTREAM_REJECTED


def has_client(exchange: Exchange) -> bool:
    """True when there was an upstream call: a connection was asked for."""
    verdict = exchange.verdict
    return bool(exchange.asked) and (verdict is None or verdict.outcome is not Outcome.REFUSED)


def call_end(exchange: Exchange) -> int:
    """When the upstream call ended, ns: with the answer's last byte if it came to that, else with the exchange."""
    outcome = outcome_of(exchange)
    whole = outcome is Outcome.COMPLETED or outcome in (Outcome.UPSTREAM_REJECTED, Outcome.ERROR_IN_STREAM)
    return exchange.last_byte if whole and exchange.last_byte else exchange.end


def is_streaming(exchange: Exchange) -> bool:
    """True when the answer streams, or was asked to."""
    return exchange.streams or exchange.request.streaming or exchange.route.streaming


def provider_of(exchange: Exchange) -> str | None:
    """`gen_ai.provider.name`: by the upstream's host, else by the API's shape."""
    upstream = exchange.upstream
    return (upstream.provider if upstream else None) or exchange.route.provider


def request_model(exchange: Exchange) -> str | None:
    """The model asked for, by the body or the path."""
    return exchange.request.model or exchange.route.model
