// The page: takes what the feed tells, keeps time, draws, and does what its reader asks.

import { about, element, fill } from "./detail.js";
import { Feed, Unauthorized, ask, keepToken } from "./feed.js";
import { OUTCOMES, Picture, RUNNING, Requests, layout, took, words } from "./lanes.js";

const $ = (id) => document.getElementById(id);
const requests = new Requests();
const picture = new Picture($("canvas"));
const known = { links: {}, data: null, live: true, figures: null };
const filter = { q: "", session: "", model: "", upstream: "", outcome: "" };
const time = { ahead: 0, span: 30_000, until: null }; // `until` is set while the page is paused
let rows = [], chosen = null, opened = null, laidOut = 0, resynced = 0, table = false;

const now = () => Date.now() + time.ahead;

function matches(bar) {
  if (filter.model && bar.model !== filter.model) return false;
  if (filter.upstream && bar.upstream !== filter.upstream) return false;
  if (filter.outcome && (bar.outcome ?? RUNNING) !== filter.outcome) return false;
  if (filter.session && !(bar.named && bar.session.includes(filter.session))) return false;
  return !filter.q || [bar.session, bar.conversation, bar.request, bar.id].some((id) => id?.includes(filter.q));
}

function frame() {
  const to = time.until ?? now();
  return { from: to - time.span, to, now: Math.min(to, now()), scroll: $("lanes").scrollTop / picture.zoom, matches, chosen };
}

// --- what the feed tells

function told(event, document_) {
  if (event === "hello") {
    requests.clear(Math.max(1000, document_.limit));
    Object.assign(known, { links: document_.links, data: document_.data, live: document_.live });
    time.ahead = document_.now / 1000 - Date.now();
    $("point").textContent = `export OPENAI_BASE_URL=${document_.data}/v1`;
    if (!known.live) showFile();
  } else {
    time.ahead = Math.max(time.ahead - 1, document_.now / 1000 - Date.now());
  }
  if (event === "bars") takeBars(document_);
  known.figures = document_.figures ?? known.figures;
  if (known.figures) figures(known.figures); // some are of the bars
}

function takeBars({ bars, missed }) {
  for (const bar of bars) {
    const taken = requests.take(bar);
    if (taken && chosen?.id === taken.id) chosen = taken;
    if (taken && opened === taken.id && taken.end !== null) open(taken, { focus: false });
  }
  requests.trim();
  if (!known.live) fit();
  if (missed && Date.now() - resynced > 10_000) {
    resynced = Date.now();
    feed.again();
  }
}

function figures(told_) {
  const bars = [...requests.bars.values()];
  for (const name of ["in_flight", "errors", "telemetry_lost"]) $(`f-${name}`).textContent = told_[name] ?? "–";
  $("f-wait_avoided").textContent = took((told_.wait_avoided_s ?? 0) * 1000);
  $("f-most_at_once").textContent = bars.reduce((most, bar) => Math.max(most, bar.concurrency), 0);
  const turns = bars.filter((bar) => bar.turn && bar.outcome === "completed");
  $("f-in_order").textContent = turns.length ? `${Math.floor((100 * turns.filter((bar) => !bar.distance).length) / turns.length)} %` : "–";
  const added = bars.map((bar) => bar.overhead).filter((one) => one !== null).sort((a, b) => a - b);
  $("f-overhead").textContent = added.length ? took(added[added.length >> 1] * 1000) : "–";
  state(told_.state === "draining" ? "draining" : "live");
}

function state(word) {
  const shown = word === "live" && time.until !== null ? (known.live ? "paused" : "from a file") : word;
  if ($("state").textContent !== shown) $("state").textContent = shown;
  $("state").dataset.state = shown;
}

// --- a file in place of a running sidecar

function showFile() {
  $("empty-title").textContent = "No requests in this file";
  $("empty-text").hidden = $("empty-line").hidden = true;
}

function fit() {
  const bars = [...requests.bars.values()];
  const last = Math.max(...bars.map((bar) => bar.end ?? bar.start)), first = Math.min(...bars.map((bar) => bar.start));
  pause(last + 500);
  const wanted = (last - first) / 1000 + 1;
  const option = [...$("span").options].find((one) => Number(one.value) >= wanted) ?? [...$("span").options].at(-1);
  $("span").value = option.value;
  time.span = Number(option.value) * 1000;
}

