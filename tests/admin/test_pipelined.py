"""What one peer of the admin port sends at once is answered a little at a time."""

import asyncio

from sidecar.admin import create_health_app, serve
from sidecar.settings import Address
from tests.admin.test_admin import Scripted


class Asked(Scripted):
    """Counts how often it is asked."""

    asked = 0

    def ready(self) -> bool:
        """Once more."""
        self.asked += 1
        return True


async def test_pipelined_requests_let_others_have_their_turn() -> None:
    """One of them in each turn of the event loop, however many have come at once."""
    view, count = Asked(), 300
    port = await serve(create_health_app(view), Address("127.0.0.1", 0), setting="SIDECAR_HEALTH_LISTEN")
    _, writer = await asyncio.open_connection(port.address.host, port.address.port)
    writer.write(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\n\r\n" * count)
    most = before = 0
    async with asyncio.timeout(30):
        while view.asked < count:
            await asyncio.sleep(0)  # one turn
            most, before = max(most, view.asked - before), view.asked
    assert most == 1
    writer.close()
    await port.close()
