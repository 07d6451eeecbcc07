// The drawing of a memory over stream time: one bar for each centroid, one line for each key frame.

import { setAll, shape } from "./dom.js";
import { clock } from "./format.js";

const GUTTER = 46; // pixels at the left, for the weights
const EDGE = 10; // pixels at the right
const LEADERS = 22; // height of the lines from the pictures to the axis
const AXIS = 20; // height of the axis
const ROW = 14; // height of a centroid's row
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
const TICK_APART = 70; // pixels
const THUMB = 66; // height of a picture
const THUMB_GAP = 4;

/** First and last time of a centroid; the control memories keep whole frames, which have no span. */
export const spanOf = (one) => [one.first_time ?? one.mean_time, one.last_time ?? one.mean_time];

/** Move positions apart by at least `apart`, in order and within `end`, each as little as possible. */
function spread(wanted, apart, end) {
  const found = [...wanted];
  for (let at = 0; at < found.length; at += 1) {
    found[at] = Math.max(found[at], at ? found[at - 1] + apart : 0);
  }
  for (let at = found.length - 1; at >= 0; at -= 1) {
    found[at] = Math.max(0, Math.min(found[at], (at + 1 < found.length ? found[at + 1] : end) - apart));
  }
  return found;
}

/** Draw; returns the width of the frames' pictures above the drawing and their left edges, in pixels. */
export function drawTimeline(chart, memory, frames, ratio, description) {
  const centroids = [...memory.centroids].sort((one, other) => spanOf(one)[0] - spanOf(other)[0]);
  const width = Math.max(200, chart.parentElement.clientWidth);
  const height = LEADERS + AXIS + Math.max(1, centroids.length) * ROW + 6;
  const times = [...centroids.flatMap(spanOf), ...frames.map((frame) => frame.time)];
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const start = first < (last - first) / 4 ? 0 : first;
  const scale = (width - GUTTER - EDGE) / Math.max(10, last - start);
  const place = (time) => GUTTER + (time - start) * scale;
  const thumb = Math.min(width / Math.max(1, frames.length) - THUMB_GAP, THUMB * ratio);
  const lefts = spread(frames.map((frame) => place(frame.time) - thumb / 2), thumb + THUMB_GAP, width + THUMB_GAP);
  setAll(chart, { viewBox: `0 0 ${width} ${height}`, width, height, "aria-label": description });
  drawAxis(layer(chart, "axis"), place, start, Math.max(last, start + 10), scale, width, height);
  drawCentroids(layer(chart, "centroids"), centroids, place);
  drawFrames(layer(chart, "frames"), frames, place, lefts.map((left) => left + thumb / 2), height);
  return { thumb, lefts };
}

function layer(chart, name) {
  return chart.querySelector(`:scope > .${name}`) ?? chart.appendChild(shape("g", { class: name }));
}

/** Child elements of a layer by their keys: those that are no longer wanted go, new ones are made. */
function keyed(parent, keys, make) {
  const found = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  for (const [key, child] of found) {
    if (!keys.includes(key)) child.remove();
  }
  return keys.map((key) => {
    const child = found.get(key) ?? parent.appendChild(make());
    child.dataset.key = key;
    return child;
  });
}

function drawAxis(parent, place, start, end, scale, width, height) {
  const step = STEPS.find((one) => one * scale >= TICK_APART) ?? STEPS.at(-1);
  const ticks = [];
  for (let time = Math.ceil(start / step) * step; time <= end; time += step) ticks.push(time);
  const base = LEADERS + AXIS;
  const made = keyed(parent, ["base", ...ticks.map(String)], () => {
    const group = shape("g");
    group.append(shape("line"), shape("text", { "text-anchor": "middle" }));
    return group;
  });
  setAll(made[0].firstElementChild, { x1: GUTTER, x2: width, y1: base, y2: base, class: "base" });
  setAll(made[0].lastElementChild, { x: GUTTER - 10, y: base - 6, "text-anchor": "end" }).textContent = "frames";
  ticks.forEach((time, index) => {
    const [line, text] = made[index + 1].children;
    const x = Math.round(place(time)) + 0.5;
    setAll(line, { x1: x, x2: x, y1: base, y2: height });
    setAll(text, { x: Math.min(Math.max(x, GUTTER + 14), width - 16), y: base - 6 });
    text.textContent = clock(time);
  });
}

function drawCentroids(parent, centroids, place) {
  const heaviest = Math.max(1, ...centroids.map((one) => one.weight));
  const seen = new Map(); // frames with the same time: a number makes their keys differ
  const keys = centroids.map((one) => {
    const time = spanOf(one)[0];
    seen.set(time, (seen.get(time) ?? 0) + 1);
    return `${time} ${seen.get(time)}`;
  });
  const groups = keyed(parent, keys, () => {
    const group = shape("g");
    const weight = shape("text", { "text-anchor": "end", x: GUTTER - 10, y: 4 });
    group.append(shape("title"), weight, shape("rect"), shape("circle", { cy: 0, r: 2.5 }));
    return group;
  });
  groups.forEach((group, index) => {
    const one = centroids[index];
    const [first, last] = spanOf(one);
    const [title, weight, span, mean] = group.children;
    const thickness = 3 + 8 * Math.sqrt(one.weight / heaviest);
    const left = place(first) - 1.5;
    group.style.transform = `translateY(${LEADERS + AXIS + (index + 0.5) * ROW + 3}px)`;
    setAll(span, { x: left, y: -thickness / 2, width: place(last) + 1.5 - left, height: thickness, rx: Math.min(3, thickness / 2) });
    setAll(mean, { cx: place(one.mean_time) });
    weight.textContent = String(Math.round(one.weight));
    title.textContent = `${Math.round(one.weight)} frames, ${clock(first)} to ${clock(last)}, mean ${clock(one.mean_time)}`;
  });
}

function drawFrames(parent, frames, place, starts, height) {
  const groups = keyed(parent, frames.map((frame) => frame.picture), () => {
    const group = shape("g");
    group.append(shape("path"), shape("circle", { r: 3.5 }));
    return group;
  });
  groups.forEach((group, index) => {
    const frame = frames[index];
    const [x, from, base] = [place(frame.time), starts[index], LEADERS + AXIS];
    setAll(group, { class: frame.kind });
    setAll(group.children[0], { d: `M ${from} 0 C ${from} ${LEADERS / 2} ${x} ${LEADERS / 2} ${x} ${LEADERS} V ${height}` });
    setAll(group.children[1], { cx: x, cy: base });
  });
}
