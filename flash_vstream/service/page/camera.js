// Frames of this browser's camera, or of a video file of this device, pushed to streams of the server.
//
// Each frame is one POST: the reply says whether it was watched, the token travels in a header, and no frame is sent
// before the last one was taken, so a slow server or network makes fewer frames and no queue.

import { call, streamPath } from "./api.js";

const LONGEST_SIDE = 640;
const QUALITY = 0.85;
const senders = new Map(); // by the name of the stream

/** Whether this page sends frames to a stream. */
export const isSending = (name) => senders.has(name);

/** Stop sending frames to a stream, and release the camera. */
export function stopSending(name) {
  senders.get(name)?.stop();
  senders.delete(name);
}

/** Open the camera. Throws an Error that says what to do. */
export async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("This browser gives its camera only to pages from https:// or from this machine (localhost).");
  }
  const video = newVideo();
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
  } catch (error) {
    const reasons = { NotAllowedError: "the permission was not given", NotFoundError: "no camera was found" };
    throw new Error(`The camera cannot be opened: ${reasons[error.name] ?? error.message}.`);
  }
  await video.play();
  return video;
}

/** Open a video file of this device. Throws an Error if the browser cannot play it. */
export async function openFile(file) {
  const video = newVideo();
  video.src = URL.createObjectURL(file);
  try {
    await video.play();
  } catch {
    close(video);
    throw new Error(`This browser cannot play ${file.name}. Give its path as a file of the server instead.`);
  }
  return video;
}

/** Release the camera or the file of a video. */
export function close(video) {
  video.pause();
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  if (video.src) URL.revokeObjectURL(video.src);
}

/** Push `fps` frames a second of a playing video to a stream, until it ends or `stopSending` is called. */
export async function send(name, video, fps, onError) {
  stopSending(name);
  let isOpen = true;
  const own = { stop: () => { isOpen = false; close(video); } };
  senders.set(name, own);
  const canvas = document.createElement("canvas");
  const isOver = () => video.ended || video.srcObject?.getTracks().every((track) => track.readyState === "ended");
  while (isOpen && !isOver()) {
    const began = performance.now();
    try {
      const body = await jpegOf(video, canvas);
      if (isOpen) await call(streamPath(name, "/frames"), { method: "POST", body, type: "image/jpeg" });
      onError("");
    } catch (error) {
      onError(`A frame was not sent: ${error.message}`);
      if (error.status === 404) break; // the stream was deleted
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 1000 / fps - (performance.now() - began))));
  }
  if (senders.get(name) === own) stopSending(name);
}

function newVideo() {
  const video = document.createElement("video");
  [video.muted, video.playsInline] = [true, true];
  return video;
}

async function jpegOf(video, canvas) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.max(1, Math.round(video.videoWidth * scale));
  canvas.height = Math.max(1, Math.round(video.videoHeight * scale));
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  if (blob === null) throw new Error("the video gives no picture");
  return blob;
}
