// A recording that is dropped on the page: sent to the server, and drawn when its answers are there.

import { byId, bytes, count, each, make, percent, say, withUnit } from "./dom.js";
import { keyHeader } from "./keys.js";
import { drawPlot, preparePlot } from "./plot.js";
import { legendItem } from "./tasks.js";

let pending = {};
let chosen = null;
let limit = Infinity;
let asking = null;
let exits = [];

export function prepareRecording() {
  preparePlot();
  byId("files").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.add("dragging");
    });
  }
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take([...event.dataTransfer.files]);
  });
  for (const id of ["recording-task", "recording-slice"]) byId(id).addEventListener("change", () => chosen && ask());
}

// Tasks and slices to choose from.
export function showChoices(status) {
  limit = status.most_recording_bytes;
  exits = status.exits;
  const fill = (id, names) => {
    each(byId(id), names, (name) => name, (name) => make("option", { value: name }), (option, name) => say(option, name));
    byId(id).disabled = !names.length;
  };
  fill("recording-task", status.tasks.filter((task) => task.takes_recordings).map((task) => task.name));
  fill("recording-slice", status.slices.map((slice) => slice.name));
}

const ending = (file) => file.name.match(/\.sigmf(-meta|-data)?$/i)?.[0].toLowerCase();

// Both files may come together or one after the other.
function take(files) {
  if (!files.length) return;
  const known = files.filter(ending);
  if (!known.length) return fail(`${files[0].name} is no SigMF recording: drop .sigmf-meta and .sigmf-data, or a .sigmf archive`);
  if (known.length > 2 || (known.length === 2 && ending(known[0]) === ending(known[1]))) return fail("Drop one recording at a time.");
  const stem = (file) => file.name.replace(/\.sigmf(-meta|-data)?$/i, "");
  // a part that waits for its other half is forgotten when another recording comes
  if (Object.values(pending).some((file) => stem(file) !== stem(known[0]))) pending = {};
  for (const file of known) pending[ending(file)] = file;
  const { ".sigmf": archive, ".sigmf-meta": meta, ".sigmf-data": data } = pending;
  if (!archive && !(meta && data)) {
    return tell(`${known[0].name}: now drop its ${meta ? ".sigmf-data" : ".sigmf-meta"} too.`);
  }
  chosen = archive ? { name: archive.name, parts: [archive] } : { name: meta.name.replace(/-meta$/i, ""), parts: [meta, data], metadata: meta.size };
  pending = {};
  ask();
}

async function ask() {
  const task = byId("recording-task").value;
  const body = new Blob(chosen.parts);
  if (!task) return fail("No task of this server takes recordings.");
  if (body.size > limit) return fail(`${chosen.name} has ${bytes(body.size)}, and this server takes ${bytes(limit)}: cut a shorter one from it.`);
  asking?.abort();
  const mine = (asking = new AbortController());
  tell(`Asking ${task} about ${chosen.name} …`);
  const query = new URLSearchParams({ task, slice: byId("recording-slice").value });
  if (chosen.metadata !== undefined) query.set("metadata", chosen.metadata);
  try {
    const headers = { "Content-Type": "application/octet-stream", ...keyHeader() };
    const response = await fetch(`recording?${query}`, { method: "POST", headers, body, signal: mine.signal });
    const answer = await response.json().catch(() => ({ error: `The server answers ${response.status} ${response.statusText}` }));
    if (!response.ok) return fail(answer.error);
    show(answer);
  } catch (error) {
    if (mine === asking && error.name !== "AbortError") fail(`${chosen.name} cannot be sent: the server does not answer, or the file has changed.`);
  }
}

function tell(text) {
  say(byId("recording-message"), text);
  byId("recording-message").dataset.mark = "none";
}

function fail(text) {
  say(byId("recording-message"), text);
  byId("recording-message").dataset.mark = "bad";
}

function counted(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

function show(answer) {
  const { recording, windows } = answer;
  const asked = windows.start.length;
  const rate = recording.sample_rate;
  const facts = [
    chosen.name,
    recording.datatype,
    recording.channels > 1 ? `${recording.channels} channels` : "",
    `${count(recording.samples)} samples`,
    rate ? `at ${withUnit(rate, "Hz")}: ${withUnit(recording.samples / rate, "s")}` : "",
  ];
  say(byId("recording-facts"), facts.filter(Boolean).join(" · "));
  const all = answer.cut > asked ? `${count(asked)} of its ${count(answer.cut)} windows, evenly spread` : `${count(asked)} windows`;
  tell(`${answer.task}: ${all}.`);
  const left = counted(windows.exit);
  const depths = [...left.keys()].sort((a, b) => exits.indexOf(a) - exits.indexOf(b));
  byId("recording-answer").hidden = false;
  const colours = drawPlot(answer, depths);
  each(byId("recording-legend"), depths, (exit) => exit, legendItem, (item, exit) => {
    item.firstChild.style.backgroundColor = colours.get(exit).fill;
    say(item.lastChild, `${exit} ${percent(left.get(exit) / asked)}`);
  });
  const labels = answer.kind === "classification" ? [...counted(windows.prediction)].sort(([, a], [, b]) => b - a) : [];
  each(byId("recording-labels"), labels, ([label]) => JSON.stringify(label), () => make("li"), (item, [label, times]) => {
    say(item, `${label ?? "rejected"} ${count(times)}`);
  });
  each(byId("recording-notes"), answer.notes, (note) => note, () => make("li"), say);
  byId("recording").scrollIntoView({ block: "nearest", behavior: "smooth" });
}
