// The five large numbers at the top.

import { byId, count, each, make, number, percent, say } from "./dom.js";
import { total } from "./history.js";
import { recently } from "./tasks.js";

const NONE = "–";
const NEARLY = 0.9; // of a budget

export const alarmsOf = (status) =>
  (status?.tasks ?? []).filter((task) => task.drift?.state === "alarm").map((task) => task.name);

export function drawFigures(history, span) {
  const status = history.last.status;
  const tiles = [requests(status), refusals(status), nearest(status), early(history, span), drift(status)];
  each(byId("figures"), tiles, ({ name }) => name, create, (tile, { name, value, unit = "", more, mark = "none" }) => {
    const [title, line, rest] = tile.children;
    tile.dataset.mark = mark;
    say(title.lastChild, name);
    say(line.firstChild, value);
    say(line.lastChild, unit);
    say(rest, more);
  });
}

function create() {
  const title = make("h2", {}, make("span", { class: "mark", "aria-hidden": "true" }), make("span"));
  const line = make("p", { class: "value" }, make("strong"), " ", make("span"));
  return make("div", { class: "tile" }, title, line, make("p", { class: "quiet" }));
}

function requests(status) {
  const value = number(status.requests_per_s);
  return { name: "Requests", value, unit: "per s", more: `${count(status.requests)} since the start` };
}

function refusals(status) {
  const refused = total(status.refused_per_s);
  const share = refused / status.requests_per_s;
  const more = refused ? `${percent(share, 1)} of the requests` : "nothing is turned away";
  return { name: "Refused", value: number(refused, 2), unit: "per s", more, mark: share > 0.01 ? "warn" : "good" };
}

// The slice that has used up most of its budget.
function nearest(status) {
  const name = "Nearest to its budget";
  const [slice] = status.slices
    .filter(({ budget_ms: budget, p99_ms: p99 }) => budget !== null && p99 !== null)
    .sort((a, b) => b.p99_ms / b.budget_ms - a.p99_ms / a.budget_ms);
  if (!slice) return { name, value: NONE, more: "no slice with a budget was asked" };
  const share = slice.p99_ms / slice.budget_ms;
  const more = `p99 ${number(slice.p99_ms)} of ${number(slice.budget_ms)} ms`;
  return { name, value: percent(share), unit: slice.name, more, mark: share > 1 ? "bad" : share > NEARLY ? "warn" : "good" };
}

function early(history, span) {
  const status = history.last.status;
  const full = status.exits.at(-1);
  const left = status.tasks.map((task) => recently(history, span, task.name, "left"));
  const all = left.reduce((sum, counts) => sum + total(counts), 0);
  const deep = left.reduce((sum, counts) => sum + (counts[full] ?? 0), 0);
  return { name: "Left early", value: all ? percent(1 - deep / all) : NONE, more: `of the windows, before ${full ?? "full depth"}` };
}

function drift(status) {
  const name = "Drift";
  const alarms = alarmsOf(status);
  const withdrawn = status.tasks.filter((task) => task.agreement?.certificate === "withdrawn").map((task) => task.name);
  const able = (task) => task.drift && task.drift.state !== "uncalibrated";
  const watched = status.tasks.filter(able).length;
  if (!watched && !withdrawn.length) return { name, value: NONE, more: `0 of ${status.tasks.length} tasks can be watched` };
  const more = [alarms.join(", "), withdrawn.length ? `certificate withdrawn: ${withdrawn.join(", ")}` : ""];
  const loud = alarms.length || withdrawn.length;
  return {
    name,
    value: loud ? String(loud) : "none",
    unit: alarms.length > 1 ? "alarms" : alarms.length ? "alarm" : loud ? "withdrawn" : "",
    more: more.filter(Boolean).join("; ") || `${watched} of ${status.tasks.length} tasks are watched`,
    mark: loud ? "bad" : "good",
  };
}
