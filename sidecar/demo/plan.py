"""What is to happen to one simulated answer: how long, how fast, and what goes wrong.

Pure: reads a plan from a request's header, its model's name, or draws one from a seeded source of chance.
The demo's conversations write plans; the provider keeps to them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from random import Random

PLAN_HEADER = "x-demo-plan"
"""The request header with a plan: `words=20, pace=0.05, fail=429`."""

FAILURES = ("429", "500", "error", "cut")
"""What can go wrong: a status before the answer, an error event in a stream, a connection that breaks off."""

FAILURE_SHARE = 0.08
"""How often an answer that nobody planned goes wrong."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`words` of output, `first` seconds before the first, `pace` seconds between two; what `fail`s, if any.

    `after` is the word at which an error or a break comes; `retry_after` the whole seconds that a 429 tells.
    """

    words: int = 24
    first: float = 0.25
    pace: float = 0.05
    fail: str | None = None
    after: int = 8
    retry_after: int = 1
    finish: str = "stop"

    @property
    def seconds(self) -> float:
        """How long the whole answer takes."""
        return self.first + self.pace * max(0, self.words - 1)

    def header(self) -> dict[str, str]:
        """The plan as the request header that asks for it; only what differs from the usual."""
        usual = Plan()
        told = [
            f"{field.name}={value:g}" if isinstance(value, float) else f"{field.name}={value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != getattr(usual, field.name)
        ]
        return {PLAN_HEADER: ", ".join(told) or f"words={self.words}"}


_READERS: Mapping[str, Callable[[str], object]] = {
    "words": lambda text: _between(int(text), 0, 10_000),
    "first": lambda text: _between(float(text), 0, 60),
    "pace": lambda text: _between(float(text), 0, 60),
    "after": lambda text: _between(int(text), 0, 10_000),
    "retry_after": lambda text: _between(int(text), 0, 60),
    "finish": str,
    "fail": str,
}


def parse(text: str) -> Plan:
    """The plan that a header tells. What it does not tell, or tells wrongly, stays as usual."""
    plan = Plan()
    for member in text.split(","):
        name, _, value = (part.strip() for part in member.partition("="))
        reader = _READERS.get(name)
        if reader is None or (name == "fail" and value not in FAILURES):
            continue
        try:
            plan = replace(plan, **{name: reader(value)})  # type: ignore[arg-type] # one reader per field
        except ValueError:
            continue
    return plan


def of_model(model: str) -> Plan | None:
    """The plan that a model's name asks for: `demo-429`, `demo-500`, `demo-error`, `demo-cut`."""
    failure = model.removeprefix("demo-")
    return Plan(fail=failure) if model.startswith("demo-") and failure in FAILURES else None


def drawn(chance: Random) -> Plan:
    """A plan that nobody asked for: its length and speed vary, and now and then it goes wrong."""
    fail = chance.choice(FAILURES) if chance.random() < FAILURE_SHARE else None
    words = chance.randint(12, 48)
    return Plan(
        words=words,
        first=round(chance.uniform(0.1, 0.5), 3),
        pace=round(chance.uniform(0.02, 0.06), 3),
        fail=fail,
        after=chance.randrange(words),
    )


def _between(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(value)
    return value
