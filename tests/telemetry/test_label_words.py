"""The words that others send, as they may be labels and attributes."""

import pytest

from sidecar.apis import KNOWN_ERRORS
from sidecar.core.exchange import Verdict
from sidecar.core.facts import Outcome
from sidecar.telemetry.series import error_type, provider_word


def test_prose_is_not_an_error_word() -> None:
    """Only one short word is."""
    assert provider_word("rate_limit.x") == "rate_limit.x"
    assert provider_word("Your prompt was: hello") is None
    assert provider_word("x" * 65) is None


@pytest.mark.parametrize("word", sorted(KNOWN_ERRORS))
def test_every_known_word_of_a_provider_is_told(word: str) -> None:
    """What the readers know, `error.type` tells; there is one list."""
    assert error_type(Verdict(Outcome.ERROR_IN_STREAM, 1, error_type=word)) == word
    assert provider_word(word) == word


def test_any_other_word_of_a_provider_is_other() -> None:
    """A word that is not in the list is never a label."""
    assert error_type(Verdict(Outcome.ERROR_IN_STREAM, 1, error_type="made_up")) == "_OTHER"
    assert error_type(Verdict(Outcome.ERROR_IN_STREAM, 1)) == "error_in_stream"
