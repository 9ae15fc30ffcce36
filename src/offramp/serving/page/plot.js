// The spectrogram of a recording, and on it the windows with label, confidence and exit.

import { byId, coloursOf, count, make, makeSvg, number, percent, say, set, withUnit } from "./dom.js";

const WIDEST = 12000;
const BOXES = 100;
const LETTER = 9;
const plot = document.querySelector("#recording-answer .plot");
const scroller = plot.querySelector(".scroller");
const stage = plot.querySelector(".stage");
const canvas = plot.querySelector("canvas");
const boxes = plot.querySelector(".boxes");
const bars = plot.querySelector(".bars");
const names = plot.querySelector(".names");

let answer = null;
let colours = null;
let zoom = 1;
let current = -1;

export function preparePlot() {
  stage.addEventListener("pointermove", (event) => point(at(event.clientX)));
  stage.addEventListener("click", (event) => point(at(event.clientX)));
  stage.addEventListener("keydown", (event) => {
    const last = (answer?.windows.start.length ?? 0) - 1;
    const steps = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: last };
    if (event.key === "+" || event.key === "-") setZoom(event.key === "+" ? zoom * 2 : zoom / 2);
    else if (event.key in steps && last >= 0) point(Math.min(Math.max(steps[event.key], 0), last), true);
    else return;
    event.preventDefault();
  });
  byId("zoom-in").addEventListener("click", () => setZoom(zoom * 2));
  byId("zoom-out").addEventListener("click", () => setZoom(zoom / 2));
  new ResizeObserver(() => answer && drawNames()).observe(scroller);
}

// Draw an answer of POST /recording; gives the colours of the exits.
export function drawPlot(drawn, exits) {
  answer = drawn;
  colours = coloursOf(exits);
  current = -1;
  drawCanvas();
  drawWindows();
  drawFrequencies();
  setZoom(1);
  say(byId("window-details"), "Point at a window, or move with the arrow keys.");
  return colours;
}

function drawCanvas() {
  const { bins, columns, cells, samples_per_column: wide, floor_db: floor, ceiling_db: ceiling } = answer.spectrogram;
  const power = Uint8Array.from(atob(cells), (letter) => letter.charCodeAt(0));
  [canvas.width, canvas.height] = [columns, bins];
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, bins);
  for (let bin = 0; bin < bins; bin += 1) {
    for (let column = 0; column < columns; column += 1) {
      // black of as much cover as there is power: white in the dark, see the style sheet
      image.data[4 * ((bins - 1 - bin) * columns + column) + 3] = power[bin * columns + column];
    }
  }
  context.putImageData(image, 0, 0);
  // the last column may reach beyond the end
  canvas.style.width = `${(100 * columns * wide) / answer.recording.samples}%`;
  set(canvas, { "aria-label": `Spectrogram from ${number(floor)} to ${number(ceiling)} dB of full scale; ${summary()}` });
}

function summary() {
  const { start, confidence } = answer.windows;
  const sure = confidence.filter((value) => value !== null);
  const mean = sure.length ? `, mean confidence ${number(sure.reduce((sum, value) => sum + value, 0) / sure.length, 2)}` : "";
  return `${start.length} windows${mean}`;
}

function drawWindows() {
  const { start, stop, confidence, exit, prediction } = answer.windows;
  const samples = answer.recording.samples;
  for (const layer of [boxes, bars]) set(layer, { viewBox: `0 0 ${samples} 100` });
  boxes.classList.toggle("few", start.length <= BOXES);
  boxes.replaceChildren(...start.map((from, index) => {
    const { fill } = colours.get(exit[index]);
    const box = makeSvg("rect", { x: from, y: 0, width: stop[index] - from, height: 100, fill, stroke: fill });
    box.classList.toggle("rejected", prediction[index] === null);
    return box;
  }));
  bars.replaceChildren(...start.map((from, index) => {
    // where windows overlap, a bar ends where the next one begins
    const end = Math.min(stop[index], start[index + 1] ?? Infinity);
    const height = 100 * (confidence[index] ?? 1);
    return makeSvg("rect", { x: from, y: 100 - height, width: Math.max(end - from, samples / 4000), height, fill: colours.get(exit[index]).fill });
  }), makeSvg("path", { d: `M0 50H${samples}`, class: "half" }));
}

function answerText(value) {
  if (value === null) return "rejected";
  if (Array.isArray(value)) return value.map((part) => number(part)).join(", ");
  return typeof value === "number" ? number(value) : value;
}

