"""A scrape over a real socket: any `Accept` is answered, and the event loop goes on meanwhile."""

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from opentelemetry.sdk.resources import Resource

from sidecar.admin import create_admin_app, serve
from sidecar.admin.prometheus import prometheus_text
from sidecar.admin.view import Rendering
from sidecar.telemetry.measures import observe_process
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.metrics import metrics_of
from tests.admin.test_admin import ANY, Answer, Scripted, raw
from tests.live.boards import empty_board

ACCEPTS = (
    *("\xff", "text/plain;version=\xff", "application/openmetrics-text;version=\xff", "text/plain;version=x"),
    *(
        "application/openmetrics-text;version=",
        "application/openmetrics-text;version=x",
        "text/plain;version=1.x",
    ),
    *(
        "application/openmetrics-text;version=9",
        "application/openmetrics-text;version=-1",
        ";;;,,,",
        "*/*",
        "a" * 4000,
    ),
    *("application/openmetrics-text; version=1.0.0; escaping=x", "text/plain;version=1.0.0;escaping=\x01"),
    *('application/openmetrics-text;version="1.0.0"', "application/openmetrics-text;version=1.0.0\tx"),
    *(
        "application/openmetrics-text;version=99999999999999999999.0",
        "application/openmetrics-text;version=1.0.0e9",
    ),
)


class Scraped(Scripted):
    """With a scrape of its own."""

    def __init__(self, scrape: Callable[[str], Rendering]) -> None:
        super().__init__()
        self._scrape = scrape

    def metrics(self, accept: str) -> Rendering:
        """As it was given."""
        return self._scrape(accept)


async def scrape(make: Callable[[str], Rendering], *fields: str) -> Answer:
    """What `/metrics` answers."""
    app = create_admin_app(Scraped(make), empty_board(), listen=ANY, token=None, prometheus=True)
    port = await serve(app, ANY, setting="X")
    try:
        return await raw(port, "GET /metrics HTTP/1.1", "Host: localhost", *fields)
    finally:
        await port.close()


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_no_accept_is_too_odd(accept: str) -> None:
    """A scrape gets a form it can read, or the plain one; never a mistake of ours."""
    store = MetricStore(metrics_of("shipped"), clock=lambda: 0)
    observe_process(store)
    answer = await scrape(partial(prometheus_text, store, Resource({})), f"Accept: {accept}")
    assert answer.status in {200, 400, 406}
    if answer.status == 200:
        assert "process_cpu" in answer.text
        assert answer.fields["content-type"].isprintable()


async def test_taking_the_numbers_holds_up_nothing() -> None:
    """Between two steps on the event loop that take long, others have their turn."""
    loop, turns, made = asyncio.get_running_loop(), 0, []

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    def steps() -> Iterator[None]:
        for _ in range(20):
            until = time.thread_time() + 0.005
            while time.thread_time() < until:
                pass
            made.append(turns)
            yield

    turn()
    answer = await scrape(lambda _: Rendering(steps(), lambda: (b"# EOF\n", "text/plain")))
    assert answer.text == "# EOF\n"
    assert len(set(made)) == len(made) == 20
