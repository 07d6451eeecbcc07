// The memory of the selected stream: figures, the timeline, key frames as pictures, and the same as text.

import { callJson, streamPath } from "./api.js";
import { byId, element, setPairs, setText } from "./dom.js";
import { bytes, clock, count, plural } from "./format.js";
import { Pictures, enlarge } from "./pictures.js";
import { drawTimeline, spanOf } from "./timeline.js";

const pictures = new Pictures();
const thumbs = new Map(); // buttons by the path of their picture
let shown = null; // {stream, memory}: what was drawn last
let drawn = ""; // which stream and how many frames, to draw nothing twice

/** Show the memory of a stream; null shows an empty one. */
export async function showMemory(stream) {
  showFigures(stream);
  if (stream === null || stream.frames_seen === 0) return draw(stream, null);
  const version = `${stream.name} ${stream.frames_seen}`;
  if (version === drawn) return;
  const memory = await callJson(streamPath(stream.name, "/memory"));
  if (byId("memory-title").textContent !== titleOf(stream)) return; // another stream was selected meanwhile
  drawn = `${stream.name} ${memory.frames_seen}`;
  // A frame may have come since the list of streams was fetched: the figures are those of the drawing.
  showFigures({ ...stream, frames_seen: memory.frames_seen, stream_time: memory.newest_frames.at(-1)?.time ?? stream.stream_time });
  await draw(stream, memory);
}

/** Draw again after the width has changed. */
export const redraw = () => shown && draw(shown.stream, shown.memory);

const titleOf = (stream) => (stream === null ? "Memory" : `Memory of ${stream.name}`);

function showFigures(stream) {
  setText(byId("memory-title"), titleOf(stream));
  setPairs(byId("figures"), stream === null ? [] : [
    ["Stream time", clock(stream.stream_time)],
    ["Frames seen", count(stream.frames_seen)],
    ["Memory", plural(stream.memory_tokens, "token")],
    ["Size", bytes(stream.memory_bytes)],
  ]);
}

async function draw(stream, memory) {
  if (shown?.stream?.name !== stream?.name) forget();
  shown = { stream, memory };
  const isEmpty = memory === null;
  if (isEmpty) drawn = "";
  byId("no-memory").hidden = !isEmpty;
  for (const id of ["thumbs", "chart", "legend", "table"]) byId(id).toggleAttribute("hidden", isEmpty);
  setText(byId("memory-text"), isEmpty ? "" : sentence(memory));
  showRows(isEmpty ? [] : memory.centroids);
  if (isEmpty) return;
  const frames = framesOf(memory);
  await showThumbs(stream, frames, drawTimeline(byId("chart"), memory, frames, ratio(), sentence(memory)));
}

function forget() {
  for (const button of thumbs.values()) button.remove();
  thumbs.clear();
  byId("chart").replaceChildren();
}

/** Width by height of the stream's pictures, as the live picture has it. */
function ratio() {
  const { naturalWidth, naturalHeight } = byId("snapshot");
  return naturalHeight ? Math.min(16 / 9, Math.max(3 / 4, naturalWidth / naturalHeight)) : 4 / 3;
}

/** Key frames and newest frames in time order; a frame that is both counts as newest. */
function framesOf(memory) {
  const newest = memory.newest_frames.map((frame) => ({ ...frame, kind: "newest" }));
  const taken = new Set(newest.map((frame) => frame.picture));
  const keys = memory.key_frames.filter((frame) => !taken.has(frame.picture)).map((frame) => ({ ...frame, kind: "key" }));
  const found = new Map([...keys, ...newest].map((frame) => [frame.picture, frame]));
  return [...found.values()].sort((one, other) => one.time - other.time);
}

/** The memory in words. */
function sentence(memory) {
  const { centroids, key_frames: keys, frames_seen: seen } = memory;
  if (!centroids.length) return `${plural(seen, "frame")} seen; the memory holds the newest one only.`;
  const heaviest = centroids.reduce((most, one) => (one.weight > most.weight ? one : most));
  const [first, last] = spanOf(heaviest);
  const times = keys.map((frame) => frame.time).sort((one, other) => one - other).map((time) => clock(time)).join(", ");
  return `${plural(seen, "frame")} are summarized by ${plural(centroids.length, "centroid")}. The heaviest stands for `
    + `${plural(Math.round(heaviest.weight), "frame")} between ${clock(first)} and ${clock(last)}.`
    + (times ? ` Key frames at ${times}.` : "");
}

function showRows(centroids) {
  const body = byId("centroid-rows");
  while (body.children.length > centroids.length) body.lastElementChild.remove();
  [...centroids].sort((one, other) => spanOf(one)[0] - spanOf(other)[0]).forEach((one, index) => {
    const row = body.children[index] ?? body.appendChild(element("tr", {}, ...Array.from("1234", () => element("td"))));
    const [first, last] = spanOf(one);
    const texts = [count(Math.round(one.weight * 10) / 10), ...[first, one.mean_time, last].map((time) => clock(time, true))];
    texts.forEach((text, column) => setText(row.children[column], text));
  });
}

async function showThumbs(stream, frames, { thumb, lefts }) {
  pictures.keep(new Set(frames.map((frame) => frame.picture)));
  const found = await Promise.all(frames.map((frame) => pictures.get(frame.picture)));
  if (shown.stream.name !== stream.name) return; // another was selected meanwhile
  const kept = new Set(frames.map((frame) => frame.picture));
  for (const [path, button] of thumbs) {
    if (kept.has(path)) continue;
    button.remove();
    thumbs.delete(path);
  }
  const lane = byId("thumbs");
  frames.forEach((frame, index) => {
    if (!thumbs.has(frame.picture)) thumbs.set(frame.picture, newThumb());
    const button = thumbs.get(frame.picture);
    const title = `${frame.kind === "key" ? "Key frame" : "Newest frame"} at ${clock(frame.time)}`;
    const [image, label] = button.children;
    button.dataset.kind = frame.kind;
    button.setAttribute("aria-label", title);
    button.style.left = `${lefts[index]}px`;
    button.style.width = `${thumb}px`;
    setText(label, clock(frame.time));
    image.hidden = button.disabled = found[index] === null;
    if (found[index] !== null && image.src !== found[index]) image.src = found[index];
    button.onclick = () => enlarge(found[index], `${title}, ${stream.name}`);
    if (lane.children[index] !== button) lane.insertBefore(button, lane.children[index] ?? null);
  });
}

function newThumb() {
  return element("button", { type: "button", className: "thumb" }, element("img", { alt: "" }), element("span"));
}
