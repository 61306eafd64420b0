"""The live page where something is not as it should be: clocks, clipboards, tokens, a sidecar that is gone, too much at once."""

import os
import signal
from typing import Any

import msgspec
import pytest

from sidecar.testing import RunningSidecar
from tests.conftest import StartSidecar
from tests.ui.pages import OpenPage, count, one, wait_for

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND
"""Microseconds since the epoch, as all that is told."""


def told(event: str, **fields: Any) -> bytes:
    """One event of the stream."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode({"now": NOW, **fields}))


def hello(limit: int = 1000, live: bool = True) -> bytes:
    """The stream's first event."""
    return told("hello", limit=limit, age_s=3600, live=live, links={}, data="http://127.0.0.1:1", figures={})


def bar(number: int, start: int, end: int | None, **fields: Any) -> dict[str, Any]:
    """A request of a session of its own; `start` and `end` are seconds before now."""
    unknown = dict.fromkeys(
        ("request", "model", "upstream", "operation", "first", "wait", "overhead", "tokens")
    )
    counted = {"sequence": 1, "concurrency": 1, "distance": 0, "races": 0, "stalls": []}
    who = {"id": f"{number:016x}", "session": f"told-{number}", "conversation": "main", "named": True}
    times = {"start": NOW - start * SECOND, "end": None if end is None else NOW - end * SECOND}
    outcome = None if end is None else "completed"
    return {**unknown, **counted, **who, **times, "turn": True, "outcome": outcome, **fields}


def bars(*some: dict[str, Any], missed: int = 0) -> bytes:
    """What was told of some requests."""
    return told("bars", bars=some, missed=missed)


STREAMS = """
  const real = fetch, streams = [];
  globalThis.fetch = (path, options) => path === "/live/events" ? Promise.resolve(new Response(new ReadableStream({ start(stream) {
    streams.push(stream);
    options.signal.addEventListener("abort", () => stream.error(options.signal.reason));
  } }))) : real(path, options);
  globalThis.asked = () => streams.length;
  globalThis.tell = (text) => streams.at(-1).enqueue(new TextEncoder().encode(text));
"""


def tell(page: Any, *pieces: bytes) -> None:
    """Tells the page that `page_told` gave some events."""
    page.evaluate("tell", b"".join(pieces).decode())


def page_told(page: Any) -> Any:
    """Loads the page anew, for a test to say what its stream has; `asked()` in it says how often it asked for one."""
    page.add_init_script(STREAMS)
    page.reload()
    wait_for(page, "asked() === 1")
    return page


