"use strict";
// Where the documents come from: server-sent events, else polling; and the form of one client.

let events = null;
let timer = null;
let streamAgainMs = 0;

function setMode(text, kind) {
  if (id("mode").textContent !== text) id("mode").textContent = text;
  id("mode").className = kind;
}

function take(doc) {
  const isOther = !doc.host.shared && state.doc && state.doc.host.pid !== doc.host.pid;
  if (isOther) state.samples.clear(); // another worker, with its own numbers
  for (const sample of doc.history.samples) state.samples.set(sample.time, sample);
  const oldest = doc.time - doc.history.span_s;
  for (const time of state.samples.keys()) if (time < oldest) state.samples.delete(time);
  state.doc = doc;
  showAll();
}

function disconnect() {
  if (events) events.close();
  events = null;
  clearTimeout(timer);
}

function connect() {
  disconnect();
  if (state.paused || document.hidden) return;
  const mayStream = document.body.dataset.streams === "true" && Date.now() >= streamAgainMs;
  if (mayStream) listen();
  else poll();
}

function listen() {
  events = new EventSource("events");
  events.onmessage = (event) => {
    setMode("Live", "on");
    take(JSON.parse(event.data));
  };
  events.onerror = () => {
    if (!events || events.readyState !== EventSource.CLOSED) return; // it connects again
    streamAgainMs = Date.now() + STREAM_AGAIN_MS;
    connect();
  };
}

async function poll() {
  const { doc } = state;
  const since = doc && doc.host.shared ? Math.max(0, ...state.samples.keys()) : 0;
  try {
    const answer = await fetch(`data?since=${since}`, { cache: "no-store" });
    if (answer.status === 401) return location.reload(); // the session has ended
    if (!answer.ok) throw new Error(String(answer.status));
    take(await answer.json());
    setMode("Live, every 2 s", "on");
  } catch {
    setMode("No connection, trying again", "lost");
  }
  clearTimeout(timer);
  timer = setTimeout(connect, EVERY_MS);
}

// --- One client ---

async function ask(path) {
  const body = JSON.stringify({ rule: id("client-rule").value, key: id("client-key").value });
  id("reset").disabled = true;
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(path, { method: "POST", headers, body });
    const data = await answer.json();
    if (answer.ok) showClient(data, path === "reset");
    else id("client-answer").replaceChildren(element("p", visible(data.detail), { class: "bad" }));
  } catch {
    id("client-answer").replaceChildren(element("p", "No connection", { class: "bad" }));
  }
}

function showClient(data, wasReset) {
  const rows = data.limits.map((one) =>
    element("tr", [
      element("th", one.limit, { scope: "row" }),
      element("td", `${number(Math.floor(one.remaining))} of ${number(one.capacity)}`, { class: "number" }),
      element("td", one.full_after_s === null ? "never" : one.full_after_s ? `in ${duration(one.full_after_s)}` : "now", { class: "number" }),
    ]),
  );
  const heads = [["Limit", ""], ["Left", "number"], ["Full", "number"]];
  const head = element("tr", heads.map(([text, kind]) => element("th", text, { scope: "col", class: kind })));
  const parts = [
    element("p", [wasReset ? "Reset: " : "", element("bdi", visible(data.key))]),
    ...(rows.length ? [element("table", [element("thead", head), element("tbody", rows)])] : []),
  ];
  if (data.unknown) parts.push(element("p", "The limits of this client come with each request, and are not kept.", { class: "note" }));
  if (data.is_local) parts.push(element("p", `These limits are in the memory of each process; this is process ${data.pid}.`, { class: "note" }));
  id("client-answer").replaceChildren(...parts);
  id("reset").disabled = false;
}

// --- Events of the page ---

id("client").addEventListener("submit", (event) => {
  event.preventDefault();
  ask("client");
});
id("client").addEventListener("input", () => (id("reset").disabled = true));
id("reset").addEventListener("click", () => ask("reset"));
id("all-rules").addEventListener("click", () => choose(null));
id("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  id("pause").setAttribute("aria-pressed", state.paused);
  if (state.paused) setMode("Paused", "");
  connect();
});
id("traffic").addEventListener("pointermove", (event) => {
  if (!state.doc) return;
  state.cursor = indexAt(id("traffic"), event.clientX, state.doc.history.span_s / state.doc.history.step_s);
  showTraffic();
});
id("traffic").addEventListener("pointerleave", () => {
  state.cursor = null;
  if (state.doc) showTraffic();
});
document.addEventListener("visibilitychange", connect);
addEventListener("resize", showAll);
connect();
