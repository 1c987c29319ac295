// The first view: a user's history, recommendations with their reasons, interests, and words.

import { get, stream, userPath } from "./api.js";
import { lineChart, scoreBar, smallBar } from "./charts.js";
import { userCombobox } from "./combobox.js";
import { byId, dateText, debounced, make, plural } from "./dom.js";

const PARTS = {
  popularity: "popularity",
  cooccurrence: "had together",
  adapter: "model",
  content: "texts",
  need: "what is wanted",
  generated: "language model",
};
const NAMES = Object.keys(PARTS);
const WAIT_MS = 220;
const HISTORY_STEP = 20;
const MOST_LINES = 5;

const filters = new Set();
const interests = new Set();
let user = null;
let shown = HISTORY_STEP;
let listing = null;
let looking = null;
let speaking = null;

export function startPeople() {
  const choose = userCombobox(open, (error) => say(error.message, true));
  byId("ask").addEventListener("submit", (event) => event.preventDefault());
  const soon = debounced(list, WAIT_MS);
  byId("need").addEventListener("input", soon);
  for (const id of ["mode", "k", "seen"]) byId(id).addEventListener("change", list);
  for (const id of ["diversity", "damping"]) {
    byId(id).addEventListener("input", () => {
      byId(`${id}-value`).textContent = byId(id).value;
      soon();
    });
  }
  chips("filter", "add-filter", "filters", filters);
  chips("interest", "add-interest", "interests-stated", interests);
  byId("describe").addEventListener("click", describe);
  byId("more-history").addEventListener("click", () => {
    shown += 5 * HISTORY_STEP;
    showHistory();
  });
  suggest(choose);
}

/** Some users to begin with. */
async function suggest(choose) {
  try {
    const { users } = await get("v1/users", [["limit", 6]]);
    byId("first-users").replaceChildren(
      ...users.map(({ id }) =>
        make("li", {}, make("button", { type: "button", class: "chip", onclick: () => choose(id) }, id)),
      ),
    );
  } catch (error) {
    byId("first-users").replaceChildren(make("li", { class: "error" }, error.message));
  }
}

/** A field whose entries become chips that can be taken away. */
function chips(field, button, place, kept) {
  const add = () => {
    const value = byId(field).value.trim();
    if (!value) return;
    kept.add(value);
    byId(field).value = "";
    show();
  };
  const show = () => {
    byId(place).replaceChildren(
      ...[...kept].map((value) => {
        const remove = () => {
          kept.delete(value);
          show();
          byId(field).focus();
        };
        return make("li", { class: "chip" }, value, make("button", { type: "button", "aria-label": `Remove ${value}`, onclick: remove }, "×"));
      }),
    );
    list();
  };
  byId(button).addEventListener("click", add);
  byId(field).addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      add();
    }
  });
}

function open(identifier) {
  user = identifier;
  shown = HISTORY_STEP;
  byId("nobody").hidden = true;
  byId("somebody").hidden = false;
  byId("list-title").textContent = `Recommended for ${identifier}`;
  hush();
  byId("words").hidden = true;
  looking?.abort();
  looking = new AbortController();
  list();
  showHistory();
  showInterests();
}

function wish() {
  const query = [["k", byId("k").value], ["mode", byId("mode").value]];
  const need = byId("need").value.trim();
  if (need) query.push(["need", need]);
  for (const value of filters) query.push(["filter", value]);
  for (const value of interests) query.push(["interest", value]);
  for (const [id, name] of [["diversity", "diversity"], ["damping", "popularity_damping"]]) {
    if (Number(byId(id).value)) query.push([name, byId(id).value]);
  }
  if (byId("seen").checked) query.push(["exclude_seen", "false"]);
  return query;
}

function say(sentence, wrong = false) {
  byId("list-status").textContent = sentence;
  byId("list-status").classList.toggle("error", wrong);
}

/** The list at once, then its reasons; a newer wish ends an older request. */
async function list() {
  if (user === null) return;
  listing?.abort();
  listing = new AbortController();
  const { signal } = listing;
  const query = wish();
  const path = userPath(user, "recommendations");
  byId("recommendations").setAttribute("aria-busy", "true");
  try {
    const { recommendations } = await get(path, query, signal);
    showList(recommendations);
    const need = byId("need").value.trim();
    say(
      recommendations.length
        ? `${plural(recommendations.length, "item")}${need ? `, looking for “${need}”` : ""}`
        : "Nothing fits: no item passes the filters that the history does not have.",
    );
    if (recommendations.length && byId("mode").value !== "generative") {
      const explained = await get(path, [...query, ["reasons", "true"]], signal);
      explained.recommendations.forEach(showReasons);
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("recommendations").replaceChildren();
    byId("legend").replaceChildren();
    say(error.message, true);
  }
  byId("recommendations").removeAttribute("aria-busy");
}

function showList(lines) {
  const used = NAMES.filter((name) => lines.some((line) => name in line.parts));
  byId("legend").replaceChildren(
    ...used.map((name) => make("li", {}, make("span", { class: `swatch part-${name}` }), PARTS[name])),
  );
  const sums = lines.flatMap(({ parts }) => [
    Object.values(parts).filter((value) => value > 0).reduce((a, b) => a + b, 0),
    Object.values(parts).filter((value) => value < 0).reduce((a, b) => a + b, 0),
  ]);
  const [low, high] = [Math.min(0, ...sums), Math.max(0, ...sums)];
  byId("recommendations").replaceChildren(
    ...lines.map((line, place) => {
      const rating = line.predicted_rating === null ? null : make("span", { class: "rating" }, `likely rating ${line.predicted_rating.toFixed(1)}`);
      return make(
        "li",
        { class: "card", "data-item": line.item_id },
        make("span", { class: "rank", "aria-hidden": "true" }, String(place + 1)),
        make(
          "div",
          { class: "card-body" },
          make(
            "div",
            { class: "card-head" },
            make("h3", {}, line.title),
            make("span", { class: "score" }, make("span", { class: "visually-hidden" }, "score "), line.score.toFixed(2)),
          ),
          make("p", { class: "details" }, detailsOf(line), rating),
          scoreBar(line.parts, NAMES, low, high),
          make("div", { class: "why" }),
        ),
      );
    }),
  );
}

/** The item's text without its title: `1977 · Genres: Action, Adventure`. */
function detailsOf({ text, title }) {
  const rest = text.startsWith(title) ? text.slice(title.length) : text;
  return rest.trim().replace(/^\(([^)]*)\)\.?\s*/, "$1 · ").replace(/^[.\s]+|[.·\s]+$/g, "");
}