// Windows in a row that got the same answer share one name.
function drawNames() {
  const { start, stop, prediction, confidence } = answer.windows;
  const samples = answer.recording.samples;
  const room = stage.clientWidth;
  const runs = [];
  start.forEach((from, index) => {
    const text = answerText(prediction[index]);
    const last = runs.at(-1);
    const joins = last && last.text === text && from <= last.stop + (stop[index] - from) / 2;
    if (joins) {
      last.stop = stop[index];
      last.sure.push(confidence[index]);
    } else runs.push({ text, start: from, stop: stop[index], sure: [confidence[index]] });
  });
  names.replaceChildren(...runs.flatMap((run) => {
    const width = (room * (run.stop - run.start)) / samples;
    if (width < 14) return [];
    const mean = run.sure[0] === null ? "" : ` ${(run.sure.reduce((sum, value) => sum + value, 0) / run.sure.length).toFixed(2)}`;
    const name = make("span", { title: `${run.text}${mean}` }, width > 12 + LETTER * (run.text.length + mean.length) ? run.text + mean : run.text);
    name.style.left = `${(100 * run.start) / samples}%`;
    name.style.width = `${(100 * (run.stop - run.start)) / samples}%`;
    return [name];
  }));
}

function drawFrequencies() {
  const { two_sided: twoSided } = answer.spectrogram;
  const { sample_rate: rate, frequency_hz: centre } = answer.recording;
  const ends = twoSided ? [0.5, 0, -0.5] : [0.5, 0.25, 0];
  const texts = ends.map((place) => {
    if (!rate) return place ? `${place > 0 ? "" : "−"}${Math.abs(place)} of the rate` : "0";
    // beside a carrier of gigahertz, what matters is how far away
    if (twoSided && centre !== null) return place ? `${place > 0 ? "+" : "−"}${withUnit(Math.abs(place) * rate, "Hz")}` : withUnit(centre, "Hz");
    return withUnit((centre ?? 0) + place * rate, "Hz");
  });
  plot.querySelector(".frequencies").replaceChildren(...texts.map((text) => make("span", {}, text)));
}

function drawTimes() {
  const { samples, sample_rate: rate } = answer.recording;
  const parts = Math.max(2, Math.min(12 * zoom, Math.floor(stage.clientWidth / 140)));
  const ticks = Array.from({ length: parts + 1 }, (_, index) => index / parts);
  stage.querySelector(".times").replaceChildren(...ticks.map((place) => {
    const tick = make("span", {}, rate ? withUnit((place * samples) / rate, "s") : count(Math.round(place * samples)));
    tick.style.left = `${100 * place}%`;
    return tick;
  }));
}

function setZoom(wanted) {
  if (!answer) return;
  const most = Math.max(1, Math.min(64, 2 ** Math.floor(Math.log2(WIDEST / Math.max(1, scroller.clientWidth)))));
  const middle = (scroller.scrollLeft + scroller.clientWidth / 2) / stage.clientWidth;
  zoom = Math.min(Math.max(wanted, 1), most);
  stage.style.width = `${100 * zoom}%`;
  say(byId("zoom-text"), `${zoom} x`);
  byId("zoom-out").disabled = zoom === 1;
  byId("zoom-in").disabled = zoom === most;
  scroller.scrollLeft = middle * stage.clientWidth - scroller.clientWidth / 2;
  drawNames();
  drawTimes();
}

// The window whose middle is nearest to a place on the screen.
function at(x) {
  if (!answer) return -1;
  const { left, width } = stage.getBoundingClientRect();
  const sample = ((x - left) / width) * answer.recording.samples;
  const { start, stop } = answer.windows;
  let best = -1;
  let least = Infinity;
  start.forEach((from, index) => {
    const away = Math.abs((from + stop[index]) / 2 - sample);
    if (sample >= from && sample < stop[index] && away < least) [best, least] = [index, away];
  });
  return best;
}

function point(index, follow = false) {
  if (index === current || index < 0) return;
  for (const layer of [boxes, bars]) {
    layer.children[current]?.classList.remove("current");
    layer.children[index].classList.add("current");
  }
  current = index;
  const { start, stop, time, prediction, confidence, exit } = answer.windows;
  const { sample_rate: rate } = answer.recording;
  const when = rate ? ` (${withUnit(start[index] / rate, "s")} to ${withUnit(stop[index] / rate, "s")})` : "";
  const sure = confidence[index] === null ? "" : `, confidence ${percent(confidence[index], 1)}`;
  const said = `${answerText(prediction[index])}${sure}, left at ${exit[index]}`;
  const text = `Window ${index + 1} of ${start.length}: ${said}; samples ${start[index]} to ${stop[index]}${when}`;
  say(byId("window-details"), time[index] ? `${text}, ${time[index]}` : text);
  if (follow) {
    const middle = ((start[index] + stop[index]) / 2 / answer.recording.samples) * stage.clientWidth;
    if (middle < scroller.scrollLeft || middle > scroller.scrollLeft + scroller.clientWidth) scroller.scrollLeft = middle - scroller.clientWidth / 2;
  }
}