// --- drawing

function options(select, values) {
  const present = new Set([...select.options].map((one) => one.value));
  for (const value of values) if (value && !present.has(value)) select.append(element("option", { value, text: value }));
}

function lay(at) {
  const { from, to } = frame();
  const laid = layout(requests, matches, from, to);
  rows = laid.shown;
  const area = $("lanes");
  $("spacer").style.height = `${Math.max(0, laid.height * picture.zoom - area.clientHeight)}px`;
  $("empty").hidden = requests.bars.size > 0;
  laidOut = at;
  if (requests.changed) {
    requests.changed = false;
    const bars = [...requests.bars.values()];
    options($("model"), new Set(bars.map((bar) => bar.model)));
    options($("upstream"), new Set(bars.map((bar) => bar.upstream)));
    if ($("sessions").childElementCount < 200) options($("sessions"), new Set(bars.slice(-200).map((bar) => bar.named ? bar.session : null)));
    if (table) fillTable();
  }
}

const times = { frames: [], draws: [] };
// For whoever measures the page: what is where, and how long frames take.
globalThis.measured = { requests, picture, times, frame, rows: () => rows };

function loop(at) {
  const begun = performance.now();
  if (at - laidOut > 250 || requests.changed) lay(at);
  if (!table) {
    picture.resize($("lanes").clientWidth, $("lanes").clientHeight);
    picture.draw(rows, frame());
  }
  times.frames.push(at);
  times.draws.push(performance.now() - begun);
  if (times.frames.length > 600) times.frames.shift(), times.draws.shift();
  requestAnimationFrame(loop);
}

function fillTable() {
  const shown = [...requests.bars.values()].filter(matches).slice(-200).reverse();
  $("rows").querySelector("tbody").replaceChildren(...shown.map((bar) => {
    const button = element("button", { type: "button", text: bar.named ? bar.session : "(none)", "aria-label": `Open ${about(bar)}` });
    button.addEventListener("click", () => open(bar));
    const cells = [bar.conversation ?? "", bar.sequence || "", bar.model ?? "", `${OUTCOMES[bar.outcome] ?? "…"} ${words(bar.outcome ?? RUNNING)}`,
      bar.end === null ? "" : took(bar.end - bar.start), bar.first === null ? "" : took(bar.first - bar.start), bar.concurrency || "", bar.distance || ""];
    return element("tr", {}, element("td", {}, button), ...cells.map((text) => element("td", { text, title: text })));
  }));
}

// --- choosing and opening

function choose(bar) {
  chosen = bar;
  if (!bar) return;
  $("said").textContent = about(bar);
  const row = rows.find((one) => one.lane === bar.lane), area = $("lanes");
  if (!row) return;
  const top = row.top * picture.zoom, bottom = top + row.height * picture.zoom;
  if (top - 30 < area.scrollTop) area.scrollTop = top - 30;
  else if (bottom > area.scrollTop + area.clientHeight) area.scrollTop = bottom - area.clientHeight;
}

function move(key) {
  const { from, to } = frame();
  const seen = (row) => row.lane.bars.filter((bar) => matches(bar) && bar.start <= to && (bar.end ?? to) >= from);
  const at = rows.findIndex((row) => row.lane === chosen?.lane);
  if (at < 0) return choose(rows.length ? seen(rows[0]).at(-1) : null);
  const bars = seen(rows[at]), index = bars.indexOf(chosen);
  if (key === "ArrowLeft") choose(bars[Math.max(0, index - 1)] ?? chosen);
  if (key === "ArrowRight") choose(bars[Math.min(bars.length - 1, index + 1)] ?? chosen);
  const next = rows[at + { ArrowUp: -1, ArrowDown: 1 }[key]];
  if (next) {
    const near = seen(next).sort((a, b) => Math.abs(a.start - chosen.start) - Math.abs(b.start - chosen.start));
    choose(near[0] ?? chosen);
  }
}

