// The second view: the budget, what was spent of it, and everything that left.

import { get } from "./api.js";
import { chart, stepChart } from "./charts.js";
import { byId, bytesText, draw, epsilonText, fact, make, numberText, plural, table, timeText } from "./dom.js";

const STEP = 50;
const KINDS = {
  popularity: "popularity, noised",
  cooccurrence: "co-occurrence, noised",
  step: "adapter update, noised",
  evaluation: "evaluation sums, noised",
  join: "greeting",
  plan: "consent to a plan",
  deliver_statistics: "receipt of statistics",
  deliver_adapter: "receipt of an adapter",
};
const PHASES = {
  keys: "keys for a secure sum",
  shares: "key shares for a secure sum",
  unmask: "key shares that unmask a sum",
};

export async function showPrivacy() {
  const status = byId("privacy-status");
  try {
    const found = await get("v1/privacy");
    status.textContent = "";
    byId("privacy-content").replaceChildren(...sections(found));
  } catch (error) {
    status.textContent = error.message;
  }
}

function sections(found) {
  const parts = found.budgets.map((budget) => budgetCard(found, budget));
  if (found.unreadable) {
    parts.unshift(
      make("p", { class: "error banner" }, `${plural(found.unreadable, "record")} of the ledger cannot be read and may hide a release; tacit audit verify says why.`),
    );
  }
  if (found.runs.length) {
    parts.push(
      make(
        "section",
        { class: "panel" },
        make("h2", {}, "Runs"),
        table(
          "What each run has spent by itself; together they cost what the gauge shows",
          ["Run", "Epsilon", "Releases", "Bytes", "First", "Last"],
          found.runs.toReversed().map((run) => [
            run.run,
            run.epsilon === null ? "no bound" : epsilonText(run.epsilon),
            numberText(run.releases),
            bytesText(run.size_bytes),
            timeText(run.first),
            timeText(run.last),
          ]),
        ),
      ),
    );
  }
  parts.push(releases(found), refusals(found));
  return parts;
}

function budgetCard(found, budget) {
  const whose = budget.federation === null ? "Privacy budget" : `Privacy budget of federation ${budget.federation.slice(0, 16)}`;
  return make(
    "section",
    { class: "panel" },
    make("h2", {}, whose),
    make("p", { class: "headline" }, ...headline(budget)),
    budget.spent !== null && budget.epsilon !== null ? gauge(budget) : null,
    make(
      "dl",
      { class: "facts" },
      fact("Remaining", budget.remaining === null ? "no bound" : epsilonDown(budget.remaining)),
      fact("Delta", deltaText(found.delta)),
      fact("Protected", found.unit === "user" ? "a user's whole history" : found.unit),
      fact("Compared", found.adjacency),
      ...sums(budget, found.members),
    ),
    found.purpose === "experiment"
      ? make("p", { class: "note" }, "This ledger is of an experiment in which one researcher holds all data.")
      : null,
    budget.points.length
      ? make("figure", {}, make("figcaption", {}, "Epsilon spent, release by release"), stepChart(`Epsilon after each release, ${epsilonText(budget.spent)} after the last`, budget.points, budget.epsilon))
      : make("p", { class: "status" }, budget.spent === null ? "Something was released without noise of its own, so there is no bound to draw." : "Nothing was spent yet."),
  );
}

/** What rests on a secure sum, where one was used. */
function sums({ secure, least_participants: least, colluders, joint, alone, binds }, members) {
  if (!secure) return [];
  const who = members ? `only the ${plural(members, "key")} of the policy count` : "the policy names no keys, so the server could have invented some";
  const facts = [fact("Secure sums", `${plural(secure, "release")}: the server sees nothing but the sum of ${least} or more organisations; ${who}`)];
  if (colluders === null) return facts;
  const others = colluders > 0 ? `the server and ${plural(colluders, "other organisation")} at most, together` : colluders === 0 ? "the server by itself" : "nobody: too few organisations added noise";
  const counted = (name) => (binds === name ? " (the budget counts this one)" : "");
  facts.push(
    fact("Joint", `${bound(joint)} against ${others}${counted("joint")}`),
    fact("Alone", `${bound(alone)} where everybody else is against this organisation${counted("alone")}`),
  );
  return facts;
}

const bound = (epsilon) => (epsilon === null ? "no bound" : `ε ${epsilonText(epsilon)}`);

