// The summary above the table: nodes, actors and the number of actors in each notable status.

import { $, create, setAttribute, setText } from "./dom.js";
import { formatCount, formatRate } from "./format.js";
import { allItems } from "./list.js";
import { healthOf, state } from "./state.js";

const ALWAYS_SHOWN = ["stuck", "overloaded", "restarting"];
const SHOWN_IF_ANY = ["stopped", "paused", "draining"];

export function renderSummary() {
  const actors = allItems().filter(({ item }) => !item.group).map(({ item }) => item.actor);
  const nodes = [...state.nodes.values()];
  const unreachable = nodes.filter((node) => !node.reachable).length;
  const inStatus = (status) => actors.filter((actor) => actor.status === status).length;
  renderChips([
    ...totals(actors, nodes.length, unreachable),
    ...ALWAYS_SHOWN.map((status) => statusChip(status, inStatus(status))),
    ...SHOWN_IF_ANY.map((status) => statusChip(status, inStatus(status)))
      .filter((chip) => chip.look !== "none"),
  ]);
  const alerts = [];
  if (inStatus("stuck")) alerts.push(`${inStatus("stuck")} stuck`);
  if (unreachable) alerts.push(`${unreachable} unreachable`);
  document.title = alerts.length ? `(${alerts.join(", ")}) Actors` : "Actors";
}

function totals(actors, nodes, unreachable) {
  const rate = actors.reduce((sum, actor) => sum + actor.messages_per_second, 0);
  return [
    { text: `${nodes - unreachable}/${nodes}`, name: "nodes", look: unreachable ? "bad" : "" },
    { text: formatCount(actors.length), name: "actors", look: "" },
    { text: formatRate(rate), name: "messages/s", look: "" },
  ];
}

const statusChip = (status, count) =>
  ({ text: formatCount(count), name: status, look: count ? healthOf(status) : "none", status });

/** A chip with a status is a button that filters by it. */
function renderChips(chips) {
  const box = $("chips");
  const fingerprint = chips.map(({ name }) => name).join();
  if (box.fingerprint !== fingerprint) {
    box.fingerprint = fingerprint;
    box.replaceChildren(...chips.map(({ name, status }) => {
      const chip = create(status ? "button" : "span", "chip", create("b"), ` ${name}`);
      if (status) chip.dataset.filter = status;
      return chip;
    }));
  }
  chips.forEach(({ text, look, status }, i) => {
    const chip = box.children[i];
    setText(chip.firstElementChild, text);
    setAttribute(chip, "data-look", look);
    const isFilter = state.filter.length === 1 && state.filter[0] === status;
    if (status) setAttribute(chip, "aria-pressed", isFilter);
  });
}
