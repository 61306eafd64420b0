"""The replayed queue when its line is long: folding keeps it exact and small."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.conversation import WaitLine
from sidecar.core.identity import Identity, Source
from sidecar.core.sessions import Revealed, Turn


def join(line: WaitLine, number: int, at: int, *, wanted: bool = True) -> Turn:
    """A turn arrives in the line, as its conversation lets it; the first waits until the line is free."""
    turn = Turn(
        f"r{number}",
        Identity("s", Source.BODY),
        number,
        at,
        number.to_bytes(24, "big", signed=True),
        sampled=True,
        streaming=False,
        turn=True,
        generated=not wanted,
    )
    if line.turns:
        line.join(turn, told=wanted)
    else:
        line.turns.append(turn)
        turn.wait = max(0, line.free_at - at)
    return turn


def numbers(revealed: Sequence[Revealed]) -> list[int]:
    """Whose waits became known."""
    return [int.from_bytes(ref, "big", signed=True) for _, ref, *_ in revealed]


def test_a_long_line_behind_one_slow_turn_stays_small_and_exact() -> None:
    """Ten thousand turns end behind the first: the line keeps its cap, and the next wait is still exact."""
    dice = random.Random(3)
    line = WaitLine(cap=10)
    slow = join(line, 0, 0)
    known: list[Revealed] = []
    now, busy = 0, 0
    flying: list[Turn] = []
    for number in range(1, 10_001):
        now += dice.randrange(3)
        flying.append(join(line, number, now))
        while len(flying) > dice.randrange(8):
            place = flying.pop(dice.randrange(len(flying)))
            known += line.leave(place, now + 5)
            busy += now + 5 - place.arrived_at
    for place in flying:
        known += line.leave(place, now + 5)
        busy += now + 5 - place.arrived_at
    assert (known, line.unknown) == ([], 10)
    assert len(line.turns) < 200
    assert numbers(line.leave(slow, now + 10)) == list(range(1, 11))
    assert line.unknown == 0
    # Nothing was idle meanwhile, so the queue would have been busy with every duration, one after the other.
    last = join(line, -1, now + 10)
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
    found: dict[int, int] = {}
    places: dict[int, Turn] = {}
    for at, what, number in sorted(events):
        if what == 1:
            line._fold_at = 0
            places[number] = turn = join(line, number, at, wanted=turns[number][2])
            if turn.wait is not None and turns[number][2]:
                found[number] = turn.wait
        else:
            revealed = line.leave(places[number], at)
            found |= zip(numbers(revealed), [wait for wait, *_ in revealed], strict=True)
    assert found == expected
    assert line.unknown == 0
    assert line.turns == []


def test_a_turn_that_wants_no_record_still_takes_its_time() -> None:
    """It is not counted as unknown, and those behind it wait for it."""
    line = WaitLine(cap=5)
    one, unwanted, three = join(line, 1, 0), join(line, 2, 1, wanted=False), join(line, 3, 2)
    assert line.unknown == 1
    assert line.leave(unwanted, 101) == ()
    assert line.leave(one, 10) == ((108, three.ref, True, None),)
    assert three.wait == 108