/** Delta, rounded up to two digits. */
function deltaText(delta) {
  const exponent = Math.floor(Math.log10(delta));
  const digits = Math.ceil(delta / 10 ** (exponent - 1) - 1e-9);
  const power = [...String(exponent)].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign])).join("");
  return `${digits / 10} × 10${power}`;
}

// What remains is rounded down, as what was spent is rounded up.
const epsilonDown = (value) => (Math.floor(value * 1000 + 1e-9) / 1000).toFixed(3);

function headline({ spent, epsilon }) {
  if (spent === null) return [make("strong", {}, "No bound"), " on what was spent"];
  const figure = make("strong", {}, `ε ${epsilonText(spent)}`);
  return epsilon === null ? [figure, " spent; the policy sets no budget"] : [figure, ` of ${epsilon} spent`];
}

function gauge({ spent, epsilon }) {
  const share = Math.min(spent / epsilon, 1);
  const level = share > 0.9 ? "high" : "usual";
  const bar = chart((width) =>
    draw("svg", { viewBox: `0 0 ${width} 18`, width, height: 18, "aria-hidden": "true" },
      draw("rect", { x: 0, y: 0, width, height: 18, rx: 9, class: "gauge-whole" }),
      draw("rect", { x: 0, y: 0, width: Math.max(18, width * share), height: 18, rx: 9, class: `gauge-${level}` }),
    ),
  );
  for (const [name, value] of Object.entries({ role: "meter", "aria-label": "Budget spent", "aria-valuemin": 0, "aria-valuemax": epsilon, "aria-valuenow": spent.toFixed(3), "aria-valuetext": `epsilon ${epsilonText(spent)} of ${epsilon}` })) {
    bar.setAttribute(name, value);
  }
  return bar;
}

function releases(found) {
  const section = make("section", { class: "panel" }, make("h2", {}, "Everything that left"));
  if (!found.releases.length) {
    section.append(make("p", { class: "status" }, "Nothing has left this organisation."));
    return section;
  }
  const sum = found.releases.reduce((total, one) => total + one.size_bytes, 0);
  const caption = `${plural(found.releases_total, "release")}, newest first; ${bytesText(sum)} in those listed`;
  const rows = (count) =>
    found.releases.slice(0, count).map((one) => [
      timeText(one.time),
      one.round === "" ? one.run : `${one.run} · round ${one.round}`,
      kindText(one) + (one.again ? " (sent again)" : ""),
      mechanismText(one),
      bytesText(one.size_bytes),
      make("code", { title: one.sha256 }, one.sha256.slice(0, 12)),
    ]);
  section.append(growing(found.releases.length, (count) => table(caption, ["Time", "Run", "What", "Mechanism", "Size", "SHA-256"], rows(count))));
  return section;
}

function kindText({ kind, mechanism }) {
  const [phase, rest] = kind.split("_");
  if (mechanism === null && rest !== undefined && Object.hasOwn(PHASES, phase)) return PHASES[phase];
  return KINDS[kind] ?? kind;
}

function mechanismText({ mechanism, fields, arrays }) {
  if (mechanism === null && arrays.length) return "nothing of the data";
  if (mechanism === null) return `public fields: ${fields.map((name) => name.replaceAll("_", " ")).join(", ")}`;
  const { noise_multiplier: noise, noise_share: share, sampling_rate: rate, steps } = mechanism;
  if (!noise) return "no noise";
  const users = rate === 1 ? "all users" : `${(100 * rate).toPrecision(3)}% of users a step`;
  const sum = share < 1 ? " in the sum" : "";
  return `noise × ${noise.toPrecision(3)}${sum}, ${users}${steps > 1 ? `, ${steps} steps` : ""}`;
}

function refusals(found) {
  const section = make("section", { class: "panel" }, make("h2", {}, "What was refused"));
  if (!found.refusals.length) {
    section.append(make("p", { class: "status" }, "Nothing was asked that the policy does not allow."));
    return section;
  }
  const rows = (count) => found.refusals.slice(0, count).map((one) => [timeText(one.time), one.request, one.rule, one.sentence]);
  section.append(growing(found.refusals.length, (count) => table(`${plural(found.refusals_total, "refusal")}, newest first`, ["Time", "Request", "Rule", "Why"], rows(count))));
  return section;
}

/** A table of the first lines, and a button for more. */
function growing(length, drawn) {
  let count = STEP;
  const place = make("div");
  const show = () => {
    const more = make("button", { type: "button", class: "quiet", onclick: () => { count += 4 * STEP; show(); } }, "Show more");
    place.replaceChildren(drawn(count), ...(length > count ? [more] : []));
  };
  show();
  return place;
}
