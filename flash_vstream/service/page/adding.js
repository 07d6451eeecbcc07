// The dialog that adds a stream: an address, this browser's camera, or a video file of this device.

import { callJson } from "./api.js";
import { close, openCamera, openFile, send } from "./camera.js";
import { byId, setText } from "./dom.js";

/** Make the dialog work; `onAdded` is called with the new stream. */
export function connectAdding(onAdded) {
  const dialog = byId("adding");
  const form = dialog.querySelector("form");
  const kind = () => form.querySelector("[name=kind]:checked").value;
  const showKind = () => {
    for (const part of form.querySelectorAll("[data-kind]")) part.hidden = part.dataset.kind !== kind();
    byId("new-url").required = kind() === "address";
    byId("new-file").required = kind() === "file";
  };
  form.onchange = () => {
    showKind();
    setText(byId("adding-error"), "");
  };
  byId("add").onclick = () => {
    form.reset();
    showKind();
    setText(byId("adding-error"), "");
    dialog.showModal();
  };
  byId("adding-cancel").onclick = () => dialog.close();
  let isBusy = false;
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (isBusy) return;
    isBusy = true;
    setText(byId("adding-error"), "");
    try {
      const stream = await add(kind());
      dialog.close();
      onAdded(stream);
    } catch (error) {
      setText(byId("adding-error"), error.message);
    } finally {
      isBusy = false;
    }
  };
}

async function add(kind) {
  const json = { name: byId("new-name").value, fps: byId("new-fps").valueAsNumber };
  if (kind === "address") {
    const more = { url: byId("new-url").value.trim(), loop: byId("new-loop").checked };
    return callJson("v1/streams", { method: "POST", json: { ...json, ...more } });
  }
  const video = await (kind === "camera" ? openCamera() : openFile(byId("new-file").files[0]));
  try {
    const stream = await callJson("v1/streams", { method: "POST", json });
    send(stream.name, video, stream.fps, (text) => setText(byId("stream-error"), text));
    return stream;
  } catch (error) {
    close(video);
    throw error;
  }
}
