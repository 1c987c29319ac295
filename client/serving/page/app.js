// The page: three views as tabs, and what the service says of itself.

import { get } from "./api.js";
import { byId } from "./dom.js";
import { showFederation } from "./federation.js";
import { startPeople } from "./people.js";
import { showPrivacy } from "./privacy.js";

const VIEWS = ["people", "privacy", "federation"];
const SHOWN = { privacy: showPrivacy, federation: showFederation };
const AGAIN_MS = 10_000;

function select(name, focus = false) {
  for (const view of VIEWS) {
    const tab = byId(`tab-${view}`);
    tab.setAttribute("aria-selected", String(view === name));
    tab.tabIndex = view === name ? 0 : -1;
    byId(view).hidden = view !== name;
  }
  if (focus) byId(`tab-${name}`).focus();
  // Not the view's own id: a browser would begin there with the tab key, past the header.
  history.replaceState(null, "", `#/${name}`);
  SHOWN[name]?.();
}

function startTabs() {
  for (const [place, view] of VIEWS.entries()) {
    const tab = byId(`tab-${view}`);
    tab.addEventListener("click", () => select(view));
    tab.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: VIEWS.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      select(VIEWS[(moves[event.key] + VIEWS.length) % VIEWS.length], true);
    });
  }
  const named = location.hash.slice(2);
  select(VIEWS.includes(named) ? named : "people");
}

let ready = null;

async function watch() {
  try {
    const { name, status } = await get("healthz");
    byId("name").textContent = name;
    document.title = `${name} · recommendations`;
    byId("state").textContent = status === "ok" ? "" : "Waiting for the federation's first delivery";
    if (status === "ok" && ready === false) location.reload();
    ready = status === "ok";
  } catch {
    byId("state").textContent = "The service does not answer";
  }
  setTimeout(watch, AGAIN_MS);
}

startTabs();
startPeople();
watch();
