// The page: takes what the feed tells, keeps time, draws, and does what its reader asks.

import { about, copies, element, fill } from "./detail.js";
import { Feed, Unauthorized, ask, keepToken } from "./feed.js";
import { OUTCOMES, Picture, RUNNING, Requests, layout, span, took, words } from "./lanes.js";

const $ = (id) => document.getElementById(id);
const requests = new Requests();
const picture = new Picture($("canvas"));
const known = { links: {}, data: null, live: true, figures: null, age: Infinity, missed: 0 };
const filter = { q: "", session: "", model: "", upstream: "", outcome: "" };
const time = { ahead: 0, span: 30_000, until: null }; // `until` is set while the page is paused
const JUMP = 5000;
let rows = [], chosen = null, opened = null, laidOut = 0, resynced = -Infinity, table = false, whole = false;

// The sidecar's time. This page's own clock may be set at any moment, so it only measures.
const now = () => performance.now() + time.ahead;

// What is told late would put time back, so it goes back slowly, unless the sidecar's clock was set.
function keepTime(told_) {
  const ahead = told_ / 1000 - performance.now();
  time.ahead = Math.abs(ahead - time.ahead) > JUMP ? ahead : Math.max(time.ahead - 1, ahead);
}

function matches(bar) {
  if (filter.model && bar.model !== filter.model) return false;
  if (filter.upstream && bar.upstream !== filter.upstream) return false;
  if (filter.outcome && (bar.outcome ?? RUNNING) !== filter.outcome) return false;
  if (filter.session && !(bar.named && (whole ? bar.session === filter.session : bar.session.includes(filter.session)))) return false;
  return !filter.q || [bar.session, bar.conversation, bar.request, bar.id].some((id) => id?.includes(filter.q));
}

// The whole id of a session is that one alone, even where it is a part of others.
function look() {
  whole = [...requests.lanes.values()].some((lane) => lane.session === filter.session);
}

function narrow(id, value) {
  filter[id] = $(id).value = value;
  look();
  laidOut = 0;
  if (table) fillTable();
}

function frame() {
  const to = time.until ?? now();
  return { from: to - time.span, to, now: Math.min(to, now()), scroll: $("lanes").scrollTop / picture.zoom, matches, chosen };
}

// --- what the feed tells

function told(event, document_) {
  if (event === "hello") {
    requests.clear(document_.limit);
    Object.assign(known, { links: document_.links, data: document_.data, live: document_.live });
    known.age = known.live ? document_.age_s * 1000 : Infinity;
    $("kept").textContent = known.live ? `Kept: requests that ended in the last ${span(document_.age_s)}, ${document_.limit} at most.` : "";
    known.missed = 0;
    time.ahead = document_.now / 1000 - performance.now();
    $("point").textContent = `export OPENAI_BASE_URL=${document_.data}/v1`;
    if (!known.live) showFile();
  } else {
    keepTime(document_.now);
  }
  if (event === "bars") takeBars(document_);
  requests.trim(now() - known.age);
  known.figures = document_.figures ?? known.figures;
  if (known.figures) figures(known.figures); // some are of the bars
  if (known.missed && performance.now() - resynced > 10_000) {
    resynced = performance.now();
    feed.again();
  }
}

function takeBars({ bars, missed }) {
  for (const bar of bars) {
    const taken = requests.take(bar);
    if (taken && chosen?.id === taken.id) chosen = taken;
    if (taken && opened?.id === taken.id && opened.end === null) show(taken);
  }
  known.missed += missed;
  if (!known.live) fit();
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
  $("empty-text").hidden = $("empty-line").hidden = $("pause").hidden = true;
}

function fit() {
  const bars = [...requests.bars.values()];
  const last = bars.reduce((at, bar) => Math.max(at, bar.end), 0), first = bars.reduce((at, bar) => Math.min(at, bar.start), Infinity);
  pause(last + 500);
  const wanted = (last - first) / 1000 + 1;
  const option = [...$("span").options].find((one) => Number(one.value) >= wanted) ?? [...$("span").options].at(-1);
  $("span").value = option.value;
  time.span = Number(option.value) * 1000;
}

// --- drawing

function options(select, values) {
  for (const one of [...select.options]) if (one.value && one.value !== select.value && !values.has(one.value)) one.remove();
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
    look();
    requests.changed = false;
    const bars = [...requests.bars.values()];
    options($("model"), new Set(bars.map((bar) => bar.model)));
    options($("upstream"), new Set(bars.map((bar) => bar.upstream)));
    options($("sessions"), new Set(bars.slice(-200).map((bar) => bar.named ? bar.session : null)));
    if (table) fillTable();
  }
  sayWhyEmpty();
}

