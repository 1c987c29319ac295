// The third view: runs that this organisation took part in, the last delivery, and how well it ranks.

import { get } from "./api.js";
import { barChart } from "./charts.js";
import { byId, bytesText, fact, make, numberText, plural, table, timeText } from "./dom.js";

const AGAIN_MS = 1500;
const WAYS = { popularity: "Popularity alone", statistics: "With co-occurrence", federation: "All that was delivered", personalised: "And own pairs" };
let again = null;

export async function showFederation() {
  clearTimeout(again);
  const status = byId("federation-status");
  try {
    const found = await get("v1/federation");
    status.textContent = "";
    byId("federation-content").replaceChildren(utility(found), runs(found), delivery(found), approved(found));
    if (found.utility?.state === "computing" && !byId("federation").hidden) {
      again = setTimeout(showFederation, AGAIN_MS);
    }
  } catch (error) {
    status.textContent = error.message;
  }
}

function utility({ utility: found }) {
  const section = make("section", { class: "panel" }, make("h2", {}, "How well it ranks here"));
  if (found === null) section.append(make("p", { class: "status" }, "The federation has delivered nothing that can be used yet."));
  else if (found.state === "computing") section.append(make("p", { class: "status" }, "Ranking the newest item of each user …"));
  else if (found.state === "failed") section.append(make("p", { class: "error" }, "It could not be computed; the service's log says why."));
  else {
    const rows = (metric, digits) => found.figures.map((one) => ({
      name: WAYS[one.name],
      value: one[metric],
      error: one[`${metric}_error`],
      shown: one[metric].toFixed(digits),
      strong: one.name === "federation",
    }));
    const figure = (title, metric) =>
      make("figure", {}, make("figcaption", {}, title), barChart(`${title}: ${rows(metric, 3).map((one) => `${one.name} ${one.shown}`).join(", ")}`, rows(metric, 3)));
    section.append(
      make("div", { class: "pair" }, figure(`Users whose newest item is in their first ${found.cutoff} (hit rate)`, "hr"), figure(`How far up it stands (NDCG@${found.cutoff})`, "ndcg")),
      make("p", { class: "note" },
        found.held_out
          ? `The newest item of ${plural(found.users, "user")}, which training never saw, ranked among all items that the user had not had. `
          : `The newest item of ${plural(found.users, "user")}, ranked among all items that the user had not had. Training has seen these items, so the figures flatter. `,
        "Whiskers are one standard error. These figures never leave the organisation."),
    );
  }
  return section;
}

function runs({ runs: found }) {
  const section = make("section", { class: "panel" }, make("h2", {}, "Runs that this organisation took part in"));
  if (!found.length) {
    section.append(make("p", { class: "status" }, "None yet."));
    return section;
  }
  section.append(
    make("figure", {}, make("figcaption", {}, "Adapter rounds"), barChart(`Adapter rounds by run: ${found.map((one) => `${one.run} ${one.rounds}`).join(", ")}`, found.slice(0, 12).map((one) => ({ name: one.run, value: one.rounds, shown: String(one.rounds) })))),
    table(
      `${plural(found.length, "run")}, newest first`,
      ["Run", "Federation", "Rounds", "Released", "First", "Last", "Refused"],
      found.map((one) => [
        one.run,
        one.federation ? make("code", {}, one.federation) : "not signed",
        numberText(one.rounds),
        Object.entries(one.mechanisms).map(([name, count]) => `${name} ${count}`).join(", ") || "public fields",
        timeText(one.first),
        timeText(one.last),
        numberText(one.refusals),
      ]),
    ),
  );
  return section;
}

function delivery({ delivered }) {
  const section = make("section", { class: "panel" }, make("h2", {}, "Delivered last"));
  const { in_use: used, files, card } = delivered;
  if (!files.length) {
    section.append(make("p", { class: "status" }, "Nothing yet."));
    return section;
  }
  section.append(
    make(
      "dl",
      { class: "facts" },
      fact("In use", used === null ? "nothing that can be used" : used.adapter ? "statistics and adapter" : "statistics alone"),
      used?.own_cooccurrence ? fact("Own co-occurrence", "counted here without noise, outside the guarantee") : null,
      used?.run ? fact("Run", `${used.run}, round ${used.round}`) : null,
      fact("Items known", numberText(delivered.items)),
      fact("Covered by co-occurrence", numberText(delivered.covered)),
    ),
    table("Files", ["File", "Time", "Size"], files.map((one) => [one.name, timeText(one.time), bytesText(one.size_bytes)])),
  );
  if (card) section.append(make("details", {}, make("summary", {}, "The adapter's card"), make("pre", {}, card)));
  return section;
}

function approved({ approved: found, declared_users: declared }) {
  return make(
    "section",
    { class: "panel" },
    make("h2", {}, "Who may ask"),
    make("p", {}, `This organisation declares ${plural(declared, "user")}, a public figure that weighs its updates.`),
    found.length
      ? table("Approved federations", ["Key of its server", "Runs"], found.map((one) => [make("code", {}, `${one.key}…`), numberText(one.runs)]))
      : make("p", { class: "status" }, "No federation is approved by name."),
  );
}
