"""What a provider says is left: read from heads of every provider's form, the latest of each pair, for a bounded time."""

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.facts import Outcome, RequestFacts
from sidecar.core.headers import Field, Headers
from sidecar.telemetry import metrics
from sidecar.telemetry.series import MOST
from tests.telemetry.world import T0, MakeWorld, Point, World, ms

OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-tokens": "29000",
    "x-ratelimit-reset-requests": "120ms",
}
ANTHROPIC = {
    f"anthropic-ratelimit-{kind}-{which}": str(number + (which == "limit"))
    for number, kind in enumerate(("requests", "tokens", "input-tokens", "output-tokens"), 1)
    for which in ("limit", "remaining")
}


def answered(
    world: World,
    fields: dict[str, str],
    *,
    at: float = 100,
    model: str | None = "m",
    end: float | None = 200,
    status: int = 200,
) -> Exchange:
    """A call whose answer's head came at `at` ms with these fields, and which ended, unless `end` is None."""
    exchange = world.begin()
    exchange.request = RequestFacts(model)
    world.send(exchange)
    world.answer(exchange, status, at)
    pairs: list[Field] = [(name.encode(), value.encode()) for name, value in fields.items()]
    exchange.upstream_headers = Headers(pairs)
    if end is not None:
        exchange.decide(Outcome.COMPLETED, ms(end))
        world.settle(exchange, end)
    return exchange


def figures(world: World) -> dict[str, dict[Point, object]]:
    """What the three gauges tell now, by the values of their attributes."""
    gauges = (metrics.RATELIMIT_REMAINING, metrics.RATELIMIT_LIMIT, metrics.RETRY_AFTER)
    return {gauge.name.rpartition(".")[2]: world.points(gauge) for gauge in gauges if world.points(gauge)}


def of(model: str = "m", **values: int) -> dict[Point, object]:
    """The points of a model, by kind."""
    return {(model, kind, "default"): value for kind, value in values.items()}


@pytest.mark.parametrize(
    "fields, remaining, limit",
    [
        (OPENAI, of(requests=499, tokens=29000), of(requests=500, tokens=30000)),
        (
            ANTHROPIC,
            of(requests=1, tokens=2, input_tokens=3, output_tokens=4),
            of(requests=2, tokens=3, input_tokens=4, output_tokens=5),
        ),
        ({"X-RateLimit-Remaining-Tokens": "7"}, of(tokens=7), None),
        ({"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "0"}, of(requests=0), of(requests=60)),
        ({"x-ratelimit-remaining-requests-day": "9", "x-ratelimit-remaining-tokens-minute": "8"}, of(requests=9, tokens=8), None),
        ({"x-ratelimit-remaining-tokens-prompt": "5", "x-ratelimit-remaining-tokens-generated": "6"}, of(input_tokens=5, output_tokens=6), None),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-limit": "4"}, of(requests=3), of(requests=4)),
        ({"x-ratelimit-remaining": "3", "x-tokenlimit-remaining": "9", "x-tokenlimit-limit": "10"}, of(requests=3, tokens=9), of(tokens=10)),
        ({"ratelimit-remaining": "3", "ratelimit-limit": "100, 100;w=60"}, of(requests=3), None),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "many"}, None, None),
        ({"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-limit-tokens": "-1", "x-ratelimit-reset-tokens": "0"}, None, None),
        ({"x-ratelimit-remaining-requests": "1" * 16, "x-ratelimit-remaining-tokens": "\u00b2"}, None, None),
        ({"content-type": "application/json"}, None, None),
    ],
    ids=str,
)  # fmt: skip
def test_every_form(
    world: World,
    fields: dict[str, str],
    remaining: dict[Point, object] | None,
    limit: dict[Point, object] | None,
) -> None:
    """What is a whole number is told, by kind; anything else is not."""
    answered(world, fields)
    expected = {"remaining": remaining, "limit": limit}
    assert figures(world) == {name: points for name, points in expected.items() if points is not None}


@pytest.mark.parametrize(
    "fields, left",
    [
        ({"retry-after": "20"}, 19.1),
        ({"retry-after": "1.5"}, 0.6),
        ({"retry-after-ms": "2500", "retry-after": "3"}, 1.6),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 2.1),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 29.0),
        ({"retry-after": "999999999"}, 86399.1),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "a while"}, None),
        ({"retry-after": "Tue, 14 Nov 99999999999 22:13:50 GMT"}, None),
    ],
    ids=str,
)
def test_how_long_to_wait(world: World, fields: dict[str, str], left: float | None) -> None:
    """Milliseconds, seconds or a date; a second after the start, of an answer that came at 0.1 s. What has passed is gone."""
    answered(world, fields, status=429)
    assert figures(world) == ({} if left is None else {"retry_after": {("m", "default"): left}})
    if left is not None:
        world.now[0] += round(left * 1e9)
        assert figures(world) == {}


def test_the_latest_head_counts_for_two_minutes(world: World) -> None:
    """Whichever request ends last; a head without a word takes nothing back, and a wait alone leaves the figures."""
    answered(world, {"x-ratelimit-remaining-requests": "5"}, at=150, end=160)
    answered(world, {"x-ratelimit-remaining-requests": "9"}, at=100, end=180)
    assert figures(world) == {"remaining": of(requests=5)}
    answered(world, {}, at=190)
    answered(world, {"retry-after": "300"}, at=195, status=429)
    assert figures(world) == {"remaining": of(requests=5), "retry_after": {("m", "default"): 299.195}}
    world.now[0] = ms(150) + 120_000_000_000 - 1
    assert figures(world)["remaining"] == of(requests=5)
    world.now[0] += 1
    assert [*figures(world)] == ["retry_after"]
    world.now[0] = T0 + 301_000_000_000
    assert figures(world) == {}


def test_an_answer_that_streams_tells_at_its_head(world: World) -> None:
    """Not only once it has ended: of those in flight the latest."""
    first = answered(world, {"x-ratelimit-remaining-tokens": "80"}, end=200)
    assert first.settled
    answered(world, {"x-ratelimit-remaining-tokens": "50"}, at=300, end=None)
    answered(world, {"x-ratelimit-remaining-tokens": "40"}, at=400, end=None)
    answered(world, {"x-ratelimit-remaining-tokens": "1"}, at=500, model="unheard", end=None)
    world.begin().upstream = None
    assert figures(world) == {"remaining": of(tokens=40)}


def test_models_without_a_place_have_none(make_world: MakeWorld) -> None:
    """What is told as `other` is many; a call without a model has figures of its own."""
    world = make_world(model_limit=1)
    for number, model in enumerate(("m", "second", None), 1):
        answered(world, {"x-ratelimit-remaining-requests": str(number)}, at=100 + number, model=model)
    assert figures(world) == {"remaining": {("m", "requests", "default"): 1, ("requests", "default"): 3}}


def test_what_is_kept_is_bounded(make_world: MakeWorld) -> None:
    """However many models there are, and whether anybody takes a snapshot or not."""
    world = make_world(model_limit=MOST + 50)
    for number in range(MOST + 9):
        answered(world, {"x-ratelimit-remaining-requests": "1"}, model=f"m{number}")
    assert len(world.points(metrics.RATELIMIT_REMAINING)) == MOST
    answered(world, {"x-ratelimit-remaining-requests": "1"}, at=300, model="another")
    assert len(world.points(metrics.RATELIMIT_REMAINING)) == MOST
