// Calls of the server's public API, with the token of this tab.

const KEY = "vstream-token";

/** An error of a call: the server's message, its HTTP status (0: no answer) and its code. */
export class ApiError extends Error {
  constructor(status, message, code = null) {
    super(message);
    Object.assign(this, { status, code });
  }
}

let skew = 0; // seconds that the server's clock is ahead of this one

/** The server's clock, in seconds since 1970; replies state it to the second. */
export const serverTime = () => Date.now() / 1000 + skew;

/** Keep the token until the tab is closed. */
export const setToken = (token) => sessionStorage.setItem(KEY, token);

/** Call the server. `json` or `body` is sent; a reply that is not 2xx becomes an ApiError. */
export async function call(path, { method = "GET", json, body, type, signal } = {}) {
  const headers = new Headers();
  const token = sessionStorage.getItem(KEY);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (json !== undefined) [body, type] = [JSON.stringify(json), "application/json"];
  if (type) headers.set("Content-Type", type);
  let reply;
  try {
    reply = await fetch(path.replace(/^\//, ""), { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer.");
  }
  const ahead = (Date.parse(reply.headers.get("Date")) - Date.now()) / 1000;
  skew = Math.abs(ahead) > 2 ? ahead : 0;
  if (reply.ok) return reply;
  let found = null;
  try {
    found = (await reply.json()).error;
  } catch {
    // a proxy's own page, not the server's JSON
  }
  throw new ApiError(reply.status, found?.message ?? `The server answered ${reply.status}.`, found?.code);
}

/** Call the server and read its JSON. */
export const callJson = async (path, options) => (await call(path, options)).json();

/** The path of a stream, or of something of it. */
export const streamPath = (name, rest = "") => `v1/streams/${encodeURIComponent(name)}${rest}`;

/** The `data` of the server-sent events of a reply, one after the other. */
export async function* eventsOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
