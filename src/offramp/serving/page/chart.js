// Lines over the last ten minutes.

import { make, makeSvg, say, set } from "./dom.js";
import { SPAN_S } from "./history.js";

const GAP_S = 6;
const [WIDTH, HEIGHT] = [600, 100];

// A round number that is at least `value`.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

const across = (ago) => (WIDTH * (1 - ago / SPAN_S)).toFixed(1);

function path(points, top) {
  let text = "";
  let before = null;
  for (const [ago, value] of points) {
    if (value === null) {
      before = null;
      continue;
    }
    const command = before === null || before - ago > GAP_S ? "M" : "L";
    text += `${command}${across(ago)} ${(HEIGHT * (1 - Math.min(value / top, 1.02))).toFixed(2)}`;
    before = ago;
  }
  return text;
}

// `lines` are {name, points: [[seconds ago, value], ...]}; `limit` is a value to stay below, or null.
export function drawChart(host, { lines, limit = null, format, label }) {
  if (!host.firstChild) {
    const svg = makeSvg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    svg.append(makeSvg("path", { class: "area" }), makeSvg("path", { class: "limit" }));
    const [from, to] = [make("span", { class: "from" }, "−10 min"), make("span", { class: "to" }, "now")];
    host.append(svg, make("span", { class: "top" }), make("span", { class: "limit-text" }), from, to);
  }
  const svg = host.firstChild;
  const largest = Math.max(limit === null ? 0 : limit * 1.15, ...lines.flatMap(({ points }) => points.map(([, value]) => value ?? 0)));
  const top = largest > 0 ? roundUp(largest) : 1;
  for (const line of lines) {
    const drawn = svg.querySelector(`path.${line.name}`) ?? svg.appendChild(makeSvg("path", { class: `line ${line.name}` }));
    set(drawn, { d: path(line.points, top) });
  }
  const [area, dashes] = svg.children;
  const first = lines[0].points.filter(([, value]) => value !== null);
  // down to the axis at both ends, and over the gaps
  const closed = () => `M${across(first[0][0])} ${HEIGHT}${path(first, top).replaceAll("M", "L")}V${HEIGHT}Z`;
  set(area, { d: first.length > 1 ? closed() : "" });
  const height = limit === null ? 0 : HEIGHT * (1 - limit / top);
  set(dashes, { d: limit === null ? "" : `M0 ${height}L${WIDTH} ${height}` });
  set(svg, { "aria-label": label });
  const [, topText, limitText] = host.children;
  say(topText, format(top));
  say(limitText, limit === null ? "" : format(limit));
  limitText.style.top = `${height}%`;
}
