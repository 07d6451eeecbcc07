// The conversation about the selected stream. Answers stream in; earlier turns are sent along.

import { ApiError, call, eventsOf } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { clock, plural } from "./format.js";
import { enlarge, fetchPicture } from "./pictures.js";

const SUGGESTIONS = ["Which room is shown now?", "Which room was shown first?", "What colour was the cross in the kitchen?"];
const conversations = new Map(); // by stream: {turns, addresses, node}
let name = null; // of the selected stream
let running = null; // {stop}: the answer that streams in

/** Show the conversation about a stream; null disables the form. */
export function showChat(stream, isEmbedded) {
  byId("embedded").hidden = !isEmbedded;
  setText(byId("chat-title"), stream === null ? "Questions" : `Questions about ${stream.name}`);
  byId("question").disabled = byId("send").disabled = stream === null;
  if (name !== (stream?.name ?? null)) {
    name = stream?.name ?? null;
    setText(byId("ask-error"), "");
    byId("conversation").replaceChildren(...(name === null ? [] : [current().node]));
  }
  const isEmpty = name !== null && current().node.children.length === 0;
  byId("clear").hidden = name === null || isEmpty;
  byId("suggestions").hidden = !(isEmbedded && isEmpty && stream.frames_seen > 0);
}

/** Forget the conversations about streams that are gone. */
export function forgetChats(names) {
  for (const gone of [...conversations.keys()].filter((one) => !names.has(one))) forget(gone);
}

function forget(gone) {
  const found = conversations.get(gone);
  if (found === undefined) return;
  if (running?.conversation === found) running.stop.abort();
  found.addresses.forEach((address) => URL.revokeObjectURL(address));
  conversations.delete(gone);
}

function current() {
  if (!conversations.has(name)) {
    conversations.set(name, { turns: [], addresses: [], node: element("ol", { className: "turns" }) });
  }
  return conversations.get(name);
}

/** Make the form and its buttons work. */
export function connectChat() {
  byId("ask").onsubmit = (event) => {
    event.preventDefault();
    const text = byId("question").value.trim();
    if (text) ask(text);
  };
  byId("clear").onclick = () => {
    forget(name);
    byId("conversation").replaceChildren(current().node);
    byId("clear").hidden = true;
    setText(byId("ask-error"), "");
    byId("question").focus();
  };
  byId("suggestions").append(...SUGGESTIONS.map((text) => element("button",
    { type: "button", onclick: () => { ask(text); byId("question").focus(); } }, text)));
}

async function ask(text) {
  if (running !== null) return setText(byId("ask-error"), "Wait for the answer, or stop it.");
  setText(byId("ask-error"), "");
  byId("question").value = "";
  byId("suggestions").hidden = true;
  byId("clear").hidden = false;
  const [conversation, stream, stop] = [current(), name, new AbortController()];
  running = { conversation, stop };
  const body = element("p", { className: "text" });
  const status = element("p", { className: "muted" }, "Answering …");
  const stopButton = element("button", { type: "button", onclick: () => stop.abort() }, "Stop");
  const item = element("li", { "aria-busy": "true" }, element("p", { className: "asked" }, text),
    element("div", { className: "answer" }, body, status, stopButton));
  conversation.node.append(item);
  scrollDown();
  try {
    const rest = await receive(stream, [...conversation.turns, { role: "user", content: text }], stop.signal, (piece) => {
      body.textContent += piece;
      scrollDown();
    });
    setText(status, footOf(rest));
    item.lastElementChild.append(await evidenceOf(rest.flash_vstream.evidence, stream, conversation));
  } catch (error) {
    const isStopped = stop.signal.aborted;
    status.className = isStopped ? "muted" : "error";
    const hint = error.status === 400 && conversation.turns.length ? " Earlier turns count: clear the conversation to start again." : "";
    setText(status, isStopped ? "Stopped." : error.message + hint);
  } finally {
    running = null;
    if (body.textContent) {
      conversation.turns.push({ role: "user", content: text }, { role: "assistant", content: body.textContent });
    } else {
      body.remove();
    }
    if (document.activeElement === stopButton) byId("question").focus();
    stopButton.remove();
    item.setAttribute("aria-busy", "false");
    scrollDown();
  }
}

/** Ask, and pass the pieces of the answer on; returns the last chunk's `finish_reason` and `flash_vstream`. */
async function receive(stream, messages, signal, onPiece) {
  const json = { model: `flash-vstream/${stream}`, messages, stream: true };
  const reply = await call("v1/chat/completions", { method: "POST", json, signal });
  let rest = null;
  for await (const data of eventsOf(reply)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(500, chunk.error.message);
    const [choice] = chunk.choices;
    if (choice?.delta?.content) onPiece(choice.delta.content);
    if (choice?.finish_reason) rest = { finish: choice.finish_reason, flash_vstream: chunk.flash_vstream };
  }
  if (rest === null) throw new ApiError(0, "The connection broke before the answer had ended.");
  return rest;
}

function footOf({ finish, flash_vstream: facts }) {
  const cut = finish === "length" ? " Cut: it reached the most tokens that an answer may have." : "";
  const below = facts.evidence.length ? " Key frames of the memory:" : "";
  return `At ${clock(facts.stream_time)}, after ${plural(facts.frames_seen, "frame")}.${cut}${below}`;
}

/** The key frames that the memory held for the answer, as buttons that enlarge them. */
async function evidenceOf(evidence, stream, conversation) {
  const frames = [...new Map(evidence.map((frame) => [frame.picture, frame])).values()]
    .sort((one, other) => one.time - other.time);
  const items = await Promise.all(frames.map(async ({ time, picture }) => {
    const title = `Evidence at ${clock(time)}`;
    let address;
    try {
      address = await fetchPicture(picture);
    } catch {
      return element("li", { className: "muted" }, `${title}: the picture is no longer kept`);
    }
    conversation.addresses.push(address);
    const open = () => enlarge(address, `${title}, ${stream}`);
    return element("li", {}, element("button", { type: "button", className: "thumb", "aria-label": title, onclick: open },
      element("img", { src: address, alt: "" }), element("span", {}, clock(time))));
  }));
  return element("ul", { className: "evidence", "aria-label": "Evidence" }, ...items);
}

function scrollDown() {
  const list = byId("conversation");
  list.scrollTop = list.scrollHeight;
}
