"""How many kinds of requests are remembered, and of which nothing is."""

import pytest

from sidecar.core.facts import Outcome
from sidecar.telemetry.request_attributes import Shapes
from tests.telemetry.world import World, ms


@pytest.mark.parametrize("name", [b"Host", b"User-Agent"])
def test_a_kind_of_request_that_takes_much_to_be_told_is_not_remembered(world: World, name: bytes) -> None:
    """Its fields may be as long as a head: 4,096 of them were some 250 MB."""
    shapes = Shapes("shipped")

    def remembered(size: int) -> bool:
        exchange = world.begin([(name, b"x" * size)])
        exchange.decide(Outcome.COMPLETED, ms(5))
        world.settle(exchange, 5)
        return shapes.of(exchange) is shapes.of(exchange)

    assert remembered(250)
    assert not remembered(60_000)


def test_one_kind_of_request_goes_for_each_that_is_new(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest: all at once were 50 ms in which nothing else went on, for each 4,096 agents that somebody makes up."""
    monkeypatch.setattr("sidecar.telemetry.request_attributes.SHAPES_LIMIT", 3)
    shapes, exchanges = Shapes("shipped"), []
    for number in range(5):
        exchange = world.begin([(b"User-Agent", b"agent %d" % number)])
        exchange.decide(Outcome.COMPLETED, ms(5))
        world.settle(exchange, 5)
        exchanges.append(exchange)
    found = [shapes.of(exchange) for exchange in exchanges]
    again = [shapes.of(exchange) for exchange in reversed(exchanges[2:])]
    assert found[:1:-1] == again
    assert len(shapes._known) == 3
    assert shapes.of(exchanges[0]) is not found[0]