async function open(bar, { focus = true } = {}) {
  opened = bar.id;
  choose(bar);
  let detail = null;
  if (bar.end !== null) {
    try {
      const answer = await ask(`/live/requests/${bar.id}`);
      detail = answer.ok ? await answer.json() : null;
    } catch (error) {
      if (error instanceof Unauthorized) feed.again();
    }
  }
  if (opened !== bar.id) return;
  $("detail").hidden = false;
  fill($("detail"), bar, detail, { about: known, requests, open, close });
  if (focus) $("detail").querySelector("h2").focus();
}

function close() {
  opened = null;
  $("detail").hidden = true;
  $(table ? "rows" : "lanes").focus();
}

// --- time

function pause(until) {
  time.until = until;
  $("pause").setAttribute("aria-pressed", String(until !== null));
  $("pause").textContent = until === null ? "Pause" : "Resume";
  state("live");
  laidOut = 0;
}

function shift(share) {
  const until = (time.until ?? now()) + share * time.span;
  pause(known.live && until >= now() ? null : until);
}

function zoom(by) {
  const select = $("span");
  select.selectedIndex = Math.min(select.options.length - 1, Math.max(0, select.selectedIndex + by));
  time.span = Number(select.value) * 1000;
  laidOut = 0;
}

function toggleTable() {
  table = !table;
  $("rows").hidden = !table;
  $("lanes").hidden = table;
  $("view").setAttribute("aria-pressed", String(table));
  if (table) fillTable();
}

// --- the reader's hands

const COMMANDS = {
  p: () => pause(time.until === null ? now() : null), "[": () => shift(-0.5), "]": () => shift(0.5),
  "+": () => zoom(-1), "=": () => zoom(-1), "-": () => zoom(1), t: toggleTable, "/": () => $("q").focus(), Escape: close,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("ask").open) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") $("lanes").focus();
    return;
  }
  if (event.key.startsWith("Arrow") && event.target === $("lanes")) move(event.key);
  else if (event.key === "Enter" && event.target === $("lanes") && chosen) open(chosen);
  else if (COMMANDS[event.key]) COMMANDS[event.key]();
  else return;
  event.preventDefault();
});

for (const id of Object.keys(filter)) {
  $(id).addEventListener("input", () => {
    filter[id] = $(id).value;
    laidOut = 0;
    if (table) fillTable();
  });
}
$("span").addEventListener("input", () => zoom(0));
$("pause").addEventListener("click", COMMANDS.p);
$("back").addEventListener("click", COMMANDS["["]);
$("forward").addEventListener("click", COMMANDS["]"]);
$("view").addEventListener("click", toggleTable);
$("copy-point").addEventListener("click", () => navigator.clipboard.writeText($("point").textContent));
const under = (event) => {
  const x = event.offsetX / picture.zoom;
  return { ...picture.at(x, event.offsetY / picture.zoom, rows, frame()), label: x < picture.gutter };
};
$("canvas").addEventListener("click", (event) => {
  const { row, bar, label } = under(event);
  if (bar) open(bar);
  else if (row?.lane.named && label) {
    $("session").value = filter.session = filter.session === row.lane.session ? "" : row.lane.session;
    laidOut = 0;
  }
});
$("canvas").addEventListener("pointermove", (event) => {
  const { bar, row, label } = under(event);
  $("canvas").title = bar ? about(bar) : label && row ? row.label : "";
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => picture.theme());

$("legend").append(...Object.entries(OUTCOMES).map(([outcome, mark]) => {
  const shown = element("span", { text: `${mark} ${words(outcome)}` });
  shown.style.color = `var(--${outcome})`;
  return shown;
}), element("span", { text: "pale: before the first byte" }), element("span", { text: "↶2 overtaken by two" }));
$("outcome").append(...[RUNNING, ...Object.keys(OUTCOMES)].map((outcome) => element("option", { value: outcome, text: words(outcome) })));

async function needToken() {
  const again = sessionStorage.length > 0;
  $("ask-again").textContent = again ? "That was not the token." : "";
  $("ask").showModal();
  await new Promise((resume) => $("ask").addEventListener("close", resume, { once: true }));
  keepToken($("token").value);
  $("token").value = "";
}

const feed = new Feed({ told, state, needToken });
requestAnimationFrame(loop);
feed.run();
