// One card per slice: latency against its budget, and its dials, which an admin key can turn.

import { drawChart } from "./chart.js";
import { byId, each, make, milliseconds, number, say, set } from "./dom.js";
import { keyHeader, rememberKey } from "./keys.js";

export function drawSlices(history) {
  const status = history.last.status;
  each(byId("slice-cards"), status.slices, (slice) => slice.name, createCard, (card, slice) => {
    const [name, priority, value, unit, chart, facts, dials, steps] = card.parts;
    const late = slice.budget_ms !== null && slice.p99_ms !== null && slice.p99_ms > slice.budget_ms;
    card.dataset.mark = late ? "bad" : slice.steps ? "warn" : slice.budget_ms === null ? "none" : "good";
    say(name, slice.name);
    say(priority, `priority ${slice.priority}`);
    say(value, milliseconds(slice.p99_ms));
    say(unit, slice.budget_ms === null ? "p99, no budget" : `p99 of ${milliseconds(slice.budget_ms)}`);
    drawChart(chart, {
      lines: ["p99", "p50"].map((line) => ({ name: line, points: history.series((then) => valueOf(then, slice.name, line)) })),
      limit: slice.budget_ms,
      format: milliseconds,
      label: `${slice.name}: latency over ten minutes, now p50 ${milliseconds(slice.p50_ms)}, p99 ${milliseconds(slice.p99_ms)}`,
    });
    say(facts, `p50 ${milliseconds(slice.p50_ms)} · ${number(slice.requests_per_s)}/s · refused ${number(slice.refused_per_s, 2)}/s`);
    say(dials, dialText(slice));
    say(steps, slice.steps ? `▲ ${slice.steps} ${slice.steps === 1 ? "exit" : "exits"} earlier under load` : "");
    card.edit.onclick = () => openDials(slice, status);
    set(card.edit, { "aria-label": `Change slice ${slice.name}` });
  });
}

function valueOf(status, name, line) {
  return status.slices.find((slice) => slice.name === name)?.[`${line}_ms`] ?? null;
}

function dialText(slice) {
  const leave = slice.policy !== null ? `policy ${slice.policy}` : slice.exit !== null ? `exit ${slice.exit}` : "each task's exit";
  return `${leave}; ${slice.under_load === "shallower" ? "earlier under load" : "refuses under load"}`;
}

function createCard() {
  const [name, priority] = [make("h3"), make("span", { class: "chip" })];
  const [value, unit] = [make("strong"), make("span", { class: "quiet" })];
  const chart = make("div", { class: "chart small" });
  const [facts, dials, steps] = [make("p"), make("p", { class: "quiet" }), make("p", { class: "steps" })];
  const edit = make("button", { type: "button" }, "Change");
  const head = make("div", { class: "head" }, make("span", { class: "mark", "aria-hidden": "true" }), name, priority, edit);
  const card = make("li", { class: "card" }, head, make("p", { class: "value" }, value, " ", unit), chart, facts, dials, steps);
  card.parts = [name, priority, value, unit, chart, facts, dials, steps];
  card.edit = edit;
  return card;
}

function openDials(slice, status) {
  say(byId("dials-title"), `Slice ${slice.name}`);
  byId("dial-budget").value = slice.budget_ms ?? "";
  byId("dial-priority").value = slice.priority;
  byId("dial-load").value = slice.under_load;
  const ways = [
    ["", "at each task's own exit"],
    ...status.exits.map((exit) => [`exit ${exit}`, `at exit ${exit}`]),
    ...status.policies.map((policy) => [`policy ${policy}`, `by policy ${policy}`]),
  ];
  const select = byId("dial-exit");
  select.replaceChildren(...ways.map(([value, text]) => make("option", { value }, text)));
  select.value = slice.policy !== null ? `policy ${slice.policy}` : slice.exit !== null ? `exit ${slice.exit}` : "";
  say(byId("dials-message"), "");
  byId("dials").dataset.slice = slice.name;
  byId("dials").showModal();
}

async function saveDials(event) {
  event.preventDefault();
  const dialog = byId("dials");
  const [kind, ...rest] = byId("dial-exit").value.split(" ");
  const way = rest.join(" ");
  rememberKey(byId("dial-key").value);
  const level = {
    budget_ms: byId("dial-budget").value === "" ? null : byId("dial-budget").valueAsNumber,
    priority: byId("dial-priority").valueAsNumber,
    exit: kind === "exit" ? way : null,
    policy: kind === "policy" ? way : null,
    under_load: byId("dial-load").value,
  };
  say(byId("dials-message"), "Saving");
  try {
    const response = await fetch(`slices/${encodeURIComponent(dialog.dataset.slice)}`, {
      method: "PUT",
      headers: { "Content-Type": "application/json", ...keyHeader() },
      body: JSON.stringify(level),
    });
    if (response.ok) return dialog.close();
    const answer = await response.json().catch(() => ({}));
    say(byId("dials-message"), answer.error ?? `The server answers ${response.status} ${response.statusText}`);
  } catch {
    say(byId("dials-message"), "The server does not answer");
  }
}

export function prepareDials() {
  byId("dials").querySelector("form").addEventListener("submit", saveDials);
  byId("dials-cancel").addEventListener("click", () => byId("dials").close());
}
