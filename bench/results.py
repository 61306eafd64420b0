"""What a run found: every raw figure, medians over rounds, ratios per round, and whether the bars are held.

Owns the form of bench/results.json and all arithmetic on it. Pure: it measures nothing and prints nothing.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BASE = "aiohttp"
"""The row that ratios are taken to."""
DIRECT = "direct"
"""The row without a proxy."""

MEASURED = "full"
"""The row that most bars are about."""

FILE = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Profile:
    """Microseconds of CPU by room, for one request or one event."""

    unit: str
    total: float
    rooms: dict[str, float]
    garbage: float
    functions: dict[str, float]
    looks: int
    """How often the sampler looked."""


@dataclass(slots=True)
class Results:
    """One run. `rounds` has, per row, the figures of each round."""

    date: str
    machine: dict[str, str]
    settings: dict[str, Any]
    collector: str
    titles: dict[str, str]
    """What every row is called, in the order of the table."""
    missing: list[str]
    """The rows that are not installed."""
    remarks: list[str]
    """What was not measured, or failed, and why."""
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    profiles: list[Profile] = field(default_factory=list)

    def values(self, row: str, figure: str) -> list[float]:
        """A figure of a row in all rounds that have it."""
        return [one[figure] for one in self.rounds.get(row, []) if figure in one]

    def median(self, row: str, figure: str) -> float | None:
        """Over the rounds; None where it was not measured."""
        values = self.values(row, figure)
        return statistics.median(values) if values else None

    def ratios(self, row: str, figure: str, base: str = BASE) -> list[float]:
        """A figure over that of the base row in the same round."""
        pairs = zip(self.rounds.get(row, []), self.rounds.get(base, []), strict=False)
        return [one[figure] / other[figure] for one, other in pairs if figure in one and other.get(figure)]

    def ratio(self, row: str, figure: str, base: str = BASE) -> float | None:
        """The median of the rounds' ratios."""
        ratios = self.ratios(row, figure, base)
        return statistics.median(ratios) if ratios else None

    def differences(self, row: str, figure: str, base: str) -> list[float]:
        """A figure minus that of another row in the same round."""
        pairs = zip(self.rounds.get(row, []), self.rounds.get(base, []), strict=False)
        return [one[figure] - other[figure] for one, other in pairs if figure in one and figure in other]

    def difference(self, row: str, figure: str, base: str) -> float | None:
        """The median of the rounds' differences."""
        differences = self.differences(row, figure, base)
        return statistics.median(differences) if differences else None


@dataclass(frozen=True, slots=True)
class Bar:
    """What the benchmark must show, and what it showed; `held` is None where that does not decide."""

    says: str
    found: str
    held: bool | None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.held is None:
            return "not measured" if self.found == NOTHING else "too noisy to tell"
        return "held" if self.held else "not held"


NOTHING = "-"
"""What stands for a figure that there is none of."""

MOST_LOST = 0.05
"""The share of requests/s that a dead or hanging collector may cost."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of a row, and how many times that of another row it may be."""

    says: str
    row: str
    figure: str
    base: str
    most: float


RATIOS = (
    Ratio("full telemetry: CPU per request, to nginx's", "full", "cpu_us_per_request", "nginx", 6.5),
    Ratio(
        "full telemetry: CPU per request, to the aiohttp pass-through's",
        "full",
        "cpu_us_per_request",
        "aiohttp",
        0.75,
    ),
    Ratio(
        "telemetry off: CPU per request, to that with full telemetry",
        "off",
        "cpu_us_per_request",
        "full",
        0.8,
    ),
    Ratio("full telemetry: CPU per stream event, to nginx's", "full", "cpu_us_per_event", "nginx", 1.5),
    Ratio("logs by OTLP too: CPU per request, to that without", "logs", "cpu_us_per_request", "full", 1.25),
    Ratio(
        "100,000 live sessions: CPU per request, to that with few",
        "crowded",
        "cpu_us_per_request",
        "full",
        1.1,
    ),
)
"""The bars that are a ratio within a round."""

MOST_P99_MS = 2.0
MOST_IDLE_MB = 65.0


def bars(results: Results) -> list[Bar]:
    """All of them, in the order in which they are told."""
    added = results.difference(MEASURED, "p99_us", DIRECT)
    idle = results.median(MEASURED, "idle_mb")
    return [
        *(_ratio(results, ratio) for ratio in RATIOS),
        _most("full telemetry: added at p99", None if added is None else added / 1000, MOST_P99_MS, "ms"),
        *(
            bar
            for row, word in (("dead", "dead"), ("hanging", "hanging"))
            for bar in _collector(results, row, word)
        ),
        _most("full telemetry: resident when idle", idle, MOST_IDLE_MB, "MB"),
    ]


def _ratio(results: Results, ratio: Ratio) -> Bar:
    found = results.ratio(ratio.row, ratio.figure, ratio.base)
    return _most(ratio.says, found, ratio.most, "times")


def _most(says: str, found: float | None, most: float, unit: str) -> Bar:
    """A bar that is held by what is not more than `most`."""
    told = _told(found, f"{{:.3g}} {unit}")
    return Bar(f"{says}: at most {most:g} {unit}", told, None if found is None else found <= most)


def _collector(results: Results, row: str, word: str) -> list[Bar]:
    rate = results.ratio(row, "requests_per_s", "full")
    added = results.difference(row, "p99_us", "full")
    noise = noise_of(results, "full", "p99_us")
    told = None if added is None or noise is None else f"{added / 1000:+.2f} ms, noise {noise / 1000:.2f} ms"
    return [
        Bar(
            f"a {word} collector costs at most {MOST_LOST:.0%} of the requests/s with a live one",
            _told(rate, "{:.2f} times"),
            None if rate is None else rate >= 1 - MOST_LOST,
        ),
        Bar(
            f"a {word} collector adds nothing to p99 beyond noise",
            told or NOTHING,
            _no_more(added, noise, results.median("full", "p99_us")),
        ),
    ]


def _no_more(added: float | None, noise: float | None, whole: float | None) -> bool | None:
    """Whether nothing was added beyond noise; None where the noise is more than the whole figure, or there is none."""
    if added is None or noise is None or whole is None or noise > whole:
        return None
    return added <= noise


def noise_of(results: Results, row: str, figure: str) -> float | None:
    """How far rounds of the same row lie apart: the distance of the largest from the smallest."""
    values = results.values(row, figure)
    return max(values) - min(values) if len(values) > 1 else None


def _told(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def load(path: Path = FILE) -> Results:
    """Reads a file of results."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Results(**found | {"profiles": [Profile(**one) for one in found["profiles"]]})


def save(results: Results, path: Path = FILE) -> None:
    """Writes one; figures with as many digits as mean anything."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, dict):
            return {name: short(one) for name, one in value.items()}
        return [short(one) for one in value] if isinstance(value, list | tuple) else value

    path.write_text(json.dumps(short(asdict(results)), indent=1) + "\n", encoding="utf-8")
