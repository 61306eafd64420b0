"""The live page in a real browser: what is drawn is what happened, by hand and by keyboard, and nothing goes elsewhere."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    sse_event,
    sse_head,
)

OpenPage = Callable[..., Any]
StartSidecar = Callable[..., RunningSidecar]

PLACES = """() => {
  const { requests, picture, frame, rows } = measured, now = frame();
  return { ...now, matches: null, chosen: null, gutter: picture.gutter, width: picture.width,
    bars: Object.fromEntries([...requests.bars.values()].map((bar) => {
      const row = rows().find((one) => one.lane === bar.lane);
      if (!row) return [bar.id, null];
      const [left, top, width, height] = picture.place(bar, row, now);
      const x = (left + width - 1) * devicePixelRatio, y = (top + height / 2) * devicePixelRatio;
      const pixel = [...picture.context.getImageData(Math.round(x) - 1, Math.round(y), 1, 1).data].slice(0, 3);
      return [bar.id, { left, right: left + width, top, lane: row.label, track: bar.track, pixel,
        full: bar.first === null ? 0 : left + width - picture.x(bar.first, now.from, now.to) }];
    })) };
}"""

GREEN, RED, AMBER = [0x16, 0x78, 0x4A], [0xB4, 0x23, 0x18], [0x8A, 0x5A, 0x00]
COLOURS = {
    "completed": GREEN,
    "upstream_rejected": RED,
    "error_in_stream": RED,
    "client_left": AMBER,
}


def one(sidecar: RunningSidecar, session: str, conversation: str = "main", **body: Any) -> None:
    """A call that is answered at once, if the upstream has an answer."""
    fields = (f"X-Sidecar-Session-Id: {session}", f"X-Sidecar-Conversation-Id: {conversation}")
    exchange(sidecar.port, chat_request(headers=[field.encode() for field in fields], **body))


def count(page: Any) -> int:
    """How many requests the page knows."""
    return int(page.evaluate("measured.requests.bars.size"))


def wait_for(page: Any, condition: str) -> None:
    """Waits until an expression holds in the page, whose policy lets the driver's own way of waiting evaluate no text."""
    deadline = monotonic() + 30
    while not page.evaluate(condition):
        assert monotonic() < deadline, condition
        page.wait_for_timeout(20)


def wait_until_drawn(page: Any) -> None:
    """Waits until what the page knows now is on its picture."""
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


@pytest.fixture(autouse=True)
def answers(upstream: ScriptedUpstream) -> None:
    """Whatever is asked without a script of its own."""
    upstream.answer_always(*json_answer(chat_completion("Hi")))


