// What is known of requests, and how it is laid out in lanes and drawn. Times are milliseconds since the epoch.

export const OUTCOMES = {
  completed: "✓", client_left: "◁", upstream_rejected: "✗", upstream_failed: "╳", error_in_stream: "!",
  timed_out: "◔", refused: "⊘", shutdown: "■", internal_error: "‼",
};
export const RUNNING = "running";

const TRACK = 15, BAR = 11, GAP = 9, AXIS = 22, MOST_TRACKS = 8;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900];

export const words = (outcome) => outcome.replaceAll("_", " ");
export const took = (ms) => {
  if (ms < 0.9995) return `${(ms * 1000).toFixed(0)} µs`;
  if (ms < 999.5) return `${ms.toFixed(ms < 9.95 ? 1 : 0)} ms`;
  const seconds = Math.round(ms / 1000);
  return seconds < 100 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
};
export const span = (seconds) => {
  const [unit, word] = [[3600, "h"], [60, "min"]].find(([unit]) => seconds % unit === 0) ?? [1, "s"];
  return `${seconds / unit} ${word}`;
};

export class Requests {
  constructor() {
    this.clear(1000);
  }

  clear(limit) {
    this.limit = limit;
    this.bars = new Map();
    this.lanes = new Map();
    this.changed = true;
  }

  // Takes a bar as the sidecar tells it; one that has ended is never in flight again.
  take(told) {
    const known = this.bars.get(told.id);
    if (known && known.end !== null && told.end === null) return;
    const bar = {
      ...told,
      start: told.start / 1000,
      first: told.first === null ? null : told.first / 1000,
      end: told.end === null ? null : told.end / 1000,
      stalls: told.stalls.map(([since, seconds]) => [since / 1000, seconds * 1000]),
      track: 0,
    };
    const key = JSON.stringify(bar.named ? [bar.session, bar.conversation] : []);
    let lane = this.lanes.get(key);
    if (!lane) {
      lane = { key, named: bar.named, session: bar.named ? bar.session : null,
        conversation: bar.conversation, bars: [], since: bar.start, tracks: 1, dirty: true };
      this.lanes.set(key, lane);
    }
    bar.lane = lane;
    if (known) {
      known.lane.bars.splice(known.lane.bars.indexOf(known), 1);
      known.lane.dirty = true;
      this.bars.delete(bar.id); // those that have ended are in the order of their ends
    }
    this.bars.set(bar.id, bar);
    let at = lane.bars.length;
    while (at > 0 && lane.bars[at - 1].start > bar.start) at -= 1;
    lane.bars.splice(at, 0, bar);
    lane.since = Math.min(lane.since, bar.start);
    lane.dirty = this.changed = true;
    return bar;
  }

  // Forgets the ended ones above the limit, those that ended first, and those that ended before a moment.
  trim(since) {
    let over = -this.limit;
    for (const bar of this.bars.values()) over += bar.end !== null;
    for (const bar of this.bars.values()) {
      if (bar.end === null || (over <= 0 && bar.end >= since)) continue;
      this.bars.delete(bar.id);
      bar.lane.bars.splice(bar.lane.bars.indexOf(bar), 1);
      bar.lane.dirty = true;
      if (!bar.lane.bars.length) this.lanes.delete(bar.lane.key);
      over -= 1;
      this.changed = true;
    }
  }
}

// Gives each bar the topmost track that is free when it starts.
function assign(lane) {
  const ends = [];
  for (const bar of lane.bars) {
    let track = ends.findIndex((end) => end <= bar.start);
    if (track < 0) track = Math.min(ends.length, MOST_TRACKS - 1);
    ends[track] = Math.max(bar.end ?? Infinity, ends[track] ?? 0);
    bar.track = track;
  }
  lane.tracks = Math.max(1, ends.length);
  lane.dirty = false;
}

// The lanes to be shown, with their places: sessions by their first request, the youngest on top.
export function layout(requests, matches, from, to) {
  const sessions = new Map();
  for (const lane of requests.lanes.values()) {
    if (!lane.bars.some((bar) => bar.start <= to && (bar.end ?? to) >= from && matches(bar))) continue;
    if (lane.dirty) assign(lane);
    const group = sessions.get(lane.session) ?? { since: Infinity, lanes: [] };
    group.since = Math.min(group.since, lane.since);
    group.lanes.push(lane);
    sessions.set(lane.session, group);
  }
  const shown = [];
  let top = AXIS;
  for (const group of [...sessions.values()].sort((a, b) => b.since - a.since)) {
    group.lanes.sort((a, b) => a.since - b.since);
    for (const [index, lane] of group.lanes.entries()) {
      const height = lane.tracks * TRACK + GAP;
      shown.push({ lane, top, height, nested: index > 0, label: label(lane, index > 0) });
      top += height;
    }
  }
  return { shown, height: top };
}

