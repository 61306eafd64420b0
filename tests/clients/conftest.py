"""What the client tests share with the black-box tests: what one request changed in all metrics."""

from tests.blackbox.conftest import measure

__all__ = ["measure"]
