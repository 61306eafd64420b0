"""The live page in a real browser, by hand and by keyboard: it shows what there is to all, and nothing goes elsewhere."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from sidecar.testing import (
    Gate,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_completion,
    chat_request,
    json_answer,
)
from tests.conftest import StartSidecar
from tests.ui.pages import OpenPage, one, wait_for, wait_until_drawn


def test_filters(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """Each of them, alone; a name that is clicked shows its session."""
    one(sidecar, "filter-a", "x", model="model-a")
    one(sidecar, "filter-b", "y", model="model-b")
    page = open_page(sidecar)
    shown = "measured.rows().map((row) => row.label).filter((label) => label.startsWith('filter')).join()"
    wait_for(page, f"{shown} === 'filter-b / y,filter-a / x'")
    for field, text, wanted in [
        ("#q", "-a:x:", "filter-a / x"),
        ("#q", "no such", ""),
        ("#q", ".*[(", ""),
        ("#session", "filter-b", "filter-b / y"),
    ]:
        page.fill(field, text)
        wait_for(page, f"{shown} === '{wanted}'")
        page.fill(field, "")
    for field, value, wanted in [
        ("#upstream", "default", "filter-b / y,filter-a / x"),
        ("#outcome", "timed_out", ""),
        ("#outcome", "completed", "filter-b / y,filter-a / x"),
    ]:
        page.select_option(field, value)
        wait_for(page, f"{shown} === '{wanted}'")
        page.select_option(field, "")
    page.mouse.click(
        30,
        page.evaluate(
            "measured.rows()[1].top + document.getElementById('lanes').getBoundingClientRect().top + 8"
        ),
    )
    assert page.input_value("#session") == "filter-a"


def test_high_contrast_keeps_what_only_colour_says(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """The parts of a timeline, and a button that is pressed: the browser would give both the colour of the page."""
    one(sidecar, "contrasting")
    page = open_page(sidecar, forced_colors="active")
    page.keyboard.press("t")
    page.click("#rows tbody tr:has-text('contrasting') button")
    page.wait_for_selector("#detail .steps i")
    colour = "(one) => getComputedStyle(document.querySelector(one)).backgroundColor"
    seen = [page.evaluate(colour, one) for one in ("body", ".steps i", "#view", "#pause")]
    assert len({*seen[:3]}) == 3
    assert seen[2] != seen[3]


def test_a_name_that_is_clicked_shows_that_session_alone(
    sidecar: RunningSidecar, open_page: OpenPage
) -> None:
    """Also where other sessions have it in theirs; typed in part it means all of them, and a second click lets it go."""
    for session in ("alone-1", "alone-10", "alone-11"):
        one(sidecar, session)
    page = open_page(sidecar)
    shown = "measured.rows().map((row) => row.label).filter((label) => label.startsWith('alone')).join()"
    wait_for(page, f"{shown} === 'alone-11,alone-10,alone-1'")
    for typed, wanted in [
        ("alone-", "alone-11,alone-10,alone-1"),
        ("alone-1", "alone-1"),
        ("alone-10", "alone-10"),
    ]:
        page.fill("#session", typed)
        wait_for(page, f"{shown} === '{wanted}'")
    page.fill("#session", "alone-")
    wait_for(page, "measured.rows().length === 3")
    top = page.evaluate(
        "measured.rows()[2].top + document.getElementById('lanes').getBoundingClientRect().top + 8"
    )
    page.mouse.click(30, top)
    wait_for(page, f"{shown} === 'alone-1'")
    page.keyboard.press("t")
    page.wait_for_selector("#rows tbody tr")
    assert page.locator("#rows tbody tr td:first-child").all_inner_texts() == ["alone-1"]


def test_a_filter_stays_when_its_field_is_left(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """What a field shows is what is filtered by: Esc leaves it as it is, and a page that is come back to begins anew."""
    one(sidecar, "stays-a")
    one(sidecar, "other")
    page = open_page(sidecar)
    wait_for(page, "measured.rows().some((row) => row.label === 'other')")
    page.keyboard.press("/")
    page.keyboard.type("stays")
    page.keyboard.press("Escape")
    wait_for(page, "measured.rows().map((row) => row.label).join() === 'stays-a'")
    assert page.input_value("#q") == "stays"
    page.select_option("#span", "600")
    page.select_option("#outcome", "timed_out")
    wait_for(page, "document.getElementById('none').textContent === 'Nothing here passes the filters.'")
    page.reload()
    wait_for(page, "measured.rows().some((row) => row.label === 'other')")
    assert [page.input_value(field) for field in ("#q", "#outcome", "#span")] == ["", "", "30"]


def test_an_empty_picture_says_why(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """Too little time is shown, or nothing passes the filters; with a request in sight it says nothing."""
    sidecar = start_sidecar()
    one(sidecar, "seen")
    page = open_page(sidecar)
    said = "document.getElementById('none').textContent"
    wait_for(page, f"measured.rows().length === 1 && {said} === ''")
    page.keyboard.press("p")
    for _ in range(3):
        page.keyboard.press("[")
    wait_for(page, f"{said}.startsWith('No request in the time shown')")
    page.fill("#q", "nowhere")
    wait_for(page, f"{said} === 'Nothing here passes the filters.'")
    page.fill("#q", "")
    for _ in range(3):
        page.keyboard.press("Escape")
        page.keyboard.press("]")
    wait_for(page, f"{said} === ''")


def test_a_table_that_changes_is_used_by_hand(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, open_page: OpenPage
) -> None:
    """The focus stays where it is while others come and its own ends; closing gives it back; paused, it stands still."""
    one_row, done = (f"#rows tbody tr:has-text('table-{name}') button" for name in ("own", "done"))
    one(sidecar, "table-done")
    gate = Gate()
    upstream.answer(Wait(gate), *json_answer(chat_completion("Hi")))
    page = open_page(sidecar)
    with RawClient(sidecar.port) as client:
        client.send(chat_request(headers=[b"X-Sidecar-Session-Id: table-own"]))
        page.keyboard.press("t")
        page.focus(one_row)
        button = page.wait_for_selector(done)
        upstream.answer_always(*json_answer(chat_completion("Hi")))
        one(sidecar, "table-new")
        page.wait_for_selector("#rows tbody tr:has-text('table-new')")
        assert page.evaluate("(button) => button.isConnected", button)
        assert page.evaluate("document.activeElement.textContent") == "table-own"
        gate.open()
        client.read_answer()
    page.wait_for_selector("#rows tbody tr:has-text('table-own'):has-text('completed')")
    focused = "document.activeElement.textContent"
    assert page.evaluate(focused) == "table-own"
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail h2:focus")
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "table-own"
    page.keyboard.press("p")
    one(sidecar, "table-last")
    wait_for(page, "[...measured.requests.bars.values()].some((bar) => bar.session === 'table-last')")
    wait_until_drawn(page)
    assert page.locator("#rows tbody tr:has-text('table-last')").count() == 0
    page.keyboard.press("p")
    page.wait_for_selector("#rows tbody tr:has-text('table-last')")


def test_who_reads_a_request_stays_there_when_it_ends(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, open_page: OpenPage
) -> None:
    """The focus stays in the panel, or what was chosen since stays chosen."""
    one(sidecar, "read-before")
    page = open_page(sidecar)
    page.fill("#session", "read-")
    for number, key in enumerate(("Tab", "ArrowDown")):
        gate = Gate()
        upstream.answer(Wait(gate), *json_answer(chat_completion("Hi")))
        session = f"read-{number}"
        with RawClient(sidecar.port) as client:
            client.send(chat_request(headers=[b"X-Sidecar-Session-Id: %b" % session.encode()]))
            wait_for(page, f"measured.rows()[0]?.label === '{session}'")
            page.focus("#lanes")
            page.keyboard.press("ArrowUp")
            page.keyboard.press("ArrowUp")
            page.keyboard.press("Enter")
            page.wait_for_selector(f"#detail h2:focus:has-text('{session}')")
            if key == "ArrowDown":
                page.focus("#lanes")
            page.keyboard.press(key)
            gate.open()
            client.read_answer()
        page.wait_for_selector("#detail .steps")
        if key == "Tab":
            assert page.evaluate("document.activeElement.tagName") == "H2"
            assert page.evaluate("measured.frame().chosen.session") == session
        else:
            assert page.evaluate("measured.frame().chosen.session") == "read-0"


def test_keys(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """The whole page without a mouse."""
    for number in range(3):
        one(sidecar, "keys", str(number % 2))
    page = open_page(sidecar)
    wait_for(page, "measured.rows().some((row) => row.lane.session === 'keys')")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("keys:")
    wait_for(page, "measured.rows().length === 2")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "lanes"
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#said") == page.evaluate("document.getElementById('said').textContent").strip()
    assert "keys, 0, request 2: completed" in page.inner_text("#said")
    page.keyboard.press("ArrowLeft")
    assert "keys, 0, request 1" in page.inner_text("#said")
    page.keyboard.press("ArrowDown")
    assert "keys, 1, request 1" in page.inner_text("#said")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail h2:focus")
    page.keyboard.press("Escape")
    assert page.is_hidden("#detail")
    page.keyboard.press("p")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    before = page.evaluate("measured.frame().to")
    page.keyboard.press("[")
    assert page.evaluate("measured.frame().to") == before - 15_000
    for held, moved in (
        ("Control+Alt+[", -15_000),
        ("Alt+]", 15_000),
        ("Control+[", 0),
        ("Control+Alt+p", 0),
    ):
        before = page.evaluate(
            "measured.frame().to"
        )  # as AltGr and Option type them; the others are no keys of ours
        page.keyboard.press(held)
        assert page.evaluate("measured.frame().to") == before + moved
    page.keyboard.press("]")
    page.keyboard.press("]")
    page.keyboard.press("-")
    assert page.input_value("#span") == "120"
    page.keyboard.press("+")
    page.keyboard.press("t")
    assert page.inner_text("#rows tbody tr:first-child td:nth-child(2)") == "0"
    page.click("#rows tbody tr:first-child button")
    page.wait_for_selector("#detail:not([hidden])")


def test_a_request_opened(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """Facts, timeline, links to its trace and to others, and the call as curl, without a credential."""
    links = "Jaeger=http://127.0.0.1:1/trace/{trace_id}"
    sidecar = start_sidecar(settings={"TRACE_LINKS": links})
    one(sidecar, "it's", temperature=0.5)
    one(sidecar, "it's")
    page = open_page(sidecar)
    wait_for(page, "measured.requests.bars.size === 2")
    wait_for(page, "measured.rows().length")
    page.focus("#lanes")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail .facts")
    text = page.inner_text("#detail")
    for fact in ("gpt-4o", "sidecar.request.body.size", "http.request.body.size", "WAIT"):
        assert fact.lower() in text.lower() or fact == "sidecar.request.body.size"
    trace = page.inner_text("#detail code")
    assert page.get_attribute("#detail a", "href") == f"http://127.0.0.1:1/trace/{trace}"
    assert page.get_attribute("#detail a", "rel") == "noopener noreferrer"
    page.click("text=Copy as curl")
    page.wait_for_selector("text=Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "X-Sidecar-Session-Id: it'\\''s'" in copied
    assert '"Authorization: Bearer $OPENAI_API_KEY"' in copied
    assert f"{sidecar.url}/v1/chat/completions" in copied
    ran = subprocess.run(
        ["sh", "-c", copied.replace("curl ", "printf '%s\\n' ", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "X-Sidecar-Session-Id: it's" in ran.stdout.splitlines()
    page.click("#detail button:has-text('request 1')")
    page.wait_for_selector("#detail dd:has-text('0.5')")


def test_the_token_is_asked_once(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """A wrong one is asked for again; the right one stays in the tab, over a reload too, and in no other."""
    sidecar = start_sidecar(settings={"ADMIN_TOKEN": "correct-horse"})
    page = open_page(sidecar)
    for token in ("wrong-one", "correct-horse"):
        page.wait_for_selector("#ask[open]")
        page.fill("#token", token)
        page.keyboard.press("Enter")
    wait_for(page, "document.getElementById('state').textContent === 'live'")
    page.reload()
    wait_for(page, "document.getElementById('state').textContent === 'live'")
    assert page.is_hidden("#ask")
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    other = open_page(sidecar)
    other.wait_for_selector("#ask[open]")


def test_it_comes_back_after_a_restart(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """What the old process knew is forgotten, what the new one knows is shown."""
    sidecar = start_sidecar()
    one(sidecar, "before")
    page = open_page(sidecar, expected="net::ERR")
    wait_for(page, "measured.requests.bars.size === 1")
    assert sidecar.stop() == 0
    wait_for(page, "document.getElementById('state').textContent === 'reconnecting'")
    again = start_sidecar(settings={"ADMIN_LISTEN": f"127.0.0.1:{sidecar.admin_port}"})
    wait_for(page, "document.getElementById('state').textContent === 'live'")
    one(again, "after")
    wait_for(page, "[...measured.requests.bars.values()].map((bar) => bar.session).join() === 'after'")


def test_it_says_what_it_keeps_and_keeps_no_more(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """Ended requests go after their time, whether or not another one comes."""
    sidecar = start_sidecar(settings={"LIVE_AGE": "2s", "LIVE_REQUESTS": "50"})
    page = open_page(sidecar)
    one(sidecar, "short-lived")
    wait_for(page, "measured.requests.bars.size === 1")
    assert page.inner_text("#kept") == "Kept: requests that ended in the last 2 s, 50 at most."
    wait_for(page, "measured.requests.bars.size === 0 && measured.requests.lanes.size === 0")
    page.wait_for_selector("#empty", state="visible")
    assert page.evaluate(
        "import('/live/lanes.js').then(({ span }) => [3600, 5400, 90].map(span).join())"
    ) == ("1 h,90 min,90 s")


def test_the_empty_page_says_how_to_begin(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """The line that points an app at it, until the first request."""
    sidecar = start_sidecar()
    page = open_page(sidecar)
    page.wait_for_selector(f"text=export OPENAI_BASE_URL={sidecar.url}/v1")
    one(sidecar, "first")
    page.wait_for_selector("#empty", state="hidden")


HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "%1b[31mred", "a" * 200]


@pytest.mark.parametrize("session", HOSTILE)
def test_hostile_ids_are_text(sidecar: RunningSidecar, open_page: OpenPage, session: str) -> None:
    """In the lanes, the table, the panel and the list of sessions."""
    one(sidecar, session, session)
    page = open_page(sidecar)
    wait_for(page, "measured.requests.bars.size > 0")
    elements = page.evaluate("document.querySelectorAll('img, script').length")
    page.keyboard.press("t")
    page.fill("#session", session)
    page.wait_for_selector("#rows tbody tr")
    assert page.inner_text("#rows tbody tr:first-child td:nth-child(2)") == session
    page.click("#rows tbody tr:first-child button")
    page.wait_for_selector("#detail .steps")
    assert session in page.inner_text("#detail h2")
    assert page.evaluate("document.querySelectorAll('img, script').length") == elements
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility() || one.tagName === "OPTION") continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${one.tagName} ${one.textContent.slice(0, 30)} ${(a + 0.05) / (b + 0.05)}`);
  }
  return low;
}"""

