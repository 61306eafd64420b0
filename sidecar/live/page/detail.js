// One request opened: its facts, its timeline, its links, and ways to its trace.

import { OUTCOMES, RUNNING, took, words } from "./lanes.js";

const KEYS = { openai: ["Authorization: Bearer ", "OPENAI_API_KEY"], anthropic: ["x-api-key: ", "ANTHROPIC_API_KEY"],
  "gcp.gemini": ["x-goog-api-key: ", "GEMINI_API_KEY"] };

export function element(name, options = {}, ...children) {
  const { text, ...attributes } = options;
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function about(bar) {
  const who = bar.named ? `${bar.session}, ${bar.conversation}, request ${bar.sequence || ""}` : "request of no named session";
  const how = bar.outcome === null ? "in flight" : `${words(bar.outcome)} after ${took(bar.end - bar.start)}`;
  return `${who}: ${how}${bar.distance ? `, overtaken by ${bar.distance}` : ""}${bar.races ? `, raced ${bar.races}` : ""}`;
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

const SAID = [{ role: "user", content: "..." }], LIMIT = "gen_ai.request.max_tokens";

// The body of a call by the end of its path, with a place for the content. Of other calls nobody here knows what theirs is.
const BODIES = [
  [/\/chat\/completions$/, (asked) => ({ ...asked, messages: SAID })],
  [/\/agents\/completions$/, ({ stream }) => ({ agent_id: "...", stream, messages: SAID })],
  [/\/completions?$/, (asked) => ({ ...asked, prompt: "..." })],
  [/\/responses(?:\/compact)?$/, (asked) => ({ ...asked, input: "..." })],
  [/\/embeddings$/, ({ model }) => ({ model, input: "..." })],
  [/\/messages$/, (asked, facts) => ({ ...asked, max_tokens: facts[LIMIT] ?? 1024, messages: SAID })],
  [/:(?:stream)?rawPredict$/i, ({ stream }, facts) =>
    ({ anthropic_version: "vertex-2023-10-16", stream, max_tokens: facts[LIMIT] ?? 1024, messages: SAID })],
  [/(?<!v1internal):(?:stream)?generateContent$/i, () => ({ contents: [{ role: "user", parts: [{ text: "..." }] }] })],
  [/:embedContent$/, () => ({ content: { parts: [{ text: "..." }] } })],
];

function bodyOf(facts) {
  if (!facts["gen_ai.operation.name"]) return null;
  const path = (facts["url.path"] ?? "").replace(/\/+$/, "");
  const [, make] = BODIES.find(([end]) => end.test(path)) ?? [];
  return make?.({ model: facts["gen_ai.request.model"], stream: facts["gen_ai.request.stream"] }, facts);
}

// Where it went, with what is known of its query.
function target(facts, base) {
  const query = (facts["url.query"] ?? "").split("&").filter((member) => member && !member.includes("REDACTED")).join("&");
  return base + (facts["url.path"] ?? "/") + (query && `?${query}`);
}

// The call as a curl line: ids and model as they were, the content and the key for somebody to fill in.
export function curl(bar, facts, base) {
  const [field, variable] = KEYS[facts["gen_ai.provider.name"]] ?? KEYS.openai;
  const lines = [`curl ${quoted(target(facts, base))}`];
  const method = facts["http.request.method"], body = method === "POST" ? bodyOf(facts) : null;
  if (method && method !== "GET" && method !== "_OTHER" && !body) lines.push(`-X ${method}`);
  lines.push(`-H "${field}$${variable}"`);
  if (field.startsWith("x-api-key")) lines.push("-H 'anthropic-version: 2023-06-01'");
  if (bar.named) {
    lines.push(`-H ${quoted(`X-Sidecar-Session-Id: ${bar.session}`)}`);
    if (bar.conversation !== "main") lines.push(`-H ${quoted(`X-Sidecar-Conversation-Id: ${bar.conversation}`)}`);
  }
  if (body) lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}

function definitions(pairs) {
  const list = element("dl", { class: "facts" });
  for (const [name, value] of pairs) list.append(element("dt", { text: name }), element("dd", { text: value }));
  return list;
}

// Makes a button copy. A page that came over plain HTTP from another host has no clipboard, so it selects the text and asks for a
// copy; where that is refused too, the text stays there, selected.
export function copies(button, text) {
  button.addEventListener("click", async () => {
    button.parentNode.querySelector("textarea")?.remove();
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      const area = element("textarea", { readonly: "", "aria-label": "Text to copy", text: text() });
      button.after(area);
      area.select();
      if (!document.execCommand("copy")) {
        button.textContent = "Not copied: press Ctrl+C or ⌘C";
        return;
      }
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
  });
  return button;
}

const copying = (label, text) => copies(element("button", { type: "button", text: label }), () => text);

function timeline(bar, steps) {
  const start = Math.min(bar.start, ...steps.map((step) => step.start / 1000)), end = bar.end ?? bar.start;
  const length = Math.max(0.001, end - start);
  const track = element("div", { class: "steps", role: "img", "aria-label": steps.map(said).join(", ") || "no steps" });
  const place = (name, from, to) => {
    const part = element("i", { class: name, title: `${name} ${took(to - from)}` });
    part.style.left = `${((from - start) / length) * 100}%`;
    part.style.width = `${((to - from) / length) * 100}%`;
    track.append(part);
  };
  for (const step of steps) place(step.name, step.start / 1000, step.end / 1000);
  for (const [since, lasted] of bar.stalls) place("stall", since, since + lasted);
  const key = element("div", { class: "key" }, ...steps.map((step) => element("span", { text: said(step) })),
    ...bar.stalls.map(([, lasted]) => element("span", { text: `stalled for ${took(lasted)} or more` })));
  return [track, key];
}

const said = (step) => `${step.name} ${took((step.end - step.start) / 1000)}`;

const NAMES = { model: "model", upstream: "upstream", operation: "operation", request: "request id", tokens: "output tokens" };

// Fills the panel. `open(id)` opens another request, `close()` this one; `why` says why there is no `detail`.
export function fill(panel, bar, { detail, why }, { about: known, requests, open, close }) {
  const closing = element("button", { type: "button", text: "Close", "aria-label": "Close this request" });
  closing.addEventListener("click", close);
  const mark = bar.outcome === null ? "" : `${OUTCOMES[bar.outcome] ?? "?"} `;
  const title = element("h2", { tabindex: "-1", text: bar.named ? `${bar.session} / ${bar.conversation} #${bar.sequence}` : "No session named" });
  const facts = detail?.facts ?? {};
  const summary = [["outcome", mark + words(bar.outcome ?? RUNNING)], ["began", new Date(bar.start).toISOString()]];
  if (bar.end !== null) summary.push(["took", took(bar.end - bar.start)]);
  if (bar.first !== null) summary.push(["first byte after", took(bar.first - bar.start)]);
  if (bar.concurrency) summary.push(["at once", `${bar.concurrency} in its conversation`]);
  if (bar.distance) summary.push(["overtaken by", `${bar.distance} later turns`]);
  if (bar.wait !== null) summary.push(["wait avoided", took(bar.wait * 1000)]);
  if (detail?.gap) summary.push(["longest silence", took(detail.gap * 1000)]);
  if (bar.overhead !== null) summary.push(["own overhead", took(bar.overhead * 1000)]);
  for (const [name, label] of Object.entries(NAMES)) if (bar[name] !== null && bar[name] !== undefined) summary.push([label, bar[name]]);
  panel.replaceChildren(element("header", {}, title, closing), definitions(summary));
  if (detail) {
    const actions = element("div", { class: "actions" });
    for (const [name, url] of detail.sampled ? Object.entries(known.links) : []) {
      const href = url.replaceAll("{trace_id}", detail.trace_id);
      actions.append(element("a", { href, target: "_blank", rel: "noopener noreferrer", text: name }));
    }
    actions.append(copying("Copy trace id", detail.trace_id));
    if (known.data) actions.append(copying("Copy as curl", curl(bar, facts, known.data)));
    panel.append(element("h3", { text: "Timeline" }), ...timeline(bar, detail.steps), element("h3", { text: "Trace" }),
      element("code", { text: detail.trace_id }));
    if (!detail.sampled) panel.append(element("p", { text: "Not sampled: no trace was sent." }));
    panel.append(actions);
    if (detail.links.length) panel.append(element("h3", { text: "Linked requests" }), ...detail.links.map((link) => linked(link, requests, open)));
    panel.append(element("h3", { text: "All facts" }),
      definitions(Object.entries(facts).sort().map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : String(value)])));
  } else {
    panel.append(element("p", { text: why }));
  }
}

function linked(link, requests, open) {
  const bar = requests.bars.get(link.id);
  const row = element("div", {}, `${words(link.kind)} `);
  if (!bar) row.append(element("code", { text: link.id }));
  else {
    const button = element("button", { type: "button", text: about(bar) });
    button.addEventListener("click", () => open(bar));
    row.append(button);
  }
  return row;
}
