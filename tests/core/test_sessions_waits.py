"""The replayed queue when its line is long: folding keeps it exact and small."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.sessions import RequestRef
from sidecar.core.waits import Place, WaitLine


def ref(number: int) -> RequestRef:
    """A turn to record a wait for."""
    return RequestRef(f"r{number}", number, 0, 0)


def test_a_long_line_behind_one_slow_turn_stays_small_and_exact() -> None:
    """Ten thousand turns end behind the first: the line keeps its cap, and the next wait is still exact."""
    dice = random.Random(3)
    line = WaitLine(cap=10)
    slow = line.join(ref(0), 0)
    known: list[Place] = []
    now, busy = 0, 0
    flying: list[Place] = []
    for number in range(1, 10_001):
        now += dice.randrange(3)
        flying.append(line.join(ref(number), now))
        while len(flying) > dice.randrange(8):
            place = flying.pop(dice.randrange(len(flying)))
            known += line.leave(place, now + 5)
            busy += now + 5 - place.arrived
    for place in flying:
        known += line.leave(place, now + 5)
        busy += now + 5 - place.arrived
    assert (known, line.unknown) == ([], 10)
    assert len(line._places) < 200
    known = line.leave(slow, now + 10)
    assert [place.ref.sequence for place in known if place.ref] == list(range(1, 11))
    assert line.unknown == 0
    # Nothing was idle meanwhile, so the queue would have been busy with every duration, one after the other.
    last = line.join(ref(-1), now + 10)
    assert last.wait == busy


TURNS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60), st.booleans()), max_size=30)


@settings(max_examples=300, deadline=None)
@given(TURNS)
def test_folding_changes_no_wait(turns: list[tuple[int, int, bool]]) -> None:
    """However often the line is folded, the waits that are wanted equal the plain replay of every turn."""
    line, now = WaitLine(cap=100), 0
    events: list[tuple[int, int, int]] = []
    expected: dict[int, int] = {}
    free_at = 0
    for number, (pause, duration, wanted) in enumerate(turns):
        now += pause
        events += [(now, 1, number), (now + duration, 2, number)]
        begin = max(now, free_at)
        free_at = begin + duration
        if wanted:
            expected[number] = begin - now
    places: dict[int, Place] = {}
    for at, what, number in sorted(events):
        if what == 1:
            line._fold_at = 0
            places[number] = line.join(ref(number) if turns[number][2] else None, at)
        else:
            line.leave(places[number], at)
    found = {number: place.wait for number, place in places.items() if place.wait is not None}
    assert found == expected
    assert line.unknown == 0
    assert line._places == []


def test_a_turn_that_wants_no_record_still_takes_its_time() -> None:
    """It is not counted as unknown, and those behind it wait for it."""
    line = WaitLine(cap=5)
    one, unwanted, three = line.join(ref(1), 0), line.join(None, 1), line.join(ref(3), 2)
    assert line.unknown == 1
    assert line.leave(unwanted, 101) == []
    assert line.leave(one, 10) == [three]
    assert three.wait == 108
