"""What the benchmark makes of its figures: medians, ratios within a round, the bars, and the tables."""

import dataclasses
import json
from pathlib import Path

import pytest

from bench import histories, results, table
from bench.results import Profile, Results

MACHINE = dict.fromkeys(
    ("cpu", "cores", "memory", "system", "virtual", "python", "aiohttp", "uvloop", "nginx"), "some"
)


def found(**rounds: list[dict[str, float]]) -> Results:
    """Results with these rounds."""
    return Results(
        date="2026-01-02",
        machine=MACHINE,
        settings={
            "columns": ["unary", "streams", "latency", "memory"],
            "rounds": 3,
            "streams": 100,
            "stream_every_ms": 20,
        },
        collector="a collector",
        titles={name: f"the {name} row" for name in ("aiohttp", "full", "dead", "hanging", "litellm")},
        missing=["litellm"],
        remarks=[],
        rounds=rounds,
    )


def rounds_of(figure: str, *values: float) -> list[dict[str, float]]:
    """One figure over rounds."""
    return [{figure: value} for value in values]


def test_a_median_is_over_rounds_that_have_the_figure() -> None:
    """A round that was lost leaves no hole of zeros."""
    some = found(full=[{"requests_per_s": 900.0}, {}, {"requests_per_s": 1100.0}, {"requests_per_s": 5000.0}])
    assert some.median("full", "requests_per_s") == 1100.0
    assert some.median("full", "idle_mb") is None
    assert some.median("nginx", "requests_per_s") is None


def test_a_ratio_is_taken_within_its_round() -> None:
    """A machine that slows down for a round slows both, and their ratio stays."""
    some = found(
        aiohttp=rounds_of("requests_per_s", 1000.0, 100.0, 2000.0),
        full=rounds_of("requests_per_s", 1500.0, 150.0, 2000.0),
    )
    assert some.ratios("full", "requests_per_s") == [1.5, 1.5, 1.0]
    assert some.ratio("full", "requests_per_s") == 1.5


def test_a_ratio_needs_both_rows_in_the_round() -> None:
    """A round without the base, or without the row, gives none."""
    some = found(
        aiohttp=[{}, {"requests_per_s": 100.0}, {"requests_per_s": 100.0}],
        full=[{"requests_per_s": 50.0}, {"requests_per_s": 70.0}, {}],
    )
    assert some.ratios("full", "requests_per_s") == [0.7]
    assert found().ratio("full", "requests_per_s") is None


def verdict(some: Results, beginning: str) -> tuple[str, str]:
    """What one bar says of these results."""
    (bar,) = [bar for bar in results.bars(some) if bar.says.startswith(beginning)]
    return bar.found, bar.verdict


@pytest.mark.parametrize("over,said", [(0.0, "held"), (0.01, "not held")])
@pytest.mark.parametrize("ratio", results.RATIOS, ids=lambda ratio: ratio.says)
def test_the_bars_of_ratios(ratio: results.Ratio, over: float, said: str) -> None:
    """As much as is allowed is held, and no more."""
    most = ratio.most + over
    rounds = {ratio.base: rounds_of(ratio.figure, 100.0), ratio.row: rounds_of(ratio.figure, 100.0 * most)}
    assert verdict(found(**rounds), ratio.says) == (f"{most:.3g} times", said)


@pytest.mark.parametrize("p99,said", [(2300.0, "held"), (2310.0, "not held")])
def test_the_bar_of_p99(p99: float, said: str) -> None:
    """2 ms more than without a proxy, in the same round."""
    some = found(direct=rounds_of("p99_us", 300.0), full=rounds_of("p99_us", p99))
    assert verdict(some, "full telemetry: added at p99")[1] == said


@pytest.mark.parametrize("rate,said", [(950.0, "held"), (940.0, "not held")])
@pytest.mark.parametrize("row", ["dead", "hanging"])
def test_the_bar_of_a_collector_that_does_not_answer(row: str, rate: float, said: str) -> None:
    """It may cost one request in twenty, compared with a live one."""
    some = found(full=rounds_of("requests_per_s", 1000.0), **{row: rounds_of("requests_per_s", rate)})
    assert verdict(some, f"a {row} collector costs at most 5%")[1] == said


