// Elements, text and numbers. Whatever comes from the server becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

export function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  return element;
}

export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// One element per item, kept while its key is there, so that focus, hover and readers of screens are not disturbed.
const kept = new WeakMap();
export function each(parent, items, keyOf, create, update) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  let place = parent.firstElementChild;
  items.forEach((item, index) => {
    const key = keyOf(item, index);
    const element = before.get(key) ?? create(item);
    before.delete(key);
    now.set(key, element);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item, index);
  });
  for (const element of before.values()) element.remove();
  kept.set(parent, now);
}

const MISSING = "–";
const NARROW = "\u202f"; // does not break

// A whole number in full.
export const count = (value) => value.toLocaleString("en");

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return MISSING;
  const size = Math.abs(value);
  if (size >= 10 ** digits) return count(Math.round(value));
  if (size === 0) return "0";
  if (size < 0.001) return value.toExponential(0).replace("e-", "e−");
  const places = Math.max(0, Math.min(digits, digits - 1 - Math.floor(Math.log10(size))));
  return String(Number(value.toFixed(places)));
}

export function percent(share, digits = 0) {
  return Number.isFinite(share) ? `${(100 * share).toFixed(digits)}${NARROW}%` : MISSING;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return MISSING;
  return value >= 1000 ? `${number(value / 1000)}${NARROW}s` : `${number(value)}${NARROW}ms`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${whole} s`;
}

export function bytes(size) {
  if (!size) return MISSING;
  const steps = ["B", "kB", "MB", "GB", "TB"];
  const step = Math.min(steps.length - 1, Math.floor(Math.log10(size) / 3));
  return `${number(size / 1000 ** step)}${NARROW}${steps[step]}`;
}

// Numbers with a prefix of the SI, e.g. frequencies.
export function withUnit(value, unit) {
  const size = Math.abs(value);
  const prefixes = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
  const [factor, prefix] = prefixes.find(([least]) => size >= least * 0.9999) ?? [1, ""];
  return `${number(value / factor, 4)}${NARROW}${prefix}${unit}`;
}

// From amber (shallow) to violet (deep): hue and lightness both change all the way, so that they can be told apart in grey too.
const RAMP = [[251, 176, 45], [238, 123, 81], [204, 74, 128], [128, 62, 208]];

export function colourAt(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const below = Math.min(Math.floor(place), RAMP.length - 2);
  const mixed = RAMP[below].map((value, channel) => Math.round(value + (RAMP[below + 1][channel] - value) * (place - below)));
  return { fill: `rgb(${mixed.join(" ")})`, ink: luminance(mixed) > 0.179 ? "#000000" : "#ffffff" };
}

// Relative luminance (WCAG 2): black and white stand out equally on 0.179.
function luminance(colour) {
  const [red, green, blue] = colour.map((value) => (value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

// Colours of all exits that windows leave at, in order of depth.
export function coloursOf(exits) {
  return new Map(exits.map((exit, index) => [exit, colourAt(exits.length > 1 ? index / (exits.length - 1) : 0)]));
}

export function usedExits(status) {
  const used = new Set(status.tasks.flatMap((task) => task.exits));
  const known = status.exits.filter((exit) => used.has(exit));
  return [...[...used].filter((exit) => !status.exits.includes(exit)), ...known];
}
