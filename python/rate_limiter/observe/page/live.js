"use strict";
// The live page: receives documents (see live.py) and shows them. Texts from outside are only
// ever set as textContent.

const EVERY_MS = 2000;
const STREAM_AGAIN_MS = 60000;
const TEXT_MAX = 300;
const id = (name) => document.getElementById(name);
const state = { doc: null, samples: new Map(), rule: null, cursor: null, paused: false };

// --- Text ---

const whole = new Intl.NumberFormat("en");
const number = (value) => whole.format(value);
const rate = (value) => (value < 10 ? String(Math.round(value * 10) / 10) : number(Math.round(value)));
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

function duration(seconds) {
  if (seconds === null) return "–";
  const [unit, name] = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]].find(([size]) => seconds >= size) || [1e-9, "ns"];
  const value = seconds / unit;
  return `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)} ${name}`;
}

function bytes(count) {
  const [unit, name] = [[2 ** 30, "GB"], [2 ** 20, "MB"], [2 ** 10, "kB"]].find(([size]) => count >= size) || [1, "B"];
  return `${Math.round((count / unit) * 10) / 10} ${name}`;
}

// Control characters and marks of direction are written out, and a long text is cut.
function visible(text) {
  const short = text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}… (${number(text.length)} characters)` : text;
  return short.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

// --- Tables ---

// Show items as rows. Rows and their cells are kept, so focus and selection are too.
//   columns: {text(item), kind, draw(cell, item), isHead}
function fill(body, items, keyOf, columns, nothing) {
  body.rowOf ??= new Map();
  const before = body.rowOf;
  body.rowOf = new Map();
  items.forEach((item, i) => {
    const key = keyOf(item);
    const row = before.get(key) || newRow(columns);
    body.rowOf.set(key, row);
    columns.forEach((column, j) => {
      const cell = row.cells[j];
      if (column.draw) column.draw(cell, item);
      else if (cell.textContent !== column.text(item)) cell.textContent = column.text(item);
    });
    if (body.rows[i] !== row) body.insertBefore(row, body.rows[i] || null);
  });
  while (body.rows.length > items.length) body.lastElementChild.remove();
  if (!items.length) {
    const cell = element("td", nothing, { class: "empty", colspan: columns.length });
    body.append(element("tr", cell));
  }
}

function newRow(columns) {
  const cells = columns.map((column) => {
    const attributes = column.kind ? { class: column.kind } : {};
    return column.isHead ? element("th", [], { ...attributes, scope: "row" }) : element("td", [], attributes);
  });
  return element("tr", cells);
}

const numeric = (text) => ({ text, kind: "number" });

function drawKey(cell, item) {
  const text = visible(item.key);
  if (cell.textContent !== text) cell.replaceChildren(element("bdi", text));
}

// --- History ---

// Rates of a rule in slots of a few seconds, the newest last; of all rules if `rule` is null.
function seriesOf(rule) {
  const { step_s: step, span_s: span } = state.doc.history;
  const count = span / step;
  const made = { allowed: Array(count).fill(null), denied: Array(count).fill(null), times: [] };
  const newest = Math.max(0, ...state.samples.keys());
  for (let i = 0; i < count; i++) made.times.push(newest - (count - 1 - i) * step);
  for (const sample of state.samples.values()) {
    const [allowed, denied] = countsIn(sample, rule);
    const last = count - 1 - Math.round((newest - sample.time) / step);
    const first = last - Math.max(0, Math.round(sample.seconds / step) - 1);
    for (let i = Math.max(0, first); i <= last; i++) {
      made.allowed[i] = allowed / sample.seconds;
      made.denied[i] = denied / sample.seconds;
    }
  }
  return made;
}

function countsIn(sample, rule) {
  const wanted = rule === null ? Object.values(sample.rules) : [Object.hasOwn(sample.rules, rule) ? sample.rules[rule] : [0, 0, 0]];
  return wanted.reduce((sum, each) => sum.map((value, i) => value + each[i]), [0, 0, 0]);
}

function minutesOf(rule) {
  const minutes = new Map();
  for (const sample of state.samples.values()) {
    const minute = Math.floor((sample.time - sample.seconds / 2) / 60) * 60;
    const before = minutes.get(minute) || [0, 0, 0];
    minutes.set(minute, countsIn(sample, rule).map((value, i) => value + before[i]));
  }
  return [...minutes].sort(([one], [other]) => other - one);
}

// --- Parts of the page ---

function showTiles(doc) {
  const { totals } = doc;
  const share = totals.denied_per_s / (totals.allowed_per_s + totals.denied_per_s);
  const tiles = [
    ["Allowed", rate(totals.allowed_per_s || 0), "/s"],
    ["Denied", rate(totals.denied_per_s || 0), "/s"],
    ["Share denied", share ? `${Math.round(share * 1000) / 10}` : "0", "%"],
    ["Keys in use", number(totals.keys || 0), bytes(totals.bytes || 0)],
    ["Evicted keys", number(totals.evicted || 0), ""],
    ["Decision time, p99", ...duration(doc.latency.p99_s).split(" ")],
  ];
  id("tiles").replaceChildren(
    ...tiles.map(([name, value, unit]) =>
      element("div", [element("dt", name), element("dd", [value, " ", element("small", unit || "")])]),
    ),
  );
}

function showNotices(doc) {
  const { host } = doc;
  const found = [
    ...doc.stores.filter((one) => one.status !== "ok").map((one) => ["", `The store ${one.store} fails: ${one.without} processes decide without it. ${one.last_error || ""}`]),
    ...doc.sources.filter((one) => one.stale).map((one) => ["", `New rules of ${one.source} were refused in ${one.stale} processes; the old ones are in force.`]),
    ...(host.disabled ? [["", `A limiter is switched off in ${host.disabled} processes.`]] : []),
    ...(host.unshared ? [["", `${host.unshared} processes count separately: PROMETHEUS_MULTIPROC_DIR cannot be used.`]] : []),
    ...(doc.rules.length ? [] : [["info", "No limiter is measured yet. Pass metrics=\"api\" to a middleware or an extension, or call rate_limiter.metrics.watch() for a limiter."]]),
  ];
  const texts = found.map(([, text]) => text).join("\n");
  if (id("notices").dataset.texts === texts) return;
  id("notices").dataset.texts = texts;
  id("notices").replaceChildren(...found.map(([kind, text]) => element("li", visible(text), kind ? { class: kind } : {})));
}

function showTraffic() {
  const series = seriesOf(state.rule);
  const at = state.cursor ?? series.times.length - 1;
  drawTraffic(id("traffic"), series, state.doc.history.span_s / 60, rate, state.cursor);
  const [allowed, denied] = [series.allowed[at], series.denied[at]];
  id("traffic-text").textContent = allowed === null
    ? "No sample at this time"
    : `${clock(series.times[at])}: ${rate(allowed)} allowed and ${rate(denied)} denied per second`;
  id("traffic-rule").textContent = state.rule === null ? "All rules" : visible(state.rule || "other rules");
  id("all-rules").hidden = state.rule === null;
  fill(id("minutes"), minutesOf(state.rule), ([minute]) => minute, [
    { text: ([minute]) => clock(minute).slice(0, 5), isHead: true },
    ...[0, 1, 2].map((i) => numeric(([, counts]) => number(counts[i]))),
  ], "No sample yet");
}

function drawRuleButton(cell, item) {
  if (!cell.firstChild) {
    const button = element("button", element("bdi", visible(item.rule)), { type: "button", class: "rule" });
    button.addEventListener("click", () => choose(state.rule === item.rule ? null : item.rule));
    cell.append(button);
  }
  cell.firstChild.setAttribute("aria-pressed", state.rule === item.rule);
}

function drawRuleSpark(cell, item) {
  if (!cell.firstChild) cell.append(svgElement("svg", { class: "spark", "aria-hidden": "true" }));
  drawSpark(cell.firstChild, seriesOf(item.rule));
}

function showRules(doc) {
  fill(id("rules"), doc.rules, (item) => item.rule, [
    { draw: drawRuleButton, isHead: true },
    { draw: drawRuleSpark },
    numeric((item) => rate(item.allowed_per_s)),
    numeric((item) => rate(item.denied_per_s)),
    ...["allowed", "denied", "shadow_denied", "keys", "evicted"].map((name) => numeric((item) => number(item[name]))),
    { text: (item) => item.limits.map((one) => one.limits + (one.mode === "shadow" ? " (shadow)" : "")).join("; ") || "–" },
    { text: (item) => [...new Set(item.limits.map((one) => one.store))].join(", ") || "–" },
  ], "No limiter is measured");
  id("rules-note").textContent = doc.rules_left ? `and ${number(doc.rules_left)} with fewer decisions` : "";
  const names = doc.rules.map((item) => item.rule);
  const select = id("client-rule");
  if (names.join("\n") !== [...select.options].map((one) => one.value).join("\n")) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => element("option", visible(name), { value: name })));
    if (names.includes(chosen)) select.value = chosen;
  }
}

function showTop(doc) {
  for (const kind of ["denied", "allowed"]) {
    fill(id(`top-${kind}`), doc.top[kind], (item) => `${item.rule}\n${item.key}\n${item.shadow}`, [
      { draw: drawKey, isHead: true },
      { text: (item) => visible(item.rule) + (item.shadow ? " (shadow)" : "") },
      numeric((item) => number(item.count) + (item.error ? ` ±${number(item.error)}` : "")),
    ], "None. Limiters count clients with top=100 next to metrics=.");
  }
}

function showLatency({ latency }) {
  const labels = [...latency.bounds_s.map(duration), "more"];
  drawColumns(id("latency"), latency.recent, labels);
  const quantiles = ["p50", "p90", "p99"].map((name) => `${name} ${duration(latency[`${name}_s`])}`);
  const count = latency.recent.reduce((sum, each) => sum + each, 0);
  id("latency-text").textContent = count ? `${number(count)} decisions: ${quantiles.join(", ")}` : "No decision";
  fill(id("durations"), labels.map((label, i) => [label, i]), ([label]) => label, [
    { text: ([label]) => label, isHead: true },
    numeric(([, i]) => number(latency.recent[i])),
    numeric(([, i]) => number(latency.counts[i])),
  ], "");
}

function showStores(doc) {
  const mark = (name, isBad) => (cell, item) => {
    cell.textContent = item[name];
    cell.className = isBad(item) ? "bad" : "good";
  };
  const errors = (one) => Object.entries(one.errors).map(([kind, count]) => `${number(count)} ${kind}`).join(", ") || "0";
  fill(id("stores"), doc.stores, (item) => item.store, [
    { text: (item) => visible(item.store), isHead: true },
    { draw: mark("status", (item) => item.status !== "ok") },
    { draw: mark("breaker", (item) => item.breaker === "open") },
    numeric((item) => number(item.without)),
    numeric((item) => number(item.fallback_decisions)),
    numeric(errors),
    { text: (item) => visible(item.last_error || "–"), kind: "text" },
  ], "No limiter uses a remote store");
  const versions = (item) => item.versions.map((one) => `${one.version} (${one.processes} ${one.processes === 1 ? "process" : "processes"})`);
  fill(id("sources"), doc.sources, (item) => item.source, [
    { text: (item) => visible(item.source), isHead: true },
    { text: (item) => visible(versions(item).join(", ")) },
    numeric((item) => number(item.loaded)),
    numeric((item) => number(item.refused)),
    { text: (item) => visible(item.last_errors.join("; ") || "–"), kind: "text" },
  ], "No rules are read from a file or from Redis");
}

function showAll() {
  if (!state.doc) return;
  const { doc } = state;
  const { host } = doc;
  id("clock").textContent = `Updated ${clock(doc.time)}`;
  id("host").textContent = host.shared
    ? `Numbers of all processes of this host (${host.processes}).`
    : `Numbers of process ${host.pid} alone. With several workers, set PROMETHEUS_MULTIPROC_DIR.`;
  showTiles(doc);
  showNotices(doc);
  showTraffic();
  showRules(doc);
  showTop(doc);
  showLatency(doc);
  showStores(doc);
}

function choose(rule) {
  state.rule = rule;
  showAll();
}