def test_a_round_is_drawn_as_it_was(start_sidecar: StartSidecar, open_page: OpenPage, sink: OtlpSink) -> None:
    """Each bar of the demo's round begins and ends where its span does, beside the turns that ran with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        provider = f"127.0.0.1:{probe.getsockname()[1]}"
    sidecar = start_sidecar(upstream=f"http://{provider}")
    page = open_page(sidecar)
    demo = [sys.executable, "-m", "sidecar", "demo", "--once", "--provider", provider]
    subprocess.run([*demo, "--through", f"{sidecar.url}/v1"], check=True, timeout=120, capture_output=True)
    total = sidecar.stats()["requests"]["started"]
    wait_for(
        page, f"[...measured.requests.bars.values()].filter((bar) => bar.end !== null).length === {total}"
    )
    page.select_option("#span", "120")
    page.keyboard.press("p")
    wait_for(page, "document.getElementById('state').textContent === 'paused'")
    wait_for(page, f"measured.rows().reduce((sum, row) => sum + row.lane.bars.length, 0) === {total}")
    wait_until_drawn(page)
    seen = page.evaluate(PLACES)
    room = seen["width"] - seen["gutter"] - 14
    servers = {span.span_id: span for span in sink.spans if span.kind == "SERVER"}
    assert total >= 20
    tracks: dict[str, set[int]] = {}
    full = 0
    for key, bar in seen["bars"].items():
        span = servers[key]
        read = float(str(span.attributes["sidecar.request.body.read_time"]))
        edges = [(span.start / 1e6 + read * 1e3), span.end / 1e6]
        left, right = (
            seen["gutter"] + (at - seen["from"]) / (seen["to"] - seen["from"]) * room for at in edges
        )
        assert abs(bar["left"] - left) < 0.5
        assert abs(bar["right"] - max(right, left + 3)) < 0.5
        wanted = COLOURS[str(span.attributes["sidecar.outcome"])]
        differs = max(abs(a - b) for a, b in zip(bar["pixel"], wanted, strict=True))
        assert bar["full"] < 4 or differs < 12, span.attributes
        full += bar["full"] >= 4
        tracks.setdefault(bar["lane"], set()).add(bar["track"])
    (planner,) = (lane for lane in tracks if lane.startswith("trip-planner"))
    assert tracks[planner] == {0, 1, 2}
    assert any(lane.startswith("└") for lane in tracks)
    assert full >= 10


def test_a_bar_grows_while_it_runs(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, open_page: OpenPage
) -> None:
    """Pale, then with its first byte, then with its outcome; what is open follows."""
    begun, over = Gate(), Gate()
    end = (Chunk(sse_event(chat_chunk(finish_reason="stop"))), Chunk(b"data: [DONE]\n\n"), LastChunk())
    upstream.answer(Wait(begun), *sse_head(), Chunk(sse_event(chat_chunk("Hi"))), Wait(over), *end)
    page = open_page(sidecar)
    bar = "[...measured.requests.bars.values()].find((bar) => bar.session === 'grows')"
    with RawClient(sidecar.port) as client:
        client.send(chat_request(headers=[b"X-Sidecar-Session-Id: grows"], stream=True))
        wait_for(page, f"{bar}?.end === null && {bar}.first === null")
        wait_for(page, "measured.rows().length")
        widths = [page.evaluate(PLACES) for _ in range(2)]
        key = page.evaluate(f"{bar}.id")
        begun.open()
        wait_for(page, f"{bar}.first !== null")
        page.focus("#lanes")
        page.evaluate(f"document.getElementById('q').value = '{key}'")
        page.dispatch_event("#q", "input")
        wait_for(page, "measured.rows().length === 1")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_selector("#detail:not([hidden])")
        assert "In flight" in page.inner_text("#detail")
        over.open()
        wait_for(page, f"{bar}.outcome === 'completed'")
        page.wait_for_selector("#detail .steps")
    grown = [seen["bars"][key]["right"] - seen["bars"][key]["left"] for seen in widths]
    assert grown[1] >= grown[0]
    assert "completed" in page.inner_text("#detail")


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
  .filter((one) => one.checkVisibility() && one.id !== "state" && one.id !== "said" && one.id !== "ask-again" && one.tagName !== "H2")
  .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.labels?.length || one.textContent.trim()))
  .map((one) => one.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 740), (1280, 800), (3840, 2160)], ids=["narrow", "usual", "wide"])
def test_everybody_can_read_it(
    sidecar: RunningSidecar, open_page: OpenPage, scheme: str, size: tuple[int, int]
) -> None:
    """Contrast and names of everything that can be used, in light and dark; nothing sticks out of the page."""
    one(sidecar, "readable")
    page = open_page(sidecar, color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
    wait_for(page, "measured.rows().length")
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
        "error_in_stream: 1, timed_out: 1, refused: 1, shutdown: 1, internal_error: 1, running: 1})].map((name) =>"
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
        finally:
            process.terminate()


STALL = """(session) => {
  const { requests, picture, frame, rows } = measured, now = frame();
  const bar = [...requests.bars.values()].find((one) => one.session === session);
  const row = rows().find((one) => one.lane === bar.lane);
  const [, top, , height] = picture.place(bar, row, now);
  const [[since, length]] = bar.stalls;
  const pixels = (from, to) => {
    const [left, right] = [from, to].map((at) => Math.round(picture.x(at, now.from, now.to) * devicePixelRatio));
    const y = Math.round((top + height / 2) * devicePixelRatio), wide = Math.max(1, right - left - 2);
    const { data } = picture.context.getImageData(left + 1, y, wide, 1);
    return Array.from({ length: wide }, (_, at) => [...data.slice(4 * at, 4 * at + 3)].join());
  };
  return { length, silent: pixels(since, since + length), after: pixels(since + length, bar.end) };
}"""


def test_a_stall_is_a_gap_in_its_bar(
    start_sidecar: StartSidecar, upstream: ScriptedUpstream, open_page: OpenPage
) -> None:
    """While the request still runs, and as long as the silence was when it was noted."""
    over = Gate()
    end = (Chunk(sse_event(chat_chunk(finish_reason="stop"))), Chunk(b"data: [DONE]\n\n"), LastChunk())
    upstream.answer(*sse_head(), Chunk(sse_event(chat_chunk("Hi"))), Wait(over), *end)
    sidecar = start_sidecar(settings={"STALL_AFTER": "400ms"})
    page = open_page(sidecar)
    page.select_option("#span", "15")
    bar = "[...measured.requests.bars.values()].find((bar) => bar.session === 'silent')"
    with RawClient(sidecar.port) as client:
        client.send(chat_request(headers=[b"X-Sidecar-Session-Id: silent"], stream=True))
        wait_for(page, f"{bar}?.stalls.length === 1 && {bar}.end === null")
        wait_for(page, f"measured.frame().now > {bar}.stalls[0][0] + 1200")
        over.open()
        wait_for(page, f"{bar}.outcome === 'completed'")
    page.keyboard.press("p")
    wait_for(page, "measured.rows().length === 1")
    wait_until_drawn(page)
    seen = page.evaluate(STALL, "silent")
    back, full = "255,255,255", ",".join(map(str, GREEN))
    assert 400 <= seen["length"] < 1200
    assert seen["silent"].count(back) > len(seen["silent"]) / 2, seen
    assert seen["after"].count(full) > len(seen["after"]) / 2, seen
    assert back not in seen["after"]


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
