"""Every API, streamed or not, with every ending, in every coding: bytes on both sides, whole spans, metric points."""

import pytest

from sidecar.testing import ScriptedUpstream
from tests.matrix.cells import ANY_PROXY, CELLS, Cell
from tests.matrix.conftest import Sidecars, named_target
from tests.matrix.expected import Expected
from tests.matrix.play import play

if named_target() is None:

    @pytest.mark.parametrize("cell", CELLS, ids=[cell.id for cell in CELLS])
    def test_the_sidecar(cell: Cell, upstream: ScriptedUpstream, sidecars: Sidecars, blackhole: int) -> None:
        """What passes is untouched, and what is exported of it is exactly what is expected, no more."""
        watched = sidecars.watched(cell)
        name, port = "default", upstream.port
        if cell.ending.timer == "CONNECT":
            name, port = "blackhole", blackhole
        expected = Expected(cell, cell.id, name)
        prefix = "" if name == "default" else f"/{name}"
        message = play(cell, watched.port, upstream, cell.id, path_prefix=prefix, own_timers=True)
        assert (None if message is None else message.status) == expected.status
        sink = watched.sink
        trace_id = sink.span(kind="SERVER", attributes={"session.id": cell.id}).trace_id
        expected.check_spans(sink.find_spans(trace_id=trace_id), upstream, port)
        assert watched.added() == expected.figures(port)

else:

    @pytest.mark.parametrize("cell", ANY_PROXY, ids=[cell.id for cell in ANY_PROXY])
    def test_another_proxy(cell: Cell, named_upstream: ScriptedUpstream) -> None:
        """The bytes on both sides of the proxy that `MATRIX_TARGET` names."""
        play(cell, named_target() or 0, named_upstream, cell.id, own_timers=False)