UNNAMED = """() => [...document.querySelectorAll("button, input, select, a, [role], [tabindex], canvas, section, aside, dialog")]
  .filter((one) => one.checkVisibility() && one.id !== "state" && one.id !== "said" && one.id !== "none" && one.id !== "ask-again" && one.tagName !== "H2")
  .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.labels?.length || one.textContent.trim()))
  .map((one) => one.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size", [(360, 740), (1280, 800), (3840, 2160), (320, 256)], ids=["narrow", "usual", "wide", "zoomed"]
)
def test_everybody_can_read_it(
    sidecar: RunningSidecar, open_page: OpenPage, scheme: str, size: tuple[int, int]
) -> None:
    """Contrast and names of all that can be used, in light and dark; nothing sticks out of the page, and lanes have room."""
    one(sidecar, "readable")
    page = open_page(sidecar, color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
    wait_for(page, "measured.rows().length")
    assert page.evaluate("document.getElementById('lanes').clientHeight") >= 100
    page.focus("#lanes")
    page.keyboard.press("ArrowDown")
    for open_it in ("Enter", "t"):
        page.keyboard.press(open_it)
        page.wait_for_selector("#detail .steps")
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_attribute("html", "lang") == "en"
    colours = page.evaluate(
        "Object.fromEntries(['back', ...Object.keys({completed: 1, client_left: 1, upstream_rejected: 1, upstream_failed: 1,"
        "error_in_stream: 1, timed_out: 1, refused: 1, shutdown: 1, internal_error: 1, running: 1, race: 1})].map((name) =>"
        " [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"
    )
    for name, colour in colours.items():
        assert name == "back" or contrast(colour, colours["back"]) >= 4.5, name


def contrast(one: str, other: str) -> float:
    """The ratio of two colours written as #rrggbb."""

    def light(colour: str) -> float:
        parts = [int(part, 16) / 255 for part in re.findall("[0-9a-f]{2}", colour)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_thousand_sessions_are_smooth(
    start_sidecar: StartSidecar, upstream: ScriptedUpstream, open_page: OpenPage
) -> None:
    """All in flight at once and growing: a frame is drawn in a fraction of its time."""
    gate = Gate()
    upstream.answer_always(Wait(gate), *json_answer(chat_completion("Hi")))
    sidecar = start_sidecar(sink=None)
    clients = [RawClient(sidecar.port) for _ in range(1000)]
    try:
        for number, client in enumerate(clients):
            client.send(chat_request(headers=[b"X-Sidecar-Session-Id: many-%d" % number]))
        page = open_page(sidecar)
        wait_for(page, "measured.rows().length === 1000")
        page.evaluate("() => { measured.times.frames.length = measured.times.draws.length = 0 }")
        wait_for(page, "measured.times.frames.length > 240")
        frames, draws = page.evaluate("[measured.times.frames, measured.times.draws]")
        page.mouse.move(600, 400)
        page.mouse.wheel(0, 8000)
        wait_for(page, "document.getElementById('lanes').scrollTop > 4000")
    finally:
        gate.open()
        for client in clients:
            client.close()
    gaps = sorted(b - a for a, b in pairwise(frames))
    draws = sorted(draws)
    told = (
        f"gaps: median {gaps[len(gaps) // 2]:.1f} ms; draws: median {draws[120]:.1f}, p95 {draws[228]:.1f} ms"
    )
    assert draws[120] < 8, told
    assert gaps[len(gaps) // 2] < 20, told


def test_a_file_is_shown_as_a_sidecar_is(
    start_sidecar: StartSidecar, open_page: OpenPage, tmp_path: Path
) -> None:
    """All of it in sight at once, standing still; a request opens, and there is no line to point an app at it."""
    sidecar = start_sidecar(settings={"RECORD": str(tmp_path)})
    for number in range(3):
        one(sidecar, f"filed-{number}")
    assert sidecar.stop() == 0
    view = [sys.executable, "-m", "sidecar", "view", str(tmp_path)]
    with subprocess.Popen(view, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            sidecar.admin_port = int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2])
            page = open_page(sidecar, expected="net::ERR")
            wait_for(page, "measured.rows().length === 3")
            wait_for(page, "document.getElementById('state').textContent === 'from a file'")
            page.focus("#lanes")
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            page.wait_for_selector("#detail .steps")
            assert "filed-2" in page.inner_text("#detail h2")
            assert page.locator("text=Copy as curl").count() == 0
            stands = page.evaluate("measured.frame().to")
            page.keyboard.press("[")
            page.keyboard.press("p")
            assert page.evaluate("measured.frame().to") == stands
            assert page.inner_text("#state") == "from a file"
            assert page.is_hidden("#pause")
        finally:
            process.terminate()


def test_pause_and_go_back(start_sidecar: StartSidecar, open_page: OpenPage) -> None:
    """What comes meanwhile is known and not drawn; the past can be left and found again; then time goes on."""
    sidecar = start_sidecar()
    shown = "measured.rows().map((row) => row.label).join()"
    one(sidecar, "old")
    page = open_page(sidecar)
    page.select_option("#span", "15")
    wait_for(page, f"{shown} === 'old'")
    page.click("#pause")
    assert page.inner_text("#pause") == "Resume"
    stands = page.evaluate("measured.frame().to")
    one(sidecar, "new")
    wait_for(page, "measured.requests.bars.size === 2")
    wait_until_drawn(page)
    assert (page.evaluate(shown), page.evaluate("measured.frame().to")) == ("old", stands)
    for _ in range(2):
        page.click("#back")
    wait_for(page, f"{shown} === ''")
    assert page.evaluate("measured.frame().to") == stands - 15_000
    for _ in range(2):
        page.click("#forward")
    wait_for(page, f"{shown} === 'old'")
    assert page.inner_text("#state") == "paused"
    page.click("#pause")
    wait_for(page, f"{shown} === 'new,old'")
    wait_for(page, f"measured.frame().to > {stands} + 200")
    assert page.inner_text("#state") == "live"
