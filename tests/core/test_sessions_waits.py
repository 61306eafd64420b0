"""The replayed queue when its line is long: folding keeps it exact and small."""

import random

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


def test_folding_keeps_idle_time() -> None:
    """A folded run remembers when its turns came: the queue could not have served them before."""
    line = WaitLine(cap=0)
    line._fold_at = 3
    first = line.join(ref(1), 0)
    two, three = line.join(ref(2), 1000), line.join(ref(3), 5000)
    assert (two.ref, three.ref) == (None, None)
    assert line.leave(two, 1100) == []
    assert line.leave(three, 5300) == []
    four = line.join(ref(4), 5400)
    assert len(line._places) == 3
    assert line.leave(first, 10) == []
    assert line.leave(four, 5500) == []
    assert line.join(ref(5), 5450).wait == 50


def test_a_turn_that_wants_no_record_still_takes_its_time() -> None:
    """It is not counted as unknown, and those behind it wait for it."""
    line = WaitLine(cap=5)
    one, unwanted, three = line.join(ref(1), 0), line.join(None, 1), line.join(ref(3), 2)
    assert line.unknown == 1
    assert line.leave(unwanted, 101) == []
    assert line.leave(one, 10) == [three]
    assert three.wait == 108
