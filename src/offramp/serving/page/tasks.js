// One row per task: where its windows left, how far early exits agree with full depth, and whether its input has drifted.

import { byId, coloursOf, count, duration, each, make, number, percent, say, set, usedExits } from "./dom.js";
import { gains, total } from "./history.js";

const DRIFT = {
  learning: ["wait", "learning"],
  uncalibrated: ["wait", "cannot be calibrated"],
  steady: ["good", "no drift"], alarm: ["bad", "drift"] };
const CERTIFICATE = {
  none: ["none", "no certificate"],
  holds: ["good", "certificate"],
  renewed: ["good", "renewed: certificate"],
  withdrawn: ["bad", "withdrawn: certificate"],
};

// Windows by exit or by label, of the time that the page is set to.
export function recently(history, span, task, counts) {
  const now = history.last.status.tasks.find(({ name }) => name === task)[counts];
  const entry = span === "all" || history.entries.length < 5 ? null : history.before(Number(span));
  return gains(now, entry?.status.tasks.find(({ name }) => name === task)?.[counts]);
}

export function spanText(history, span) {
  if (span === "all" || history.entries.length < 5) return "windows since the start";
  const entry = history.before(Number(span));
  return entry ? `windows of the last ${Math.round(history.last.at - entry.at)} s` : "windows since the start";
}

export function drawTasks(history, span) {
  const status = history.last.status;
  const exits = usedExits(status);
  const colours = coloursOf(exits);
  say(byId("tasks-span"), status.tasks.length ? spanText(history, span) : "");
  const seen = exits.filter((exit) => status.tasks.some((task) => task.left[exit]));
  each(byId("exit-legend"), seen.length ? seen : exits, (exit) => exit, legendItem, (item, exit) => {
    item.firstChild.style.backgroundColor = colours.get(exit).fill;
    say(item.lastChild, exit);
  });
  const room = document.querySelector("#task-rows .bar")?.clientWidth || 600;
  each(byId("task-rows"), status.tasks, (task) => task.name, createRow, (row, task) => {
    const left = recently(history, span, task.name, "left");
    const [name, mostly, bar, agreement, drift] = row.parts;
    say(name, task.name);
    say(mostly, mostlyText(recently(history, span, task.name, "classes")));
    drawBar(bar, task, left, colours, room);
    drawAgreement(agreement, task.agreement);
    drawDrift(drift, task.drift, status.time);
  });
}

export function legendItem() {
  return make("li", {}, make("span", { class: "swatch" }), make("span"));
}

function createRow() {
  const row = make("li", { class: "task" });
  const [name, mostly] = [make("h3"), make("p", { class: "quiet mostly" })];
  const bar = make("div", { class: "bar", role: "img" });
  const [agreement, drift] = [make("div", { class: "verdict" }), make("div", { class: "verdict" })];
  row.append(make("div", { class: "who" }, name, mostly), bar, agreement, drift);
  row.parts = [name, mostly, bar, agreement, drift];
  return row;
}

function mostlyText(classes) {
  const all = total(classes);
  const first = Object.entries(classes).filter(([, times]) => times).sort(([, a], [, b]) => b - a).slice(0, 2);
  return first.map(([label, times]) => `${label} ${percent(times / all)}`).join(", ");
}

function drawBar(bar, task, left, colours, room) {
  const all = total(left);
  const shares = task.exits.map((exit) => ({ exit, share: all ? left[exit] / all : 0 }));
  const spoken = shares.map(({ exit, share }) => `${exit} ${percent(share)}`).join(", ");
  set(bar, { "aria-label": all ? `${task.name}: ${spoken}` : `${task.name}: no windows`, title: all ? spoken : "no windows" });
  bar.classList.toggle("empty", !all);
  each(bar, shares.filter(({ share }) => share > 0), ({ exit }) => exit, () => make("span"), (part, { exit, share }) => {
    part.style.flexGrow = share;
    part.style.backgroundColor = colours.get(exit).fill;
    part.style.color = colours.get(exit).ink;
    const letters = (share * room) / 10;
    const text = `${exit} ${percent(share)}`;
    say(part, letters > text.length ? text : letters > 4.4 ? percent(share) : "");
  });
}

function verdict(host, mark, word, details) {
  if (!host.firstChild) {
    const said = make("p", { class: "said" }, make("span", { class: "mark", "aria-hidden": "true" }), make("span"));
    host.append(said, make("p", { class: "quiet" }));
  }
  const [said, quiet] = host.children;
  said.dataset.mark = mark;
  say(said.lastChild, word);
  say(quiet, details);
}

function drawAgreement(host, agreement) {
  if (!agreement) return verdict(host, "none", "", "");
  const [mark, word] = CERTIFICATE[agreement.certificate];
  const promise = agreement.promised === null ? "" : ` ${percent(agreement.promised)}`;
  const interval = `${number(100 * agreement.low)}–${percent(agreement.high, 1)}`;
  const known = agreement.high - agreement.low < 0.5;
  verdict(host, mark, known ? `agrees ${interval}` : "too few to say", `${word}${promise}; ${count(agreement.checked)} checked`);
}

function drawDrift(host, drift, time) {
  if (!drift) return verdict(host, "none", "", "");
  const [mark, word] = DRIFT[drift.state];
  const since = drift.since === null ? "" : ` for ${duration(time - drift.since)}`;
  const low = Object.entries(drift.p_values).sort(([, a], [, b]) => a - b);
  const values = low.map(([monitor, p]) => `${monitor} ${number(p, 2)}`).join(", ");
  verdict(host, mark, word + since, `${values ? `p: ${values}; ` : ""}${count(drift.recordings)} recordings`);
  set(host, { title: `An alarm is a p value below ${number(drift.level, 2)}` });
}
