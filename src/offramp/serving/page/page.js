// The live page: asks for /status once a second, and draws it.

import { drawChart } from "./chart.js";
import { byId, bytes, count, duration, each, make, number, say } from "./dom.js";
import { alarmsOf, drawFigures } from "./figures.js";
import { History, total } from "./history.js";
import { keyHeader, prepareKeys } from "./keys.js";
import { prepareRecording, showChoices } from "./recording.js";
import { drawSlices, prepareDials } from "./slices.js";
import { drawTasks } from "./tasks.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const STALE_S = 4;
const STATES = { starting: ["wait", "Starting"], ready: ["good", "Ready"], draining: ["warn", "Draining"] };
const NOTICES = {
  starting: "Starting: not every model is ready yet.",
  draining: "Draining: the server finishes what it has, and takes nothing new.",
};

const history = new History();
const clock = () => performance.now() / 1000;
let span = "60";
let heard = null;
let heardAt = "";
let problem = "";

async function poll() {
  const began = performance.now();
  try {
    const response = await fetch("status", { headers: keyHeader(), signal: AbortSignal.timeout(PATIENCE_MS) });
    if ([401, 403].includes(response.status)) throw new Refusal("The server asks for a key: give it with the button above.");
    if (!response.ok) throw new Refusal(`The server answers ${response.status} ${response.statusText}.`);
    const status = await response.json();
    // the page belongs to its server's version
    if (history.last && history.last.status.version !== status.version) return location.reload();
    heard = clock();
    heardAt = new Date().toLocaleTimeString();
    problem = "";
    history.add(status, heard);
    draw();
  } catch (error) {
    problem = error instanceof Refusal ? error.message : "";
  }
  drawLink();
  setTimeout(poll, Math.max(100, EVERY_MS - (performance.now() - began)));
}

class Refusal extends Error {}

function draw() {
  const status = history.last.status;
  say(byId("title"), status.title);
  const workers = status.workers.length === 1 ? "1 worker" : `${status.workers.length} workers`;
  say(byId("facts"), `${status.encoder} · up ${duration(status.uptime_s)} · ${workers} · Offramp ${status.version}`);
  drawFigures(history, span);
  drawTasks(history, span);
  drawSlices(history);
  drawTraffic();
  drawRefusals(status);
  drawQueues(status);
  drawWorkers(status);
  showChoices(status);
}

// Whether there is a server, and in which state.
function drawLink() {
  const since = heard === null ? null : clock() - heard;
  const gone = since === null || since > STALE_S;
  const state = history.last?.status.state;
  document.body.dataset.link = gone || problem ? (since === null && !problem ? "waiting" : "gone") : "live";
  const [mark, word] = problem ? ["bad", "Refused"] : gone ? ["bad", "No answer"] : STATES[state];
  const pill = byId("state");
  if (pill.dataset.mark !== mark) pill.dataset.mark = mark;
  say(pill.querySelector(".word"), word);
  // not read out, for it changes every second
  say(pill.querySelector(".since"), (gone || problem) && since !== null ? `for ${duration(since)}` : "");
  const stale = since === null ? "The server does not answer." : `The server does not answer. What stands here is of ${heardAt}.`;
  const notice = problem || (gone ? stale : NOTICES[state] ?? "");
  say(byId("notice"), notice);
  byId("notice").hidden = !notice;
  byId("notice").dataset.mark = problem || gone ? "bad" : "warn";
  const alarms = alarmsOf(history.last?.status);
  const warning = gone || alarms.length || state === "draining" ? "▲ " : "";
  document.title = `${warning}${history.last ? history.last.status.title : "Offramp"}`;
}

function drawTraffic() {
  const status = history.last.status;
  drawChart(byId("traffic-chart"), {
    lines: [
      { name: "all", points: history.series((then) => then.requests_per_s) },
      { name: "refused", points: history.series((then) => total(then.refused_per_s)) },
    ],
    format: (value) => number(value),
    label: `Requests per second over ten minutes, now ${number(status.requests_per_s)}, of which ${number(total(status.refused_per_s))} refused`,
  });
}

function cells(row, ...texts) {
  while (row.children.length < texts.length) row.append(make(row.children.length ? "td" : "th", row.children.length ? {} : { scope: "row" }));
  texts.forEach((text, index) => text !== null && say(row.children[index], text));
}

const createRow = () => make("tr");

function drawRefusals(status) {
  const reasons = Object.entries(status.refused).filter(([, times]) => times).sort(([, a], [, b]) => b - a);
  each(byId("refusal-rows"), reasons, ([reason]) => reason, createRow, (row, [reason, times]) => {
    cells(row, reason, number(status.refused_per_s[reason], 2), count(times));
  });
  document.querySelector("#refusals table").hidden = !reasons.length;
  byId("no-refusals").hidden = reasons.length > 0;
}

function drawQueues(status) {
  const most = Math.max(16, ...status.segments.map(({ waiting }) => waiting));
  each(byId("queue-rows"), status.segments, ({ name }) => name, createRow, (row, segment) => {
    cells(row, segment.name, null, number(segment.batch, 2));
    const cell = row.children[1];
    if (!cell.firstChild) {
      const empty = make("span", { class: "gauge", "aria-hidden": "true" }, make("span"));
      cell.append(make("div", { class: "gauged" }, empty, make("span")));
    }
    const [gauge, text] = cell.firstChild.children;
    gauge.firstChild.style.width = `${(100 * segment.waiting) / most}%`;
    say(text, count(segment.waiting));
  });
  document.querySelector("#queues table").hidden = !status.segments.length;
  byId("no-queues").hidden = status.segments.length > 0;
}

function drawWorkers(status) {
  each(byId("worker-rows"), status.workers, ({ number: place, pid }) => `${place} ${pid}`, createRow, (row, worker) => {
    const [process, state] = [`${worker.number} (${worker.pid})`, STATES[worker.state][1]];
    cells(row, process, state, number(worker.requests_per_s), bytes(worker.memory_bytes), duration(worker.uptime_s));
  });
}

function prepareTheme() {
  const wanted = new URLSearchParams(location.search).get("theme");
  const root = document.documentElement;
  if (wanted === "light" || wanted === "dark") root.dataset.theme = wanted;
  byId("theme").addEventListener("click", () => {
    const dark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  });
}

function prepareSpan() {
  byId("span").addEventListener("change", (event) => {
    span = event.target.value;
    if (history.last) draw();
  });
}

prepareTheme();
prepareSpan();
prepareKeys();
prepareDials();
prepareRecording();
setInterval(drawLink, EVERY_MS);
poll();
