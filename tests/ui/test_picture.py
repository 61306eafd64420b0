"""The live page's picture in a real browser: what is drawn is what happened."""

import json
import subprocess
import sys

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
    free_port,
    json_answer,
    request_bytes,
    sse_event,
    sse_head,
)
from tests.conftest import StartSidecar
from tests.ui.pages import OpenPage, one, wait_for, wait_until_drawn

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


def test_a_round_is_drawn_as_it_was(start_sidecar: StartSidecar, open_page: OpenPage, sink: OtlpSink) -> None:
    """Each bar of the demo's round begins and ends where its span does, beside the turns that ran with it."""
    provider = f"127.0.0.1:{free_port()}"
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


def test_a_time_on_the_axis_colours_no_bar(sidecar: RunningSidecar, open_page: OpenPage) -> None:
    """Its line runs below the bars: what a bar says by its colour is the same over its whole length."""
    one(sidecar, "lined")
    page = open_page(sidecar)
    wait_for(page, "measured.rows().some((row) => row.label === 'lined')")
    page.keyboard.press("p")
    wait_for(page, "document.getElementById('state').textContent === 'paused'")
    line, beside = page.evaluate("""() => {
      const { picture, frame, rows } = measured;
      const row = rows().find((row) => row.label === 'lined'), [bar] = row.lane.bars;
      const second = Math.ceil(bar.start / 1000) * 1000, now = { ...frame(), from: second - 2000, to: second + 2000 };
      Object.assign(bar, { start: second - 500, first: second - 400, end: second + 500 });
      picture.draw(rows(), now);
      const [, top, , height] = picture.place(bar, row, now);
      return [second, second + 250].map((at) => {
        const x = Math.floor(picture.x(at, now.from, now.to) * devicePixelRatio);
        return [...picture.context.getImageData(x, Math.round((top + height / 2) * devicePixelRatio), 1, 1).data];
      });
    }""")
    assert line == beside


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


FRAMED = """(sequence) => {
  const { requests, picture, frame, rows } = measured, now = frame();
  const bar = [...requests.bars.values()].find((one) => one.sequence === sequence);
  const row = rows().find((one) => one.lane === bar.lane);
  const [left, top, width] = picture.place(bar, row, now);
  const at = [left + width / 2, top - 2].map((one) => Math.round(one * devicePixelRatio));
  return [...picture.context.getImageData(...at, 1, 1).data.slice(0, 3)].join();
}"""
"""The colour right above the middle of a bar."""


def test_a_race_is_drawn_as_one(
    start_sidecar: StartSidecar, upstream: ScriptedUpstream, open_page: OpenPage
) -> None:
    """Two turns of which the second goes on before the first one's answer: framed, marked, said; a third one is not."""
    sidecar = start_sidecar()
    page = open_page(sidecar)
    said: list[dict[str, str]] = [{"role": "user", "content": "Where to?"}]
    named = (b"Content-Type: application/json", b"X-Sidecar-Session-Id: racing")
    gate = Gate()

    def asked() -> bytes:
        body = json.dumps({"model": "m", "messages": said}).encode()
        return request_bytes("POST", "/v1/chat/completions", headers=named, body=body)

    with RawClient(sidecar.port) as first, RawClient(sidecar.port) as second:
        upstream.answer(Wait(gate), *json_answer(chat_completion("To the sea, I would say.")))
        first.send(asked())
        wait_for(page, "measured.requests.bars.size === 1")
        upstream.request()
        said.append({"role": "user", "content": "Or to the hills?"})
        upstream.answer(*json_answer(chat_completion("To the hills, in that case.")))
        second.send(asked())
        second.read_answer()
        wait_for(page, "[...measured.requests.bars.values()].filter((bar) => bar.races === 1).length === 2")
        gate.open()
        first.read_answer()
    said += [
        {"role": "assistant", "content": "To the hills, in that case."},
        {"role": "user", "content": "Good."},
    ]
    upstream.answer(*json_answer(chat_completion("Then that is settled now.")))
    exchange(sidecar.port, asked())
    wait_for(page, "[...measured.requests.bars.values()].filter((bar) => bar.end !== null).length === 3")
    page.select_option("#span", "15")
    page.keyboard.press("p")
    wait_until_drawn(page)
    back, *framed = (page.evaluate(FRAMED, sequence) for sequence in (3, 1, 2))
    assert back not in framed
    assert framed[0] == framed[1]
    assert "⇄1 raced another" in page.inner_text("#legend")
    page.keyboard.press("t")
    page.wait_for_selector("text=raced")
    assert page.locator("#rows tbody tr td:last-child").all_inner_texts() == ["", "1", "1"]
