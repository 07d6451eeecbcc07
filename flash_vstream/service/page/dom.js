// Small helpers around the document.

/** The element of an id. */
export const byId = (id) => document.getElementById(id);

/** A new element: properties, then children (elements or texts). `dataset` and `aria...` are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (name.startsWith("aria-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** A new SVG element with attributes. */
export function shape(tag, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return setAll(made, attributes);
}

/** Set attributes; those that have their value already are not touched. */
export function setAll(found, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (found.getAttribute(name) !== String(value)) found.setAttribute(name, value);
  }
  return found;
}

/** Set a text; a text that is there already is not touched, so that nothing is announced twice. */
export function setText(found, text) {
  if (found.textContent !== text) found.textContent = text;
}

/** Fill a description list with [term, description] pairs, reusing its rows. */
export function setPairs(list, pairs) {
  while (list.children.length > pairs.length) list.lastElementChild.remove();
  pairs.forEach(([term, description], index) => {
    const row = list.children[index] ?? list.appendChild(element("div", {}, element("dt"), element("dd")));
    setText(row.firstElementChild, term);
    setText(row.lastElementChild, description);
  });
}

/** Tell users of a screen reader something, once. */
export function announce(text) {
  byId("announce").textContent = text;
}
