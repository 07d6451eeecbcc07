// The events of the selected stream, as they happen.

import { call, eventsOf, serverTime, streamPath } from "./api.js";
import { announce, byId, element } from "./dom.js";
import { clock, duration } from "./format.js";

const MOST = 100;
const AGAIN_MS = 2000;
let listening = null; // aborts the present subscription
let seenAt = 0; // wall-clock time of the newest event that was told

/** An event as a sentence. */
function textOf({ kind, details }) {
  const seconds = duration(details.seconds ?? 0);
  switch (kind) {
    case "connected": return "Connected";
    case "playing": return "Playing";
    case "stalled": return `No picture for ${seconds}; still connected`;
    case "resumed": return `Pictures come again after ${seconds}`;
    case "lost": return `Connection lost: ${details.reason ?? "no reason given"}`;
    case "reconnecting": return `Reconnecting in ${seconds}, attempt ${details.attempt}`;
    case "gap": return `Connected again; no picture for ${seconds}`;
    case "ended": return "The source has ended";
    case "failed": return `Failed: ${details.error ?? "no reason given"}`;
    case "not_saved": return `The stream could not be saved: ${details.reason ?? "no reason given"}`;
    default: return [kind.replaceAll("_", " "), ...Object.values(details).filter((one) => typeof one !== "object")].join(": ");
  }
}

function show(name, event) {
  const text = textOf(event);
  const item = element("li", { dataset: { kind: event.kind } },
    element("time", { dateTime: new Date(event.at * 1000).toISOString(),
      title: new Date(event.at * 1000).toLocaleString() }, clock(event.stream_time ?? 0)), text);
  const list = byId("events");
  list.prepend(item);
  while (list.children.length > MOST) list.lastElementChild.remove();
  const isRepeat = event.kind === "reconnecting" && event.details.attempt > 1;
  if (event.at > seenAt && !isRepeat) announce(`${name}: ${text}`);
  seenAt = Math.max(seenAt, event.at);
}

/** Stop listening. */
export function stopListening() {
  listening?.abort();
  listening = null;
  byId("events").replaceChildren();
}

/** Listen to a stream. Events from before are listed, but not announced. */
export async function listen(name) {
  stopListening();
  const own = (listening = new AbortController());
  seenAt = serverTime();
  while (!own.signal.aborted) {
    try {
      const reply = await call(streamPath(name, "/events"), { signal: own.signal });
      byId("events").replaceChildren(); // a server that was started again counts its events from 1
      for await (const data of eventsOf(reply)) show(name, JSON.parse(data));
    } catch (error) {
      if (own.signal.aborted || error.status === 404 || error.status === 401) return;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}
