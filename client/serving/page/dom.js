// Elements made from data. Text is only ever set as text, so that no title can become markup.

/** An element: `make("li", {class: "x", onclick: f}, "text", child)`. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  set(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The same for SVG. */
export function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

export const byId = (id) => document.getElementById(id);

/** A function that is called once, `wait` milliseconds after the last time it was asked for. */
export function debounced(work, wait) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, wait);
  };
}

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const dateText = (seconds) => DATE.format(new Date(seconds * 1000));
export const timeText = (value) =>
  TIME.format(new Date(typeof value === "number" ? value * 1000 : value));

export function bytesText(size) {
  if (size < 1000) return `${size} B`;
  return size < 1e6 ? `${(size / 1e3).toFixed(1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

/** Epsilon, rounded up: a page never claims less than was spent. */
export const epsilonText = (value) => (Math.ceil(value * 1000 - 1e-9) / 1000).toFixed(3);

export const numberText = (value) => value.toLocaleString("en");

export const plural = (count, noun) => `${numberText(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A table that turns into cards where the screen is narrow. */
export function table(caption, heads, rows) {
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make(
      "tbody",
      {},
      ...rows.map((cells) =>
        make("tr", {}, ...cells.map((cell, place) => make("td", { "data-label": heads[place] }, cell))),
      ),
    ),
  );
}

/** A fact with its name, for description lists. */
export const fact = (name, ...value) => make("div", {}, make("dt", {}, name), make("dd", {}, ...value));
