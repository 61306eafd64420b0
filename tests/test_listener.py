"""How many file descriptors each part may use."""

import resource

import pytest

from sidecar.listener import descriptors


@pytest.mark.parametrize("limit", [64, 80, 1024, 16_000, 1 << 16, 1 << 20, resource.RLIM_INFINITY])
def test_the_data_port_leaves_some_for_upstreams_and_these_for_others(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the limit, clients can't take those with which upstreams are asked, nor these the last ones."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    clients, upstreams, others = descriptors(8), descriptors(16), descriptors(0)
    assert 0 < clients < upstreams < others
    assert upstreams - clients >= min(limit % (1 << 31) or 1 << 14, 1 << 14) // 16 - 1