@pytest.mark.parametrize("p99,said", [(5400.0, "held"), (5700.0, "not held"), (3000.0, "held")])
def test_p99_is_compared_with_its_noise(p99: float, said: str) -> None:
    """Noise is how far the live rounds lie apart; what is not more than that is not seen."""
    some = found(full=rounds_of("p99_us", 4800.0, 5000.0, 5300.0), dead=rounds_of("p99_us", p99, p99, p99))
    told, is_said = verdict(some, "a dead collector adds nothing to p99")
    assert told == f"{(p99 - 5000) / 1000:+.2f} ms, noise 0.50 ms"
    assert is_said == said


@pytest.mark.parametrize("idle,said", [(65.0, "held"), (65.5, "not held")])
def test_the_bar_of_memory(idle: float, said: str) -> None:
    """65 MB when idle."""
    assert verdict(found(full=rounds_of("idle_mb", idle)), "full telemetry: resident when idle")[1] == said


def test_most_streams_are_told() -> None:
    """How many there were, and what they took; nothing where that was not measured."""
    some = found(full=[{"most_streams": 9750.0, "most_streams_mb": 301.6}, {}])
    assert table.most_streams(some) == [
        "Most streams at once through one sidecar: 9,750, with 302 MB resident."
    ]
    assert table.most_streams(found()) == []


def test_what_was_not_measured_is_no_failure_and_no_success() -> None:
    """Every bar says so where its rows are missing."""
    assert {bar.verdict for bar in results.bars(found())} == {"not measured"}


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    """Figures with six digits, profiles as profiles; the file is JSON that anybody can read."""
    some = found(full=[{"requests_per_s": 1234.56789, "idle_mb": 70.0}])
    some.profiles.append(Profile("request", 500.0, {"proxy": 300.0}, 10.0, {"f": 20.0}, 1000))
    path = tmp_path / "results.json"
    results.save(some, path)
    read = results.load(path)
    assert read.rounds == {"full": [{"requests_per_s": 1234.57, "idle_mb": 70.0}]}
    assert read.profiles == some.profiles
    assert json.loads(path.read_text())["date"] == "2026-01-02"


def test_the_table() -> None:
    """Medians with their ratio, differences to the row without a proxy in ms, and what is not installed."""
    base = {"requests_per_s": 1000.0, "cpu_us_per_request": 400.0, "cpu_us_per_event": 50.0, "idle_mb": 40.2}
    some = found(
        direct=rounds_of("p50_us", 300.0),
        aiohttp=[base | {"p50_us": 900.0}],
        full=[base | {"requests_per_s": 1500.0, "p50_us": 800.0, "streams_mb": 99.6}],
    )
    head, aiohttp, full, dead, _, litellm = table.figures(some)
    assert head[:4] == ["", "requests/s", "CPU per request, us", "CPU per stream event, us"]
    assert aiohttp == [
        "the aiohttp row",
        "1000 (1.00)",
        "400 (1.00)",
        "50.0 (1.00)",
        "0.60",
        "-",
        "40",
        "-",
        "-",
    ]
    assert full[1:5] == ["1500 (1.50)", "400 (1.00)", "50.0 (1.00)", "0.50"]
    assert full[-1] == "100"
    assert {*dead[1:]} == {"-"}
    assert litellm[1] == "not installed"


def test_only_measured_columns_are_shown() -> None:
    """A run of some columns has a table of these."""
    some = found()
    some.settings["columns"] = ["streams"]
    assert table.figures(some)[0] == ["", "CPU per stream event, us"]


def test_spreads_and_spans() -> None:
    """The range of each figure over rounds, and what became of the spans of the last one."""
    some = found(
        direct=rounds_of("p50_us", 250.0, 350.0),
        full=[
            {"requests_per_s": 900.0, "traces_created": 10},
            {
                "requests_per_s": 1100.0,
                "traces_created": 12,
                "traces_exported": 9,
                "traces_dropped": 1,
                "traces_not_sampled": 2,
            },
        ],
    )
    _, direct, full = table.spreads(some)
    assert direct == ["no proxy", "-", "-", "-", "-", "0.25 to 0.35", "-"]
    assert full[:2] == ["the full row", "900 to 1100"]
    assert table.ledger(some)[1:] == [["the full row", "12", "9", "0", "1", "0", "0", "2"]]


