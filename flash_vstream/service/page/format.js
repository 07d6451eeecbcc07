// Times, sizes and states as people read them.

import { serverTime } from "./api.js";

/** Stream time: 1:05, 1:02:03; below a minute also with its tenths if `fine`. */
export function clock(seconds, fine = false) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.floor(seconds + 1e-6);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tenth = fine ? `.${Math.floor((seconds - whole) * 10 + 1e-6)}` : "";
  const tail = `${String(rest).padStart(2, "0")}${tenth}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

/** A duration: 4 s, 3 min, 2 h. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** Bytes: 12 kB, 1.3 MB. */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** A whole number with its thousands apart. */
export const count = (number) => number.toLocaleString("en");

/** A noun with its number: 1 frame, 2 frames. */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Seconds since the newest frame of a stream came; null without a frame. */
export function silence(stream) {
  return stream.wall_time === null ? null : Math.max(0, serverTime() - stream.wall_time);
}

/** What a user should know about the state of a stream; null if all is well. */
export function noticeOf(stream) {
  const silent = silence(stream);
  const since = silent === null ? "No frame has come yet." : `No frame for ${duration(silent)}. The memory is kept.`;
  const reason = stream.last_error ? ` ${stream.last_error}` : "";
  switch (stream.state) {
    case "connecting": return stream.url === null ? "Waiting for the first frame." : "Connecting to the source.";
    case "stalled": return `Stalled. ${since} Answers rest on what was seen before.`;
    case "reconnecting": return `Reconnecting. ${since}${reason}`;
    case "ended": return "The source has ended. You can still ask about what was seen.";
    case "failed": return `Failed.${reason}`;
    default: return null;
  }
}
