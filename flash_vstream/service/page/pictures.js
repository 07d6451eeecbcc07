// Pictures of the server, fetched with the token, and the dialog that enlarges one.

import { call } from "./api.js";
import { byId } from "./dom.js";

/** Fetch a picture; returns the address of its blob, which the caller must revoke. */
export async function fetchPicture(path) {
  return URL.createObjectURL(await (await call(path)).blob());
}

/** Pictures by their paths; each is fetched once while it is kept. */
export class Pictures {
  #kept = new Map();

  /** The address of a picture, fetched if it is not kept; null if the server has it no longer. */
  get(path) {
    if (!this.#kept.has(path)) {
      const found = fetchPicture(path).catch((error) => {
        if (error.status === 404) return null;
        this.#kept.delete(path); // no answer: the next call tries again
        throw error;
      });
      this.#kept.set(path, found);
    }
    return this.#kept.get(path);
  }

  /** Forget all pictures but those of some paths. */
  keep(paths) {
    for (const [path, found] of this.#kept) {
      if (paths.has(path)) continue;
      this.#kept.delete(path);
      found.then((address) => address && URL.revokeObjectURL(address), () => {});
    }
  }
}

/** Show a picture enlarged. Escape or the button closes it; the focus returns to where it was. */
export function enlarge(address, title) {
  byId("picture-title").textContent = title;
  const large = byId("picture-large");
  [large.src, large.alt] = [address, title];
  byId("picture").showModal();
}
