"""What OpenAI's APIs share: usage, response formats, errors and the terminator.

Owns pieces, never a whole message: what a request, chunk or body means stands in the module of its API.
"""

import msgspec

from sidecar.apis.decode import Count, Word
from sidecar.apis.errors import error_word, is_error
from sidecar.core.facts import EventKind, ResponseFacts

DONE = b"[DONE]"

_OUTPUT_TYPES = {"text": "text", "json_object": "json", "json_schema": "json"}


class InputDetails(msgspec.Struct):
    """What the input tokens consist of."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class OutputDetails(msgspec.Struct):
    """What the output tokens consist of."""

    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct):
    """Token usage as chat completions, completions and embeddings report it."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: Count | None = None
    """DeepSeek's word for cached tokens."""

    def tokens(self) -> dict[str, int | None]:
        """The counts by the words of the facts."""
        given = self.prompt_tokens_details or InputDetails()
        made = self.completion_tokens_details or OutputDetails()
        cached = given.cached_tokens
        return {
            "input": self.prompt_tokens,
            "output": self.completion_tokens,
            "cache_read": self.prompt_cache_hit_tokens if cached is None else cached,
            "cache_write": given.cache_write_tokens,
            "reasoning": made.reasoning_tokens,
        }


class Format(msgspec.Struct):
    """The asked form of the output."""

    type: Word | None = None


def output_type(asked: Format | None) -> str | None:
    """`gen_ai.output.type` of an asked form."""
    return _OUTPUT_TYPES.get(asked.type or "") if asked else None


def name_answer(facts: ResponseFacts, answer_id: str | None, model: str | None) -> None:
    """Notes the answer's id and model, the first that are told."""
    facts.id = facts.id or answer_id or None
    facts.model = facts.model or model or None


def ended(facts: ResponseFacts) -> EventKind:
    """The terminator has come."""
    facts.ended = True
    return EventKind.END


def failed(facts: ResponseFacts, error: msgspec.Raw, whole: bytes = b"") -> EventKind:
    """An error has come: in its own member, else the whole object is the error."""
    facts.error = error_word(error if is_error(error) else whole)
    return EventKind.ERROR