/** A date as short as the periods allow. */
function periodText(periods) {
  const days = (periods.at(-1)[1] - periods[0][0]) / 86_400;
  if (days < 2) return { hour: "2-digit", minute: "2-digit" };
  return days < 700 ? { month: "short", day: "numeric" } : { month: "short", year: "numeric" };
}

function showReasons(line) {
  const cards = [...byId("recommendations").children];
  const card = cards.find((one) => one.dataset.item === line.item_id);
  if (!card || !line.explanation) return;
  const { sentence, history, words } = line.explanation;
  const why = [make("p", { class: "sentence" }, sentence)];
  const rows = [
    ...history.map(({ title, drop }) => [title, drop]),
    ...words.map(({ word, drop }) => [`the word “${word}”`, drop]),
  ];
  if (rows.length) {
    const most = Math.max(...rows.map(([, drop]) => drop));
    why.push(
      make(
        "details",
        {},
        make("summary", {}, "How much each counts"),
        make(
          "ul",
          { class: "reasons", "aria-label": "Score lost without it" },
          ...rows.map(([name, drop]) =>
            make("li", {}, make("span", { class: "reason" }, name), smallBar(drop, most), make("span", { class: "value" }, `−${drop.toFixed(2)}`)),
          ),
        ),
      ),
    );
  }
  card.querySelector(".why").replaceChildren(...why);
}

async function showHistory() {
  const { signal } = looking;
  try {
    const { history, interactions } = await get(userPath(user), [["limit", shown]], signal);
    byId("history-status").textContent = `${plural(interactions, "interaction")}, newest first`;
    byId("history").replaceChildren(
      ...history.map(({ title, time, rating }) =>
        make(
          "li",
          {},
          make("span", { class: "title" }, title),
          make("span", { class: "when" }, make("time", { datetime: new Date(time * 1000).toISOString() }, dateText(time)), rating === null ? null : ` · rated ${rating}`),
        ),
      ),
    );
    byId("more-history").hidden = history.length >= interactions;
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("history").replaceChildren();
    byId("more-history").hidden = true;
    byId("history-status").textContent = error.message;
  }
}

async function showInterests() {
  const { signal } = looking;
  const place = byId("interests");
  try {
    const { periods, themes } = await get(userPath(user, "interests"), [], signal);
    if (!themes.length) {
      place.replaceChildren(make("p", { class: "status" }, "The history says nothing that the catalogue does not."));
      return;
    }
    const shape = periodText(periods);
    const labels = periods.map(([from]) => new Date(from * 1000).toLocaleString(undefined, shape));
    const chosen = themes.slice(0, MOST_LINES);
    const series = chosen.map(({ name, shares }) => ({ name, values: shares }));
    const told = chosen.map(({ name, shares }) => `${name} ${shares.map((share) => `${Math.round(share * 100)}%`).join(", ")}`).join("; ");
    place.replaceChildren(
      lineChart(`Share of the history by theme, oldest period first: ${told}`, series, labels),
      make(
        "ul",
        { class: "legend" },
        ...chosen.map(({ name, weight, lift }, number) =>
          make("li", { title: `${lift.toFixed(1)} times as often as in the catalogue` }, make("span", { class: `swatch theme-${number}` }), `${name} ${Math.round(weight * 100)}%`),
        ),
      ),
    );
  } catch (error) {
    if (error.name !== "AbortError") place.replaceChildren(make("p", { class: "error" }, error.message));
  }
}

function hush() {
  speaking?.abort();
  speaking = null;
  byId("describe").textContent = "Describe in words";
}

/** Sentences as they are written; a second press ends it. */
async function describe() {
  if (speaking) {
    hush();
    return;
  }
  const place = byId("words");
  const status = make("p", { class: "status" }, "Writing …");
  place.replaceChildren(status);
  place.hidden = false;
  speaking = new AbortController();
  const { signal } = speaking;
  byId("describe").textContent = "Stop";
  const query = [["k", "5"]];
  const need = byId("need").value.trim();
  if (need) query.push(["need", need]);
  try {
    await stream(userPath(user, "words"), query, signal, (name, data) => {
      if (name === "portrait") status.before(make("p", { class: "portrait" }, data.text));
      if (name === "recommendation") status.before(make("p", {}, make("strong", {}, data.title), ": ", data.text));
      if (name === "done") {
        const { written, retried, fallbacks, model } = data;
        status.textContent =
          model
            ? `Of ${written} texts a language model here wrote ${written - retried - fallbacks} at once and ${retried} at the second try; ${fallbacks} did not pass the check against the facts and are by template.`
            : "Written by template from the reasons alone.";
      }
    });
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Stopped." : error.message;
  }
  if (speaking?.signal === signal) hush();
}
