"""What OpenAI's APIs share: how a text is sampled, usage and response formats.

Owns pieces, never a whole message: what a request, chunk or body means stands in the module of its API.
"""

from operator import attrgetter

import msgspec

from sidecar.apis.base import B, E, ModelRequest, Reader, present, reconciled, several
from sidecar.apis.shapes import Count, Int64, Word
from sidecar.core.facts import ResponseFacts

_OUTPUT_TYPES = {"text": "text", "json_object": "json", "json_schema": "json"}


class SamplingRequest(ModelRequest, kw_only=True):
    """A request for text, with the parameters of its sampling."""

    max_tokens: Int64 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: Int64 | None = None
    n: Int64 | None = None
    stop: str | list[str] | None = None

    def sampling(self) -> dict[str, object]:
        """Those parameters by the attribute names of the conventions; None for what is not there."""
        return {
            "gen_ai.request.max_tokens": self.max_tokens,
            "gen_ai.request.temperature": self.temperature,
            "gen_ai.request.top_p": self.top_p,
            "gen_ai.request.top_k": self.top_k,
            "gen_ai.request.frequency_penalty": self.frequency_penalty,
            "gen_ai.request.presence_penalty": self.presence_penalty,
            "gen_ai.request.seed": self.seed,
            "gen_ai.request.choice.count": several(self.n),
            "gen_ai.request.stop_sequences": [self.stop] if isinstance(self.stop, str) else self.stop or None,
        }


class InputDetails(msgspec.Struct):
    """What the input tokens consist of."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    cache_creation_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None


class OutputDetails(msgspec.Struct):
    """What the output tokens consist of."""

    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct):
    """Token usage in all the forms in which OpenAI and compatible servers report it.

    `tests/apis/test_usage.py` has an example of each, with its source.
    """

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: InputDetails | None = None
    prompt_token_details: InputDetails | None = None
    input_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    cached_tokens: Count | None = None
    """Moonshot's place for cached tokens."""
    prompt_cache_hit_tokens: Count | None = None
    """DeepSeek's."""
    num_cached_tokens: Count | None = None
    """Mistral's."""
    cache_read_input_tokens: Count | None = None
    """LiteLLM's, beside the usual place."""
    cache_creation_input_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    """SGLang's place for reasoning."""
    citation_tokens: Count | None = None
    num_search_queries: Count | None = None
    """Perplexity's; where one of them is told, `reasoning_tokens` is not part of the completion."""

    def tokens(self) -> dict[str, int]:
        """The counts that are told, by the words of the facts."""
        given, made = self.prompt_tokens_details, self.completion_tokens_details
        if _elsewhere(self) != _NOWHERE or (given is not None and _written(given) != _NO_WRITTEN):
            return reconciled(self._found(), self.total_tokens)
        told: dict[str, int] = {}  # as OpenAI itself tells them
        if self.prompt_tokens is not None:
            told["input"] = self.prompt_tokens
        if self.completion_tokens is not None:
            told["output"] = self.completion_tokens
        if given is None and made is None:
            return told
        if given is not None and given.cached_tokens is not None:
            told["cache_read"] = given.cached_tokens
        if made is not None and made.reasoning_tokens is not None:
            told["reasoning"] = made.reasoning_tokens
        return reconciled(told, self.total_tokens)

    def _found(self) -> dict[str, int]:
        """The same from wherever they are told, before they are reconciled."""
        given = (
            self.prompt_tokens_details
            or self.input_tokens_details
            or self.prompt_token_details
            or _NO_INPUT_DETAILS
        )
        searched = self.citation_tokens is not None or self.num_search_queries is not None
        made = self.completion_tokens_details or self.output_tokens_details or _NO_OUTPUT_DETAILS
        places = {
            "input": (self.prompt_tokens, self.input_tokens),
            "output": (self.completion_tokens, self.output_tokens),
            "cache_read": (
                given.cached_tokens,
                self.cached_tokens,
                self.prompt_cache_hit_tokens,
                self.num_cached_tokens,
                self.cache_read_input_tokens,
            ),
            "cache_write": (
                given.cache_write_tokens,
                given.cache_creation_input_tokens,
                given.cache_creation_tokens,
                self.cache_creation_input_tokens,
            ),
            "reasoning": (made.reasoning_tokens, None if searched else self.reasoning_tokens),
        }
        counts: dict[str, int | None] = {}
        for name, told in places.items():
            # The first that says something: where one number stands in several places, some may be zero.
            counts[name] = next(filter(None, told), 0 if 0 in told else None)
        return present(counts)


_USUAL = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
)
_OTHERS = tuple(name for name in Usage.__struct_fields__ if name not in _USUAL)
_elsewhere, _NOWHERE = attrgetter(*_OTHERS), (None,) * len(_OTHERS)
_WRITTEN = tuple(name for name in InputDetails.__struct_fields__ if name != "cached_tokens")
_written, _NO_WRITTEN = attrgetter(*_WRITTEN), (None,) * len(_WRITTEN)
_NO_INPUT_DETAILS, _NO_OUTPUT_DETAILS = InputDetails(), OutputDetails()


class Timings(msgspec.Struct):
    """What llama.cpp tells of a stream that was not asked for its usage."""

    prompt_n: Count | None = None
    cache_n: Count | None = None
    predicted_n: Count | None = None

    def tokens(self) -> dict[str, int]:
        """The counts by the words of the facts; older servers do not tell what came from the cache."""
        if self.prompt_n is None or self.cache_n is None:
            return present({"output": self.predicted_n})
        counts = {
            "input": self.prompt_n + self.cache_n,
            "cache_read": self.cache_n,
            "output": self.predicted_n,
        }
        return present(counts)


_OF_THE_PROMPT = ("input", "cache_read")


class ChoicesReader(Reader[E, B]):
    """Reads an answer of choices. llama.cpp (with its timings) and Moonshot tell the usage of each of them alone."""

    _one_prompt = True
    """All choices have the same prompt."""
    _reports = 0
    """Choices that have told their own usage."""
    _made = 0
    """Output tokens of them all."""
    _apart = False
    """Their prompts are not one, or nobody knows."""

    def _so_far(self, counts: dict[str, int]) -> dict[str, int]:
        """The usage of all choices, where `counts` is the own of the one that has ended last.

        What choices made is added up. The prompt of all is one; where that is not certain, nothing is told of it.
        """
        if self._reports == len(self._choices):
            if self._apart:
                return {name: counts[name] for name in counts if name not in _OF_THE_PROMPT}
            return counts  # of a choice that goes on, or one that has told it
        self._reports += 1
        self._made += counts.get("output", 0)
        if self._reports == 1:
            return counts
        tokens = self.facts.tokens
        if not self._one_prompt or counts.get("input") != tokens.get("input"):
            self._apart = True
            for name in _OF_THE_PROMPT:
                tokens.pop(name, None)
        return {"output": self._made}


class Reasoning(msgspec.Struct):
    """How hard the model is to think."""

    effort: Word | None = None


def effort(asked: Reasoning | None) -> str | None:
    """`gen_ai.request.reasoning.level` of it."""
    return (asked.effort or None) if asked else None


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


def name_service(facts: ResponseFacts, service_tier: str | None, fingerprint: str | None = None) -> None:
    """Notes what served the answer. The last word holds: a response that begins may say `auto`."""
    facts.service_tier = service_tier or facts.service_tier
    facts.system_fingerprint = fingerprint or facts.system_fingerprint
