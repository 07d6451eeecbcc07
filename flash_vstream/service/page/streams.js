// The list of streams, and the live picture, state and controls of the selected one.

import { call, callJson, streamPath } from "./api.js";
import { isSending, openCamera, send, stopSending } from "./camera.js";
import { byId, element, setPairs, setText } from "./dom.js";
import { clock, count, duration, noticeOf } from "./format.js";
import { fetchPicture } from "./pictures.js";

const rows = new Map(); // the list's items by the name of their stream
let shown = { name: null, frames: -1 }; // what the live picture shows

/** All streams of the server. */
export const fetchStreams = async () => (await callJson("v1/streams")).data;

/** Show the list; `onSelect` is called with a name. */
export function showList(streams, selected, onSelect) {
  const names = new Set(streams.map((stream) => stream.name));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.remove();
    rows.delete(name);
  }
  streams.forEach((stream, index) => {
    if (!rows.has(stream.name)) rows.set(stream.name, newRow(stream.name, onSelect));
    const row = rows.get(stream.name);
    const list = byId("stream-list");
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    const [button] = row.children;
    button.setAttribute("aria-current", String(stream.name === selected));
    button.dataset.state = stream.state;
    setText(button.querySelector(".state"), stream.state);
    setText(button.querySelector(".time"), clock(stream.stream_time));
  });
  byId("no-streams").hidden = streams.length > 0;
}

function newRow(name, onSelect) {
  const button = element("button", { type: "button", onclick: () => onSelect(name) },
    element("span", { className: "dot", "aria-hidden": "true" }),
    element("span", { className: "name" }, name), " ",
    element("span", { className: "state" }), " ",
    element("span", { className: "time", title: "stream time" }));
  return element("li", {}, button);
}

/** Show the picture, state and controls of the selected stream; null hides them. */
export async function showSelected(stream) {
  byId("selected").hidden = stream === null;
  if (stream === null) return;
  byId("live").dataset.state = stream.state;
  setText(byId("live-state"), `${stream.state}${stream.frames_seen ? `, ${clock(stream.stream_time)}` : ""}`);
  const notice = noticeOf(stream);
  byId("stream-notice").hidden = notice === null;
  setText(byId("stream-notice"), notice ?? "");
  byId("stream-notice").dataset.state = stream.state;
  setPairs(byId("stream-facts"), [
    ["Source", stream.url ?? (isSending(stream.name) ? "this page" : "frames are pushed")],
    ["Frames a second", String(stream.fps)],
    ["Dropped", count(stream.frames_dropped)],
    ["Reconnected", `${count(stream.reconnects)} ×`],
    ["Lag", stream.lag === null ? "–" : duration(stream.lag)],
  ]);
  byId("send-camera").hidden = stream.url !== null || isSending(stream.name);
  byId("stop-camera").hidden = !isSending(stream.name);
  await showPicture(stream);
}

async function showPicture(stream) {
  const image = byId("snapshot");
  if (stream.name === shown.name && stream.frames_seen === shown.frames) return;
  if (stream.name !== shown.name) image.hidden = true;
  shown = { name: stream.name, frames: stream.frames_seen };
  if (stream.frames_seen === 0) return;
  let address;
  try {
    address = await fetchPicture(streamPath(stream.name, "/snapshot.jpg"));
  } catch (error) {
    if (error.status === 404) return; // a restored stream may have no picture before its next frame
    throw error;
  }
  if (shown.name !== stream.name) return URL.revokeObjectURL(address);
  if (image.src) URL.revokeObjectURL(image.src);
  [image.src, image.alt, image.hidden] = [address, `Newest frame of ${stream.name}`, false];
}

/** Make the controls of the selected stream work; `selected()` is its state, `onChange` is called after a change. */
export function connectControls(selected, onChange) {
  const fail = (error) => setText(byId("stream-error"), error.message ?? error);
  byId("send-camera").onclick = async () => {
    const { name, fps } = selected();
    fail("");
    try {
      send(name, await openCamera(), fps, fail);
      onChange();
      byId("stop-camera").focus();
    } catch (error) {
      fail(error);
    }
  };
  byId("stop-camera").onclick = () => {
    stopSending(selected().name);
    onChange();
    byId("send-camera").focus();
  };
  byId("delete").onclick = () => {
    const { name } = selected();
    const dialog = byId("deleting");
    setText(byId("deleting-title"), `Delete the stream ${name}?`);
    dialog.returnValue = "";
    dialog.onclose = async () => {
      if (dialog.returnValue !== "delete") return;
      try {
        stopSending(name);
        await call(streamPath(name), { method: "DELETE" });
        fail("");
        onChange();
        byId("add").focus();
      } catch (error) {
        fail(error);
      }
    };
    dialog.showModal();
  };
}