function label(lane, nested) {
  if (!lane.named) return "(no session named)";
  if (nested) return `└ ${lane.conversation}`;
  return lane.conversation === "main" ? lane.session : `${lane.session} / ${lane.conversation}`;
}

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.zoom = 1;
    this.theme();
  }

  theme() {
    const style = getComputedStyle(document.documentElement);
    this.colours = new Proxy({}, { get: (kept, name) => (kept[name] ??= style.getPropertyValue(`--${name}`).trim()) });
  }

  // Takes the room it has, in the page's pixels. On a very wide screen everything is drawn larger.
  resize(width, height) {
    const ratio = devicePixelRatio || 1, zoom = width >= 2400 ? 1.5 : 1;
    if (this.width === width / zoom && this.height === height / zoom && this.ratio === ratio) return;
    Object.assign(this, { width: width / zoom, height: height / zoom, ratio, zoom });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.context.setTransform(ratio * zoom, 0, 0, ratio * zoom, 0, 0);
  }

  get gutter() {
    return Math.min(240, Math.max(104, this.width * 0.2));
  }

  x(at, from, to) {
    return this.gutter + ((at - from) / (to - from)) * (this.width - this.gutter - 14);
  }

  // Where a request is drawn: left, top, width, height, in the picture's own pixels.
  place(bar, row, { from, to, now, scroll }) {
    const left = Math.max(this.gutter, this.x(bar.start, from, to));
    const right = Math.min(this.width, this.x(bar.end ?? now, from, to));
    return [left, row.top - scroll + bar.track * TRACK + 2, Math.max(3, right - left), BAR];
  }

  draw(rows, frame) {
    const { context: c, colours } = this;
    c.fillStyle = colours.back;
    c.fillRect(0, 0, this.width, this.height);
    c.direction = "ltr";
    c.textBaseline = "middle";
    let first = 0, last = rows.length;
    while (first < last) {
      const middle = (first + last) >> 1;
      if (rows[middle].top + rows[middle].height < frame.scroll) first = middle + 1;
      else last = middle;
    }
    if (rows.length) this.grid(frame, this.height);
    for (let at = first; at < rows.length && rows[at].top - frame.scroll < this.height; at += 1) this.lane(rows[at], frame);
    if (rows.length) this.axis(frame);
  }

  lane(row, frame) {
    const { context: c, colours } = this;
    const { from, to, now, scroll, matches } = frame;
    const top = row.top - scroll;
    c.fillStyle = colours.line;
    if (!row.nested) c.fillRect(0, top - 5, this.width, 1);
    const bars = row.lane.bars.filter((bar) => bar.start <= to && (bar.end ?? now) >= from && matches(bar));
    c.save();
    c.beginPath();
    c.rect(this.gutter, Math.max(AXIS, top - 4), this.width - this.gutter, row.height);
    c.clip();
    this.overlaps(row, bars, frame);
    const places = bars.map((bar) => this.place(bar, row, frame)), begins = [];
    for (let at = bars.length - 1; at >= 0; at -= 1) {
      const [left, y, width] = places[at], track = bars[at].track;
      this.marks(bars[at], left + width, y, (begins[track] ?? Infinity) - left - width);
      begins[track] = left;
    }
    bars.forEach((bar, at) => this.bar(bar, places[at], frame));
    c.restore();
    c.fillStyle = row.nested ? colours.quiet : colours.text;
    c.font = row.nested ? "12px system-ui, sans-serif" : "600 12px system-ui, sans-serif";
    c.fillText(this.cut(row.label, this.gutter - (row.nested ? 26 : 14)), row.nested ? 20 : 8, top + 8);
  }

  // A band behind every stretch of time in which turns of the conversation ran together.
  overlaps(row, bars, { from, to, now, scroll }) {
    const { context: c, colours } = this;
    if (!row.lane.named || row.lane.tracks < 2) return;
    let busy = -Infinity;
    c.fillStyle = colours.band;
    for (const bar of bars) {
      if (!bar.turn) continue;
      const end = bar.end ?? now;
      if (bar.start < busy) {
        const left = this.x(bar.start, from, to), right = this.x(Math.min(end, busy), from, to);
        c.fillRect(left, row.top - scroll, right - left, row.lane.tracks * TRACK);
      }
      busy = Math.max(busy, end);
    }
  }

  bar(bar, [left, top, width, height], { from, to, now, chosen }) {
    const { context: c, colours } = this;
    const colour = colours[bar.outcome ?? RUNNING];
    const thin = !bar.turn;
    const y = thin ? top + height / 2 - 2 : top, tall = thin ? 4 : height;
    const first = bar.first === null ? left + width : Math.min(left + width, Math.max(left, this.x(bar.first, from, to)));
    c.fillStyle = c.strokeStyle = colour;
    c.globalAlpha = 0.4;
    c.fillRect(left, y, first - left, tall);
    c.globalAlpha = 1;
    c.fillRect(first, y, left + width - first, tall);
    c.lineWidth = 1;
    if (bar.end === null) c.strokeRect(left + 0.5, y + 0.5, width - 1, tall - 1);
    if (bar.first !== null && first > left) c.fillRect(first - 1, top - 2, 2, height + 4);
    for (const [since, length] of bar.stalls) {
      const begin = this.x(since, from, to), end = Math.min(left + width, this.x(since + length, from, to));
      c.fillStyle = colours.stall;
      c.fillRect(begin, top + 3, Math.max(2, end - begin), height - 6);
    }
    if (bar.sequence && !thin) this.number(String(bar.sequence), left, first, left + width, top + height / 2 + 0.5);
    if (bar.races > 0) {
      c.strokeStyle = colour;
      c.lineWidth = 1;
      c.strokeRect(left - 1.5, top - 1.5, width + 3, height + 3);
    }
    if (chosen === bar) {
      c.strokeStyle = colours.choice;
      c.lineWidth = 2;
      c.strokeRect(left - 1.5, top - 1.5, width + 3, height + 3);
    }
  }

  // Behind the end of a bar, as far as there is room before the next one, which covers them: how it ended, and how many turns
  // overtook or raced it. How one ended that did not end well is told in any case.
  marks(bar, end, top, room) {
    const { colours } = this;
    const marks = [], well = bar.outcome === null || bar.outcome === "completed";
    if (bar.outcome !== null) marks.push([OUTCOMES[bar.outcome] ?? "?", colours[bar.outcome], "bold 12px", 2, 13]);
    if (bar.distance > 0) marks.push([`↶${bar.distance}`, colours.client_left, "bold 10px", 15, 19]);
    if (bar.races > 0) marks.push([`⇄${bar.races}`, colours.race, "bold 10px", bar.distance > 0 ? 34 : 15, 21]);
    for (const [number, [text, colour, font, at, width]] of marks.entries()) {
      if (at + width > room && (well || number > 0)) return;
      this.context.font = `${font} system-ui, sans-serif`;
      this.context.fillStyle = colour;
      this.context.fillText(text, end + at, top + BAR / 2);
    }
  }

  // In the pale part of a bar if it fits there, else in the full one.
  number(text, left, first, right, y) {
    const { context: c, colours } = this;
    c.font = "600 10px system-ui, sans-serif";
    const room = c.measureText(text).width + 7;
    if (first - left < room && right - first < room) return;
    c.fillStyle = first - left >= room ? colours.text : colours["on-bar"];
    c.fillText(text, (first - left >= room ? left : first) + 4, y);
  }

  // The times that are named on the axis.
  *ticks({ from, to }) {
    const room = Math.max(1, Math.floor((this.width - this.gutter) / 90));
    const step = (STEPS.find((one) => (to - from) / 1000 / one <= room) ?? 1800) * 1000;
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) yield [at, this.x(at, from, to)];
  }

  // Below the bars: a line over a bar would give it another colour.
  grid(frame, height) {
    const { context: c, colours } = this;
    c.fillStyle = colours.quiet;
    c.globalAlpha = 0.35;
    for (const [, x] of this.ticks(frame)) c.fillRect(x, 0, 1, height);
    c.globalAlpha = 1;
  }

  // Above the bars, which scroll beneath it.
  axis(frame) {
    const { context: c, colours } = this;
    c.fillStyle = colours.back;
    c.fillRect(0, 0, this.width, AXIS - 4);
    this.grid(frame, AXIS - 4);
    c.fillStyle = colours.quiet;
    c.font = "11px system-ui, sans-serif";
    for (const [at, x] of this.ticks(frame)) {
      const text = new Date(at).toLocaleTimeString([], { hour12: false });
      if (x + 54 < this.width) c.fillText(text, x + 3, 9);
    }
  }

  cut(text, room) {
    const { context: c } = this;
    this.cuts ??= new Map();
    const key = `${c.font}\0${room}\0${text}`;
    let found = this.cuts.get(key);
    if (found === undefined) {
      let low = 0, high = text.length;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (c.measureText(middle < text.length ? `${text.slice(0, middle)}…` : text).width <= room) low = middle;
        else high = middle - 1;
      }
      found = low < text.length ? `${text.slice(0, low)}…` : text;
      if (this.cuts.size > 5000) this.cuts.clear();
      this.cuts.set(key, found);
    }
    return found;
  }

  // The request at a point of the picture, if there is one.
  at(x, y, rows, frame) {
    const row = rows.find((one) => y + frame.scroll >= one.top - 4 && y + frame.scroll < one.top + one.height - 4);
    if (!row || x < this.gutter) return { row };
    const near = row.lane.bars.filter((bar) => {
      if (!frame.matches(bar) || bar.start > frame.to || (bar.end ?? frame.now) < frame.from) return false;
      const [left, top, width, height] = this.place(bar, row, frame);
      return x >= left - 3 && x <= left + width + 14 && y >= top - 3 && y <= top + height + 3;
    });
    return { row, bar: near.at(-1) };
  }
}
