// The live page: asks for /status once a second, and draws it.

import { drawChart } from "./chart.js";
import { byId, bytes, count, duration, each, make, number, percent, say } from "./dom.js";
import { History, total } from "./history.js";
import { keyHeader, prepareKeys } from "./keys.js";
import { prepareRecording, showChoices } from "./recording.js";
import { drawSlices, nearest, prepareDials } from "./slices.js";
import { drawTasks, recently } from "./tasks.js";

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
    if (!response.ok) throw new Error(needsKey(response.status) ? "The server asks for a key: type it in above." : `The server answers ${response.status}.`);
    const status = await response.json();
    // the page belongs to its server's version
    if (history.last && history.last.status.version !== status.version) return location.reload();
    heard = clock();
    heardAt = new Date().toLocaleTimeString();
    problem = "";
    history.add(status, heard);
    draw();
  } catch (error) {
    problem = error instanceof TypeError || error.name === "TimeoutError" ? "" : error.message;
  }
  drawLink();
  setTimeout(poll, Math.max(100, EVERY_MS - (performance.now() - began)));
}

const needsKey = (code) => code === 401 || code === 403;

function draw() {
  const status = history.last.status;
  say(byId("title"), status.title);
  const workers = status.workers.length === 1 ? "1 worker" : `${status.workers.length} workers`;
  say(byId("facts"), `${status.encoder} · up ${duration(status.uptime_s)} · ${workers} · Offramp ${status.version}`);
  drawFigures(status);
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
  document.body.dataset.link = gone ? (since === null && !problem ? "waiting" : "gone") : "live";
  const [mark, word] = gone ? ["bad", since === null ? "No answer" : `No answer for ${duration(since)}`] : STATES[state];
  const pill = byId("state");
  if (pill.dataset.mark !== mark) pill.dataset.mark = mark;
  say(pill.lastElementChild, word);
  const stale = since === null ? "The server does not answer." : `The server does not answer. What stands here is of ${heardAt}.`;
  const notice = problem || (gone ? stale : NOTICES[state] ?? "");
  say(byId("notice"), notice);
  byId("notice").hidden = !notice;
  byId("notice").dataset.mark = problem || gone ? "bad" : "warn";
  const alarms = alarmsOf(history.last?.status);
  const warning = gone || alarms.length || state === "draining" ? "▲ " : "";
  document.title = `${warning}${history.last ? history.last.status.title : "Offramp"}`;
}

const alarmsOf = (status) => (status?.tasks ?? []).filter((task) => task.drift?.state === "alarm").map((task) => task.name);
const withdrawnOf = (status) => status.tasks.filter((task) => task.agreement?.certificate === "withdrawn").map((task) => task.name);

function drawFigures(status) {
  const refused = total(status.refused_per_s);
  const budget = nearest(status);
  const left = {};
  for (const task of status.tasks) for (const [exit, times] of Object.entries(recently(history, span, task.name, "left"))) left[exit] = (left[exit] ?? 0) + times;
  const full = status.exits.at(-1);
  const alarms = alarmsOf(status);
  const withdrawn = withdrawnOf(status);
  const watched = status.tasks.filter((task) => task.drift).length;
  const tiles = [
    { name: "Requests", value: number(status.requests_per_s), unit: "per s", more: `${count(status.requests)} since the start`, mark: "none" },
    { name: "Refused", value: number(refused, 2), unit: "per s", more: refused ? `${percent(refused / status.requests_per_s, 1)} of the requests` : "nothing is turned away", mark: refused > 0.01 * status.requests_per_s ? "warn" : "good" },
    budget
      ? { name: "Nearest to its budget", value: percent(budget[0]), unit: budget[1].name, more: `p99 ${number(budget[1].p99_ms)} of ${number(budget[1].budget_ms)} ms`, mark: budget[0] > 1 ? "bad" : budget[0] > 0.9 ? "warn" : "good" }
      : { name: "Nearest to its budget", value: "–", unit: "", more: "no slice with a budget was asked", mark: "none" },
    { name: "Left early", value: total(left) ? percent(1 - (left[full] ?? 0) / total(left)) : "–", unit: "", more: `of the windows, before ${full ?? "full depth"}`, mark: "none" },
    { name: "Drift", value: alarms.length ? String(alarms.length) : watched ? "none" : "–", unit: alarms.length ? (alarms.length === 1 ? "alarm" : "alarms") : "", more: [alarms.join(", "), withdrawn.length ? `certificate withdrawn: ${withdrawn.join(", ")}` : ""].filter(Boolean).join("; ") || (watched ? `${watched} tasks are watched` : "no task is watched"), mark: alarms.length || withdrawn.length ? "bad" : watched ? "good" : "none" },
  ];
  each(byId("figures"), tiles, ({ name }) => name, createTile, (tile, { name, value, unit, more, mark }) => {
    const [title, line, rest] = tile.children;
    tile.dataset.mark = mark;
    say(title.lastChild, name);
    say(line.firstChild, value);
    say(line.lastChild, unit);
    say(rest, more);
  });
}

function createTile() {
  return make("div", { class: "tile" }, make("h2", {}, make("span", { class: "mark", "aria-hidden": "true" }), make("span")), make("p", { class: "value" }, make("strong"), " ", make("span")), make("p", { class: "quiet" }));
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
  each(byId("refusal-rows"), reasons, ([reason]) => reason, createRow, (row, [reason, times]) => cells(row, reason, number(status.refused_per_s[reason], 2), count(times)));
  document.querySelector("#refusals table").hidden = !reasons.length;
  byId("no-refusals").hidden = reasons.length > 0;
}

function drawQueues(status) {
  const most = Math.max(16, ...status.segments.map(({ waiting }) => waiting));
  each(byId("queue-rows"), status.segments, ({ name }) => name, createRow, (row, segment) => {
    cells(row, segment.name, null, number(segment.batch, 2));
    const cell = row.children[1];
    if (!cell.firstChild) cell.append(make("div", { class: "gauged" }, make("span", { class: "gauge", "aria-hidden": "true" }, make("span")), make("span")));
    const [gauge, text] = cell.firstChild.children;
    gauge.firstChild.style.width = `${(100 * segment.waiting) / most}%`;
    say(text, count(segment.waiting));
  });
  document.querySelector("#queues table").hidden = !status.segments.length;
  byId("no-queues").hidden = status.segments.length > 0;
}

function drawWorkers(status) {
  each(byId("worker-rows"), status.workers, ({ number: place, pid }) => `${place} ${pid}`, createRow, (row, worker) => {
    cells(row, `${worker.number} (${worker.pid})`, STATES[worker.state][1], number(worker.requests_per_s), bytes(worker.memory_bytes), duration(worker.uptime_s));
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