def test_doubts_are_told() -> None:
    """A core that was not the row's own, streams that did not keep up, a load that was late."""
    assert table.doubts(found(full=[{"cpu_share": 0.95, "events_per_s": 5000.0}])) == []
    shared, slow, late = table.doubts(
        found(
            direct=rounds_of("late_p99_us", 2500.0),
            full=[{"cpu_share": 0.5, "events_per_s": 4000.0}],
        )
    )
    assert shared.endswith("too low: the full row 0.50.")
    assert slow == "Of 5000 events/s these passed fewer: the full row 4000."
    assert "2.5 ms late" in late


def test_a_profile_as_a_table() -> None:
    """Rooms with their share; what is below half a percent is left out, all of it is in the sum."""
    made = Profile("stream event", 50.0, {"proxy": 30.0, "core": 19.9, "app": 0.1}, 2.0, {"a.py:f": 5.0}, 400)
    assert table.profile(made) == [
        ["room", "CPU per stream event, us", "share"],
        ["proxy", "30.0", "60%"],
        ["core", "19.9", "40%"],
        ["all", "50.0", "100%"],
        ["of it garbage collection", "2.0", "4%"],
    ]
    assert table.functions(made)[1:] == [["a.py:f", "5.0", "10.0%"]]


def test_forms() -> None:
    """The same rows for a document and for a screen."""
    rows = [["", "a"], ["long", "1"]]
    assert table.markdown(rows) == "|  | a |\n| --- | --- |\n| long | 1 |"
    assert table.terminal(rows) == "      a\nlong  1"


def test_a_block_is_replaced_and_nothing_else() -> None:
    """Text around the markers stays; a document without them, or with two pairs, is refused."""
    block = table.summary(found())
    document = f"before\n\n{table.BEGIN}\nold\n{table.END}\n\nafter\n"
    assert table.put(document, block) == f"before\n\n{block}\n\nafter\n"
    assert table.put(table.put(document, block), block) == table.put(document, block)
    for wrong in ("nothing", document + document):
        with pytest.raises(ValueError, match="blocks between markers"):
            table.put(wrong, block)


def test_remarks_stand_below_the_table() -> None:
    """What was not measured is said where the table is."""
    some = dataclasses.replace(found(), remarks=["LiteLLM proxy: not measured, litellm is not installed"])
    assert "- LiteLLM proxy: not measured, litellm is not installed" in table.details(some)
    assert "a collector" in table.details(some)


def test_noise_may_be_too_much() -> None:
    """Rounds further apart than the figure itself is decide nothing, either way."""
    some = found(
        full=rounds_of("p99_us", 1000.0, 2000.0, 9000.0), dead=rounds_of("p99_us", 2000.0, 2000.0, 2000.0)
    )
    told, said = verdict(some, "a dead collector adds nothing to p99")
    assert told == "+0.00 ms, noise 8.00 ms"
    assert said == "too noisy to tell"


def test_noise_needs_two_rounds() -> None:
    """One round has no spread, so nothing is called beyond noise."""
    some = found(full=rounds_of("p99_us", 5000.0), dead=rounds_of("p99_us", 9000.0))
    assert verdict(some, "a dead collector adds nothing to p99") == ("-", "not measured")
    assert results.noise_of(found(full=rounds_of("p99_us", 1.0, 4.0)), "full", "p99_us") == 3.0


def test_what_histories_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each size, and one for an event of a stream."""
    monkeypatch.setattr(histories, "_BYTES", 1)
    monkeypatch.setattr(histories, "_ROUNDS", 1)
    head, *lines = histories.measured()
    assert [line[0] for line in lines] == [
        *(f"a request of {name}" for name in histories.SIZES),
        "an event of a stream",
    ]
    assert {len(line) for line in (head, *lines)} == {5}