def test_as_many_ended_ones_are_known_as_are_kept(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """Those in flight do not count, and of those that ended the latest stay, however long ago they came."""
    page = page_told(open_page(sidecar))
    running = [bar(100 + number, 50, None) for number in range(5)]
    ended = [bar(number, 60 - number, 55 - number) for number in range(4)]
    old = bar(99, 300, None)
    tell(page, hello(limit=3), bars(old, *running, *ended), bars({**old, "end": NOW, "outcome": "completed"}))
    wait_for(page, "[...measured.requests.bars.values()].some((bar) => bar.session === 'told-99' && bar.end)")
    kept = page.evaluate("[...measured.requests.bars.values()].map((bar) => bar.session).sort()")
    assert kept == sorted(["told-2", "told-3", "told-99", *(f"told-{100 + number}" for number in range(5))])


def test_what_was_missed_soon_after_it_was_all_told_is_asked_for_later(
    sidecar: RunningSidecar, open_page: OpenPage
) -> None:
    """At once the first time, then not more often than every ten seconds, and not never."""
    page = open_page(sidecar)
    page.clock.install()
    page_told(page)
    for times in (2, 2):
        tell(page, hello(), bars(bar(1, 5, 4), missed=1))
        wait_for(page, f"asked() === {times} && measured.requests.bars.size === 1")
    page.clock.fast_forward(11_000)
    tell(page, told("head", figures={}))
    wait_for(page, "asked() === 3")
    tell(page, hello(), bars(bar(1, 5, 4), bar(2, 5, 4)))
    page.clock.fast_forward(11_000)
    tell(page, told("head", figures={}))
    wait_for(page, "measured.requests.bars.size === 2")
    assert page.evaluate("asked()") == 3


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_set_moves_nothing(sidecar: RunningSidecar, open_page: OpenPage, hours: int) -> None:
    """The browser's own: what is kept stays known, and the time shown is still the sidecar's."""
    earlier, later = f"earlier{hours}", f"later{hours}"
    one(sidecar, earlier)
    page = open_page(sidecar)
    wait_for(page, f"measured.rows().some((row) => row.label === '{earlier}')")
    known = count(page)
    page.evaluate(f"() => {{ const told = Date.now; Date.now = () => told() + {hours} * 3_600_000 }}")
    one(sidecar, later)
    wait_for(page, f"measured.rows().some((row) => row.label === '{later}')")
    assert count(page) == known + 1


@pytest.mark.parametrize("hours", [-3, 3])
def test_the_sidecars_clock_is_followed(sidecar: RunningSidecar, open_page: OpenPage, hours: int) -> None:
    """Where it is set, the time shown is the new one at once."""
    page = page_told(open_page(sidecar))
    moved = NOW + hours * 3600 * SECOND
    tell(page, hello(), told("head", now=moved, figures={}))
    wait_for(page, f"Math.abs(measured.frame().to - {moved / 1000}) < 5000")


COPIED = "() => { const { value, selectionEnd } = document.activeElement; return [value, selectionEnd]; }"


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"])
def test_it_copies_without_a_clipboard(
    start_sidecar: StartSidecar, open_page: OpenPage, allowed: bool
) -> None:
    """A page from another host over plain HTTP has none: the old way works, and where it does not the text is there."""
    sidecar = start_sidecar()
    page = open_page(sidecar)
    page.wait_for_selector("#empty")
    line = f"export OPENAI_BASE_URL={sidecar.url}/v1"
    wait_for(page, f"document.getElementById('point').textContent === '{line}'")
    page.evaluate("navigator.clipboard.writeText('nothing yet')")
    page.evaluate(
        """(allowed) => {
      globalThis.real = navigator.clipboard;
      Object.defineProperty(navigator, 'clipboard', { value: undefined });
      if (!allowed) document.execCommand = () => false;
    }""",
        allowed,
    )
    page.click("#copy-point")
    if allowed:
        wait_for(page, "document.getElementById('copy-point').textContent === 'Copied'")
        assert page.evaluate("real.readText()") == line
        assert page.evaluate("document.activeElement.id") == "copy-point"
        assert page.locator("textarea").count() == 0
    else:
        page.wait_for_selector("text=Not copied")
        assert page.evaluate(COPIED) == [line, len(line)]


@pytest.mark.parametrize("typed", ["“correct-horse”", "correct-hörse", "correct horse", "\N{HORSE}"])
def test_a_token_that_cannot_be_sent_is_asked_for_again(
    start_sidecar: StartSidecar, open_page: OpenPage, typed: str
) -> None:
    """A browser sends no such header field; the right token is taken after it, with the spaces that were pasted along."""
    sidecar = start_sidecar(settings={"ADMIN_TOKEN": "correct-horse"})
    page = open_page(sidecar)
    page.wait_for_selector("#ask[open]")
    page.fill("#token", typed)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=That was not the token.")
    page.fill("#token", " correct-horse ")
    page.keyboard.press("Enter")
    wait_for(page, "document.getElementById('state').textContent === 'live'")


def test_a_sidecar_that_says_nothing_is_not_live(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """A connection that nobody closed: after a while of silence it is opened anew."""
    sidecar = start_sidecar()
    page = open_page(sidecar, expected="net::ERR")
    page.clock.install()
    page.reload()
    wait_for(page, "document.getElementById('state').textContent === 'live'")
    os.kill(sidecar.pid, signal.SIGSTOP)
    try:
        page.clock.fast_forward(16_000)
        wait_for(page, "document.getElementById('state').textContent === 'reconnecting'")
    finally:
        os.kill(sidecar.pid, signal.SIGCONT)
    page.clock.run_for(10_000)
    wait_for(page, "document.getElementById('state').textContent === 'live'")


FOLLOW = """async (answers) => {
  const { Feed } = await import('/live/feed.js');
  const real = setTimeout, pauses = [];
  let now, finished;
  const told = new Promise((resolve) => { finished = resolve; });
  globalThis.setTimeout = (next, pause) => {
    if (pause > 10_000) return 0; // how long it waits for a connection that is silent
    pauses.push(pause);
    return answers.length ? real(next, 0) : finished(pauses);
  };
  globalThis.fetch = async (path, { signal }) => {
    now = answers.shift();
    if (now === 'refused') throw new TypeError('refused');
    if (now > 0) return new Response(null, { status: now });
    return new Response(new ReadableStream({ start(stream) {
      signal.addEventListener('abort', () => stream.error(signal.reason));
      stream.enqueue(new TextEncoder().encode('event: head\\ndata: {}\\n\\n'));
      if (now === 'ends') stream.close();
      if (now === 'breaks') real(() => stream.error(new Error('broken')), 20);
    } }));
  };
  const feed = new Feed({ told: () => now === 'wanted' && feed.again(), state: () => {}, needToken: async () => {} });
  feed.run();
  return told;
}"""

PAUSES: list[tuple[list[Any], list[int]]] = [
    (["refused"] * 6, [500, 1000, 2000, 4000, 5000, 5000]),
    ([401, "refused", 503, 503], [0, 500, 1000, 2000]),
    (["ends", "refused", "breaks", "breaks", "refused"], [250, 500, 250, 250, 500]),
    (["wanted", "wanted", "refused", "wanted"], [0, 0, 500, 0]),
]


@pytest.mark.parametrize("answers,pauses", PAUSES)
def test_how_soon_it_connects_again(
    sidecar: RunningSidecar, open_page: OpenPage, answers: list[Any], pauses: list[int]
) -> None:
    """Soon after a connection that told something, however it ended; at once with a new token, and where it wants all anew."""
    page = open_page(sidecar, expected="status of 404")  # a text has no icon
    page.goto(f"http://127.0.0.1:{sidecar.admin_port}/live/feed.js")  # nothing of it runs there
    assert page.evaluate(FOLLOW, answers) == pauses


def test_what_cannot_be_asked_is_not_said_to_be_gone(
    start_sidecar: StartSidecar, open_page: OpenPage
) -> None:
    """A request opened while the sidecar is away; its bar is still known."""
    sidecar = start_sidecar()
    one(sidecar, "away")
    page = open_page(sidecar, expected="net::ERR")
    wait_for(page, "measured.rows().length === 1")
    assert sidecar.stop() == 0
    page.focus("#lanes")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The sidecar did not say more.")


def test_models_that_are_gone_are_offered_no_more(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """Nor are sessions, of which the latest are offered; what is chosen stays."""
    page = page_told(open_page(sidecar))
    options = "[...document.getElementById('model').options].map((one) => one.value).join()"
    tell(page, hello(limit=300), bars(bar(1, 5, 4, model="chosen"), bar(2, 5, 4, model="gone")))
    wait_for(page, f"{options} === ',chosen,gone'")
    page.select_option("#model", "chosen")
    tell(page, bars(*(bar(number, 3, 2, model="new") for number in range(10, 310))))
    wait_for(page, f"{options} === ',chosen,new'")
    sessions = page.evaluate("[...document.getElementById('sessions').options].map((one) => one.value)")
    assert (len(sessions), sessions[-1]) == (200, "told-309")


TOOK = {
    0: "0 µs",
    0.4: "400 µs",
    0.9996: "1.0 ms",
    9.96: "10 ms",
    999.7: "1.0 s",
    59_999: "60.0 s",
    99_970: "1 min 40 s",
    119_700: "2 min 0 s",
    179_700: "3 min 0 s",
    3_600_000: "60 min 0 s",
}


def test_times_are_rounded_before_they_are_split(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """No minute has sixty seconds, and no second a thousand milliseconds."""
    page = open_page(sidecar)
    said = page.evaluate("(all) => import('/live/lanes.js').then(({ took }) => all.map(took))", [*TOOK])
    assert said == [*TOOK.values()]
