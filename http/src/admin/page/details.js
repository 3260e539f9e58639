// The panel with the details of one actor.

import { actorPath, isSignedIn, messageOf, request } from "./api.js";
import { drawChart } from "./charts.js";
import { $, create, setAttribute, setChildren, setText, setTime, setVisible } from "./dom.js";
import { capitalized, sentence } from "./format.js";
import { seriesOf } from "./history.js";
import { renderCurrent, renderMetrics, renderRecords } from "./metrics.js";
import { rows } from "./rows.js";
import { changed, healthOf, keyOf, parentPath, selectedItem, state } from "./state.js";

/** Opens the details of an actor: { peer, path }. */
export function openDetails(target) {
  const { peer, path } = target;
  const key = keyOf(peer, path);
  if (state.selected && keyOf(state.selected.peer, state.selected.path) === key) return;
  state.selected = target;
  state.details = null;
  history.replaceState(null, "", `#${encodeURIComponent(key)}`);
  setVisible($("details"), true);
  $("app").classList.add("with-details");
  $("details-body").scrollTop = 0;
  for (let above = parentPath(path); above; above = parentPath(above)) {
    state.collapsed.delete(keyOf(peer, above));
  }
  changed();
  rows.get(key)?.scrollIntoView({ block: "nearest" });
  loadDetails();
}

/** The actor that the page's address names, if it names one. */
export function linkedActor() {
  const [peer, path] = decodeURIComponent(location.hash.slice(1)).split(" ");
  return path ? { peer, path } : null;
}

export function closeDetails() {
  if (!state.selected) return;
  const { peer, path } = state.selected;
  const hadFocus = $("details").contains(document.activeElement);
  state.selected = state.details = null;
  history.replaceState(null, "", location.pathname);
  setVisible($("details"), false);
  $("app").classList.remove("with-details");
  if (!isSignedIn()) return;
  changed();
  if (hadFocus) rows.get(keyOf(peer, path))?.focus();
}

let loading = null;

/** Loads the details of the open actor, unless that is under way. */
export async function loadDetails() {
  const target = state.selected;
  const item = selectedItem();
  if (!target || loading === target || !item || item.group) return;
  loading = target;
  try {
    const details = await request(actorPath(target));
    if (state.selected === target) state.details = details;
  } catch (error) {
    const problem = sentence(messageOf(error));
    if (state.selected === target) state.details = { ...state.details, problem };
  } finally {
    if (loading === target) loading = null;
  }
  if (state.selected === target) renderDetails();
}

export function renderDetails() {
  const { selected, details } = state;
  if (!selected) return;
  const node = state.nodes.get(selected.peer);
  const item = selectedItem();
  const panel = $("details");
  setAttribute(panel, "data-actor", selected.path);
  setText($("details-where"), `${node?.node ?? "node"} · ${selected.peer}`);
  setText($("details-name"), selected.path);
  const missing = item ? "" : whyMissing(node);
  const note = missing || details?.problem || "";
  setText($("details-note"), note);
  setVisible($("details-note"), Boolean(note));
  panel.classList.toggle("stale", Boolean(missing));
  const actor = item?.actor ?? details;
  if (!actor?.status) return setChildren($("actions"), [], () => []);
  renderHead(panel, actor, missing ? [] : actor.actions);
  renderCurrent(actor);
  renderMetrics(actor);
  for (const part of panel.querySelectorAll(".detailed")) {
    setVisible(part, !item?.group && Boolean(details?.messages));
  }
  if (item) {
    const series = seriesOf(node, item);
    for (const chart of panel.querySelectorAll(".chart")) {
      drawChart(chart, series[chart.dataset.series]);
    }
  }
  if (details?.messages) renderRecords(actor, details);
  renderChildren(node, item);
}

function whyMissing(node) {
  if (node?.reachable === false) return `This node is unreachable: ${node.detail}.`;
  return state.nodes.size ? "There is no such actor now." : "Loading.";
}

function renderHead(panel, actor, actions) {
  setAttribute(panel, "data-status", actor.status);
  setAttribute($("details-status"), "data-health", healthOf(actor.status));
  setText($("details-status"), actor.status);
  setText($("details-kind"), actor.kind);
  setTime($("details-up"), actor.started_at);
  setChildren($("actions"), actions, () => actions.map((action) => {
    const button = create("button", "", capitalized(action));
    button.dataset.action = action;
    return button;
  }));
}

function renderChildren(node, item) {
  const ofItem = item?.children.map((child) => child.path);
  const paths = (item?.group ? ofItem : state.details?.children ?? ofItem) ?? [];
  setVisible($("children-part"), paths.length > 0);
  const statuses = paths.map((path) => [path, node?.items.get(path)?.actor.status ?? ""]);
  setChildren($("children"), statuses, () => statuses.map(([path, status]) => {
    const name = path.slice(state.selected.path.length + 1);
    const label = [create("span", "", name), create("span", "state", status)];
    const button = create("button", "link", ...label);
    button.dataset.child = path;
    button.lastChild.dataset.health = healthOf(status);
    return create("li", "", button);
  }));
}
