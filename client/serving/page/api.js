// Asking the service; the key, where there is one, stays in this tab.

import { byId } from "./dom.js";

const STORED = "tacit-key";

/** An answer that is no list: its status and the service's own sentence. */
export class Failure extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

let asking = null;

/** Ask for the key once, however many requests need it. */
function askForKey(wrong) {
  const dialog = byId("key-dialog");
  asking ??= new Promise((resolve) => {
    byId("key").value = "";
    byId("key-error").textContent = wrong ? "The service does not take this key." : "";
    dialog.addEventListener(
      "close",
      () => {
        sessionStorage.setItem(STORED, byId("key").value.trim());
        asking = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

/** The response to a request; asks for the key as often as it is refused. */
async function respond(path, signal) {
  for (;;) {
    const key = sessionStorage.getItem(STORED);
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch(path, { headers, signal, credentials: "omit", cache: "no-store" });
    if (response.status === 401) {
      await askForKey(Boolean(key) && sessionStorage.getItem(STORED) === key);
      continue;
    }
    if (!response.ok) throw new Failure(response.status, await sentenceOf(response));
    return response;
  }
}

async function sentenceOf(response) {
  try {
    const { detail } = await response.json();
    if (typeof detail === "string") return detail;
    return detail.map((one) => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ");
  } catch {
    return `The service answered with status ${response.status}.`;
  }
}

/** `v1/users/NAME/rest` with the name quoted whole. */
export const userPath = (user, rest = "") =>
  `v1/users/${encodeURIComponent(user)}${rest ? `/${rest}` : ""}`;

/** JSON of a route; `query` is a list of [name, value]. */
export async function get(path, query = [], signal = undefined) {
  const text = new URLSearchParams(query).toString();
  const response = await respond(text ? `${path}?${text}` : path, signal);
  return response.json();
}

/** Server-sent events of a route: calls `tell(name, data)` for each. */
export async function stream(path, query, signal, tell) {
  const response = await respond(`${path}?${new URLSearchParams(query)}`, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      const part = (name) => lines.find((line) => line.startsWith(name))?.slice(name.length);
      tell(part("event: "), JSON.parse(part("data: ")));
    }
  }
}