// A picture of nothing looks like one of a sidecar that is not asked.
function sayWhyEmpty() {
  const empty = requests.bars.size > 0 && !(table ? $("rows").querySelector("tbody").childElementCount : rows.length);
  const why = Object.values(filter).some(Boolean) ? "Nothing here passes the filters." : "No request in the time shown: go back, or show more of it.";
  if ($("none").textContent !== (empty ? why : "")) $("none").textContent = empty ? why : "";
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

// The latest 200, or what was there when the page was paused. A row that says the same stays: it may have the focus or be about
// to be clicked.
function fillTable() {
  const { to } = frame(), body = $("rows").querySelector("tbody"), focused = document.activeElement.dataset.id;
  const shown = [...requests.bars.values()].filter((bar) => matches(bar) && (time.until === null || bar.start <= to))
    .sort((a, b) => b.start - a.start || (a.id < b.id ? 1 : -1)).slice(0, 200);
  const kept = new Set(shown);
  for (const row of [...body.children]) if (!kept.has(row.bar)) row.remove();
  for (const [at, bar] of shown.entries()) if (body.children[at]?.bar !== bar) body.insertBefore(tableRow(bar), body.children[at] ?? null);
  if (focused && !document.activeElement.dataset.id) focusRow(focused);
}

function tableRow(bar) {
  const button = element("button", { type: "button", text: bar.named ? bar.session : "(none)", "aria-label": `Open ${about(bar)}`, "data-id": bar.id });
  button.addEventListener("click", () => open(bar));
  const cells = [bar.conversation ?? "", bar.sequence || "", bar.model ?? "", `${OUTCOMES[bar.outcome] ?? "…"} ${words(bar.outcome ?? RUNNING)}`,
    bar.end === null ? "" : took(bar.end - bar.start), bar.first === null ? "" : took(bar.first - bar.start), bar.concurrency || "", bar.distance || "", bar.races || ""];
  return Object.assign(element("tr", {}, element("td", {}, button), ...cells.map((text) => element("td", { text, title: text }))), { bar });
}

function focusRow(id) {
  ($("rows").querySelector(`[data-id="${id}"]`) ?? $("rows")).focus({ preventScroll: true });
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

// Everything about a request, or why that is not there.
async function ofRequest(bar) {
  if (bar.end === null) return { why: "In flight: the rest is known when it ends." };
  try {
    const answer = await ask(`/live/requests/${bar.id}`);
    if (answer.ok) return { detail: await answer.json() };
    if (answer.status === 404) return { why: "Its facts are not kept any more." };
  } catch (error) {
    if (error instanceof Unauthorized) feed.again();
  }
  return { why: "The sidecar did not say more. Open it again to ask once more." };
}

function open(bar) {
  choose(bar);
  return show(bar, { focus: true });
}

// Who is in the panel when it is filled anew stays there.
async function show(bar, { focus = false } = {}) {
  opened = bar;
  const found = await ofRequest(bar);
  if (opened !== bar) return;
  const panel = $("detail"), within = panel.contains(document.activeElement);
  panel.hidden = false;
  fill(panel, bar, found, { about: known, requests, open, close });
  if (focus || within) panel.querySelector("h2").focus();
}

function close() {
  const id = opened?.id;
  opened = null;
  $("detail").hidden = true;
  if (table) focusRow(id);
  else $("lanes").focus();
}

// --- time

function pause(until) {
  time.until = until;
  $("pause").setAttribute("aria-pressed", String(until !== null));
  $("pause").textContent = until === null ? "Pause" : "Resume";
  state("live");
  laidOut = 0;
  if (table) fillTable();
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
  p: () => (known.live ? pause(time.until === null ? now() : null) : fit()), "[": () => shift(-0.5), "]": () => shift(0.5),
  "+": () => zoom(-1), "=": () => zoom(-1), "-": () => zoom(1), t: toggleTable, "/": () => $("q").focus(), Escape: close,
};

// Many keyboards have brackets and the slash only with AltGr (which is Ctrl and Alt at once on some systems) or Option.
const chord = ({ ctrlKey, metaKey, altKey, key }) => metaKey || ((ctrlKey || altKey) && !(altKey && "[]/+=-".includes(key)));

document.addEventListener("keydown", (event) => {
  if (chord(event) || $("ask").open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key !== "Escape") return;
    event.preventDefault(); // or the browser empties the field, and says so to nobody
    $(table ? "rows" : "lanes").focus();
    return;
  }
  if (event.key.startsWith("Arrow") && event.target === $("lanes")) move(event.key);
  else if (event.key === "Enter" && event.target === $("lanes") && chosen) open(chosen);
  else if (COMMANDS[event.key]) COMMANDS[event.key]();
  else return;
  event.preventDefault();
});

for (const id of Object.keys(filter)) {
  $(id).addEventListener("input", () => narrow(id, $(id).value));
}
$("span").addEventListener("input", () => zoom(0));
$("pause").addEventListener("click", COMMANDS.p);
$("back").addEventListener("click", COMMANDS["["]);
$("forward").addEventListener("click", COMMANDS["]"]);
$("view").addEventListener("click", toggleTable);
copies($("copy-point"), () => $("point").textContent);
const under = (event) => {
  const x = event.offsetX / picture.zoom;
  return { ...picture.at(x, event.offsetY / picture.zoom, rows, frame()), label: x < picture.gutter };
};
$("canvas").addEventListener("click", (event) => {
  const { row, bar, label } = under(event);
  if (bar) open(bar);
  else if (row?.lane.named && label) narrow("session", filter.session === row.lane.session ? "" : row.lane.session);
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
}), element("span", { text: "pale: before the first byte" }), element("span", { text: "↶2 overtaken by two" }), element("span", { text: "⇄1 raced another" }));
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
