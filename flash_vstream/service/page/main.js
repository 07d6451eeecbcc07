// The page: looks at the streams once a second, and shows the selected one in all three parts.

import { callJson, setToken } from "./api.js";
import { connectAdding } from "./adding.js";
import { connectChat, forgetChats, showChat } from "./chat.js";
import { byId, setText } from "./dom.js";
import { listen, stopListening } from "./events.js";
import { redraw, showMemory } from "./memory.js";
import { connectControls, fetchStreams, showList, showSelected } from "./streams.js";

const EVERY_MS = 1000;
let streams = [];
let selected = null; // the name of a stream
let isEmbedded = null; // whether the server has the shipped tiny model; null: not known
let isAskingToken = false;
let turn = 0; // the newest refresh; an older one that comes late is dropped

const stream = () => streams.find((one) => one.name === selected) ?? null;

async function refresh() {
  const own = (turn += 1);
  try {
    const found = await fetchStreams();
    isEmbedded ??= (await callJson("health")).embedded;
    if (own !== turn) return;
    streams = found;
    byId("fault").hidden = true;
    if (stream() === null) choose((streams.find((one) => one.state === "playing") ?? streams[0])?.name ?? null);
    await show();
  } catch (error) {
    if (error.status === 401) return askToken();
    if (error.status === 404) return; // the stream was deleted between two calls
    isEmbedded = null; // another server may come back
    setText(byId("fault"), `${error.message} This page tries again every second.`);
    byId("fault").hidden = false;
  }
}

async function show() {
  forgetChats(new Set(streams.map((one) => one.name)));
  showList(streams, selected, select);
  showChat(stream(), isEmbedded);
  await Promise.all([showSelected(stream()), showMemory(stream())]);
}

function choose(name) {
  selected = name;
  setText(byId("stream-error"), "");
  if (name === null || document.hidden) stopListening();
  else listen(name);
}

function select(name) {
  if (name === selected) return;
  choose(name);
  refresh();
}

function askToken() {
  if (isAskingToken) return;
  isAskingToken = true;
  stopListening();
  document.querySelector("main").hidden = document.querySelector("nav").hidden = true;
  byId("token").hidden = false;
  byId("token-value").focus();
}

async function useToken(event) {
  event.preventDefault();
  setToken(byId("token-value").value);
  try {
    await fetchStreams();
  } catch (error) {
    return setText(byId("token-error"), error.status === 401 ? "The token is wrong." : error.message);
  }
  byId("token-value").value = "";
  setText(byId("token-error"), "");
  isAskingToken = false;
  byId("token").hidden = true;
  document.querySelector("main").hidden = document.querySelector("nav").hidden = false;
  if (selected !== null) choose(selected);
  await refresh();
  byId("streams").focus();
}

async function loop() {
  for (;;) {
    if (!isAskingToken && !document.hidden) await refresh();
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

byId("token").onsubmit = useToken;
connectControls(stream, refresh);
connectAdding((added) => {
  choose(added.name);
  refresh();
});
connectChat();
new ResizeObserver(() => redraw()).observe(byId("timeline"));
document.onvisibilitychange = () => choose(selected); // a hidden page holds no connection: browsers allow six to a server
loop();
