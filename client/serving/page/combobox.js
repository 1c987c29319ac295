// A text field with a list of users below it, by the keyboard pattern of the WAI.

import { get } from "./api.js";
import { byId, debounced, make, plural } from "./dom.js";

const WAIT_MS = 120;
const MOST = 12;

/** Let a person choose a user; `chosen(identifier)` is called with the choice. */
export function userCombobox(chosen, failed) {
  const input = byId("user");
  const list = byId("user-list");
  let active = -1;
  let request = null;
  // Chosen and not changed since: what is typed no longer asks for a list.
  let settled = false;

  const options = () => [...list.querySelectorAll('[role="option"]')];

  function close() {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function mark(place) {
    const all = options();
    if (!all.length) return;
    active = (place + all.length) % all.length;
    all.forEach((option, number) => option.setAttribute("aria-selected", String(number === active)));
    all[active].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", all[active].id);
  }

  function choose(identifier) {
    request?.abort();
    settled = true;
    input.value = identifier;
    close();
    chosen(identifier);
  }

  async function search() {
    request?.abort();
    request = new AbortController();
    try {
      const found = await get("v1/users", [["search", input.value], ["limit", MOST]], request.signal);
      show(found);
    } catch (error) {
      if (error.name !== "AbortError") failed(error);
    }
  }

  function show({ users, total }) {
    const lines = users.map(({ id, interactions }, place) =>
      make(
        "li",
        {
          role: "option",
          id: `user-option-${place}`,
          "aria-selected": "false",
          onmousedown: (event) => {
            event.preventDefault();
            choose(id);
          },
        },
        make("span", {}, id),
        make("small", {}, plural(interactions, "item")),
      ),
    );
    if (!users.length) lines.push(make("li", { class: "note" }, "No user has this in the identifier."));
    if (total > users.length) {
      lines.push(make("li", { class: "note" }, `${plural(total - users.length, "more user")} match${total - users.length === 1 ? "es" : ""}`));
    }
    list.replaceChildren(...lines);
    active = -1;
    list.hidden = document.activeElement !== input;
    input.setAttribute("aria-expanded", String(!list.hidden));
  }

  const soon = debounced(() => settled || search(), WAIT_MS);
  input.addEventListener("input", () => {
    settled = false;
    soon();
  });
  input.addEventListener("focus", () => {
    input.select();
    search();
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) search();
      else mark(active < 0 && event.key === "ArrowUp" ? -1 : active + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      const option = options()[active] ?? (options().length === 1 ? options()[0] : null);
      choose(option ? option.firstChild.textContent : input.value.trim());
    } else if (event.key === "Escape") {
      close();
    }
  });
  return choose;
}
